//! One request's way through a cluster's endpoints.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use super::affinity::{Affinity, Sent};
use super::cookie;
use super::hash;
use super::load::InFlight;
use super::pick::{has_fewer_requests, is_sooner, round_robin, two_choices};
use crate::model::{Balance, CanaryStickiness, CircuitLimits, Template};
use crate::proxy::cluster::{ClusterSlot, Endpoints, Group};
use crate::proxy::config::Served;
use crate::proxy::error::Error;
use crate::proxy::health::{Milliseconds, Permit, now};
use crate::proxy::worker::Worker;

/// Which endpoints a request goes to, one try after the other.
pub(in crate::proxy) struct Choice<'a> {
    worker: &'a Worker,
    slot: &'a ClusterSlot,
    /// The request's place in the worker's round robin.
    place: u64,
    rule: Rule,
    affinity: Option<Affinity<'a>>,
    tried: SmallVec<[SocketAddr; 3]>,
    measured: Option<InFlight>,
    permit: Option<Permit>,
}

/// [`Balance`] with the request's own key.
#[derive(Clone, Copy, Debug)]
enum Rule {
    RoundRobin,
    Ewma,
    LeastRequest,
    Hash { key: u64, group: usize },
}

/// What a request that was answered leaves behind.
pub(in crate::proxy) struct Chosen {
    /// Counts the request as in flight until it is dropped: at the end of the answer.
    pub(in crate::proxy) lease: Option<Lease>,
    /// `Set-Cookie` for the client.
    pub(in crate::proxy) cookie: Option<HeaderValue>,
}

/// What a request has of its endpoint. Its end is what counts.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    _measured: Option<InFlight>,
    _permit: Option<Permit>,
}

/// Why there is no endpoint.
enum Nobody {
    /// There is none that was not tried.
    Left,
    /// All have as many requests as they may.
    Free,
}

/// How often another place is drawn in the place of an endpoint that gets less yet.
const DRAWS: usize = 4;

impl<'a> Choice<'a> {
    /// Any endpoint of a cluster, in turn.
    pub(in crate::proxy) fn in_turn(worker: &'a Worker, slot: &'a ClusterSlot) -> Self {
        Self {
            worker,
            slot,
            place: slot.begin(worker.index),
            rule: Rule::RoundRobin,
            affinity: None,
            tried: SmallVec::new(),
            measured: None,
            permit: None,
        }
    }

    /// The endpoints for a request that took a route: of the route's own cluster or its canary's.
    /// `fill` fills in a template for the request. `None` where the route has no cluster.
    pub(in crate::proxy) fn of(
        worker: &'a Worker,
        served: &'a Served,
        headers: &HeaderMap,
        fill: impl Fn(&Template) -> Vec<u8>,
    ) -> Option<Self> {
        let own = &**served.cluster.as_ref()?;
        let policy = &*served.policy.rules;
        let affinity = policy.affinity.as_deref();
        let sent = affinity.and_then(|rules| Sent::find(headers, rules));
        let sticky = affinity.is_none_or(|rules| rules.canary == CanaryStickiness::Sticky);
        // Without endpoints a canary is as good as none.
        let canary = served.canary.as_ref().filter(|canary| !canary.cluster.is_empty());
        let canary = canary.filter(|canary| match sent.as_ref().filter(|_| sticky) {
            Some(sent) if sent.is_of(own.token()) => false,
            Some(sent) if sent.is_of(canary.cluster.token()) => true,
            _ => canary.takes(headers, |total| fastrand::u32(..total)),
        });
        let slot = canary.map_or(own, |canary| &*canary.cluster);
        let mut choice = Self::in_turn(worker, slot);
        choice.rule = match &policy.balance {
            Balance::RoundRobin => Rule::RoundRobin,
            Balance::Ewma => Rule::Ewma,
            Balance::LeastRequest => Rule::LeastRequest,
            Balance::Hash { key, subset } => match fill(key) {
                // Whoever has no key need not all meet one endpoint.
                key if key.is_empty() => Rule::RoundRobin,
                key => Rule::Hash { key: hash::key(&key), group: (*subset).max(1) as usize },
            },
        };
        choice.affinity = affinity
            .filter(|_| sticky || canary.is_none())
            .map(|rules| Affinity::new(rules, &slot.key, slot.token(), sent.as_ref()));
        Some(choice)
    }

    /// Where the request goes.
    pub(in crate::proxy) fn slot(&self) -> &'a ClusterSlot {
        self.slot
    }

    /// The endpoint for the first try. Where the cluster has as much as it may, the request waits for
    /// room, `patience` at most.
    ///
    /// # Errors
    /// If there is no endpoint, or no room.
    pub(in crate::proxy) async fn first(&mut self, patience: Duration) -> Result<SocketAddr, Error> {
        let limits = self.slot.endpoints().cluster.care.limits;
        if limits == CircuitLimits::default() {
            return self.next().ok_or_else(|| Error::NoEndpoint(self.slot.key.clone()));
        }
        Box::pin(self.first_within(patience)).await
    }

    async fn first_within(&mut self, patience: Duration) -> Result<SocketAddr, Error> {
        let circuit = self.slot.circuit();
        let overloaded = || {
            circuit.overflow();
            Error::Overloaded(self.slot.key.clone())
        };
        let end = tokio::time::Instant::now() + patience;
        let mut waiting = None;
        loop {
            // From here on nothing that ends is missed.
            let mut freed = pin!(circuit.freed.notified());
            freed.as_mut().enable();
            let limits = self.slot.endpoints().cluster.care.limits;
            self.permit = circuit.enter(limits.connections);
            if self.permit.is_some() {
                match self.try_next() {
                    Ok(address) => return Ok(address),
                    Err(Nobody::Left) => return Err(Error::NoEndpoint(self.slot.key.clone())),
                    Err(Nobody::Free) => self.permit.take().into_iter().for_each(Permit::put_back),
                }
            }
            if waiting.is_none() {
                waiting = Some(circuit.wait(limits.pending).ok_or_else(overloaded)?);
            }
            if tokio::time::timeout_at(end, freed).await.is_err() {
                return Err(overloaded());
            }
        }
    }

    /// The endpoint for another try, if the cluster may have one: see [`Choice::next`].
    pub(in crate::proxy) fn retry(&mut self) -> Option<SocketAddr> {
        let most = self.slot.endpoints().cluster.care.limits.retries;
        if most.is_some() && !self.permit.as_mut().is_some_and(|permit| permit.retry(most)) {
            return None;
        }
        self.next()
    }

    /// The endpoint for the next try: one that was not tried and, if there is one, did not fail
    /// lately. `None` when there is none left.
    pub(in crate::proxy) fn next(&mut self) -> Option<SocketAddr> {
        self.try_next().ok()
    }

    /// Endpoints that were tried may be tried again.
    pub(in crate::proxy) fn begin_anew(&mut self) {
        self.tried.clear();
    }

    fn try_next(&mut self) -> Result<SocketAddr, Nobody> {
        self.failed();
        let endpoints = self.slot.endpoints();
        if endpoints.are_over() {
            return Err(Nobody::Left);
        }
        let all = &endpoints.cluster.endpoints;
        let is_troubled = self.slot.is_troubled();
        let now = if is_troubled || endpoints.warms_until() > 0 { now() } else { 0 };
        let most = endpoints.cluster.care.limits.endpoint_connections.filter(|_| self.permit.is_some());

        let tried = std::mem::take(&mut self.tried);
        let is_tried = |index: usize| tried.contains(&all[index].address);
        let is_full = |index: usize| most.is_some_and(|most| endpoints.vitals()[index].connections() >= most);
        let is_closed = |index: usize| is_tried(index) || is_full(index);
        let is_out =
            |index: usize| is_closed(index) || (is_troubled && endpoints.vitals()[index].is_out(now));
        let near = endpoints.near(is_troubled, now);
        let picked = near
            .and_then(|near| self.pick(&endpoints, near, now, &is_out))
            .or_else(|| self.pick(&endpoints, &endpoints.all, now, &is_out))
            // Who comes last comes before nobody.
            .or_else(|| {
                is_troubled.then(|| self.pick(&endpoints, &endpoints.all, now, &is_closed)).flatten()
            });
        let nobody = || match (0..all.len()).any(|index| !is_tried(index)) {
            true => Nobody::Free,
            false => Nobody::Left,
        };
        let picked = picked.ok_or_else(nobody);
        self.tried = tried;
        let picked = picked?;

        let address = all[picked].address;
        if is_troubled {
            endpoints.vitals()[picked].begin_trial(now);
        }
        if most.is_some()
            && let Some(permit) = &mut self.permit
        {
            permit.move_to(&endpoints.vitals()[picked]);
        }
        self.tried.push(address);
        if matches!(self.rule, Rule::Ewma | Rule::LeastRequest) {
            self.measured = Some(self.worker.loads.begin(address, Instant::now()));
        }
        Ok(address)
    }

    /// The last try failed, through the endpoint's own fault.
    pub(in crate::proxy) fn failed(&mut self) {
        if let Some(mut measured) = self.measured.take() {
            measured.failed(Instant::now());
        }
    }

    /// The endpoint of the last try answers. `facts` is only asked for where there is a cookie to set.
    pub(in crate::proxy) fn answered<'f>(mut self, facts: impl FnOnce() -> cookie::Facts<'f>) -> Chosen {
        if let Some(measured) = &mut self.measured {
            measured.answered(Instant::now());
        }
        let cookie = match (&self.affinity, self.tried.last()) {
            (Some(affinity), Some(address)) if affinity.is_new() => affinity.set_cookie(*address, &facts()),
            _ => None,
        };
        Chosen { lease: self.into_lease(), cookie }
    }

    /// What the last try has of its endpoint, to be kept as long as it lasts.
    pub(in crate::proxy) fn into_lease(self) -> Option<Lease> {
        let lease = Lease { _measured: self.measured, _permit: self.permit };
        (lease._measured.is_some() || lease._permit.is_some()).then_some(lease)
    }

    /// A member of the group, by its number in the cluster.
    fn pick(
        &mut self,
        endpoints: &Endpoints,
        group: &Group,
        now: Milliseconds,
        skip: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let own = self.affinity.as_mut().and_then(|affinity| affinity.pick(endpoints, group, skip));
        own.or_else(|| self.rule.pick(self.worker, endpoints, group, self.place, now, skip))
    }
}

impl Rule {
    fn pick(
        self,
        worker: &Worker,
        endpoints: &Endpoints,
        group: &Group,
        place: u64,
        now: Milliseconds,
        skip: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let all = &endpoints.cluster.endpoints;
        let skips = |at: usize| skip(group.at(at));
        let warms = now > 0 && now < endpoints.warms_until();
        // New endpoints are passed over as often as they are to get less.
        let passes = |at: usize| {
            let share = endpoints.vitals().get(group.at(at)).and_then(|one| endpoints.warmth(one, now));
            share.is_some_and(|share| fastrand::f64() >= share)
        };
        let picked = match self {
            Self::RoundRobin => {
                let mut place = place;
                if warms && group.len() > 0 {
                    let passed = |place: u64| passes((place % group.len() as u64) as usize);
                    for _ in 0..DRAWS {
                        if !passed(place) {
                            break;
                        }
                        place = fastrand::u64(..);
                    }
                }
                round_robin(group.len(), place, skips)
            }
            Self::Ewma | Self::LeastRequest => {
                let prefers = if matches!(self, Self::Ewma) { is_sooner } else { has_fewer_requests };
                let at_once = Instant::now();
                let measure = |at: usize| worker.loads.measure(all[group.at(at)].address, at_once);
                let random = |below: usize| {
                    let draw = || fastrand::usize(..below);
                    // Where few are left, `below` counts those.
                    match warms && below == group.len() {
                        true => (0..DRAWS).map(|_| draw()).find(|at| !passes(*at)).unwrap_or_else(draw),
                        false => draw(),
                    }
                };
                two_choices(group.len(), skips, random, |a, b| prefers(measure(a), measure(b)))
            }
            Self::Hash { key, group: 1 } => endpoints.hashed(group).best(key, skips),
            Self::Hash { key, group: size } => {
                let hashed = endpoints.hashed(group);
                let members = hashed.group(key, size);
                let member = round_robin(members.len(), place, |at| skips(members[at]));
                member.map(|at| members[at]).or_else(|| hashed.best(key, skips))
            }
        };
        picked.map(|at| group.at(at))
    }
}
