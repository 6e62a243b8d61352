//! Copies of requests, and answers in the place of answers.

use std::sync::Arc;

use serde::Serialize;

use super::Template;
use crate::model::Backend;

/// Where copies of requests go. Their answers are thrown away and they hold nothing up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Mirror {
    /// Absolute URL, http or https.
    pub target: Template,
    /// The copy's `Host`; `None`: the target's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Arc<str>>,
    /// The copy has the body, too.
    pub body: bool,
}

/// Which answers are replaced by which backend's.
///
/// The backend is asked with GET and the headers `X-Code`, `X-Format`, `X-Original-URI`, `X-Namespace`,
/// `X-Ingress-Name`, `X-Service-Name`, `X-Service-Port` and `X-Request-ID`, as ingress-nginx does; the
/// client gets its headers and body with its status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ErrorPages {
    /// Statuses of answers that are replaced, sorted. May be empty.
    pub statuses: Vec<u16>,
    /// Who gives the answers. It also takes the requests while the route's own cluster has no
    /// endpoint.
    pub backend: Backend,
}
