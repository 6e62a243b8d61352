//! Every annotation of ingress-nginx and what becomes of it: the one list that the parser, `sluice
//! check` and the documentation share.

use serde::Serialize;

/// One annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Without `nginx.ingress.kubernetes.io/`.
    pub name: &'static str,
    /// What becomes of it.
    pub support: Support,
}

/// What becomes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "support", content = "note", rename_all = "lowercase")]
pub enum Support {
    /// Does what it does in ingress-nginx.
    Full,
    /// Does nearly that; this is the difference, as a sentence.
    Differs(&'static str),
    /// Is ignored, since nothing here needs it or depends on it; why, as a sentence.
    Ignored(&'static str),
    /// Is not followed; what to do instead, as a sentence.
    Refused(&'static str),
    /// Is not followed, and routes with it answer 503 since they would be open without it; what to do
    /// instead, as a sentence.
    Closes(&'static str),
}

/// Sorted by name.
pub const CATALOGUE: &[Entry] = &[
    Entry { name: "force-ssl-redirect", support: Support::Full },
    Entry { name: "rewrite-target", support: Support::Differs("Captures are not supported yet.") },
    Entry { name: "ssl-redirect", support: Support::Full },
];
