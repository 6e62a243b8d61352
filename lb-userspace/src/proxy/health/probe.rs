//! One question to one endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::model::{HealthCheck, Probe};
use crate::proxy::upstream::Transports;

/// Why an endpoint is unwell.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwell {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("the question can't be asked: {0}")]
    Question(#[from] http::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
}

/// Asks endpoints.
pub(super) struct Prober {
    tls: Arc<rustls::ClientConfig>,
}

impl Prober {
    pub(super) fn new() -> Self {
        Self { tls: Transports::new().unverified() }
    }

    /// Asks once.
    pub(super) async fn ask(&self, check: &HealthCheck, address: SocketAddr) -> Result<(), Unwell> {
        let whole = self.ask_at_leisure(check, address);
        tokio::time::timeout(check.timeout, whole).await.unwrap_or(Err(Unwell::Late(check.timeout)))
    }

    async fn ask_at_leisure(&self, check: &HealthCheck, endpoint: SocketAddr) -> Result<(), Unwell> {
        let address = SocketAddr::new(endpoint.ip(), check.port.unwrap_or(endpoint.port()));
        let stream = TcpStream::connect(address).await.map_err(Unwell::Connect)?;
        let Probe::Http { tls, path, host, statuses } = &check.probe else { return Ok(()) };
        let host = host.as_deref().map_or_else(|| address.to_string(), str::to_owned);
        let request = Request::get(&**path)
            .header(header::HOST, &host)
            .header(header::USER_AGENT, "sluice-health-check")
            .header(header::CONNECTION, "close")
            .body(Empty::new())?;
        let status = match tls {
            false => exchange(stream, request).await?,
            true => {
                let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name).to_owned();
                let name = ServerName::try_from(name).unwrap_or_else(|_| ServerName::from(address.ip()));
                let connector = TlsConnector::from(Arc::clone(&self.tls));
                exchange(connector.connect(name, stream).await.map_err(Unwell::Tls)?, request).await?
            }
        };
        let is_good = statuses.iter().any(|(first, last)| (*first..=*last).contains(&status.as_u16()));
        if is_good { Ok(()) } else { Err(Unwell::Status(status)) }
    }
}

/// The status of the answer; its body is nobody's business.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<StatusCode, Unwell> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    // The connection ends when this does: it is read no further than the head.
    tokio::select! {
        answer = &mut answer => Ok(answer?.status()),
        ended = &mut connection => {
            ended?;
            Ok(answer.await?.status())
        }
    }
}
