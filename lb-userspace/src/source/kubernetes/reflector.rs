//! One kind of object, listed and then watched for ever.
//!
//! `kube::runtime::watcher` is not used for two reasons. Its stream says nothing when a watch that
//! failed is up again, so nobody could tell when an outage is over; and an HTTP 410 at the start of
//! a watch makes it ask for the same expired version again without end.

use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::core::Status;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Settings;
use crate::objects::{Kind, Object};

/// What a reflector has to tell.
#[derive(Debug)]
pub enum Change {
    /// The whole list: replaces what was known of the kind.
    Listed(Kind, Vec<Object>),
    /// An object is new or different.
    Applied(Object),
    /// An object is gone; this was its last state.
    Deleted(Object),
    /// The kind can't be read; why.
    Failing(Kind, String),
    /// The kind can be read again.
    Working(Kind),
}

/// Lists and watches the objects of one kind.
pub struct Reflector<K> {
    /// The kind.
    pub kind: Kind,
    /// Where to ask.
    pub api: Api<K>,
    /// Only objects that this field selector matches.
    pub fields: Option<&'static str>,
    /// How patient to be.
    pub settings: Settings,
    /// Who listens.
    pub changes: mpsc::Sender<Change>,
}

enum Failure {
    /// The version or the continue token that was asked for is too old.
    Gone,
    Other {
        reason: String,
        retry_after: Duration,
    },
    /// Nobody listens any more.
    Unheard,
}

impl<K> Reflector<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Into<Object>,
{
    /// Runs until nobody listens.
    pub async fn run(self) {
        let mut version: Option<String> = None;
        let mut attempts: u32 = 0;
        // A continue token that expires again and again belongs to a list that changes faster
        // than it can be paged through; it is asked for in one piece then, as client-go does.
        let mut paged = true;
        loop {
            let started = Instant::now();
            let outcome = match &mut version {
                None => self.list(paged).await.map(|listed| version = Some(listed)),
                Some(version) => self.watch(version).await,
            };
            // A watch that was up for a while shows that the server is well.
            let lasted = started.elapsed() >= self.settings.backoff_max;
            let wait = match outcome {
                Ok(()) if version.is_some() && (lasted || attempts == 0) => {
                    paged = true;
                    attempts = u32::from(!lasted);
                    Duration::ZERO
                }
                Ok(()) => self.backoff(&mut attempts),
                Err(Failure::Gone) => {
                    paged = version.take().is_some();
                    self.backoff(&mut attempts)
                }
                Err(Failure::Other { reason, retry_after }) => {
                    if lasted {
                        attempts = 0;
                    }
                    tracing::debug!(kind = self.kind.name(), reason, attempts, "the Kubernetes API fails");
                    if self.changes.send(Change::Failing(self.kind, reason)).await.is_err() {
                        return;
                    }
                    self.backoff(&mut attempts).max(retry_after)
                }
                Err(Failure::Unheard) => return,
            };
            sleep(wait).await;
        }
    }

    /// Lists everything; returns the version to watch from.
    async fn list(&self, paged: bool) -> Result<String, Failure> {
        let mut params = ListParams { field_selector: self.fields.map(Into::into), ..Default::default() };
        params.limit = paged.then_some(self.settings.page);
        let mut objects = Vec::new();
        loop {
            let page = self.in_time("lists", self.api.list(&params)).await?;
            objects.extend(page.items.into_iter().map(|object| self.keep(object)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    self.tell(Change::Listed(self.kind, objects)).await?;
                    return Ok(version);
                }
            }
        }
    }

    /// Watches until the stream ends, which every stream does at times.
    async fn watch(&self, version: &mut String) -> Result<(), Failure> {
        let seconds = u32::try_from(self.settings.watch.as_secs()).unwrap_or(u32::MAX);
        let mut params = WatchParams::default().timeout(seconds.clamp(1, 290));
        params.field_selector = self.fields.map(Into::into);
        let events = self.in_time("watches", self.api.watch(&params, version)).await?;
        let mut events = std::pin::pin!(events);
        self.tell(Change::Working(self.kind)).await?;
        loop {
            // Silence beyond the bookmarks of every minute means a connection that died unseen.
            let Ok(next) = timeout(self.settings.idle, events.try_next()).await else { return Ok(()) };
            match next.map_err(|error| self.failure("watches", &error))? {
                None => return Ok(()),
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    advance(version, object.resource_version());
                    self.tell(Change::Applied(self.keep(object))).await?;
                }
                Some(WatchEvent::Deleted(object)) => {
                    advance(version, object.resource_version());
                    self.tell(Change::Deleted(self.keep(object))).await?;
                }
                Some(WatchEvent::Bookmark(mark)) => advance(version, Some(mark.metadata.resource_version)),
                Some(WatchEvent::Error(status)) => return Err(self.refused("watches", &status)),
            }
        }
    }

    async fn in_time<T>(
        &self,
        verb: &str,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        let limit = self.settings.answer;
        match timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|error| self.failure(verb, &error)),
            Err(_) => Err(self.other(verb, format!("no answer within {} s", limit.as_secs_f32()), 0)),
        }
    }

    fn failure(&self, verb: &str, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) => self.refused(verb, status),
            other => self.other(verb, chain(other), 0),
        }
    }

    fn refused(&self, verb: &str, status: &Status) -> Failure {
        if status.code == 410 || status.reason == "Expired" || status.reason == "Gone" {
            return Failure::Gone;
        }
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        self.other(verb, format!("{} {}", status.code, status.message), seconds)
    }

    fn other(&self, verb: &str, cause: String, retry_after: u32) -> Failure {
        let reason = format!("the Kubernetes API fails {verb} of {}: {cause}", self.kind.name());
        Failure::Other { reason, retry_after: Duration::from_secs(retry_after.into()) }
    }

    fn keep(&self, object: K) -> Object {
        let mut object = object.into();
        object.slim();
        object
    }

    async fn tell(&self, change: Change) -> Result<(), Failure> {
        self.changes.send(change).await.map_err(|_| Failure::Unheard)
    }

    /// Doubles with every attempt, and is spread over its upper half so that a thousand nodes
    /// don't come back in the same moment.
    fn backoff(&self, attempts: &mut u32) -> Duration {
        let doubled = self.settings.backoff_min.saturating_mul(1 << (*attempts).min(16));
        *attempts = attempts.saturating_add(1);
        let spread = RandomState::new().hash_one(*attempts) as f64 / u64::MAX as f64;
        doubled.min(self.settings.backoff_max).mul_f64(0.5 + 0.5 * spread)
    }
}

fn advance(version: &mut String, to: Option<String>) {
    if let Some(to) = to.filter(|to| !to.is_empty()) {
        *version = to;
    }
}

/// An error with all of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
