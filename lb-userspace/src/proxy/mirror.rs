//! Copies of requests for somebody who wants to see them.
//!
//! A copy has the method, the headers and, where the route wants that, the body of the request that
//! it is made of. What the route's policy takes out of the request or writes into it counts for the copy as
//! well: a mirror believes the same headers as the endpoint that it mirrors. Nobody waits for it: it is sent by
//! a task of its own, its answer is thrown away, and where there are too many or the mirror is too slow, copies
//! are dropped and counted.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::BodyExt;

use super::copy::BodyCopy;
use super::forwarded;
use super::headers::{Connection, is_unsafe};
use super::incoming_body::RequestBody;
use super::policy::{AskError, Edits, Facts};
use super::worker::Worker;
use crate::model::Mirror;

/// Copies that one worker has on the way at the same time.
const MAX_COPIES: usize = 128;

/// How long a copy may take: to connect, and in all.
const CONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// Marks copies. What has it is not copied again, or a mirror that leads back to its route would never end.
const MARK: HeaderName = HeaderName::from_static("x-sluice-mirrored");

/// As much of a mirror's answer is read, so that it need not see its connection break.
const MAX_ANSWER: usize = 64 * 1024;

/// How many copies a worker has on the way.
#[derive(Debug, Default)]
pub(super) struct Mirrors(Cell<usize>);

/// A copy, ready to be sent.
struct Outgoing {
    url: String,
    method: Method,
    headers: HeaderMap,
    body: BodyCopy,
}

/// Sends a copy of a request to the route's mirror. `edits` and `body` are what the endpoint gets.
pub(super) fn mirror(rules: &Mirror, facts: &Facts<'_>, edits: &Edits, body: &mut RequestBody) {
    if facts.parts.headers.contains_key(MARK) {
        return;
    }
    let worker = &facts.client.worker;
    let url = facts.fill_url(&rules.target);
    let (Some(url), Some(open)) = (url, Open::new(worker)) else {
        worker.counters.mirror_failures.add(1);
        return;
    };
    let copy = Outgoing {
        url,
        method: facts.parts.method.clone(),
        headers: headers(rules, facts, edits),
        body: if rules.body { body.copy(&worker.bodies) } else { BodyCopy::none() },
    };
    tokio::task::spawn_local(async move {
        let worker = &open.0;
        let sent = tokio::time::timeout(PATIENCE, copy.send(worker)).await;
        match sent {
            Ok(Ok(())) => worker.counters.mirrored.add(1),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a copy for a mirror was lost");
                worker.counters.mirror_failures.add(1);
            }
            Err(_) => worker.counters.mirror_failures.add(1),
        }
    });
}

impl Outgoing {
    async fn send(self, worker: &Worker) -> Result<(), AskError> {
        let mut way = worker.asker.open(&self.url, CONNECT).await?;
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = way.target.clone();
        *request.headers_mut() = self.headers;
        request.headers_mut().entry(header::HOST).or_insert(way.host.clone());
        let mut answer = way.send(request).await?;
        let mut read = 0;
        while let Some(Ok(frame)) = answer.frame().await
            && read < MAX_ANSWER
        {
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
        Ok(())
    }
}

/// The client's headers, and what the proxy says of the client in the place of what it says itself.
fn headers(rules: &Mirror, facts: &Facts<'_>, edits: &Edits) -> HeaderMap {
    let (client, sent) = (facts.client, &facts.parts.headers);
    let connections = sent.get_all(header::CONNECTION);
    let connection = Connection::parse(connections.iter().map(HeaderValue::as_bytes));
    let mut headers = HeaderMap::with_capacity(sent.len() + 6);
    for (name, value) in sent {
        let is_framing = matches!(*name, header::HOST | header::CONTENT_LENGTH | header::EXPECT);
        let is_refused = forwarded::is_ours(name) || is_unsafe(name);
        if !is_framing && !connection.drops(name) && !edits.drops(name.as_str()) && !is_refused {
            headers.append(name.clone(), value.clone());
        }
    }
    let about = forwarded::Client {
        ip: &client.ip,
        scheme: if client.tls { "https" } else { "http" },
        port: client.local.port(),
        host: facts.host,
        request_id: facts.request_id,
        trusted: client.trusted,
        forwarded: client.worker.settings.forwarded,
    };
    let mut lines = Vec::new();
    let config = client.worker.config();
    let trusted = config.trusted_proxies(&client.worker.settings);
    about.write(sent, trusted, edits, &mut lines);
    for line in lines.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end) {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 2..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    for (name, value) in edits.lines() {
        headers.append(name, value.clone());
    }
    headers.insert(MARK, HeaderValue::from_static("1"));
    if let Some(host) = rules.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()) {
        headers.insert(header::HOST, host);
    }
    headers
}

/// Counts a copy while it is on the way.
struct Open(Rc<Worker>);

impl Open {
    /// `None` if there are too many.
    fn new(worker: &Rc<Worker>) -> Option<Self> {
        let Mirrors(copies) = &worker.mirrors;
        if copies.get() >= MAX_COPIES {
            return None;
        }
        copies.set(copies.get() + 1);
        Some(Self(Rc::clone(worker)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Mirrors(copies) = &self.0.mirrors;
        copies.set(copies.get() - 1);
    }
}
