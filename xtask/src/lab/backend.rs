//! A backend that says who it is and what reached it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::place::runtime;
use super::{LabError, Place, Result};

/// What a [`Backend`] answers, as JSON.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Echo {
    /// The backend's name.
    pub endpoint: String,
    /// The request's method.
    pub method: String,
    /// Path and query as they arrived.
    pub target: String,
    /// The header fields in lower case; repeated ones joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body, as far as it is UTF-8.
    pub body: String,
}

/// An HTTP/1.1 server: [`Echo`] for every request, an echo of every message for WebSockets.
/// Dropping it closes its listeners and all its connections.
#[derive(Debug)]
pub struct Backend {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Option<()>>>,
}

impl Backend {
    /// Listens on `addresses` (port 0: a free one, see [`Backend::addresses`]) in `place`.
    pub fn start(place: &Place, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let bind = || addresses.iter().map(bind).collect::<io::Result<Vec<_>>>();
        let listeners = place.enter(bind)?.map_err(LabError::io(format!("listen on {addresses:?}")))?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>();
        let (stop, stopped) = watch::channel(false);
        let owned: std::sync::Arc<str> = name.into();
        let thread = place.spawn(&format!("backend {name}"), move || {
            // Only running out of descriptors keeps a runtime from starting; requests then find no answer.
            if let Ok(runtime) = runtime() {
                runtime.block_on(serve(owned, listeners, stopped));
            }
        })?;
        let addresses = addresses.map_err(LabError::io("ask for a listener's address"))?;
        Ok(Self { addresses, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows as failed requests.
            let _ = thread.join();
        }
    }
}

fn bind(address: &SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(name: std::sync::Arc<str>, listeners: Vec<TcpListener>, mut stopped: watch::Receiver<bool>) {
    for listener in listeners {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        let name = std::sync::Arc::clone(&name);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let name = std::sync::Arc::clone(&name);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(&name, request));
                    // A client that goes away is no concern of the backend.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
    }
    // The runtime ends with this function, and with it every task and socket.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn answer(name: &str, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) {
        let accept = derive_accept_key(key.as_bytes());
        tokio::spawn(echo_messages(hyper::upgrade::on(&mut request)));
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept)
            .header("x-endpoint", name);
        return Ok(response.body(Full::default()).expect("constant names, and a base64 value"));
    }
    let mut headers = BTreeMap::<String, String>::new();
    for (key, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(key.to_string())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let echo = Echo {
        endpoint: name.to_owned(),
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let json = serde_json::to_vec(&echo).expect("strings and a map of strings are JSON");
    let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
    Ok(response.body(Full::new(json.into())).expect("constant header names and values"))
}

async fn echo_messages(upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}
