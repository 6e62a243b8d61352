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
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::admin::views::Status;
use super::metrics;
use crate::proxy::Measurement;

/// What probes and scrapes ask.
pub trait Probed: Send + Sync + 'static {
    /// Whether traffic may come; else why not.
    fn ready(&self) -> Result<(), String>;
    /// The daemon's state.
    fn status(&self) -> Status;
    /// How the requests of each route went.
    fn measurements(&self) -> Vec<Measurement>;
}

/// The endpoint can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} for probes: {source}; give another --health ADDR:PORT")]
pub struct HealthError {
    address: SocketAddr,
    source: io::Error,
}

impl HealthError {
    /// Whether another process has the address.
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// Opens the endpoint.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, HealthError> {
    TcpListener::bind(address).await.map_err(|source| HealthError { address, source })
}

/// Answers from when the address is free on, until dropped.
pub async fn serve_when_free(address: SocketAddr, probed: Arc<dyn Probed>) {
    let listener = when_free(RETRY, || listen(address), |error| tracing::debug!(%error, "still")).await;
    serve(listener, probed).await;
}

/// How often the address is tried that a daemon before has.
const RETRY: Duration = Duration::from_millis(200);

/// Tries until what is listened on is free; `told` hears of the first failure.
pub async fn when_free<E, L>(
    pause: Duration,
    mut listen: impl FnMut() -> L,
    told: impl FnOnce(E),
) -> TcpListener
where
    L: Future<Output = Result<TcpListener, E>>,
{
    let mut told = Some(told);
    loop {
        match listen().await {
            Ok(listener) => return listener,
            Err(error) => drop(told.take().map(|told| told(error))),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Answers until dropped.
pub async fn serve(listener: TcpListener, probed: Arc<dyn Probed>) {
    answer(listener, CONNECTIONS, move |request| respond(&*probed, request)).await;
}

/// Probes that are answered at once; further ones wait.
const CONNECTIONS: usize = 256;

/// Answers requests on so many connections at once, until dropped.
pub async fn answer<A>(listener: TcpListener, connections: usize, answer: A)
where
    A: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let (room, answer) = (Arc::new(Semaphore::new(connections)), Arc::new(answer));
    loop {
        // Never closed, so there is always a permit some time.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let response = answer(&request);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(Duration::from_secs(10))
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a probe went away");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept probes");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn respond(probed: &dyn Probed, request: &Request<Incoming>) -> Response<Full<Bytes>> {
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
            metrics::encode(&probed.status(), &probed.measurements()),
        ),
        _ => (StatusCode::NOT_FOUND, text, "/healthz, /readyz and /metrics are here\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
