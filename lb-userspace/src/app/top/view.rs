//! Rates between two samples. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Route, Sample, Sort};

/// What happened between two samples. Rates are by the second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// The snapshot that is served.
    pub generation: u64,
    /// Whether the daemon is ready.
    pub ready: bool,
    /// Seconds between the two samples.
    pub seconds: f64,
    /// Requests.
    pub requests: f64,
    /// Answers by the class of their status.
    pub responses: BTreeMap<String, f64>,
    /// Bytes of answers.
    pub response_bytes: f64,
    /// Each route that had requests.
    pub routes: Vec<RouteRate>,
    /// Endpoints that something is known against.
    pub endpoints: Vec<Endpoint>,
    /// Each worker.
    pub workers: Vec<Worker>,
    /// Frames by the reason of XDP's verdict, most first; none without XDP.
    pub frames: Vec<(String, f64)>,
    /// ClientHellos by server name, most first.
    pub names: Vec<(String, f64)>,
}

/// A route's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteRate {
    /// The Ingress; `others` for all that have no numbers of their own.
    pub ingress: String,
    /// The path.
    pub path: String,
    /// The Service port.
    pub service: String,
    /// Requests.
    pub requests: f64,
    /// Of these, by how they ended.
    pub ends: BTreeMap<String, f64>,
    /// The time that half of them took at most, in milliseconds; `None`: there were none.
    pub p50_ms: Option<f64>,
    /// The time that 99 of 100 took at most, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// An endpoint that something is known against.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Endpoint {
    /// The Service port.
    pub cluster: String,
    /// Where it listens.
    pub address: String,
    /// How it is, in words.
    pub state: String,
    /// Failed requests since the last that was answered.
    pub failures: u32,
    /// How often it was left alone for its failures.
    pub ejections: u64,
}

/// A worker's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Worker {
    /// Its number.
    pub worker: u64,
    /// Its CPU.
    pub cpu: u64,
    /// Client connections that it has now.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: f64,
    /// Requests.
    pub requests: f64,
    /// Its part of all requests, in percent.
    pub share: f64,
}

impl View {
    /// What happened between two samples that lie so many seconds apart.
    pub fn between(before: &Sample, after: &Sample, seconds: f64) -> Self {
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds.max(0.001);
        let (was, is) = (&before.status.proxy["total"], &after.status.proxy["total"]);
        let total = |key: &str| rate(number(was, key), number(is, key));
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let requests = total("requests");
        let mut frames: Vec<_> = after
            .status
            .verdicts
            .iter()
            .filter(|(reason, _)| !is_part_of_another(reason))
            .map(|(reason, n)| (reason.clone(), rate(*before.status.verdicts.get(reason).unwrap_or(&0), *n)))
            .collect();
        let known: BTreeMap<_, _> =
            before.status.sni.iter().map(|name| (&name.name, name.connections)).collect();
        let mut names: Vec<_> = after
            .status
            .sni
            .iter()
            .map(|name| (name.name.clone(), rate(*known.get(&name.name).unwrap_or(&0), name.connections)))
            .collect();
        for list in [&mut frames, &mut names] {
            list.retain(|(_, rate)| *rate > 0.0);
            list.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        }
        Self {
            generation: after.status.generation,
            ready: after.status.ready,
            seconds,
            requests,
            responses: classes.map(|class| (class.to_owned(), total(&format!("responses_{class}")))).into(),
            response_bytes: total("response_bytes"),
            routes: routes(before, after, seconds),
            endpoints: endpoints(after),
            workers: workers(before, after, rate, requests),
            frames,
            names,
        }
    }

    /// Puts routes in order.
    pub fn sort(&mut self, by: Sort) {
        let errors =
            |route: &RouteRate| ["5xx", "gone"].iter().filter_map(|end| route.ends.get(*end)).sum::<f64>();
        let name = |a: &RouteRate, b: &RouteRate| (&a.ingress, &a.path).cmp(&(&b.ingress, &b.path));
        self.routes.sort_by(|a, b| {
            let order = match by {
                Sort::Requests => b.requests.total_cmp(&a.requests),
                Sort::Errors => errors(b).total_cmp(&errors(a)),
                Sort::Latency => b.p99_ms.unwrap_or(-1.0).total_cmp(&a.p99_ms.unwrap_or(-1.0)),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            order.then_with(|| name(a, b))
        });
    }
}

/// Reasons that count connections, or frames that have another reason, too.
fn is_part_of_another(reason: &str) -> bool {
    reason.starts_with("hello_") || reason.starts_with("steer")
}

fn routes(before: &Sample, after: &Sample, seconds: f64) -> Vec<RouteRate> {
    let known: BTreeMap<_, _> = before.routes.iter().map(|route| (&route.of, route)).collect();
    let none = Route::default();
    let rates = after.routes.iter().map(|route| {
        let was = known.get(&route.of).copied().unwrap_or(&none);
        let grown = |now: u64, before: Option<u64>| now.saturating_sub(before.unwrap_or(0));
        let ends: BTreeMap<_, _> = route
            .ends
            .iter()
            .map(|(end, n)| (end.clone(), grown(*n, was.ends.get(end).copied()) as f64 / seconds.max(0.001)))
            .filter(|(_, rate)| *rate > 0.0)
            .collect();
        let buckets: Vec<_> = route
            .buckets
            .iter()
            .enumerate()
            .map(|(at, (bound, n))| (*bound, grown(*n, was.buckets.get(at).map(|bucket| bucket.1))))
            .collect();
        let others = || ("others".to_owned(), String::new(), String::new());
        let (ingress, path, service) = route.of.clone().unwrap_or_else(others);
        RouteRate {
            ingress,
            path,
            service,
            requests: ends.values().sum(),
            ends,
            p50_ms: quantile(&buckets, 0.5),
            p99_ms: quantile(&buckets, 0.99),
        }
    });
    rates.filter(|route| route.requests > 0.0).collect()
}

/// The time in milliseconds that this part of all requests took at most, as if those of a bucket lay
/// evenly in it. Beyond the last bound: that bound.
fn quantile(buckets: &[(Option<f64>, u64)], part: f64) -> Option<f64> {
    let all: u64 = buckets.iter().map(|(_, n)| n).sum();
    if all == 0 {
        return None;
    }
    let wanted = all as f64 * part;
    let (mut below, mut seen) = (0.0, 0.0);
    for (bound, n) in buckets {
        let Some(bound) = bound else { break };
        let n = *n as f64;
        if n > 0.0 && seen + n >= wanted {
            return Some(1000.0 * (below + (bound - below) * (wanted - seen) / n));
        }
        seen += n;
        below = *bound;
    }
    Some(1000.0 * below)
}

fn endpoints(after: &Sample) -> Vec<Endpoint> {
    let of = |backend: &crate::app::admin::views::Backend| {
        let cluster = backend.cluster.clone();
        let known =
            backend.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.health.as_ref()?)));
        let rows = known.map(move |(endpoint, health)| Endpoint {
            cluster: cluster.clone(),
            address: endpoint.address.clone(),
            state: crate::app::admin::health_words::endpoint_state(endpoint),
            failures: health.failures,
            ejections: health.ejections,
        });
        rows.filter(|row| row.state != "ready" || row.failures > 0 || row.ejections > 0).collect::<Vec<_>>()
    };
    after.unwell.iter().flat_map(of).collect()
}

fn workers(before: &Sample, after: &Sample, rate: impl Fn(u64, u64) -> f64, all: f64) -> Vec<Worker> {
    let list = |sample: &Sample| sample.status.proxy["workers"].as_array().cloned().unwrap_or_default();
    let known = list(before);
    let rows = list(after).into_iter().map(|now| {
        let same = known.iter().find(|worker| worker["worker"] == now["worker"]);
        let grown = |key: &str| rate(same.map_or(0, |worker| number(worker, key)), number(&now, key));
        let requests = grown("requests");
        Worker {
            worker: number(&now, "worker"),
            cpu: number(&now, "cpu"),
            connections: number(&now, "active") + number(&now, "tunnels_active"),
            accepted: grown("accepted"),
            requests,
            share: if all > 0.0 { 100.0 * requests / all } else { 0.0 },
        }
    });
    rows.collect()
}

fn number(values: &Value, key: &str) -> u64 {
    values[key].as_u64().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::app::admin::views::SniCount;
    use crate::app::bans::Bans;
    use crate::app::health::Probed as _;
    use crate::app::settings::SourceKind;
    use crate::app::state::State;

    fn sample(n: u64) -> Sample {
        let mut status =
            Arc::new(State::new(SourceKind::Manifests("d".into()), Bans::new(Default::default(), vec![])))
                .status();
        let worker = |worker: u64, requests: u64| json!({"worker": worker, "cpu": worker, "active": 3, "accepted": n, "requests": requests});
        status.ready = true;
        status.generation = 7;
        status.proxy = json!({
            "total": {"requests": 100 * n, "responses_2xx": 90 * n, "responses_5xx": 10 * n, "response_bytes": 4096 * n},
            "workers": [worker(0, 75 * n), worker(1, 25 * n)],
        });
        status.verdicts = [("vip", 1000 * n), ("not_vip", 10), ("hello_exact", n), ("no_backend", 20 * n)]
            .map(|(reason, n)| (reason.to_owned(), n))
            .into();
        let name = |name: &str, connections| SniCount { name: name.to_owned(), connections };
        status.sni = vec![name("a.example", n), name("b.example", 2 * n), name("quiet.example", 5)];
        let route = |path: &str, requests: u64, errors: u64, slow: u64| Route {
            of: Some(("d/web".to_owned(), path.to_owned(), "d/web:80".to_owned())),
            ends: [("2xx".to_owned(), requests - errors), ("5xx".to_owned(), errors)].into(),
            buckets: vec![(Some(0.001), requests - slow), (Some(0.01), slow), (None, 0)],
        };
        Sample {
            status,
            routes: vec![route("/", 80 * n, 0, 8 * n), route("/bad", 20 * n, 10 * n, 0), Route::default()],
            unwell: Vec::new(),
        }
    }

    /// Two seconds with 50 requests each.
    pub fn some() -> View {
        View::between(&sample(1), &sample(2), 2.0)
    }

    #[test]
    fn rates() {
        let mut view = some();
        assert_eq!((view.requests, view.responses["5xx"], view.response_bytes), (50.0, 5.0, 2048.0));
        assert_eq!(view.frames, [("vip".to_owned(), 500.0), ("no_backend".to_owned(), 10.0)]);
        assert_eq!(view.names, [("b.example".to_owned(), 1.0), ("a.example".to_owned(), 0.5)]);
        let shares: Vec<_> = view.workers.iter().map(|worker| (worker.connections, worker.share)).collect();
        assert_eq!(shares, [(3, 75.0), (3, 25.0)]);
        for (by, first) in
            [(Sort::Requests, "/"), (Sort::Errors, "/bad"), (Sort::Latency, "/"), (Sort::Name, "/")]
        {
            view.sort(by);
            assert_eq!((view.routes.len(), &*view.routes[0].path), (2, first), "{by:?}");
        }
        // The daemon began anew: nothing is less than nothing.
        let again = View::between(&sample(2), &sample(1), 1.0);
        assert_eq!((again.requests, again.routes.len(), again.frames.len()), (0.0, 0, 0));
    }

    #[test]
    fn quantiles() {
        let bounds = [Some(0.001), Some(0.002), None];
        for (counts, part, expect) in [
            ([0, 0, 0], 0.5, None),
            ([10, 0, 0], 0.5, Some(0.5)),
            ([10, 10, 0], 0.5, Some(1.0)),
            ([10, 10, 0], 0.75, Some(1.5)),
            ([0, 10, 0], 0.99, Some(1.99)),
            ([0, 0, 10], 0.99, Some(2.0)),
        ] {
            let buckets: Vec<_> = bounds.into_iter().zip(counts).collect();
            let got = quantile(&buckets, part);
            let near = match (got, expect) {
                (Some(got), Some(expect)) => f64::abs(got - expect) < 1e-9,
                (got, expect) => got == expect,
            };
            assert!(near, "{counts:?} {part}: {got:?}");
        }
    }
}
