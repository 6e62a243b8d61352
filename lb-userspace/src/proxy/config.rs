//! What the workers read for each request: made from a snapshot, published whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;

use super::balance::CanarySlot;
use super::cluster::ClusterSlot;
use super::direct;
use super::measures::{Measures, Place};
use super::policy::{Policies, Policy};
use super::settings::Settings;
use super::tls::{ByName, Termination, TlsBuilder, canonical};
use crate::model::{Backend, ClusterKey, Protocol, ProxyProtocol, Snapshot};
use crate::route::RouteTable;

/// A snapshot in the form that requests need. Parts whose source did not change are taken over
/// from the configuration before.
pub(super) struct Config {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) table: Arc<RouteTable<Served>>,
    pub(super) clusters: Slots,
    policies: Arc<Policies>,
    pub(super) tls: Arc<Termination>,
    listeners: Arc<AHashMap<SocketAddr, Protocol>>,
    /// The names that are served, where a listener refuses others.
    served_names: Option<Arc<ByName<()>>>,
}

/// Every cluster of the snapshot.
pub(super) type Slots = OrdMap<Arc<ClusterKey>, Arc<ClusterSlot>>;

/// What serving a route takes.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) policy: Arc<Policy>,
    /// `None` where the route's backend is no cluster.
    pub(super) cluster: Option<Arc<ClusterSlot>>,
    /// In a box: few routes have one.
    pub(super) canary: Option<Box<CanarySlot>>,
    /// Requests may take the short way ([`direct`]).
    pub(super) is_plain: bool,
    /// Where its requests are counted, and those that its canary takes.
    pub(super) place: Place,
    pub(super) canary_place: Option<Place>,
    /// That of the backend that gives answers in the place of failures.
    pub(super) pages: Option<Arc<ClusterSlot>>,
}

impl Config {
    /// Builds the configuration of `snapshot`. Endpoints are published through the slots that
    /// `previous` already has, so they take effect even for requests in flight.
    pub(super) fn build(
        snapshot: Arc<Snapshot>,
        previous: Option<&Config>,
        tls: &TlsBuilder,
        measures: &Arc<Measures>,
        workers: usize,
    ) -> Self {
        let clusters = slots(&snapshot, previous, workers);
        let same_routing = previous.filter(|old| Arc::ptr_eq(&old.snapshot.routing, &snapshot.routing));
        let (table, policies) = match same_routing {
            Some(old) => (Arc::clone(&old.table), Arc::clone(&old.policies)),
            None => {
                let mut policies = Policies::after(previous.map(|old| &*old.policies));
                let old = previous.map(|old| &*old.table);
                let table = RouteTable::build_with(&snapshot.routing, old, |route| Served {
                    policy: policies.get(&route.policy, previous.map(|old| &*old.policies)),
                    is_plain: route.canary.is_none() && direct::is_plain(&route.policy),
                    cluster: slot_of(&clusters, &route.backend),
                    canary: route.canary.as_ref().and_then(|canary| {
                        Some(Box::new(CanarySlot::new(canary, slot_of(&clusters, &canary.backend)?)))
                    }),
                    place: measures.place(route, &route.backend),
                    canary_place: route.canary.as_ref().map(|canary| measures.place(route, &canary.backend)),
                    pages: route
                        .policy
                        .error_pages
                        .as_ref()
                        .and_then(|pages| slot_of(&clusters, &pages.backend)),
                });
                // Hosts that were taken over keep their policies for the configurations to come. Most
                // routes share a few, which are told by their pointers.
                let mut seen = AHashSet::new();
                let hosts = snapshot.routing.hosts.iter();
                for route in hosts.flat_map(|host| host.all_routes()) {
                    if seen.insert(Arc::as_ptr(&route.policy)) {
                        policies.get(&route.policy, previous.map(|old| &*old.policies));
                    }
                }
                (Arc::new(table), Arc::new(policies))
            }
        };
        let tls = match previous.filter(|old| Arc::ptr_eq(&old.snapshot.tls, &snapshot.tls)) {
            Some(old) => Arc::clone(&old.tls),
            None => tls.build(&snapshot.tls),
        };
        let listeners = match previous.filter(|old| Arc::ptr_eq(&old.snapshot.listeners, &snapshot.listeners))
        {
            Some(old) => Arc::clone(&old.listeners),
            None => Arc::new(snapshot.listeners.iter().map(|one| (one.vip.socket(), one.protocol)).collect()),
        };
        let served_names = served_names(&snapshot, previous);
        Self { snapshot, table, clusters, policies, tls, listeners, served_names }
    }

    /// Whether connections to `local` are refused when they ask for names that nobody serves.
    pub(super) fn refuses_names(&self, local: SocketAddr) -> bool {
        let listener = || self.snapshot.listeners.iter().find(|one| one.vip.socket() == self.listener(local));
        self.served_names.is_some() && listener().is_some_and(|one| one.sni.refuses())
    }

    /// Whether anybody serves this name.
    pub(super) fn serves_name(&self, name: &str) -> bool {
        self.served_names.as_ref().is_none_or(|names| names.find(Some(&canonical(name))).is_some())
    }

    /// Peers whose word on the client counts.
    pub(super) fn trusted_proxies<'a>(&'a self, settings: &'a Settings) -> &'a [IpNet] {
        self.snapshot.trusted_proxies.as_deref().unwrap_or(&settings.trusted_proxies)
    }

    /// Whose connections begin with a PROXY header.
    pub(super) fn proxy_protocol<'a>(&'a self, settings: &'a Settings) -> &'a ProxyProtocol {
        self.snapshot.proxy_protocol.as_deref().unwrap_or(&settings.proxy_protocol)
    }

    /// What is spoken on the listener that a connection came to; `None` when there is no such
    /// listener any more. Wildcard listeners take what no other does.
    pub(super) fn protocol(&self, local: SocketAddr) -> Option<Protocol> {
        self.listeners.get(&self.listener(local)).copied()
    }

    /// The address of the listener that takes connections to `local`.
    fn listener(&self, local: SocketAddr) -> SocketAddr {
        let any = match local.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let exact = SocketAddr::new(local.ip(), local.port());
        if self.listeners.contains_key(&exact) { exact } else { SocketAddr::new(any, local.port()) }
    }

    /// The port that clients of `local`'s address reach https on: 443 if there is a choice.
    pub(super) fn https_port(&self, local: SocketAddr) -> u16 {
        let mut best = None;
        for listener in self.snapshot.listeners.iter() {
            let vip = listener.vip;
            let here = vip.address == local.ip()
                || (vip.address.is_unspecified() && vip.address.is_ipv4() == local.is_ipv4());
            if listener.protocol == Protocol::Https && here && (best.is_none() || vip.port == 443) {
                best = Some(vip.port);
            }
        }
        best.unwrap_or(443)
    }
}

/// The names that are served, if a listener asks for them.
fn served_names(snapshot: &Snapshot, previous: Option<&Config>) -> Option<Arc<ByName<()>>> {
    if !snapshot.listeners.iter().any(|listener| listener.sni.refuses()) {
        return None;
    }
    let same = |old: &&Config| {
        Arc::ptr_eq(&old.snapshot.tls, &snapshot.tls) && Arc::ptr_eq(&old.snapshot.routing, &snapshot.routing)
    };
    let known = previous.filter(same).and_then(|old| old.served_names.clone());
    known.or_else(|| Some(Arc::new(snapshot.named_hosts().map(|host| (host.clone(), ())).collect())))
}

/// A slot for each cluster, those of `previous` with their new endpoints. Costs as much as there are
/// clusters that differ.
fn slots(snapshot: &Snapshot, previous: Option<&Config>, workers: usize) -> Slots {
    let (mut slots, before) = match previous {
        Some(old) => (old.clusters.clone(), old.snapshot.clusters.clone()),
        None => Default::default(),
    };
    for difference in before.diff(&snapshot.clusters) {
        match difference {
            DiffItem::Add(key, cluster) => {
                slots.insert(key.clone(), Arc::new(ClusterSlot::new(Arc::clone(cluster), workers)));
            }
            DiffItem::Update { new: (key, cluster), .. } => {
                if let Some(slot) = slots.get(key) {
                    slot.update(cluster);
                }
            }
            DiffItem::Remove(key, _) => {
                if let Some(slot) = slots.remove(key) {
                    slot.retire();
                }
            }
        }
    }
    slots
}

fn slot_of(clusters: &Slots, backend: &Backend) -> Option<Arc<ClusterSlot>> {
    match backend {
        Backend::Cluster(key) => clusters.get(&**key).cloned(),
        Backend::Unavailable(_) | Backend::Answered => None,
    }
}
