//! Routes: host and path to a policy and a cluster.

use std::sync::Arc;

use serde::Serialize;

use super::{Canary, ClusterKey, HostPattern, ObjectKey, RoutePolicy};

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
    /// A regular expression that the begin of the path has to match, whatever the case of letters
    /// (ingress-nginx's `~* "^…"`). It was compiled once before: it is valid and not too large.
    Regex(Arc<str>),
}

impl PathMatch {
    /// The path as the manifest writes it.
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) | Self::Regex(path) => path,
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
    /// This cluster, which [`super::Snapshot::clusters`] has.
    Cluster(Arc<ClusterKey>),
    /// Nowhere, and none is needed: the policy answers every request by itself.
    Answered,
    /// Nowhere: 503.
    Unavailable(Unavailable),
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
    /// Takes a share of the requests in the backend's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Arc<Canary>>,
    /// What happens on the way.
    pub policy: Arc<RoutePolicy>,
}

/// All routes of one host pattern. Routes that lost a conflict are kept apart for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    /// Which hosts.
    pub host: HostPattern,
    /// In order of preference: longest path (in its normal form) first, then Exact before Prefix and
    /// Regex. No two alike in path and type.
    pub routes: Vec<Route>,
    /// Takes what no route matches: the `defaultBackend` of an Ingress that covers the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Box<Route>>,
    /// Same path and type as a route above, from a younger Ingress.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadowed: Vec<Route>,
}

impl VirtualHost {
    /// Every route that requests can take, in order of preference.
    pub fn all_routes(&self) -> impl Iterator<Item = &Route> + Clone {
        self.routes.iter().chain(self.fallback.as_deref())
    }
}
