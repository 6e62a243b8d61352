//! Clusters and endpoints: where requests go.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::{Care, ObjectKey, UpstreamProtocol, is_default};

/// A Service's port, by number or by name, as a backend refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// The Service port's number (not the target port).
    Number(u16),
    /// The Service port's name.
    Name(Arc<str>),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Which of a Service's addresses a cluster consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// Its endpoints.
    #[default]
    Endpoints,
    /// Its ClusterIP, so that the cluster's own balancing applies.
    ClusterIp,
}

/// Names a cluster: one Service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// The Service.
    pub service: ObjectKey,
    /// Its port, as the backend writes it.
    pub port: PortRef,
    /// Which of its addresses.
    pub via: Via,
}

impl ClusterKey {
    /// The endpoints of a Service's port.
    pub fn new(service: ObjectKey, port: PortRef) -> Self {
        Self { service, port, via: Via::default() }
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        match self.via {
            Via::Endpoints => Ok(()),
            Via::ClusterIp => f.write_str(" (ClusterIP)"),
        }
    }
}

impl Serialize for ClusterKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// One address and port that serves a cluster and may take new requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The topology zone that its EndpointSlice names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// It is going away and only used because the cluster has no ready endpoint
    /// (`serving` and `terminating` in its EndpointSlice).
    pub terminating: bool,
    /// It is there for other zones than the node's (`hints` in its EndpointSlice): gets requests
    /// only while too few of the others can take any.
    #[serde(skip_serializing_if = "is_default")]
    pub distant: bool,
    /// A listener of the node itself: requests come back to the proxy.
    #[serde(skip_serializing_if = "is_default")]
    pub own: bool,
}

impl Endpoint {
    /// One that is ready, of no zone.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, zone: None, terminating: false, distant: false, own: false }
    }
}

/// One Service port: its endpoints and how to speak with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Which Service port this is.
    pub key: Arc<ClusterKey>,
    /// What the Service's port says of its protocol (`appProtocol`); a route's policy may say more.
    pub protocol: UpstreamProtocol,
    /// Sorted by address, no duplicates. Empty: requests get 503.
    pub endpoints: Arc<[Endpoint]>,
    /// How they are watched and spared.
    #[serde(skip_serializing_if = "is_default")]
    pub care: Arc<Care>,
}
