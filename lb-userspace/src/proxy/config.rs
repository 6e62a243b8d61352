//! What the workers read for each request: made from a snapshot, published whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ahash::AHashMap;

use super::cluster::ClusterSlot;
use super::tls::TlsBuilder;
use crate::model::{Protocol, Snapshot};
use crate::route::RouteTable;

/// A snapshot in the form that requests need. Parts whose source did not change are taken over
/// from the configuration before.
pub(super) struct Config {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) table: Arc<RouteTable>,
    /// By the index that routes hold.
    pub(super) clusters: Arc<[Arc<ClusterSlot>]>,
    pub(super) tls: Arc<rustls::ServerConfig>,
    listeners: Arc<AHashMap<SocketAddr, Protocol>>,
}

impl Config {
    /// Builds the configuration of `snapshot`. Endpoints are published through the slots that
    /// `previous` already has, so they take effect even for requests in flight.
    pub(super) fn build(
        snapshot: Arc<Snapshot>,
        previous: Option<&Config>,
        tls: &TlsBuilder,
        workers: usize,
    ) -> Self {
        let same_routing = previous.filter(|old| Arc::ptr_eq(&old.snapshot.routing, &snapshot.routing));
        let clusters = match same_routing {
            Some(old) => {
                for slot in old.clusters.iter() {
                    publish(slot, &snapshot);
                }
                Arc::clone(&old.clusters)
            }
            None => slots(&snapshot, previous, workers),
        };
        let table = match same_routing {
            Some(old) => Arc::clone(&old.table),
            None => Arc::new(RouteTable::build(&snapshot.routing)),
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
        Self { snapshot, table, clusters, tls, listeners }
    }

    /// What is spoken on the listener that a connection came to; `None` when there is no such
    /// listener any more. Wildcard listeners take what no other does.
    pub(super) fn protocol(&self, local: SocketAddr) -> Option<Protocol> {
        let any = match local.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let exact = SocketAddr::new(local.ip(), local.port());
        self.listeners
            .get(&exact)
            .or_else(|| self.listeners.get(&SocketAddr::new(any, local.port())))
            .copied()
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

fn slots(snapshot: &Snapshot, previous: Option<&Config>, workers: usize) -> Arc<[Arc<ClusterSlot>]> {
    let old: AHashMap<_, _> =
        previous.iter().flat_map(|old| old.clusters.iter()).map(|slot| (&slot.key, slot)).collect();
    snapshot
        .routing
        .clusters
        .iter()
        .map(|key| match (old.get(key), snapshot.clusters.get(key)) {
            (Some(slot), _) => {
                publish(slot, snapshot);
                Arc::clone(slot)
            }
            (None, Some(cluster)) => Arc::new(ClusterSlot::new(Arc::clone(cluster), workers)),
            (None, None) => Arc::new(ClusterSlot::new(ClusterSlot::empty(key.clone()), workers)),
        })
        .collect()
}

fn publish(slot: &ClusterSlot, snapshot: &Snapshot) {
    match snapshot.clusters.get(&slot.key) {
        Some(cluster) => slot.update(cluster),
        // The snapshot promises every key; one that is missing must not keep endpoints that left.
        None => slot.update(&ClusterSlot::empty(slot.key.clone())),
    }
}
