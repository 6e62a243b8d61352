//! Open watches: events, bookmarks, and their ends of every kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::answers::{Body, Target, fits, status, status_object};
use super::store::{Shared, Signal};

pub(super) fn open_watch(
    shared: Arc<Shared>,
    target: Target,
    query: &BTreeMap<String, String>,
) -> Response<Body> {
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

fn line(value: &Value) -> Frame<Bytes> {
    Frame::data(format!("{value}\n").into())
}
