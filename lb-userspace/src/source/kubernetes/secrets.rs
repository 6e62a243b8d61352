//! The Secrets that Ingresses name, and no others.
//!
//! Each is followed by a watch of its own, by namespace and name, so a cluster may give Sluice the
//! right to read just those. The API server is made for that: every kubelet does it. But kube's
//! client speaks HTTP/1.1, so a watch is a connection, and thousands of Ingresses may name thousands
//! of Secrets. From [`super::Settings::secret_watches`] on, the Secrets beyond share one watch of
//! the *names and versions* of all Secrets (`PartialObjectMetadata`), and each is fetched by its name
//! when it is first named and when its version changes. So news come as fast for all of them, by
//! one round trip more; contents of other Secrets never leave the API server; and connections are
//! bounded. The shared watch takes the right to list and watch Secrets in all namespaces: without it,
//! Secrets beyond the bound are still fetched once, their changes are missed, and the source's health says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::api::Collection;
use super::backoff::Backoff;
use super::reflector::{Change, describe};
use super::{Starter, decode};
use crate::model::ObjectKey;
use crate::objects::Kind;

/// Secrets that are fetched at the same time.
const FETCHES: usize = 16;

/// Who follows which Secret.
pub struct Secrets {
    starter: Starter,
    wanted: BTreeMap<ObjectKey, Wanted>,
    /// The watch that Secrets without one of their own share.
    shared: Option<AbortHandle>,
    watches: usize,
    fetches: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

/// A Secret that somebody names.
struct Wanted {
    /// By how many.
    count: usize,
    /// Whether it is known what the API has of it.
    answered: bool,
    how: How,
}

enum How {
    /// By a watch of its own.
    Watched(AbortHandle),
    /// By the shared watch.
    Shared {
        /// The version that is held, empty if none is.
        version: String,
        /// A version that was told while the Secret was being fetched; the task.
        fetching: Option<(String, AbortHandle)>,
    },
}

impl Secrets {
    /// Follows nothing yet.
    pub fn new(starter: Starter) -> Self {
        let fetches = Arc::new(Semaphore::new(FETCHES));
        Self { starter, wanted: BTreeMap::new(), shared: None, watches: 0, fetches, tasks: JoinSet::new() }
    }

    /// One more names this Secret.
    pub fn want(&mut self, key: &ObjectKey) {
        if let Some(known) = self.wanted.get_mut(key) {
            known.count += 1;
            return;
        }
        let how = if self.watches < self.starter.settings.secret_watches {
            self.watches += 1;
            How::Watched(self.watch(key))
        } else {
            if self.shared.is_none() {
                let names = Collection { names_only: true, ..Collection::all(Kind::Secret) };
                self.shared = Some(self.starter.start(names, &mut self.tasks));
            }
            How::Shared { version: String::new(), fetching: Some((String::new(), self.fetch(key))) }
        };
        self.wanted.insert(key.clone(), Wanted { count: 1, answered: false, how });
    }

    /// One less names this Secret. Returns whether nobody does any more.
    pub fn unwant(&mut self, key: &ObjectKey) -> bool {
        let Some(known) = self.wanted.get_mut(key) else { return false };
        known.count -= 1;
        if known.count > 0 {
            return false;
        }
        match self.wanted.remove(key).map(|known| known.how) {
            Some(How::Watched(task)) => {
                task.abort();
                self.watches -= 1;
                self.promote();
            }
            Some(How::Shared { fetching: Some((_, task)), .. }) => task.abort(),
            _ => {}
        }
        if self.wanted.len() == self.watches
            && let Some(shared) = self.shared.take()
        {
            shared.abort();
        }
        true
    }

    /// Gives the first Secret that has none a watch of its own.
    fn promote(&mut self) {
        let first = self.wanted.iter().find(|(_, known)| matches!(known.how, How::Shared { .. }));
        let Some(key) = first.map(|(key, _)| key.clone()) else { return };
        self.watches += 1;
        let task = self.watch(&key);
        let Some(known) = self.wanted.get_mut(&key) else { return };
        if let How::Shared { fetching: Some((_, task)), .. } = &known.how {
            task.abort();
        }
        known.how = How::Watched(task);
    }

    /// Whether somebody names this Secret.
    pub fn wants(&self, key: &ObjectKey) -> bool {
        self.wanted.contains_key(key)
    }

    /// Whether it is known of every Secret what the API has of it.
    pub fn all_answered(&self) -> bool {
        self.wanted.values().all(|known| known.answered)
    }

    /// What the API has of this Secret is known.
    pub fn answered(&mut self, key: &ObjectKey) {
        if let Some(known) = self.wanted.get_mut(key) {
            known.answered = true;
        }
    }

    /// Secrets without an answer are waited for no longer.
    pub fn give_up(&mut self) {
        self.wanted.values_mut().for_each(|known| known.answered = true);
    }

    /// The shared watch says that a Secret has this version.
    pub fn named(&mut self, key: &ObjectKey, now: String) {
        match self.wanted.get_mut(key).map(|known| &mut known.how) {
            Some(How::Shared { fetching: Some((told, _)), .. }) => *told = now,
            Some(How::Shared { version, .. }) if *version != now => self.fetch_again(key, now),
            _ => {}
        }
    }

    /// A list of names was without this Secret: it is gone, or was named only after its name went by.
    pub fn missed(&mut self, key: &ObjectKey) {
        match self.wanted.get_mut(key).map(|known| &mut known.how) {
            // No version is called so: what is being fetched is fetched once more.
            Some(How::Shared { fetching: Some((told, _)), .. }) => *told = "missed".into(),
            Some(How::Shared { .. }) => self.fetch_again(key, String::new()),
            _ => {}
        }
    }

    fn fetch_again(&mut self, key: &ObjectKey, told: String) {
        let task = self.fetch(key);
        if let Some(Wanted { how: How::Shared { fetching, .. }, .. }) = self.wanted.get_mut(key) {
            *fetching = Some((told, task));
        }
    }

    /// A fetched Secret has arrived, of this version, or none. Returns whether it counts.
    pub fn arrived(&mut self, key: &ObjectKey, got: String) -> bool {
        let Some(known) = self.wanted.get_mut(key) else { return false };
        known.answered = true;
        let How::Shared { version, fetching } = &mut known.how else { return false };
        // Told of another version meanwhile: that may be older than what was got, or newer.
        let again = fetching.take().is_some_and(|(told, _)| !told.is_empty() && told != got);
        *version = got;
        if again {
            self.fetch_again(key, String::new());
        }
        true
    }

    /// Whether the shared watch speaks for this Secret.
    pub fn is_shared(&self, key: &ObjectKey) -> bool {
        matches!(self.wanted.get(key), Some(Wanted { how: How::Shared { .. }, .. }))
    }

    /// The shared watch says that this Secret is gone.
    pub fn gone(&mut self, key: &ObjectKey) {
        if let Some(Wanted { how: How::Shared { version, .. }, answered, .. }) = self.wanted.get_mut(key) {
            version.clear();
            *answered = true;
        }
    }

    fn watch(&mut self, key: &ObjectKey) -> AbortHandle {
        self.starter.start(Collection::one(Kind::Secret, key.clone()), &mut self.tasks)
    }

    fn fetch(&mut self, key: &ObjectKey) -> AbortHandle {
        // Those that have ended.
        while self.tasks.try_join_next().is_some() {}
        let (starter, key, turns) = (self.starter.clone(), key.clone(), self.fetches.clone());
        self.tasks.spawn(fetch(starter, key, turns))
    }
}

/// Asks until there is an answer, and tells it.
async fn fetch(starter: Starter, key: ObjectKey, turns: Arc<Semaphore>) {
    let Starter { server, settings, changes, .. } = starter;
    let what = Arc::new(Collection::one(Kind::Secret, key.clone()));
    let mut backoff = Backoff::new(settings.backoff_min, settings.backoff_max);
    loop {
        // Never closed.
        let turn = turns.acquire().await;
        let answer = server.get(Kind::Secret, &key).await;
        drop(turn);
        let (cause, wait) = match answer {
            Ok(text) => {
                let found = text.map(|text| decode::object(&what, &String::from_utf8_lossy(&text)));
                // Only fails when nobody listens any more.
                let _ = changes.send((what, Change::Fetched(found))).await;
                return;
            }
            Err(failure) => failure.cause(),
        };
        let _ = changes.send((what.clone(), Change::Failing(describe(&what, &cause)))).await;
        sleep(backoff.next().max(wait)).await;
    }
}
