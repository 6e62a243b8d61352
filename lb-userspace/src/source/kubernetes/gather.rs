//! Gathers what the reflectors tell into one state, and hands it on when a burst is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::api::Collection;
use super::decode::Event;
use super::nodes::Nodes;
use super::reflector::{Change, Told};
use super::singles::Singles;
use super::{KINDS, Settings, Starter};
use crate::model::{Issue, ObjectKey, ObjectRef};
use crate::objects::{
    Kind, Object, Objects, Reference, parameters_of, references_of, references_of_settings,
};
use crate::source::{Health, Update, now_unix};

/// An update waits this long at most for an object that another has just begun to name. Without
/// the wait, an Ingress that moves to another Secret would be without certificate for a moment.
const SINGLE_PATIENCE: Duration = Duration::from_secs(1);
/// The first update waits this long for single objects. Longer would let whoever may name a Secret
/// that can't be read keep the node out of service.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// The state of all kinds.
pub struct Gatherer {
    settings: Settings,
    changed: mpsc::Receiver<Told>,
    sender: watch::Sender<Update>,
    objects: Objects,
    collections: BTreeMap<Arc<Collection>, State>,
    /// Objects that can't be read.
    bad: BTreeMap<ObjectRef, Issue>,
    singles: Singles,
    nodes: Nodes,
    synced: bool,
    since: Option<i64>,
}

/// What is known of a collection itself.
#[derive(Default)]
struct State {
    /// It was read in full at least once.
    listed: bool,
    /// What the list that is being read has brought so far.
    listing: Option<BTreeSet<ObjectKey>>,
    failing: Option<String>,
}

impl Gatherer {
    /// A gatherer that knows nothing yet, and its readers' end.
    pub fn new(starter: Starter, changed: mpsc::Receiver<Told>) -> (Self, watch::Receiver<Update>) {
        let update =
            Update { objects: Arc::default(), issues: Vec::new(), synced: false, health: Health::Ok };
        let (sender, receiver) = watch::channel(update);
        let settings = starter.settings.clone();
        let nodes = Nodes::new(starter.clone());
        let mut singles = Singles::new(starter);
        let of_settings =
            [(Kind::Secret, &settings.default_certificate), (Kind::ConfigMap, &settings.config_map)];
        for (kind, key) in of_settings {
            key.iter().for_each(|key| singles.want(&(kind, key.clone())));
        }
        let gatherer = Self {
            settings,
            changed,
            sender,
            objects: Objects::default(),
            collections: BTreeMap::new(),
            bad: BTreeMap::new(),
            singles,
            nodes,
            synced: false,
            since: None,
        };
        (gatherer, receiver)
    }

    /// Runs until nobody reads the updates. `tasks` are the reflectors; they end with it.
    pub async fn run(mut self, tasks: JoinSet<()>) {
        let mut dirty_since: Option<Instant> = None;
        let mut published = Instant::now();
        loop {
            let due = dirty_since.map(|since| match self.patience() {
                Some(patience) => since + patience,
                None => (since + self.settings.settle).max(published + self.settings.debounce),
            });
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.publish();
                    dirty_since = None;
                    published = Instant::now();
                    continue;
                }
                change = self.changed.recv() => match change {
                    Some((what, change)) => if !self.take(&what, change) { continue },
                    None => break,
                },
                () = self.sender.closed() => break,
            }
            dirty_since.get_or_insert_with(Instant::now);
        }
        drop(tasks);
    }

    /// How long to wait for single objects, if there are any to wait for.
    fn patience(&self) -> Option<Duration> {
        let nodes = self.nodes.are_awaited() && !self.listed(&Collection::all(Kind::Node));
        let waits = self.all_listed() && (nodes || !self.singles.all_answered());
        waits.then_some(if self.synced { SINGLE_PATIENCE } else { FIRST_PATIENCE })
    }

    fn all_listed(&self) -> bool {
        KINDS.iter().all(|kind| self.listed(&Collection::all(*kind)))
    }

    fn listed(&self, what: &Collection) -> bool {
        self.collections.get(what).is_some_and(|state| state.listed)
    }

    /// Returns whether there is anything to hand on.
    fn take(&mut self, what: &Arc<Collection>, change: Change) -> bool {
        let named = what.named.clone().map(|key| (what.kind, key));
        if named.as_ref().is_some_and(|one| !self.singles.wants(one)) {
            // Sent before its reflector was ended.
            return false;
        }
        if what.kind == Kind::Node && !self.nodes.are_asked_for() {
            return false;
        }
        let state = self.collections.entry(what.clone()).or_default();
        match change {
            Change::Listing => {
                state.listing = Some(BTreeSet::new());
                false
            }
            Change::Events(events) => {
                let mut changed = false;
                for event in events {
                    changed |= self.apply(what, event);
                }
                changed
            }
            Change::Listed => {
                let news = state.failing.take().is_some() | !std::mem::replace(&mut state.listed, true);
                let seen = state.listing.take().unwrap_or_default();
                if let Some(one) = &named {
                    self.singles.answered(one);
                }
                self.retain(what, &seen) | news
            }
            Change::Fetched(found) => {
                state.failing = None;
                let (event, version) = found.unzip();
                let Some(one) = &named else { return false };
                if self.singles.arrived(one, version.unwrap_or_default()) {
                    match event {
                        Some(event) => drop(self.apply(what, event)),
                        None => drop(self.remove(one.0, &one.1)),
                    }
                }
                true
            }
            Change::Failing(reason) => state.failing.replace(reason).is_none(),
            Change::Working => state.failing.take().is_some(),
        }
    }

    fn apply(&mut self, what: &Arc<Collection>, event: Event) -> bool {
        let key = match &event {
            Event::Applied(object) => object.key().clone(),
            Event::Named(key, _) | Event::Deleted(key) => key.clone(),
            Event::Bad(issue) => issue.object.key.clone(),
        };
        let all = KINDS.contains(&what.kind) || what.kind == Kind::Node;
        if !all && !self.singles.wants(&(what.kind, key.clone())) {
            return false;
        }
        if let Some(seen) = self.collections.get_mut(what).and_then(|state| state.listing.as_mut()) {
            seen.insert(key.clone());
        }
        match event {
            Event::Applied(object) => self.insert(key, object),
            Event::Named(key, version) => {
                self.singles.named(&(what.kind, key), version);
                false
            }
            Event::Deleted(key) if what.names_only => self.gone((what.kind, key)),
            Event::Deleted(key) => self.remove(what.kind, &key),
            Event::Bad(issue) => self.bad.insert(issue.object.clone(), *issue.clone()) != Some(*issue),
        }
    }

    fn insert(&mut self, key: ObjectKey, object: Object) -> bool {
        let kind = object.kind();
        let before = self.named_by(kind, &key);
        let changed = self.objects.insert(object);
        self.follow(&before, &self.named_by(kind, &key));
        self.look_for_nodes(kind, &key);
        self.bad.remove(&ObjectRef { kind: kind.name(), key }).is_some() | changed
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        let before = self.named_by(kind, key);
        let changed = self.objects.remove(kind, key);
        self.follow(&before, &[]);
        self.look_for_nodes(kind, key);
        self.bad.remove(&ObjectRef { kind: kind.name(), key: key.clone() }).is_some() | changed
    }

    /// An object names these now, and named those before.
    fn follow(&mut self, before: &[Reference], now: &[Reference]) {
        now.iter().filter(|one| !before.contains(one)).for_each(|one| self.singles.want(one));
        for one in before.iter().filter(|one| !now.contains(one)) {
            if self.singles.unwant(one) {
                self.remove(one.0, &one.1);
                self.collections.remove(&Collection::one(one.0, one.1.clone()));
            }
        }
    }

    /// A Service may ask for nodes now, or no longer.
    fn look_for_nodes(&mut self, kind: Kind, key: &ObjectKey) {
        if kind != Kind::Service {
            return;
        }
        let service = self.objects.services.get(key);
        if self.nodes.look_at(key, service.map(|service| &**service)) {
            self.objects.nodes.clear();
            self.collections.remove(&Collection::all(Kind::Node));
            self.bad.retain(|object, _| object.kind != Kind::Node.name());
        }
    }

    /// What the object of this key names, if it is held.
    fn named_by(&self, kind: Kind, key: &ObjectKey) -> Vec<Reference> {
        let objects = &self.objects;
        let named = match kind {
            Kind::Ingress => objects.ingresses.get(key).map(|ingress| references_of(key, ingress)),
            Kind::IngressClass => objects
                .classes
                .get(key)
                .map(|class| parameters_of(class).map(|key| (Kind::ConfigMap, key)).into_iter().collect()),
            Kind::ConfigMap if self.settings.config_map.as_ref() == Some(key) => {
                objects.config_maps.get(key).map(|map| references_of_settings(map))
            }
            _ => None,
        };
        named.unwrap_or_default()
    }

    /// The watch that objects share says that this one is gone.
    fn gone(&mut self, one: Reference) -> bool {
        self.singles.is_shared(&one) && {
            self.singles.gone(&one);
            self.remove(one.0, &one.1)
        }
    }

    /// Removes what a complete list has not brought.
    fn retain(&mut self, what: &Collection, seen: &BTreeSet<ObjectKey>) -> bool {
        let known: Vec<ObjectKey> = match &what.named {
            Some(key) => vec![key.clone()],
            None => {
                let bad = self.bad.keys().filter(|bad| bad.kind == what.kind.name());
                self.objects.keys(what.kind).chain(bad.map(|bad| bad.key.clone())).collect()
            }
        };
        let mut changed = false;
        for key in known.iter().filter(|key| !seen.contains(key)) {
            if what.names_only {
                self.singles.missed(&(what.kind, key.clone()));
            } else {
                changed |= self.remove(what.kind, key);
            }
        }
        changed
    }

    fn publish(&mut self) {
        let health = match self.collections.values().find_map(|state| state.failing.as_ref()) {
            None => {
                self.since = None;
                Health::Ok
            }
            Some(reason) => {
                let since = *self.since.get_or_insert_with(now_unix);
                Health::Degraded { since, reason: reason.clone() }
            }
        };
        if self.all_listed() {
            self.synced = true;
            // Whoever has not answered by now does not hold up the changes to come.
            self.singles.give_up();
            self.nodes.give_up();
        }
        // Before that, half a state would only be misread.
        let objects = if self.synced { Arc::new(self.objects.clone()) } else { Arc::default() };
        let issues = self.bad.values().cloned().collect();
        self.sender.send_replace(Update { objects, issues, synced: self.synced, health });
    }
}
