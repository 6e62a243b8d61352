//! `/metrics`: the numbers of `sluice status` as OpenMetrics text.
//!
//! Built anew for each scrape, so nothing has to be kept in step. Labels only take values that the
//! configuration names, never what clients send, and of each kind at most [`MOST`]; what is beyond
//! is added up under `other`.

use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Map, Value};

use super::admin::views::{Status, VipCount};
use crate::proxy::Measurement;
use crate::status::Report;

/// How many VIPs, server names or clusters get time series of their own. Chosen by name, not by
/// size: a counter must not change its place as traffic goes up and down.
const MOST: usize = 1000;

/// A counter or gauge of the proxy's workers: field, name, help.
type Field = (&'static str, &'static str, &'static str);

const COUNTERS: [Field; 22] = [
    ("accepted", "proxy_connections", "Client connections accepted"),
    ("accept_failures", "proxy_accept_failures", "Failed accepts, above all for want of file descriptors"),
    ("crowded", "proxy_connections_crowded", "Client connections closed because their client had too many"),
    ("proxy_header_failures", "proxy_header_failures", "Connections without a good PROXY header in time"),
    ("resetting", "proxy_connections_resetting", "HTTP/2 connections ended for resetting most requests"),
    ("banned", "proxy_connections_banned", "Client connections closed because their client is banned"),
    ("flooding", "proxy_connections_flooding", "HTTP/2 connections ended for frames that carry nothing"),
    ("tls_handshakes", "proxy_tls_handshakes", "TLS handshakes completed"),
    ("tls_failures", "proxy_tls_failures", "TLS handshakes that failed or took too long"),
    ("tls_refused", "proxy_tls_refused", "TLS connections refused for a server name that nobody serves"),
    ("requests", "proxy_requests", "Requests whose head was complete"),
    ("client_gone", "proxy_client_gone", "Requests whose client left before the answer began"),
    ("upstream_connects", "proxy_upstream_connects", "Connections opened to endpoints"),
    ("direct", "proxy_direct_requests", "Plain requests that took the short way beside hyper"),
    ("upstream_reuses", "proxy_upstream_reuses", "Requests sent on a connection that had served another"),
    ("upstream_failures", "proxy_upstream_failures", "Connects or exchanges with endpoints that failed"),
    ("upstream_tls_failures", "proxy_upstream_tls_failures", "TLS handshakes with endpoints that failed"),
    ("upstream_retries", "proxy_upstream_retries", "Requests sent again after a failure"),
    ("mirrored", "proxy_mirrored", "Copies of requests that mirrors answered"),
    ("mirror_failures", "proxy_mirror_failures", "Copies of requests for mirrors that were dropped or lost"),
    ("tunnels", "proxy_tunnels", "Upgraded connections (WebSocket)"),
    ("log_dropped", "proxy_log_dropped", "Access log lines dropped because the writer did not keep up"),
];

const BYTES: [Field; 3] = [
    ("response_bytes", "proxy_response", "Bytes of response bodies passed to clients"),
    ("spliced_bytes", "proxy_spliced", "Those of them that went from socket to socket"),
    ("tunnel_bytes", "proxy_tunnel", "Bytes that went through closed tunnels, both ways together"),
];

const GAUGES: [Field; 4] = [
    ("active", "proxy_connections_open", "Client connections open now, tunnels not counted"),
    ("requests_active", "proxy_requests_active", "Requests being served now"),
    ("upstream_idle", "proxy_upstream_idle", "Connections to endpoints kept for the next request"),
    ("tunnels_active", "proxy_tunnels_open", "Upgraded connections open now"),
];

/// Counters of the proxy as a whole.
const SPANS: [Field; 2] = [
    ("spans_delivered", "spans_delivered", "Spans that the collector took"),
    ("spans_lost", "spans_lost", "Spans dropped: too many at once, or the collector was not there"),
];

const HEALTH_COUNTERS: [Field; 3] = [
    ("ejections", "cluster_ejections", "Endpoints left alone for failing requests"),
    ("overflows", "cluster_overflows", "Requests that got 503 since a limit of their cluster was reached"),
    ("retry_overflows", "cluster_retry_overflows", "Retries that max-retries left out"),
];

const HEALTH_GAUGES: [Field; 2] = [
    ("connections", "cluster_connections", "Requests and tunnels at a cluster with limits"),
    ("pending", "cluster_pending", "Requests that wait for a limit of their cluster"),
];

const RESPONSES: [(&str, &str); 5] = [
    ("responses_1xx", "1xx"),
    ("responses_2xx", "2xx"),
    ("responses_3xx", "3xx"),
    ("responses_4xx", "4xx"),
    ("responses_5xx", "5xx"),
];

/// All metrics of a daemon.
pub fn encode(status: &Status, measurements: &[Measurement]) -> String {
    let mut metrics = Metrics(Registry::with_prefix("sluice"));
    metrics.daemon(status);
    metrics.bans(status);
    metrics.kernel(status);
    metrics.proxy(&status.proxy);
    metrics.routes(measurements);
    let mut out = String::new();
    match text::encode(&mut out, &metrics.0) {
        Ok(()) => out,
        Err(error) => format!("# {error}\n"),
    }
}

type Labels = Vec<(&'static str, String)>;

struct Metrics(Registry);

impl Metrics {
    fn daemon(&mut self, status: &Status) {
        let serving = &status.serving;
        self.gauge(
            "build_info",
            "1; the label says which version runs",
            [(vec![("version", status.version.clone())], 1)],
        );
        self.number("generation", "The snapshot that is served", status.generation);
        self.number("ready", "1 when traffic may come", status.ready.into());
        self.number("hosts", "Host patterns served", serving.hosts as u64);
        self.number("routes", "Rules served", serving.routes as u64);
        self.number("endpoints", "Endpoints that may take requests", serving.endpoints as u64);
        let issues = ["note", "warning", "error"].map(|severity| {
            let n = status.issues.iter().filter(|issue| issue.severity == severity).count();
            (vec![("severity", severity.to_owned())], n as u64)
        });
        self.gauge("issues", "What is wrong with objects, by severity", issues);
        if let Some(report) = &status.publishing {
            self.publishing(report);
        }
    }

    fn publishing(&mut self, report: &Report) {
        self.number("leader", "1 when this daemon writes Ingress status and Events", report.is_leader.into());
        self.total("status_writes", "Statuses of Ingresses and Services written", report.writes);
        self.total(
            "status_taken_back",
            "Ingress statuses taken back after a change of class",
            report.taken_back,
        );
        self.number(
            "status_waiting",
            "Statuses of Ingresses and Services that wait to be written",
            report.writes_waiting,
        );
        self.total("events", "Events made or counted up", report.events);
        self.total("events_dropped", "Events that the server refused", report.events_dropped);
        self.number("events_waiting", "Events that wait for their turn", report.events_waiting);
        self.total("status_failures", "Requests for status, Events and Leases that failed", report.failures);
    }

    fn bans(&mut self, status: &Status) {
        if let Some(bans) = &status.bans {
            self.number("banned_sources", "Clients that are kept out for a time", bans.banned as u64);
            self.total("bans", "Times that a client was banned", bans.total);
        }
    }

    fn kernel(&mut self, status: &Status) {
        if status.xdp.is_none() {
            return;
        }
        if let Some(rules) = &status.rules {
            let lists = [("deny", rules.denied), ("allow", rules.allowed)];
            let lists = lists.map(|(list, n)| (vec![("list", list.to_owned())], n as u64));
            self.gauge("xdp_listed_sources", "Networks on the lists of sources", lists);
        }
        let verdicts = status.verdicts.iter().map(|(reason, n)| (vec![("reason", reason.clone())], *n));
        self.counter("xdp_packets", "Packets for each verdict of the XDP program", verdicts);
        let vips = |of: fn(&VipCount) -> u64| {
            bounded("vip", status.vips.iter().map(|vip| (vip.vip.clone(), of(vip))))
        };
        self.counter("vip_packets", "Packets towards a VIP", vips(|vip| vip.packets));
        self.bytes("vip", "Bytes towards a VIP", vips(|vip| vip.bytes));
        self.counter("vip_connections", "New connections of a VIP", vips(|vip| vip.connections));
        let names = status.sni.iter().map(|sni| (sni.name.clone(), sni.connections));
        self.counter("sni_connections", "ClientHellos for a configured server name", bounded("name", names));
    }

    fn proxy(&mut self, proxy: &Value) {
        let workers: Vec<_> =
            proxy["workers"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
        let rows = |field: &str| {
            let row = |worker: &&Map<String, Value>| Some((of(worker), worker.get(field)?.as_u64()?));
            workers.iter().filter_map(row).collect::<Vec<_>>()
        };
        for (field, name, help) in COUNTERS {
            self.counter(name, help, rows(field));
        }
        for (field, name, help) in BYTES {
            self.bytes(name, help, rows(field));
        }
        for (field, name, help) in GAUGES {
            self.gauge(name, help, rows(field));
        }
        let responses = RESPONSES.iter().flat_map(|(field, class)| {
            rows(field).into_iter().map(|(mut labels, n)| {
                labels.push(("class", (*class).to_owned()));
                (labels, n)
            })
        });
        self.counter(
            "proxy_responses",
            "Answers to clients, by class of status",
            responses.collect::<Vec<_>>(),
        );
        for (field, name, help) in SPANS {
            self.total(name, help, proxy[field].as_u64().unwrap_or_default());
        }
        let clusters = proxy["clusters"].as_object().into_iter().flatten();
        let clusters = clusters.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or_default()));
        self.counter("cluster_requests", "Requests sent to a cluster", bounded("cluster", clusters));
        self.health(&proxy["health"]);
    }

    /// Clusters whose endpoints failed, are checked or have limits.
    fn health(&mut self, health: &Value) {
        let rows = |field: &'static str| {
            let clusters = health.as_object().into_iter().flatten();
            let number = move |(name, one): (&String, &Value)| Some((name.clone(), one[field].as_u64()?));
            bounded("cluster", clusters.filter_map(number))
        };
        for (field, name, help) in HEALTH_COUNTERS {
            self.counter(name, help, rows(field));
        }
        for (field, name, help) in HEALTH_GAUGES {
            self.gauge(name, help, rows(field));
        }
        let states = health.as_object().into_iter().flatten().take(MOST).flat_map(|(name, one)| {
            let states = one["states"].as_object().into_iter().flatten();
            states.map(move |(state, n)| {
                let labels = vec![("cluster", name.clone()), ("state", state.clone())];
                (labels, n.as_u64().unwrap_or_default())
            })
        });
        self.gauge(
            "cluster_endpoints",
            "Endpoints by state, of clusters of which something is known",
            states.collect::<Vec<_>>(),
        );
    }

    /// Those that nobody asked for yet are left out.
    fn routes(&mut self, measurements: &[Measurement]) {
        let used = |one: &&Measurement| one.ends.iter().any(|(_, n)| *n > 0);
        let ends = measurements.iter().filter(used).flat_map(|one| {
            let labelled = |(end, n): &(&'static str, u64)| {
                let mut labels = route_labels(one);
                labels.push(("class", (*end).to_owned()));
                (labels, *n)
            };
            one.ends.iter().filter(|(_, n)| *n > 0).map(labelled).collect::<Vec<_>>()
        });
        let help = "Requests of a route by class of their status, or gone where the client left before it";
        self.counter("requests", help, ends.collect::<Vec<_>>());
        let rows = measurements.iter().filter(used).map(|one| (route_labels(one), one.clone())).collect();
        let help = "From a request's head to the last byte of its answer, by route; tunnels left out";
        self.0.register_with_unit("request_duration", help, Unit::Seconds, Durations(rows));
    }

    fn counter(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        self.0.register(name, help, counters(rows));
    }

    fn bytes(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        self.0.register_with_unit(name, help, Unit::Bytes, counters(rows));
    }

    fn total(&mut self, name: &str, help: &str, n: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(n);
        self.0.register(name, help, counter);
    }

    fn number(&mut self, name: &str, help: &str, n: u64) {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        self.0.register(name, help, gauge);
    }

    fn gauge(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, n) in rows {
            family.get_or_create(&labels).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
        self.0.register(name, help, family);
    }
}

fn counters(rows: impl IntoIterator<Item = (Labels, u64)>) -> Family<Labels, Counter> {
    let family = Family::<Labels, Counter>::default();
    for (labels, n) in rows {
        family.get_or_create(&labels).inc_by(n);
    }
    family
}

/// A histogram for each route.
#[derive(Debug)]
struct Durations(Vec<(Labels, Measurement)>);

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, one) in &self.0 {
            let count = one.buckets.iter().map(|(_, n)| n).sum();
            let mut encoder = encoder.encode_family(labels)?;
            encoder.encode_histogram::<NoLabelSet>(one.seconds, count, &one.buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn route_labels(one: &Measurement) -> Labels {
    let of = one.of.as_ref();
    let label = |of: Option<&String>| of.cloned().unwrap_or_default();
    vec![
        ("ingress", of.map_or_else(|| "other".to_owned(), |of| of.ingress.clone())),
        ("path", label(of.map(|of| &of.path))),
        ("service", label(of.map(|of| &of.service))),
    ]
}

fn of(worker: &Map<String, Value>) -> Labels {
    vec![("worker", worker.get("worker").map(Value::to_string).unwrap_or_default())]
}

/// The first [`MOST`] by name, and the others together.
fn bounded(label: &'static str, rows: impl Iterator<Item = (String, u64)>) -> Vec<(Labels, u64)> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    let others = rows.split_off(rows.len().min(MOST));
    if !others.is_empty() {
        rows.push(("other".to_owned(), others.iter().map(|(_, n)| n).sum()));
    }
    rows.into_iter().map(|(name, n)| (vec![(label, name)], n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::admin::views::{SniCount, Xdp};
    use crate::proxy::Measured;
    use serde_json::json;

    fn status() -> Status {
        let mut status: Status = serde_json::from_value(json!({
            "generation": 7, "ready": true, "version": "1.2.3", "source": {"kind": "manifests", "health": "ok"},
            "listeners": [], "serving": {"hosts": 1, "routes": 2, "clusters": 1, "endpoints": 3, "certificates": 0},
            "xdp": null, "verdicts": {"pass-vip": 5}, "sni": [], "issues": [],
            "vips": [{"vip": "192.0.2.1:80/tcp", "packets": 5, "bytes": 500, "connections": 2}],
            "proxy": {"workers": [{"worker": 0, "cpu": 0, "requests": 3, "responses_2xx": 2, "active": 1},
                {"worker": 1, "cpu": 1, "requests": 4, "responses_2xx": 4, "active": 0}],
                "clusters": {"d/one:80": 6},
                "health": {"d/one:80": {"states": {"ready": 2, "ejected": 1}, "ejections": 4, "overflows": 5,
                    "retry_overflows": 0, "connections": 1, "pending": 0}}},
        }))
        .expect("a status");
        status.xdp = Some(Xdp { interfaces: Vec::new(), steering: None });
        status.publishing = Some(Report { is_leader: true, writes: 9, ..Report::default() });
        status
    }

    fn measurements() -> Vec<Measurement> {
        let of = Measured { ingress: "d/one".into(), path: "/".into(), service: "d/web:80".into() };
        let ends = vec![("2xx", 3), ("5xx", 0)];
        let buckets = vec![(0.001, 1), (0.005, 2), (f64::INFINITY, 0)];
        let one = Measurement { of: Some(of), ends, buckets, seconds: 0.007 };
        let unused = Measurement { ends: vec![("2xx", 0)], of: None, ..one.clone() };
        vec![one.clone(), unused, Measurement { of: None, ..one }]
    }

    #[test]
    fn counters_are_counters_and_gauges_are_gauges() {
        let text = encode(&status(), &measurements());
        for line in [
            "# HELP sluice_proxy_requests Requests whose head was complete.",
            "# TYPE sluice_proxy_requests counter",
            "sluice_proxy_requests_total{worker=\"0\"} 3",
            "sluice_proxy_requests_total{worker=\"1\"} 4",
            "sluice_proxy_responses_total{worker=\"1\",class=\"2xx\"} 4",
            "# TYPE sluice_proxy_connections_open gauge",
            "sluice_proxy_connections_open{worker=\"0\"} 1",
            "sluice_cluster_requests_total{cluster=\"d/one:80\"} 6",
            "sluice_cluster_endpoints{cluster=\"d/one:80\",state=\"ejected\"} 1",
            "sluice_cluster_ejections_total{cluster=\"d/one:80\"} 4",
            "sluice_cluster_overflows_total{cluster=\"d/one:80\"} 5",
            "sluice_xdp_packets_total{reason=\"pass-vip\"} 5",
            "sluice_vip_bytes_total{vip=\"192.0.2.1:80/tcp\"} 500",
            "sluice_vip_connections_total{vip=\"192.0.2.1:80/tcp\"} 2",
            "sluice_requests_total{ingress=\"d/one\",path=\"/\",service=\"d/web:80\",class=\"2xx\"} 3",
            "sluice_requests_total{ingress=\"other\",path=\"\",service=\"\",class=\"2xx\"} 3",
            "# TYPE sluice_request_duration_seconds histogram",
            "sluice_request_duration_seconds_sum{ingress=\"d/one\",path=\"/\",service=\"d/web:80\"} 0.007",
            "sluice_request_duration_seconds_count{ingress=\"d/one\",path=\"/\",service=\"d/web:80\"} 3",
            "sluice_request_duration_seconds_bucket{le=\"0.005\",ingress=\"d/one\",path=\"/\",service=\"d/web:80\"} 3",
            "sluice_request_duration_seconds_bucket{le=\"+Inf\",ingress=\"d/one\",path=\"/\",service=\"d/web:80\"} 3",
            "sluice_build_info{version=\"1.2.3\"} 1",
            "sluice_generation 7",
            "sluice_leader 1",
            "sluice_status_writes_total 9",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line:?} in\n{text}");
        }
    }

    #[test]
    fn every_family_has_a_help_text_of_its_own() {
        let text = encode(&status(), &measurements());
        let mut helps: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
            .map(|(_, help)| help)
            .collect();
        let all = helps.len();
        helps.sort();
        helps.dedup();
        assert_eq!((helps.len(), text.matches("# TYPE ").count()), (all, all), "{text}");
    }

    #[test]
    fn time_series_are_bounded() {
        let mut status = status();
        let name = |n| SniCount { name: format!("h{n:05}.test"), connections: 1 };
        status.sni = (0..2 * MOST).map(name).collect();
        let text = encode(&status, &[]);
        let rows: Vec<_> = text.lines().filter(|l| l.starts_with("sluice_sni_connections_total{")).collect();
        assert_eq!(rows.len(), MOST + 1);
        assert!(rows.contains(&format!("sluice_sni_connections_total{{name=\"other\"}} {MOST}").as_str()));
    }
}
