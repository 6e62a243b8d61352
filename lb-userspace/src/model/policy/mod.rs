//! Policies: what happens with a request that took a route, on its way there and back.
//!
//! Everything here is typed and complete: what an annotation's text means was decided before, and
//! what a Secret holds was read before. The proxy only does what it says.

mod access;
mod balance;
mod cors;
mod headers;
mod limits;
mod mirror;
mod redirect;
mod template;
mod upstream;

use std::sync::Arc;

use serde::Serialize;

use super::is_default;

pub use access::{Access, BasicAuth, ClientCertificate, ExternalAuth, Password, Satisfy};
pub use balance::{Balance, CanaryStickiness, CookieAffinity, SameSite};
pub use cors::{Cors, Origin};
pub use headers::{HeaderEdit, Hsts};
pub use limits::{BodyLimits, RateLimits};
pub use mirror::{ErrorPages, Mirror};
pub use redirect::{Redirect, RewriteTarget};
pub use template::{Template, TemplatePart, UnknownVariable, Variable};
pub use upstream::{
    ResponseRewrite, Retry, RetryOn, Substitution, UpstreamPolicy, UpstreamProtocol, UpstreamTls, Wanted,
};

/// What happens with a request that took a route. Routes with the same policy share it. The order in
/// which the parts apply is nginx's, and the proxy's to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct RoutePolicy {
    /// Plain requests are sent to https with this status (308).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_redirect: Option<u16>,
    /// Every request is sent elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Requests for `/` are sent to this path (302).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_root: Option<Arc<str>>,
    /// Who gets in.
    #[serde(skip_serializing_if = "is_default")]
    pub access: Access,
    /// How often and how much.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: RateLimits,
    /// Cross-origin requests from browsers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Arc<Cors>>,
    /// How large bodies may be and who waits for whom.
    #[serde(skip_serializing_if = "is_default")]
    pub body: BodyLimits,
    /// How the path is rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteTarget>,
    /// Headers of requests to endpoints, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<HeaderEdit>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// A cookie keeps a client at its endpoint; goes before `balance`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Arc<CookieAffinity>>,
    /// How endpoints are spoken with.
    #[serde(skip_serializing_if = "is_default")]
    pub upstream: UpstreamPolicy,
    /// Requests are also sent there, and the answers thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Arc<Mirror>>,
    /// Answers of some statuses come from somewhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_pages: Option<Arc<ErrorPages>>,
    /// `Strict-Transport-Security` in answers over https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
    /// Headers of answers to clients, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<HeaderEdit>,
    /// No line in the access log.
    #[serde(skip_serializing_if = "is_default")]
    pub unlogged: bool,
}
