//! Tunnels: what a connection becomes once its endpoint has answered 101.
//!
//! A tunnel has no time limit: WebSockets may be silent for hours. A peer that vanished without a
//! word is found by TCP keep-alive probes on both sides.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;

use super::finish::Finish;
use super::listen;
use super::upstream::Upstream;
use super::worker::Worker;

/// A client's connection, once hyper has sent the 101, and the endpoint's.
pub(super) struct Tunnel {
    pub(super) on_upgrade: OnUpgrade,
    pub(super) upstream: Upstream,
}

impl Tunnel {
    /// Copies both ways until both ends are closed or one breaks. Changes of the configuration
    /// don't touch it; the worker ends it when the time to drain is over.
    pub(super) async fn run(self, worker: Rc<Worker>, finish: Finish) {
        let open = Open::new(&worker, finish);
        if let Err(error) = self.copy(&open).await {
            tracing::debug!(%error, "tunnel ended");
        }
    }

    async fn copy(self, open: &Open) -> io::Result<()> {
        let client = self.on_upgrade.await.map_err(io::Error::other)?;
        let mut client = TokioIo::new(client);
        let Upstream { stream, unread, .. } = self.upstream;
        // Without it a vanished endpoint goes unnoticed longer; no reason to refuse the tunnel.
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&listen::keep_alive());
        open.count(unread.len());
        client.write_all(&unread).await?;
        drop(unread);
        copy_bidirectional(&mut client, &mut Counted { stream, open }).await?;
        Ok(())
    }
}

/// Counts a tunnel and its bytes while it lives, however it ends.
struct Open {
    worker: Rc<Worker>,
    bytes: Cell<u64>,
    finish: Finish,
}

impl Open {
    fn new(worker: &Rc<Worker>, finish: Finish) -> Self {
        worker.counters.tunnels.add(1);
        worker.counters.tunnels_active.add(1);
        Self { worker: Rc::clone(worker), bytes: Cell::new(0), finish }
    }

    fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.worker.counters.tunnel_bytes.add(bytes as u64);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.finish.bytes = self.bytes.get();
        self.worker.counters.tunnels_active.sub(1);
        self.worker.drain.ended.notify_one();
    }
}

/// The endpoint's end of a tunnel: every byte of both directions passes here.
struct Counted<'a> {
    stream: TcpStream,
    open: &'a Open,
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
