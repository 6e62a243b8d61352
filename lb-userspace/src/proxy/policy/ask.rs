//! Questions to servers that are named by a URL: HTTP/1.1, with or without TLS.
//!
//! One worker's connections to them; nothing is shared. https is not verified: ingress-nginx does
//! not either, and servers inside a cluster rarely have a certificate that anybody could verify.
//! Where that matters, the server is asked over the pods' own network, as most are.

use std::cell::RefCell;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::resolve::Names;

/// Connections to one server that wait for a question, and how long.
const MAX_IDLE: usize = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Servers that connections are kept to. A URL with a variable in its host could make any number.
const MAX_SERVERS: usize = 64;

/// Largest body that is read.
const MAX_BODY: usize = 64 * 1024;

/// A server's answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty if it was longer than 64 KiB.
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum AskError {
    #[error("{0:?} is no http or https URL")]
    BadUrl(String),
    #[error("{host} can't be resolved: {source}")]
    Name { host: String, source: Rc<std::io::Error> },
    #[error("{host} can't be reached: {source}")]
    Connect { host: String, source: std::io::Error },
    #[error("{host} gave no valid answer: {source}")]
    Http { host: String, source: hyper::Error },
    #[error("{0} did not answer in time")]
    Timeout(String),
}

/// How long a question may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) connect: Duration,
    /// From the begin to the answer's last byte.
    pub(super) all: Duration,
}

/// Where a question goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    tls: bool,
    host: Box<str>,
    port: u16,
}

struct Idle {
    sender: SendRequest<Empty<Bytes>>,
    since: Instant,
}

/// One worker's way to servers that are named by a URL.
pub(in crate::proxy) struct Asker {
    names: Names,
    idle: RefCell<AHashMap<Server, Vec<Idle>>>,
    connector: TlsConnector,
}

impl Asker {
    /// `tls` is what https is spoken with.
    pub(in crate::proxy) fn new(tls: Arc<ClientConfig>) -> Self {
        Self { names: Names::default(), idle: RefCell::default(), connector: TlsConnector::from(tls) }
    }

    /// Sends a request without body. `Host` is the URL's unless the request has one.
    pub(super) async fn ask(
        &self,
        url: &str,
        mut request: Request<Empty<Bytes>>,
        patience: Patience,
    ) -> Result<Answer, AskError> {
        let (server, target, host) = Server::read(url).ok_or_else(|| AskError::BadUrl(url.to_owned()))?;
        *request.uri_mut() = target;
        request.headers_mut().entry(HOST).or_insert(host);
        let exchange = self.exchange(&server, request, patience.connect);
        match tokio::time::timeout(patience.all, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(AskError::Timeout(server.host.into())),
        }
    }

    /// Opens a connection for one request to the server that `url` names.
    pub(in crate::proxy) async fn open<B>(&self, url: &str, limit: Duration) -> Result<Way<B>, AskError>
    where
        B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
    {
        let (server, target, host) = Server::read(url).ok_or_else(|| AskError::BadUrl(url.to_owned()))?;
        let sender = self.connect(&server, limit).await?;
        Ok(Way { server: server.host, sender, target, host })
    }

    async fn exchange(
        &self,
        server: &Server,
        request: Request<Empty<Bytes>>,
        limit: Duration,
    ) -> Result<Answer, AskError> {
        let failed = |source| AskError::Http { host: server.host.to_string(), source };
        let again = request.clone();
        if let Some(mut kept) = self.take(server)
            && kept.ready().await.is_ok()
        {
            match kept.try_send_request(request).await {
                Ok(response) => return self.read(server, kept, response).await.map_err(failed),
                // It was closed before the request could go out, or with it: a question has no
                // consequences, so it is asked once more.
                Err(error) => tracing::debug!(error = %error.into_error(), "a kept connection was closed"),
            }
        }
        let mut sender = self.connect(server, limit).await?;
        let response = sender.send_request(again).await.map_err(failed)?;
        self.read(server, sender, response).await.map_err(failed)
    }

    async fn read(
        &self,
        server: &Server,
        sender: SendRequest<Empty<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer, hyper::Error> {
        let (mut parts, body) = response.into_parts();
        parts.headers.remove(CONTENT_LENGTH);
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => {
                self.keep(server, sender);
                body.to_bytes()
            }
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => return Err(*error),
                // Too long: what matters is in the head. The rest goes with the connection.
                Err(_) => Bytes::new(),
            },
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn connect<B>(&self, server: &Server, limit: Duration) -> Result<SendRequest<B>, AskError>
    where
        B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
    {
        let host = || server.host.to_string();
        let addresses = self.names.resolve(&server.host);
        let addresses = addresses.await.map_err(|source| AskError::Name { host: host(), source })?;
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for address in addresses.iter() {
            let connect = TcpStream::connect(SocketAddr::new(*address, server.port));
            match tokio::time::timeout(limit, connect).await {
                Ok(Ok(stream)) => {
                    // Only costs latency where it fails.
                    let _ = stream.set_nodelay(true);
                    return self.greet(server, stream, limit).await;
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(AskError::Connect { host: host(), source: last })
    }

    async fn greet<B>(
        &self,
        server: &Server,
        stream: TcpStream,
        limit: Duration,
    ) -> Result<SendRequest<B>, AskError>
    where
        B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
    {
        if !server.tls {
            return start(stream)
                .await
                .map_err(|source| AskError::Http { host: server.host.to_string(), source });
        }
        let failed = |source| AskError::Connect { host: server.host.to_string(), source };
        let name = server.host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(|_| failed(std::io::ErrorKind::InvalidInput.into()))?;
        match tokio::time::timeout(limit, self.connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                start(stream).await.map_err(|source| AskError::Http { host: server.host.to_string(), source })
            }
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        }
    }

    fn take(&self, server: &Server) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(server)?;
        while let Some(Idle { sender, since }) = kept.pop() {
            if since.elapsed() < KEEP_ALIVE && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, server: &Server, sender: SendRequest<Empty<Bytes>>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_SERVERS && !idle.contains_key(server) {
            idle.clear();
        }
        let kept = idle.entry(server.clone()).or_default();
        kept.retain(|one| one.since.elapsed() < KEEP_ALIVE && !one.sender.is_closed());
        if kept.len() < MAX_IDLE {
            kept.push(Idle { sender, since: Instant::now() });
        }
    }
}

/// A connection for one request.
pub(in crate::proxy) struct Way<B> {
    server: Box<str>,
    sender: SendRequest<B>,
    /// The request's target, as the URL has it.
    pub(in crate::proxy) target: Uri,
    /// `Host`, as the URL has it.
    pub(in crate::proxy) host: HeaderValue,
}

impl<B> Way<B>
where
    B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
{
    /// Sends the request. There is no time limit.
    pub(in crate::proxy) async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, AskError> {
        let failed = |source| AskError::Http { host: self.server.to_string(), source };
        self.sender.send_request(request).await.map_err(failed)
    }
}

impl Server {
    /// The server of a URL, the target there, and `Host`.
    fn read(url: &str) -> Option<(Self, Uri, HeaderValue)> {
        let uri: Uri = url.parse().ok()?;
        let target = uri.path_and_query().map_or("/", |path| path.as_str()).parse().ok()?;
        let host = uri.authority()?.as_str().parse().ok()?;
        Some((Self::of(&uri)?, target, host))
    }

    fn of(uri: &Uri) -> Option<Self> {
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = authority.host();
        (!host.is_empty()).then(|| Self { tls, host: host.into(), port })
    }
}

/// Begins to speak HTTP. The connection lives in a task of its own until its sender is dropped.
async fn start<S, B>(stream: S) -> hyper::Result<SendRequest<B>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a server ended");
        }
    });
    Ok(sender)
}
