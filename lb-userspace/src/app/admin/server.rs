//! The daemon's side of the socket.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Either, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::mpsc::Receiver;

use super::views::Failure;

/// Room for a million networks with their commas.
const MAX_TEXT: usize = 64 * 1024 * 1024;

/// Why the socket can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("another sluice already listens on {0}: stop it, or give this one its own --socket")]
    InUse(PathBuf),
    /// Something else is in the way.
    #[error("{0} exists and is no socket: remove it, or give another --socket")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("can't open the socket {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the daemon answers.
pub trait Answers: Send + Sync + 'static {
    /// The answer to `GET path?query`.
    fn answer(&self, path: &str, query: Option<&str>) -> Answer;

    /// The answer to `POST path` with a text.
    fn change(&self, path: &str, text: &str) -> Answer;

    /// The answer to `POST path` with a text, where it is made of lines that come by and by. `None`: it
    /// is not.
    fn stream(self: Arc<Self>, path: &str, text: &str) -> Option<Result<Receiver<Bytes>, Answer>>;
}

/// One answer.
pub enum Answer {
    /// 200 with this.
    Json(Vec<u8>),
    /// This status with a sentence.
    Failure(StatusCode, String),
    /// There is no such thing to ask for.
    Unknown,
}

impl Answer {
    /// 200 with a value.
    pub fn json<T: Serialize>(value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(text) => Self::Json(text),
            Err(error) => Self::Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// An open socket; its file goes when it does.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Opens the socket for root only, makes its directory, and takes the place of a file that a
    /// killed daemon left behind.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(io)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until dropped.
    pub async fn serve(self, answers: Arc<dyn Answers>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answers = Arc::clone(&answers);
                    tokio::spawn(async move {
                        let service = service_fn(move |request| respond(Arc::clone(&answers), request));
                        let connection = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service);
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "a client of the socket went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept on the socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn clear_stale(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt as _;
    let Ok(there) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !there.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(_) => {
            std::fs::remove_file(path).map_err(|source| SocketError::Io { path: path.to_owned(), source })
        }
    }
}

async fn respond(
    answers: Arc<dyn Answers>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let answer = match *request.method() {
        Method::GET => answers.answer(&path, request.uri().query()),
        Method::POST => match text(request.into_body()).await {
            Ok(text) => match Arc::clone(&answers).stream(&path, &text) {
                Some(Ok(lines)) => return Ok(Response::new(Either::Right(body(lines)))),
                Some(Err(answer)) => answer,
                None => answers.change(&path, &text),
            },
            Err(error) => Answer::Failure(StatusCode::BAD_REQUEST, error),
        },
        _ => Answer::Failure(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and POST are understood here".to_owned(),
        ),
    };
    let (status, body) = match answer {
        Answer::Json(body) => (StatusCode::OK, body),
        Answer::Failure(status, error) => (status, failure(error)),
        Answer::Unknown => {
            let error = format!(
                "this daemon (sluice {}) knows no {path}: is the command line of another version?",
                env!("CARGO_PKG_VERSION"),
            );
            (StatusCode::NOT_FOUND, failure(error))
        }
    };
    let mut response = Response::new(Either::Left(Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Known at once, or made by and by.
type Body = Either<Full<Bytes>, BoxBody<Bytes, Infallible>>;

fn body(lines: Receiver<Bytes>) -> BoxBody<Bytes, Infallible> {
    let frames = futures::stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok(Frame::data(line)), lines))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

/// What is sent to be changed.
async fn text(body: Incoming) -> Result<String, String> {
    let body = Limited::new(body, MAX_TEXT).collect().await.map_err(|error| error.to_string())?;
    String::from_utf8(body.to_bytes().into()).map_err(|error| error.to_string())
}

fn failure(error: String) -> Vec<u8> {
    serde_json::to_vec(&Failure { error }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_of_dead_daemons_are_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub/sluice.sock");
        let first = Socket::open(&path).expect("free");
        assert!(matches!(Socket::open(&path), Err(SocketError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that nobody serves"));
        let second = Socket::open(&path).expect("stale");
        drop(second);
        std::fs::write(&path, "x").expect("a file");
        assert!(matches!(Socket::open(&path), Err(SocketError::NotASocket(_))));
        assert!(path.exists());
    }
}
