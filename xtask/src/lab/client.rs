//! A client that opens one connection for one request, and says what came back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Response, Uri, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::backend::Echo;
use super::{LabError, Place, Result};

/// Longer than anything in the laboratory takes; a request without an answer until then failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is spoken on the connection.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// HTTP/1.1 in the clear.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// TLS with this server name; the configuration's ALPN and the server decide between h2 and HTTP/1.1.
    Tls(Arc<ClientConfig>, String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where to connect.
    pub to: SocketAddr,
    /// What to speak.
    pub scheme: Scheme,
    /// The method.
    pub method: Method,
    /// The Host field or `:authority`.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Bytes,
}

impl Request {
    /// A GET over HTTP/1.1 in the clear.
    pub fn get(to: SocketAddr, host: &str, target: &str) -> Self {
        Self {
            to,
            scheme: Scheme::Http1,
            method: Method::GET,
            host: host.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// The same over another scheme.
    pub fn over(self, scheme: Scheme) -> Self {
        Self { scheme, ..self }
    }

    /// Sends it from `place` and waits for the whole answer.
    pub fn send_from(&self, place: &Place) -> Result<Answer> {
        place.block_on(|| self.send())?
    }

    /// Sends it and waits for the whole answer.
    pub async fn send(&self) -> Result<Answer> {
        match tokio::time::timeout(DEADLINE, self.exchange()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(reason)) => Err(self.no_answer(reason.to_string())),
            Err(_) => Err(self.no_answer(format!("nothing within {} s", DEADLINE.as_secs()))),
        }
    }

    fn no_answer(&self, reason: String) -> LabError {
        LabError::NoAnswer { to: format!("{} (Host {}, {})", self.to, self.host, self.target), reason }
    }

    async fn exchange(&self) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.to).await?;
        match &self.scheme {
            Scheme::Http1 => self.http1(stream).await,
            Scheme::H2c => self.h2(stream).await,
            Scheme::Tls(config, name) => {
                let name = ServerName::try_from(name.clone())?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    self.h2(stream).await
                } else {
                    self.http1(stream).await
                }
            }
        }
    }

    async fn http1<S>(&self, stream: S) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = self.build(self.target.parse()?)?.header(header::HOST, &self.host);
        let answer = read(sender.send_request(request.body(Full::new(self.body.clone()))?).await?).await;
        driver.abort();
        answer
    }

    async fn h2<S>(&self, stream: S) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let driver = tokio::spawn(connection);
        let scheme = if matches!(self.scheme, Scheme::Tls(..)) { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(&*self.host).path_and_query(&*self.target);
        let request = self.build(uri.build()?)?.version(hyper::Version::HTTP_2);
        let answer = read(sender.send_request(request.body(Full::new(self.body.clone()))?).await?).await;
        driver.abort();
        answer
    }

    fn build(&self, uri: Uri) -> hyper::http::Result<hyper::http::request::Builder> {
        let mut builder = hyper::Request::builder().method(self.method.clone()).uri(uri);
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        Ok(builder)
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// What the backend said, if a backend answered.
    pub fn echo(&self) -> Option<Echo> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The name of the backend that answered, if one did.
    pub fn endpoint(&self) -> Option<String> {
        self.echo().map(|echo| echo.endpoint)
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Backend;

    #[test]
    fn a_backend_says_what_reached_it() {
        let backend = Backend::start(&Place::Host, "one", &["127.0.0.1:0".parse().expect("an address")]);
        let backend = backend.expect("a backend on loopback");
        let mut request = Request::get(backend.addresses()[0], "example.com", "/a?b=c");
        request.headers.push(("x-test".into(), "1".into()));
        request.body = "hello".into();
        let answer = request.send_from(&Place::Host).expect("an answer");
        let echo = answer.echo().expect("an echo");
        assert_eq!((answer.status, &*echo.endpoint, &*echo.target), (200, "one", "/a?b=c"));
        assert_eq!((&*echo.headers["host"], &*echo.headers["x-test"]), ("example.com", "1"));
        assert_eq!(echo.body, "hello");
        drop(backend);
        assert!(request.send_from(&Place::Host).is_err(), "the listener is closed");
    }
}
