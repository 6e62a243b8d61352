//! Where requests go instead, and under which path they go on.

use std::sync::Arc;

use serde::Serialize;

use super::Template;

/// The answer that sends a request elsewhere, or ends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Redirect {
    /// 3xx sends the client to `to`; any other status is the whole answer and `to` its text.
    pub status: u16,
    /// The URL, or the answer's text.
    pub to: Template,
}

/// How the path is rewritten before the request goes upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RewriteTarget {
    /// The whole path becomes this; the query stays.
    Replace(Arc<str>),
    /// The same, with [`super::Variable::Capture`]s of the route's regular expression. Captures are
    /// of the normalised path; the result is normalised again before it is sent.
    Captures(Template),
}
