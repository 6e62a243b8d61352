//! What all workers know of endpoints together: who fails, who is unwell, who has enough.
//!
//! ```text
//! requests that fail ─┐
//! checks (one thread) ┴─► vitals of an endpoint ─► ClusterSlot::is_troubled ─► balance
//! circuit: how much a cluster and its endpoints have at a time
//! ```
//!
//! While everybody is well, workers read one flag for each request and write nothing. What is
//! written when something goes wrong is shared by all routes to the cluster and by all workers.

mod checks;
mod circuit;
mod clock;
mod probe;
mod report;
mod verdict;
mod vitals;

pub(super) use checks::Checks;
pub(super) use circuit::{Circuit, Permit};
pub(super) use clock::now;
pub use report::{CheckState, ClusterHealth, EndpointHealth, EndpointState, HealthSummary};
pub(super) use vitals::{Milliseconds, Vitals};
