//! Tunnels: what a connection becomes once its endpoint has answered 101.

use std::io;
use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::finish::Finish;
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
    pub(super) async fn run(self, worker: Rc<Worker>, mut finish: Finish) {
        worker.counters.tunnels.add(1);
        worker.counters.tunnels_active.add(1);
        let open = Open(&worker);
        match self.copy().await {
            Ok(bytes) => {
                worker.counters.tunnel_bytes.add(bytes);
                finish.bytes = bytes;
            }
            Err(error) => tracing::debug!(%error, "tunnel ended"),
        }
        drop(open);
    }

    async fn copy(self) -> io::Result<u64> {
        let client = self.on_upgrade.await.map_err(io::Error::other)?;
        let mut client = TokioIo::new(client);
        let mut upstream = self.upstream;
        let early = upstream.unread.len() as u64;
        client.write_all(&upstream.unread).await?;
        upstream.unread.clear();
        let (up, down) = copy_bidirectional(&mut client, &mut upstream.stream).await?;
        Ok(early + up + down)
    }
}

/// Counts a tunnel as open while it lives, even if its task is dropped.
struct Open<'a>(&'a Worker);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counters.tunnels_active.sub(1);
        self.0.drain.ended.notify_one();
    }
}
