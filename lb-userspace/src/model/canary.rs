//! Canaries: a second backend that takes a share of a route's requests.

use std::sync::Arc;

use serde::Serialize;

use super::{Backend, ObjectKey};

/// A second backend of a route. What decides first wins: header, cookie, weight. The route's own
/// policy applies to the canary's requests, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Canary {
    /// The Ingress that it comes from.
    pub ingress: ObjectKey,
    /// Where its requests go.
    pub backend: Backend,
    /// A header that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<CanaryHeader>,
    /// A cookie that decides: `always` takes the canary, `never` does not, anything else decides
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Arc<str>>,
    /// So many of `weight_total` requests that nothing else decided take the canary.
    pub weight: u32,
    /// At least 1.
    pub weight_total: u32,
}

/// A header that decides about a canary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CanaryHeader {
    /// Lower case.
    pub name: Arc<str>,
    /// What its value has to be.
    pub value: CanaryValue,
}

/// What a header's value has to be for the canary to be taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CanaryValue {
    /// `always` takes the canary, `never` does not, anything else decides nothing.
    AlwaysOrNever,
    /// This one; anything else decides nothing.
    Exact(Arc<str>),
    /// A regular expression, found anywhere; anything else decides nothing. It compiles.
    Pattern(Arc<str>),
}
