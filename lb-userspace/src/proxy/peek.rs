//! Looking at what came without taking it.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Copies what came to `space`, once it is more than `seen` bytes or the end. `space` must be longer
/// than `seen`.
pub(super) async fn peek_more(stream: &TcpStream, space: &mut [u8], seen: usize) -> io::Result<usize> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peek = || Ok(recv(stream.as_raw_fd(), space, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?);
        match stream.try_io(Interest::READABLE, peek) {
            Ok(count) if count > seen || count == 0 || ready.is_read_closed() => return Ok(count),
            // The socket stays readable while nothing is taken. To hear of the next bytes, tokio
            // has to believe that it is not.
            Ok(_) => {
                drop(stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into())))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
