//! Services of type LoadBalancer whose class is ours: VIPs in forward mode.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::addresses;
use super::forwarding::{self, Placed};
use super::health_port;
use super::quic::QuicPorts;
use super::report::issue;
use super::sources::{FIELD as SOURCES, sources};
use crate::model::{
    Delivery, HealthPort, Issue, IssueReason, L4Room, L4Service, Listener, NoRoom, ObjectKey, Severity,
    Transport, Vip,
};
use crate::objects::{
    Objects, SERVICE_NAME_LABEL, Service, ServiceKind, ServicePort, Slice, SliceAddress, excerpt,
};

/// `spec.loadBalancerClass` of Services that are ours.
pub const LOAD_BALANCER_CLASS: &str = "sluice.dev/xdp";

const POLICY: &str = "spec.externalTrafficPolicy";

/// Services that are ours, kept from one translation to the next.
#[derive(Default)]
pub(super) struct L4Services {
    known: BTreeMap<ObjectKey, Known>,
}

#[derive(Default, PartialEq)]
struct Known {
    /// In seconds since 1970; of manifests, which don't say, the end of time.
    created: i64,
    services: Vec<L4Service>,
    health_port: Option<HealthPort>,
    issues: Vec<Issue>,
}

impl L4Services {
    /// Reads a Service that differs, in itself or in its endpoints. `node` is this one's name. Whether what
    /// follows differs.
    pub(super) fn read(&mut self, objects: &Objects, key: &ObjectKey, node: Option<&str>) -> bool {
        let ours = objects.services.get(key).filter(|service| is_ours(service));
        let known = ours.map(|service| read(objects, key, service, node));
        if self.known.get(key) == known.as_ref() {
            return false;
        }
        match known {
            Some(known) => drop(self.known.insert(key.clone(), known)),
            None => drop(self.known.remove(key)),
        }
        true
    }

    /// The oldest first, those of the same age by name: nobody takes by a new Service what another has.
    fn by_age(&self) -> Vec<&Known> {
        let mut all: Vec<_> = self.known.values().collect();
        all.sort_by_key(|known| known.created);
        all
    }

    /// All of them, by VIP. Of two Services with the same VIP, the older has it; listeners come before
    /// both. What is not in `allowed` (`None`: all is allowed), and what the kernel's tables have
    /// no room for, is left out.
    pub(super) fn services(
        &self,
        listeners: &[Listener],
        allowed: Option<&[IpNet]>,
        issues: &mut Vec<Issue>,
    ) -> Vec<L4Service> {
        let mut owners: BTreeMap<Vip, &L4Service> = BTreeMap::new();
        for service in self.by_age().into_iter().flat_map(|known| &known.services) {
            let taken = |by: String| {
                let message =
                    format!("{} is {by} already; give the Service another address or port.", service.vip);
                let (severity, reason) = (Severity::Error, IssueReason::Conflict);
                issue(severity, reason, "Service", &service.service, "spec.ports", message)
            };
            let inside = |networks: &[IpNet]| networks.iter().any(|one| one.contains(&service.vip.address));
            if !allowed.is_none_or(inside) {
                // Whoever writes Services could take any address's packets, a node's own included.
                let message = format!(
                    "{} is not in the networks that Services may have addresses in (setting service-vips, \
                     --service-vips) and is not served; give the Service an address there.",
                    service.vip
                );
                let (severity, reason) = (Severity::Error, IssueReason::NoAddress);
                issues.push(issue(severity, reason, "Service", &service.service, "spec.ports", message));
            } else if listeners.iter().any(|listener| covers(&listener.vip, &service.vip)) {
                issues.push(taken("a listener of the node".into()));
            } else if let Some(first) = owners.get(&service.vip) {
                issues.push(taken(format!("Service {}'s", first.service)));
            } else {
                owners.insert(service.vip, service);
            }
        }
        let proxied = listeners.iter().filter(|listener| !listener.vip.address.is_unspecified()).count();
        let mut room = L4Room::besides(proxied);
        let fits = |one: &&L4Service| match room.take(one) {
            Ok(()) => true,
            Err(missing) => {
                let field = match missing {
                    NoRoom::Sources => SOURCES,
                    _ => "spec.ports",
                };
                let message = format!("{} is not forwarded: {missing}; ask for less.", one.vip);
                let (severity, reason) = (Severity::Error, IssueReason::NoRoom);
                issues.push(issue(severity, reason, "Service", &one.service, field, message));
                false
            }
        };
        owners.into_values().filter(fits).cloned().collect()
    }

    /// Where load balancers ask for this node's endpoints, by port. Of two Services with the same one, the
    /// older has it.
    pub(super) fn health_ports(&self, issues: &mut Vec<Issue>) -> Vec<HealthPort> {
        let mut ports: BTreeMap<u16, &HealthPort> = BTreeMap::new();
        for one in self.by_age().into_iter().filter_map(|known| known.health_port.as_ref()) {
            if let Some(first) = ports.get(&one.port) {
                let message =
                    format!("{} is Service {}'s already; write another one.", one.port, first.service);
                let (severity, reason) = (Severity::Warning, IssueReason::Conflict);
                issues.push(issue(severity, reason, "Service", &one.service, health_port::FIELD, message));
            } else {
                ports.insert(one.port, one);
            }
        }
        ports.into_values().cloned().collect()
    }

    /// Those whose packets go as they are, and so by the addresses of nodes.
    pub(super) fn direct(&self) -> Vec<ObjectKey> {
        let is_direct = |known: &Known| known.services.iter().any(|service| service.direct.is_some());
        self.known.iter().filter(|(_, known)| is_direct(known)).map(|(key, _)| key.clone()).collect()
    }

    /// What is wrong with them, but for conflicts.
    pub(super) fn issues(&self) -> impl Iterator<Item = &Issue> {
        self.known.values().flat_map(|known| &known.issues)
    }
}

/// Whether a listener has the VIP, be it that it listens on every address.
fn covers(listener: &Vip, vip: &Vip) -> bool {
    let address = listener.address == vip.address
        || listener.address.is_unspecified() && listener.address.is_ipv4() == vip.address.is_ipv4();
    address && (listener.port, listener.transport) == (vip.port, vip.transport)
}

fn is_ours(service: &Service) -> bool {
    service.kind == ServiceKind::LoadBalancer
        && service.outside().class.as_deref() == Some(LOAD_BALANCER_CLASS)
}

fn read(objects: &Objects, key: &ObjectKey, service: &Service, node: Option<&str>) -> Known {
    let created = service.metadata.created.unwrap_or(i64::MAX);
    let mut known = Known { created, ..Known::default() };
    let outside = service.outside();
    let addresses = addresses(key, service, &mut known.issues);
    let warning = |reason, field: String, message: String| {
        issue(Severity::Warning, reason, "Service", key, field, message)
    };
    let affinity = match outside.affinity.as_deref() {
        None => false,
        Some("ClientIP") => true,
        Some(other) => {
            let message =
                format!("{:?} is not supported and is ignored; write None or ClientIP.", excerpt(other));
            known.issues.push(warning(IssueReason::Unsupported, "spec.sessionAffinity".into(), message));
            false
        }
    };
    let local = match outside.traffic_policy.as_deref() {
        None => false,
        Some("Local") if node.is_some() => true,
        Some("Local") => {
            let message = "is Local, but this node's name is not known, so endpoints of all nodes are asked; \
                           start sluice with --node-name.";
            known.issues.push(warning(IssueReason::Unsupported, POLICY.into(), message.into()));
            false
        }
        Some(other) => {
            let message =
                format!("{:?} is not supported and is ignored; write Cluster or Local.", excerpt(other));
            known.issues.push(warning(IssueReason::Unsupported, POLICY.into(), message));
            false
        }
    };
    let here = node;
    let node = node.filter(|_| local);
    let delivery = forwarding::delivery(key, service, &mut known.issues);
    let sources = sources(key, service, &mut known.issues);
    known.health_port =
        node.and_then(|node| health_port::health_port(objects, key, service, node, &mut known.issues));
    let quic = QuicPorts::read(key, service, &mut known.issues);
    for (p, port) in service.ports.iter().enumerate() {
        let field = format!("spec.ports[{p}]");
        let transport = match port.protocol.as_deref() {
            None => Transport::Tcp,
            Some("UDP") => Transport::Udp,
            Some(other) => {
                let message = format!("{:?} is not forwarded; TCP and UDP are.", excerpt(other));
                known.issues.push(warning(IssueReason::Unsupported, format!("{field}.protocol"), message));
                continue;
            }
        };
        let Some(number) = port_number(port.port) else {
            let message = format!("{} is no port and is ignored; write one from 1 to 65535.", port.port);
            known.issues.push(warning(IssueReason::InvalidField, format!("{field}.port"), message));
            continue;
        };
        let endpoints = Endpoints::read(objects, key, port, transport, node);
        let quic = transport == Transport::Udp && quic.has(number);
        if let Some(by) = delivery {
            let mut doubts = Vec::new();
            forwarding::doubts(key, by, objects, here, &endpoints.ready, &mut doubts);
            if quic {
                doubts.push(forwarding::without_quic(key, by));
            }
            doubts.retain(|doubt| !known.issues.contains(doubt));
            known.issues.extend(doubts);
        }
        if endpoints.is_empty() && !addresses.is_empty() {
            let message = if let Some(node) = node.filter(|_| endpoints.elsewhere) {
                format!(
                    "{POLICY} is Local and no usable endpoint of this port is on node {}, so its packets are \
                     dropped here; send them to another node, or write Cluster.",
                    excerpt(node)
                )
            } else {
                format!(
                    "no EndpointSlice lists a usable endpoint of this port, so its packets are dropped; slices need \
                 the label {SERVICE_NAME_LABEL}: {} and a port of the same name and protocol.",
                    excerpt(&key.name)
                )
            };
            let note = issue(Severity::Note, IssueReason::NoEndpoints, "Service", key, field, message);
            known.issues.push(note);
        }
        for address in &addresses {
            let vip = Vip { address: *address, port: number, transport };
            let of_family =
                |all: &Placed| all.keys().filter(|one| one.is_ipv4() == address.is_ipv4()).copied().collect();
            let Endpoints { ready, draining, .. } = &endpoints;
            let direct =
                |by: Delivery| forwarding::direct(by, objects, here, ready, draining, address.is_ipv4());
            known.services.push(L4Service {
                vip,
                service: key.clone(),
                targets: of_family(ready),
                draining: of_family(draining),
                affinity,
                quic: quic && delivery.is_none(),
                local,
                sources: sources.as_ref().map(|all| of_networks(all, address)),
                direct: delivery.map(direct),
            });
        }
    }
    known
}

/// Those of an address' family, which may be none: who lists networks of one family only lets in
/// nobody of the other.
fn of_networks(all: &BTreeSet<IpNet>, address: &IpAddr) -> Arc<[IpNet]> {
    all.iter().filter(|network| network.addr().is_ipv4() == address.is_ipv4()).copied().collect()
}

/// Where the Service is reached: what it asks for, else what somebody who hands out addresses wrote
/// into its status.
#[derive(Default)]
struct Endpoints {
    ready: Placed,
    draining: Placed,
    /// There are some on other nodes, which are not asked.
    elsewhere: bool,
}

impl Endpoints {
    /// The endpoints of a port. Those that terminate and still serve keep their connections, and
    /// take new ones where no other endpoint is left. With a node, only those on it.
    fn read(
        objects: &Objects,
        key: &ObjectKey,
        port: &ServicePort,
        transport: Transport,
        node: Option<&str>,
    ) -> Self {
        let mut found = Self::default();
        for (_, slice) in objects.slices_of(key) {
            found.add(slice, port, transport, node);
        }
        let Self { ready, draining, .. } = &mut found;
        draining.retain(|address, _| !ready.contains_key(address));
        for v4 in [true, false] {
            if !ready.keys().any(|address| address.is_ipv4() == v4) {
                ready.extend(draining.extract_if(.., |address, _| address.is_ipv4() == v4));
            }
        }
        found
    }

    fn add(&mut self, slice: &Slice, port: &ServicePort, transport: Transport, node: Option<&str>) {
        if slice.fqdn {
            return;
        }
        let protocol = if transport == Transport::Udp { "UDP" } else { "TCP" };
        let numbers = slice.ports.iter().filter(|candidate| {
            candidate.name == port.name && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        for number in numbers.filter_map(|candidate| port_number(candidate.number?)) {
            for endpoint in &slice.endpoints {
                let SliceAddress::Ip(ip) = endpoint.address else { continue };
                let address = SocketAddr::new(ip.to_canonical(), number);
                if node.is_some_and(|node| endpoint.node.as_deref() != Some(node)) {
                    self.elsewhere |= endpoint.ready;
                } else if endpoint.ready {
                    self.ready.insert(address, endpoint.node.clone());
                } else if endpoint.serving && endpoint.terminating {
                    self.draining.insert(address, endpoint.node.clone());
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.draining.is_empty()
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: u8, endpoints: u8) -> (ObjectKey, Known) {
        let name = format!("s{number:02}");
        let vip = Vip { address: [192, 0, 2, number].into(), port: 80, transport: Transport::Tcp };
        let one = L4Service {
            vip,
            service: ObjectKey::new("default", &*name),
            targets: (0..endpoints).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect(),
            draining: Arc::new([]),
            affinity: false,
            quic: false,
            local: false,
            sources: None,
            direct: None,
        };
        (ObjectKey::new("default", &*name), Known { services: vec![one], ..Known::default() })
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out_and_said() {
        // Fifteen large rings fit; a small one does beside them.
        let mut all = L4Services { known: (1..=17).map(|number| service(number, 60)).collect() };
        all.known.extend([service(18, 1)]);
        let mut issues = Vec::new();
        let served: Vec<_> = all.services(&[], None, &mut issues).iter().map(|one| one.vip.address).collect();
        let expect: Vec<IpAddr> = (1..=15).chain([18]).map(|number| [192, 0, 2, number].into()).collect();
        assert_eq!(served, expect);
        let said: Vec<_> = issues.iter().map(|issue| (issue.object.key.to_string(), issue.reason)).collect();
        let no_room = |name: &str| (format!("default/{name}"), IssueReason::NoRoom);
        assert_eq!(said, [no_room("s16"), no_room("s17")]);
        assert!(
            issues[0].message.starts_with("192.0.2.16:80/tcp is not forwarded: "),
            "{}",
            issues[0].message
        );
    }

    #[test]
    fn the_older_service_has_the_address() {
        for (ages, expect) in [([200, 100, 300], "s02"), ([1, 1, 1], "s01"), ([i64::MAX, i64::MAX, 9], "s03")]
        {
            let mut all = L4Services::default();
            for (number, created) in (1..).zip(ages) {
                let (key, mut known) = service(number, 1);
                known.created = created;
                known.services[0].vip.address = [192, 0, 2, 1].into();
                all.known.insert(key, known);
            }
            let mut issues = Vec::new();
            let served = all.services(&[], None, &mut issues);
            assert_eq!(served.iter().map(|one| &*one.service.name).collect::<Vec<_>>(), [expect], "{ages:?}");
            assert!(issues.len() == 2 && issues.iter().all(|issue| issue.reason == IssueReason::Conflict));
        }
    }

    #[test]
    fn addresses_that_are_not_allowed_are_left_out_and_said() {
        let all = L4Services { known: (1..=3).map(|number| service(number, 1)).collect() };
        for (allowed, expect) in [
            (None, &[1, 2, 3][..]),
            (Some(&["192.0.2.0/24"][..]), &[1, 2, 3]),
            (Some(&["192.0.2.2/31", "2001:db8::/32"]), &[2, 3]),
            (Some(&["2001:db8::/32"]), &[]),
            (Some(&[]), &[]),
        ] {
            let network = |text: &&str| text.parse().expect("a network");
            let networks: Option<Vec<IpNet>> = allowed.map(|all| all.iter().map(network).collect());
            let mut issues = Vec::new();
            let served = all.services(&[], networks.as_deref(), &mut issues);
            let served: Vec<_> = served.iter().map(|one| one.vip.address).collect();
            let addresses: Vec<IpAddr> = expect.iter().map(|number| [192, 0, 2, *number].into()).collect();
            assert_eq!(served, addresses, "{allowed:?}");
            assert_eq!(issues.len(), 3 - served.len(), "{allowed:?}: {issues:?}");
            assert!(issues.iter().all(|issue| issue.message.contains("--service-vips")), "{issues:?}");
        }
    }
}
