//! Who leads: the decisions, without any I/O. Time is an argument.
//!
//! A Lease names its holder, and when the holder last said that it is still there. That time is of
//! the holder's clock, and clocks differ; so it is only ever compared with itself. Whoever waits
//! measures by the own clock how long ago the Lease was *seen to change*, and takes it when that is
//! longer than it lasts. The holder in turn stops leading a good while before that, counted from
//! when it *sent* its last successful renewal, which is before anybody can have seen it:
//!
//! ```text
//! holder    ─ sends renewal ──────────────── deadline: leads no more
//!                 │                             │   ◄─ answer: its last request ends
//! others          └─ see it change ─────────────┼───────┴──── duration: may take it
//! ```
//!
//! Two writes at once are the server's to prevent: each names the version it replaces.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

/// How long things take in an election. `deadline` and the time for an answer together must not be
/// longer than `duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A Lease that was not seen to change for so long may be taken. Whole seconds, at least 1.
    pub duration: Duration,
    /// The holder leads for so long after it sent its last successful renewal.
    pub deadline: Duration,
    /// The holder renews this often.
    pub renew: Duration,
    /// The others look this often.
    pub poll: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renew: Duration::from_secs(3),
            poll: Duration::from_secs(3),
        }
    }
}

/// Longer than any sensible Lease; what says more is not believed.
const LONGEST: i32 = 3600;

/// One candidate's view of a Lease.
#[derive(Debug)]
pub struct Election {
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    until: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    lease: Lease,
    /// When it was first seen to say what it says.
    since: Instant,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: make it.
    Create,
    /// Nobody holds it, or nobody any more: take it.
    Take,
    /// It is held by this candidate: say so again.
    Renew,
    /// Somebody else holds it.
    Wait,
}

impl Election {
    /// A candidate that has seen nothing yet. `identity` must be of this process alone.
    pub fn new(identity: String, timing: Timing) -> Self {
        Self { identity, timing, seen: None, until: None }
    }

    /// Takes in what the server has now.
    pub fn observe(&mut self, lease: Option<Lease>, now: Instant) {
        let Some(lease) = lease else {
            self.seen = None;
            return;
        };
        if holder(&lease) != Some(&self.identity) {
            self.until = None;
        }
        let since = match &self.seen {
            Some(seen) if seen.lease.spec == lease.spec => seen.since,
            _ => now,
        };
        self.seen = Some(Seen { lease, since });
    }

    /// What to do about it.
    pub fn step(&self, now: Instant) -> Step {
        let Some(seen) = &self.seen else { return Step::Create };
        match holder(&seen.lease) {
            None => Step::Take,
            Some(holder) if holder == self.identity => Step::Renew,
            Some(_) if now >= seen.since + lasts(&seen.lease, self.timing.duration) => Step::Take,
            Some(_) => Step::Wait,
        }
    }

    /// The Lease as it should be after `step`. `wall` is for people who read it.
    pub fn claim(&self, step: Step, wall: Timestamp) -> Lease {
        let mut lease = self.seen.as_ref().map(|seen| seen.lease.clone()).unwrap_or_default();
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        match step {
            Step::Wait | Step::Renew => {}
            Step::Create | Step::Take => {
                spec.acquire_time = Some(MicroTime(wall));
                let before = spec.lease_transitions.map_or(0, |n| n.saturating_add(1));
                spec.lease_transitions = Some(before.max(0));
            }
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(seconds(self.timing.duration));
        spec.renew_time = Some(MicroTime(wall));
        lease
    }

    /// The server has taken a claim that was sent at `sent`, and this is the Lease now.
    pub fn won(&mut self, lease: Lease, sent: Instant) {
        self.until = Some(sent + self.timing.deadline);
        self.seen = Some(Seen { lease, since: sent });
    }

    /// The Lease without its holder, if it is this candidate: what to leave behind at the end.
    pub fn release(&mut self, wall: Timestamp) -> Option<Lease> {
        self.until = None;
        let seen = self.seen.take()?;
        if holder(&seen.lease) != Some(&self.identity) {
            return None;
        }
        let mut lease = seen.lease;
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(wall));
        Some(lease)
    }

    /// This candidate leads until then.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Who holds the Lease, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().and_then(|seen| holder(&seen.lease))
    }
}

/// How long the Lease lasts by its own words, if they make sense.
pub fn lasts(lease: &Lease, otherwise: Duration) -> Duration {
    match lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds) {
        Some(seconds @ 1..=LONGEST) => Duration::from_secs(seconds.unsigned_abs().into()),
        _ => otherwise,
    }
}

/// A duration as Leases write it: whole seconds, at least one.
pub fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(LONGEST).clamp(1, LONGEST)
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64, duration: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).expect("a time"))),
            lease_duration_seconds: Some(duration),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    /// At which second which Lease is seen, and what is to be done there.
    #[test]
    fn steps() {
        type Seen = (u64, Option<Lease>, Step);
        let rows: &[(&str, &[Seen])] = &[
            ("no Lease", &[(0, None, Step::Create), (1, None, Step::Create)]),
            ("let go", &[(0, Some(lease("", 0, 15)), Step::Take)]),
            (
                "own",
                &[(0, Some(lease("me", 0, 15)), Step::Renew), (99, Some(lease("me", 0, 15)), Step::Renew)],
            ),
            (
                "silent: taken after its duration by our clock",
                &[
                    (0, Some(lease("b", 0, 15)), Step::Wait),
                    (14, Some(lease("b", 0, 15)), Step::Wait),
                    (15, Some(lease("b", 0, 15)), Step::Take),
                ],
            ),
            (
                "renewed, with a clock far behind or far ahead: only changes count",
                &[
                    (0, Some(lease("b", 7, 15)), Step::Wait),
                    (14, Some(lease("b", 3, 15)), Step::Wait),
                    (28, Some(lease("b", 99_999_999, 15)), Step::Wait),
                    (42, Some(lease("b", 99_999_999, 15)), Step::Wait),
                    (43, Some(lease("b", 99_999_999, 15)), Step::Take),
                ],
            ),
            (
                "taken by a third",
                &[
                    (0, Some(lease("b", 0, 15)), Step::Wait),
                    (15, Some(lease("c", 9, 15)), Step::Wait),
                    (29, Some(lease("c", 9, 15)), Step::Wait),
                    (30, Some(lease("c", 9, 15)), Step::Take),
                ],
            ),
            (
                "its own duration counts",
                &[(0, Some(lease("b", 0, 60)), Step::Wait), (59, Some(lease("b", 0, 60)), Step::Wait)],
            ),
            (
                "unless it is absurd",
                &[
                    (0, Some(lease("b", 0, i32::MAX)), Step::Wait),
                    (15, Some(lease("b", 0, i32::MAX)), Step::Take),
                ],
            ),
            (
                "or wrong",
                &[(0, Some(lease("b", 0, -1)), Step::Wait), (15, Some(lease("b", 0, -1)), Step::Take)],
            ),
            ("no spec at all", &[(0, Some(Lease::default()), Step::Take)]),
            (
                "deleted under its holder",
                &[(0, Some(lease("b", 0, 15)), Step::Wait), (1, None, Step::Create)],
            ),
        ];
        for (what, seen) in rows {
            let start = Instant::now();
            let mut election = Election::new("me".to_owned(), Timing::default());
            for (second, lease, expect) in *seen {
                let now = start + Duration::from_secs(*second);
                election.observe(lease.clone(), now);
                assert_eq!(election.step(now), *expect, "{what}, second {second}");
            }
        }
    }

    #[test]
    fn claims_say_who_and_when() {
        let wall = Timestamp::from_second(1000).expect("a time");
        let start = Instant::now();
        let mut election = Election::new("me".to_owned(), Timing::default());
        for (seen, transitions, acquired) in [
            (None, 0, Some(1000)),
            (Some(lease("b", 0, 15)), 5, Some(1000)),
            (Some(lease("", 0, 15)), 5, Some(1000)),
            (Some(lease("me", 0, 15)), 4, None),
        ] {
            election.observe(seen.clone(), start);
            let step = if holder(&seen.clone().unwrap_or_default()) == Some("me") {
                Step::Renew
            } else {
                Step::Take
            };
            let spec = election.claim(step, wall).spec.expect("a spec");
            assert_eq!(spec.holder_identity.as_deref(), Some("me"), "{seen:?}");
            assert_eq!(spec.lease_transitions, Some(transitions), "{seen:?}");
            assert_eq!(spec.acquire_time.map(|t| t.0.as_second()), acquired, "{seen:?}");
            assert_eq!((spec.renew_time.map(|t| t.0), spec.lease_duration_seconds), (Some(wall), Some(15)));
        }
    }

    #[test]
    fn leads_for_a_while_from_when_it_asked() {
        let sent = Instant::now();
        let timing = Timing::default();
        let mut election = Election::new("me".to_owned(), timing);
        assert_eq!(election.until(), None);
        election.won(lease("me", 1, 15), sent);
        assert_eq!(election.until(), Some(sent + timing.deadline));
        assert!(timing.deadline + Duration::from_secs(5) <= timing.duration, "room for a last answer");

        // Seeing the own name prolongs nothing: only a renewal does.
        election.observe(Some(lease("me", 1, 15)), sent + Duration::from_secs(9));
        assert_eq!(election.until(), Some(sent + timing.deadline));
        // Somebody else's name ends it at once.
        election.observe(Some(lease("b", 2, 15)), sent + Duration::from_secs(9));
        assert_eq!((election.until(), election.holder()), (None, Some("b")));
        assert_eq!(election.release(Timestamp::UNIX_EPOCH), None, "another's Lease is left alone");
    }

    #[test]
    fn lets_go_at_the_end() {
        let mut election = Election::new("me".to_owned(), Timing::default());
        assert_eq!(election.release(Timestamp::UNIX_EPOCH), None, "never held");
        election.won(lease("me", 1, 15), Instant::now());
        let left = election.release(Timestamp::UNIX_EPOCH).and_then(|lease| lease.spec).expect("a spec");
        assert_eq!((left.holder_identity, left.lease_transitions), (None, Some(4)));
        assert_eq!((election.until(), election.holder()), (None, None));
    }
}
