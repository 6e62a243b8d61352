//! The snapshot: the whole desired state of the node.

use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::Serialize;

use super::{
    BanRules, Cluster, ClusterKey, HealthPort, HostPattern, Issue, L4Service, Listener, Nodes, ProxyProtocol,
    TlsConfig, VirtualHost,
};

/// Everything that decides which route a request takes. Changes rarely; endpoints aren't in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Routing {
    /// Sorted by pattern (exact, wildcard, any), one each. Hosts that did not change since the
    /// snapshot before are the same `Arc`.
    pub hosts: Vec<Arc<VirtualHost>>,
}

/// The whole desired state of a node, immutable. Equal parts of successive snapshots are the
/// same `Arc`, so readers compare by pointer.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Rises by one with every snapshot that differs from the one before.
    pub generation: u64,
    /// Sorted by VIP.
    pub listeners: Arc<[Listener]>,
    /// VIPs in forward mode, sorted by VIP, one each.
    #[serde(skip_serializing_if = "is_empty")]
    pub services: Arc<[L4Service]>,
    /// Where load balancers ask for this node's endpoints, sorted by port, one each.
    #[serde(skip_serializing_if = "is_empty")]
    pub health_ports: Arc<[HealthPort]>,
    /// The nodes that may send each other packets in packets; nobody, where no Service asks for that.
    #[serde(skip_serializing_if = "is_nobody")]
    pub nodes: Arc<Nodes>,
    /// Hosts and routes.
    pub routing: Arc<Routing>,
    /// Every cluster that a route names is here; unchanged clusters keep their `Arc`.
    pub clusters: OrdMap<Arc<ClusterKey>, Arc<Cluster>>,
    /// Certificates.
    pub tls: Arc<TlsConfig>,
    /// Peers whose word on the client counts; `None`: those that the node was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<Arc<[IpNet]>>,
    /// Whose connections begin with a PROXY header; `None`: as the node was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<Arc<ProxyProtocol>>,
    /// Who is kept out for a time; `None`: as the node was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ban: Option<BanRules>,
    /// What is wrong, sorted by object.
    pub issues: Arc<[Issue]>,
}

impl Snapshot {
    /// The hosts that routes, certificates and passthrough are for, some of them more than once. A
    /// ClientHello whose name none of them matches is for nobody.
    pub fn named_hosts(&self) -> impl Iterator<Item = &HostPattern> {
        let tls = &self.tls;
        let certificates = tls.by_host.iter().map(|(host, _)| host);
        let asking = tls.client_auth.iter().map(|(host, _)| host);
        let passthrough = tls.passthrough.iter().map(|(host, _)| host);
        let routed = self.routing.hosts.iter().map(|host| &host.host);
        certificates.chain(asking).chain(passthrough).chain(routed)
    }

    /// The state of a node that knows nothing yet.
    pub fn empty() -> Self {
        Self {
            generation: 0,
            listeners: Arc::new([]),
            services: Arc::new([]),
            health_ports: Arc::new([]),
            nodes: Arc::default(),
            routing: Arc::default(),
            clusters: OrdMap::new(),
            tls: Arc::default(),
            trusted_proxies: None,
            proxy_protocol: None,
            ban: None,
            issues: Arc::new([]),
        }
    }
}

fn is_nobody(nodes: &Nodes) -> bool {
    *nodes == Nodes::default()
}

fn is_empty<T>(all: &[T]) -> bool {
    all.is_empty()
}
