//! How often and how much.

use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

/// Limits for each client address, on each node by itself. The default limits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct RateLimits {
    /// Requests each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    /// Requests each minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// How many times the rate may come at once (ingress-nginx: 5); 0 counts as 1.
    #[serde(skip_serializing_if = "super::is_default")]
    pub burst: u32,
    /// Requests being served at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Answers' bytes each second, for each request by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// So many bytes of each answer are free of `bytes_per_second`.
    #[serde(skip_serializing_if = "super::is_default")]
    pub bytes_free: u64,
    /// Clients from these networks have no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exempt: Option<Arc<[IpNet]>>,
    /// The status of what is too much; 0 counts as 503.
    #[serde(skip_serializing_if = "super::is_default")]
    pub status: u16,
}

/// How large bodies may be and who waits for whom. The default: any size, nobody waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct BodyLimits {
    /// Largest request body in bytes: else 413. `None`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_request: Option<u64>,
    /// The endpoint sees the request when its body is complete.
    #[serde(skip_serializing_if = "super::is_default")]
    pub buffer_request: bool,
    /// Answers are read ahead of a slow client, up to so many bytes, so that the endpoint is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_response: Option<u64>,
    /// Largest head of an endpoint's answer in bytes: else 502. `None`: the proxy's own limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_response_head: Option<u32>,
}
