//! What the server knows: objects, their history, and what it was told to do wrong.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Fault, Rights, Seen, Written};

#[derive(Default)]
pub(super) struct State {
    pub(super) version: u64,
    /// Collection (`/api/v1/services`) → namespace and name → object.
    pub(super) objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    pub(super) log: Vec<Logged>,
    /// Watches from before this version are too old.
    pub(super) oldest: u64,
    /// Old watches are told so by the HTTP status rather than by an event.
    pub(super) gone_by_status: bool,
    pub(super) expired_tokens: u32,
    pub(super) faults: VecDeque<(&'static str, String, Fault)>,
    pub(super) outage: Option<u16>,
    pub(super) seen: Vec<Seen>,
    pub(super) written: Vec<Written>,
    pub(super) rights: Option<Rights>,
    pub(super) no_streams: bool,
    /// What [`super::ApiServer::send`] was told to.
    pub(super) raw: Option<(String, String)>,
}

pub(super) struct Logged {
    pub(super) version: u64,
    pub(super) collection: String,
    pub(super) event: &'static str,
    pub(super) object: Arc<Value>,
}

/// What open watches are told to do. Counters, so that none is missed.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Signal {
    pub(super) version: u64,
    pub(super) bookmarks: u64,
    pub(super) gone: u64,
    pub(super) ended: u64,
    pub(super) cut: u64,
    pub(super) stalled: u64,
    pub(super) raw: u64,
}

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) signal: watch::Sender<Signal>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, collection: &str, mut object: Value) -> Value {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let name = name_of(&object);
        let all = state.objects.entry(collection.to_owned()).or_default();
        object["metadata"]["uid"] = match all.get(&name) {
            Some(known) => known["metadata"]["uid"].clone(),
            None => format!("uid-{version}").into(),
        };
        let known = all.insert(name, object.clone());
        let event = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.log(&mut state, collection, event, object.clone());
        object
    }

    pub(super) fn remove(&self, collection: &str, name: &(String, String)) -> Option<Value> {
        let mut state = self.lock();
        let mut object = state.objects.get_mut(collection)?.remove(name)?;
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        self.log(&mut state, collection, "DELETED", object.clone());
        Some(object)
    }

    fn log(&self, state: &mut State, collection: &str, event: &'static str, object: Value) {
        let version = state.version;
        let logged = Logged { version, collection: collection.to_owned(), event, object: Arc::new(object) };
        state.log.push(logged);
        self.signal.send_modify(|signal| signal.version = version);
    }
}

/// The path without namespace under which objects of this kind are.
pub(super) fn collection_of(object: &Value) -> String {
    let version = object["apiVersion"].as_str().expect("apiVersion");
    let kind = object["kind"].as_str().expect("kind").to_ascii_lowercase();
    let plural = match kind.as_str() {
        "endpoints" => kind,
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    format!("/{root}/{version}/{plural}")
}

pub(super) fn name_of(object: &Value) -> (String, String) {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (part("namespace"), part("name"))
}

/// RFC 7396.
pub(super) fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            into.as_object_mut().expect("made an object above").remove(&name);
        } else {
            merge(&mut into[&name], value);
        }
    }
}
