//! An HTTP/2 server that says goodbye, or does not.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::pod::{Me, Style};

/// Answers requests with what they sent. Whatever the style, HTTP/2 ends with GOAWAY: a process
/// that is killed with streams open loses them, and nobody can mend that.
pub async fn serve(stream: TcpStream, me: &Me) {
    let address = me.address;
    let service = service_fn(move |request: Request<Incoming>| async move {
        let path = request.uri().path().as_bytes().to_vec();
        let body = request.into_body().collect().await?.to_bytes();
        if fastrand::u8(..4) == 0 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
        }
        let answer = if body.is_empty() { Bytes::from(path) } else { body };
        let response = Response::builder().header("x-pod", address.to_string());
        Ok::<_, hyper::Error>(response.body(Full::new(answer)).expect("plain headers"))
    });
    let connection =
        hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let restless =
        Duration::from_millis(if me.style == Style::Fickle { fastrand::u64(200..2000) } else { 3_600_000 });
    tokio::select! {
        _ = connection.as_mut() => return,
        () = me.ends() => {}
        () = tokio::time::sleep(restless) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Streams stay on the thread of their connection.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
