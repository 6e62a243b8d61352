//! Writes the statuses of Ingresses and Services: a few at a time, at a bounded rate, and only while leading.
//!
//! A write is a merge patch of `status.loadBalancer.ingress` alone, with the version it was decided
//! on. It so never undoes what others write beside it, which a replacement of the whole status
//! could. And it is refused when the object has changed since: a decision that is out of date (the
//! class went over to another controller a moment ago; this process slept while another took the
//! lead) can't overwrite what came after it, which a patch without a version would.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::addresses::{Address, Addresses, Publish, of_service};
use super::elector::Leadership;
use super::ledger::{Desired, Ledger, Next, Write};
use super::pace::Bucket;
use super::report::Reporter;
use super::request::{Failure, in_time};
use super::{FIELD_MANAGER, Settings, View};
use crate::backoff::luck;
use crate::objects::{Ingress, Service};

/// Writes the statuses of all Ingresses and Services that are ours.
pub struct Writer {
    client: Client,
    settings: Settings,
    leadership: Leadership,
    reporter: Reporter,
    ingresses: Ledger<Ingress>,
    services: Ledger<Service>,
    bucket: Bucket,
    under_way: JoinSet<(Kind, Write, Result<(), Failure>)>,
    /// The server asked to be left alone, or can't be reached.
    paused: Option<Instant>,
    failures: u32,
}

/// Whose status is written.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ingress,
    Service,
}

impl Writer {
    /// One that has written nothing yet.
    pub fn new(client: Client, settings: Settings, leadership: Leadership, reporter: Reporter) -> Self {
        Self {
            client,
            leadership,
            reporter,
            ingresses: Ledger::new(settings.backoff),
            services: Ledger::new(settings.backoff),
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
        mut nodes: watch::Receiver<Option<Addresses>>,
    ) {
        let mut nodes_told = true;
        loop {
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                let addresses = self.addresses(&view, nodes.borrow_and_update().clone());
                let desired = Desired::Alike { owned: Arc::clone(&view.owned), addresses };
                self.ingresses.review(&view.objects.ingresses, desired, Instant::now());
                let desired = Desired::Each(Arc::clone(&view.balanced));
                self.services.review(&view.objects.services, desired, Instant::now());
            }
            // Everything that needs no new look at the objects.
            loop {
                let wake = self.start_writes();
                let waiting = self.ingresses.waiting() + self.services.waiting();
                let waiting = if self.leadership.holds() { waiting } else { 0 };
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
                    Some(done) = self.under_way.join_next() => if let Ok((kind, write, outcome)) = done {
                        self.settle(kind, &write, outcome);
                    },
                    () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                }
            }
        }
    }

    /// What Ingresses that are ours shall say.
    fn addresses(&self, view: &View, nodes: Option<Addresses>) -> Option<Addresses> {
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
            let (kind, write) = match self.ingresses.next(now) {
                Next::Write(write) => (Kind::Ingress, write),
                ingresses => match self.services.next(now) {
                    Next::Write(write) => (Kind::Service, write),
                    services => return [ingresses, services].into_iter().filter_map(Next::at).min(),
                },
            };
            self.bucket.take(now);
            let (client, limit) = (self.client.clone(), self.settings.answer);
            self.under_way.spawn(async move {
                let outcome = send(client, kind, &write, limit).await;
                (kind, write, outcome)
            });
        }
        None
    }

    fn settle(&mut self, kind: Kind, write: &Write, outcome: Result<(), Failure>) {
        let now = Instant::now();
        match &outcome {
            Ok(()) => {
                (self.failures, self.paused) = (0, None);
                tracing::debug!(?kind, object = %write.key, addresses = write.addresses.len(), "status written");
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
                let what = format!("the status of {kind:?} {}: {failure}", write.key);
                tracing::debug!("{what}");
                self.reporter.failed(what);
            }
        }
        let outcome = outcome.as_ref().map(|_| ());
        match kind {
            Kind::Ingress => self.ingresses.settle(write, outcome, now, luck()),
            Kind::Service => self.services.settle(write, outcome, now, luck()),
        }
    }

    async fn finish(mut self) {
        while self.under_way.join_next().await.is_some() {}
    }
}

async fn send(client: Client, kind: Kind, write: &Write, limit: Duration) -> Result<(), Failure> {
    let namespace = &*write.key.namespace;
    match kind {
        Kind::Ingress => patch(Api::<networking::Ingress>::namespaced(client, namespace), write, limit).await,
        Kind::Service => patch(Api::<core::Service>::namespaced(client, namespace), write, limit).await,
    }
}

async fn patch<K>(api: Api<K>, write: &Write, limit: Duration) -> Result<(), Failure>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let entries: Vec<_> = write.addresses.iter().map(Address::entry).collect();
    let patch = json!({
        "metadata": {"resourceVersion": write.version},
        "status": {"loadBalancer": {"ingress": (!entries.is_empty()).then_some(entries)}},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    in_time(limit, api.patch_status(&write.key.name, &params, &Patch::Merge(patch))).await.map(|_| ())
}
