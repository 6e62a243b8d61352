//! The command line's side of the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::request::Builder;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::views::Failure;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers on {0}: start one with `sluice run --manifests DIR …`, or name its socket with --socket"
    )]
    NotRunning(PathBuf),
    /// The socket is not ours to use.
    #[error("not allowed to use {0}: run this as the user that runs the daemon (root)")]
    NotAllowed(PathBuf),
    /// The daemon refuses.
    #[error("{0}")]
    Refused(String),
    /// The conversation broke.
    #[error("the daemon on {path} gave no usable answer: {what}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        what: String,
    },
}

/// `GET target` from the daemon on `socket`.
pub async fn get(socket: &Path, target: &str) -> Result<Value, ClientError> {
    ask(socket, Request::get(target), String::new()).await
}

/// `POST target` with a text to the daemon on `socket`.
pub async fn post(socket: &Path, target: &str, text: String) -> Result<Value, ClientError> {
    ask(socket, Request::post(target), text).await
}

async fn ask(socket: &Path, request: Builder, text: String) -> Result<Value, ClientError> {
    let broken = |what: String| ClientError::Broken { path: socket.to_owned(), what };
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed(socket.to_owned()),
        _ => broken(error.to_string()),
    })?;
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = request
            .header(header::HOST, "sluice")
            .body(Full::<Bytes>::from(text))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok::<_, String>((status, body))
    };
    let (status, body) = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| broken(format!("none within {} seconds", PATIENCE.as_secs())))?
        .map_err(broken)?;
    if status != StatusCode::OK {
        return Err(match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => ClientError::Refused(failure.error),
            Err(_) => broken(format!("status {status}")),
        });
    }
    serde_json::from_slice(&body).map_err(|error| broken(error.to_string()))
}
