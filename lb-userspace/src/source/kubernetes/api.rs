//! Requests to the API server, and answers of bounded size.
//!
//! `kube`'s own calls are not used: they read a list or a line of a watch however long it is, throw
//! a whole list away for one object that can't be read, and hide the header `Retry-After`.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, RETRY_AFTER};
use http_body_util::BodyExt;
use kube::Client;
use kube::api::{GetParams, ListParams, WatchParams};
use kube::client::Body;
use kube::core::{Request, Status};
use tokio::time::timeout;

use crate::model::ObjectKey;
use crate::objects::{Kind, with_causes};

/// etcd takes no more than 1.5 MiB by default; who allows more hardly allows so much.
pub const MAX_OBJECT: usize = 16 << 20;
/// A page of a list. Larger ones are asked for in smaller pages.
const MAX_PAGE: usize = 64 << 20;
/// A list that can't be had in pages.
const MAX_LIST: usize = 512 << 20;
/// The answer that says why there is none.
const MAX_STATUS: usize = 64 << 10;

/// Which objects are asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collection {
    /// Their kind.
    pub kind: Kind,
    /// Only the one of this key.
    pub named: Option<ObjectKey>,
    /// Only names and versions, not the contents.
    pub names_only: bool,
}

/// Why a request gave nothing.
#[derive(Debug)]
pub enum Failure {
    /// The server does not know the version or the continue token that was asked for: any more, or yet.
    Gone,
    /// The answer is larger than its bound.
    TooLarge,
    /// The server said no.
    Refused {
        /// The HTTP status.
        code: u16,
        /// The server's words.
        reason: String,
        /// It does not want to be asked for so long.
        retry_after: Duration,
    },
    /// There was no answer, or none that can be read.
    Broken(String),
    /// Nobody listens any more.
    Unheard,
}

impl Failure {
    /// Why, in words, and how long the server does not want to be asked.
    pub fn cause(self) -> (String, Duration) {
        let cause = match self {
            Self::Refused { reason, retry_after, .. } => return (reason, retry_after),
            Self::Broken(cause) => cause,
            Self::TooLarge => "the answer is larger than any should be".into(),
            Self::Gone => "the version that was asked for is not known".into(),
            Self::Unheard => "nobody listens".into(),
        };
        (cause, Duration::ZERO)
    }
}

/// The way to the server.
#[derive(Clone)]
pub struct Server {
    /// kube's client: addresses, certificates, tokens.
    pub client: Client,
    /// How long the server may be silent in an answer.
    pub answer: Duration,
}

impl Collection {
    /// All objects of a kind.
    pub fn all(kind: Kind) -> Self {
        Self { kind, named: None, names_only: false }
    }

    /// One object.
    pub fn one(kind: Kind, key: ObjectKey) -> Self {
        Self { kind, named: Some(key), names_only: false }
    }

    fn request(&self) -> Request {
        let version = self.kind.api_version();
        let root = if version.contains('/') { "apis" } else { "api" };
        let plural = self.kind.plural();
        Request::new(match &self.named {
            Some(key) if self.kind.namespaced() => {
                format!("/{root}/{version}/namespaces/{}/{plural}", key.namespace)
            }
            _ => format!("/{root}/{version}/{plural}"),
        })
    }

    fn fields(&self) -> Option<String> {
        self.named.as_ref().map(|key| format!("metadata.name={}", key.name))
    }
}

impl Server {
    /// One page of a list. Without a limit, all of it.
    pub async fn list(
        &self,
        what: &Collection,
        limit: Option<u32>,
        token: Option<&str>,
    ) -> Result<Bytes, Failure> {
        let params = ListParams {
            field_selector: what.fields(),
            limit,
            continue_token: token.map(Into::into),
            ..Default::default()
        };
        let request = if what.names_only {
            what.request().list_metadata(&params)
        } else {
            what.request().list(&params)
        };
        let body = self.send(request).await?;
        self.whole(body, if limit.is_some() { MAX_PAGE } else { MAX_LIST }).await
    }

    /// Opens a watch from `version`, or one that begins with all objects.
    pub async fn watch(
        &self,
        what: &Collection,
        version: Option<&str>,
        seconds: u32,
    ) -> Result<Lines, Failure> {
        let params = WatchParams {
            field_selector: what.fields(),
            timeout: Some(seconds),
            send_initial_events: version.is_none(),
            ..Default::default()
        };
        let (request, version) = (what.request(), version.unwrap_or_default());
        let request = if what.names_only {
            request.watch_metadata(&params, version)
        } else {
            request.watch(&params, version)
        };
        Ok(Lines { body: self.send(request).await?, buffer: BytesMut::new(), searched: 0, skipping: false })
    }

    /// One object, `None` if it does not exist.
    pub async fn get(&self, kind: Kind, key: &ObjectKey) -> Result<Option<Bytes>, Failure> {
        let request = Collection::one(kind, key.clone()).request().get(&key.name, &GetParams::default());
        match self.send(request).await {
            Ok(body) => self.whole(body, MAX_OBJECT).await.map(Some),
            Err(Failure::Refused { code: 404, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Body, Failure> {
        let request = request.map_err(|error| Failure::Broken(with_causes(&error)))?;
        let answer = match timeout(self.answer, self.client.send(request.map(Body::from))).await {
            Ok(answer) => answer.map_err(|error| Failure::Broken(with_causes(&error)))?,
            Err(_) => return Err(self.silent()),
        };
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (parts, body) = answer.into_parts();
        let text = self.whole(body, MAX_STATUS).await.unwrap_or_default();
        let mut status: Status = serde_json::from_slice(&text).unwrap_or_default();
        status.code = parts.status.as_u16();
        if status.message.is_empty() {
            status.message = parts.status.canonical_reason().unwrap_or_default().to_owned();
        }
        Err(refused(&status, retry_after(&parts.headers)))
    }

    async fn whole(&self, mut body: Body, most: usize) -> Result<Bytes, Failure> {
        let mut text = BytesMut::new();
        while let Some(frame) = timeout(self.answer, body.frame()).await.map_err(|_| self.silent())? {
            let frame = frame.map_err(|error| Failure::Broken(with_causes(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            if text.len() + data.len() > most {
                return Err(Failure::TooLarge);
            }
            text.extend_from_slice(&data);
        }
        Ok(text.freeze())
    }

    fn silent(&self) -> Failure {
        Failure::Broken(format!("no answer within {} s", self.answer.as_secs_f32()))
    }
}

/// The failure that a status stands for.
pub fn refused(status: &Status, retry_after: Duration) -> Failure {
    if status.code == 410 || status.reason == "Expired" || status.reason == "Gone" || is_too_new(status) {
        return Failure::Gone;
    }
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    Failure::Refused {
        code: status.code,
        reason: format!("{} {}", status.code, crate::objects::excerpt(&status.message)),
        retry_after: retry_after.max(Duration::from_secs(seconds.into())),
    }
}

/// Whether a version was asked for that the server has not come to: its store was restored from a
/// backup, or another server behind the same address is ahead. The server has waited for it some
/// seconds; client-go lists anew then, too.
fn is_too_new(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 504
        && (causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
            || status.message.contains("Too large resource version"))
}

/// Servers write seconds; the other form, a date, is left to proxies between, and to the backoff.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// The lines of an answer without end.
pub struct Lines {
    body: Body,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line feed.
    searched: usize,
    /// In the middle of a line that is too long.
    skipping: bool,
}

/// One line of a watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line, without its end.
    Text(Bytes),
    /// A line of more than [`MAX_OBJECT`] bytes, dropped; this is how it began.
    TooLong(Bytes),
}

impl Lines {
    /// A line that has arrived already.
    pub fn ready(&mut self) -> Option<Line> {
        loop {
            let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                break;
            };
            let line = self.buffer.split_to(self.searched + at).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            return Some(if line.len() > MAX_OBJECT { too_long(&line) } else { Line::Text(line) });
        }
        if self.skipping {
            self.buffer.clear();
            self.searched = 0;
        } else if self.buffer.len() > MAX_OBJECT {
            let begin = too_long(&self.buffer);
            self.buffer = BytesMut::new();
            self.searched = 0;
            self.skipping = true;
            return Some(begin);
        }
        None
    }

    /// Waits for more bytes. Returns whether there may be any: a stream that breaks off in the
    /// middle has ended as any other, and what is left of a line is not looked at.
    pub async fn more(&mut self) -> bool {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                true
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a watch broke off");
                false
            }
            None => false,
        }
    }
}

fn too_long(line: &[u8]) -> Line {
    Line::TooLong(Bytes::copy_from_slice(&line[..4096]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_length_in_pieces_of_any_length() {
        let long = "x".repeat(MAX_OBJECT + 10);
        let text = format!("one\n\n{long}\ntwo\nhalf");
        for piece in [1 << 14, 1 << 20, text.len()] {
            let mut lines =
                Lines { body: Body::empty(), buffer: BytesMut::new(), searched: 0, skipping: false };
            let mut found = Vec::new();
            let mut most = 0;
            for piece in text.as_bytes().chunks(piece) {
                lines.buffer.extend_from_slice(piece);
                most = most.max(lines.buffer.len());
                while let Some(line) = lines.ready() {
                    found.push(match line {
                        Line::Text(text) => String::from_utf8_lossy(&text).chars().take(9).collect(),
                        Line::TooLong(begin) => format!("too long: {}", begin.len()),
                    });
                }
            }
            assert_eq!(found, ["one", "", "too long: 4096", "two"], "{piece}");
            assert!(most <= MAX_OBJECT + piece + 1024);
        }
    }
}
