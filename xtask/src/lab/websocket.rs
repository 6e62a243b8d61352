//! A WebSocket client.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Response;

use super::{LabError, Result};

/// Longer than an echo takes anywhere.
const DEADLINE: Duration = Duration::from_secs(20);

/// An open WebSocket. Belongs to the runtime it was opened in.
#[derive(Debug)]
pub struct WebSocket {
    to: String,
    stream: WebSocketStream<TcpStream>,
    endpoint: Option<String>,
}

impl WebSocket {
    /// Connects to `to` and asks for `ws://HOST/TARGET`.
    pub async fn open(to: SocketAddr, host: &str, target: &str) -> Result<Self> {
        let label = format!("ws://{host}{target} at {to}");
        let request = format!("ws://{host}{target}").into_client_request();
        let request = request.map_err(|e| no_answer(&label, e))?;
        let open = async {
            let stream = TcpStream::connect(to).await.map_err(|e| no_answer(&label, e))?;
            tokio_tungstenite::client_async(request, stream).await.map_err(|e| no_answer(&label, e))
        };
        let (stream, response) =
            tokio::time::timeout(DEADLINE, open).await.map_err(|e| no_answer(&label, e))??;
        Ok(Self { to: label, stream, endpoint: endpoint(&response) })
    }

    /// The backend's name, from the answer to the handshake.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Sends `text` and waits until the same text comes back.
    pub async fn echo(&mut self, text: &str) -> Result<()> {
        let round = async {
            self.stream.send(Message::text(text)).await.map_err(|e| no_answer(&self.to, e))?;
            match self.stream.next().await {
                Some(Ok(message)) if message.to_text().is_ok_and(|back| back == text) => Ok(()),
                other => Err(no_answer(&self.to, format!("instead of the echo: {other:?}"))),
            }
        };
        tokio::time::timeout(DEADLINE, round).await.map_err(|e| no_answer("the WebSocket", e))?
    }
}

fn endpoint<B>(response: &Response<B>) -> Option<String> {
    Some(response.headers().get("x-endpoint")?.to_str().ok()?.to_owned())
}

fn no_answer(to: &str, reason: impl std::fmt::Display) -> LabError {
    LabError::NoAnswer { to: to.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Backend, Place};

    #[test]
    fn backends_echo_messages() {
        let backend = Backend::start(&Place::Host, "ws", &["127.0.0.1:0".parse().expect("an address")]);
        let backend = backend.expect("a backend on loopback");
        let to = backend.addresses()[0];
        let talk = Place::Host.block_on(|| async move {
            let mut socket = WebSocket::open(to, "example.com", "/ws").await?;
            assert_eq!(socket.endpoint(), Some("ws"));
            socket.echo("one").await?;
            socket.echo("two").await
        });
        talk.expect("a runtime").expect("echoes");
    }
}
