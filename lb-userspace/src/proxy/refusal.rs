//! No to a server name that nobody serves: what XDP answers where it sees the whole hello.

use std::io;

use lb_common::refuse::ALERT;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Tells the client why by a TLS alert, ends the stream, and waits for the client's end: closed with
/// the hello unread, the socket would send a reset that overtakes the alert.
///
/// # Errors
/// If the connection breaks.
pub(super) async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&ALERT).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
