//! The command line's side of the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::request::Builder;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::views::Failure;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than any line that a daemon sends.
const MAX_LINE: usize = 1 << 20;

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

/// `POST target` with a text to the daemon on `socket`, for an answer of lines that come as they are made.
pub async fn stream(socket: &Path, target: &str, text: String) -> Result<Lines, ClientError> {
    let response = send(socket, Request::post(target), text).await?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| broken(socket)(e.to_string()))?;
        return Err(refusal(socket, status, &body.to_bytes()));
    }
    Ok(Lines { body: response.into_body(), ahead: Vec::new(), socket: socket.to_owned() })
}

/// An answer's lines.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    /// What came and was not asked for yet.
    ahead: Vec<u8>,
    socket: PathBuf,
}

impl Lines {
    /// The next line that is not empty; `None`: there are no more, because the answer ends or the daemon
    /// does.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.ahead) {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                if line.len() > 1 {
                    return Ok(Some(line));
                }
                continue;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.ahead.extend(frame.into_data().unwrap_or_default()),
                // Cut off in the middle: the daemon was killed.
                Some(Err(_)) | None => return Ok(None),
            }
            if self.ahead.len() > MAX_LINE {
                return Err(broken(&self.socket)("a line without end".to_owned()));
            }
        }
    }
}

async fn ask(socket: &Path, request: Builder, text: String) -> Result<Value, ClientError> {
    let exchange = async {
        let response = send(socket, request, text).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| broken(socket)(e.to_string()))?;
        Ok((status, body.to_bytes()))
    };
    let late = |_| broken(socket)(format!("none within {} seconds", PATIENCE.as_secs()));
    let (status, body) = tokio::time::timeout(PATIENCE, exchange).await.map_err(late)??;
    if status != StatusCode::OK {
        return Err(refusal(socket, status, &body));
    }
    serde_json::from_slice(&body).map_err(|error| broken(socket)(error.to_string()))
}

async fn send(socket: &Path, request: Builder, text: String) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed(socket.to_owned()),
        _ => broken(socket)(error.to_string()),
    })?;
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = request
            .header(header::HOST, "sluice")
            .body(Full::<Bytes>::from(text))
            .map_err(|e| e.to_string())?;
        sender.send_request(request).await.map_err(|e| e.to_string())
    };
    exchange.await.map_err(broken(socket))
}

fn refusal(socket: &Path, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Failure>(body) {
        Ok(failure) => ClientError::Refused(failure.error),
        Err(_) => broken(socket)(format!("status {status}")),
    }
}

fn broken(socket: &Path) -> impl Fn(String) -> ClientError {
    move |what| ClientError::Broken { path: socket.to_owned(), what }
}
