//! The TCP endpoint for probes and scrapes: `/healthz`, `/readyz`, `/metrics`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::net::TcpListener;

use super::admin::views::Status;

/// What probes and scrapes ask.
pub trait Probed: Send + Sync + 'static {
    /// Whether traffic may come; else why not.
    fn ready(&self) -> Result<(), String>;
    /// The daemon's state.
    fn status(&self) -> Status;
}

/// The endpoint can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} for probes: {source}; give another --health ADDR:PORT")]
pub struct HealthError {
    address: SocketAddr,
    source: io::Error,
}

/// Opens the endpoint.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, HealthError> {
    TcpListener::bind(address).await.map_err(|source| HealthError { address, source })
}

/// Answers until dropped.
pub async fn serve(listener: TcpListener, probed: Arc<dyn Probed>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let probed = Arc::clone(&probed);
                tokio::spawn(async move {
                    let service = service_fn(move |request| respond(Arc::clone(&probed), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(Duration::from_secs(10))
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a probe went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept probes");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn respond(
    probed: Arc<dyn Probed>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = "text/plain; charset=utf-8";
    let (status, kind, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, text, "ok\n".to_owned()),
        "/readyz" => match probed.ready() {
            Ok(()) => (StatusCode::OK, text, "ready\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("{why}\n")),
        },
        "/metrics" => (
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics(&probed.status()),
        ),
        _ => (StatusCode::NOT_FOUND, text, "/healthz, /readyz and /metrics are here\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}

type Labels = Vec<(&'static str, String)>;
type Numbers = Family<Labels, Gauge>;

/// The counters as OpenMetrics text. Built anew for each scrape, from the same numbers that
/// `sluice status` shows.
fn metrics(status: &Status) -> String {
    let mut registry = Registry::with_prefix("sluice");
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let mut family = |name: &str, help: &str, rows: Vec<(Labels, i64)>| {
        let family = Numbers::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).set(value);
        }
        registry.register(name, help, family);
    };
    let one = |value| vec![(vec![], value)];
    family("generation", "The snapshot that is served", one(number(status.generation)));
    family("ready", "1 when traffic may come", one(i64::from(status.ready)));
    family("hosts", "Host patterns served", one(count(status.serving.hosts)));
    family("routes", "Rules served", one(count(status.serving.routes)));
    family("endpoints", "Endpoints that may take requests", one(count(status.serving.endpoints)));
    let issues = ["note", "warning", "error"]
        .map(|severity| {
            let n = status.issues.iter().filter(|issue| issue.severity == severity).count();
            (vec![("severity", severity.to_owned())], count(n))
        })
        .into();
    family("issues", "What is wrong with objects", issues);
    let rows = |all: &mut dyn Iterator<Item = (&'static str, String, u64)>| {
        all.map(|(label, value, n)| (vec![(label, value)], number(n))).collect::<Vec<_>>()
    };
    let verdicts = rows(&mut status.verdicts.iter().map(|(reason, n)| ("reason", reason.clone(), *n)));
    family("xdp_packets", "Packets for each verdict of the XDP program", verdicts);
    let vips = |of: fn(&super::admin::views::VipCount) -> u64| {
        rows(&mut status.vips.iter().map(|vip| ("vip", vip.vip.clone(), of(vip))))
    };
    family("vip_packets", "Packets towards a VIP", vips(|vip| vip.packets));
    family("vip_connections", "New connections of a VIP", vips(|vip| vip.connections));
    family("vip_bytes", "Bytes towards a VIP", vips(|vip| vip.bytes));
    let sni = rows(&mut status.sni.iter().map(|sni| ("name", sni.name.clone(), sni.connections)));
    family("sni_connections", "ClientHellos for a server name", sni);
    if let Some(total) = status.proxy.get("total").and_then(Value::as_object) {
        for (name, value) in total {
            let value = value.as_u64().unwrap_or_default();
            family(&format!("proxy_{name}"), "A counter of the proxy, all workers", one(number(value)));
        }
    }
    if let Some(clusters) = status.proxy.get("clusters").and_then(Value::as_object) {
        let clusters = rows(
            &mut clusters.iter().map(|(name, n)| ("cluster", name.clone(), n.as_u64().unwrap_or_default())),
        );
        family("cluster_requests", "Requests sent to a cluster", clusters);
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}
