//! The forwarder's part of the map image: rings, and the endpoints in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use lb_common::maglev::{self, Member};
use lb_common::quic;
use lb_common::verdict::words;
use serde::Serialize;

use super::VipEntry;
use crate::model::{L4Room, L4Service, Snapshot, Transport, Vip, ring_chunks};

/// An endpoint of VIPs in forward mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// The protocol.
    pub transport: Transport,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, transport } = self;
        Vip { address: address.ip(), port: address.port(), transport: *transport }.fmt(f)
    }
}

impl Serialize for Backend {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What the kernel shall know of a VIP in forward mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Endpoints in its ring.
    pub targets: BTreeSet<SocketAddr>,
    /// Whether a client's connections all go to one of them.
    pub affinity: bool,
    /// The networks of clients that are let in; `None`: everybody is.
    pub sources: Option<BTreeSet<IpNet>>,
    /// Endpoints that QUIC packets may name, each by a server id of its own (see [`lb_common::quic`]).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub named: BTreeSet<SocketAddr>,
}

impl Service {
    /// The ring: each entry is an index into [`Self::targets`] as they are sorted. Empty without
    /// targets. It depends on nothing but the targets, so every node has the same.
    pub fn ring(&self) -> Vec<u32> {
        if self.targets.is_empty() {
            return Vec::new();
        }
        let targets = self.targets.iter().zip(0..);
        let members: Vec<_> =
            targets.map(|(target, value)| Member { identity: identity(target), weight: 1, value }).collect();
        let mut ring = vec![0; maglev::size(members.len() as u32) as usize];
        maglev::fill(&mut ring, &members, &mut vec![0; members.len()]);
        ring
    }

    /// How many chunks the ring takes.
    pub fn chunks(&self) -> usize {
        ring_chunks(self.targets.len())
    }
}

/// The endpoints of a Service that a server id names and no other one with it.
fn told_apart(one: &L4Service) -> BTreeSet<SocketAddr> {
    let mut owners: BTreeMap<u64, Option<SocketAddr>> = BTreeMap::new();
    for endpoint in one.targets.iter().chain(one.draining.iter()) {
        let known = owners.entry(server_id(endpoint.ip())).or_insert(Some(*endpoint));
        *known = known.filter(|known| known == endpoint);
    }
    owners.into_values().flatten().collect()
}

/// What names an endpoint with this address in QUIC's connection ids.
pub fn server_id(address: IpAddr) -> u64 {
    let address = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    quic::server_id(&words(address.octets()))
}

/// Names a target to Maglev.
fn identity(target: &SocketAddr) -> u64 {
    let address = match target.ip() {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let upper = maglev::mix((address >> 64) as u64 ^ u64::from(target.port()));
    maglev::mix(upper ^ address as u64)
}

/// Everything in the forwarder's maps that follows from a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forwarding {
    /// Endpoints, and whether they take new connections.
    #[serde(serialize_with = "backends")]
    pub backends: BTreeMap<Backend, bool>,
    /// VIPs.
    #[serde(serialize_with = "services")]
    pub services: BTreeMap<Vip, Service>,
}

impl Forwarding {
    /// Of a snapshot, besides VIPs in proxy mode. What doesn't fit the maps is left out whole: a
    /// VIP is forwarded to all of its endpoints or not at all.
    pub fn from_snapshot(snapshot: &Snapshot, proxied: &BTreeMap<Vip, VipEntry>) -> Self {
        let mut forwarding = Self::default();
        let mut room = L4Room::besides(proxied.len());
        for one in snapshot.services.iter().filter(|one| !proxied.contains_key(&one.vip)) {
            // Translation leaves out what doesn't fit, and says so; here it is for certain.
            if room.take(one).is_err() {
                continue;
            }
            let service = Service {
                targets: one.targets.iter().copied().collect(),
                affinity: one.affinity,
                sources: one.sources.as_deref().map(|all| all.iter().copied().collect()),
                named: if one.quic { told_apart(one) } else { BTreeSet::new() },
            };
            forwarding.add(one, service);
        }
        forwarding
    }

    fn add(&mut self, one: &L4Service, service: Service) {
        let backend = |address: &SocketAddr| Backend { address: *address, transport: one.vip.transport };
        for address in one.draining.iter() {
            self.backends.entry(backend(address)).or_insert(false);
        }
        for address in &service.targets {
            self.backends.insert(backend(address), true);
        }
        self.services.insert(one.vip, service);
    }
}

fn backends<S: serde::Serializer>(backends: &BTreeMap<Backend, bool>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(backends.iter().map(|(backend, takes)| (backend.to_string(), takes)))
}

fn services<S: serde::Serializer>(services: &BTreeMap<Vip, Service>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(services.iter().map(|(vip, service)| (vip.to_string(), service)))
}

#[cfg(test)]
mod tests {
    use lb_common::maps::MAX_RING_CHUNKS;

    use super::*;
    use crate::model::ObjectKey;

    fn service(vip: &str, targets: &[&str], draining: &[&str]) -> L4Service {
        let parse = |all: &[&str]| all.iter().map(|one| one.parse().expect("an address")).collect();
        let vip: SocketAddr = vip.parse().expect("an address");
        L4Service {
            vip: Vip { address: vip.ip(), port: vip.port(), transport: Transport::Tcp },
            service: ObjectKey::new("default", "web"),
            targets: parse(targets),
            draining: parse(draining),
            affinity: false,
            quic: false,
            local: false,
            sources: None,
        }
    }

    #[test]
    fn images() {
        let services = [
            service("192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80"], &["10.0.0.3:80"]),
            service("192.0.2.2:80", &["10.0.0.3:80"], &["10.0.0.1:80"]),
            service("192.0.2.3:80", &[], &[]),
        ];
        let snapshot = Snapshot { services: services.into(), ..Snapshot::empty() };
        let forwarding = Forwarding::from_snapshot(&snapshot, &BTreeMap::new());
        let shown: Vec<_> = forwarding.backends.iter().map(|(b, takes)| format!("{b} {takes}")).collect();
        // What drains in one Service may take connections of another.
        assert_eq!(shown, ["10.0.0.1:80/tcp true", "10.0.0.2:80/tcp true", "10.0.0.3:80/tcp true"]);
        let sizes: Vec<_> = forwarding.services.values().map(|s| (s.ring().len(), s.chunks())).collect();
        assert_eq!(sizes, [(509, 4), (509, 4), (0, 0)]);

        let proxied = BTreeMap::from([(snapshot.services[0].vip, VipEntry::default())]);
        let without = Forwarding::from_snapshot(&snapshot, &proxied);
        assert_eq!(without.services.len(), 2, "a listener has the VIP");
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let targets: Vec<_> = (0..60u8).map(|n| format!("10.0.0.{n}:80")).collect();
        let targets: Vec<_> = targets.iter().map(String::as_str).collect();
        let services: Vec<_> = (1..40).map(|n| service(&format!("192.0.2.{n}:80"), &targets, &[])).collect();
        let snapshot = Snapshot { services: services.into(), ..Snapshot::empty() };
        let forwarding = Forwarding::from_snapshot(&snapshot, &BTreeMap::new());
        let chunks: usize = forwarding.services.values().map(Service::chunks).sum();
        assert_eq!(forwarding.services.len(), 15);
        assert!(chunks <= MAX_RING_CHUNKS as usize / 2, "{chunks}");
    }

    #[test]
    fn quic_packets_name_endpoints_that_can_be_told_apart() {
        let rows: [(&[&str], &[&str], &[&str]); 5] = [
            (&["10.0.0.1:443", "10.0.0.2:443"], &[], &["10.0.0.1:443", "10.0.0.2:443"]),
            (&["10.0.0.1:443"], &["10.0.0.2:443"], &["10.0.0.1:443", "10.0.0.2:443"]),
            // Two ports of one address, and what else has the same last half.
            (&["10.0.0.1:443", "10.0.0.1:444", "10.0.0.2:443"], &[], &["10.0.0.2:443"]),
            (&["10.0.0.1:443"], &["10.0.0.1:444", "10.0.0.1:445"], &[]),
            (&["[fd00:1::7]:443", "[fd00:2::8]:443"], &["[fd00:2::7]:443"], &["[fd00:2::8]:443"]),
        ];
        for (targets, draining, named) in rows {
            let vip = if targets[0].starts_with('[') { "[2001:db8::1]:443" } else { "192.0.2.1:443" };
            let one = L4Service { quic: true, ..service(vip, targets, draining) };
            let snapshot = Snapshot { services: [one.clone()].into(), ..Snapshot::empty() };
            let image = Forwarding::from_snapshot(&snapshot, &BTreeMap::new());
            let shown: Vec<_> = image.services[&one.vip].named.iter().map(ToString::to_string).collect();
            assert_eq!(shown, named, "{targets:?} {draining:?}");
            assert!(
                image.services[&one.vip]
                    .named
                    .iter()
                    .all(|address| { image.backends.keys().any(|backend| backend.address == *address) })
            );
        }
    }

    #[test]
    fn a_ring_depends_on_its_targets_alone() {
        let one = Service {
            targets: (1..4u8).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect(),
            ..Service::default()
        };
        let ring = one.ring();
        assert_eq!(ring, Service { affinity: true, ..one.clone() }.ring());
        for value in 0..3 {
            let share = ring.iter().filter(|at| **at == value).count();
            assert!((160..180).contains(&share), "{share} of 509");
        }
    }
}
