//! What happens with a request for a URL: from XDP to the endpoint, and why other rules lost. Pure.

use serde::{Deserialize, Serialize};

use crate::model::{Protocol, Snapshot};
use crate::route::{Candidate, Outcome, RouteTable};

use super::admin::views::{EndpointView, RouteView, word};
use super::cli::VipAddress;

mod answer;
mod asked;
mod certificate;
mod listeners;

pub use answer::Answer;
pub use asked::BadUrl;
pub use certificate::Tls;
pub use listeners::ListenerView;

use answer::{Answered, answer, passed_through};
use asked::Asked;

/// The whole way of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// As asked.
    pub url: String,
    /// The snapshot it is explained by.
    pub generation: u64,
    /// The host as it is matched.
    pub host: String,
    /// Path and query as they are matched.
    pub target: String,
    /// What each listener that could take the connection does with it.
    pub listeners: Vec<ListenerView>,
    /// Which certificate the client sees; `None` for http.
    pub tls: Option<Tls>,
    /// The rule that takes the request.
    pub route: Option<Match>,
    /// What the client gets.
    pub answer: Answer,
    /// Path and query as the endpoint sees them; `None` when no endpoint is asked.
    pub upstream_target: Option<String>,
    /// Endpoints that may be asked.
    pub endpoints: Vec<EndpointView>,
    /// The other rules of this host, nearest first.
    pub others: Vec<Match>,
    /// How many rules of other hosts are not listed.
    pub others_elsewhere: usize,
}

/// A rule and why it won or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The host pattern.
    pub host: String,
    /// The rule.
    #[serde(flatten)]
    pub route: RouteView,
    /// The outcome, stable for scripts.
    pub outcome: String,
    /// The outcome in words.
    pub why: String,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The URL.
    pub url: &'a str,
    /// Only connections to this address.
    pub vip: Option<VipAddress>,
    /// Also list the rules of other hosts.
    pub all: bool,
    /// Whether XDP is attached.
    pub xdp: bool,
}

/// Explains a URL by a snapshot.
pub fn explain(
    question: &Question<'_>,
    snapshot: &Snapshot,
    table: &RouteTable,
) -> Result<Explanation, BadUrl> {
    let Question { url, vip, all, xdp } = *question;
    let asked = Asked::parse(url)?;
    let host = asked.host.as_str();
    let candidates = table.explain(Some(host), asked.target.path());
    let found = candidates.first().filter(|first| first.outcome == Outcome::Wins);
    let listeners: Vec<_> = snapshot
        .listeners
        .iter()
        .filter(|one| asked.reaches(one) && vip.is_none_or(|vip| listeners::takes(one, vip)))
        .collect();
    let routed = table.find(Some(host), asked.target.path());
    let Answered { answer, endpoints, upstream_target } = match passed_through(&asked, snapshot) {
        Some(passed) if !listeners.is_empty() => passed,
        _ => answer(&asked, routed.as_ref(), snapshot, listeners.is_empty()),
    };
    let here = |c: &&Candidate<'_>| c.outcome != Outcome::Wins && (all || c.outcome != Outcome::HostDiffers);
    let others: Vec<_> = candidates.iter().filter(here).map(|c| matched(c, snapshot)).collect();
    Ok(Explanation {
        url: url.to_owned(),
        generation: snapshot.generation,
        host: asked.host.clone(),
        target: asked.target.path_and_query().to_owned(),
        listeners: listeners
            .into_iter()
            .map(|listener| listeners::listener_view(listener, &asked, snapshot, xdp))
            .collect(),
        tls: (asked.protocol == Protocol::Https).then(|| certificate::tls(&asked, snapshot)),
        route: found.map(|c| matched(c, snapshot)),
        others_elsewhere: candidates.len() - others.len() - usize::from(found.is_some()),
        answer,
        upstream_target,
        endpoints,
        others,
    })
}

fn matched(candidate: &Candidate<'_>, snapshot: &Snapshot) -> Match {
    let shadowed = candidate.outcome == Outcome::OlderIngressWins;
    Match {
        host: candidate.host.to_string(),
        route: RouteView::new(snapshot, candidate.route, candidate.fallback, shadowed),
        outcome: word(&candidate.outcome),
        why: candidate.outcome.to_string(),
    }
}

#[cfg(test)]
mod tests;
