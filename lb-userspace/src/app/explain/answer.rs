//! What the client gets, and from whom.

use serde::{Deserialize, Serialize};

use crate::model::{Backend, Cluster, Protocol, Snapshot};
use crate::route::{Found, Rewritten};

use super::super::admin::policy_words::{access_words, canary};
use super::super::admin::views::{EndpointView, word};
use super::asked::Asked;

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The status that the proxy itself answers; `None`: the endpoint's, or nobody listens.
    pub status: Option<u16>,
    /// In words.
    pub text: String,
}

/// The answer, and who may be asked for it.
pub(super) struct Answered {
    pub answer: Answer,
    pub endpoints: Vec<EndpointView>,
    /// Path and query as the endpoint sees them.
    pub upstream_target: Option<String>,
}

impl Answered {
    /// By nobody else.
    fn own(status: Option<u16>, text: String) -> Self {
        Self { answer: Answer { status, text }, endpoints: Vec::new(), upstream_target: None }
    }

    /// By an endpoint.
    fn by(cluster: &Cluster, text: String, upstream_target: &str) -> Self {
        Self {
            answer: Answer { status: None, text },
            endpoints: cluster.endpoints.iter().map(EndpointView::from).collect(),
            upstream_target: Some(upstream_target.to_owned()),
        }
    }
}

pub(super) fn answer(
    asked: &Asked,
    found: Option<&Found<'_>>,
    snapshot: &Snapshot,
    unreachable: bool,
) -> Answered {
    let own = |status, text| Answered::own(Some(status), text);
    if unreachable {
        let port = asked.port.map_or_else(String::new, |port| format!(" on port {port}"));
        let text = format!("nothing: no listener speaks {}{port} there", word(&asked.protocol));
        return Answered::own(None, text);
    }
    let Some(found) = found else {
        return own(404, "no rule covers this host and path, and there is no default backend".to_owned());
    };
    let policy = &found.route.policy;
    if let (Protocol::Http, Some(status)) = (asked.protocol, policy.https_redirect) {
        return own(status, format!("redirect to https://{}{}", asked.host, asked.target.path_and_query()));
    }
    if let Some(redirect) = &policy.redirect {
        let to = asked.fill(&redirect.to);
        let text = if (300..400).contains(&redirect.status) { format!("redirect to {to}") } else { to };
        return own(redirect.status, text);
    }
    if let Some(root) = policy.app_root.as_ref().filter(|_| asked.target.path() == "/") {
        return own(302, format!("redirect to {root}"));
    }
    let target = match found.rewrite(&asked.target, |variable, text| text.push_str(&asked.value(variable))) {
        Ok(Rewritten::Target(target)) => target.path_and_query().to_owned(),
        Ok(Rewritten::Redirect(url)) => return own(302, format!("redirect to {url}")),
        Err(bad) => return own(400, format!("the rewritten target can't be sent on: {bad}")),
    };
    let pages = policy.error_pages.as_deref().map(|pages| &pages.backend);
    let has_endpoint = |backend: &Backend| match backend {
        Backend::Cluster(key) => snapshot.clusters.get(&**key).is_some_and(|c| !c.endpoints.is_empty()),
        _ => false,
    };
    let stands_in = pages.filter(|pages| !has_endpoint(&found.route.backend) && has_endpoint(pages));
    let key = match stands_in.unwrap_or(&found.route.backend) {
        Backend::Unavailable(why) => return own(503, why.to_string()),
        Backend::Answered => return own(404, "the route's policy answers nothing".to_owned()),
        Backend::Cluster(key) => key,
    };
    let Some(cluster) = snapshot.clusters.get(&**key) else {
        return own(503, "the cluster is not there".to_owned());
    };
    if cluster.endpoints.is_empty() {
        return own(503, format!("no endpoint of {} is ready", cluster.key));
    }
    let mut text = what_one_answers(cluster);
    if stands_in.is_some() {
        text.push_str(", in place of a backend without endpoints");
    }
    let needs = access_words(&policy.access);
    if !needs.is_empty() {
        text.push_str(&format!("; to get in: {}", needs.join("; ")));
    }
    if let Some(side) = found.route.canary.as_deref().filter(|_| stands_in.is_none()) {
        text.push_str(&format!("; or the {}", canary(side)));
    }
    Answered::by(cluster, text, &target)
}

/// For TLS connections that go on as they are.
pub(super) fn passed_through(asked: &Asked, snapshot: &Snapshot) -> Option<Answered> {
    let sni = asked.sni().filter(|_| asked.protocol == Protocol::Https)?;
    let key = &snapshot.tls.passthrough_of(sni)?.cluster;
    let cluster = snapshot.clusters.get(&**key).filter(|cluster| !cluster.endpoints.is_empty());
    let Some(cluster) = cluster else {
        let text = format!("nothing: TLS is passed through to {key}, which has no endpoint");
        return Some(Answered::own(None, text));
    };
    let text = format!("{}; TLS is passed through, rules mean nothing", what_one_answers(cluster));
    Some(Answered::by(cluster, text, asked.target.path_and_query()))
}

fn what_one_answers(cluster: &Cluster) -> String {
    let n = cluster.endpoints.len();
    format!("what one of {}'s {n} endpoint{} answers", cluster.key, if n == 1 { "" } else { "s" })
}
