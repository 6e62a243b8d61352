//! A WebSocket server whose sockets live until it ends.

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;

use crate::pod::Me;

/// Sends every message back. At the end it says goodbye first.
pub async fn serve(stream: TcpStream, me: &Me) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message)) if message.is_text() => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            () = me.ends() => break,
        }
    }
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
}
