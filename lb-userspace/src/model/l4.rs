//! VIPs in forward mode: Services of type LoadBalancer whose packets the kernel sends on.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::{ObjectKey, Vip};

/// One port of such a Service at one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct L4Service {
    /// Where clients connect.
    pub vip: Vip,
    /// The Service.
    pub service: ObjectKey,
    /// Endpoints that take new connections, of the VIP's address family, sorted. Empty: packets are
    /// dropped.
    pub targets: Arc<[SocketAddr]>,
    /// Endpoints that keep the connections they have, sorted.
    #[serde(skip_serializing_if = "is_empty")]
    pub draining: Arc<[SocketAddr]>,
    /// All connections of a client go to one endpoint (`sessionAffinity: ClientIP`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub affinity: bool,
    /// QUIC packets go to the endpoint that their connection id names, see [`lb_common::quic`]. UDP only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quic: bool,
    /// Only endpoints on this node are asked (`externalTrafficPolicy: Local`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// Networks of the VIP's address family that packets are taken from, sorted
    /// (`loadBalancerSourceRanges`). `None`: everybody's are; empty: nobody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Arc<[IpNet]>>,
}

/// A port of every node by which load balancers ask whether the node has endpoints of a Service
/// (`spec.healthCheckNodePort`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthPort {
    /// The port.
    pub port: u16,
    /// The Service.
    pub service: ObjectKey,
    /// How many ready endpoints it has on this node.
    pub endpoints: usize,
}

fn is_empty(addresses: &[SocketAddr]) -> bool {
    addresses.is_empty()
}
