//! Gathers what the reflectors tell into one state, and hands it on when a burst is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::reflector::Change;
use super::{Settings, Starter};
use crate::model::ObjectKey;
use crate::objects::{Kind, Object, Objects};
use crate::source::{Health, Update, now_unix};

const KINDS: [Kind; 5] =
    [Kind::IngressClass, Kind::Ingress, Kind::Service, Kind::EndpointSlice, Kind::Secret];

/// An update waits this long at most for a Secret that an Ingress has just begun to name. Without
/// the wait, an Ingress that moves to another Secret would be without certificate for a moment.
const SECRET_PATIENCE: Duration = Duration::from_secs(1);

/// The state of all kinds.
pub struct Gatherer {
    settings: Settings,
    changed: mpsc::Receiver<Change>,
    sender: watch::Sender<Update>,
    objects: Objects,
    listed: BTreeSet<Kind>,
    failing: BTreeMap<Kind, String>,
    since: Option<i64>,
    /// The Secrets that may be held.
    wanted: BTreeSet<ObjectKey>,
    /// Secrets that exist but aren't wanted: only their names are kept.
    passed_over: BTreeSet<ObjectKey>,
    /// Secrets that became wanted after they had been passed over.
    fetching: BTreeSet<ObjectKey>,
}

impl Gatherer {
    /// A gatherer that knows nothing yet, and its readers' end.
    pub fn new(settings: Settings, changed: mpsc::Receiver<Change>) -> (Self, watch::Receiver<Update>) {
        let update =
            Update { objects: Arc::default(), issues: Vec::new(), synced: false, health: Health::Ok };
        let (sender, receiver) = watch::channel(update);
        let gatherer = Self {
            wanted: settings.default_certificate.iter().cloned().collect(),
            settings,
            changed,
            sender,
            objects: Objects::default(),
            listed: BTreeSet::new(),
            failing: BTreeMap::new(),
            since: None,
            passed_over: BTreeSet::new(),
            fetching: BTreeSet::new(),
        };
        (gatherer, receiver)
    }

    /// Runs until nobody reads the updates. `tasks` are the reflectors; they end with it.
    pub async fn run(mut self, starter: Starter, mut tasks: JoinSet<()>) {
        let secrets: Api<Secret> = Api::all(starter.client.clone());
        let (fetched, mut arrived) = mpsc::channel(64);
        let mut dirty_since: Option<Instant> = None;
        let mut secrets_started = false;
        loop {
            let due = dirty_since.map(|since| {
                let patience =
                    if self.fetching.is_empty() { self.settings.debounce } else { SECRET_PATIENCE };
                since + patience
            });
            tokio::select! {
                change = self.changed.recv() => match change {
                    Some(change) => if !self.take(change) { continue },
                    None => return,
                },
                Some((key, secret)) = arrived.recv() => self.arrive(&key, secret),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.publish();
                    dirty_since = None;
                    continue;
                }
                () = self.sender.closed() => return,
            }
            dirty_since.get_or_insert_with(Instant::now);
            // Only when it is known which Secrets are wanted can the others be passed over.
            if !secrets_started && self.listed.contains(&Kind::Ingress) {
                secrets_started = true;
                starter.start_secrets(&mut tasks);
            }
            for key in self.take_missing() {
                let (api, fetched) = (secrets.clone().into_client(), fetched.clone());
                let settings = self.settings.clone();
                tasks.spawn(async move {
                    let secret = fetch(api, &key, &settings).await;
                    // Only fails when the gatherer has ended.
                    let _ = fetched.send((key, secret)).await;
                });
            }
        }
    }

    /// Returns whether there is anything to hand on.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Listed(kind, objects) => {
                self.failing.remove(&kind);
                self.replace(kind, objects);
                self.listed.insert(kind);
                self.follow_ingresses(kind);
            }
            Change::Applied(object) => {
                let kind = object.kind();
                let key = object.key();
                if kind == Kind::Secret {
                    self.fetching.remove(&key);
                }
                if kind == Kind::Secret && !self.wanted.contains(&key) {
                    self.objects.remove(kind, &key);
                    self.passed_over.insert(key);
                } else {
                    self.objects.insert(object);
                }
                self.follow_ingresses(kind);
            }
            Change::Deleted(object) => {
                let (kind, key) = (object.kind(), object.key());
                if kind == Kind::Secret {
                    self.passed_over.remove(&key);
                    self.fetching.remove(&key);
                }
                self.objects.remove(kind, &key);
                self.follow_ingresses(kind);
            }
            Change::Failing(kind, reason) => return self.failing.insert(kind, reason).is_none(),
            Change::Working(kind) => return self.failing.remove(&kind).is_some(),
        }
        true
    }

    /// Keeps what the list holds.
    fn replace(&mut self, kind: Kind, mut listed: Vec<Object>) {
        if kind == Kind::Secret {
            self.fetching.clear();
            self.passed_over = listed.iter().map(Object::key).collect();
            listed.retain(|object| self.wanted.contains(&object.key()));
            for object in &listed {
                self.passed_over.remove(&object.key());
            }
        }
        self.objects.replace_all(kind, listed);
    }

    /// After a change of Ingresses: which Secrets are wanted now.
    fn follow_ingresses(&mut self, changed: Kind) {
        if changed != Kind::Ingress {
            return;
        }
        let mut wanted: BTreeSet<ObjectKey> = self.settings.default_certificate.iter().cloned().collect();
        for (key, ingress) in &self.objects.ingresses {
            let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
            let names = tls.filter_map(|tls| tls.secret_name.as_deref());
            wanted.extend(names.map(|name| ObjectKey::new(key.namespace.clone(), name)));
        }
        if wanted == self.wanted {
            return;
        }
        self.wanted = wanted;
        let unwanted: Vec<ObjectKey> =
            self.objects.secrets.keys().filter(|key| !self.wanted.contains(key)).cloned().collect();
        for key in unwanted {
            self.objects.remove(Kind::Secret, &key);
            self.passed_over.insert(key);
        }
    }

    /// The Secrets that have to be asked for; each is named once.
    fn take_missing(&mut self) -> Vec<ObjectKey> {
        let keys: Vec<ObjectKey> = self.wanted.intersection(&self.passed_over).cloned().collect();
        for key in &keys {
            self.passed_over.remove(key);
            self.fetching.insert(key.clone());
        }
        keys
    }

    fn arrive(&mut self, key: &ObjectKey, secret: Option<Secret>) {
        // The watch was faster, with a newer version or the news that the Secret is gone.
        if !self.fetching.remove(key) {
            return;
        }
        match secret {
            Some(secret) if self.wanted.contains(key) => {
                self.objects.insert(secret);
            }
            Some(_) => drop(self.passed_over.insert(key.clone())),
            None => {}
        }
    }

    fn publish(&mut self) {
        let health = match self.failing.values().next() {
            None => {
                self.since = None;
                Health::Ok
            }
            Some(reason) => {
                let since = *self.since.get_or_insert_with(now_unix);
                Health::Degraded { since, reason: reason.clone() }
            }
        };
        let synced = KINDS.iter().all(|kind| self.listed.contains(kind));
        // Before that, half a state would only be misread.
        let objects = if synced { Arc::new(self.objects.clone()) } else { Arc::default() };
        let update = Update { objects, issues: Vec::new(), synced, health };
        self.sender.send_replace(update);
    }
}

/// Asks for one Secret until there is an answer. `None`: it does not exist.
async fn fetch(client: kube::Client, key: &ObjectKey, settings: &Settings) -> Option<Secret> {
    let api: Api<Secret> = Api::namespaced(client, &key.namespace);
    let mut wait = settings.backoff_min;
    loop {
        match timeout(settings.answer, api.get_opt(&key.name)).await {
            Ok(Ok(mut secret)) => {
                if let Some(secret) = &mut secret {
                    secret.metadata.managed_fields = None;
                }
                return secret;
            }
            Ok(Err(error)) => tracing::debug!(secret = %key, %error, "can't get a Secret"),
            Err(_) => tracing::debug!(secret = %key, "no answer for a Secret"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(settings.backoff_max);
    }
}
