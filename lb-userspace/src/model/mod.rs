//! The words of Sluice as plain data. Knows nobody: no Kubernetes types, no I/O, no clock.
//!
//! A [`Snapshot`] is the whole desired state of a node and never changes once made. Parts that
//! did not change between two generations are the same `Arc`, which is how readers know.

mod ban;
mod canary;
mod care;
mod cluster;
mod issue;
mod l4;
mod l4_room;
mod listener;
mod name;
mod policy;
mod proxy_protocol;
mod route;
mod snapshot;
mod tls;
mod tuning;
mod worker_pool;

pub use ban::{BanRules, MAX_BAN_AFTER, MAX_BAN_FOR, MAX_BAN_WITHIN, MAX_BANS};
pub use canary::{Canary, CanaryHeader, CanaryValue};
pub use care::{Care, CircuitLimits, Ejection, HealthCheck, Probe};
pub use cluster::{Cluster, ClusterKey, Endpoint, PortRef, Via};
pub use issue::{Issue, IssueReason, Severity};
pub use l4::{HealthPort, L4Service};
pub use l4_room::{L4Room, NoRoom, chunks as ring_chunks};
pub use listener::{Listener, Protocol, SniMode, Transport, Vip};
pub use name::{HostPattern, InvalidHost, ObjectKey, ObjectRef};
pub use policy::*;
pub use proxy_protocol::{ProxyProtocol, ProxyVersion};
pub use route::{Backend, Compat, PathMatch, Route, Unavailable, VirtualHost};
pub use snapshot::{Routing, Snapshot};
pub use tls::{Certificate, ClientAuth, Passthrough, TlsConfig};
pub(crate) use tuning::networks;
pub use tuning::{BadTuning, DEFAULT_BURST, MAX_BURST, MAX_RATE, MAX_SYN_RATE, SynCookies, Tuning};
pub use worker_pool::WorkerPool;

/// Whether a field says nothing, so that snapshots stay readable.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
