//! Routes: host and path to policies and a cluster.

use std::sync::Arc;

use serde::Serialize;

use super::{ClusterKey, HostPattern, ObjectKey};

/// Whose defaults an IngressClass's objects get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// What the Kubernetes API documents, nothing more.
    #[default]
    Kubernetes,
    /// ingress-nginx's defaults, above all the redirect of TLS hosts to https.
    IngressNginx,
}

/// How a rule's path is compared with a request's normalised path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(tag = "type", content = "path", rename_all = "lowercase")]
pub enum PathMatch {
    /// The same bytes.
    Exact(Arc<str>),
    /// Element by element: `/foo` covers `/foo`, `/foo/` and `/foo/bar`, not `/foobar`.
    Prefix(Arc<str>),
}

impl PathMatch {
    /// The path as the manifest writes it.
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }
}

/// Why a route cannot be served although it matches; it answers 503.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    /// The Service isn't there.
    #[error("Service {0} does not exist")]
    NoService(ObjectKey),
    /// The Service has no such port.
    #[error("Service {} has no port {}", .0.service, .0.port)]
    NoPort(ClusterKey),
    /// `resource` backends name something only its own controller understands.
    #[error("resource backends are not supported")]
    ResourceBackend,
    /// The Service is a name in somebody else's DNS.
    #[error("Service {0} is of type ExternalName, which is not supported")]
    ExternalName(ObjectKey),
    /// The backend is written so that it names nothing.
    #[error("the backend names no Service port")]
    InvalidBackend,
    /// An annotation restricts access in a way that is not supported; serving would open the route.
    #[error("annotation {0} restricts access and is not supported")]
    AccessControl(Arc<str>),
}

/// Where a route sends its requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The index of a cluster in [`super::Routing::clusters`].
    Cluster(usize),
    /// Nowhere: 503.
    Unavailable(Unavailable),
}

/// How the path is rewritten before the request goes upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RewriteTarget {
    /// The whole path becomes this; the query stays.
    Replace(Arc<str>),
}

/// What happens with a request that took a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct RoutePolicy {
    /// Plain requests are sent to https with this status (308).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_redirect: Option<u16>,
    /// How the path is rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteTarget>,
}

/// One path of one rule of one Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The Ingress it comes from.
    pub ingress: ObjectKey,
    /// Where in the Ingress: `rules[0].http.paths[1]`, `defaultBackend`.
    pub rule: Arc<str>,
    /// Which paths it takes.
    pub path: PathMatch,
    /// Where it sends them.
    pub backend: Backend,
    /// What happens on the way.
    pub policy: Arc<RoutePolicy>,
}

/// All routes of one host pattern. Routes that lost a conflict are kept apart for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    /// Which hosts.
    pub host: HostPattern,
    /// In order of preference: longest path (in its normal form) first, then Exact before Prefix.
    /// No two alike in path and type.
    pub routes: Vec<Route>,
    /// Takes what no route matches: the `defaultBackend` of an Ingress that covers the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Route>,
    /// Same path and type as a route above, from a younger Ingress.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadowed: Vec<Route>,
}
