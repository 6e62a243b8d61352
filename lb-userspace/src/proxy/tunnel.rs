//! Connections that are copied both ways: counted while they live.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::upstream::Stream;
use super::worker::Worker;

/// Counts a tunnel and its bytes while it lives, however it ends.
pub(super) struct Open {
    worker: Rc<Worker>,
    bytes: Cell<u64>,
}

impl Open {
    pub(super) fn new(worker: &Rc<Worker>) -> Self {
        worker.counters.tunnels.add(1);
        worker.counters.tunnels_active.add(1);
        Self { worker: Rc::clone(worker), bytes: Cell::new(0) }
    }

    pub(super) fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.worker.counters.tunnel_bytes.add(bytes as u64);
    }

    /// Both ways together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.counters.tunnels_active.sub(1);
        self.worker.drain.ended.notify_one();
    }
}

/// The endpoint's end of a tunnel: every byte of both directions passes here.
pub(super) struct Counted<'a> {
    pub(super) stream: Stream,
    pub(super) open: &'a Open,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.open.count(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = wrote {
            self.open.count(count);
        }
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
