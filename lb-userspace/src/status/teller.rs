//! Tells Events: one after the other, at a bounded rate, and only while leading.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::book::{Book, Telling};
use super::elector::Leadership;
use super::pace::Bucket;
use super::report::Reporter;
use super::request::{Failure, in_time};
use super::{CONTROLLER, FIELD_MANAGER, Settings, View};
use crate::backoff::luck;

/// Tells people what is wrong with their objects.
pub struct Teller {
    client: Client,
    settings: Settings,
    leadership: Leadership,
    reporter: Reporter,
    book: Book,
    bucket: Bucket,
    /// The server asked to be left alone until then, or can't be reached.
    paused: Instant,
    failures: u32,
}

impl Teller {
    /// One that has told nothing yet.
    pub fn new(client: Client, settings: Settings, leadership: Leadership, reporter: Reporter) -> Self {
        let book = Book::new(settings.again, settings.synced_again);
        let now = Instant::now();
        let bucket = Bucket::new(settings.events, now);
        Self { client, settings, leadership, reporter, book, bucket, paused: now, failures: 0 }
    }

    /// Runs until there are no more views.
    pub async fn run(mut self, mut views: watch::Receiver<Option<Arc<View>>>) {
        loop {
            let mut wake = Instant::now() + self.look_again();
            let leads = self.leadership.holds();
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                self.book.observe(&view, Instant::now());
                if leads {
                    wake = wake.min(self.tell(&view).await);
                }
            }
            loop {
                tokio::select! {
                    changed = views.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    // Told of each renewal too, which changes nothing here.
                    () = self.leadership.changed() => if self.leadership.holds() != leads { break },
                    () = sleep_until(wake) => break,
                }
            }
        }
    }

    /// Tells what there is room for; returns when to go on.
    async fn tell(&mut self, view: &View) -> Instant {
        let now = Instant::now();
        if now < self.paused {
            return self.paused;
        }
        let room = self.bucket.room(now);
        let (tellings, more) = self.book.plan(view, now, room);
        let mut waiting = tellings.len() + more;
        for telling in &tellings {
            if !self.leadership.holds() || !self.bucket.take(Instant::now()) {
                break;
            }
            let outcome = self.send(telling).await;
            let lost = self.book.settle(telling, outcome.as_ref().map(|_| ()), Instant::now());
            self.reporter.change(|report| {
                report.events += u64::from(outcome.is_ok());
                report.events_dropped += u64::from(lost);
            });
            match outcome {
                Ok(()) | Err(Failure::Exists) => self.failures = 0,
                Err(failure) => {
                    let what = format!("the Event {}/{}: {failure}", telling.namespace, telling.name);
                    tracing::debug!("{what}");
                    self.reporter.failed(what);
                    if let Failure::Busy { after, .. } = failure {
                        self.failures = self.failures.saturating_add(1);
                        let wait = self.settings.backoff.wait(self.failures, luck());
                        self.paused = Instant::now() + wait.max(after);
                        break;
                    }
                }
            }
            waiting -= 1;
        }
        self.reporter.change(|report| report.events_waiting = waiting as u64);
        match waiting {
            0 => now + self.look_again(),
            _ => self.bucket.next(Instant::now()).max(self.paused),
        }
    }

    /// Things become due by time alone, too.
    fn look_again(&self) -> Duration {
        self.settings.again.min(self.settings.synced_again)
    }

    async fn send(&self, telling: &Telling) -> Result<(), Failure> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &telling.namespace);
        let (now, limit) = (Timestamp::now(), self.settings.answer);
        if telling.count > 1 {
            let last = MicroTime(now);
            let patch = json!({"series": {"count": telling.count, "lastObservedTime": last}});
            let params =
                PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            return in_time(limit, api.patch(&telling.name, &params, &Patch::Merge(patch))).await.map(drop);
        }
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        in_time(limit, api.create(&params, &event(telling, &self.settings.identity, now))).await.map(drop)
    }
}

fn event(telling: &Telling, identity: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(telling.name.clone()),
            namespace: Some(telling.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        regarding: Some(telling.regarding.clone()),
        type_: Some(if telling.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(telling.reason.clone()),
        note: Some(telling.note.clone()),
        action: Some("Serve".to_owned()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(identity.to_owned()),
        ..Event::default()
    }
}
