//! `sluice top`: what happens now.
//!
//! ```text
//! daemon ─► Sample (counters) ─┐
//! daemon ─► Sample, later      ─┴─► view (rates between the two) ─► text, or JSON
//! ```
//!
//! Only [`client`] has a clock, a socket and a terminal.

pub mod client;
mod text;
mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::admin::views::{Backend, Status};
use crate::proxy::Measurement;

/// The daemon's counters at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What `sluice status` shows.
    pub status: Status,
    /// How the requests of each route went.
    pub routes: Vec<Route>,
    /// Clusters with endpoints that something is known against.
    pub unwell: Vec<Backend>,
}

/// How the requests of a route went since it is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The Ingress, the path and the Service port; `None` for all that have no numbers of their own.
    pub of: Option<(String, String, String)>,
    /// How many ended in which way: class of the status, or `gone`.
    pub ends: BTreeMap<String, u64>,
    /// Upper bounds in seconds, and how many requests took so long and longer than the bound before.
    /// `None`: without end.
    pub buckets: Vec<(Option<f64>, u64)>,
}

impl From<Measurement> for Route {
    fn from(measured: Measurement) -> Self {
        Self {
            of: measured.of.map(|of| (of.ingress, of.path, of.service)),
            ends: measured.ends.into_iter().map(|(end, n)| (end.to_owned(), n)).collect(),
            buckets: measured
                .buckets
                .into_iter()
                .map(|(bound, n)| (bound.is_finite().then_some(bound), n))
                .collect(),
        }
    }
}

/// What the routes are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Requests a second.
    #[default]
    Requests,
    /// Answers 5xx a second, and clients that left.
    Errors,
    /// The time that 99 of 100 requests take.
    Latency,
    /// The Ingress and the path.
    Name,
}

impl Sort {
    /// The one after it.
    const fn next(self) -> Self {
        match self {
            Self::Requests => Self::Errors,
            Self::Errors => Self::Latency,
            Self::Latency => Self::Name,
            Self::Name => Self::Requests,
        }
    }

    /// In a word.
    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Errors => "errors",
            Self::Latency => "latency",
            Self::Name => "name",
        }
    }
}
