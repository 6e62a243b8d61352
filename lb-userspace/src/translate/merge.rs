//! The hosts of all Ingresses, put together: who gets which host and path.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::annotations::Redirect;
use super::ingress::{Draft, DraftBackend, Slot};
use super::report::issue;
use super::service::Services;
use crate::model::{
    Backend, ClusterKey, HostPattern, Issue, IssueReason, ObjectKey, PathMatch, Route, RoutePolicy, Routing,
    Severity, Unavailable, VirtualHost,
};
use crate::objects::Objects;
use crate::route::normalise_rule;

/// The status of redirects to https: 308 keeps the method and the body.
const HTTPS_REDIRECT: u16 = 308;

/// The routing of `ingresses`, which come in the order of their rank: the first to claim a host
/// and path has it. `default_backend` takes what is left over.
pub(super) fn merge(
    ingresses: &[Draft],
    default_backend: Option<&ClusterKey>,
    objects: &Objects,
    services: &mut Services<'_>,
    issues: &mut Vec<Issue>,
) -> Routing {
    let default = default_backend.map(|key| DraftBackend::Service(key.clone()));
    let mut problems = Vec::new();
    for draft in ingresses {
        for rule in &draft.rules {
            if let DraftBackend::Service(key) = &rule.backend
                && let Err(why) = services.ask(key)
            {
                let field = match rule.slot {
                    Slot::Path(_) if rule.place.contains("paths") => {
                        format!("spec.{}.backend.service", rule.place)
                    }
                    _ => "spec.defaultBackend.service".to_owned(),
                };
                problems.push(unavailable_issue(&draft.key, field, &why));
            }
        }
    }
    issues.append(&mut problems);
    if let Some(key) = default_backend {
        // Nobody's Ingress is to blame for the node's setting.
        if let Err(why) = services.ask(key) {
            let mut problem = unavailable_issue(&key.service, String::new(), &why);
            problem.object.kind = "Service";
            problem.message = format!("the controller's default backend: {}", problem.message);
            issues.push(problem);
        }
    }

    let keys: HashMap<ClusterKey, Arc<ClusterKey>> =
        services.served().map(|key| (key.clone(), Arc::new(key.clone()))).collect();
    let mut backend = |draft: &DraftBackend| match draft {
        DraftBackend::Unavailable(why) => Backend::Unavailable(why.clone()),
        DraftBackend::Service(key) => match keys.get(key) {
            Some(key) => Backend::Cluster(key.clone()),
            None => Backend::Unavailable(
                services.ask(key).err().unwrap_or_else(|| Unavailable::NoService(key.service.clone())),
            ),
        },
    };

    let tls = TlsHosts::new(ingresses);
    let mut policies = Policies::default();
    let mut hosts: BTreeMap<HostPattern, Host> = BTreeMap::new();
    for draft in ingresses {
        let (policy, closed_by) = match draft.annotations.policy(&draft.key, objects, issues) {
            Ok(policy) => (policy, None),
            Err(annotation) => (RoutePolicy::default(), Some(annotation)),
        };
        for rule in &draft.rules {
            let host = hosts.entry(rule.host.clone()).or_insert_with(|| Host::new(rule.host.clone()));
            let (path, target) = match (&rule.slot, &default) {
                (Slot::Path(path), _) => (path.clone(), &rule.backend),
                (Slot::Fallback, _) => (everything(), &rule.backend),
                (Slot::Open, Some(default)) => (everything(), default),
                (Slot::Open, None) => continue,
            };
            let redirect = match draft.annotations.redirect {
                Redirect::Always => true,
                Redirect::WithTls => tls.covers(&rule.host),
                Redirect::Never => false,
            };
            let policy = policies.shared(RoutePolicy {
                https_redirect: redirect.then_some(HTTPS_REDIRECT),
                hsts: policy.hsts.filter(|_| tls.covers(&rule.host)),
                ..policy.clone()
            });
            let route = Route {
                ingress: draft.key.clone(),
                rule: rule.place.clone(),
                path,
                backend: match &closed_by {
                    Some(by) => Backend::Unavailable(Unavailable::AccessControl(by.clone())),
                    None => backend(target),
                },
                canary: None,
                policy,
            };
            let lost_to = match rule.slot {
                Slot::Fallback => host.add_fallback(route),
                _ => host.add(route),
            };
            if let Some(winner) = lost_to {
                issues.push(conflict(draft, rule.place.as_ref(), &rule.host, &winner));
            }
        }
    }
    if let Some(default) = &default {
        let host = hosts.entry(HostPattern::Any).or_insert_with(|| Host::new(HostPattern::Any));
        if host.rules.fallback.is_none() {
            host.rules.fallback = Some(Route {
                ingress: ObjectKey::new("", "controller"),
                rule: "defaultBackend".into(),
                path: everything(),
                backend: backend(default),
                canary: None,
                policy: policies.shared(RoutePolicy::default()),
            });
        }
    }
    close_hosts(ingresses, &mut hosts, issues);
    let hosts = hosts.into_values().map(|host| Arc::new(host.finish())).collect();
    Routing { hosts }
}

/// Applies what closes a host as a whole to the routes of its namespace's other Ingresses.
fn close_hosts(ingresses: &[Draft], hosts: &mut BTreeMap<HostPattern, Host>, issues: &mut Vec<Issue>) {
    let mut closed = HashSet::new();
    for draft in ingresses {
        let Some(by) = &draft.annotations.closes_hosts else { continue };
        for rule in &draft.rules {
            if !closed.insert((&rule.host, &draft.key.namespace)) {
                continue;
            }
            let Some(host) = hosts.get_mut(&rule.host) else { continue };
            for route in host.rules.routes.iter_mut().chain(&mut host.rules.fallback) {
                let is_closed = matches!(route.backend, Backend::Unavailable(Unavailable::AccessControl(_)));
                if is_closed || route.ingress.namespace != draft.key.namespace {
                    continue;
                }
                route.backend = Backend::Unavailable(Unavailable::AccessControl(by.clone()));
                issues.push(issue(
                    Severity::Error,
                    IssueReason::UnsupportedAnnotation,
                    "Ingress",
                    &route.ingress,
                    format!("spec.{}", route.rule),
                    format!(
                        "Ingress {} restricts access to all of host {} with {by}, which is not supported yet; \
                         requests get 503. Remove that annotation if the host may be open.",
                        draft.key, rule.host
                    ),
                ));
            }
        }
    }
}

/// A host while routes are still added.
struct Host {
    rules: VirtualHost,
    /// Where in `rules.routes` a path is. By the normal form: `/%61` is `/a`.
    taken: HashMap<PathMatch, usize>,
}

impl Host {
    fn new(host: HostPattern) -> Self {
        let rules = VirtualHost { host, routes: Vec::new(), fallback: None, shadowed: Vec::new() };
        Self { rules, taken: HashMap::new() }
    }

    /// Adds a route; gives back the one that has its place already.
    fn add(&mut self, route: Route) -> Option<Route> {
        match self.taken.entry(normal(&route.path)) {
            Entry::Vacant(free) => {
                free.insert(self.rules.routes.len());
                self.rules.routes.push(route);
                None
            }
            Entry::Occupied(taken) => {
                self.rules.shadowed.push(route);
                Some(self.rules.routes[*taken.get()].clone())
            }
        }
    }

    fn add_fallback(&mut self, route: Route) -> Option<Route> {
        let Some(winner) = &self.rules.fallback else {
            self.rules.fallback = Some(route);
            return None;
        };
        let winner = winner.clone();
        self.rules.shadowed.push(route);
        Some(winner)
    }

    fn finish(mut self) -> VirtualHost {
        self.rules.routes.sort_by_cached_key(|route| preference(&route.path));
        self.rules
    }
}

/// Longest path first, then Exact before Prefix; by text where neither decides.
fn preference(path: &PathMatch) -> (Reverse<usize>, bool, String) {
    let normal = normalise_rule(path.text());
    (Reverse(normal.len()), matches!(path, PathMatch::Prefix(_)), normal)
}

fn normal(path: &PathMatch) -> PathMatch {
    let text = normalise_rule(path.text()).into();
    match path {
        PathMatch::Exact(_) => PathMatch::Exact(text),
        PathMatch::Prefix(_) => PathMatch::Prefix(text),
        PathMatch::Regex(pattern) => PathMatch::Regex(pattern.clone()),
    }
}

fn everything() -> PathMatch {
    PathMatch::Prefix("/".into())
}

/// Which hosts some Ingress has TLS for.
struct TlsHosts<'a>(HashSet<&'a HostPattern>);

impl<'a> TlsHosts<'a> {
    fn new(ingresses: &'a [Draft]) -> Self {
        Self(ingresses.iter().flat_map(|draft| &draft.tls).flat_map(|tls| &tls.hosts).collect())
    }

    fn covers(&self, host: &HostPattern) -> bool {
        self.0.contains(host)
            || match host {
                HostPattern::Exact(name) => name
                    .split_once('.')
                    .is_some_and(|(_, suffix)| self.0.contains(&HostPattern::Wildcard(suffix.into()))),
                _ => false,
            }
    }
}

/// Thousands of routes have a handful of policies among them.
#[derive(Default)]
struct Policies(HashMap<RoutePolicy, Arc<RoutePolicy>>);

impl Policies {
    fn shared(&mut self, policy: RoutePolicy) -> Arc<RoutePolicy> {
        self.0.entry(policy).or_insert_with_key(|policy| Arc::new(policy.clone())).clone()
    }
}

fn conflict(loser: &Draft, place: &str, host: &HostPattern, winner: &Route) -> Issue {
    let whose = if winner.ingress == loser.key {
        format!("{} of this Ingress", winner.rule)
    } else {
        format!("Ingress {} ({})", winner.ingress, winner.rule)
    };
    let what = if place == "defaultBackend" {
        format!("the default backend of host {host}")
    } else {
        format!("host {host} with path {}", crate::objects::excerpt(winner.path.text()))
    };
    issue(
        Severity::Warning,
        IssueReason::Conflict,
        "Ingress",
        &loser.key,
        format!("spec.{place}"),
        format!("{what} belongs to {whose}, which came first; remove one of the two."),
    )
}

fn unavailable_issue(ingress: &ObjectKey, field: String, why: &Unavailable) -> Issue {
    let (reason, remedy) = match why {
        Unavailable::NoService(_) => {
            (IssueReason::ServiceNotFound, "Create the Service or correct the name.")
        }
        Unavailable::NoPort(_) => {
            (IssueReason::PortNotFound, "Name one of the Service's TCP ports by number or name.")
        }
        Unavailable::ExternalName(_) => (
            IssueReason::Unsupported,
            "Use a Service with endpoints, which an EndpointSlice may list by hand.",
        ),
        _ => (IssueReason::InvalidField, "Correct the backend."),
    };
    let message = format!("{why}; requests get 503. {remedy}");
    issue(Severity::Error, reason, "Ingress", ingress, field, message)
}
