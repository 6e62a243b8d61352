//! Limits of how often a client may ask, how much at once, and how fast it is answered.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use ipnet::IpNet;

use super::Refusal;
use super::facts::Facts;
use super::ledger::{Held, Kind, Ledger};
use super::pace::Pace;
use crate::model::RateLimits;

const SECOND: u64 = 1_000_000_000;

/// A route's limits, with the ledger that they are booked in.
#[derive(Debug)]
pub(super) struct Limits {
    paces: Vec<(Kind, Pace)>,
    requests: Option<u32>,
    exempt: Option<Arc<[IpNet]>>,
    status: StatusCode,
    ledger: Arc<Ledger>,
}

impl Limits {
    /// `None` if nothing is limited but bytes, which are not booked.
    pub(super) fn new(rules: &RateLimits, ledger: &Arc<Ledger>) -> Option<Self> {
        let pace = |kind, count: Option<u32>, period| {
            let count = count?;
            let burst = u64::from(count) * u64::from(rules.burst.max(1));
            Some((kind, Pace::new(count, period, burst)))
        };
        let paces: Vec<_> = [
            pace(Kind::PerSecond, rules.per_second, SECOND),
            pace(Kind::PerMinute, rules.per_minute, 60 * SECOND),
        ]
        .into_iter()
        .flatten()
        .collect();
        let limits = !paces.is_empty() || rules.connections.is_some();
        limits.then(|| Self {
            paces,
            requests: rules.connections,
            exempt: rules.exempt.clone(),
            status: StatusCode::from_u16(rules.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            ledger: Arc::clone(ledger),
        })
    }

    /// Books the request. What is returned counts as in use until the answer's last byte.
    pub(super) fn admit(&self, facts: &Facts<'_>, client: IpAddr) -> Result<Option<Held>, Refusal> {
        if self.exempt.as_deref().is_some_and(|nets| nets.iter().any(|net| net.contains(&client))) {
            return Ok(None);
        }
        let ingress = facts.ingress();
        let entry = |kind| self.ledger.entry(ingress, kind, client);
        let refuse = |why| Refusal::new(self.status, "there are too many requests from this address", why);
        let mut held = None;
        if let Some(limit) = self.requests {
            held = self.ledger.hold(entry(Kind::Requests), limit);
            if held.is_none() {
                return Err(refuse("the client has as many requests as it may at once"));
            }
        }
        for (kind, pace) in &self.paces {
            if !self.ledger.grant(entry(*kind), *pace) {
                return Err(refuse("the client sends requests faster than it may"));
            }
        }
        Ok(held)
    }
}
