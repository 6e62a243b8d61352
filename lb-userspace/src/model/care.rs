//! How a cluster's endpoints are watched and spared: the same for every route that leads to them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// How a cluster's endpoints are watched and spared. Belongs to the Service, not to the Ingresses
/// that name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Care {
    /// When an endpoint that fails requests is left alone.
    #[serde(skip_serializing_if = "super::is_default")]
    pub ejection: Ejection,
    /// How endpoints are asked whether they are well. `None`: they aren't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Arc<HealthCheck>>,
    /// How much they get at a time.
    #[serde(skip_serializing_if = "super::is_default")]
    pub limits: CircuitLimits,
    /// How long a new endpoint takes to get as much as the others. `None`: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
}

/// When an endpoint that takes connections but fails requests is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Ejection {
    /// After so many failures in a row; 0: never.
    pub after: u32,
    /// For so long at first, twice as long each time that follows soon, up to ten times.
    pub time: Duration,
    /// No more than this share of a cluster's endpoints at a time, in percent.
    pub max_percent: u32,
}

impl Default for Ejection {
    /// Five failures in a row, ten seconds, half of the endpoints.
    fn default() -> Self {
        Self { after: 5, time: Duration::from_secs(10), max_percent: 50 }
    }
}

/// How endpoints are asked whether they are well, by each node on its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Another port than the one that requests go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From one question to the next.
    pub interval: Duration,
    /// How long the whole of connecting, asking and answering may take.
    pub timeout: Duration,
    /// Good answers in a row after which an endpoint is well again.
    pub healthy_after: u32,
    /// Bad answers in a row after which it gets no more requests.
    pub unhealthy_after: u32,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// To accept a connection.
    Tcp,
    /// To answer `GET path`.
    Http {
        /// Over TLS; the certificate is not verified.
        tls: bool,
        /// Path and query.
        path: Arc<str>,
        /// `Host`, and the name in the ClientHello; `None`: the endpoint's address.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<Arc<str>>,
        /// First and last of each range of good statuses.
        statuses: Vec<(u16, u16)>,
    },
}

/// How much a cluster's endpoints get at a time from one node. What is beyond waits, or gets 503.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct CircuitLimits {
    /// Requests and tunnels that all endpoints together have; over HTTP/1 each is a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// The same for one endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_connections: Option<u32>,
    /// Requests that wait until one of these limits has room.
    #[serde(skip_serializing_if = "super::is_default")]
    pub pending: u32,
    /// Requests that are on a second or later try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}
