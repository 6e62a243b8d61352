//! What the API server says of the cluster: three Services, an Ingress, and slices that follow pods.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xtask::lab::tls::Issued;

use crate::api_server::ApiServer;

/// What the pods of a Service speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// WebSocket.
    WebSocket,
}

impl Kind {
    /// Each has a Service.
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::WebSocket];

    /// Service and first label of the host.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "web",
            Self::Http2 => "calls",
            Self::WebSocket => "chat",
        }
    }

    /// The host that leads to it.
    pub fn host(self) -> String {
        format!("{}.example.com", self.name())
    }
}

/// What the EndpointSlice says of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Takes new requests.
    Ready,
    /// Has been told to end, and still serves.
    Terminating,
}

/// The cluster's side that deployments write.
pub struct Cluster {
    server: Arc<ApiServer>,
    /// Pods of each Service.
    pub pods: usize,
    port: u16,
    next: AtomicU32,
}

/// Addresses come back after so many pods, as they do in a cluster.
const ADDRESSES: u32 = 2000;

impl Cluster {
    /// Writes what does not change.
    pub fn new(server: Arc<ApiServer>, pods: usize, issued: &Issued) -> Arc<Self> {
        let free = std::net::TcpListener::bind("0.0.0.0:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}}));
        let rules = Kind::ALL.map(|kind| {
            let backend = json!({"service": {"name": kind.name(), "port": {"number": 80}}});
            json!({"host": kind.host(), "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}})
        });
        server.apply(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"namespace": "shop", "name": "shop"},
            "data": {"tls.crt": STANDARD.encode(&issued.certificate), "tls.key": STANDARD.encode(&issued.key)}}));
        let tls = json!([{"hosts": Kind::ALL.map(Kind::host), "secretName": "shop"}]);
        server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"namespace": "shop", "name": "shop",
                "annotations": {"sluice.dev/ssl-redirect": "false"}},
            "spec": {"ingressClassName": "sluice", "rules": rules, "tls": tls}}));
        for kind in Kind::ALL {
            let mut port = json!({"name": "main", "port": 80, "targetPort": "main"});
            if kind == Kind::Http2 {
                port["appProtocol"] = "kubernetes.io/h2c".into();
            }
            server.apply(json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": "shop", "name": kind.name()}, "spec": {"ports": [port]}}));
        }
        Arc::new(Self { server, pods, port, next: AtomicU32::new(0) })
    }

    /// An address that no pod has had for long.
    pub fn address(&self) -> SocketAddr {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % ADDRESSES;
        SocketAddr::new(
            IpAddr::V4(Ipv4Addr::new(127, 77, (next / 250) as u8, (next % 250) as u8 + 1)),
            self.port,
        )
    }

    /// Says which pods a Service has.
    pub fn write_slice(&self, kind: Kind, pods: impl Iterator<Item = (SocketAddr, Condition)>) {
        let endpoints: Vec<Value> = pods
            .map(|(address, condition)| {
                let ready = condition == Condition::Ready;
                json!({"addresses": [address.ip().to_string()],
                    "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
            })
            .collect();
        let name = kind.name();
        self.server.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": "IPv4", "metadata": {"namespace": "shop", "name": format!("{name}-x7k2p"),
                "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "main", "port": self.port, "protocol": "TCP"}], "endpoints": endpoints}));
    }
}
