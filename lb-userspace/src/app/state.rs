//! The running daemon's state, as the socket and the probes read it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use tokio::sync::mpsc::Receiver;

use crate::model::{Snapshot, Tuning};
use crate::proxy::Proxy;
use crate::route::RouteTable;
use crate::source::Health;
use crate::status::Reporter;

use super::admin::server::{Answer, Answers};
use super::admin::views::{self, Rules, Serving, Source, Status, Tuned, Verification, word};
use super::bans::{Bans, Changes};
use super::cli::vip_address;
use super::explain::{Question, explain};
use super::flow;
use super::health::Probed;
use super::rest::Resting;
use super::settings::SourceKind;
use super::steering::{Steering, TuneError};
use super::{top, trace};

const WAITING: &str = "waiting for the source's first whole state";

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
    /// The kernel's side; none without XDP, before the start, and after a successor took it over.
    steering: Mutex<Option<Steering>>,
    /// Who is kept out for a time. Locked before `steering` where both are.
    bans: Mutex<Bans>,
    /// Whether the source has told its first whole state.
    pub synced: AtomicBool,
    /// The daemon before still has the kernel's side: this one only stands by.
    pub waiting: AtomicBool,
    /// The first snapshot is in place everywhere: workers, kernel maps, VIP routes.
    pub serving: AtomicBool,
    /// Why the kernel or the listeners are not as the snapshot asks.
    pub trouble: ArcSwapOption<String>,
    /// Going down: no longer ready.
    pub draining: AtomicBool,
    /// Whether others are to take over (`sluice drain`).
    pub resting: Resting,
    /// How status writing is getting on; set where status is written.
    pub publishing: OnceLock<Reporter>,
}

impl State {
    /// Knows nothing yet.
    pub fn new(source: SourceKind, bans: Bans) -> Self {
        Self {
            source,
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            health: ArcSwapOption::empty(),
            proxy: OnceLock::new(),
            steering: Mutex::new(None),
            bans: Mutex::new(bans),
            synced: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            trouble: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            resting: Resting::default(),
            publishing: OnceLock::new(),
        }
    }

    /// The kernel's side. A panic of an earlier holder leaves maps that the next apply repairs.
    pub fn steering(&self) -> MutexGuard<'_, Option<Steering>> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is kept out for a time.
    pub fn bans(&self) -> MutexGuard<'_, Bans> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there is no kernel's side to ask.
    pub fn no_maps(&self) -> Answer {
        let why = if self.waiting.load(Ordering::Relaxed) {
            "this daemon stands by: another one has the kernel maps"
        } else if self.draining.load(Ordering::Relaxed) {
            "this daemon drains: it has let go of the kernel maps"
        } else if self.proxy.get().is_none() {
            "this daemon waits for its source: it has no kernel maps yet"
        } else {
            "this daemon runs with --no-xdp: there are no kernel maps"
        };
        Answer::Failure(StatusCode::CONFLICT, why.to_owned())
    }

    fn source_view(&self) -> Source {
        let synced = self.synced.load(Ordering::Relaxed);
        let health = match self.health.load().as_deref() {
            Some(Health::Degraded { since, reason }) => {
                let since = jiff::Timestamp::from_second(*since);
                let since = since.map_or_else(|_| String::new(), |since| format!(" since {since}"));
                let meanwhile = if synced { "serving the last good state" } else { "nothing was read yet" };
                format!("degraded{since}, {meanwhile}: {reason}")
            }
            _ if !synced => WAITING.to_owned(),
            _ => "ok".to_owned(),
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
        let vip = match values.get("vip").map(|vip| unescape(vip).ok_or_else(String::new)) {
            None => None,
            Some(text) => match text.and_then(|text| vip_address(&text)) {
                Ok(vip) => Some(vip),
                Err(error) => {
                    return Answer::Failure(StatusCode::BAD_REQUEST, format!("vip: {error}"));
                }
            },
        };
        let xdp = self.steering().is_some();
        match explain(&Question { url: &url, vip, all, xdp }, &snapshot, &table) {
            Ok(mut explanation) => {
                let cluster = explanation.route.as_ref().map(|found| found.route.backend.clone());
                let mut health = self.proxy.get().map(Proxy::health).unwrap_or_default();
                if let Some(health) = cluster.and_then(|cluster| health.remove(&cluster)) {
                    views::add_health(&mut explanation.endpoints, health.endpoints);
                }
                Answer::json(&explanation)
            }
            Err(error) => Answer::Failure(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

impl State {
    fn backends(&self) -> Vec<views::Backend> {
        let proxy = self.proxy.get();
        let requests = proxy.map(|proxy| proxy.stats().clusters).unwrap_or_default();
        let health = proxy.map(Proxy::health).unwrap_or_default();
        views::backends(&self.snapshot.load(), &requests, &health)
    }

    fn sample(&self) -> top::Sample {
        let known = |backend: &views::Backend| backend.endpoints.iter().any(|one| one.health.is_some());
        top::Sample {
            status: self.status(),
            routes: self.measurements().into_iter().map(top::Route::from).collect(),
            unwell: self.backends().into_iter().filter(known).collect(),
        }
    }

    fn tune(&self, text: &str) -> Answer {
        let mut bans = self.bans();
        let (changes, others) = match Changes::read(bans.rules(), text) {
            Ok(read) => read,
            Err(error) => return Answer::Failure(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let mut steering = self.steering();
        if !others.is_empty() {
            let Some(steering) = steering.as_mut() else {
                // What is none anywhere must not sound as if XDP knew it.
                return match others.lines().try_for_each(|line| Tuning::default().change(line)) {
                    Ok(()) => self.no_maps(),
                    Err(error) => Answer::Failure(StatusCode::BAD_REQUEST, error.to_string()),
                };
            };
            match steering.tune(&others) {
                Ok(()) => bans.spare(&steering.tuning().allow),
                Err(error @ TuneError::Bad(_)) => {
                    return Answer::Failure(StatusCode::BAD_REQUEST, error.to_string());
                }
                Err(error) => return Answer::Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        if let Some(changes) = changes {
            bans.change(changes);
        }
        self.enforce(&mut bans, steering.as_mut());
        tuned(&bans, steering.as_ref())
    }

    fn explain_flow(&self, text: &str) -> Answer {
        let bad = |error: String| Answer::Failure(StatusCode::BAD_REQUEST, error);
        let question: flow::Question = match serde_json::from_str(text) {
            Ok(question) => question,
            Err(error) => return bad(error.to_string()),
        };
        let packets = match flow::packets::packets(&question) {
            Ok(packets) => packets,
            Err(error) => return bad(error.to_string()),
        };
        let mut judged = Vec::new();
        if let Some(steering) = self.steering().as_mut() {
            for packet in packets {
                match steering.rehearse(&packet.frame) {
                    Ok(rehearsed) => judged.push((packet, rehearsed)),
                    Err(error) => {
                        return Answer::Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
                    }
                }
            }
        }
        let snapshot = self.snapshot.load();
        let table = RouteTable::build(&snapshot.routing);
        Answer::json(&flow::explain(question, &snapshot, &table, &judged))
    }
}

impl Answers for State {
    fn answer(&self, path: &str, query: Option<&str>) -> Answer {
        let failed = |error: String| Answer::Failure(StatusCode::INTERNAL_SERVER_ERROR, error);
        match path {
            "/status" => Answer::json(&self.status()),
            "/routes" => Answer::json(&views::routes(&self.snapshot.load())),
            "/backends" => Answer::json(&self.backends()),
            "/top" => Answer::json(&self.sample()),
            "/explain" => self.explain(query),
            "/tune" => {
                let bans = self.bans();
                tuned(&bans, self.steering().as_ref())
            }
            "/maps" => match self.steering().as_ref().map(|steering| steering.dump()) {
                None => self.no_maps(),
                Some(Ok(image)) => Answer::json(&image),
                Some(Err(error)) => failed(error),
            },
            "/drain" => self.resting.answer(self),
            "/maps/verify" => {
                let snapshot = self.snapshot.load_full();
                match self.steering().as_mut().map(|steering| steering.verify(&snapshot)) {
                    None => self.no_maps(),
                    Some(Ok(differences)) => {
                        Answer::json(&Verification { generation: snapshot.generation, differences })
                    }
                    Some(Err(error)) => failed(error),
                }
            }
            _ => Answer::Unknown,
        }
    }

    fn change(&self, path: &str, text: &str) -> Answer {
        match path {
            "/tune" => self.tune(text),
            "/drain" => self.resting.change(self, text),
            "/explain" => self.explain_flow(text),
            _ => Answer::Unknown,
        }
    }

    fn stream(self: Arc<Self>, path: &str, text: &str) -> Option<Result<Receiver<Bytes>, Answer>> {
        (path == "/trace").then(|| trace::session::begin(self, text))
    }
}

impl Probed for State {
    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining".to_owned());
        }
        if self.resting.is_on() {
            return Err("drained with `sluice drain`; `sluice drain --undo` ends that".to_owned());
        }
        if self.waiting.load(Ordering::Relaxed) {
            return Err("standing by: another daemon has the kernel's side".to_owned());
        }
        if self.proxy.get().is_none() {
            return Err(match self.health.load().as_deref() {
                Some(Health::Degraded { reason, .. }) => format!("{WAITING}: {reason}"),
                _ => WAITING.to_owned(),
            });
        }
        match self.trouble.load().as_deref() {
            Some(trouble) => Err(trouble.clone()),
            None if self.serving.load(Ordering::Relaxed) => Ok(()),
            None => Err("setting up the first snapshot".to_owned()),
        }
    }

    fn measurements(&self) -> Vec<crate::proxy::Measurement> {
        self.proxy.get().map(|proxy| proxy.measurements()).unwrap_or_default()
    }

    fn status(&self) -> Status {
        let snapshot = self.snapshot.load();
        let bans = self.bans().summary();
        let (xdp, counters, rules) = match self.steering().as_ref() {
            Some(steering) => {
                (Some(steering.info()), steering.counters(), Some(Rules::of(steering.tuning())))
            }
            None => (None, Default::default(), None),
        };
        let unready = self.ready().err();
        Status {
            generation: snapshot.generation,
            ready: unready.is_none(),
            unready,
            standby: self.waiting.load(Ordering::Relaxed) && self.synced.load(Ordering::Relaxed),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: self.source_view(),
            listeners: snapshot
                .listeners
                .iter()
                .map(|listener| format!("{} {}", listener.vip, word(&listener.protocol)))
                .collect(),
            serving: Serving::of(&snapshot),
            xdp,
            rules,
            bans: (bans.rules.after > 0 || bans.total > 0).then_some(bans),
            verdicts: counters.verdicts,
            vips: counters.vips,
            sni: counters.sni,
            proxy: self
                .proxy
                .get()
                .and_then(|proxy| serde_json::to_value(proxy.stats()).ok())
                .unwrap_or(Value::Null),
            drained_for: self.resting.seconds(),
            issues: snapshot.issues.iter().map(views::Issue::from).collect(),
            trouble: self.trouble.load().as_deref().cloned(),
            publishing: self.publishing.get().map(Reporter::report),
        }
    }
}

fn tuned(bans: &Bans, steering: Option<&Steering>) -> Answer {
    Answer::json(&Tuned {
        rules: steering.map(|steering| steering.tuning().clone()),
        ban: *bans.rules(),
        banned: bans.banned(),
    })
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
        let bans = Bans::new(Default::default(), vec![]);
        let state = State::new(SourceKind::Manifests("d".into()), bans);
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
