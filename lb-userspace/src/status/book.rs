//! Which Events are to be told: the decisions, without any I/O. Time is an argument.
//!
//! Level-triggered like the statuses: what is to be told is found out anew from the newest snapshot
//! each time there is room. A flood of issues so costs time, never memory, and what was mended
//! before its turn came is not told at all.
//!
//! The same issue of the same object always has an Event of the same name. So whoever leads next
//! finds that it was told already, and hourly repeats count up the one Event, as long as the server
//! keeps it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::View;
use super::addresses::of_ingress;
use super::request::Failure;
use crate::model::{Issue, ObjectKey, Severity};
use crate::objects::{Ingress, Kind, ObjectMap};

/// Of one object's issues so many become Events, the worst first; `sluice status` has them all.
const MOST_PER_OBJECT: usize = 10;
/// The API refuses longer notes.
const LONGEST_NOTE: usize = 1024;
/// So many Events are remembered as told.
const MOST_TOLD: usize = 20_000;
/// A change of an Ingress that is older was somebody else's to tell.
const STALE: Duration = Duration::from_secs(60);
const SYNCED: &str = "Synced";

/// What has been told, and what is new.
#[derive(Debug)]
pub struct Book {
    again: Duration,
    synced_again: Duration,
    told: HashMap<u64, Told>,
    /// All Ingresses as they were when last looked at, and which were ours.
    known: Option<(ObjectMap<Ingress>, Arc<BTreeSet<ObjectKey>>)>,
    /// Newly served, or served by a new text, and since when.
    fresh: BTreeMap<ObjectKey, Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    /// How often, as far as this process knows; 0: the server would not have it.
    count: i32,
    /// It was there when it should have been made: to be counted up, not made.
    found: bool,
}

/// One Event to make or to count up.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    id: u64,
    /// The Event's name.
    pub name: String,
    /// The Event's namespace.
    pub namespace: String,
    /// What it is about.
    pub regarding: ObjectReference,
    /// Whether something is wrong.
    pub warning: bool,
    /// One word, for people and scripts.
    pub reason: String,
    /// A sentence or two.
    pub note: String,
    /// How often with this time. 1: to be made; more: to be counted up.
    pub count: i32,
}

impl Book {
    /// An empty one. What goes on is told again after `again`, changes of one Ingress after `synced_again`.
    pub fn new(again: Duration, synced_again: Duration) -> Self {
        Self { again, synced_again, told: HashMap::new(), known: None, fresh: BTreeMap::new() }
    }

    /// Finds out which Ingresses are newly served. To be shown every view, leading or not.
    pub fn observe(&mut self, view: &View, now: Instant) {
        self.fresh.retain(|key, since| view.owned.contains(key) && now < *since + STALE);
        let known = self.known.replace((view.objects.ingresses.clone(), view.owned.clone()));
        let Some((before, owned_before)) = known else {
            // One that has an address was served before this process began.
            let new = view.ours().filter(|(_, ingress)| of_ingress(ingress).is_empty());
            return self.fresh.extend(new.map(|(key, _)| (key.clone(), now)));
        };
        if before.ptr_eq(&view.objects.ingresses) && Arc::ptr_eq(&owned_before, &view.owned) {
            return;
        }
        for (key, ingress) in view.ours() {
            let same = before.get(key).filter(|_| owned_before.contains(key)).is_some_and(|old| {
                Arc::ptr_eq(old, ingress)
                    || old.spec == ingress.spec && old.metadata.annotations == ingress.metadata.annotations
            });
            if !same {
                self.fresh.insert(key.clone(), now);
            }
        }
    }

    /// At most `room` Events that are to be told now, and how many more there are.
    pub fn plan(&mut self, view: &View, now: Instant, room: usize) -> (Vec<Telling>, usize) {
        self.forget(now);
        let (mut tellings, mut more) = (Vec::new(), 0);
        let mut put = |telling: Telling| match tellings.len() < room {
            true => tellings.push(telling),
            false => more += 1,
        };
        let worth_it = |issue: &&Issue| issue.severity >= Severity::Warning;
        for issues in view.snapshot.issues.chunk_by(|a, b| a.object == b.object) {
            let Some(regarding) = regarding(view, &issues[0]) else { continue };
            for issue in issues.iter().filter(worth_it).take(MOST_PER_OBJECT) {
                let reason = format!("{:?}", issue.reason);
                let id = id(&regarding, &[&reason, &issue.field, &issue.message]);
                if let Some(count) = self.count(id, self.again, now) {
                    let note = match issue.field.as_str() {
                        "" => issue.message.clone(),
                        field => format!("{field}: {}", issue.message),
                    };
                    put(Telling::new(id, regarding.clone(), true, reason, note, count));
                }
            }
        }
        let troubled: HashSet<_> = view
            .snapshot
            .issues
            .iter()
            .filter(|issue| issue.object.kind == Kind::Ingress.name() && worth_it(issue))
            .map(|issue| &issue.object.key)
            .collect();
        for key in self.fresh.keys().filter(|key| !troubled.contains(key)) {
            let regarding = reference(view, Kind::Ingress, key);
            let id = id(&regarding, &[SYNCED]);
            if let Some(count) = self.count(id, self.synced_again, now) {
                let note = "Served as it is written now.".to_owned();
                put(Telling::new(id, regarding, false, SYNCED.to_owned(), note, count));
            }
        }
        (tellings, more)
    }

    /// What came of it; whether it is lost.
    pub fn settle(&mut self, telling: &Telling, outcome: Result<(), &Failure>, now: Instant) -> bool {
        let count = match outcome {
            Ok(()) => telling.count,
            // The leader before has told it. Of an issue that is enough; a change is to be counted.
            Err(Failure::Exists) => {
                self.told.insert(telling.id, Told { at: now, count: 1, found: !telling.warning });
                return false;
            }
            // The server keeps Events for an hour, usually. The next time it is made anew.
            Err(Failure::NotFound(_)) if telling.count > 1 => {
                self.told.remove(&telling.id);
                return false;
            }
            Err(Failure::Busy { .. } | Failure::Conflict) => return false,
            Err(Failure::NotFound(_) | Failure::Refused(_)) => 0,
        };
        self.told.insert(telling.id, Told { at: now, count, found: false });
        if !telling.warning {
            let regarding = &telling.regarding;
            let part = |part: &Option<String>| part.clone().unwrap_or_default();
            self.fresh.remove(&ObjectKey::new(part(&regarding.namespace), part(&regarding.name)));
        }
        count == 0
    }

    /// The how-many-eth time it would be told now, if it is to be told.
    fn count(&self, id: u64, again: Duration, now: Instant) -> Option<i32> {
        match self.told.get(&id) {
            None => Some(1),
            Some(told) if told.found || now >= told.at + again => Some(told.count.saturating_add(1)),
            Some(_) => None,
        }
    }

    /// Keeps memory bounded. What is forgotten may be told early, and is then found to be there.
    fn forget(&mut self, now: Instant) {
        let keep = self.again * 2;
        if self.told.len() > MOST_TOLD {
            self.told.retain(|_, told| now < told.at + keep);
        }
        if self.told.len() > MOST_TOLD {
            let mut times: Vec<_> = self.told.values().map(|told| told.at).collect();
            let (_, middle, _) = times.select_nth_unstable(MOST_TOLD / 2);
            let middle = *middle;
            self.told.retain(|_, told| told.at > middle);
        }
    }
}

impl Telling {
    fn new(
        id: u64,
        regarding: ObjectReference,
        warning: bool,
        reason: String,
        mut note: String,
        count: i32,
    ) -> Self {
        if note.len() > LONGEST_NOTE {
            note.truncate(note.floor_char_boundary(LONGEST_NOTE - '…'.len_utf8()));
            note.push('…');
        }
        let object = regarding.name.as_deref().unwrap_or_default();
        // Names are at most 253 bytes long.
        let stem = &object[..object.floor_char_boundary(253 - 17)];
        let name = format!("{}.{id:016x}", stem.trim_end_matches(['.', '-']));
        // Events of objects without a namespace belong into this one.
        let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Self { id, name, namespace, regarding, warning, reason, note, count }
    }
}

/// The object that an issue is about, if it is in the cluster and ours to speak of.
fn regarding(view: &View, issue: &Issue) -> Option<ObjectReference> {
    let kind = Kind::from_name(issue.object.kind)?;
    if kind == Kind::Ingress && !view.owned.contains(&issue.object.key) {
        return None;
    }
    view.objects.contains(kind, &issue.object.key).then(|| reference(view, kind, &issue.object.key))
}

fn reference(view: &View, kind: Kind, key: &ObjectKey) -> ObjectReference {
    ObjectReference {
        api_version: Some(kind.api_version().to_owned()),
        kind: Some(kind.name().to_owned()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.to_string()),
        name: Some(key.name.to_string()),
        uid: view.objects.uid(kind, key).map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// The same whatever Sluice was built with: the next version's leader finds the Events of this one's.
fn id(regarding: &ObjectReference, what: &[&str]) -> u64 {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let of_object = [&regarding.kind, &regarding.namespace, &regarding.name, &regarding.uid].map(part);
    let mut hasher = Sha256::new();
    for text in of_object.iter().map(String::as_str).chain(what.iter().copied()) {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    let digest = hasher.finalize();
    u64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{IssueReason, ObjectRef, Snapshot};
    use crate::objects::Objects;
    use k8s_openapi::api::core::v1::Secret;
    use k8s_openapi::api::networking::v1::Ingress;
    use serde_json::json;

    const HOUR: Duration = Duration::from_secs(3600);
    const GAP: Duration = Duration::from_secs(30);

    fn ingress(name: &str, class: &str, says: &[&str]) -> Ingress {
        let entries: Vec<_> = says.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
            "spec": {"ingressClassName": class}, "status": {"loadBalancer": {"ingress": entries}},
        }))
        .expect("an Ingress")
    }

    fn issue(kind: &'static str, name: &str, severity: Severity, message: &str) -> Issue {
        let object = ObjectRef { kind, key: ObjectKey::new("d", name) };
        let reason = IssueReason::PortNotFound;
        Issue { severity, object, reason, field: "spec.x".to_owned(), message: message.to_owned() }
    }

    fn view(ingresses: &[Ingress], issues: Vec<Issue>) -> View {
        let mut objects = Objects::default();
        for ingress in ingresses {
            objects.insert(ingress.clone());
        }
        let mut secret = Secret::default();
        (secret.metadata.name, secret.metadata.namespace) = (Some("s".to_owned()), Some("d".to_owned()));
        objects.insert(secret);
        let owned = Arc::new(objects.ingresses.keys().cloned().collect());
        let snapshot = Snapshot { issues: issues.into(), ..Snapshot::empty() };
        View {
            objects: Arc::new(objects),
            snapshot: Arc::new(snapshot),
            resting: false,
            owned,
            balanced: Arc::default(),
        }
    }

    /// What is told, as `name reason count`; each outcome is well.
    fn told(book: &mut Book, view: &View, now: Instant) -> Vec<String> {
        book.observe(view, now);
        let (tellings, _) = book.plan(view, now, usize::MAX);
        let text =
            |t: &Telling| format!("{} {} {}", t.regarding.name.as_deref().unwrap_or("?"), t.reason, t.count);
        tellings
            .iter()
            .map(|telling| {
                assert!(!book.settle(telling, Ok(()), now));
                text(telling)
            })
            .collect()
    }

    /// Names of Events outlive the binary that made them.
    #[test]
    fn names_never_change() {
        let regarding =
            reference(&view(&[ingress("web", "x", &[])], vec![]), Kind::Ingress, &ObjectKey::new("d", "web"));
        assert_eq!(format!("{:016x}", id(&regarding, &["PortNotFound", "spec.x", "m"])), "2bfad608d314a9d1");
        assert_ne!(id(&regarding, &["a", "bc"]), id(&regarding, &["ab", "c"]));
    }

    #[test]
    fn who_is_told_what() {
        let served = ingress("web", "sluice", &["192.0.2.1"]);
        for (what, issue, expect) in [
            ("a warning", issue("Ingress", "web", Severity::Warning, "m"), Some("web PortNotFound 1")),
            ("an error", issue("Ingress", "web", Severity::Error, "m"), Some("web PortNotFound 1")),
            ("a note is for sluice status", issue("Ingress", "web", Severity::Note, "m"), None),
            ("another's Ingress", issue("Ingress", "foreign", Severity::Error, "m"), None),
            ("a Secret", issue("Secret", "s", Severity::Error, "m"), Some("s PortNotFound 1")),
            ("a Secret that is not there", issue("Secret", "none", Severity::Error, "m"), None),
            ("no object of the API", issue("File", "a.yaml", Severity::Error, "m"), None),
        ] {
            let mut view = view(&[served.clone(), ingress("foreign", "x", &[])], vec![issue]);
            let mut owned = (*view.owned).clone();
            owned.remove(&ObjectKey::new("d", "foreign"));
            view.owned = Arc::new(owned);
            let mut book = Book::new(HOUR, GAP);
            let now = Instant::now();
            let expect: Vec<_> = expect.into_iter().map(str::to_owned).collect();
            assert_eq!(told(&mut book, &view, now), expect, "{what}");
        }
    }

    #[test]
    fn the_same_is_told_once_an_hour() {
        let start = Instant::now();
        let mut book = Book::new(HOUR, GAP);
        let web = ingress("web", "sluice", &["192.0.2.1"]);
        let one = || vec![issue("Ingress", "web", Severity::Error, "one")];
        let broken = view(std::slice::from_ref(&web), one());
        let fine = view(std::slice::from_ref(&web), vec![]);
        for (second, view, expect) in [
            (0, &broken, vec!["web PortNotFound 1"]),
            (1, &broken, vec![]),
            (60, &fine, vec![]),
            // Back within the hour: told already.
            (120, &broken, vec![]),
            (3599, &broken, vec![]),
            (3600, &broken, vec!["web PortNotFound 2"]),
            (3601, &broken, vec![]),
            (7200, &fine, vec![]),
            (7300, &broken, vec!["web PortNotFound 3"]),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(told(&mut book, view, now), expect, "second {second}");
        }
        let other = issue("Ingress", "web", Severity::Error, "two");
        let two = view(&[web], [one(), vec![other]].concat());
        assert_eq!(
            told(&mut book, &two, start + Duration::from_secs(7301)),
            ["web PortNotFound 1"],
            "only what is new"
        );
    }

    #[test]
    fn outcomes() {
        let busy = Failure::Busy { why: String::new(), after: Duration::ZERO };
        let gone = Failure::NotFound(String::new());
        let refused = Failure::Refused(String::new());
        // The outcomes of the first and of a second telling (an hour later where need be); whether
        // each is lost, and the count of the one after it, at once or within the next hour.
        for (what, first, lost, at_once, in_an_hour) in [
            ("told", Ok(()), false, None, Some(2)),
            ("was there", Err(&Failure::Exists), false, None, Some(2)),
            ("busy", Err(&busy), false, Some(1), Some(1)),
            ("no namespace", Err(&gone), true, None, Some(1)),
            ("refused", Err(&refused), true, None, Some(1)),
        ] {
            let now = Instant::now();
            let mut book = Book::new(HOUR, GAP);
            let view = view(
                &[ingress("web", "sluice", &["192.0.2.1"])],
                vec![issue("Ingress", "web", Severity::Error, "m")],
            );
            book.observe(&view, now);
            let (tellings, _) = book.plan(&view, now, 9);
            assert_eq!(book.settle(&tellings[0], first, now), lost, "{what}");
            let count = |book: &mut Book, now| book.plan(&view, now, 9).0.first().map(|t| t.count);
            assert_eq!(count(&mut book, now), at_once, "{what}");
            assert_eq!(count(&mut book, now + HOUR), in_an_hour, "{what}");
        }
        // The server has forgotten the Event that was to be counted up: it is made anew.
        let now = Instant::now();
        let mut book = Book::new(HOUR, GAP);
        let view = view(
            &[ingress("web", "sluice", &["192.0.2.1"])],
            vec![issue("Ingress", "web", Severity::Error, "m")],
        );
        assert_eq!(told(&mut book, &view, now).len(), 1);
        let (again, _) = book.plan(&view, now + HOUR, 9);
        assert!(!book.settle(&again[0], Err(&gone), now + HOUR));
        assert_eq!(told(&mut book, &view, now + HOUR), ["web PortNotFound 1"]);
    }

    #[test]
    fn newly_served_ingresses_are_said_to_be() {
        let start = Instant::now();
        let mut book = Book::new(HOUR, GAP);
        let mut annotated = ingress("web", "b", &["192.0.2.1"]);
        annotated.metadata.annotations = Some([("sluice.dev/x".to_owned(), "y".to_owned())].into());
        let none: &[&str] = &[];
        for (second, ingresses, expect) in [
            (0, vec![ingress("old", "a", &["192.0.2.1"])], none),
            (1, vec![ingress("old", "a", &["192.0.2.1"]), ingress("web", "a", &[])], &["web Synced 1"]),
            // Its status was written.
            (2, vec![ingress("old", "a", &["192.0.2.1"]), ingress("web", "a", &["192.0.2.1"])], &[]),
            // Changes within half a minute are one.
            (20, vec![ingress("web", "b", &["192.0.2.1"])], &[]),
            (25, vec![annotated.clone()], &[]),
            (31, vec![annotated.clone()], &["web Synced 2"]),
            (99, vec![annotated.clone()], &[]),
            // Ours from now on, with the status that it has.
            (100, vec![annotated, ingress("came", "a", &["192.0.2.9"])], &["came Synced 1"]),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(told(&mut book, &view(&ingresses, vec![]), now), expect, "second {second}");
        }
        // Seen while another process led: too old to be told when this one does.
        let web = view(&[ingress("web", "a", &[])], vec![]);
        for (wait, expect) in [(STALE - Duration::from_secs(1), 1), (STALE, 0)] {
            let mut book = Book::new(HOUR, GAP);
            book.observe(&web, start);
            assert_eq!(told(&mut book, &web, start + wait).len(), expect, "{wait:?}");
        }
        // The leader before has made the Event: it is counted up, not passed over.
        let mut book = Book::new(HOUR, GAP);
        book.observe(&web, start);
        let (first, _) = book.plan(&web, start, 9);
        book.settle(&first[0], Err(&Failure::Exists), start);
        assert_eq!(told(&mut book, &web, start), ["web Synced 2"]);
        assert!(told(&mut book, &web, start).is_empty());
    }

    #[test]
    fn floods_are_bounded() {
        let now = Instant::now();
        let mut book = Book::new(HOUR, GAP);
        let many: Vec<_> =
            (0..100).map(|n| issue("Ingress", "web", Severity::Error, &n.to_string())).collect();
        let web = view(&[ingress("web", "a", &["192.0.2.1"])], many);
        let (tellings, more) = book.plan(&web, now, 4);
        assert_eq!((tellings.len(), more), (4, MOST_PER_OBJECT - 4));

        let long = view(
            &[ingress("web", "a", &["192.0.2.1"])],
            vec![issue("Ingress", "web", Severity::Error, &"ä".repeat(5000))],
        );
        let (tellings, _) = book.plan(&long, now, 1);
        assert!((1000..=LONGEST_NOTE).contains(&tellings[0].note.len()), "{}", tellings[0].note.len());
        let name = "n".repeat(235) + ".-" + &"x".repeat(16);
        let long = view(
            &[ingress(&name, "a", &["192.0.2.1"])],
            vec![issue("Ingress", Box::leak(name.into_boxed_str()), Severity::Error, "m")],
        );
        let (tellings, _) = book.plan(&long, now, 1);
        assert!(
            tellings[0].name.len() <= 253 && tellings[0].name.starts_with(&("n".repeat(235) + ".")),
            "{}",
            tellings[0].name
        );
        assert!(!tellings[0].name.contains(".."), "{}", tellings[0].name);

        for id in 0..=MOST_TOLD as u64 {
            let at = now + Duration::from_millis(id);
            book.told.insert(id, Told { at, count: 1, found: false });
        }
        book.forget(now + HOUR);
        assert_eq!(book.told.len(), MOST_TOLD / 2, "the older half goes");
        assert!(book.told.contains_key(&(MOST_TOLD as u64)));
    }
}
