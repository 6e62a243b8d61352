//! What the daemon tells its command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::policy_words::route_words;
use crate::app::bans::{self, Banned};
use crate::model::{self, BanRules, PathMatch, Route, Snapshot, SynCookies, Tuning};
use crate::proxy::{ClusterHealth, EndpointHealth};

/// `sluice status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The snapshot that is served.
    pub generation: u64,
    /// First lists complete, listeners open, XDP attached where asked for.
    pub ready: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unready: Option<String>,
    /// Could serve, but waits for the daemon before it to hand the kernel's side over.
    #[serde(default)]
    pub standby: bool,
    /// The daemon's version.
    pub version: String,
    /// Where objects come from.
    pub source: Source,
    /// What listens.
    pub listeners: Vec<String>,
    /// How many of each the snapshot has.
    pub serving: Serving,
    /// `None` without XDP.
    pub xdp: Option<Xdp>,
    /// The rules for clients by address; `None` without XDP.
    #[serde(default)]
    pub rules: Option<Rules>,
    /// Who is kept out for a time; `None` where that is off and never was on.
    #[serde(default)]
    pub bans: Option<bans::Summary>,
    /// Packets for each verdict reason of the XDP program.
    pub verdicts: BTreeMap<String, u64>,
    /// Traffic of each VIP, as XDP saw it.
    pub vips: Vec<VipCount>,
    /// ClientHellos for each known name, as XDP saw them.
    pub sni: Vec<SniCount>,
    /// The proxy's counters.
    pub proxy: Value,
    /// For how many seconds others have been meant to take over (`sluice drain`); `None`: they are not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drained_for: Option<u64>,
    /// What is wrong.
    pub issues: Vec<Issue>,
    /// Why the kernel or the listeners are not as the snapshot asks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
    /// How Ingress status and Events are getting on; `None` where none are written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub publishing: Option<crate::status::Report>,
}

/// Where objects come from, and how that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `manifests` or `kubernetes`.
    pub kind: String,
    /// The directory, or nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub directory: Option<String>,
    /// `ok`, or what is wrong.
    pub health: String,
}

/// How many of each the snapshot has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Host patterns.
    pub hosts: usize,
    /// Rules, defaults included.
    pub routes: usize,
    /// Service ports.
    pub clusters: usize,
    /// Endpoints of all of them.
    pub endpoints: usize,
    /// Certificates.
    pub certificates: usize,
    /// VIPs in forward mode: addresses and ports of Services of type LoadBalancer.
    #[serde(default)]
    pub forwarded: usize,
}

/// XDP's attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// Each NIC.
    pub interfaces: Vec<Interface>,
    /// How server names choose the workers; `None`: nobody asks for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub steering: Option<Steering>,
}

/// How server names choose the workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Steering {
    /// They do.
    By {
        /// How the stack takes over connections whose handshake XDP did: `v1` or `v2`.
        version: String,
    },
    /// They don't.
    Off {
        /// Why, and the remedy.
        why: String,
    },
}

/// XDP on one NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The NIC.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// The kernel's number of the program.
    pub program_id: u32,
}

/// Rules for clients by address, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Networks whose packets are dropped.
    pub denied: usize,
    /// Networks that are let in, without a budget.
    pub allowed: usize,
    /// New connections a second for each client; 0: any number.
    pub connection_rate: u32,
    /// How many of them at once.
    pub connection_burst: u32,
    /// When SYNs get cookies: `off`, `auto`, `always`.
    #[serde(default)]
    pub syn_cookies: SynCookies,
    /// How many SYNs a second on one CPU are a flood.
    #[serde(default)]
    pub syn_rate: u32,
}

impl Rules {
    /// In short, what `sluice tune` shows in full.
    pub fn of(tuning: &Tuning) -> Self {
        Self {
            denied: tuning.deny.len(),
            allowed: tuning.allow.len(),
            connection_rate: tuning.connection_rate,
            connection_burst: tuning.connection_burst,
            syn_cookies: tuning.syn_cookies,
            syn_rate: tuning.syn_rate,
        }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.denied + self.allowed > 0 || self.connection_rate > 0 || self.syn_cookies != SynCookies::Off
    }
}

/// `sluice tune`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuned {
    /// The rules for clients by address; `None` without XDP.
    #[serde(flatten)]
    pub rules: Option<Tuning>,
    /// What makes a ban.
    #[serde(flatten)]
    pub ban: BanRules,
    /// Who is banned.
    #[serde(default)]
    pub banned: Vec<Banned>,
}

/// One VIP's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipCount {
    /// Address, port and protocol.
    pub vip: String,
    /// Packets towards it.
    pub packets: u64,
    /// Bytes towards it.
    pub bytes: u64,
    /// New connections.
    pub connections: u64,
}

/// One server name's connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SniCount {
    /// The name or wildcard.
    pub name: String,
    /// ClientHellos that asked for it.
    pub connections: u64,
}

/// What is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// `note`, `warning` or `error`.
    pub severity: String,
    /// The object with its kind.
    pub object: String,
    /// The kind of trouble.
    pub reason: String,
    /// Where in the object; may be empty.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// One host of `sluice routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The name, the wildcard, or `*`.
    pub host: String,
    /// Its rules in order of preference, defaults last.
    pub routes: Vec<RouteView>,
}

/// One rule of `sluice routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// `Exact`, `Prefix`, `Regex`, or `default` for a default backend.
    pub path_type: String,
    /// The path.
    pub path: String,
    /// The Ingress.
    pub ingress: String,
    /// Where in the Ingress.
    pub rule: String,
    /// The cluster, or why there is none.
    pub backend: String,
    /// How many endpoints may take requests.
    pub endpoints: usize,
    /// What happens on the way, in words: redirects, who gets in, limits, the rewrite, the canary.
    pub policy: Vec<String>,
    /// An older Ingress has the same host and path, so this rule takes nothing.
    pub shadowed: bool,
}

/// One cluster of `sluice backends`, or one VIP in forward mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// namespace/service:port, or namespace/service at the VIP.
    pub cluster: String,
    /// What is spoken with the endpoints; `forward` where packets are sent on, `forward-local` where they
    /// are, to endpoints of this node only, `dsr-ipip` and the like where endpoints answer by themselves.
    pub protocol: String,
    /// Requests sent to it since start; `None` where packets are sent on.
    pub requests: Option<u64>,
    /// Limits and what became of them; `None` while nothing is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health: Option<ClusterHealth>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Address and port.
    pub address: String,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zone: Option<String>,
    /// It is going away and only used for want of a ready one.
    pub terminating: bool,
    /// It is there for other zones, and used while too few of this one can take requests.
    #[serde(default)]
    pub distant: bool,
    /// How it is; `None`: nothing is known against it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health: Option<EndpointHealth>,
}

/// `sluice drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Others are to take over.
    pub drained: bool,
    /// For how many seconds.
    pub seconds: u64,
    /// Client connections that are open, tunnels among them.
    pub open: u64,
}

/// `sluice maps verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The snapshot compared with.
    pub generation: u64,
    /// Each difference in words; empty is well.
    pub differences: Vec<String>,
}

/// `sluice maps dump`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    /// What the kernel knows of each VIP.
    pub vips: BTreeMap<String, VipEntry>,
    /// Server names that are counted, and the class of each: 0 for connections that end here, 1 for
    /// those that go on as they are, from 2 on the node's pools of workers in their order.
    pub names: BTreeMap<String, u8>,
    /// The same for suffixes of wildcards, without `*.`.
    pub wildcards: BTreeMap<String, u8>,
}

/// What the kernel knows of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipEntry {
    /// Whether ClientHellos are counted by server name.
    pub observe_sni: bool,
    /// Whether those with a name that nobody serves are refused.
    #[serde(default)]
    pub filter_sni: bool,
    /// Whether the name chooses the workers.
    #[serde(default)]
    pub steer_sni: bool,
}

/// Why the daemon has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A sentence.
    pub error: String,
}

impl From<&model::Issue> for Issue {
    fn from(issue: &model::Issue) -> Self {
        Self {
            severity: word(&issue.severity),
            object: issue.object.to_string(),
            reason: word(&issue.reason),
            field: issue.field.clone(),
            message: issue.message.clone(),
        }
    }
}

impl Serving {
    /// Counts what a snapshot has.
    pub fn of(snapshot: &Snapshot) -> Self {
        let hosts = &snapshot.routing.hosts;
        let tls = &snapshot.tls;
        Self {
            hosts: hosts.len(),
            routes: hosts.iter().map(|h| h.routes.len() + usize::from(h.fallback.is_some())).sum(),
            clusters: snapshot.clusters.len(),
            endpoints: snapshot.clusters.values().map(|c| c.endpoints.len()).sum(),
            certificates: tls
                .by_host
                .iter()
                .flat_map(|(_, all)| all.iter().map(|c| &c.secret))
                .chain(tls.default.iter().map(|c| &c.secret))
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
            forwarded: snapshot.services.len(),
        }
    }
}

/// `sluice routes` of a snapshot.
pub fn routes(snapshot: &Snapshot) -> Vec<Host> {
    let host = |host: &Arc<model::VirtualHost>| Host {
        host: host.host.to_string(),
        routes: host
            .routes
            .iter()
            .map(|route| RouteView::new(snapshot, route, false, false))
            .chain(host.shadowed.iter().map(|route| RouteView::new(snapshot, route, false, true)))
            .chain(
                host.fallback
                    .as_deref()
                    .into_iter()
                    .map(|route| RouteView::new(snapshot, route, true, false)),
            )
            .collect(),
    };
    snapshot.routing.hosts.iter().map(host).collect()
}

/// `sluice backends` of a snapshot; `requests` and `health` by cluster as the proxy knows them.
pub fn backends(
    snapshot: &Snapshot,
    requests: &BTreeMap<String, u64>,
    health: &BTreeMap<String, ClusterHealth>,
) -> Vec<Backend> {
    let clusters = snapshot.clusters.values().map(|cluster| {
        let name = cluster.key.to_string();
        let mut health = health.get(&name).cloned();
        let mut endpoints: Vec<_> = cluster.endpoints.iter().map(EndpointView::from).collect();
        if let Some(health) = &mut health {
            add_health(&mut endpoints, std::mem::take(&mut health.endpoints));
        }
        Backend {
            requests: Some(requests.get(&name).copied().unwrap_or_default()),
            cluster: name,
            protocol: word(&cluster.protocol),
            health,
            endpoints,
        }
    });
    clusters.chain(snapshot.services.iter().map(forwarded)).collect()
}

fn forwarded(service: &model::L4Service) -> Backend {
    let view = |address: &SocketAddr, terminating| EndpointView {
        terminating,
        ..EndpointView::from(&model::Endpoint::new(*address))
    };
    let targets = service.targets.iter().map(|address| view(address, false));
    let draining = service.draining.iter().map(|address| view(address, true));
    Backend {
        cluster: format!("{} at {}", service.service, service.vip),
        protocol: match &service.direct {
            Some(direct) => direct.by.name().to_owned(),
            None => [
                "forward",
                if service.local { "-local" } else { "" },
                if service.quic { "-quic" } else { "" },
            ]
            .concat(),
        },
        requests: None,
        health: None,
        endpoints: targets.chain(draining).collect(),
    }
}

/// Says of endpoints how they are.
pub fn add_health(endpoints: &mut [EndpointView], health: Vec<EndpointHealth>) {
    let mut health: BTreeMap<_, _> = health.into_iter().map(|one| (one.address.to_string(), one)).collect();
    for endpoint in endpoints {
        endpoint.health = health.remove(&endpoint.address);
    }
}

impl From<&model::Endpoint> for EndpointView {
    fn from(endpoint: &model::Endpoint) -> Self {
        Self {
            address: endpoint.address.to_string(),
            zone: endpoint.zone.as_deref().map(str::to_owned),
            terminating: endpoint.terminating,
            distant: endpoint.distant,
            health: None,
        }
    }
}

impl RouteView {
    /// A route in words.
    pub fn new(snapshot: &Snapshot, route: &Route, fallback: bool, shadowed: bool) -> Self {
        let (backend, endpoints) = match &route.backend {
            model::Backend::Cluster(key) => {
                (key.to_string(), snapshot.clusters.get(&**key).map_or(0, |c| c.endpoints.len()))
            }
            model::Backend::Answered => ("none".to_owned(), 0),
            model::Backend::Unavailable(why) => (format!("503: {why}"), 0),
        };
        let path_type = match &route.path {
            _ if fallback => "default",
            PathMatch::Exact(_) => "Exact",
            PathMatch::Prefix(_) => "Prefix",
            PathMatch::Regex(_) => "Regex",
        };
        Self {
            path_type: path_type.to_owned(),
            path: if fallback { "*".to_owned() } else { route.path.text().to_owned() },
            ingress: route.ingress.to_string(),
            rule: route.rule.to_string(),
            backend,
            endpoints,
            policy: route_words(route),
            shadowed,
        }
    }
}

/// The word that a plain enum serialises to.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}
