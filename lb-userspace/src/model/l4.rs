//! VIPs in forward mode: Services of type LoadBalancer whose packets the kernel sends on.

use std::net::{IpAddr, SocketAddr};
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
    /// Packets go as they are, and endpoints answer clients by themselves (`sluice.dev/forwarding`).
    /// `None`: they are written anew for the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
}

/// How packets that are not written anew get to endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Direct {
    /// What is put around them.
    pub by: Delivery,
    /// Whom they are sent to, sorted by address, one each.
    pub ends: Arc<[End]>,
}

/// What is put around a packet that goes as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Nothing: the endpoint is in the same segment and has the VIP as an address of its own.
    L2,
    /// An IP header.
    Ipip,
    /// An IP and a UDP header.
    Gue,
}

impl Delivery {
    /// As annotations and tables name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "dsr-l2",
            Self::Ipip => "dsr-ipip",
            Self::Gue => "dsr-gue",
        }
    }
}

/// Whom packets are sent to as they are: a node, or an endpoint that is on none that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// It is this node: its endpoints get packets that are written anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
    /// Its endpoints that take new connections, sorted.
    pub targets: Arc<[SocketAddr]>,
    /// Its endpoints that keep the connections they have, sorted.
    #[serde(skip_serializing_if = "is_empty")]
    pub draining: Arc<[SocketAddr]>,
}

/// Addresses of nodes, for packets in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nodes {
    /// This one's.
    pub own: Vec<IpAddr>,
    /// The others'.
    pub peers: Vec<IpAddr>,
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
