//! Which statuses of one kind of objects are to be written: the decisions, without any I/O. Time is an argument.
//!
//! Level-triggered: each look at the objects finds out what is to be written *now*; nothing is
//! queued but names, and what a name leads to is decided when its turn comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::addresses::{Address, Addresses, of_balancer, of_ingress};
use super::request::Failure;
use crate::backoff::Backoff;
use crate::model::ObjectKey;
use crate::objects::{Ingress, Metadata, ObjectMap, Service};

/// An object whose status says at which addresses it is reached.
pub trait Published {
    /// Of the object.
    fn metadata(&self) -> &Metadata;

    /// `metadata.resourceVersion`.
    fn version(&self) -> Option<&str>;

    /// What its status says.
    fn says(&self) -> BTreeSet<Address>;

    /// Some Sluice wrote that, and takes it back where the object is no longer ours.
    fn is_own_word(&self) -> bool;
}

impl Published for Ingress {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn says(&self) -> BTreeSet<Address> {
        of_ingress(self)
    }

    fn is_own_word(&self) -> bool {
        self.status_is_ours
    }
}

impl Published for Service {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn version(&self) -> Option<&str> {
        self.outside().version.as_deref()
    }

    fn says(&self) -> BTreeSet<Address> {
        of_balancer(self)
    }

    fn is_own_word(&self) -> bool {
        // A Service's class can't change, and with another type the API empties the status itself.
        false
    }
}

/// What the objects of a kind shall say. Nothing is written to those of which it is not known: an old status is
/// better than none.
#[derive(Clone, Debug, PartialEq)]
pub enum Desired {
    /// Those that are ours all say the same.
    Alike {
        /// Which are ours.
        owned: Arc<BTreeSet<ObjectKey>>,
        /// What they say.
        addresses: Option<Addresses>,
    },
    /// Ours say what is theirs.
    Each(Arc<BTreeMap<ObjectKey, Addresses>>),
}

impl Desired {
    /// Whether there is anything to know of an object.
    fn concerns(&self, key: &ObjectKey) -> bool {
        match self {
            Self::Alike { .. } => true,
            Self::Each(all) => all.contains_key(key),
        }
    }

    fn owns(&self, key: &ObjectKey) -> bool {
        match self {
            Self::Alike { owned, .. } => owned.contains(key),
            Self::Each(all) => all.contains_key(key),
        }
    }

    /// What an object says, if it is ours.
    fn addresses(&self, key: &ObjectKey) -> Option<&Addresses> {
        let addresses = match self {
            Self::Alike { addresses, .. } => addresses.as_ref(),
            Self::Each(all) => all.get(key),
        };
        addresses.filter(|addresses| !addresses.is_empty())
    }
}

/// What is known of each object, and whose turn comes when.
#[derive(Debug)]
pub struct Ledger<O> {
    /// In boxes: a tree's nodes are half empty.
    entries: BTreeMap<ObjectKey, Box<Entry<O>>>,
    turns: BTreeSet<(Instant, ObjectKey)>,
    /// What was looked at last.
    seen: Option<(ObjectMap<O>, Desired)>,
    backoff: Backoff,
}

/// One status to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Of which object.
    pub key: ObjectKey,
    /// The version that this was decided on. The server refuses it for any other.
    pub version: Option<Box<str>>,
    /// What it shall say; empty to take back what it says.
    pub addresses: Addresses,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This, now. To be followed by [`Ledger::settle`].
    Write(Write),
    /// Nothing before then.
    At(Instant),
    /// Nothing, until something changes.
    Nothing,
}

impl Next {
    /// When there is something to do, if not now.
    pub fn at(self) -> Option<Instant> {
        match self {
            Self::At(turn) => Some(turn),
            Self::Write(_) | Self::Nothing => None,
        }
    }
}

#[derive(Debug)]
struct Entry<O> {
    object: Arc<O>,
    says: Addresses,
    /// What it shall say, if it is ours.
    desired: Option<Addresses>,
    /// It is ours.
    ours: bool,
    /// It was ours and went over to another class; what we wrote may still have to be taken back.
    leaving: bool,
    /// What was written last.
    wrote: Option<Addresses>,
    /// The version that was last written over: until the watch brings the next one, there is nothing to do.
    answered: Option<Option<Box<str>>>,
    failures: u32,
    writing: bool,
    turn: Option<Instant>,
}

impl<O: Published> Entry<O> {
    fn new(object: Arc<O>, like: &Addresses) -> Self {
        let says = says(&*object, like);
        Self {
            object,
            says,
            desired: None,
            ours: false,
            leaving: false,
            wrote: None,
            answered: None,
            failures: 0,
            writing: false,
            turn: None,
        }
    }

    /// What its status shall say, if that is not what it says.
    fn wanted(&self) -> Option<Addresses> {
        if self.object.metadata().deleting {
            return None;
        }
        let wanted = match (self.ours, self.leaving) {
            (true, _) => self.desired.as_ref().filter(|desired| **desired != self.says)?.clone(),
            (false, true) if self.is_own_word() => Addresses::default(),
            (false, _) => return None,
        };
        let answered =
            self.answered.as_ref().is_some_and(|version| version.as_deref() == self.object.version());
        (!answered || self.wrote.as_ref() != Some(&wanted)).then_some(wanted)
    }

    /// Whether what it says is what we write or wrote, rather than another controller's word.
    fn is_own_word(&self) -> bool {
        let mut own = [&self.desired, &self.wrote].into_iter().flatten();
        !self.says.is_empty() && own.any(|own| *own == self.says)
    }
}

/// What an object says; the same set as `like` if that is equal. Almost all Ingresses say the same.
fn says(object: &impl Published, like: &Addresses) -> Addresses {
    let says = object.says();
    if says == **like { like.clone() } else { Arc::new(says) }
}

impl<O: Published> Ledger<O> {
    /// One that knows nothing yet.
    pub fn new(backoff: Backoff) -> Self {
        Self { entries: BTreeMap::new(), turns: BTreeSet::new(), seen: None, backoff }
    }

    /// Looks at everything anew.
    pub fn review(&mut self, objects: &ObjectMap<O>, desired: Desired, now: Instant) {
        let known = self.seen.replace((objects.clone(), desired));
        let Some((_, desired)) = &self.seen else { return };
        if known.is_some_and(|(o, d)| o.ptr_eq(objects) && d == *desired) {
            return;
        }
        let turns = &mut self.turns;
        self.entries.retain(|key, entry| {
            let there = objects.contains_key(key) && desired.concerns(key);
            if let (false, Some(turn)) = (there, entry.turn) {
                turns.remove(&(turn, key.clone()));
            }
            there
        });
        let mut like = Addresses::default();
        for (key, object) in objects.iter().filter(|(key, _)| desired.concerns(key)) {
            let wanted = desired.addresses(key);
            if let (true, Some(wanted)) = (like.is_empty(), wanted) {
                like.clone_from(wanted);
            }
            let entry = self
                .entries
                .entry(key.clone())
                .or_insert_with(|| Box::new(Entry::new(object.clone(), &like)));
            if !Arc::ptr_eq(&entry.object, object) {
                if entry.object.metadata().uid == object.metadata().uid {
                    let says = says(&**object, &like);
                    // Whoever wrote after it left, it was not for us to take back.
                    entry.leaving &= says == entry.says;
                    entry.says = says;
                    entry.object = object.clone();
                } else {
                    // Another one of the same name.
                    let (writing, turn) = (entry.writing, entry.turn);
                    **entry = Entry { writing, turn, ..Entry::new(object.clone(), &like) };
                }
            }
            like.clone_from(&entry.says);
            entry.desired = wanted.cloned();
            let ours = desired.owns(key);
            // Its class may have changed while nobody looked.
            entry.leaving = !ours && (entry.leaving || entry.ours || object.is_own_word());
            entry.ours = ours;
            // Who does not lead may not know what is published, and only remembers.
            entry.leaving &= entry.desired.is_none() || entry.is_own_word();
            if entry.wanted().is_some() && !entry.writing && entry.turn.is_none() {
                entry.turn = Some(now);
                self.turns.insert((now, key.clone()));
            }
        }
    }

    /// Whose turn it is.
    pub fn next(&mut self, now: Instant) -> Next {
        while let Some((turn, key)) = self.turns.first().cloned() {
            if turn > now {
                return Next::At(turn);
            }
            self.turns.pop_first();
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.turn = None;
            if entry.writing {
                continue;
            }
            if let Some(addresses) = entry.wanted() {
                entry.writing = true;
                let version = entry.object.version().map(Into::into);
                return Next::Write(Write { key, version, addresses });
            }
        }
        Next::Nothing
    }

    /// What came of a write. `luck` (0 to 1) spreads the wait after a failure.
    pub fn settle(&mut self, write: &Write, outcome: Result<(), &Failure>, now: Instant, luck: f64) {
        let Some(entry) = self.entries.get_mut(&write.key) else { return };
        entry.writing = false;
        match outcome {
            Ok(()) => {
                entry.failures = 0;
                entry.wrote = Some(write.addresses.clone());
                entry.answered = Some(write.version.clone());
                entry.leaving &= !write.addresses.is_empty();
            }
            // It is gone; the watch will say so.
            Err(Failure::NotFound(_)) => {
                entry.wrote = Some(write.addresses.clone());
                entry.answered = Some(write.version.clone());
            }
            Err(failure) => {
                entry.failures = entry.failures.saturating_add(1);
                // What is refused is refused for a long time; but rights may be granted later.
                let refused = matches!(failure, Failure::Refused(_));
                let wait = if refused { self.backoff.max } else { self.backoff.wait(entry.failures, luck) };
                let after = if let Failure::Busy { after, .. } = failure { *after } else { wait };
                entry.turn = Some(now + wait.max(after));
            }
        }
        // Something may have changed while the request was under way.
        if entry.turn.is_none() && entry.wanted().is_some() {
            entry.turn = Some(now);
        }
        if let Some(turn) = entry.turn {
            self.turns.insert((turn, write.key.clone()));
        }
    }

    /// How many wait for their turn.
    pub fn waiting(&self) -> usize {
        self.turns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::networking::v1 as networking;
    use serde_json::json;
    use std::time::Duration;

    const BACKOFF: Backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) };

    fn set(texts: &[&str]) -> Addresses {
        Arc::new(texts.iter().map(|text| text.parse().expect("an address")).collect())
    }

    fn ingress(version: u32, says: &[&str]) -> Arc<Ingress> {
        let entries: Vec<_> = says.iter().map(|ip| json!({"ip": ip})).collect();
        let metadata =
            json!({"name": "a", "namespace": "d", "uid": "u1", "resourceVersion": version.to_string()});
        let status = json!({"loadBalancer": {"ingress": entries}});
        let ingress = json!({"metadata": metadata, "status": status});
        Arc::new(Ingress::from(&serde_json::from_value::<networking::Ingress>(ingress).expect("an Ingress")))
    }

    /// One Ingress, its ledger, and a clock.
    struct Rig {
        ledger: Ledger<Ingress>,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self { ledger: Ledger::new(BACKOFF), now: Instant::now() }
        }

        fn see(&mut self, ingress: Option<&Arc<Ingress>>, ours: bool, desired: &[&str]) -> &mut Self {
            let key = ObjectKey::new("d", "a");
            let all = ingress.map(|ingress| (key.clone(), ingress.clone())).into_iter().collect();
            let owned = if ours { BTreeSet::from([key]) } else { BTreeSet::new() };
            let desired = Desired::Alike { owned: Arc::new(owned), addresses: Some(set(desired)) };
            self.ledger.review(&all, desired, self.now);
            self
        }

        fn next(&mut self) -> Option<Write> {
            match self.ledger.next(self.now) {
                Next::Write(write) => Some(write),
                Next::At(_) | Next::Nothing => None,
            }
        }

        /// What is written next, if anything: the addresses and the version it is written over.
        fn writes(&mut self) -> Option<(Vec<String>, String)> {
            let write = self.next()?;
            self.ledger.settle(&write, Ok(()), self.now, 1.0);
            let texts = write.addresses.iter().map(Address::to_string).collect();
            Some((texts, write.version.unwrap_or_default().into()))
        }
    }

    #[test]
    fn written_only_when_it_says_something_else() {
        let two = &["192.0.2.1", "2001:db8::1"];
        for (what, says, ours, desired, expect) in [
            ("new", &[][..], true, &two[..], Some(vec!["192.0.2.1", "2001:db8::1"])),
            ("equal", two, true, two, None),
            ("equal in another order", &["2001:db8::1", "192.0.2.1"], true, two, None),
            ("equal in other letters", &["2001:DB8:0::1", "192.0.2.1"], true, two, None),
            ("one more", two, true, &["192.0.2.1"], Some(vec!["192.0.2.1"])),
            ("another", &["192.0.2.9"], true, &["192.0.2.1"], Some(vec!["192.0.2.1"])),
            ("nothing known: left as it is", two, true, &[], None),
            ("another class", &["192.0.2.9"], false, two, None),
            ("another class with the same addresses", two, false, two, None),
            ("another class without any", &[], false, two, None),
        ] {
            let mut rig = Rig::new();
            rig.see(Some(&ingress(1, says)), ours, desired);
            let got = rig.writes().map(|(texts, _)| texts);
            assert_eq!(got, expect.map(|e| e.into_iter().map(str::to_owned).collect()), "{what}");
            assert_eq!(rig.writes(), None, "{what}: once");
        }
    }

    #[test]
    fn waits_for_the_watch_after_a_write() {
        let mut rig = Rig::new();
        let first = ingress(1, &[]);
        assert_eq!(rig.see(Some(&first), true, &["192.0.2.1"]).writes().map(|w| w.1), Some("1".into()));
        assert_eq!(rig.see(Some(&first), true, &["192.0.2.1"]).writes(), None, "not seen yet");
        assert_eq!(rig.see(Some(&ingress(2, &["192.0.2.1"])), true, &["192.0.2.1"]).writes(), None);
        // Somebody else writes over it: it is ours, so it gets our word again, over the new version.
        let third = ingress(3, &["192.0.2.9"]);
        assert_eq!(rig.see(Some(&third), true, &["192.0.2.1"]).writes().map(|w| w.1), Some("3".into()));
        // A node more.
        let texts = vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()];
        assert_eq!(
            rig.see(Some(&third), true, &["192.0.2.2", "192.0.2.1"]).writes(),
            Some((texts, "3".into()))
        );
    }

    #[test]
    fn taken_back_once_and_only_what_is_ours() {
        let own = &["192.0.2.1"];
        // What it says when it leaves, and what the nodes publish then.
        for (what, says, desired, expect) in [
            ("our word", &["192.0.2.1"][..], own, true),
            ("our word, and the nodes moved on meanwhile", &["192.0.2.1"], &["192.0.2.2"], true),
            ("the other controller was faster", &["192.0.2.9"], own, false),
            ("nothing any more", &[], own, false),
        ] {
            let mut rig = Rig::new();
            rig.see(Some(&ingress(1, &[])), true, own);
            assert!(rig.writes().is_some(), "{what}");
            rig.see(Some(&ingress(2, own)), true, own);
            let left = ingress(3, says);
            rig.see(Some(&left), false, desired);
            let taken = rig.writes();
            assert_eq!(taken, expect.then(|| (vec![], "3".to_owned())), "{what}");
            assert_eq!(rig.see(Some(&left), false, desired).writes(), None, "{what}: once");
            // The other controller happens to be at the same addresses.
            assert_eq!(rig.see(Some(&ingress(5, own)), false, own).writes(), None, "{what}: never again");
        }
    }

    #[test]
    fn what_was_never_seen_as_ours_is_not_taken_back() {
        let mut rig = Rig::new();
        let says = ingress(1, &["192.0.2.1"]);
        assert_eq!(rig.see(Some(&says), false, &["192.0.2.1"]).writes(), None);
        // Ours before without a write of this process: a leader that has changed, or a restart.
        rig.see(Some(&says), true, &["192.0.2.1"]);
        assert_eq!(rig.see(Some(&says), false, &["192.0.2.1"]).writes(), Some((vec![], "1".into())));
        // And back to us before it was taken back.
        let mut rig = Rig::new();
        rig.see(Some(&says), true, &["192.0.2.1"]).see(Some(&says), false, &["192.0.2.1"]);
        assert_eq!(rig.see(Some(&says), true, &["192.0.2.1"]).writes(), None);
        // It left while another process led, which ended before it could take it back.
        let mut rig = Rig::new();
        rig.see(Some(&says), true, &[]).see(Some(&ingress(2, &["192.0.2.1"])), false, &[]);
        assert_eq!(rig.writes(), None);
        assert_eq!(
            rig.see(Some(&ingress(2, &["192.0.2.1"])), false, &["192.0.2.1"]).writes(),
            Some((vec![], "2".into()))
        );
        // The same, but the leader did take it back, and the other controller wrote afterwards.
        let mut rig = Rig::new();
        rig.see(Some(&says), true, &[]).see(Some(&ingress(2, &["192.0.2.1"])), false, &[]);
        rig.see(Some(&ingress(3, &[])), false, &[]).see(Some(&ingress(4, &["192.0.2.1"])), false, &[]);
        assert_eq!(rig.see(Some(&ingress(4, &["192.0.2.1"])), false, &["192.0.2.1"]).writes(), None);
    }

    #[test]
    fn failures_are_tried_again_when_it_may_help() {
        let busy = |seconds| Failure::Busy { why: String::new(), after: Duration::from_secs(seconds) };
        // What fails in a row, and after how many seconds each time the next attempt comes.
        for (failures, waits) in [
            (vec![Failure::Conflict, Failure::Conflict, Failure::Conflict], vec![1, 2, 4]),
            (vec![busy(0), busy(0)], vec![1, 2]),
            (vec![busy(7), busy(0)], vec![7, 2]),
            (vec![Failure::Refused(String::new())], vec![60]),
        ] {
            let mut rig = Rig::new();
            rig.see(Some(&ingress(1, &[])), true, &["192.0.2.1"]);
            for (failure, wait) in failures.iter().zip(waits) {
                let write = rig.next().expect("an attempt");
                rig.ledger.settle(&write, Err(failure), rig.now, 1.0);
                let at = rig.now + Duration::from_secs(wait);
                assert_eq!(rig.ledger.next(rig.now), Next::At(at), "{failure:?}");
                rig.see(Some(&ingress(1, &[])), true, &["192.0.2.1"]);
                assert_eq!(rig.ledger.next(rig.now), Next::At(at), "{failure:?}: a look does not hurry it");
                rig.now = at;
            }
            assert!(rig.writes().is_some() && rig.writes().is_none(), "{failures:?}");
        }
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut rig = Rig::new();
        let one = ingress(1, &[]);
        let write = rig.see(Some(&one), true, &["192.0.2.1"]).next().expect("a write");
        rig.ledger.settle(&write, Err(&Failure::NotFound(String::new())), rig.now, 1.0);
        assert_eq!(rig.see(Some(&one), true, &["192.0.2.1"]).writes(), None, "not asked for again");

        rig.see(Some(&ingress(2, &[])), true, &["192.0.2.1"]);
        rig.see(None, false, &["192.0.2.1"]);
        assert_eq!((rig.ledger.next(rig.now), rig.ledger.waiting()), (Next::Nothing, 0));

        // A write that is under way while it goes and another one of its name comes.
        let write = rig.see(Some(&ingress(3, &[])), true, &["192.0.2.1"]).next().expect("a write");
        let mut other = (*ingress(9, &["192.0.2.1"])).clone();
        other.metadata.uid = Some("u2".into());
        rig.see(Some(&Arc::new(other.clone())), false, &["192.0.2.1"]);
        rig.ledger.settle(&write, Err(&Failure::Conflict), rig.now, 1.0);
        rig.now += BACKOFF.max;
        assert_eq!(rig.writes(), None, "it was never ours");

        let mut going = (*ingress(1, &[])).clone();
        going.metadata.deleting = true;
        let mut rig = Rig::new();
        assert_eq!(
            rig.see(Some(&Arc::new(going)), true, &["192.0.2.1"]).writes(),
            None,
            "it is being deleted"
        );
    }
}
