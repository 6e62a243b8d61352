//! What the other end's kernel has taken of what was written.
//!
//! A server may close a connection at the moment a request is on its way. Whether it has seen the
//! request, TCP itself can tell: a FIN acknowledges all that had come before it was sent. If that is
//! nothing of the request, the server had closed already, and no server acts on what comes then (RFC
//! 9112 section 9.6). A reset does not tell: what it acknowledges is not taken note of, and a kernel
//! may acknowledge data some time after it has given them to the server.

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use tokio::net::TcpStream;

sockopt_impl!(
    /// `struct tcp_info` of linux/tcp.h up to `tcpi_bytes_acked` (since 4.1), eight bytes at a time.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u64; 16]
);

/// How much the other end's kernel has acknowledged before something is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    acknowledged: u64,
}

impl Receipt {
    /// `None` if the kernel does not say.
    pub(super) fn before(stream: &TcpStream) -> Option<Self> {
        acknowledged(stream).map(|acknowledged| Self { acknowledged })
    }

    /// Whether nothing was acknowledged since, asked behind the end of what the other end has said.
    pub(super) fn is_blank(&self, stream: &TcpStream) -> bool {
        acknowledged(stream) == Some(self.acknowledged)
    }
}

fn acknowledged(stream: &TcpStream) -> Option<u64> {
    let info = getsockopt(stream, TcpInfo).ok()?;
    info.last().copied()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Server};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    type Act = fn(Server) -> Option<Server>;

    /// Whether nothing of a request was acknowledged whose server does something before and something
    /// after it was written, and then closes.
    async fn is_blank(before: Act, after: Act) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut stream = TcpStream::connect(address).await.expect("accepted");
        let (mut server, _) = listener.accept().expect("a connection");
        // A connection that has served others.
        stream.write_all(b"one").await.expect("sent");
        server.read_exact(&mut [0; 3]).expect("read");
        server.write_all(b"two").expect("sent");
        stream.read_exact(&mut [0; 3]).await.expect("read");
        let receipt = Receipt::before(&stream).expect("the kernel says");
        let server = before(server);
        stream.write_all(b"a request").await.expect("sent");
        drop(server.and_then(after));
        while let Ok(1..) = stream.read(&mut [0; 9]).await {}
        receipt.is_blank(&stream)
    }

    #[tokio::test]
    async fn what_was_taken() {
        let stay: Act = Some;
        let close: Act = |_| None;
        let read: Act = |mut server| {
            server.read_exact(&mut [0; 9]).expect("a request");
            Some(server)
        };
        for (what, before, after, expect) in
            [("closed before it came", close, stay, true), ("read and not answered", stay, read, false)]
        {
            assert_eq!(is_blank(before, after).await, expect, "{what}");
        }
    }
}
