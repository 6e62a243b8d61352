//! One endpoint's state, shared by everybody who uses it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::report::{CheckState, EndpointHealth, EndpointState};
use crate::model::Ejection;

/// Milliseconds since some moment of this process; 0 is never.
pub(in crate::proxy) type Milliseconds = u64;

/// How long an endpoint that takes no connection comes last after the first time; doubled with each
/// further one.
const FIRST_REST: Milliseconds = 1000;
const LONGEST_REST: Milliseconds = 10_000;

/// An ejection takes at most so many times as long as the first.
const LONGEST_EJECTION: u64 = 10;

/// An ejection follows another soon if the endpoint was well for less than so many times as long as
/// the ejection before took.
const SOON: u64 = 3;

/// An endpoint of a cluster. Everything is 0 and false while it is well, and then nothing is written.
#[derive(Debug)]
pub(in crate::proxy) struct Vitals {
    pub(in crate::proxy) address: SocketAddr,
    /// When it joined a cluster that had others already.
    pub(in crate::proxy) since: Milliseconds,
    /// Failed requests since the last that was answered.
    failures: AtomicU32,
    /// It gets requests only where nobody else can take them, until then.
    until: AtomicU64,
    /// How long that is from begin to end. Kept for a while after it.
    rest: AtomicU64,
    /// It rests because it took no connection.
    unreachable: AtomicBool,
    /// The rest was over, and a request tries it: the others wait for the outcome.
    on_trial: AtomicBool,
    /// When it was last well again after an ejection.
    recovered: AtomicU64,
    /// Checks say that it is unwell.
    unwell: AtomicBool,
    ejections: AtomicU64,
    /// Requests and tunnels; only counted where there is a limit.
    connections: AtomicU32,
    notes: Mutex<Notes>,
}

/// What people want to read. Written with failures and checks only.
#[derive(Debug, Default)]
struct Notes {
    check: Option<CheckState>,
    last_error: Option<Arc<str>>,
}

impl Vitals {
    pub(in crate::proxy) fn new(address: SocketAddr, since: Milliseconds) -> Self {
        Self {
            address,
            since,
            failures: AtomicU32::new(0),
            until: AtomicU64::new(0),
            rest: AtomicU64::new(0),
            unreachable: AtomicBool::new(false),
            on_trial: AtomicBool::new(false),
            recovered: AtomicU64::new(0),
            unwell: AtomicBool::new(false),
            ejections: AtomicU64::new(0),
            connections: AtomicU32::new(0),
            notes: Mutex::default(),
        }
    }

    /// Whether it comes last.
    pub(in crate::proxy) fn is_out(&self, now: Milliseconds) -> bool {
        self.until.load(Relaxed) > now || self.unwell.load(Relaxed)
    }

    /// Whether anything is known against it.
    pub(in crate::proxy) fn is_troubled(&self) -> bool {
        self.until.load(Relaxed) != 0 || self.failures.load(Relaxed) != 0 || self.unwell.load(Relaxed)
    }

    /// Whether it is left alone for the requests that failed.
    pub(super) fn is_ejected(&self, now: Milliseconds) -> bool {
        self.until.load(Relaxed) > now && !self.unreachable.load(Relaxed)
    }

    /// A request goes to it. If its rest is over, this is the one that tries it.
    pub(in crate::proxy) fn begin_trial(&self, now: Milliseconds) {
        let until = self.until.load(Relaxed);
        if until != 0 && until <= now {
            let again = now + self.rest.load(Relaxed);
            if self.until.compare_exchange(until, again, Relaxed, Relaxed).is_ok() {
                self.on_trial.store(true, Relaxed);
            }
        }
    }

    /// It took no connection. Whether that is news.
    pub(super) fn could_not_connect(&self, now: Milliseconds) -> bool {
        let again = self.unreachable.swap(true, Relaxed);
        let tried = self.on_trial.swap(false, Relaxed);
        if again && !tried {
            // Requests that came at the same time, or that nobody else can take.
            return false;
        }
        let rest = match again {
            true => (self.rest.load(Relaxed) * 2).clamp(FIRST_REST, LONGEST_REST),
            false => FIRST_REST,
        };
        self.rest.store(rest, Relaxed);
        self.until.fetch_max(now + rest, Relaxed);
        !again
    }

    /// Whether it took connections a moment ago.
    pub(super) fn was_there_lately(&self) -> bool {
        !self.unreachable.load(Relaxed) || self.rest.load(Relaxed) <= FIRST_REST
    }

    /// A request failed that it had taken. `may_eject` is asked whether the cluster can spare it.
    /// Whether it is ejected now and was not before.
    pub(super) fn failed(
        &self,
        now: Milliseconds,
        rules: &Ejection,
        may_eject: impl FnOnce() -> bool,
    ) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let tried = self.on_trial.swap(false, Relaxed);
        if rules.after == 0 || failures < rules.after || (self.is_ejected(now) && !tried) || !may_eject() {
            return false;
        }
        let first = milliseconds(rules.time);
        let (before, recovered) = (self.rest.load(Relaxed), self.recovered.load(Relaxed));
        let soon = recovered != 0 && now < recovered + SOON * before;
        let was_reachable = !self.unreachable.swap(false, Relaxed);
        let rest = match was_reachable && (tried || soon) {
            true => (before * 2).clamp(first, LONGEST_EJECTION * first),
            false => first,
        };
        self.rest.store(rest, Relaxed);
        self.until.store(now + rest, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        true
    }

    /// It took a connection.
    pub(super) fn reached(&self) {
        if self.unreachable.swap(false, Relaxed) {
            self.until.store(0, Relaxed);
            self.on_trial.store(false, Relaxed);
        }
    }

    /// It answered a request. An ejection only ends by a request that was sent after it.
    pub(super) fn answered(&self, now: Milliseconds) {
        if self.is_ejected(now) && !self.on_trial.load(Relaxed) {
            return;
        }
        self.failures.store(0, Relaxed);
        self.on_trial.store(false, Relaxed);
        self.unreachable.store(false, Relaxed);
        if self.until.swap(0, Relaxed) != 0 {
            self.recovered.store(now, Relaxed);
        }
    }

    /// What checks say of it, and the last one's outcome. Whether it was otherwise before.
    pub(super) fn checked(&self, unwell: bool, error: Option<String>) -> bool {
        let mut notes = self.notes();
        let checks = notes.check.as_ref().map_or(0, |before| before.checks) + 1;
        notes.check = Some(CheckState { passing: !unwell, checks, last_error: error });
        self.unwell.swap(unwell, Relaxed) != unwell
    }

    /// Nobody checks it any more.
    pub(super) fn unchecked(&self) {
        self.notes().check = None;
        self.unwell.store(false, Relaxed);
    }

    /// What went wrong, for people.
    pub(super) fn note(&self, error: &str) {
        self.notes().last_error = Some(error.into());
    }

    /// Requests and tunnels that it has, where they are counted.
    pub(in crate::proxy) fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    pub(super) fn add_connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn remove_connection(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Everything, for people. `warms`: it does not get its full share yet.
    pub(super) fn report(&self, now: Milliseconds, warms: bool) -> EndpointHealth {
        let until = self.until.load(Relaxed);
        let notes = self.notes();
        let state = match () {
            () if self.unwell.load(Relaxed) => EndpointState::Unhealthy,
            () if self.is_ejected(now) => EndpointState::Ejected,
            () if until > now => EndpointState::Unreachable,
            () if warms => EndpointState::SlowStart,
            () => EndpointState::Ready,
        };
        EndpointHealth {
            address: self.address,
            state,
            rests_ms: until.saturating_sub(now),
            failures: self.failures.load(Relaxed),
            ejections: self.ejections.load(Relaxed),
            connections: self.connections(),
            check: notes.check.clone(),
            last_error: notes.last_error.as_deref().map(str::to_owned),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(time: Duration) -> Milliseconds {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Ejection = Ejection { after: 3, time: Duration::from_secs(2), max_percent: 100 };

    fn vitals() -> Vitals {
        Vitals::new(SocketAddr::from(([127, 0, 0, 1], 1)), 0)
    }

    #[test]
    fn rests_of_the_unreachable_grow_and_one_request_tries() {
        let one = vitals();
        assert!(!one.is_troubled() && one.could_not_connect(1000));
        for (now, out) in [(1000, true), (1999, true), (2000, false), (2001, true)] {
            assert_eq!(one.is_out(now), out, "at {now}");
            one.begin_trial(now);
        }
        assert!(one.was_there_lately() && !one.could_not_connect(2001), "no news");
        assert!(!one.was_there_lately() && one.is_out(4000) && !one.is_out(4001));
        for _ in 0..9 {
            one.could_not_connect(2002);
        }
        assert!(!one.is_out(4001), "those that came at the same time say nothing new");
        let mut now = 4001;
        for rest in [4000, 8000, 10_000, 10_000] {
            one.begin_trial(now);
            one.could_not_connect(now);
            assert!(one.is_out(now + rest - 1) && !one.is_out(now + rest), "{rest}");
            now += rest;
        }
        one.reached();
        assert!(!one.is_troubled());
    }

    #[test]
    fn failures_in_a_row_eject() {
        let one = vitals();
        let fail = |now| one.failed(now, &RULES, || true);
        assert!(!fail(1000) && !fail(1000));
        one.answered(1000);
        assert!(!one.is_troubled(), "an answer forgives");
        assert!(!fail(1000) && !fail(1000) && fail(1000));
        assert!(!fail(1500), "requests that were under way");
        one.answered(1500);
        assert!(one.is_out(2999) && !one.is_out(3000), "an old answer says nothing");
        one.begin_trial(3000);
        assert!(one.is_out(3001), "others wait");
        assert!(fail(3100), "one failure is enough then");
        assert!(one.is_out(7099) && !one.is_out(7100), "twice as long");
        one.begin_trial(7100);
        one.answered(7200);
        assert!(!one.is_troubled());
        // Soon again, and later.
        assert!(!fail(8000) && !fail(8000) && fail(8000) && one.is_out(15_999) && !one.is_out(16_000));
        one.begin_trial(16_000);
        one.answered(16_000);
        assert!(
            !fail(99_000) && !fail(99_000) && fail(99_000) && one.is_out(100_999) && !one.is_out(101_000)
        );
    }

    #[test]
    fn who_may_not_be_ejected_is_not() {
        let one = vitals();
        assert!((0..9).all(|_| !one.failed(1000, &RULES, || false)));
        assert!(!one.is_out(1000) && one.is_troubled());
        let off = Ejection { after: 0, ..RULES };
        assert!((0..9).all(|_| !one.failed(1000, &off, || true)));
    }

    #[test]
    fn ejections_end_at_ten_times_the_first() {
        let one = vitals();
        let mut now = 1000;
        for _ in 0..3 {
            one.failed(now, &RULES, || true);
        }
        for length in [2000, 4000, 8000, 16_000, 20_000, 20_000] {
            assert!(one.is_out(now + length - 1) && !one.is_out(now + length), "{length}");
            now += length;
            one.begin_trial(now);
            assert!(one.failed(now, &RULES, || true));
        }
    }

    #[test]
    fn checks_are_a_matter_of_their_own() {
        let one = vitals();
        assert!(one.checked(true, Some("503".to_owned())) && one.is_out(1000));
        one.answered(1000);
        assert!(one.is_out(1000), "requests that are answered change nothing about it");
        assert!(!one.checked(true, None) && one.checked(false, None) && !one.is_troubled());
    }
}
