//! A cluster as the workers see it: its endpoints can be swapped while routes keep pointing to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::stats::Counter;
use super::upstream::Failing;
use crate::model::{Cluster, ClusterKey, UpstreamProtocol};

/// One cluster. Lives as long as any configuration names it; requests of older configurations
/// see new endpoints at once.
#[derive(Debug)]
pub(super) struct ClusterSlot {
    pub(super) key: ClusterKey,
    cluster: ArcSwap<Cluster>,
    workers: Box<[PerWorker]>,
}

/// What one worker writes, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct PerWorker {
    cursor: Counter,
    requests: Counter,
}

impl ClusterSlot {
    pub(super) fn new(cluster: Arc<Cluster>, workers: usize) -> Self {
        Self {
            key: cluster.key.clone(),
            cluster: ArcSwap::new(cluster),
            workers: (0..workers)
                // Workers start apart, or few requests over many workers would all meet the first endpoint.
                .map(|worker| {
                    let slot = PerWorker::default();
                    slot.cursor.add(worker as u64);
                    slot
                })
                .collect(),
        }
    }

    /// A cluster without endpoints.
    pub(super) fn empty(key: ClusterKey) -> Arc<Cluster> {
        Arc::new(Cluster { key, protocol: UpstreamProtocol::default(), endpoints: Arc::new([]) })
    }

    /// Publishes new endpoints unless they are the very same.
    pub(super) fn update(&self, cluster: &Arc<Cluster>) {
        if !Arc::ptr_eq(&self.cluster.load(), cluster) {
            self.cluster.store(Arc::clone(cluster));
        }
    }

    /// Whether there is nobody to send a request to.
    pub(super) fn is_empty(&self) -> bool {
        self.cluster.load().endpoints.is_empty()
    }

    /// Begins a request: its place in the worker's round robin.
    pub(super) fn begin(&self, worker: usize) -> u64 {
        let mine = &self.workers[worker];
        mine.requests.add(1);
        let place = mine.cursor.get();
        mine.cursor.add(1);
        place
    }

    /// The endpoint for a request's next try: the first from its place on that was not tried and
    /// did not fail lately, else the first that was not tried. `None` when there is none left.
    pub(super) fn endpoint(&self, place: u64, tried: &[SocketAddr], failing: &Failing) -> Option<SocketAddr> {
        let cluster = self.cluster.load();
        let count = cluster.endpoints.len();
        let start = place.checked_rem(count as u64)? as usize;
        let mut untried = (start..start + count)
            .map(|index| cluster.endpoints[index % count].address)
            .filter(|address| !tried.contains(address));
        let first = untried.next()?;
        if failing.is_empty() {
            return Some(first);
        }
        let now = Instant::now();
        std::iter::once(first).chain(untried).find(|address| !failing.rests(*address, now)).or(Some(first))
    }

    /// Requests sent to the cluster since it was first named.
    pub(super) fn requests(&self) -> u64 {
        self.workers.iter().map(|worker| worker.requests.get()).sum()
    }
}
