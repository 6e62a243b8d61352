//! The running daemon's state, as the socket and the probes read it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::StatusCode;
use serde_json::Value;

use crate::model::Snapshot;
use crate::proxy::Proxy;
use crate::route::RouteTable;
use crate::source::Health;

use super::admin::server::{Answer, Answers};
use super::admin::views::{self, Serving, Source, Status, Verification, word};
use super::explain::explain;
use super::health::Probed;
use super::settings::SourceKind;
use super::steering::Steering;

/// Everything that more than one task reads.
pub struct State {
    /// Where objects come from.
    pub source: SourceKind,
    /// The snapshot being served.
    pub snapshot: ArcSwap<Snapshot>,
    /// The source's health, once it has said something.
    pub health: ArcSwapOption<Health>,
    /// Set when the first whole state is served.
    pub proxy: OnceLock<Proxy>,
    /// The kernel's side; never set without XDP.
    pub steering: OnceLock<Mutex<Steering>>,
    /// Why the kernel or the listeners are not as the snapshot asks.
    pub trouble: ArcSwapOption<String>,
    /// Going down: no longer ready.
    pub draining: AtomicBool,
}

impl State {
    /// Knows nothing yet.
    pub fn new(source: SourceKind) -> Self {
        Self {
            source,
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            health: ArcSwapOption::empty(),
            proxy: OnceLock::new(),
            steering: OnceLock::new(),
            trouble: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
        }
    }

    /// The kernel's side. A panic of an earlier holder leaves maps that the next apply repairs.
    pub fn steering(&self) -> Option<MutexGuard<'_, Steering>> {
        self.steering.get().map(|lock| lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn no_xdp() -> Answer {
        Answer::Failure(
            StatusCode::CONFLICT,
            "this daemon runs with --no-xdp: there are no kernel maps".to_owned(),
        )
    }

    fn source_view(&self) -> Source {
        let health = match self.health.load().as_deref() {
            None => "waiting for the first whole state".to_owned(),
            Some(Health::Ok) => "ok".to_owned(),
            Some(Health::Degraded { since, reason }) => match jiff::Timestamp::from_second(*since) {
                Ok(since) => format!("degraded since {since}, serving the last good state: {reason}"),
                Err(_) => format!("degraded, serving the last good state: {reason}"),
            },
        };
        match &self.source {
            SourceKind::Manifests(dir) => {
                Source { kind: "manifests".to_owned(), directory: Some(dir.display().to_string()), health }
            }
            SourceKind::Kubernetes(_) => Source { kind: "kubernetes".to_owned(), directory: None, health },
        }
    }

    fn explain(&self, query: Option<&str>) -> Answer {
        let values: BTreeMap<_, _> =
            query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let Some(url) = values.get("url").and_then(|url| unescape(url)) else {
            return Answer::Failure(StatusCode::BAD_REQUEST, "which url?".to_owned());
        };
        let snapshot = self.snapshot.load();
        // Built for each question: people ask seldom, and requests use the workers' own table.
        let table = RouteTable::build(&snapshot.routing);
        let all = values.get("all") == Some(&"true");
        match explain(&url, all, &snapshot, &table, self.steering.get().is_some()) {
            Ok(explanation) => Answer::json(&explanation),
            Err(error) => Answer::Failure(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

impl Answers for State {
    fn answer(&self, path: &str, query: Option<&str>) -> Answer {
        let failed = |error: String| Answer::Failure(StatusCode::INTERNAL_SERVER_ERROR, error);
        match path {
            "/status" => Answer::json(&self.status()),
            "/routes" => Answer::json(&views::routes(&self.snapshot.load())),
            "/backends" => {
                let requests = self.proxy.get().map(|proxy| proxy.stats().clusters).unwrap_or_default();
                Answer::json(&views::backends(&self.snapshot.load(), &requests))
            }
            "/explain" => self.explain(query),
            "/maps" => match self.steering().map(|steering| steering.dump()) {
                None => Self::no_xdp(),
                Some(Ok(image)) => Answer::json(&image),
                Some(Err(error)) => failed(error),
            },
            "/maps/verify" => {
                let snapshot = self.snapshot.load_full();
                match self.steering().map(|steering| steering.verify(&snapshot)) {
                    None => Self::no_xdp(),
                    Some(Ok(differences)) => {
                        Answer::json(&Verification { generation: snapshot.generation, differences })
                    }
                    Some(Err(error)) => failed(error),
                }
            }
            _ => Answer::Unknown,
        }
    }
}

impl Probed for State {
    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining".to_owned());
        }
        if self.proxy.get().is_none() {
            return Err("waiting for the source's first whole state".to_owned());
        }
        match self.trouble.load().as_deref() {
            Some(trouble) => Err(trouble.clone()),
            None => Ok(()),
        }
    }

    fn status(&self) -> Status {
        let snapshot = self.snapshot.load();
        let (xdp, counters) = match self.steering() {
            Some(steering) => (Some(steering.info()), steering.counters()),
            None => (None, Default::default()),
        };
        Status {
            generation: snapshot.generation,
            ready: self.ready().is_ok(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: self.source_view(),
            listeners: snapshot
                .listeners
                .iter()
                .map(|listener| format!("{} {}", listener.vip, word(&listener.protocol)))
                .collect(),
            serving: Serving::of(&snapshot),
            xdp,
            verdicts: counters.verdicts,
            vips: counters.vips,
            sni: counters.sni,
            proxy: self
                .proxy
                .get()
                .and_then(|proxy| serde_json::to_value(proxy.stats()).ok())
                .unwrap_or(Value::Null),
            issues: snapshot.issues.iter().map(views::Issue::from).collect(),
            trouble: self.trouble.load().as_deref().cloned(),
        }
    }
}

/// The opposite of what the command line does to query values.
fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values() {
        for (text, expect) in [
            ("abc", Some("abc")),
            ("http%3A%2F%2Fa%2F%C3%A9", Some("http://a/é")),
            ("%2", None),
            ("%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(unescape(text).as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn a_daemon_that_knows_nothing_is_not_ready() {
        let state = State::new(SourceKind::Manifests("d".into()));
        let status = state.status();
        assert!(!status.ready && status.source.health.contains("waiting"), "{status:?}");
        assert!(matches!(state.answer("/maps", None), Answer::Failure(StatusCode::CONFLICT, _)));
        assert!(matches!(
            state.answer("/explain", Some("url=%zz")),
            Answer::Failure(StatusCode::BAD_REQUEST, _)
        ));
        assert!(matches!(state.answer("/nothing", None), Answer::Unknown));
    }
}
