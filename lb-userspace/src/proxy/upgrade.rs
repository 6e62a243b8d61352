//! Tunnels: what a connection becomes once its endpoint has answered 101.
//!
//! A tunnel has no time limit: WebSockets may be silent for hours. A peer that vanished without a
//! word is found by TCP keep-alive probes on both sides.

use std::io;
use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::finish::Finish;
use super::listen;
use super::tunnel::{Counted, Open};
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
        let end = End { open: Open::new(&worker), finish };
        if let Err(error) = self.copy(&end.open).await {
            tracing::debug!(%error, "tunnel ended");
        }
    }

    async fn copy(self, open: &Open) -> io::Result<()> {
        let client = self.on_upgrade.await.map_err(io::Error::other)?;
        let mut client = TokioIo::new(client);
        let Upstream { stream, unread, .. } = self.upstream;
        // Without it a vanished endpoint goes unnoticed longer; no reason to refuse the tunnel.
        let _ = socket2::SockRef::from(stream.socket()).set_tcp_keepalive(&listen::keep_alive());
        open.count(unread.len());
        client.write_all(&unread).await?;
        drop(unread);
        copy_bidirectional(&mut client, &mut Counted { stream, open }).await?;
        Ok(())
    }
}

/// The end of a request that became a tunnel.
struct End {
    open: Open,
    finish: Finish,
}

impl Drop for End {
    fn drop(&mut self) {
        self.finish.bytes = self.open.bytes();
    }
}
