//! How an endpoint is chosen.

use std::sync::Arc;

use serde::Serialize;

use super::Template;

/// How an endpoint is chosen among those of a cluster that can take the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Of two picked at random, the one with the lower peak EWMA of its response time, weighted by
    /// requests in flight.
    Ewma,
    /// Of two picked at random, the one with fewer requests in flight.
    LeastRequest,
    /// By a consistent hash: the same key gets the same endpoint while it is there, and few keys move
    /// when endpoints come or go.
    Hash {
        /// What is hashed.
        key: Template,
        /// 0: to one endpoint. Else to a group of so many, and round robin within it.
        subset: u32,
    },
}

/// A cookie that keeps a client at its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CookieAffinity {
    /// The cookie's name.
    pub name: Arc<str>,
    /// `Path`; `None`: the route's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
    /// `Domain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Arc<str>>,
    /// `Max-Age` and `Expires`, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// `Expires`, in seconds from now; without it, that of `max_age`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// `Secure`: `None` where the request came over https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
    /// `SameSite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<SameSite>,
    /// `SameSite=None` is left out for browsers that misunderstand it.
    pub conditional_none: bool,
    /// A client whose endpoint failed gets another for good.
    pub change_on_failure: bool,
    /// The endpoint is kept as long as it is there; else new endpoints take over some clients.
    pub persistent: bool,
    /// Whether the choice between a route and its canary sticks, too.
    pub canary: CanaryStickiness,
}

/// `SameSite` of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// Only with requests from the same site.
    Strict,
    /// Also when the user follows a link.
    Lax,
    /// Always.
    None,
}

/// Whether the choice between a route and its canary sticks to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CanaryStickiness {
    /// A client stays with what it got first.
    #[default]
    Sticky,
    /// Each request is decided anew.
    Legacy,
}
