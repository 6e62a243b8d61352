//! What people are told of clusters and endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A cluster that somebody watches or that something is known of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHealth {
    /// Requests and tunnels that its endpoints have, where there is a limit.
    pub connections: u32,
    /// Requests that wait for one of its limits.
    pub pending: u32,
    /// Requests that got 503 since a limit was reached.
    pub overflows: u64,
    /// Retries that were not made since there were too many.
    pub retry_overflows: u64,
    /// How often an endpoint was ejected, those that are gone included.
    pub ejections: u64,
    /// Its endpoints. Empty while nothing is known of them: then all are well.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub endpoints: Vec<EndpointHealth>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it gets requests.
    pub state: EndpointState,
    /// For how many milliseconds more it gets none unless nobody else can take them.
    pub rests_ms: u64,
    /// Failed requests since the last that was answered.
    pub failures: u32,
    /// How often it was ejected.
    pub ejections: u64,
    /// Requests and tunnels that it has, where there is a limit.
    pub connections: u32,
    /// What checks say; `None` where it isn't checked, or not yet.
    pub check: Option<CheckState>,
    /// What went wrong last with a request.
    pub last_error: Option<String>,
}

/// Whether an endpoint gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// It does.
    Ready,
    /// It is new and gets a share that rises.
    SlowStart,
    /// It takes no connections and is tried again soon.
    Unreachable,
    /// It failed too many requests in a row.
    Ejected,
    /// Checks say that it is unwell.
    Unhealthy,
}

/// What checks say of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckState {
    /// It is well as far as the thresholds are concerned.
    pub passing: bool,
    /// How often it was checked.
    pub checks: u64,
    /// Why the last check failed, if it did.
    pub last_error: Option<String>,
}

/// How many endpoints of a cluster are in which state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSummary {
    /// By state.
    pub states: BTreeMap<EndpointState, usize>,
    /// Everything else, with no endpoints.
    #[serde(flatten)]
    pub cluster: ClusterHealth,
}

impl From<ClusterHealth> for HealthSummary {
    fn from(mut cluster: ClusterHealth) -> Self {
        let mut states = BTreeMap::new();
        for endpoint in std::mem::take(&mut cluster.endpoints) {
            *states.entry(endpoint.state).or_default() += 1;
        }
        Self { states, cluster }
    }
}
