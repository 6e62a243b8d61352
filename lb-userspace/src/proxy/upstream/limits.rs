//! What an endpoint is allowed.

use std::time::Duration;

use crate::model::{BodyLimits, UpstreamPolicy};
use crate::proxy::settings::Timeouts;

/// Largest head of an answer unless a route says otherwise. nginx's `proxy_buffer_size` is tighter.
const HEAD: usize = 64 * 1024;

/// How long an endpoint may take for what, and how much it may say.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Limits {
    pub(super) connect: Duration,
    pub(super) send: Duration,
    pub(super) read: Duration,
    /// The client's side of the same exchange.
    pub(super) client: Duration,
    /// Bytes of an answer's head.
    pub(super) head: usize,
}

impl Limits {
    /// How long a connection may take to open.
    pub(in crate::proxy) fn connect(&self) -> Duration {
        self.connect
    }

    /// The node's, and what the route has of its own.
    pub(in crate::proxy) fn new(node: &Timeouts, route: &UpstreamPolicy, bodies: &BodyLimits) -> Self {
        Self {
            connect: route.connect_timeout.unwrap_or(node.connect),
            send: route.send_timeout.unwrap_or(node.send),
            read: route.read_timeout.unwrap_or(node.read),
            client: node.client,
            head: bodies.max_response_head.map_or(HEAD, |bytes| usize::try_from(bytes).unwrap_or(HEAD)),
        }
    }
}
