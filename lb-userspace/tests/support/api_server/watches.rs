//! Open watches: events, bookmarks, and their ends of every kind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::answers::{Body, Target, fits, reply, shown, status, status_object};
use super::store::{Shared, Signal, State};

pub(super) fn open_watch(
    shared: Arc<Shared>,
    target: Target,
    query: &BTreeMap<String, String>,
    names_only: bool,
) -> Response<Body> {
    let streams = query.contains_key("sendInitialEvents");
    let version: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_default();
    let state = shared.lock();
    if streams && state.no_streams {
        return status(422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch");
    }
    if !streams && version > state.version {
        return too_new(version, state.version);
    }
    let too_old = !streams && version < state.oldest;
    if too_old && state.gone_by_status {
        return status(410, "too old resource version");
    }
    let next = match streams {
        true => state.log.len(),
        false => state.log.partition_point(|logged| logged.version <= version),
    };
    let initial = match streams {
        true => all_there_is(&state, &target, query, names_only),
        false => VecDeque::new(),
    };
    drop(state);
    let signal = shared.signal.subscribe();
    let begun = *signal.borrow();
    let watcher = Watcher {
        next,
        shared,
        target,
        query: query.clone(),
        names_only,
        initial,
        signal,
        begun,
        ended: false,
    };
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

/// As the API server says it, after it has waited for the version.
fn too_new(asked: u64, have: u64) -> Response<Body> {
    let message = format!("Too large resource version: {asked}, current: {have}");
    let mut object = status_object(504, &message);
    object["reason"] = "Timeout".into();
    object["details"] = json!({"retryAfterSeconds": 1,
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
    reply(StatusCode::GATEWAY_TIMEOUT, &object)
}

/// The events that a streaming list begins with, some to a frame, and the bookmark that ends them.
fn all_there_is(
    state: &State,
    target: &Target,
    query: &BTreeMap<String, String>,
    names_only: bool,
) -> VecDeque<String> {
    let objects = state.objects.get(&target.collection).into_iter().flat_map(|all| all.values());
    let lines: Vec<String> = objects
        .filter(|object| fits(object, target, query))
        .map(|object| json_line("ADDED", &shown(object, names_only)))
        .collect();
    let metadata = json!({"resourceVersion": state.version.to_string(),
        "annotations": {"k8s.io/initial-events-end": "true"}});
    let end = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": metadata});
    lines.chunks(50).map(<[String]>::concat).chain([json_line("BOOKMARK", &end)]).collect()
}

struct Watcher {
    shared: Arc<Shared>,
    target: Target,
    query: BTreeMap<String, String>,
    names_only: bool,
    /// What comes before all else.
    initial: VecDeque<String>,
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
            if signal.stalled != self.begun.stalled {
                std::future::pending::<()>().await;
            }
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
            if let Some(text) = self.initial.pop_front() {
                return Some(Ok(Frame::data(text.into())));
            }
            if signal.raw != self.begun.raw {
                self.begun.raw = signal.raw;
                let raw = self.shared.lock().raw.clone();
                if let Some((_, text)) = raw.filter(|(resource, _)| *resource == self.target.resource()) {
                    self.begun.stalled = u64::MAX;
                    return Some(Ok(Frame::data(text.into())));
                }
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
        for logged in state.log.get(self.next..).unwrap_or_default() {
            let object = &logged.object;
            if logged.collection == self.target.collection && fits(object, &self.target, &self.query) {
                text.extend_from_slice(json_line(logged.event, &shown(object, self.names_only)).as_bytes());
            }
        }
        self.next = state.log.len();
        (text, state.version)
    }
}

fn json_line(event: &str, object: &Value) -> String {
    format!("{{\"type\":\"{event}\",\"object\":{object}}}\n")
}

fn line(value: &Value) -> Frame<Bytes> {
    Frame::data(format!("{value}\n").into())
}
