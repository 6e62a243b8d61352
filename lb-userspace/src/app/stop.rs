//! The daemon's end: signals, and what becomes of open connections.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::AbortHandle;

use crate::proxy::Proxy;

use super::cli::RunArgs;
use super::handover::hand_over;
use super::state::State;

/// How the daemon came to its end.
pub enum Ended {
    /// All connections were done, or out of time.
    Drained,
    /// A second signal.
    AtOnce,
}

/// SIGTERM or SIGINT. SIGHUP, by which others are told to reload, ends nothing.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Stop {
    /// Listens for them from here on.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns once for each signal.
    pub async fn asked(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: there is nothing to reload, changes are followed as they come");
                }
            }
        }
    }
}

/// Lets open connections end, until the time is over or a second signal comes.
pub async fn drain(args: &RunArgs, state: &State, stop: &mut Stop, probes: &AbortHandle) -> Ended {
    state.draining.store(true, Ordering::Relaxed);
    let Some(proxy) = state.proxy.get() else { return Ended::Drained };
    let grace = Duration::from_secs(args.drain_timeout.into());
    tracing::info!(seconds = grace.as_secs(), "draining; a second signal ends at once");
    tokio::select! {
        cut = async {
            hand_over(args, state, probes).await;
            shut_down(proxy, grace).await
        } => {
            match cut {
                0 => tracing::info!("drained"),
                cut => tracing::warn!(cut, "the drain's time is over: open connections were cut"),
            }
            Ended::Drained
        }
        () = stop.asked() => {
            tracing::warn!(cut = open(proxy), "ended before all connections were done");
            Ended::AtOnce
        }
    }
}

/// Returns how many connections were still open when the time was over.
async fn shut_down(proxy: &Proxy, grace: Duration) -> u64 {
    let end = Instant::now() + grace;
    let mut done = std::pin::pin!(proxy.shutdown(grace));
    let mut left = open(proxy);
    loop {
        tokio::select! {
            () = &mut done => return if Instant::now() < end { 0 } else { left },
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                if Instant::now() < end {
                    left = open(proxy);
                }
            }
        }
    }
}

/// Client connections that are open now.
pub fn open(proxy: &Proxy) -> u64 {
    let total = proxy.stats().total;
    total.active + total.tunnels_active
}
