//! A cluster as the workers see it: its endpoints can be swapped while routes keep pointing to it.

use std::sync::{Arc, OnceLock};

use ahash::AHashMap;
use arc_swap::{ArcSwap, Guard};

use super::balance::{Seed, Token, backend_token, seed, token};
use super::stats::Counter;
use crate::model::{Cluster, ClusterKey, UpstreamProtocol};

/// One cluster. Lives as long as any configuration names it; requests of older configurations
/// see new endpoints at once.
#[derive(Debug)]
pub(super) struct ClusterSlot {
    pub(super) key: ClusterKey,
    endpoints: ArcSwap<Endpoints>,
    token: OnceLock<Token>,
    workers: Box<[PerWorker]>,
}

/// A cluster's endpoints at one moment, and what is computed for all of them once some request
/// needs it.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) cluster: Arc<Cluster>,
    seeds: OnceLock<Box<[Seed]>>,
    by_token: OnceLock<AHashMap<Token, usize>>,
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
            endpoints: ArcSwap::from_pointee(Endpoints::new(cluster)),
            token: OnceLock::new(),
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
        if !Arc::ptr_eq(&self.endpoints.load().cluster, cluster) {
            self.endpoints.store(Arc::new(Endpoints::new(Arc::clone(cluster))));
        }
    }

    /// The endpoints as they are now. For one decision, not to be kept.
    pub(super) fn endpoints(&self) -> Guard<Arc<Endpoints>> {
        self.endpoints.load()
    }

    /// Whether there is nobody to send a request to.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.load().cluster.endpoints.is_empty()
    }

    /// What stands for the cluster in cookies.
    pub(super) fn token(&self) -> Token {
        *self.token.get_or_init(|| backend_token(&self.key))
    }

    /// Begins a request: its place in the worker's round robin.
    pub(super) fn begin(&self, worker: usize) -> u64 {
        let mine = &self.workers[worker];
        mine.requests.add(1);
        let place = mine.cursor.get();
        mine.cursor.add(1);
        place
    }

    /// Requests sent to the cluster since it was first named.
    pub(super) fn requests(&self) -> u64 {
        self.workers.iter().map(|worker| worker.requests.get()).sum()
    }
}

impl Endpoints {
    fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, seeds: OnceLock::new(), by_token: OnceLock::new() }
    }

    /// What stands for each endpoint in consistent hashes.
    pub(super) fn seeds(&self) -> &[Seed] {
        self.seeds.get_or_init(|| self.cluster.endpoints.iter().map(|one| seed(one.address)).collect())
    }

    /// The endpoint that a client's cookie names.
    pub(super) fn by_token(&self, wanted: Token) -> Option<usize> {
        let tokens = self.by_token.get_or_init(|| {
            let endpoints = self.cluster.endpoints.iter().enumerate();
            endpoints.map(|(index, one)| (token(&self.cluster.key, one.address), index)).collect()
        });
        tokens.get(&wanted).copied()
    }
}
