//! Stands for election by a Lease, and tells the others of this process whether it leads.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::lease::{Election, Step, Timing};
use super::report::Reporter;
use super::request::{Failure, in_time};
use super::{FIELD_MANAGER, Settings};
use crate::backoff::{Backoff, luck};

/// Whether this process leads.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Whether it does now. To be asked before each write.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when it was won, lost or renewed.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One candidate.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    timing: Timing,
    answer: Duration,
    election: Election,
    until: watch::Sender<Option<Instant>>,
    reporter: Reporter,
    failures: u32,
}

impl Elector {
    /// A candidate for the Lease of the settings, and what it says of itself.
    pub fn new(client: kube::Client, settings: &Settings, reporter: Reporter) -> (Self, Leadership) {
        let (until, leadership) = watch::channel(None);
        let elector = Self {
            api: Api::namespaced(client, &settings.lease.namespace),
            name: settings.lease.name.to_string(),
            timing: settings.timing,
            answer: settings.answer,
            election: Election::new(settings.identity.clone(), settings.timing),
            until,
            reporter,
            failures: 0,
        };
        (elector, Leadership(leadership))
    }

    /// Stands until `ended`, then lets go of the Lease, so that nobody has to wait for its end.
    pub async fn run(mut self, ended: impl Future<Output = ()>) {
        let mut ended = std::pin::pin!(ended);
        loop {
            let wait = match self.round().await {
                Ok(wait) => {
                    self.failures = 0;
                    wait
                }
                Err(failure) => {
                    self.failures = self.failures.saturating_add(1);
                    let what = format!("the Lease {}: {failure}", self.name);
                    tracing::debug!(failures = self.failures, "{what}");
                    self.reporter.failed(what);
                    let backoff = Backoff { min: self.timing.renew / 3, max: self.timing.renew };
                    let after =
                        if let Failure::Busy { after, .. } = failure { after } else { Duration::ZERO };
                    backoff.wait(self.failures, luck()).max(after)
                }
            };
            self.tell();
            tokio::select! {
                () = &mut ended => break,
                () = sleep(wait) => {}
            }
        }
        let Some(lease) = self.election.release(Timestamp::now()) else { return };
        self.tell();
        if let Err(failure) = self.replace(&lease).await {
            tracing::debug!("can't let go of the Lease: {failure}; it ends by itself");
        }
    }

    /// Looks at the Lease, does what is to be done, and says how long to wait before the next time.
    async fn round(&mut self) -> Result<Duration, Failure> {
        // A holder knows the version that it wrote last; whoever else wrote since is told by a
        // conflict, so the usual renewal is one request.
        if self.election.step(Instant::now()) != Step::Renew || self.failures > 0 {
            let lease = in_time(self.answer, self.api.get_opt(&self.name)).await?;
            self.election.observe(lease, Instant::now());
        }
        let step = self.election.step(Instant::now());
        if step == Step::Wait {
            return Ok(self.timing.poll.mul_f64(0.75 + 0.5 * luck()));
        }
        let mut claim = self.election.claim(step, Timestamp::now());
        let sent = Instant::now();
        let won = if step == Step::Create {
            claim.metadata.name = Some(self.name.clone());
            in_time(self.answer, self.api.create(&params(), &claim)).await
        } else {
            self.replace(&claim).await
        };
        self.election.won(won?, sent);
        Ok(self.timing.renew)
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, Failure> {
        in_time(self.answer, self.api.replace(&self.name, &params(), lease)).await
    }

    /// Hands the state of things on, and logs its turns.
    fn tell(&self) {
        let until = self.election.until().filter(|until| Instant::now() < *until);
        let led = self.until.borrow().is_some();
        match (led, until.is_some()) {
            (false, true) => tracing::info!(lease = self.name, "leads: writes Ingress status and Events"),
            (true, false) => tracing::info!(lease = self.name, "leads no more"),
            _ => {}
        }
        self.until.send_replace(until);
        self.reporter.leading(until, self.election.holder());
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
