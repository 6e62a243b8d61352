//! Counters. Each worker writes its own; readers add them up.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::health::HealthSummary;

/// A number with one writer. Atomic only so that others may read it: adding is a load and a
/// store, not a locked instruction.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(super) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One worker's counters, on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        /// The counters' values at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> Totals {
                Totals { $($name: self.$name.get(),)* }
            }
        }

        impl AddAssign for Totals {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Client connections accepted since start.
    accepted,
    /// Client connections open now, tunnels not counted.
    active,
    /// `accept` calls that failed, above all for want of file descriptors.
    accept_failures,
    /// Client connections closed at once because their client had too many.
    crowded,
    /// Client connections closed at once because their client is banned.
    banned,
    /// Connections whose PROXY header was bad or did not come in time.
    proxy_header_failures,
    /// HTTP/2 connections ended because their client gave up most of its requests.
    resetting,
    /// HTTP/2 connections ended because their client sent hardly anything but frames that carry
    /// nothing.
    flooding,
    /// TLS handshakes completed.
    tls_handshakes,
    /// TLS handshakes that failed or took too long.
    tls_failures,
    /// TLS connections refused for a server name that nobody serves.
    tls_refused,
    /// TLS connections that another worker accepted and handed over, since they belong to this one's pool.
    taken_over,
    /// Requests whose head was complete.
    requests,
    /// Requests that were plain enough for the short way beside hyper.
    direct,
    /// Requests being served now.
    requests_active,
    /// Answers 1xx (switching protocols).
    responses_1xx,
    /// Answers 2xx.
    responses_2xx,
    /// Answers 3xx.
    responses_3xx,
    /// Answers 4xx.
    responses_4xx,
    /// Answers 5xx.
    responses_5xx,
    /// Requests whose client left before the answer began.
    client_gone,
    /// Bytes of response bodies passed to clients.
    response_bytes,
    /// Those of them that went from socket to socket without being copied here.
    spliced_bytes,
    /// Connections opened to endpoints.
    upstream_connects,
    /// Requests sent on a connection that had served another before.
    upstream_reuses,
    /// Attempts to connect, or exchanges, that failed.
    upstream_failures,
    /// TLS handshakes with endpoints that failed.
    upstream_tls_failures,
    /// Requests sent again after a failure.
    upstream_retries,
    /// Copies of requests that mirrors answered.
    mirrored,
    /// Copies of requests that were dropped or lost: too many at once, or the mirror was too slow
    /// or not there.
    mirror_failures,
    /// Connections to endpoints kept for the next request now.
    upstream_idle,
    /// Upgraded (WebSocket) and passed-through connections since start.
    tunnels,
    /// Upgraded and passed-through connections open now.
    tunnels_active,
    /// Bytes that went through closed tunnels, both ways together.
    tunnel_bytes,
    /// Access log lines dropped because the writer did not keep up.
    log_dropped,
}

impl Counters {
    pub(super) fn count_response(&self, status: u16) {
        match status {
            100..=199 => &self.responses_1xx,
            200..=299 => &self.responses_2xx,
            300..=399 => &self.responses_3xx,
            400..=499 => &self.responses_4xx,
            _ => &self.responses_5xx,
        }
        .add(1);
    }
}

/// One worker's share.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerStats {
    /// The worker's index.
    pub worker: usize,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// The pool it is of; `None`: a general one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Arc<str>>,
    /// Its counters.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What the proxy did since it started.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// The generation of the configuration being served.
    pub generation: u64,
    /// All workers together.
    pub total: Totals,
    /// Requests sent to each cluster.
    pub clusters: BTreeMap<String, u64>,
    /// Spans that the collector took.
    pub spans_delivered: u64,
    /// Spans that were dropped: too many at once, or the collector was not there.
    pub spans_lost: u64,
    /// Clusters whose endpoints failed, are checked or have limits.
    pub health: BTreeMap<String, HealthSummary>,
    /// Each worker.
    pub workers: Vec<WorkerStats>,
}
