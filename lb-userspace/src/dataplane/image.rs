//! The map image: what the kernel's maps shall hold, as plain data.

pub mod forward;
pub mod ring;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::maps::{
    CLASS_PASSTHROUGH, CLASS_POOLS, CLASS_TERMINATE, MAX_CLASSES, MAX_NAMES, MAX_VIPS, NAME_LEN,
};
use serde::Serialize;

use forward::Forwarding;

use crate::model::{HostPattern, Protocol, Snapshot, SniMode, Vip, WorkerPool};

/// What the kernel shall know of one VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct VipEntry {
    /// Whether ClientHellos are parsed and counted.
    pub observe_sni: bool,
    /// Whether those with a name that is none of the image's are refused. Only with `observe_sni`.
    pub filter_sni: bool,
    /// Whether XDP does the handshake and the ClientHello's name chooses the listener.
    pub steer_sni: bool,
}

/// The class of a name's connections, by number: [`CLASS_TERMINATE`], [`CLASS_PASSTHROUGH`], or from
/// [`CLASS_POOLS`] on the node's pools of workers.
pub type Class = u8;

/// Everything in the kernel's maps that follows from a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MapImage {
    /// VIPs.
    #[serde(serialize_with = "vips")]
    pub vips: BTreeMap<Vip, VipEntry>,
    /// Server names counted as they are, and their classes.
    pub names: BTreeMap<String, Class>,
    /// The same for suffixes of wildcards, without `*.`.
    pub wildcards: BTreeMap<String, Class>,
    /// VIPs in forward mode.
    pub forward: Forwarding,
}

impl MapImage {
    /// The image of a snapshot. What doesn't fit the maps (see [`MapImage::left_out`]) is served
    /// by the proxy all the same; the kernel just doesn't count it by name.
    ///
    /// Listeners on an unspecified address are no VIPs: XDP can't tell their packets apart.
    ///
    /// `pools` are the node's pools of workers, in their order.
    pub fn from_snapshot(snapshot: &Snapshot, pools: &[WorkerPool]) -> Self {
        let vips: BTreeMap<_, _> = snapshot
            .listeners
            .iter()
            .filter(|listener| !listener.vip.address.is_unspecified())
            .map(|listener| {
                let tls = listener.protocol == Protocol::Https;
                let observe_sni = tls && listener.sni != SniMode::Off;
                let entry = VipEntry {
                    observe_sni,
                    filter_sni: tls && listener.sni.refuses(),
                    steer_sni: tls && listener.sni.steers(),
                };
                (listener.vip, entry)
            })
            .take(MAX_VIPS as usize)
            .collect();
        let forward = Forwarding::from_snapshot(snapshot, &vips);
        let mut image = Self { vips, forward, ..Self::default() };
        if image.vips.values().any(|vip| vip.observe_sni) {
            let mut complete = true;
            for host in snapshot.named_hosts() {
                complete &= image.add_name(host, class(snapshot, host, pools));
            }
            // A name that has no room must not be refused, nor any where a route takes them all. The
            // proxy knows all names and refuses what is left.
            if !complete {
                image.vips.values_mut().for_each(|vip| vip.filter_sni = false);
            }
        }
        image
    }

    /// How many VIPs and server names of a snapshot the kernel's maps have no room for: names
    /// longer than [`NAME_LEN`] bytes and those beyond [`MAX_NAMES`], VIPs beyond [`MAX_VIPS`].
    pub fn left_out(&self, snapshot: &Snapshot) -> usize {
        let wanted_vips: BTreeSet<_> =
            snapshot.listeners.iter().map(|l| l.vip).filter(|vip| !vip.address.is_unspecified()).collect();
        let wanted: BTreeSet<_> = snapshot.named_hosts().filter(|host| **host != HostPattern::Any).collect();
        let names = if self.vips.values().any(|vip| vip.observe_sni) { wanted.len() } else { 0 };
        (wanted_vips.len() - self.vips.len()) + names.saturating_sub(self.names.len() + self.wildcards.len())
    }

    /// False: the programs will not know a name of this host. Those that are longer than they look at
    /// are passed on as too long.
    fn add_name(&mut self, host: &HostPattern, class: Class) -> bool {
        let (set, name) = match host {
            HostPattern::Exact(name) => (&mut self.names, name),
            HostPattern::Wildcard(suffix) => (&mut self.wildcards, suffix),
            HostPattern::Any => return false,
        };
        if name.len() > NAME_LEN || set.contains_key(&**name) {
            return true;
        }
        let room = set.len() < MAX_NAMES as usize;
        if room {
            set.insert(name.to_string(), class);
        }
        room
    }
}

/// The class of a host's connections. A pool goes before everything else.
fn class(snapshot: &Snapshot, host: &HostPattern, pools: &[WorkerPool]) -> Class {
    match snapshot.tls.pool(host).and_then(|name| class_of(name, pools)) {
        Some(class) => class,
        None if snapshot.tls.passes(host) => CLASS_PASSTHROUGH as Class,
        None => CLASS_TERMINATE as Class,
    }
}

/// The class of a pool's connections; `None`: the node has no such pool.
pub fn class_of(name: &str, pools: &[WorkerPool]) -> Option<Class> {
    if !pools.iter().any(|pool| *pool.name == *name) {
        return None;
    }
    if name == WorkerPool::PASSTHROUGH {
        return Some(CLASS_PASSTHROUGH as Class);
    }
    let mut named = pools.iter().filter(|pool| *pool.name != *WorkerPool::PASSTHROUGH);
    let class = named.position(|pool| *pool.name == *name)? + CLASS_POOLS as usize;
    (class < MAX_CLASSES as usize).then_some(class as Class)
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
            let image = MapImage::from_snapshot(&snapshot, &[]);
            assert_eq!((image.names.len(), image.wildcards.len()), (names, wildcards), "{what}");
            assert_eq!(image.left_out(&snapshot), left_out, "{what}");
            assert_eq!(image.vips.len(), 1, "{what}");
        }
        let many: Vec<_> = (0..=MAX_NAMES).map(|number| format!("h{number}.example.com")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (what, hosts, filtered) in [
            ("names", &["a.com", "*.b.com"][..], true),
            ("a name that is passed on as too long", &[&long], true),
            ("a route for any host", &["a.com", ""], false),
            ("as many as there is room for", &many[1..], true),
            ("one more", &many[..], false),
        ] {
            let mut snapshot = snapshot(&https, hosts, &[]);
            let listener = Listener { sni: SniMode::Filter, ..snapshot.listeners[0] };
            snapshot.listeners = [listener].into();
            let entry = MapImage::from_snapshot(&snapshot, &[]).vips[&listener.vip];
            assert_eq!(
                entry,
                VipEntry { observe_sni: true, filter_sni: filtered, steer_sni: false },
                "{what}"
            );
        }
        let wildcard_listener =
            snapshot(&[("0.0.0.0:80", Protocol::Http), ("[::]:443", Protocol::Https)], &[], &[]);
        assert_eq!(MapImage::from_snapshot(&wildcard_listener, &[]), MapImage::default());
    }
}
