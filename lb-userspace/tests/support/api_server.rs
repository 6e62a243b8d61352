//! A scripted Kubernetes API server on loopback: lists with pages, watches with bookmarks, writes,
//! and every way of failing that a test asks for. Knows no kinds: any object of any group will do.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// One request that the server has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `list`, `watch`, `get`, `create`, `update`, `patch` or `delete`, as RBAC calls them.
    pub verb: &'static str,
    /// `ingresses`, `secrets`, or with a subresource `ingresses/status`.
    pub resource: String,
    /// The whole query.
    pub query: BTreeMap<String, String>,
}

/// What goes wrong with the next request that fits.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Answers after so long.
    Slow(Duration),
}

/// A running server; ends when dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// Collection (`/api/v1/services`) → namespace and name → object.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    log: Vec<Logged>,
    /// Watches from before this version are too old.
    oldest: u64,
    /// Old watches are told so by the HTTP status rather than by an event.
    gone_by_status: bool,
    expired_tokens: u32,
    faults: VecDeque<(&'static str, String, Fault)>,
    outage: Option<u16>,
    seen: Vec<Seen>,
}

struct Logged {
    version: u64,
    collection: String,
    event: &'static str,
    object: Arc<Value>,
}

/// What open watches are told to do. Counters, so that none is missed.
#[derive(Clone, Copy, Default, PartialEq)]
struct Signal {
    version: u64,
    bookmarks: u64,
    gone: u64,
    ended: u64,
    cut: u64,
}

struct Shared {
    state: Mutex<State>,
    signal: watch::Sender<Signal>,
}

impl ApiServer {
    /// A server on a free port that holds nothing.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), signal: watch::Sender::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepting = Some(tokio::spawn(accept(listener, shared.clone())));
        Self { shared, address, accepting }
    }

    /// A client of this server that does not retry by itself.
    pub fn client(&self) -> kube::Client {
        let uri = format!("http://{}", self.address).parse().expect("a URI");
        let mut config = kube::Config::new(uri);
        config.default_retry = false;
        kube::Client::try_from(config).expect("a client")
    }

    /// Creates or replaces an object. It needs apiVersion, kind and metadata.name.
    pub fn apply(&self, object: Value) {
        let collection = collection_of(&object);
        self.shared.put(&collection, object);
    }

    /// Deletes the object with the kind, namespace and name of `object`.
    pub fn delete(&self, object: &Value) {
        assert!(
            self.shared.remove(&collection_of(object), &name_of(object)).is_some(),
            "{object} is not there"
        );
    }

    /// The object as the server has it.
    pub fn get(&self, object: &Value) -> Option<Value> {
        self.shared.lock().objects.get(&collection_of(object))?.get(&name_of(object)).cloned()
    }

    /// Sends a bookmark on every open watch.
    pub fn bookmark(&self) {
        self.shared.lock().version += 1;
        self.shared.signal.send_modify(|signal| signal.bookmarks += 1);
    }

    /// Forgets history: open watches end with a 410 event, and older versions are answered by one.
    pub fn gone(&self) {
        let mut state = self.shared.lock();
        state.version += 1;
        state.oldest = state.version;
        drop(state);
        self.shared.signal.send_modify(|signal| signal.gone += 1);
    }

    /// Forgets history as [`Self::gone`] does, but says so by the HTTP status 410; open watches are cut.
    pub fn gone_by_status(&self) {
        let mut state = self.shared.lock();
        state.version += 1;
        state.oldest = state.version;
        state.gone_by_status = true;
        drop(state);
        self.disconnect_all();
    }

    /// The next `count` continue tokens are expired.
    pub fn expire_tokens(&self, count: u32) {
        self.shared.lock().expired_tokens = count;
    }

    /// Cuts every open watch in the middle of its stream.
    pub fn disconnect_all(&self) {
        self.shared.signal.send_modify(|signal| signal.cut += 1);
    }

    /// Ends every open watch properly, as a server does when the time that was asked for is over.
    pub fn end_watches(&self) {
        self.shared.signal.send_modify(|signal| signal.ended += 1);
    }

    /// The next request with this verb and resource fails. Several are used one after the other.
    pub fn fail_next(&self, verb: &'static str, resource: &str, fault: Fault) {
        self.shared.lock().faults.push_back((verb, resource.to_owned(), fault));
    }

    /// Nothing more fails that [`Self::fail_next`] has asked for.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Answers everything with this status until told otherwise.
    pub fn outage(&self, status: Option<u16>) {
        self.shared.lock().outage = status;
    }

    /// Closes the port and all connections.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Waits until the port is closed.
            let _ = accepting.await;
        }
    }

    /// Listens again on the same port, with everything it knew.
    pub async fn restart(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        self.accepting = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// How many requests with this verb and resource came so far.
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.shared.lock().seen.iter().filter(|seen| seen.verb == verb && seen.resource == resource).count()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, collection: &str, mut object: Value) -> Value {
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

    fn remove(&self, collection: &str, name: &(String, String)) -> Option<Value> {
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
fn collection_of(object: &Value) -> String {
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

fn name_of(object: &Value) -> (String, String) {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (part("namespace"), part("name"))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let service = hyper::service::service_fn(move |request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(answer(request, shared).await) }
        });
        connections.spawn(async move {
            // A client that goes away is part of the play.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// What a path names.
struct Target {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
        let root = parts.next()?;
        let version = match root.as_str() {
            "api" => parts.next()?,
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<String> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            [word, namespace, rest @ ..] if word == "namespaces" && !rest.is_empty() => {
                (Some(namespace.clone()), rest)
            }
            rest => (None, rest),
        };
        let collection = format!("/{root}/{version}/{}", rest.first()?);
        Some(Self { collection, namespace, name: rest.get(1).cloned(), subresource: rest.get(2).cloned() })
    }

    fn resource(&self) -> String {
        let plural = self.collection.rsplit('/').next().unwrap_or_default();
        match &self.subresource {
            Some(subresource) => format!("{plural}/{subresource}"),
            None => plural.to_owned(),
        }
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let Some(target) = Target::parse(request.uri().path()) else { return status(404, "no such path") };
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), unescape(value)))
        .collect();
    let watched = query.get("watch").is_some_and(|value| value == "true" || value == "1");
    let verb = match (request.method(), &target.name) {
        (&Method::GET, None) if watched => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        _ => "delete",
    };
    let resource = target.resource();
    let (outage, fault) = {
        let mut state = shared.lock();
        state.seen.push(Seen { verb, resource: resource.clone(), query: query.clone() });
        let fits = state.faults.iter().position(|(v, r, _)| *v == verb && *r == resource);
        let fault = fits.and_then(|index| state.faults.remove(index)).map(|(_, _, fault)| fault);
        (state.outage, fault)
    };
    match (outage, fault) {
        (Some(code), _) | (None, Some(Fault::Status(code))) => return status(code, "this is a test"),
        (None, Some(Fault::Slow(wait))) => tokio::time::sleep(wait).await,
        (None, None) => {}
    }
    match verb {
        "list" => list(&shared, &target, &query),
        "watch" => open_watch(shared, target, &query),
        "get" => match shared.lock().objects.get(&target.collection).and_then(|all| all.get(&key(&target))) {
            Some(object) => reply(StatusCode::OK, object),
            None => status(404, "not found"),
        },
        _ => write(verb, request, &shared, &target).await,
    }
}

fn key(target: &Target) -> (String, String) {
    (target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default())
}

fn list(shared: &Shared, target: &Target, query: &BTreeMap<String, String>) -> Response<Body> {
    let mut state = shared.lock();
    let after = match query.get("continue").map(|token| token.split_once('\n').unwrap_or_default()) {
        Some(_) if state.expired_tokens > 0 => {
            state.expired_tokens -= 1;
            return status(410, "The provided continue parameter is too old");
        }
        Some((namespace, name)) => Some((namespace.to_owned(), name.to_owned())),
        None => None,
    };
    let limit =
        query.get("limit").and_then(|limit| limit.parse().ok()).filter(|n| *n > 0).unwrap_or(usize::MAX);
    let none = BTreeMap::new();
    let all = state.objects.get(&target.collection).unwrap_or(&none);
    let mut rest = all
        .iter()
        .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after))
        .filter(|(_, object)| fits(object, target, query))
        .peekable();
    let (mut items, mut last) = (Vec::new(), None);
    while let Some((name, object)) = rest.next_if(|_| items.len() < limit) {
        items.push(object.clone());
        last = Some(name);
    }
    let token = match (rest.peek(), last) {
        (Some(_), Some((namespace, name))) => format!("{namespace}\n{name}"),
        _ => String::new(),
    };
    let metadata = json!({"resourceVersion": state.version.to_string(), "continue": token});
    reply(StatusCode::OK, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

/// Whether an object is in the namespace and matches the field selector (`a.b=c`, joined by commas).
fn fits(object: &Value, target: &Target, query: &BTreeMap<String, String>) -> bool {
    let in_namespace = target.namespace.as_ref().is_none_or(|n| object["metadata"]["namespace"] == **n);
    let selector = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
    let mut terms = selector.split(',').filter_map(|term| term.split_once('='));
    in_namespace
        && terms.all(|(field, value)| {
            let pointer = format!("/{}", field.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(value.trim_start_matches('='))
        })
}

fn open_watch(shared: Arc<Shared>, target: Target, query: &BTreeMap<String, String>) -> Response<Body> {
    let version: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_default();
    let (too_old, by_status) = {
        let state = shared.lock();
        (version < state.oldest, state.gone_by_status)
    };
    if too_old && by_status {
        return status(410, "too old resource version");
    }
    let signal = shared.signal.subscribe();
    let begun = *signal.borrow();
    let next = shared.lock().log.partition_point(|logged| logged.version <= version);
    let watcher = Watcher { next, shared, target, query: query.clone(), signal, begun, ended: false };
    let frames = stream::unfold((watcher, too_old), |(mut watcher, too_old)| async move {
        let frame = watcher.frame(too_old).await?;
        Some((frame, (watcher, false)))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

struct Watcher {
    shared: Arc<Shared>,
    target: Target,
    query: BTreeMap<String, String>,
    next: usize,
    signal: watch::Receiver<Signal>,
    begun: Signal,
    ended: bool,
}

impl Watcher {
    async fn frame(&mut self, too_old: bool) -> Option<Result<Frame<Bytes>, std::io::Error>> {
        if self.ended {
            return None;
        }
        loop {
            let signal = *self.signal.borrow_and_update();
            if signal.cut != self.begun.cut {
                self.ended = true;
                return Some(Err(std::io::Error::other("cut")));
            }
            if too_old || signal.gone != self.begun.gone {
                self.ended = true;
                let object = status_object(410, "too old resource version");
                return Some(Ok(line(&json!({"type": "ERROR", "object": object}))));
            }
            if signal.ended != self.begun.ended {
                return None;
            }
            let (text, version) = self.news();
            if !text.is_empty() {
                return Some(Ok(Frame::data(text.into())));
            }
            if signal.bookmarks != self.begun.bookmarks {
                self.begun.bookmarks = signal.bookmarks;
                let metadata = json!({"resourceVersion": version.to_string()});
                let object = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": metadata});
                return Some(Ok(line(&json!({"type": "BOOKMARK", "object": object}))));
            }
            self.signal.changed().await.ok()?;
        }
    }

    /// The events that were not sent yet as lines, and the version they lead to.
    fn news(&mut self) -> (Vec<u8>, u64) {
        let state = self.shared.lock();
        let mut text = Vec::new();
        for logged in &state.log[self.next..] {
            let object = &logged.object;
            if logged.collection == self.target.collection && fits(object, &self.target, &self.query) {
                text.extend_from_slice(
                    json!({"type": logged.event, "object": **object}).to_string().as_bytes(),
                );
                text.push(b'\n');
            }
        }
        self.next = state.log.len();
        (text, state.version)
    }
}

/// Creates, replaces, merges or deletes. Status is kept apart from the rest, as the API does.
async fn write(verb: &str, request: Request<Incoming>, shared: &Shared, target: &Target) -> Response<Body> {
    let Ok(body) = request.into_body().collect().await else { return status(400, "the body broke off") };
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let name = if verb == "create" { name_of(&body) } else { key(target) };
    let known = shared.lock().objects.get(&target.collection).and_then(|all| all.get(&name)).cloned();
    let object = match (verb, known) {
        ("create", Some(_)) => return status(409, "already exists"),
        ("create", None) => body,
        (_, None) => return status(404, "not found"),
        ("delete", Some(known)) => {
            shared.remove(&target.collection, &name);
            return reply(StatusCode::OK, &known);
        }
        ("update", Some(known)) => {
            let expected = &body["metadata"]["resourceVersion"];
            if !expected.is_null() && *expected != known["metadata"]["resourceVersion"] {
                return status(409, "the object has been modified");
            }
            if target.subresource.is_some() {
                let mut object = known;
                object["status"] = body["status"].clone();
                object
            } else {
                body
            }
        }
        (_, Some(mut known)) => {
            merge(&mut known, body);
            known
        }
    };
    reply(StatusCode::OK, &shared.put(&target.collection, object))
}

/// RFC 7396.
fn merge(into: &mut Value, patch: Value) {
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

fn line(value: &Value) -> Frame<Bytes> {
    Frame::data(format!("{value}\n").into())
}

fn reply(code: StatusCode, value: &Value) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(value.to_string()))
        .map_err(|never| match never {})
        .boxed_unsync();
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .expect("valid parts")
}

fn status(code: u16, message: &str) -> Response<Body> {
    reply(StatusCode::from_u16(code).expect("a status"), &status_object(code, message))
}

fn status_object(code: u16, message: &str) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message})
}

/// Undoes the escapes of a query value.
fn unescape(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'%').then(|| [bytes.next(), bytes.next()]);
        out.push(match escaped {
            Some([Some(high), Some(low)]) => {
                u8::from_str_radix(&format!("{}{}", high as char, low as char), 16).expect("an escape")
            }
            _ if byte == b'+' => b' ',
            _ => byte,
        });
    }
    String::from_utf8(out).expect("UTF-8")
}
