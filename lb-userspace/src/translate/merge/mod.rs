//! One host of all Ingresses that have rules for it: who gets which path.

mod host_wide;
mod paths;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use host_wide::Certificate;
use paths::{normal, preference, rewrites_to_itself};

use super::annotations::Edits;
use super::clusters::Clusters;
use super::ingress::{DraftBackend, Rule, Slot};
use super::member::Member;
use super::path::{PathType, RulePath};
use super::report::issue;
use super::shared::Shared;
use super::{canary, slash};
use crate::model::{
    Backend, ClusterKey, Compat, HostPattern, Issue, IssueReason, ObjectKey, PathMatch, RewriteTarget, Route,
    RoutePolicy, Severity, TemplatePart, Unavailable, Variable, VirtualHost,
};
use crate::objects::excerpt;
use crate::route::{Pattern, normalise_rule};

/// What a host is made of besides its Ingresses.
pub(super) struct Ground<'a> {
    pub(super) clusters: &'a Clusters,
    /// Some Ingress has TLS for the host.
    pub(super) has_tls: bool,
    /// The controller's default backend.
    pub(super) default: Option<&'a ClusterKey>,
    pub(super) policies: &'a mut Shared<RoutePolicy>,
}

/// A host, and what is wrong with what its Ingresses ask for.
pub(super) struct Built {
    pub(super) rules: Arc<VirtualHost>,
    pub(super) issues: Vec<Issue>,
    /// Keeps them compiled for as long as the host is the same.
    _patterns: Box<[Arc<Pattern>]>,
}

/// Puts a host together. `members` have rules for it and come in the order of their rank: the first
/// to claim a path has it. `None` if nothing is left to serve.
pub(super) fn host(pattern: &HostPattern, members: &[&Member], ground: &mut Ground<'_>) -> Option<Built> {
    let mut host = Host::new(pattern);
    host.read_regexes(members);
    let closing = members
        .iter()
        .filter_map(|member| Some((member.draft.key.clone(), member.refers.closes_hosts.clone()?)));
    host.closed.extend(closing);
    host.read_host_wide(members);
    for member in members.iter().filter(|member| member.draft.annotations.canary.is_none()) {
        // The policy is the same for all of them, but where a rewrite has nothing to do.
        let mut policy = host.policy(member, ground);
        host.without_chosen_mirror(member, &mut policy);
        host.closed_by = host.closing(member);
        for rule in member.draft.rules.get(pattern).into_iter().flatten() {
            host.add_rule(member, rule, &policy, ground);
        }
    }
    if let (HostPattern::Any, None, Some(default)) = (pattern, &host.rules.fallback, ground.default) {
        host.rules.fallback = Some(Box::new(Route {
            ingress: ObjectKey::new("", "controller"),
            rule: "defaultBackend".into(),
            path: everything(),
            backend: ground.clusters.backend(default),
            canary: None,
            policy: ground.policies.get(RoutePolicy::default()),
        }));
    }
    for member in members {
        if let Some(rule) = &member.draft.annotations.canary {
            canary::attach(&mut host, member, rule, ground);
        }
    }
    host.close();
    slash::redirect(&mut host, ground);
    host.finish()
}

/// A host while routes are still added.
pub(super) struct Host {
    pub(super) rules: VirtualHost,
    /// Where in `rules.routes` a path is. By the normal form: `/%61` is `/a`.
    pub(super) taken: HashMap<PathMatch, usize>,
    /// The same by type and path as the rules write them.
    pub(super) written: HashMap<(PathType, String), usize>,
    /// Positions of routes whose Ingresses want redirects to the trailing slash.
    pub(super) slashes: Vec<usize>,
    /// Paths are regular expressions, whoever wrote them (ingress-nginx).
    pub(super) regex: bool,
    /// With `regex`: Exact paths as written.
    exact: HashSet<Arc<str>>,
    /// Namespaces whose routes are closed, by which Ingress and annotation.
    closed: Vec<(ObjectKey, Arc<str>)>,
    /// Who asks the host's clients for certificates.
    certificate: Option<Certificate>,
    /// The server-snippet of the host, and whose it is.
    edits: Option<(ObjectKey, Arc<Edits>)>,
    /// Why the Ingress whose rules are added is closed.
    closed_by: Option<Arc<str>>,
    patterns: HashMap<Arc<str>, Arc<Pattern>>,
    pattern_bytes: usize,
    pub(super) issues: Vec<Issue>,
}

impl Host {
    fn new(host: &HostPattern) -> Self {
        let rules =
            VirtualHost { host: host.clone(), routes: Vec::new(), fallback: None, shadowed: Vec::new() };
        Self {
            rules,
            taken: HashMap::new(),
            written: HashMap::new(),
            slashes: Vec::new(),
            regex: false,
            exact: HashSet::new(),
            closed: Vec::new(),
            certificate: None,
            edits: None,
            closed_by: None,
            patterns: HashMap::new(),
            pattern_bytes: 0,
            issues: Vec::new(),
        }
    }

    fn add_rule(&mut self, member: &Member, rule: &Rule, policy: &RoutePolicy, ground: &mut Ground<'_>) {
        let draft = &member.draft;
        let mut written = None;
        let (path, backend) = match &rule.slot {
            Slot::Path(path) => match self.path_match(member, rule, path) {
                Ok(matches) => {
                    written = Some(path);
                    (matches, self.backend(&rule.backend, ground))
                }
                Err(closing) => match self.close_path(member, closing.as_ref()) {
                    Some(closed) => closed,
                    None => return,
                },
            },
            Slot::Unservable(closing) => match self.close_path(member, Some(closing)) {
                Some(closed) => closed,
                None => return,
            },
            Slot::Fallback => (everything(), self.backend(&rule.backend, ground)),
            Slot::Open => match ground.default {
                Some(default) => {
                    (everything(), self.backend(&DraftBackend::Service(default.clone()), ground))
                }
                None => return,
            },
        };
        let mut policy = policy.clone();
        if draft.compat == Compat::IngressNginx
            && written.is_some_and(|path| rewrites_to_itself(member, path))
            && policy.rewrite == draft.annotations.rewrite
        {
            policy.rewrite = None;
        }
        if let (Some(RewriteTarget::Captures(template)), Slot::Path(_)) = (&policy.rewrite, &rule.slot) {
            let groups = match &path {
                PathMatch::Regex(text) => self.patterns.get(text).map_or(0, |pattern| pattern.groups()),
                _ => 0,
            };
            let missing = template.0.iter().find_map(|part| match part {
                TemplatePart::Variable(Variable::Capture(n)) if usize::from(*n) > groups => Some(*n),
                _ => None,
            });
            if let Some(missing) = missing {
                self.issues.push(issue(
                    Severity::Warning,
                    IssueReason::InvalidAnnotation,
                    "Ingress",
                    &draft.key,
                    format!("spec.{}.path", rule.place),
                    format!(
                        "the rewrite-target uses ${missing}, for which {:?} has no group, so it is empty; add one to the \
                         path, or correct the target.",
                        excerpt(path.text())
                    ),
                ));
            }
        }
        let route = Route {
            ingress: draft.key.clone(),
            rule: rule.place.clone(),
            path,
            backend,
            canary: None,
            policy: ground.policies.get(policy),
        };
        let lost_to = match rule.slot {
            Slot::Fallback => self.add_fallback(route),
            _ => self.add(route, written, draft.annotations.trailing_slash_redirect),
        };
        if let Some(winner) = lost_to {
            self.issues.push(conflict(&draft.key, &rule.place, &self.rules.host, &winner));
        }
    }

    fn backend(&self, backend: &DraftBackend, ground: &Ground<'_>) -> Backend {
        match (&self.closed_by, backend) {
            (Some(by), _) => Backend::Unavailable(Unavailable::AccessControl(by.clone())),
            (None, DraftBackend::Unavailable(why)) => Backend::Unavailable(why.clone()),
            (None, DraftBackend::Service(key)) => ground.clusters.backend(key),
        }
    }

    /// Adds a route; gives back the one that has its place already.
    fn add(&mut self, route: Route, written: Option<&RulePath>, slash: bool) -> Option<Route> {
        let next = self.rules.routes.len();
        let taken = match self.taken.entry(normal(&route.path)) {
            Entry::Vacant(free) => {
                free.insert(next);
                self.rules.routes.push(route);
                if slash {
                    self.slashes.push(next);
                }
                None
            }
            Entry::Occupied(taken) => {
                self.rules.shadowed.push(route);
                Some(*taken.get())
            }
        };
        if let Some(path) = written {
            let key = (path.path_type, normalise_rule(&path.text));
            self.written.entry(key).or_insert(taken.unwrap_or(next));
        }
        taken.map(|at| self.rules.routes[at].clone())
    }

    fn add_fallback(&mut self, route: Route) -> Option<Route> {
        let Some(winner) = &self.rules.fallback else {
            self.rules.fallback = Some(Box::new(route));
            return None;
        };
        let winner = Route::clone(winner);
        self.rules.shadowed.push(route);
        Some(winner)
    }

    fn finish(mut self) -> Option<Built> {
        self.rules.routes.sort_by_cached_key(|route| preference(&route.path));
        self.rules.routes.shrink_to_fit();
        let rules = self.rules;
        let empty = rules.routes.is_empty() && rules.fallback.is_none();
        if empty && self.issues.is_empty() {
            return None;
        }
        let _patterns = self.patterns.into_values().collect();
        Some(Built { rules: Arc::new(rules), issues: self.issues, _patterns })
    }
}

fn everything() -> PathMatch {
    PathMatch::Prefix("/".into())
}

fn conflict(loser: &ObjectKey, place: &str, host: &HostPattern, winner: &Route) -> Issue {
    let whose = if winner.ingress == *loser {
        format!("{} of this Ingress", winner.rule)
    } else {
        format!("Ingress {} ({})", winner.ingress, winner.rule)
    };
    let what = if place == "defaultBackend" {
        format!("the default backend of host {host}")
    } else {
        format!("host {host} with path {}", excerpt(winner.path.text()))
    };
    issue(
        Severity::Warning,
        IssueReason::Conflict,
        "Ingress",
        loser,
        format!("spec.{place}"),
        format!("{what} belongs to {whose}, which came first; remove one of the two."),
    )
}
