//! One collection of objects, listed and then watched for ever.
//!
//! Where the server offers it, the list is a stream: a watch that begins with all objects
//! (`sendInitialEvents`, Kubernetes 1.34 and later by default). The objects come one by one, so
//! neither side ever holds a whole list, and the watch goes on in the same answer. A server that
//! refuses is asked for pages instead; no reflector of the node asks it for a stream again for a while
//! ([`Streams`]).
//!
//! `kube::runtime::watcher` is not used for two reasons. Its stream says nothing when a watch that
//! failed is up again, so nobody could tell when an outage is over; and an HTTP 410 at the start of
//! a watch makes it ask for the same expired version again without end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Settings;
use super::api::{Collection, Failure, Line, Server, refused};
use super::decode::{self, Event, News};
use super::streams::Streams;
use crate::backoff::Attempts;

/// Events that are handed on together, at most.
const BATCH: usize = 100;

/// What a reflector has to tell, of which collection.
pub type Told = (Arc<Collection>, Change);

/// What a reflector has to tell.
#[derive(Debug)]
pub enum Change {
    /// A list begins.
    Listing,
    /// News of objects, be it from a list or from a watch.
    Events(Vec<Event>),
    /// The list is complete: what was not in it is gone.
    Listed,
    /// The one object that was asked for, and its version; `None` if it does not exist.
    Fetched(Option<(Event, String)>),
    /// The collection can't be read; why.
    Failing(String),
    /// The collection can be read again.
    Working,
}

/// Lists and watches one collection.
pub struct Reflector {
    /// Which.
    pub what: Arc<Collection>,
    /// Where to ask.
    pub server: Server,
    /// How patient to be.
    pub settings: Settings,
    /// Whether the server is believed to offer streaming lists.
    pub streams: Arc<Streams>,
    /// Who listens.
    pub changes: mpsc::Sender<Told>,
}

/// How the next list is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// As a stream, if the server offers it.
    Stream,
    Pages,
    /// A continue token that expires again and again belongs to a list that changes faster than it
    /// can be paged through; it is asked for in one piece then, as client-go does.
    Whole,
}

impl Reflector {
    /// Runs until nobody listens.
    pub async fn run(self) {
        let mut version: Option<String> = None;
        let mut backoff = Attempts::new(self.settings.backoff);
        let mut mode = Mode::Stream;
        loop {
            let started = Instant::now();
            let stream = mode == Mode::Stream && self.streams.are_offered(started);
            let listing = version.is_none();
            let outcome = match version.is_none() && !stream {
                true => self.list(mode).await.map(|listed| version = Some(listed)),
                false => self.watch(&mut version).await,
            };
            // A watch that was up for a while shows that the server is well.
            let lasted = started.elapsed() >= self.settings.backoff.max;
            if lasted {
                backoff.reset();
            }
            let wait = match outcome {
                Ok(()) if version.is_some() && (lasted || backoff.is_fresh()) => {
                    mode = Mode::Stream;
                    // A server that ends every watch at once must not be asked without a pause.
                    if !lasted && !listing {
                        backoff.wait();
                    }
                    Duration::ZERO
                }
                Ok(()) => backoff.wait(),
                Err(Failure::Gone) => {
                    let was_listing = version.take().is_none();
                    mode = if was_listing && !stream { Mode::Whole } else { Mode::Stream };
                    backoff.wait()
                }
                Err(Failure::Unheard) => return,
                Err(failure) => {
                    if stream && version.is_none() {
                        self.doubt_streams(&failure);
                        mode = Mode::Pages;
                    }
                    let (cause, retry_after) = failure.cause();
                    let reason = describe(&self.what, &cause);
                    tracing::debug!(reason, "the Kubernetes API fails");
                    // Asking in another way is no outage yet.
                    if !(stream && mode == Mode::Pages && backoff.is_fresh())
                        && self.tell(Change::Failing(reason)).await.is_err()
                    {
                        return;
                    }
                    backoff.wait().max(retry_after)
                }
            };
            sleep(wait).await;
        }
    }

    /// Lists everything in pages; returns the version to watch from.
    async fn list(&self, mode: Mode) -> Result<String, Failure> {
        self.tell(Change::Listing).await?;
        let mut limit = (mode != Mode::Whole).then_some(self.settings.page);
        let mut token = String::new();
        loop {
            let after = (!token.is_empty()).then_some(token.as_str());
            let text = match self.server.list(&self.what, limit, after).await {
                Err(Failure::TooLarge) if limit.is_some_and(|limit| limit > 1) => {
                    limit = limit.map(|limit| limit.div_ceil(4));
                    continue;
                }
                answer => answer?,
            };
            let page = decode::page(&self.what, &text).map_err(Failure::Broken)?;
            drop(text);
            self.tell(Change::Events(page.events)).await?;
            token = page.token;
            if token.is_empty() {
                self.tell(Change::Listed).await?;
                return Ok(page.version);
            }
        }
    }

    /// Watches until the stream ends, which every stream does at times. Without a version the
    /// stream begins with all objects.
    async fn watch(&self, version: &mut Option<String>) -> Result<(), Failure> {
        let seconds = u32::try_from(self.settings.watch.as_secs()).unwrap_or(u32::MAX).clamp(1, 290);
        let mut lines = self.server.watch(&self.what, version.as_deref(), seconds).await?;
        let mut initial = version.is_none();
        self.tell(if initial { Change::Listing } else { Change::Working }).await?;
        let mut events = Vec::new();
        loop {
            let Some(line) = lines.ready() else {
                if !events.is_empty() {
                    self.tell(Change::Events(std::mem::take(&mut events))).await?;
                }
                let patience = if initial { self.settings.answer } else { self.settings.idle };
                // Silence beyond the bookmarks of every minute means a connection that died unseen.
                match timeout(patience, lines.more()).await {
                    Ok(true) => continue,
                    Ok(false) if initial => return Err(Failure::Broken("the list ended too early".into())),
                    Err(_) if initial => return Err(Failure::Broken("the list came to a stop".into())),
                    Ok(false) | Err(_) => return Ok(()),
                }
            };
            let news = match line {
                Line::Text(text) if text.is_empty() => continue,
                Line::Text(text) => decode::line(&self.what, &text),
                // The version stays: the event comes again when the watch is opened anew.
                Line::TooLong(begin) => {
                    Ok(News::Event(decode::too_long(self.what.kind, &begin), String::new()))
                }
            };
            match news {
                Ok(News::Event(event, now)) => {
                    events.push(event);
                    if !initial {
                        advance(version, now);
                    }
                }
                Ok(News::Bookmark { version: now, initial_end }) => {
                    if initial && initial_end {
                        self.tell(Change::Events(std::mem::take(&mut events))).await?;
                        self.tell(Change::Listed).await?;
                        initial = false;
                    }
                    if !initial {
                        advance(version, now);
                    }
                }
                Ok(News::Error(status)) => {
                    self.tell(Change::Events(events)).await?;
                    return Err(refused(&status, Duration::ZERO));
                }
                Err(garbage) => {
                    self.tell(Change::Events(events)).await?;
                    // Who knows what else was lost: everything is listed anew.
                    *version = None;
                    return Err(Failure::Broken(garbage));
                }
            }
            if events.len() >= BATCH {
                self.tell(Change::Events(std::mem::take(&mut events))).await?;
            }
        }
    }

    /// What was refused as a request is refused to all; what just did not work may work next time.
    fn doubt_streams(&self, failure: &Failure) {
        if let Failure::Refused { code: 400 | 404 | 405 | 406 | 415 | 422 | 501, reason, .. } = failure
            && self.streams.refuse(Instant::now())
        {
            tracing::debug!(reason, "the Kubernetes API offers no streaming lists; using pages");
        }
    }

    async fn tell(&self, change: Change) -> Result<(), Failure> {
        self.changes.send((self.what.clone(), change)).await.map_err(|_| Failure::Unheard)
    }
}

/// Why a collection can't be read, as a sentence.
pub fn describe(what: &Collection, cause: &str) -> String {
    match &what.named {
        Some(key) => format!("the Kubernetes API gives no {} {key}: {cause}", what.kind.name()),
        None => format!("the Kubernetes API gives no list or watch of {}: {cause}", what.kind.name()),
    }
}

fn advance(version: &mut Option<String>, to: String) {
    if !to.is_empty() {
        *version = Some(to);
    }
}
