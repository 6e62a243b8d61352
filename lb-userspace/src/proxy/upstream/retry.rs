//! When a request is tried again.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::Failure;
use crate::model::{Retry, RetryOn};
use crate::proxy::error::Error;

/// One request's tries.
pub(in crate::proxy) struct Retries<'a> {
    rules: &'a Retry,
    budget: &'a RetryBudget,
    /// The request may be done twice (RFC 9110 section 9.2.2), or the route says so.
    repeatable: bool,
    /// Only where tries have a time limit.
    started: Option<Instant>,
    tries: u32,
    /// Endpoints that were gone. While a rolling update has all endpoints end before new ones are
    /// ready, many that are still listed are; asking the next one takes no time.
    gone: u32,
    pauses: usize,
}

/// How many endpoints may be gone without that being a try.
const MOST_GONE: u32 = 16;

/// How long a request waits whose endpoints are all gone, one time after the other, in milliseconds.
/// News of those that come next may be late.
const PAUSES: [u64; 6] = [25, 50, 100, 200, 400, 800];

/// How many requests of a worker wait at a time. The others are told at once.
const MOST_WAITING: u32 = 1000;

impl<'a> Retries<'a> {
    /// The first try begins.
    pub(in crate::proxy) fn new(rules: &'a Retry, budget: &'a RetryBudget, method: &Method) -> Self {
        budget.deposit();
        let repeatable = method.is_idempotent() || rules.on.contains(&RetryOn::NonIdempotent);
        let started = (!rules.timeout.is_zero()).then(Instant::now);
        Self { rules, budget, repeatable, started, tries: 1, gone: 0, pauses: 0 }
    }

    /// Whether the request may be done twice.
    pub(in crate::proxy) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Whether doing the request once more does no harm.
    pub(in crate::proxy) fn is_harmless(&self, failure: &Failure) -> bool {
        failure.unseen || self.repeatable
    }

    /// Whether the route takes an error for a failure of the endpoint.
    pub(in crate::proxy) fn counts(&self, error: &Error) -> bool {
        kind_of(error).is_some_and(|kind| self.rules.on.contains(&kind))
    }

    /// Whether the route takes an answer of this status for a failure of the endpoint.
    pub(in crate::proxy) fn is_failure(&self, status: StatusCode) -> bool {
        self.rules.on.contains(&RetryOn::Status(status.as_u16()))
    }

    /// Whether another endpoint is tried after a failure.
    pub(in crate::proxy) fn follow_failure(&mut self, failure: &Failure) -> bool {
        self.counts(&failure.error)
            && self.is_harmless(failure)
            && (self.is_free(failure) || self.begin(!failure.unseen))
    }

    /// Whether the endpoint was gone and the next one may be asked for nothing.
    fn is_free(&mut self, failure: &Failure) -> bool {
        let is_free = is_gone(failure) && self.gone < MOST_GONE && self.rules.tries != 1 && self.is_in_time();
        self.gone += u32::from(is_free);
        is_free
    }

    /// Waits until somebody may have come, where all endpoints are gone that there were. False if the
    /// request has waited long enough.
    pub(in crate::proxy) async fn wait(&mut self, failure: &Failure) -> bool {
        let pause = PAUSES.get(self.pauses).filter(|_| is_gone(failure) && self.is_in_time());
        let (Some(pause), Some(_waiting)) = (pause, Waiting::begin(&self.budget.waiting)) else {
            return false;
        };
        self.pauses += 1;
        self.gone = 0;
        tokio::time::sleep(Duration::from_millis(*pause)).await;
        true
    }

    fn is_in_time(&self) -> bool {
        self.started.is_none_or(|started| started.elapsed() < self.rules.timeout)
    }

    /// Whether another endpoint is tried instead of passing an answer on.
    pub(in crate::proxy) fn follow_answer(&mut self, status: StatusCode) -> bool {
        self.is_failure(status) && self.repeatable && self.begin(true)
    }

    fn begin(&mut self, costs: bool) -> bool {
        let tries = self.rules.tries;
        let allowed =
            (tries == 0 || self.tries < tries) && self.is_in_time() && (!costs || self.budget.withdraw());
        self.tries += u32::from(allowed);
        allowed
    }
}

/// Whether the endpoint was found to be gone, at once and before it saw anything of the request.
fn is_gone(failure: &Failure) -> bool {
    failure.unseen && matches!(failure.error, Error::Connection { .. } | Error::Closed { .. })
}

/// What nginx would call an error; `None` for what another endpoint can't mend.
fn kind_of(error: &Error) -> Option<RetryOn> {
    match error {
        Error::Connection { .. } | Error::Closed { .. } | Error::Tls { .. } => Some(RetryOn::Error),
        Error::ConnectTimeout(_) | Error::SendTimeout(_) | Error::ReadTimeout(_) => Some(RetryOn::Timeout),
        Error::Protocol { .. } => Some(RetryOn::InvalidHeader),
        _ => None,
    }
}

/// How many requests a worker may repeat that endpoints had seen already: half as many as it has
/// requests, and a few each second. Endpoints that fail because they have too much to do must not
/// get three times as much.
#[derive(Debug)]
pub(in crate::proxy) struct RetryBudget {
    /// In halves.
    left: Cell<u32>,
    refilled: Cell<Instant>,
    /// Requests that wait for endpoints.
    waiting: Rc<Cell<u32>>,
}

/// A request that waits for endpoints.
struct Waiting(Rc<Cell<u32>>);

impl Waiting {
    fn begin(waiting: &Rc<Cell<u32>>) -> Option<Self> {
        let others = waiting.get();
        (others < MOST_WAITING).then(|| {
            waiting.set(others + 1);
            Self(Rc::clone(waiting))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What there is at most, and at first, in halves.
const FULL: u32 = 200;

/// How often a retry is free.
const REFILL: Duration = Duration::from_millis(100);

impl RetryBudget {
    pub(in crate::proxy) fn new() -> Self {
        Self { left: Cell::new(FULL), refilled: Cell::new(Instant::now()), waiting: Rc::default() }
    }

    fn deposit(&self) {
        self.left.set((self.left.get() + 1).min(FULL));
    }

    fn withdraw(&self) -> bool {
        let ticks = u32::try_from(self.refilled.get().elapsed().as_millis() / REFILL.as_millis());
        if let Ok(ticks) = ticks
            && ticks > 0
        {
            self.refilled.set(Instant::now());
            self.left.set(self.left.get().saturating_add(ticks.saturating_mul(2)).min(FULL));
        }
        let Some(left) = self.left.get().checked_sub(2) else { return false };
        self.left.set(left);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;

    use super::*;

    fn failure(error: Error, unseen: bool) -> Failure {
        Failure { error, unseen, stale: false }
    }

    #[test]
    fn what_is_tried_again() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let closed = || Error::Closed { address, source: io::ErrorKind::UnexpectedEof.into() };
        let late = || Error::ReadTimeout(address);
        let nonsense = || Error::Protocol { address, what: "nonsense" };
        let default = Retry::default().on;
        let off = vec![];
        let all = vec![
            RetryOn::Error,
            RetryOn::Timeout,
            RetryOn::InvalidHeader,
            RetryOn::Status(503),
            RetryOn::NonIdempotent,
        ];
        for (on, method, error, unseen, expect) in [
            (&default, Method::GET, closed(), false, true),
            (&default, Method::GET, late(), false, true),
            (&default, Method::GET, nonsense(), false, false),
            (&default, Method::POST, closed(), false, false),
            (&default, Method::POST, closed(), true, true),
            (&default, Method::GET, Error::ClientGone, true, false),
            (&off, Method::GET, closed(), true, false),
            (&all, Method::POST, closed(), false, true),
            (&all, Method::GET, nonsense(), false, true),
        ] {
            let rules = Retry { on: on.clone(), ..Retry::default() };
            let budget = RetryBudget::new();
            let text = format!("{on:?} {method} {error} {unseen}");
            let mut retries = Retries::new(&rules, &budget, &method);
            assert_eq!(retries.follow_failure(&failure(error, unseen)), expect, "{text}");
        }
        for (on, method, status, expect) in [
            (&default, Method::GET, 503, false),
            (&all, Method::GET, 503, true),
            (&all, Method::POST, 503, true),
            (&all, Method::GET, 502, false),
        ] {
            let rules = Retry { on: on.clone(), ..Retry::default() };
            let status = StatusCode::from_u16(status).expect("a status");
            let budget = RetryBudget::new();
            let mut retries = Retries::new(&rules, &budget, &method);
            assert_eq!(retries.follow_answer(status), expect, "{on:?} {method} {status}");
        }
    }

    #[test]
    fn how_often() {
        let failed = || failure(Error::ReadTimeout(SocketAddr::from(([127, 0, 0, 1], 1))), false);
        for (tries, expect) in [(1, 0), (3, 2), (0, 9)] {
            let rules = Retry { tries, ..Retry::default() };
            let budget = RetryBudget::new();
            let mut retries = Retries::new(&rules, &budget, &Method::GET);
            assert_eq!((0..9).filter(|_| retries.follow_failure(&failed())).count(), expect, "{tries}");
        }
        let refused = || Error::Connection {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        for (tries, expect) in [(1, 0), (2, MOST_GONE + 1), (3, MOST_GONE + 2)] {
            let rules = Retry { tries, ..Retry::default() };
            let budget = RetryBudget::new();
            let mut retries = Retries::new(&rules, &budget, &Method::POST);
            let failed = |_: &u32| retries.follow_failure(&failure(refused(), true));
            assert_eq!((0..40).take_while(failed).count(), expect as usize, "{tries}");
        }
        let budget = RetryBudget::new();
        let rules = Retry { tries: 3, ..Retry::default() };
        let mut retries = Retries::new(&rules, &budget, &Method::GET);
        let late = || failure(Error::ConnectTimeout(SocketAddr::from(([127, 0, 0, 1], 1))), true);
        assert_eq!((0..9).filter(|_| retries.follow_failure(&late())).count(), 2, "what takes time is a try");
        let budget = RetryBudget::new();
        let rules = Retry { tries: 0, ..Retry::default() };
        let mut retries = Retries::new(&rules, &budget, &Method::GET);
        budget.refilled.set(Instant::now() + Duration::from_secs(3600));
        assert_eq!((0..1000).filter(|_| retries.follow_failure(&failed())).count(), FULL as usize / 2);
        assert!(
            retries
                .follow_failure(&failure(Error::ConnectTimeout(SocketAddr::from(([127, 0, 0, 1], 1))), true))
        );
    }
}
