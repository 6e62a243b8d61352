//! The map image: what the kernel's maps shall hold, as plain data.

pub mod forward;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::maps::{MAX_NAMES, MAX_VIPS, NAME_LEN};
use serde::Serialize;

use forward::Forwarding;

use crate::model::{HostPattern, Protocol, Snapshot, SniMode, Vip};

/// What the kernel shall know of one VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct VipEntry {
    /// Whether ClientHellos are parsed and counted.
    pub observe_sni: bool,
}

/// Everything in the kernel's maps that follows from a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MapImage {
    /// VIPs.
    #[serde(serialize_with = "vips")]
    pub vips: BTreeMap<Vip, VipEntry>,
    /// Server names counted as they are.
    pub names: BTreeSet<String>,
    /// Suffixes of wildcards, without `*.`.
    pub wildcards: BTreeSet<String>,
    /// VIPs in forward mode.
    pub forward: Forwarding,
}

impl MapImage {
    /// The image of a snapshot. What doesn't fit the maps (see [`MapImage::left_out`]) is served
    /// by the proxy all the same; the kernel just doesn't count it by name.
    ///
    /// Listeners on an unspecified address are no VIPs: XDP can't tell their packets apart.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let vips: BTreeMap<_, _> = snapshot
            .listeners
            .iter()
            .filter(|listener| !listener.vip.address.is_unspecified())
            .map(|listener| {
                let observe_sni = listener.protocol == Protocol::Https && listener.sni == SniMode::Observe;
                (listener.vip, VipEntry { observe_sni })
            })
            .take(MAX_VIPS as usize)
            .collect();
        let forward = Forwarding::from_snapshot(snapshot, &vips);
        let mut image = Self { vips, forward, ..Self::default() };
        if image.vips.values().any(|vip| vip.observe_sni) {
            for host in hosts(snapshot) {
                image.add_name(host);
            }
        }
        image
    }

    /// How many VIPs and server names of a snapshot the kernel's maps have no room for: names
    /// longer than [`NAME_LEN`] bytes and those beyond [`MAX_NAMES`], VIPs beyond [`MAX_VIPS`].
    pub fn left_out(&self, snapshot: &Snapshot) -> usize {
        let wanted_vips: BTreeSet<_> =
            snapshot.listeners.iter().map(|l| l.vip).filter(|vip| !vip.address.is_unspecified()).collect();
        let wanted: BTreeSet<_> = hosts(snapshot).filter(|host| **host != HostPattern::Any).collect();
        let names = if self.vips.values().any(|vip| vip.observe_sni) { wanted.len() } else { 0 };
        (wanted_vips.len() - self.vips.len()) + names.saturating_sub(self.names.len() + self.wildcards.len())
    }

    fn add_name(&mut self, host: &HostPattern) {
        let (set, name) = match host {
            HostPattern::Exact(name) => (&mut self.names, name),
            HostPattern::Wildcard(suffix) => (&mut self.wildcards, suffix),
            HostPattern::Any => return,
        };
        if name.len() <= NAME_LEN && set.len() < MAX_NAMES as usize {
            set.insert(name.to_string());
        }
    }
}

fn hosts(snapshot: &Snapshot) -> impl Iterator<Item = &HostPattern> {
    let routed = snapshot.routing.hosts.iter().map(|host| &host.host);
    snapshot.tls.by_host.iter().map(|(host, _)| host).chain(routed)
}

fn vips<S: serde::Serializer>(vips: &BTreeMap<Vip, VipEntry>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(vips.iter().map(|(vip, entry)| (vip.to_string(), entry)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Listener, Routing, TlsConfig, Transport, VirtualHost};

    fn snapshot(listeners: &[(&str, Protocol)], hosts: &[&str], certificates: &[&str]) -> Snapshot {
        let pattern = |host: &&str| HostPattern::parse(host).expect("test host");
        let host = |host: &&str| VirtualHost {
            host: pattern(host),
            routes: Vec::new(),
            fallback: None,
            shadowed: Vec::new(),
        };
        let listener = |(address, protocol): &(&str, Protocol)| {
            let socket: std::net::SocketAddr = address.parse().expect("test address");
            Listener {
                vip: Vip { address: socket.ip(), port: socket.port(), transport: Transport::Tcp },
                protocol: *protocol,
                sni: SniMode::Observe,
            }
        };
        Snapshot {
            listeners: listeners.iter().map(listener).collect(),
            routing: Arc::new(Routing { hosts: hosts.iter().map(host).map(Arc::new).collect() }),
            tls: Arc::new(TlsConfig {
                by_host: certificates.iter().map(|host| (pattern(host), Vec::new())).collect(),
                ..TlsConfig::default()
            }),
            ..Snapshot::empty()
        }
    }

    #[test]
    fn images() {
        let https = [("192.0.2.1:443", Protocol::Https)];
        let http = [("192.0.2.1:80", Protocol::Http)];
        let long = format!("{}.{}.example.com", "a".repeat(63), "b".repeat(63));
        for (what, snapshot, names, wildcards, left_out) in [
            (
                "names of routes and certificates",
                snapshot(&https, &["a.com"], &["b.com", "*.c.com"]),
                2,
                1,
                0,
            ),
            ("one name from both", snapshot(&https, &["a.com"], &["A.com"]), 1, 0, 0),
            ("no TLS listener", snapshot(&http, &["a.com"], &["b.com"]), 0, 0, 0),
            ("any host has no name", snapshot(&https, &[""], &[]), 0, 0, 0),
            ("too long for the maps", snapshot(&https, &[&long], &[]), 0, 0, 1),
        ] {
            let image = MapImage::from_snapshot(&snapshot);
            assert_eq!((image.names.len(), image.wildcards.len()), (names, wildcards), "{what}");
            assert_eq!(image.left_out(&snapshot), left_out, "{what}");
            assert_eq!(image.vips.len(), 1, "{what}");
        }
        let wildcard_listener =
            snapshot(&[("0.0.0.0:80", Protocol::Http), ("[::]:443", Protocol::Https)], &[], &[]);
        assert_eq!(MapImage::from_snapshot(&wildcard_listener), MapImage::default());
    }
}
