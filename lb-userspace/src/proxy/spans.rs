//! Spans of traced requests, sent to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! A worker never waits for the collector: finished spans go through a bounded queue to a thread
//! that sends them in batches. What does not fit, or can't be delivered, is dropped and counted.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::Either;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;

use super::trace::TraceParent;

/// How many spans may wait to be sent.
const QUEUE: usize = 8192;

/// How many are sent at once, and how long the first waits for the others.
const BATCH: usize = 512;
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// How long the collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where spans go, and how many begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// The collector's URL, such as `http://127.0.0.1:4318/v1/traces`. Without TLS: the collector
    /// belongs on the node.
    pub endpoint: Uri,
    /// The share of requests without a trace of their own that begin one, 0 to 1. Requests that bring
    /// one are sent as that says.
    pub sample: f64,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Delivered.
    pub(super) delivered: AtomicU64,
    /// Dropped: the queue was full, or the collector did not take them.
    pub(super) lost: AtomicU64,
}

/// A worker's end of it.
#[derive(Clone, Debug)]
pub(super) struct Tracer {
    queue: SyncSender<Finished>,
    sample: f64,
    sent: Arc<Sent>,
}

/// A request while it is served.
#[derive(Debug)]
pub(super) struct Span {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    sampled: bool,
    begun: SystemTime,
    pub(super) method: Method,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) client: Option<IpAddr>,
    /// Path and Ingress of its route.
    pub(super) route: Option<(String, String)>,
}

#[derive(Debug)]
struct Finished {
    span: Box<Span>,
    took: Duration,
    status: u16,
    error: bool,
}

impl Tracer {
    /// Starts the thread that sends. It ends when the last `Tracer` is dropped and the rest is sent.
    pub(super) fn start(settings: &Tracing) -> io::Result<(Self, Arc<Sent>, JoinHandle<()>)> {
        let (queue, spans) = sync_channel(QUEUE);
        let sent = Arc::new(Sent::default());
        let exporter = Exporter::new(settings.endpoint.clone(), Arc::clone(&sent))?;
        let thread =
            std::thread::Builder::new().name("spans".to_owned()).spawn(move || exporter.run(&spans))?;
        let tracer = Self { queue, sample: settings.sample, sent: Arc::clone(&sent) };
        Ok((tracer, sent, thread))
    }

    /// The span of a request that comes with these headers.
    pub(super) fn begin(&self, headers: &HeaderMap) -> Box<Span> {
        let parent = TraceParent::of(headers);
        let id = fastrand::u64(1..).to_be_bytes();
        Box::new(Span {
            trace: parent.map_or_else(|| fastrand::u128(1..).to_be_bytes(), |parent| parent.trace()),
            id,
            parent: parent.map(|parent| parent.parent()),
            sampled: parent.map_or_else(|| fastrand::f64() < self.sample, |parent| parent.is_sampled()),
            begun: SystemTime::now(),
            method: Method::default(),
            host: String::new(),
            path: String::new(),
            client: None,
            route: None,
        })
    }

    /// The request has ended.
    pub(super) fn end(&self, span: Box<Span>, took: Duration, status: u16, error: bool) {
        if span.sampled && self.queue.try_send(Finished { span, took, status, error }).is_err() {
            self.sent.lost.fetch_add(1, Relaxed);
        }
    }
}

impl Span {
    /// What the endpoint is told: the span is the parent of whatever it does.
    pub(super) fn traceparent(&self) -> HeaderValue {
        let flags = u8::from(self.sampled);
        let text = format!("00-{}-{:016x}-{flags:02x}", self.trace_id(), u64::from_be_bytes(self.id));
        HeaderValue::try_from(text).expect("hexadecimal digits")
    }

    /// 32 hexadecimal digits.
    pub(super) fn trace_id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace))
    }
}

impl Finished {
    fn encode(self) -> otlp::Span {
        let Self { span, took, status, error } = self;
        let begun = span.begun.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut attributes = vec![
            text("http.request.method", span.method.to_string()),
            text("server.address", span.host),
            text("url.path", span.path),
            number("http.response.status_code", status.into()),
        ];
        attributes.extend(span.client.map(|client| text("client.address", client.to_string())));
        let mut name = span.method.to_string();
        if let Some((path, ingress)) = span.route {
            name = format!("{name} {path}");
            attributes.push(text("http.route", path));
            attributes.push(text("k8s.ingress.name", ingress));
        }
        let code = if error || status >= 500 { otlp::status::StatusCode::Error } else { Default::default() };
        otlp::Span {
            trace_id: span.trace.to_vec(),
            span_id: span.id.to_vec(),
            parent_span_id: span.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            flags: 1,
            name,
            kind: otlp::span::SpanKind::Server as i32,
            start_time_unix_nano: nanos(begun),
            end_time_unix_nano: nanos(begun + took),
            attributes,
            status: Some(otlp::Status { code: code as i32, ..Default::default() }),
            ..Default::default()
        }
    }
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, Value::StringValue(value))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

/// Sends spans from a thread of its own.
struct Exporter {
    runtime: tokio::runtime::Runtime,
    endpoint: Uri,
    sent: Arc<Sent>,
}

impl Exporter {
    fn new(endpoint: Uri, sent: Arc<Sent>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, endpoint, sent })
    }

    fn run(self, spans: &Receiver<Finished>) {
        let mut failing = false;
        while let Ok(first) = spans.recv() {
            let end = Instant::now() + BATCH_WAIT;
            let mut batch = vec![first.encode()];
            while batch.len() < BATCH {
                match spans.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    Ok(span) => batch.push(span.encode()),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            let count = batch.len() as u64;
            let post = async {
                let posted = tokio::time::timeout(PATIENCE, post(&self.endpoint, request(batch))).await;
                posted.unwrap_or_else(|_| Err("no answer in time".into()))
            };
            match self.runtime.block_on(post) {
                Ok(()) => {
                    self.sent.delivered.fetch_add(count, Relaxed);
                    if std::mem::take(&mut failing) {
                        tracing::info!(endpoint = %self.endpoint, "the collector takes spans again");
                    }
                }
                Err(error) => {
                    self.sent.lost.fetch_add(count, Relaxed);
                    // One line for an outage, not one for each batch.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(endpoint = %self.endpoint, %error, "the collector does not take spans");
                    }
                }
            }
        }
    }
}

fn request(spans: Vec<otlp::Span>) -> Bytes {
    let resource = Resource { attributes: vec![text("service.name", "sluice".into())], ..Default::default() };
    let scope = InstrumentationScope {
        name: "sluice".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let scoped = otlp::ScopeSpans { scope: Some(scope), spans, ..Default::default() };
    let all =
        otlp::ResourceSpans { resource: Some(resource), scope_spans: vec![scoped], ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec().into()
}

/// Sends one batch over a connection of its own: one a second costs nobody anything.
async fn post(endpoint: &Uri, body: Bytes) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let host = endpoint.host().ok_or("the endpoint has no host")?;
    let port = endpoint.port_u16().unwrap_or(80);
    let stream = tokio::net::TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = endpoint.path_and_query().map_or("/v1/traces", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, endpoint.authority().map_or(host, |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(body))?;
    let answer = async {
        let status = sender.send_request(request).await?.status();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("it answered {status}").into()),
        }
    };
    match futures::future::select(pin!(answer), connection).await {
        Either::Left((answer, _)) => answer,
        // A collector may close at once behind its answer; without one this is an error.
        Either::Right((_, answer)) => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sample: f64, room: usize) -> (Tracer, Receiver<Finished>) {
        let (queue, spans) = sync_channel(room);
        (Tracer { queue, sample, sent: Arc::default() }, spans)
    }

    #[test]
    fn which_requests_are_traced() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", value.parse().expect("a value"));
            headers
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0";
        for (sample, headers, sampled, goes_on) in [
            (0.0, HeaderMap::new(), false, false),
            (1.0, HeaderMap::new(), true, false),
            (0.0, with(&format!("{good}1")), true, true),
            (1.0, with(&format!("{good}0")), false, true),
            (1.0, with("nonsense"), true, false),
        ] {
            let (tracer, spans) = tracer(sample, 1);
            let span = tracer.begin(&headers);
            let told = span.traceparent();
            let told = told.to_str().expect("text");
            assert!(super::super::trace::is_valid(&with(told)), "{told}");
            assert_eq!(told.ends_with("-01"), sampled, "{told}");
            assert_eq!(told.contains("0af7651916cd43dd8448eb211c80319c"), goes_on, "{told}");
            assert!(!told.contains("b7ad6b7169203331"), "the span is its own: {told}");
            tracer.end(span, Duration::ZERO, 200, false);
            assert_eq!(spans.try_recv().is_ok(), sampled, "{headers:?}");
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (tracer, spans) = tracer(1.0, 1);
        for _ in 0..3 {
            tracer.end(tracer.begin(&HeaderMap::new()), Duration::ZERO, 200, false);
        }
        assert_eq!(tracer.sent.lost.load(Relaxed), 2);
        let span = spans.try_recv().expect("one").encode();
        assert_eq!((span.trace_id.len(), span.span_id.len(), span.parent_span_id.len()), (16, 8, 0));
    }
}
