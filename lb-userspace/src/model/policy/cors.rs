//! Cross-origin resource sharing (fetch.spec.whatwg.org), answered in the endpoint's place.

use std::sync::Arc;

use serde::Serialize;

/// Which origins a browser may send requests from, and what it may do with the answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Cors {
    /// Which origins.
    pub origins: Vec<Origin>,
    /// `Access-Control-Allow-Methods`, as it is sent.
    pub methods: Arc<str>,
    /// `Access-Control-Allow-Headers`, as it is sent.
    pub headers: Arc<str>,
    /// `Access-Control-Expose-Headers`, as it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expose: Option<Arc<str>>,
    /// Cookies and passwords may go with requests.
    pub credentials: bool,
    /// How long browsers may remember the answer, in seconds.
    pub max_age: u32,
}

/// Which origins: `https://example.com`, `https://*.example.com`, `*`. Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Every origin.
    Any,
    /// This very one.
    Exact(Arc<str>),
    /// What begins and ends so, with one or more labels between: `https://` and `.example.com`.
    Between(Arc<str>, Arc<str>),
}
