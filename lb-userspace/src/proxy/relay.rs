//! Bytes both ways between two sockets.
//!
//! What comes in small pieces is read and written, by way of a buffer that all connections of the worker
//! share. A piece that fills it has more behind it: from there on they go through a pipe, until nothing
//! comes any more. Whoever is silent holds neither memory nor pipes.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::Pipe;
use super::tunnel::Open;
use super::worker::Worker;

/// Copies until both ends have said all, each half closed as soon as the other end's is.
///
/// # Errors
/// If either connection breaks.
pub(super) async fn relay(
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    worker: &Worker,
    open: &Open,
) -> io::Result<()> {
    let (mut there, mut back) = (OneWay::default(), OneWay::default());
    poll_fn(|cx| {
        let one = there.poll(client, upstream, worker, open, cx)?;
        let other = back.poll(upstream, client, worker, open, cx)?;
        if one.is_ready() && other.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
#[derive(Default)]
struct OneWay {
    held: Held,
    /// More comes than small pieces.
    is_bulk: bool,
    has_ended: bool,
    is_over: bool,
}

/// What was taken from one end and not given to the other yet.
#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Bytes(Bytes),
    Pipe(Pipe),
}

impl OneWay {
    /// Moves what can be moved now. Ready at the end.
    fn poll(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        worker: &Worker,
        open: &Open,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_over {
            match &mut self.held {
                Held::Pipe(pipe) => {
                    let count = ready!(pipe.poll_drain(to, cx))?;
                    open.count(count);
                    worker.counters.spliced_bytes.add(count as u64);
                    if pipe.is_empty() {
                        self.held = Held::Nothing;
                    }
                }
                Held::Bytes(bytes) => {
                    let count = ready!(Pin::new(&mut *to).poll_write(cx, bytes))?;
                    open.count(count);
                    bytes.advance(count);
                    if bytes.is_empty() {
                        self.held = Held::Nothing;
                    }
                }
                Held::Nothing if self.has_ended => {
                    // An end that has gone has no half to be closed.
                    let _ = SockRef::from(&*to).shutdown(Shutdown::Write);
                    self.is_over = true;
                }
                Held::Nothing => ready!(self.poll_take(from, to, worker, open, cx))?,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece. Small ones are given to the other end at once, as far as it takes them.
    fn poll_take(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        worker: &Worker,
        open: &Open,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_bulk
            && let Some(mut pipe) = worker.pipes.take()
        {
            match pipe.poll_fill(from, u64::MAX, cx)? {
                Poll::Ready(0) => self.has_ended = true,
                Poll::Ready(_) => self.held = Held::Pipe(pipe),
                Poll::Pending => {
                    self.is_bulk = false;
                    return Poll::Pending;
                }
            }
            return Poll::Ready(Ok(()));
        }
        let mut space = worker.reads.borrow_mut();
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let mut new = buffer.filled();
        self.has_ended = new.is_empty();
        self.is_bulk = buffer.remaining() == 0;
        while !new.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, new)? {
                Poll::Ready(count) => {
                    open.count(count);
                    new = &new[count..];
                }
                Poll::Pending => {
                    self.held = Held::Bytes(Bytes::copy_from_slice(new));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
