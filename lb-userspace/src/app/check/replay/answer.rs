//! What a request gets, as far as it can be told without asking an endpoint.

use serde::Serialize;

use crate::model::{Backend, CanaryValue, Route, RoutePolicy, Snapshot};
use crate::route::{Rewritten, RouteTable, Target, normalise_host};

use super::super::super::admin::views::RouteView;
use super::line::Request;

/// What a request gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whose defaults: `kubernetes` or `ingress-nginx`.
    pub compat: &'static str,
    /// The Ingress whose rule takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// Where in the Ingress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The rule's type as it is matched: `Exact`, `Prefix` or `Regex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_type: Option<String>,
    /// The Service port that is asked; none if Sluice answers by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The status that Sluice answers by itself; none if an endpoint does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Path and query as the endpoint sees them, if they are rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What happens on the way, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<String>,
    /// Why Sluice answers by itself; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Answer {
    /// What counts when two answers are compared: not the settings, but who answers.
    pub fn taken_by(&self) -> (Option<&str>, Option<&str>, Option<&str>, Option<u16>) {
        (self.ingress.as_deref(), self.rule.as_deref(), self.backend.as_deref(), self.status)
    }

    /// The route in one piece, as requests are counted by it.
    pub fn route(&self) -> String {
        match (&self.ingress, &self.rule, self.status) {
            (Some(ingress), Some(rule), None) => format!("{ingress} {rule}"),
            (Some(ingress), Some(rule), Some(status)) => format!("{ingress} {rule} ({status})"),
            (_, _, status) => status.unwrap_or_default().to_string(),
        }
    }

    fn own(compat: &'static str, status: u16, why: impl ToString) -> Self {
        Self {
            compat,
            ingress: None,
            rule: None,
            path: None,
            path_type: None,
            backend: None,
            status: Some(status),
            target: None,
            policy: Vec::new(),
            why: why.to_string(),
        }
    }
}

/// A snapshot and the table of its routes.
pub struct Routes {
    /// Whose defaults: `kubernetes` or `ingress-nginx`.
    pub compat: &'static str,
    /// What is served.
    pub snapshot: Snapshot,
    /// Its routes.
    pub table: RouteTable,
}

impl Routes {
    /// What a request on `host` gets.
    pub fn answer(&self, request: &Request, host: &str, tls: bool) -> Answer {
        let own = |status, why: &dyn ToString| Answer::own(self.compat, status, why.to_string());
        let host = match normalise_host(host) {
            Ok(host) => host,
            Err(why) => return own(400, &why),
        };
        let target = match Target::parse(&request.target) {
            Ok(target) => target,
            Err(why) => return own(400, &why),
        };
        let Some(found) = self.table.find(Some(&host), target.path()) else {
            return own(404, &"no rule covers this host and path");
        };
        let view = RouteView::new(&self.snapshot, found.route, false, false);
        let mut policy = view.policy;
        let mut answered =
            by_policy(&found.route.policy, &target, tls).or_else(|| by_backend(&found.route.backend));
        // What only the request itself would tell stays a variable.
        let rewritten = found.rewrite(&target, |variable, out| out.push_str(&format!("${{{variable}}}")));
        let mut upstream = None;
        if answered.is_none() {
            match rewritten {
                Ok(Rewritten::Target(to)) if *to != target => upstream = Some(to.path_and_query().to_owned()),
                Ok(Rewritten::Target(_)) => {}
                Ok(Rewritten::Redirect(url)) => answered = Some((302, format!("to {url}"))),
                Err(why) => answered = Some((400, format!("rewritten, {why}"))),
            }
        }
        let backend = match (&answered, &found.route.backend) {
            (None, Backend::Cluster(key)) => {
                Some(canary(found.route, request, &mut policy).unwrap_or(key.to_string()))
            }
            _ => None,
        };
        let (status, why) = answered.map_or((None, String::new()), |(status, why)| (Some(status), why));
        Answer {
            compat: self.compat,
            ingress: Some(view.ingress),
            rule: Some(view.rule),
            path: Some(view.path),
            path_type: Some(view.path_type),
            backend,
            status,
            target: upstream,
            policy,
            why,
        }
    }
}

/// What the policy answers in the endpoint's place, in the order in which it applies.
fn by_policy(policy: &RoutePolicy, target: &Target, tls: bool) -> Option<(u16, String)> {
    if let Some(status) = policy.https_redirect.filter(|_| !tls) {
        return Some((status, "sent to https".to_owned()));
    }
    if let Some(redirect) = &policy.redirect {
        let to = redirect.to.to_string();
        return Some((redirect.status, format!("to {}", to.trim_end_matches("${is_args}${args}"))));
    }
    policy.app_root.as_ref().filter(|_| target.path() == "/").map(|root| (302, format!("to {root}")))
}

fn by_backend(backend: &Backend) -> Option<(u16, String)> {
    match backend {
        Backend::Cluster(_) => None,
        Backend::Answered => Some((404, "the rule answers nothing else".to_owned())),
        Backend::Unavailable(why) => Some((503, why.to_string())),
    }
}

/// The canary's cluster, if header or cookie decide for it. A weight is only said.
fn canary(route: &Route, request: &Request, policy: &mut Vec<String>) -> Option<String> {
    let canary = route.canary.as_ref()?;
    let Backend::Cluster(key) = &canary.backend else { return None };
    let header = canary.header.as_ref().and_then(|header| {
        let value = request.headers.get(&*header.name)?;
        match &header.value {
            CanaryValue::AlwaysOrNever => always_or_never(value),
            CanaryValue::Exact(expect) => (**expect == **value).then_some(true),
            CanaryValue::Pattern(pattern) => regex::Regex::new(pattern).ok()?.is_match(value).then_some(true),
        }
    });
    let cookie = || {
        let name = canary.cookie.as_ref()?;
        let cookies = request.headers.get("cookie")?.split([';', ',']);
        let mut values = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        always_or_never(values.find(|(n, _)| *n == &**name)?.1)
    };
    match header.or_else(cookie) {
        Some(true) => Some(format!("{key} (canary {})", canary.ingress)),
        Some(false) => None,
        None => {
            if canary.weight > 0 {
                policy.push(format!(
                    "{} of {} to canary {}",
                    canary.weight, canary.weight_total, canary.ingress
                ));
            }
            None
        }
    }
}

fn always_or_never(value: &str) -> Option<bool> {
    match value {
        "always" => Some(true),
        "never" => Some(false),
        _ => None,
    }
}
