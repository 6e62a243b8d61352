//! One request's way through a cluster's endpoints.

use std::net::SocketAddr;
use std::time::Instant;

use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use super::affinity::{Affinity, Sent};
use super::cookie;
use super::hash;
use super::load::Lease;
use super::pick::{has_fewer_requests, is_sooner, round_robin, two_choices};
use crate::model::{Balance, CanaryStickiness, Template};
use crate::proxy::cluster::{ClusterSlot, Endpoints};
use crate::proxy::config::Served;
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
    lease: Option<Lease>,
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
            lease: None,
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

    /// The endpoint for the next try: one that was not tried and, if there is one, did not fail
    /// lately. `None` when there is none left.
    pub(in crate::proxy) fn next(&mut self) -> Option<SocketAddr> {
        self.failed();
        let endpoints = self.slot.endpoints();
        let all = &endpoints.cluster.endpoints;
        let failing = &self.worker.failing;
        let tried = self.tried.clone();
        let is_tried = |index: usize| tried.contains(&all[index].address);
        let picked = if failing.is_empty() {
            self.pick(&endpoints, &is_tried)
        } else {
            let now = Instant::now();
            let rests = |index: usize| is_tried(index) || failing.rests(all[index].address, now);
            let picked = self.pick(&endpoints, &rests).or_else(|| self.pick(&endpoints, &is_tried));
            if let Some(index) = picked {
                failing.begin_trial(all[index].address, now);
            }
            picked
        };
        let address = all[picked?].address;
        self.tried.push(address);
        if matches!(self.rule, Rule::Ewma | Rule::LeastRequest) {
            self.lease = Some(self.worker.loads.begin(address, Instant::now()));
        }
        Some(address)
    }

    /// The last try failed, through the endpoint's own fault.
    pub(in crate::proxy) fn failed(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            lease.failed(Instant::now());
        }
    }

    /// The endpoint of the last try answers. `facts` is only asked for where there is a cookie to set.
    pub(in crate::proxy) fn answered<'f>(mut self, facts: impl FnOnce() -> cookie::Facts<'f>) -> Chosen {
        if let Some(lease) = &mut self.lease {
            lease.answered(Instant::now());
        }
        let cookie = match (&self.affinity, self.tried.last()) {
            (Some(affinity), Some(address)) if affinity.is_new() => affinity.set_cookie(*address, &facts()),
            _ => None,
        };
        Chosen { lease: self.lease, cookie }
    }

    fn pick(&mut self, endpoints: &Endpoints, skip: &dyn Fn(usize) -> bool) -> Option<usize> {
        let own = self.affinity.as_mut().and_then(|affinity| affinity.pick(endpoints, skip));
        own.or_else(|| self.rule.pick(self.worker, endpoints, self.place, skip))
    }
}

impl Rule {
    fn pick(
        self,
        worker: &Worker,
        endpoints: &Endpoints,
        place: u64,
        skip: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let all = &endpoints.cluster.endpoints;
        let random = |below: usize| fastrand::usize(..below);
        match self {
            Self::RoundRobin => round_robin(all.len(), place, skip),
            Self::Ewma | Self::LeastRequest => {
                let prefers = if matches!(self, Self::Ewma) { is_sooner } else { has_fewer_requests };
                let now = Instant::now();
                let measure = |index: usize| worker.loads.measure(all[index].address, now);
                two_choices(all.len(), skip, random, |a, b| prefers(measure(a), measure(b)))
            }
            Self::Hash { key, group: 1 } => hash::best(endpoints.seeds(), key, skip),
            Self::Hash { key, group } => {
                let group = hash::group(endpoints.seeds(), key, group);
                let member = round_robin(group.len(), place, |index| skip(group[index]));
                member.map(|index| group[index]).or_else(|| hash::best(endpoints.seeds(), key, skip))
            }
        }
    }
}
