//! A cluster as the workers see it: its endpoints can be swapped while routes keep pointing to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use ahash::AHashMap;
use arc_swap::{ArcSwap, Guard};

use super::balance::{Hashed, Token, backend_token, seed, token};
use super::health::{Circuit, Milliseconds, Vitals, now};
use super::stats::Counter;
use crate::model::{Cluster, ClusterKey};

/// One cluster. Lives as long as any configuration names it; requests of older configurations
/// see new endpoints at once.
#[derive(Debug)]
pub(super) struct ClusterSlot {
    pub(super) key: Arc<ClusterKey>,
    endpoints: ArcSwap<Endpoints>,
    /// Something is known against an endpoint. Read with each request, written when that changes.
    troubled: AtomicBool,
    ejections: AtomicU64,
    circuit: OnceLock<Arc<Circuit>>,
    token: OnceLock<Token>,
    workers: Box<[PerWorker]>,
}

/// A cluster's endpoints at one moment, and what is computed for all of them once some request
/// needs it.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) cluster: Arc<Cluster>,
    pub(super) all: Group,
    /// Those for the node's zone, where that is not all.
    near: Option<Box<Group>>,
    vitals: OnceLock<Box<[Arc<Vitals>]>>,
    /// Until then somebody gets less than the others.
    warms_until: Milliseconds,
    /// One of them is the node itself.
    come_back: bool,
    /// From then on they count for nobody; 0: never.
    ends: Milliseconds,
    by_token: OnceLock<Box<AHashMap<Token, usize>>>,
}

/// Endpoints to choose from.
#[derive(Debug)]
pub(super) struct Group {
    /// Which of the cluster's; `None`: all.
    members: Option<Box<[usize]>>,
    count: usize,
    hashed: OnceLock<Box<Hashed>>,
}

/// What one worker writes, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct PerWorker {
    cursor: Counter,
    requests: Counter,
}

/// How long requests that took their route before an edit have the endpoints of a cluster that nobody names
/// any more: longer than a worker waits for its CPU or a request for its body's last packet, and shorter
/// than addresses of pods take to be given to somebody else.
const RETIRING: Milliseconds = 5_000;

/// A new endpoint's share at the begin of its slow start, of what the others have.
const LEAST_SHARE: f64 = 0.1;

impl ClusterSlot {
    pub(super) fn new(cluster: Arc<Cluster>, workers: usize) -> Self {
        Self {
            key: Arc::clone(&cluster.key),
            endpoints: ArcSwap::from_pointee(Endpoints::after(None, cluster)),
            troubled: AtomicBool::new(false),
            ejections: AtomicU64::new(0),
            circuit: OnceLock::new(),
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

    /// Publishes new endpoints unless they are the very same. What is known of those that stay is
    /// kept.
    pub(super) fn update(&self, cluster: &Arc<Cluster>) {
        let before = self.endpoints.load_full();
        if !Arc::ptr_eq(&before.cluster, cluster) {
            self.endpoints.store(Arc::new(Endpoints::after(Some(&before), Arc::clone(cluster))));
            if self.is_troubled() {
                self.look_again();
            }
            // Whoever waits for room may find it with somebody new, or under other limits.
            if let Some(circuit) = self.known_circuit() {
                circuit.freed.notify_waiters();
            }
        }
    }

    /// No configuration names the cluster any more. Requests of older ones have its endpoints for a while
    /// yet, but not for ever: nobody says any more whose addresses these are.
    pub(super) fn retire(&self) {
        let before = self.endpoints.load_full();
        let last = Endpoints::after(Some(&before), Arc::clone(&before.cluster));
        self.endpoints.store(Arc::new(Endpoints { ends: now() + RETIRING, ..last }));
    }

    /// The endpoints as they are now. For one decision, not to be kept.
    pub(super) fn endpoints(&self) -> Guard<Arc<Endpoints>> {
        self.endpoints.load()
    }

    /// Whether there is nobody to send a request to.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.load().cluster.endpoints.is_empty()
    }

    /// Whether something is known against an endpoint, so that each has to be looked at.
    pub(super) fn is_troubled(&self) -> bool {
        self.troubled.load(Relaxed)
    }

    pub(super) fn trouble(&self) -> &AtomicBool {
        &self.troubled
    }

    pub(super) fn ejections(&self) -> &AtomicU64 {
        &self.ejections
    }

    /// What the cluster has at a time. Only asked for where there is a limit.
    pub(super) fn circuit(&self) -> &Arc<Circuit> {
        self.circuit.get_or_init(Arc::default)
    }

    /// The same, if there ever was a limit.
    pub(super) fn known_circuit(&self) -> Option<&Circuit> {
        self.circuit.get().map(|circuit| &**circuit)
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
    /// With what `before` knows of the endpoints that stay.
    fn after(before: Option<&Self>, cluster: Arc<Cluster>) -> Self {
        let all = &cluster.endpoints;
        let near: Box<[usize]> = (0..all.len()).filter(|index| !all[*index].distant).collect();
        let near =
            (near.len() < all.len() && !near.is_empty()).then(|| Box::new(Group::new(Some(near), all.len())));
        let slow_start = cluster.care.slow_start.map_or(0, |time| time.as_millis() as Milliseconds);
        let known = before.filter(|before| before.vitals.get().is_some() || slow_start > 0);
        let vitals = known.map(|before| {
            // The first endpoints of a cluster, and all after there was none, begin with a full share.
            let since = if before.cluster.endpoints.is_empty() { 0 } else { now() };
            let one = |address| match before.vitals_of(address) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Vitals::new(address, since)),
            };
            all.iter().map(|endpoint| one(endpoint.address)).collect::<Box<[_]>>()
        });
        let newest = vitals.iter().flatten().map(|one| one.since).max().unwrap_or(0);
        let warms_until = if slow_start > 0 && newest > 0 { newest + slow_start } else { 0 };
        let all = Group::new(None, all.len());
        let this = Self {
            all,
            near,
            vitals: vitals.map_or_else(OnceLock::new, OnceLock::from),
            warms_until,
            come_back: cluster.endpoints.iter().any(|endpoint| endpoint.own),
            ends: 0,
            by_token: OnceLock::new(),
            cluster,
        };
        if let Some(before) = before {
            this.hash_after(before);
        }
        this
    }

    /// Prepares hashes that requests used before: here, not when the first request comes.
    fn hash_after(&self, before: &Self) {
        let pairs = [(Some(&self.all), Some(&before.all)), (self.near.as_deref(), before.near.as_deref())];
        for (group, old) in pairs.into_iter().filter_map(|(group, old)| Some((group?, old?))) {
            if let Some(old) = old.hashed.get() {
                group.hashed.get_or_init(|| Box::new(Hashed::after(old, self.seeds(group))));
            }
        }
    }

    /// Those to choose from first, while enough of them can take requests: at least half. `None`:
    /// all are as good.
    pub(super) fn near(&self, is_troubled: bool, now: Milliseconds) -> Option<&Group> {
        let near = self.near.as_deref()?;
        if !is_troubled {
            return Some(near);
        }
        let vitals = self.vitals();
        let out = (0..near.len()).filter(|at| vitals[near.at(*at)].is_out(now)).count();
        (2 * out <= near.len()).then_some(near)
    }

    /// What is known of each endpoint.
    pub(super) fn vitals(&self) -> &[Arc<Vitals>] {
        let new = |address| Arc::new(Vitals::new(address, 0));
        self.vitals.get_or_init(|| self.cluster.endpoints.iter().map(|one| new(one.address)).collect())
    }

    /// The same, if somebody had to know before.
    pub(super) fn known_vitals(&self) -> Option<&[Arc<Vitals>]> {
        self.vitals.get().map(|vitals| &**vitals)
    }

    pub(super) fn vitals_of(&self, address: SocketAddr) -> Option<&Arc<Vitals>> {
        let at = self.cluster.endpoints.binary_search_by(|one| one.address.cmp(&address)).ok()?;
        self.vitals().get(at)
    }

    /// Whether they count for nobody any more.
    pub(super) fn are_over(&self) -> bool {
        self.ends > 0 && now() >= self.ends
    }

    /// Whether this one is the node itself.
    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        self.come_back && self.cluster.endpoints.iter().any(|one| one.own && one.address == address)
    }

    /// Until when somebody gets less than the others; 0: nobody does.
    pub(super) fn warms_until(&self) -> Milliseconds {
        self.warms_until
    }

    /// The share of what others get that a new endpoint has; `None` once it has as much.
    pub(super) fn warmth(&self, one: &Vitals, now: Milliseconds) -> Option<f64> {
        let window = self.cluster.care.slow_start.filter(|_| one.since > 0)?.as_millis() as f64;
        let share = now.saturating_sub(one.since) as f64 / window;
        (share < 1.0).then_some(share.max(LEAST_SHARE))
    }

    /// The group's endpoints by hash.
    pub(super) fn hashed<'a>(&'a self, group: &'a Group) -> &'a Hashed {
        group.hashed.get_or_init(|| Box::new(Hashed::new(self.seeds(group))))
    }

    fn seeds(&self, group: &Group) -> Box<[u64]> {
        (0..group.len()).map(|at| seed(self.cluster.endpoints[group.at(at)].address)).collect()
    }

    /// The endpoint that a client's cookie names.
    pub(super) fn by_token(&self, wanted: Token) -> Option<usize> {
        let tokens = self.by_token.get_or_init(|| {
            let endpoints = self.cluster.endpoints.iter().enumerate();
            Box::new(endpoints.map(|(index, one)| (token(&self.cluster.key, one.address), index)).collect())
        });
        tokens.get(&wanted).copied()
    }
}

impl Group {
    fn new(members: Option<Box<[usize]>>, all: usize) -> Self {
        let count = members.as_ref().map_or(all, |members| members.len());
        Self { members, count, hashed: OnceLock::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number in the cluster of the group's member `at`.
    pub(super) fn at(&self, at: usize) -> usize {
        self.members.as_ref().map_or(at, |members| members[at])
    }
}
