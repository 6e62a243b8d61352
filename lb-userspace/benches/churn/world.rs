//! The cluster that the benchmark plays: what its API server says, and what may therefore be seen
//! by clients. Endpoint number N has the loopback address 127.x.y.z that encodes N, so that one
//! wildcard listener is all endpoints, and an answer says by its address who gave it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

/// Endpoints of each Service at the start.
pub const ENDPOINTS: u32 = 10;

/// 127.0.0.1 belongs to the clients; numbers begin where addresses look like nobody's.
const FIRST: u32 = 0x0001_0000;

/// What is true now. Shared by everybody who changes it or checks answers against it.
pub struct World {
    began: Instant,
    /// The port of all endpoints.
    port: u16,
    /// Endpoint → its Service.
    services: Vec<AtomicU32>,
    /// Endpoint → when it left, in milliseconds after the beginning; 0 while it is there.
    left: Vec<AtomicU32>,
    /// The number of the next new endpoint.
    next: AtomicU32,
    /// Host → Service now and Service before the last edit.
    routes: Vec<[AtomicU32; 2]>,
}

impl World {
    /// `hosts` hosts, each with an Ingress and a Service of its own. Room for `changes` changes.
    pub fn new(hosts: u32, changes: u32, port: u16) -> Self {
        let most = ((hosts + changes) * (ENDPOINTS + 1)) as usize;
        let zeros = |count| (0..count).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
        let routes = (0..hosts).map(|host| [AtomicU32::new(host), AtomicU32::new(host)]).collect();
        let began = Instant::now();
        Self { began, port, services: zeros(most), left: zeros(most), next: AtomicU32::new(0), routes }
    }

    /// A new endpoint of `service`.
    pub fn add_endpoint(&self, service: u32) -> u32 {
        let endpoint = self.next.fetch_add(1, Ordering::Relaxed);
        self.services[endpoint as usize].store(service, Ordering::Relaxed);
        endpoint
    }

    /// The endpoint is about to go.
    pub fn remove_endpoint(&self, endpoint: u32) {
        let now = self.began.elapsed().as_millis() as u32;
        self.left[endpoint as usize].store(now.max(1), Ordering::Relaxed);
    }

    /// How long ago the endpoint of this address left, in milliseconds.
    pub fn gone_for(&self, address: Ipv4Addr) -> Option<u32> {
        let left = self.left.get(number(address)? as usize)?.load(Ordering::Relaxed);
        (left > 0).then(|| (self.began.elapsed().as_millis() as u32).saturating_sub(left))
    }

    /// The Service of the endpoint with this address.
    pub fn service_of(&self, address: Ipv4Addr) -> Option<u32> {
        Some(self.services.get(number(address)? as usize)?.load(Ordering::Relaxed))
    }

    /// From now on `host` leads to `service`; answers of the Service before are still right for a while.
    pub fn route(&self, host: u32, service: u32) {
        let [now, before] = &self.routes[host as usize];
        before.store(now.swap(service, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether an answer of `service` is right for `host`.
    pub fn leads_to(&self, host: u32, service: u32) -> bool {
        self.routes[host as usize].iter().any(|known| known.load(Ordering::Relaxed) == service)
    }

    /// The EndpointSlice of a Service with these endpoints, as a cluster writes it.
    pub fn slice(&self, service: u32, endpoints: &[u32]) -> Value {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|&endpoint| {
                json!({
                    "addresses": [address(endpoint).to_string()],
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": format!("node-{}", endpoint % 100),
                    "zone": format!("zone-{}", endpoint % 3),
                    "targetRef": {"kind": "Pod", "namespace": namespace(service),
                        "name": format!("service-{service}-5d4f8c7b9d-{endpoint:05x}"),
                        "uid": format!("6f1a2b3c-{endpoint:08x}")},
                })
            })
            .collect();
        let name = format!("service-{service}");
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": namespace(service), "name": format!("{name}-x7k2p"),
                "generateName": format!("{name}-"), "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": name, "endpointslice.kubernetes.io/managed-by":
                    "endpointslice-controller.k8s.io", "kubernetes.io/service-name": name},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name,
                    "uid": "0c1d2e3f", "controller": true, "blockOwnerDeletion": true}],
                "managedFields": managed("kube-controller-manager", &["f:addressType", "f:endpoints", "f:ports"])},
            "ports": [{"name": "http", "port": self.port, "protocol": "TCP"}], "endpoints": endpoints})
    }
}

/// The namespace of a host's objects: a hundred Ingresses each.
pub fn namespace(host: u32) -> String {
    format!("team-{}", host / 100)
}

/// The host name.
pub fn host_name(host: u32) -> String {
    format!("shop-{host}.example.com")
}

/// The Service of this number.
pub fn service(service: u32) -> Value {
    let name = format!("service-{service}");
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace(service), "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": name},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"},
            "managedFields": managed("kubectl-client-side-apply", &["f:ports", "f:selector", "f:type"])},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None", "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}]},
        "status": {"loadBalancer": {}}})
}

/// The Ingress of a host with these paths and the Services behind them. Services of other
/// namespaces can't be named, so they are all of the host's hundred.
pub fn ingress(host: u32, paths: &[(String, u32)]) -> Value {
    let paths: Vec<_> = paths
        .iter()
        .map(|(path, service)| {
            let backend = json!({"service": {"name": format!("service-{service}"), "port": {"number": 80}}});
            json!({"path": path, "pathType": "Prefix", "backend": backend})
        })
        .collect();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": namespace(host), "name": format!("shop-{host}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": format!("shop-{host}")},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"},
            "managedFields": managed("kubectl-client-side-apply", &["f:ingressClassName", "f:rules"])},
        "spec": {"ingressClassName": "sluice",
            "rules": [{"host": host_name(host), "http": {"paths": paths}}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}})
}

/// The class of all Ingresses.
pub fn class() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}})
}

/// What every object of a real cluster carries, and no controller reads.
fn managed(manager: &str, fields: &[&str]) -> Value {
    let set: serde_json::Map<String, Value> = fields.iter().map(|f| ((*f).to_owned(), json!({}))).collect();
    json!([{"manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:annotations": {".": {}}, "f:labels": {".": {}, "f:app": {}}}, "f:spec": set}}])
}

fn address(endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f00_0000 | (FIRST + endpoint))
}

fn number(address: Ipv4Addr) -> Option<u32> {
    (address.to_bits() & 0x00ff_ffff).checked_sub(FIRST)
}
