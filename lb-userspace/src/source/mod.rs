//! Where objects come from: a manifest directory or the Kubernetes API.
//!
//! Both sources hand on the same [`Update`] through a [`tokio::sync::watch`] channel: the newest whole
//! state, never a delta. A reader that is slow sees fewer updates, not older ones. A source that
//! can't read keeps its last good state and says so in [`Health`].

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::model::Issue;
use crate::objects::Objects;

pub mod kubernetes;
pub mod manifests;

/// The newest state of a source.
#[derive(Clone, Debug)]
pub struct Update {
    /// Every object that is known, the last good version of each. Empty until `synced`.
    pub objects: Arc<Objects>,
    /// What the source itself could not read, sorted. What is wrong inside of readable objects
    /// is found by `translate`.
    pub issues: Vec<Issue>,
    /// Whether every kind has been read in full at least once. Never becomes false again.
    pub synced: bool,
    /// Whether the objects are known to be current.
    pub health: Health,
}

/// Whether a source can be read at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Health {
    /// What is served is what the source says.
    Ok,
    /// The source can't be read; the last good state is served.
    Degraded {
        /// Since when, in seconds of Unix time.
        since: i64,
        /// What can't be read and why, as a sentence.
        reason: String,
    },
}

impl Health {
    /// Whether this is [`Health::Ok`].
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

/// The wall clock in seconds of Unix time.
fn now_unix() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
