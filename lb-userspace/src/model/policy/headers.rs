//! Edits of header sections.

use std::sync::Arc;

use serde::Serialize;

use super::Template;

/// One edit of a header section. Names are lower case and valid (RFC 9110 section 5.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderEdit {
    /// The header has this value and no other. An empty value removes it.
    Set {
        /// Which header.
        name: Arc<str>,
        /// Its value.
        value: Template,
        /// Only in answers of these statuses; empty: in all.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        statuses: Vec<u16>,
    },
    /// One more header of the name. An empty value adds nothing.
    Add {
        /// Which header.
        name: Arc<str>,
        /// Its value.
        value: Template,
        /// Only in answers of these statuses; empty: in all.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        statuses: Vec<u16>,
    },
    /// All headers of the name go.
    Remove {
        /// Which header.
        name: Arc<str>,
    },
}

/// `Strict-Transport-Security` (RFC 6797).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Hsts {
    /// How long, in seconds.
    pub max_age: u64,
    /// For sub-domains too.
    pub include_subdomains: bool,
    /// May be built into browsers.
    pub preload: bool,
}
