//! What the other end of a connection has said, to its last word.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::upstream::Stream;

/// A connection that takes note of the first byte that comes, and is read to its end.
///
/// An endpoint that ends says GOAWAY, which tells what requests it has not looked at, and closes. Who
/// writes then gets an error while GOAWAY waits to be read, and h2 would take the error for the end of
/// all requests. So nothing is said of the error: what is written goes nowhere, and reading finds
/// GOAWAY and then the end.
pub(super) struct Heard {
    stream: Stream,
    heard: Rc<Cell<bool>>,
    /// Nobody takes what is written any more.
    is_cut: bool,
}

impl Heard {
    pub(super) fn new(stream: Stream, heard: &Rc<Cell<bool>>) -> Self {
        Self { stream, heard: Rc::clone(heard), is_cut: false }
    }

    /// All of it, as far as h2 has to know, if the other end is gone.
    fn or_all<T>(&mut self, outcome: Poll<io::Result<T>>, all: T) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.is_cut = true;
                Poll::Ready(Ok(all))
            }
            outcome => outcome,
        }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.set(true);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.is_cut {
            true => Poll::Ready(Ok(buf.len())),
            false => {
                let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
                self.or_all(wrote, buf.len())
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        match self.is_cut {
            true => Poll::Ready(Ok(all)),
            false => {
                let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
                self.or_all(wrote, all)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.is_cut {
            true => Poll::Ready(Ok(())),
            false => {
                let flushed = Pin::new(&mut self.stream).poll_flush(cx);
                self.or_all(flushed, ())
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn last_words_are_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("accepted");
        let (mut other, _) = listener.accept().await.expect("a connection");
        let heard = Rc::<Cell<bool>>::default();
        let mut stream = Heard::new(Stream::Plain(stream), &heard);
        other.write_all(b"goodbye").await.expect("sent");
        drop(other);
        // The first that is written is answered with a reset, so that writing fails from some moment on.
        while !stream.is_cut {
            stream.write_all(b"a question").await.expect("no error is told");
            stream.flush().await.expect("nor here");
            tokio::task::yield_now().await;
        }
        assert!(!heard.get());
        let mut words = [0; 7];
        stream.read_exact(&mut words).await.expect("what was said before");
        assert!(heard.get() && words == *b"goodbye");
        assert!(matches!(stream.read(&mut words).await, Ok(0) | Err(_)), "and then the end");
    }
}
