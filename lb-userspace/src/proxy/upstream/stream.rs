//! The bytes of a connection to an endpoint: as they are, or through TLS.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection to an endpoint.
#[derive(Debug)]
pub(in crate::proxy) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket.
    pub(in crate::proxy) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether nothing came on a connection without a request as far as the event loop knows, which
    /// costs no call of the kernel. Not the end either.
    pub(super) fn seems_open(&self) -> bool {
        self.socket().poll_read_ready(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Whether a connection without a request is still open and silent.
    pub(in crate::proxy) fn is_open(&mut self) -> bool {
        match (look(self.socket()), self) {
            (Look::Silent, _) => true,
            (Look::End, _) | (Look::Bytes, Self::Plain(_)) => false,
            (Look::Bytes, Self::Tls(stream)) => {
                // Endpoints hand out session tickets when they like: bytes, but none of an answer.
                let mut byte = [0];
                let mut space = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                let read = Pin::new(&mut **stream).poll_read(&mut cx, &mut space);
                // What came since the last turn of the event loop can't be read yet, as tickets just
                // behind the handshake: only the end counts then.
                read.is_pending() && look(stream.get_ref().0) != Look::End
            }
        }
    }
}

/// What there is to read from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Silent,
    Bytes,
    /// Nothing any more.
    End,
}

/// Asks the kernel itself: tokio's readiness is only as fresh as the last turn of its event loop.
fn look(stream: &TcpStream) -> Look {
    let mut byte = [0];
    match recv(stream.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Err(nix::errno::Errno::EAGAIN) => Look::Silent,
        Ok(1..) => Look::Bytes,
        Ok(0) | Err(_) => Look::End,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => match Pin::new(&mut **stream).poll_read(cx, buf) {
                // Many endpoints end without TLS's own goodbye. Where that could hide a part of an
                // answer, its length or its chunks tell.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                polled => polled,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
