//! Services: ports, and the endpoints behind them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;

use super::report::issue;
use super::{Settings, care, loops};
use crate::model::{
    Care, Cluster, ClusterKey, Endpoint, Issue, IssueReason, ObjectKey, PortRef, Severity, Unavailable,
    UpstreamProtocol, Via,
};
use crate::objects::{Objects, SERVICE_NAME_LABEL, ServiceKind, ServicePort, Slice, SliceAddress, excerpt};

/// The Service ports that backends asked for, each looked up once.
pub(super) struct Services<'a> {
    objects: &'a Objects,
    node: &'a Settings,
    asked: BTreeMap<Arc<ClusterKey>, Result<&'a ServicePort, Unavailable>>,
}

impl<'a> Services<'a> {
    /// `node`: where the node is, and what applies where a Service says nothing.
    pub(super) fn new(objects: &'a Objects, node: &'a Settings) -> Self {
        Self { objects, node, asked: BTreeMap::new() }
    }

    /// Whether the Service port can be served; if not, why and as which issue.
    pub(super) fn ask(&mut self, key: &Arc<ClusterKey>) -> Result<(), Unavailable> {
        match self.asked.entry(Arc::clone(key)) {
            Entry::Occupied(known) => known.get().clone().map(|_| ()),
            Entry::Vacant(new) => new.insert(find_port(self.objects, key)).clone().map(|_| ()),
        }
    }

    /// A cluster for each key that was asked for and can be served, sorted.
    pub(super) fn into_clusters(self, issues: &mut Vec<Issue>) -> impl Iterator<Item = Cluster> {
        let (objects, node) = (self.objects, self.node);
        let mut care: Option<Arc<Care>> = None;
        self.asked.into_iter().filter_map(move |(key, port)| {
            let port = port.ok()?;
            let protocol = protocol(objects, &key, port, issues);
            let address = match key.via {
                Via::Endpoints => None,
                Via::ClusterIp => cluster_addresses(objects, &key.service, port, issues),
            };
            let zone = node.zone.as_deref();
            let endpoints = address.unwrap_or_else(|| endpoints(objects, &key.service, port, zone, issues));
            let endpoints = loops::mark(&key.service, endpoints, &node.listeners, issues);
            // All that is asked for here are ports of one Service: what is wrong is said once.
            let care =
                care.get_or_insert_with(|| care::of_service(objects, &key.service, &node.care, issues));
            let care = Arc::clone(care);
            Some(Cluster { key, protocol, endpoints, care })
        })
    }
}

fn find_port<'a>(objects: &'a Objects, key: &ClusterKey) -> Result<&'a ServicePort, Unavailable> {
    let service =
        objects.services.get(&key.service).ok_or_else(|| Unavailable::NoService(key.service.clone()))?;
    if service.kind == ServiceKind::ExternalName {
        return Err(Unavailable::ExternalName(key.service.clone()));
    }
    let is_meant = |port: &&ServicePort| match &key.port {
        PortRef::Number(number) => port.port == i32::from(*number),
        PortRef::Name(name) => *port.name == **name,
    };
    let mut tcp = service.ports.iter().filter(|port| port.protocol.is_none());
    tcp.find(is_meant).ok_or_else(|| Unavailable::NoPort(key.clone()))
}

/// The endpoints of a Service port: the ready ones, else those that go away but still serve.
fn endpoints(
    objects: &Objects,
    service: &ObjectKey,
    port: &ServicePort,
    zone: Option<&str>,
    issues: &mut Vec<Issue>,
) -> Arc<[Endpoint]> {
    let mut found = Found::default();
    let mut slices = objects.slices_of(service).peekable();
    if slices.peek().is_some() {
        for (key, slice) in slices {
            found.read_slice(&key, slice, port, issues);
        }
    } else if let Some(endpoints) = objects.endpoints.get(service) {
        found.read_endpoints(service, endpoints, port, issues);
    } else {
        issues.push(issue(
            Severity::Note,
            IssueReason::NoEndpoints,
            "Service",
            service,
            "",
            format!(
                "has no EndpointSlice, so requests get 503; give the Service a selector in a cluster, or add an \
                 EndpointSlice with the label {SERVICE_NAME_LABEL}: {}.",
                excerpt(&service.name)
            ),
        ));
    }
    found.warn_of_names(objects, service, port, issues);
    found.into_endpoints(zone)
}

/// The Service's own addresses with its port, for requests that the cluster's balancing spreads;
/// `None`, and said so, where it has none.
fn cluster_addresses(
    objects: &Objects,
    service: &ObjectKey,
    port: &ServicePort,
    issues: &mut Vec<Issue>,
) -> Option<Arc<[Endpoint]>> {
    let number = port_number(port.port)?;
    let found = objects.services.get(service);
    let addresses: BTreeSet<IpAddr> =
        found.iter().flat_map(|service| service.cluster_ips.iter().copied()).collect();
    if addresses.is_empty() {
        issues.push(issue(
            Severity::Warning,
            IssueReason::Unsupported,
            "Service",
            service,
            "spec.clusterIP",
            "has no ClusterIP, which service-upstream asks for; its endpoints are used. Give it one, or \
             remove the annotation.",
        ));
        return None;
    }
    let endpoint = |ip| Endpoint::new(SocketAddr::new(ip, number));
    Some(addresses.into_iter().map(endpoint).collect())
}

/// What the Service's port says is spoken there. Says so if that is nothing that Sluice speaks with
/// endpoints.
fn protocol(
    objects: &Objects,
    key: &ClusterKey,
    port: &ServicePort,
    issues: &mut Vec<Issue>,
) -> UpstreamProtocol {
    let Some(protocol) = port.app_protocol.as_deref() else { return UpstreamProtocol::Http };
    match protocol.to_ascii_lowercase().as_str() {
        "" | "http" | "kubernetes.io/ws" | "tcp" => return UpstreamProtocol::Http,
        "https" | "kubernetes.io/wss" => return UpstreamProtocol::Https,
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => return UpstreamProtocol::Grpc,
        "grpcs" => return UpstreamProtocol::Grpcs,
        _ => {}
    }
    issues.push(issue(
        Severity::Warning,
        IssueReason::Unsupported,
        "Service",
        &key.service,
        format!("{}.appProtocol", field_of(objects, &key.service, port)),
        format!(
            "{:?} is not supported and is ignored: endpoints get HTTP/1.1 without TLS. Name a port that speaks it.",
            excerpt(protocol)
        ),
    ));
    UpstreamProtocol::Http
}

/// Where in its Service a port is.
fn field_of(objects: &Objects, service: &ObjectKey, port: &ServicePort) -> String {
    let ports = objects.services.get(service).map(|service| &*service.ports);
    let at = ports.unwrap_or_default().iter().position(|other| std::ptr::eq(other, port));
    format!("spec.ports[{}]", at.unwrap_or_default())
}

/// What was found so far.
#[derive(Default)]
struct Found {
    /// Addresses, with what is best known of each.
    addresses: BTreeMap<SocketAddr, Candidate>,
    /// Some port was the Service's.
    port_matched: bool,
    /// The names of the TCP ports that were not.
    other_ports: BTreeSet<String>,
}

struct Candidate {
    ready: bool,
    zone: Option<Arc<str>>,
    for_zones: Option<Arc<Vec<Arc<str>>>>,
}

impl Found {
    /// Ready beats terminating where two slices have the same address, as they do for a moment
    /// when an endpoint moves from one to the other.
    fn add(&mut self, address: SocketAddr, candidate: Candidate) {
        match self.addresses.entry(address) {
            Entry::Vacant(new) => {
                new.insert(candidate);
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.ready |= candidate.ready;
                known.zone = known.zone.take().or(candidate.zone);
                known.for_zones = known.for_zones.take().or(candidate.for_zones);
            }
        }
    }

    /// The ready ones, else those that go away but still serve. As kube-proxy, hints only count
    /// where every ready endpoint has some and one is for the node's zone: slices are written one by
    /// one, and half of the hints would leave some endpoints out for everybody.
    fn into_endpoints(self, zone: Option<&str>) -> Arc<[Endpoint]> {
        let any_ready = self.addresses.values().any(|candidate| candidate.ready);
        let usable = self.addresses.into_iter().filter(|(_, candidate)| candidate.ready == any_ready);
        let usable: Vec<_> = usable.collect();
        let is_for = |candidate: &Candidate, zone: &str| {
            candidate.for_zones.as_deref().is_some_and(|zones| zones.iter().any(|one| **one == *zone))
        };
        let zone = zone.filter(|zone| {
            any_ready
                && usable.iter().all(|(_, candidate)| candidate.for_zones.is_some())
                && usable.iter().any(|(_, candidate)| is_for(candidate, zone))
        });
        let endpoint = |(address, candidate): (SocketAddr, Candidate)| Endpoint {
            address,
            distant: zone.is_some_and(|zone| !is_for(&candidate, zone)),
            zone: candidate.zone,
            terminating: !candidate.ready,
            own: false,
        };
        usable.into_iter().map(endpoint).collect()
    }

    /// Endpoints are there, but under other port names: what a typing error looks like. A Service
    /// without pods has slices without ports and is no case of it.
    fn warn_of_names(
        &self,
        objects: &Objects,
        service: &ObjectKey,
        port: &ServicePort,
        issues: &mut Vec<Issue>,
    ) {
        if self.port_matched || self.other_ports.is_empty() {
            return;
        }
        let others: Vec<_> =
            self.other_ports.iter().take(5).map(|name| format!("{:?}", excerpt(name))).collect();
        issues.push(issue(
            Severity::Warning,
            IssueReason::NoEndpoints,
            "Service",
            service,
            field_of(objects, service, port),
            format!(
                "none of its endpoints has a TCP port of the name {:?}, so requests get 503; they have {}. \
                 Give the port the same name on both sides.",
                excerpt(&port.name),
                others.join(", ")
            ),
        ));
    }

    fn note_ports<'a>(
        &mut self,
        port: &ServicePort,
        ports: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>,
    ) {
        for (name, _) in ports.filter(|(_, protocol)| is_tcp(*protocol)) {
            if name.unwrap_or_default() == &*port.name {
                self.port_matched = true;
            } else {
                self.other_ports.insert(name.unwrap_or_default().into());
            }
        }
    }

    fn read_slice(&mut self, key: &ObjectKey, slice: &Slice, port: &ServicePort, issues: &mut Vec<Issue>) {
        let mut say = |field: String, message: String| {
            issues.push(issue(
                Severity::Warning,
                IssueReason::InvalidField,
                "EndpointSlice",
                key,
                field,
                message,
            ));
        };
        if slice.fqdn {
            say(
                "addressType".into(),
                "slices of type FQDN are not supported and are ignored; list IPv4 or IPv6 addresses.".into(),
            );
            return;
        }
        if !slice.endpoints.is_empty() {
            self.note_ports(
                port,
                slice.ports.iter().map(|port| (Some(&*port.name), port.protocol.as_deref())),
            );
        }
        // A slice's ports have the names of the Service's; the numbers may differ from slice to slice.
        let numbers = slice
            .ports
            .iter()
            .filter(|candidate| is_tcp(candidate.protocol.as_deref()) && candidate.name == port.name);
        for candidate in numbers {
            // "All ports" of something that is no Service's: there is none to connect to.
            let Some(number) = candidate.number else {
                say(
                    "ports".into(),
                    "a port without a number is ignored; write the number that the endpoints listen on."
                        .into(),
                );
                continue;
            };
            let Some(number) = port_number(number) else {
                say(
                    "ports".into(),
                    format!("{number} is no port and is ignored; write one from 1 to 65535."),
                );
                continue;
            };
            for (e, endpoint) in slice.endpoints.iter().enumerate() {
                let address = match &endpoint.address {
                    SliceAddress::Ip(address) => *address,
                    SliceAddress::None => continue,
                    SliceAddress::Other(text) => {
                        say(
                            format!("endpoints[{e}].addresses[0]"),
                            format!("{:?} is no IP address and is ignored; correct it.", excerpt(text)),
                        );
                        continue;
                    }
                };
                if endpoint.ready || (endpoint.serving && endpoint.terminating) {
                    let candidate = Candidate {
                        ready: endpoint.ready,
                        zone: endpoint.zone.clone(),
                        for_zones: endpoint.for_zones.clone(),
                    };
                    self.add(SocketAddr::new(address, number), candidate);
                }
            }
        }
    }

    fn read_endpoints(
        &mut self,
        key: &ObjectKey,
        endpoints: &Endpoints,
        port: &ServicePort,
        issues: &mut Vec<Issue>,
    ) {
        for (s, subset) in endpoints.subsets.iter().flatten().enumerate() {
            let ports = subset.ports.iter().flatten();
            self.note_ports(port, ports.map(|port| (port.name.as_deref(), port.protocol.as_deref())));
            let numbers = subset.ports.iter().flatten().filter(|candidate| {
                is_tcp(candidate.protocol.as_deref())
                    && candidate.name.as_deref().unwrap_or_default() == &*port.name
            });
            for number in numbers.filter_map(|port| port_number(port.port)) {
                for (a, address) in subset.addresses.iter().flatten().enumerate() {
                    match address.ip.parse::<IpAddr>() {
                        Ok(ip) => {
                            let candidate = Candidate { ready: true, zone: None, for_zones: None };
                            self.add(SocketAddr::new(ip, number), candidate);
                        }
                        Err(_) => issues.push(issue(
                            Severity::Warning,
                            IssueReason::InvalidField,
                            "Endpoints",
                            key,
                            format!("subsets[{s}].addresses[{a}].ip"),
                            format!(
                                "{:?} is no IP address and is ignored; correct it.",
                                excerpt(&address.ip)
                            ),
                        )),
                    }
                }
            }
        }
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}
