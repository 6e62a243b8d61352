//! Pools of workers of their own.

use std::sync::Arc;

use lb_common::maps::{CLASS_POOLS, MAX_CLASSES};
use serde::Serialize;

/// Some workers that serve the TLS connections for certain names, and nobody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerPool {
    /// What Ingresses call it (`sluice.dev/worker-pool`); [`WorkerPool::PASSTHROUGH`] serves the
    /// connections that go to endpoints as they are.
    pub name: Arc<str>,
    /// How many workers it has, at least 1.
    pub workers: u16,
}

impl WorkerPool {
    /// The pool of connections that go to endpoints as they are, and to no other pool.
    pub const PASSTHROUGH: &str = "passthrough";

    /// The most pools that there can be, [`WorkerPool::PASSTHROUGH`] not counted.
    pub const MOST: usize = (MAX_CLASSES - CLASS_POOLS) as usize;

    /// Whether a pool may be called so: 1 to 63 lower-case letters, digits and hyphens.
    pub fn is_name(text: &str) -> bool {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&text.len()) && text.bytes().all(fits)
    }
}
