//! The words of Sluice as plain data. Knows nobody: no Kubernetes types, no I/O, no clock.
//!
//! A [`Snapshot`] is the whole desired state of a node and never changes once made. Parts that
//! did not change between two generations are the same `Arc`, which is how readers know.

mod cluster;
mod issue;
mod listener;
mod name;
mod route;
mod snapshot;
mod tls;

pub use cluster::{BackendProtocol, Cluster, ClusterKey, Endpoint, PortRef};
pub use issue::{Issue, IssueReason, Severity};
pub use listener::{Listener, Protocol, SniMode, Transport, Vip};
pub use name::{HostPattern, InvalidHost, ObjectKey, ObjectRef};
pub use route::{Backend, Compat, PathMatch, RewriteTarget, Route, RoutePolicy, Unavailable, VirtualHost};
pub use snapshot::{Routing, Snapshot};
pub use tls::{Certificate, TlsConfig};
