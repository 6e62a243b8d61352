//! What status writing says of itself, for `sluice status` and metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How status writing is getting on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name by which this process stands for election.
    pub identity: String,
    /// Who leads, as far as is known.
    pub leader: Option<String>,
    /// Whether that is this process.
    pub is_leader: bool,
    /// What Ingresses are told to be reached at; empty until it is known, or when not leading.
    pub addresses: Vec<String>,
    /// Statuses written, of Ingresses and Services.
    pub writes: u64,
    /// Statuses taken back, of Ingresses that went over to another class.
    pub taken_back: u64,
    /// Statuses that wait to be written or taken back.
    pub writes_waiting: u64,
    /// Events made or repeated.
    pub events: u64,
    /// Events that wait for their turn.
    pub events_waiting: u64,
    /// Events that the server would not have.
    pub events_dropped: u64,
    /// Requests that failed; most are tried again.
    pub failures: u64,
    /// The last of them, as a sentence.
    pub last_error: Option<String>,
}

/// Where a [`Report`] is kept up to date. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    report: Report,
    until: Option<Instant>,
}

impl Reporter {
    /// One that has nothing to say yet, of the process of this name.
    pub fn new(identity: &str) -> Self {
        let reporter = Self::default();
        reporter.change(|report| report.identity = identity.to_owned());
        reporter
    }

    /// How things are now.
    pub fn report(&self) -> Report {
        let state = self.lock();
        let is_leader = state.until.is_some_and(|until| Instant::now() < until);
        Report { is_leader, ..state.report.clone() }
    }

    /// Changes what is said.
    pub(super) fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock().report);
    }

    pub(super) fn leading(&self, until: Option<Instant>, leader: Option<&str>) {
        let mut state = self.lock();
        state.until = until;
        state.report.leader = leader.map(str::to_owned);
    }

    pub(super) fn failed(&self, what: String) {
        self.change(|report| {
            report.failures += 1;
            report.last_error = Some(what);
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
