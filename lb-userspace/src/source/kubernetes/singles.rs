//! The Secrets and ConfigMaps that other objects name, and no others.
//!
//! Each is followed by a watch of its own, by namespace and name, so a cluster may give Sluice the
//! right to read just those. The API server is made for that: every kubelet does it. But kube's
//! client speaks HTTP/1.1, so a watch is a connection, and thousands of Ingresses may name thousands
//! of Secrets. From [`super::Settings::single_watches`] on, the objects beyond share one watch for each
//! kind, of the *names and versions* of all its objects (`PartialObjectMetadata`), and each is fetched by
//! its name when it is first named and when its version changes. So news come as fast for all of them,
//! by one round trip more; contents of other objects never leave the API server; and connections are
//! bounded. A shared watch takes the right to list and watch the kind in all namespaces: without it,
//! objects beyond the bound are still fetched once, their changes are missed, and the source's health
//! says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::api::Collection;
use super::reflector::{Change, describe};
use super::{Starter, decode};
use crate::backoff::Attempts;
use crate::objects::{Kind, Reference};

/// Objects that are fetched at the same time.
const FETCHES: usize = 16;

/// Who follows which object.
pub struct Singles {
    starter: Starter,
    wanted: BTreeMap<Reference, Wanted>,
    /// The watches that objects without one of their own share, by their kind.
    shared: BTreeMap<Kind, AbortHandle>,
    watches: usize,
    fetches: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

/// An object that somebody names.
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
        /// A version that was told while the object was being fetched; the task.
        fetching: Option<(String, AbortHandle)>,
    },
}

impl Singles {
    /// Follows nothing yet.
    pub fn new(starter: Starter) -> Self {
        let fetches = Arc::new(Semaphore::new(FETCHES));
        Self {
            starter,
            wanted: BTreeMap::new(),
            shared: BTreeMap::new(),
            watches: 0,
            fetches,
            tasks: JoinSet::new(),
        }
    }

    /// One more names this object.
    pub fn want(&mut self, key: &Reference) {
        if let Some(known) = self.wanted.get_mut(key) {
            known.count += 1;
            return;
        }
        let how = if self.watches < self.starter.settings.single_watches {
            self.watches += 1;
            How::Watched(self.watch(key))
        } else {
            let names = Collection { names_only: true, ..Collection::all(key.0) };
            let start = || self.starter.start(names, &mut self.tasks);
            self.shared.entry(key.0).or_insert_with(start);
            How::Shared { version: String::new(), fetching: Some((String::new(), self.fetch(key))) }
        };
        self.wanted.insert(key.clone(), Wanted { count: 1, answered: false, how });
    }

    /// One less names this object. Returns whether nobody does any more.
    pub fn unwant(&mut self, key: &Reference) -> bool {
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
        self.shared.retain(|kind, shared| {
            let of_kind = |(known, one): (&Reference, &Wanted)| known.0 == *kind && one.is_shared();
            let is_used = self.wanted.iter().any(of_kind);
            if !is_used {
                shared.abort();
            }
            is_used
        });
        true
    }

    /// Gives the first object that has none a watch of its own.
    fn promote(&mut self) {
        let first = self.wanted.iter().find(|(_, known)| known.is_shared());
        let Some(key) = first.map(|(key, _)| key.clone()) else { return };
        self.watches += 1;
        let task = self.watch(&key);
        let Some(known) = self.wanted.get_mut(&key) else { return };
        if let How::Shared { fetching: Some((_, task)), .. } = &known.how {
            task.abort();
        }
        known.how = How::Watched(task);
    }

    /// Whether somebody names this object.
    pub fn wants(&self, key: &Reference) -> bool {
        self.wanted.contains_key(key)
    }

    /// Whether it is known of every object what the API has of it.
    pub fn all_answered(&self) -> bool {
        self.wanted.values().all(|known| known.answered)
    }

    /// What the API has of this object is known.
    pub fn answered(&mut self, key: &Reference) {
        if let Some(known) = self.wanted.get_mut(key) {
            known.answered = true;
        }
    }

    /// Objects without an answer are waited for no longer.
    pub fn give_up(&mut self) {
        self.wanted.values_mut().for_each(|known| known.answered = true);
    }

    /// The shared watch says that an object has this version.
    pub fn named(&mut self, key: &Reference, now: String) {
        match self.wanted.get_mut(key).map(|known| &mut known.how) {
            Some(How::Shared { fetching: Some((told, _)), .. }) => *told = now,
            Some(How::Shared { version, .. }) if *version != now => self.fetch_again(key, now),
            _ => {}
        }
    }

    /// A list of names was without this object: it is gone, or was named only after its name went by.
    pub fn missed(&mut self, key: &Reference) {
        match self.wanted.get_mut(key).map(|known| &mut known.how) {
            // No version is called so: what is being fetched is fetched once more.
            Some(How::Shared { fetching: Some((told, _)), .. }) => *told = "missed".into(),
            Some(How::Shared { .. }) => self.fetch_again(key, String::new()),
            _ => {}
        }
    }

    fn fetch_again(&mut self, key: &Reference, told: String) {
        let task = self.fetch(key);
        if let Some(Wanted { how: How::Shared { fetching, .. }, .. }) = self.wanted.get_mut(key) {
            *fetching = Some((told, task));
        }
    }

    /// A fetched object has arrived, of this version, or none. Returns whether it counts.
    pub fn arrived(&mut self, key: &Reference, got: String) -> bool {
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

    /// Whether the shared watch speaks for this object.
    pub fn is_shared(&self, key: &Reference) -> bool {
        self.wanted.get(key).is_some_and(Wanted::is_shared)
    }

    /// The shared watch says that this object is gone.
    pub fn gone(&mut self, key: &Reference) {
        if let Some(Wanted { how: How::Shared { version, .. }, answered, .. }) = self.wanted.get_mut(key) {
            version.clear();
            *answered = true;
        }
    }

    fn watch(&mut self, key: &Reference) -> AbortHandle {
        self.starter.start(Collection::one(key.0, key.1.clone()), &mut self.tasks)
    }

    fn fetch(&mut self, key: &Reference) -> AbortHandle {
        // Those that have ended.
        while self.tasks.try_join_next().is_some() {}
        let (starter, key, turns) = (self.starter.clone(), key.clone(), self.fetches.clone());
        self.tasks.spawn(fetch(starter, key, turns))
    }
}

impl Wanted {
    fn is_shared(&self) -> bool {
        matches!(self.how, How::Shared { .. })
    }
}

/// Asks until there is an answer, and tells it.
async fn fetch(starter: Starter, key: Reference, turns: Arc<Semaphore>) {
    let Starter { server, settings, changes, .. } = starter;
    let what = Arc::new(Collection::one(key.0, key.1.clone()));
    let mut backoff = Attempts::new(settings.backoff);
    loop {
        // Never closed.
        let turn = turns.acquire().await;
        let answer = server.get(key.0, &key.1).await;
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
        sleep(backoff.wait().max(wait)).await;
    }
}
