//! How endpoints are spoken with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Template;
use crate::model::{Certificate, ProxyVersion};

/// How endpoints are spoken with. The default: HTTP/1.1 without TLS, the node's time limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamPolicy {
    /// What is spoken. `None`: what the Service's port says (`appProtocol`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<UpstreamProtocol>,
    /// With a protocol over TLS: what is checked and shown. `None`: nothing is checked, as in nginx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<UpstreamTls>>,
    /// Connections begin with a PROXY header that names the client. Each is then one client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// HTTP/1.0 instead of 1.1.
    #[serde(skip_serializing_if = "super::is_default")]
    pub http10: bool,
    /// `Host` of requests to endpoints; `None`: the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Template>,
    /// `Connection` of requests to endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Arc<str>>,
    /// Time limit of the TCP handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// Time limit between two writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_timeout: Option<Duration>,
    /// Time limit between two reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout: Option<Duration>,
    /// When another endpoint is tried.
    #[serde(skip_serializing_if = "super::is_default")]
    pub retry: Retry,
    /// What is changed in answers that name the endpoint's own address or path.
    #[serde(skip_serializing_if = "super::is_default")]
    pub response: ResponseRewrite,
}

/// What is spoken with endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1 without TLS.
    #[default]
    Http,
    /// HTTP/1.1 or HTTP/2 over TLS.
    Https,
    /// HTTP/2 without TLS, with prior knowledge.
    Grpc,
    /// HTTP/2 over TLS.
    Grpcs,
    /// As the client's connection: with TLS if that has it.
    Auto,
}

/// TLS towards endpoints.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamTls {
    /// The endpoint's certificate is verified against `roots`.
    pub verify: bool,
    /// DER of the authorities.
    #[serde(skip)]
    pub roots: Vec<Vec<u8>>,
    /// How many intermediate certificates there may be.
    pub depth: u32,
    /// The name that is verified and sent as SNI; `None`: the request's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// SNI is sent.
    pub send_name: bool,
    /// The certificate that is shown to the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Arc<Certificate>>,
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("verify", &self.verify)
            .field("name", &self.name)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// When a request is tried on another endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Retry {
    /// After what.
    pub on: Vec<RetryOn>,
    /// On how many endpoints in all; 0: on every one once.
    pub tries: u32,
    /// Not after so long; zero: no limit.
    pub timeout: Duration,
}

impl Default for Retry {
    /// As nginx: "error timeout", on three endpoints.
    fn default() -> Self {
        Self { on: vec![RetryOn::Error, RetryOn::Timeout], tries: 3, timeout: Duration::ZERO }
    }
}

/// What a request is tried again after, as nginx's `proxy_next_upstream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// The connection broke.
    Error,
    /// A time limit.
    Timeout,
    /// An answer that is no HTTP.
    InvalidHeader,
    /// An answer of this status.
    Status(u16),
    /// Requests that may not be repeated safely (POST, PATCH) are, too.
    NonIdempotent,
}

/// What is changed in answers that name the endpoint's own address or path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct ResponseRewrite {
    /// `Location` and the address in `Refresh`, by their begin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub location: Vec<Substitution>,
    /// `Domain` of `Set-Cookie`, the whole of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cookie_domain: Vec<Substitution>,
    /// `Path` of `Set-Cookie`, by its begin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cookie_path: Vec<Substitution>,
}

/// A text that is looked for, and what takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Substitution {
    /// What is looked for.
    pub from: Wanted,
    /// What takes its place; where that is a regular expression, with its captures.
    pub to: Template,
}

/// What a [`Substitution`] looks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// What a regular expression matches anywhere in the text, of which then nothing stays, as in nginx.
    /// It was compiled once before: it is valid and not too large.
    Regex(Arc<str>),
    /// This very text.
    #[serde(untagged)]
    Plain(Template),
}

impl Wanted {
    /// A text without variables.
    pub fn literal(text: &str) -> Self {
        Self::Plain(Template::literal(text))
    }
}
