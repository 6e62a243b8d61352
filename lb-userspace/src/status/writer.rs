//! Writes Ingress statuses: a few at a time, at a bounded rate, and only while leading.
//!
//! A write is a merge patch of `status.loadBalancer.ingress` alone, with the version it was decided
//! on. It so never undoes what others write beside it, which a replacement of the whole status
//! could. And it is refused when the Ingress has changed since: a decision that is out of date (the
//! class went over to another controller a moment ago; this process slept while another took the
//! lead) can't overwrite what came after it, which a patch without a version would.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::Ingress;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::addresses::{Address, Publish, of_service};
use super::elector::Leadership;
use super::ledger::{Addresses, Ledger, Next, Write};
use super::members::Desired;
use super::pace::Bucket;
use super::report::Reporter;
use super::request::{Failure, in_time};
use super::{FIELD_MANAGER, Settings, View};
use crate::backoff::luck;

/// Writes the statuses of all Ingresses that are ours.
pub struct Writer {
    client: Client,
    settings: Settings,
    leadership: Leadership,
    reporter: Reporter,
    ledger: Ledger,
    bucket: Bucket,
    under_way: JoinSet<(Write, Result<(), Failure>)>,
    /// The server asked to be left alone, or can't be reached.
    paused: Option<Instant>,
    failures: u32,
}

impl Writer {
    /// One that has written nothing yet.
    pub fn new(client: Client, settings: Settings, leadership: Leadership, reporter: Reporter) -> Self {
        Self {
            client,
            leadership,
            reporter,
            ledger: Ledger::new(settings.backoff),
            bucket: Bucket::new(settings.writes, Instant::now()),
            settings,
            under_way: JoinSet::new(),
            paused: None,
            failures: 0,
        }
    }

    /// Runs until there are no more views; what is under way then still gets its answer.
    pub async fn run(
        mut self,
        mut views: watch::Receiver<Option<Arc<View>>>,
        mut nodes: watch::Receiver<Desired>,
    ) {
        let mut nodes_told = true;
        loop {
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                let desired = self.desired(&view, nodes.borrow_and_update().clone());
                self.ledger.review(&view.objects.ingresses, &view.owned, desired, Instant::now());
            }
            // Everything that needs no new look at the objects.
            loop {
                let wake = self.start_writes();
                let waiting = if self.leadership.holds() { self.ledger.waiting() } else { 0 };
                let waiting = (waiting + self.under_way.len()) as u64;
                self.reporter.change(|report| report.writes_waiting = waiting);
                tokio::select! {
                    changed = views.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return self.finish().await,
                    },
                    changed = nodes.changed(), if nodes_told => {
                        nodes_told = changed.is_ok();
                        break;
                    }
                    () = self.leadership.changed() => {}
                    Some(done) = self.under_way.join_next() => if let Ok((write, outcome)) = done {
                        self.settle(&write, outcome);
                    },
                    () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                }
            }
        }
    }

    /// What ours shall say.
    fn desired(&self, view: &View, nodes: Desired) -> Option<Addresses> {
        let desired = match &self.settings.publish {
            Publish::Nodes => nodes,
            Publish::Fixed(addresses) => Some(Arc::new(addresses.clone())),
            Publish::Service(key) => {
                view.objects.services.get(key).map(|service| Arc::new(of_service(service)))
            }
        };
        let texts = desired.iter().flat_map(|all| all.iter().map(Address::to_string)).collect();
        self.reporter.change(|report| report.addresses = texts);
        desired
    }

    /// Starts what may be started now; returns when there is more to start.
    fn start_writes(&mut self) -> Option<Instant> {
        while self.leadership.holds() && self.under_way.len() < self.settings.concurrency {
            let now = Instant::now();
            if let Some(until) = self.paused.filter(|until| *until > now) {
                return Some(until);
            }
            let room = self.bucket.next(now);
            if room > now {
                return Some(room);
            }
            match self.ledger.next(now) {
                Next::Write(write) => {
                    self.bucket.take(now);
                    let (client, limit) = (self.client.clone(), self.settings.answer);
                    self.under_way.spawn(async move {
                        let outcome = send(client, &write, limit).await;
                        (write, outcome)
                    });
                }
                Next::At(turn) => return Some(turn),
                Next::Nothing => return None,
            }
        }
        None
    }

    fn settle(&mut self, write: &Write, outcome: Result<(), Failure>) {
        let now = Instant::now();
        match &outcome {
            Ok(()) => {
                (self.failures, self.paused) = (0, None);
                tracing::debug!(ingress = %write.key, addresses = write.addresses.len(), "status written");
                self.reporter.change(|report| match write.addresses.is_empty() {
                    true => report.taken_back += 1,
                    false => report.writes += 1,
                });
            }
            Err(failure) => {
                if let Failure::Busy { after, .. } = failure {
                    self.failures = self.failures.saturating_add(1);
                    let wait = self.settings.backoff.wait(self.failures, luck()).max(*after);
                    self.paused = self.paused.max(Some(now + wait));
                }
                let what = format!("the status of Ingress {}: {failure}", write.key);
                tracing::debug!("{what}");
                self.reporter.failed(what);
            }
        }
        self.ledger.settle(write, outcome.as_ref().map(|_| ()), now, luck());
    }

    async fn finish(mut self) {
        while self.under_way.join_next().await.is_some() {}
    }
}

async fn send(client: Client, write: &Write, limit: Duration) -> Result<(), Failure> {
    let api: Api<Ingress> = Api::namespaced(client, &write.key.namespace);
    let entries: Vec<_> = write.addresses.iter().map(Address::entry).collect();
    let patch = json!({
        "metadata": {"resourceVersion": write.version},
        "status": {"loadBalancer": {"ingress": (!entries.is_empty()).then_some(entries)}},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    in_time(limit, api.patch_status(&write.key.name, &params, &Patch::Merge(patch))).await.map(|_| ())
}
