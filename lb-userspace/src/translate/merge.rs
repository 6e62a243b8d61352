//! One host of all Ingresses that have rules for it: who gets which path.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::annotations::Edits;
use super::clusters::Clusters;
use super::ingress::{DraftBackend, Rule, Slot};
use super::member::Member;
use super::path::{self, PathType, RulePath};
use super::policies::Policies;
use super::report::issue;
use super::{canary, slash};
use crate::model::{
    Backend, ClientAuth, ClientCertificate, ClusterKey, Compat, ErrorPages, HostPattern, Issue, IssueReason,
    ObjectKey, PathMatch, RewriteTarget, Route, RoutePolicy, Severity, TemplatePart, Unavailable, Variable,
    VirtualHost,
};
use crate::objects::excerpt;
use crate::route::{Pattern, normalise_rule};

const AUTH_TLS_SECRET: &str = "nginx.ingress.kubernetes.io/auth-tls-secret";

/// How much memory the regular expressions of one host may need when compiled.
const HOST_PATTERN_BYTES: usize = 8 << 20;

/// What a host is made of besides its Ingresses.
pub(super) struct Ground<'a> {
    pub(super) clusters: &'a Clusters,
    /// Some Ingress has TLS for the host.
    pub(super) has_tls: bool,
    /// The controller's default backend.
    pub(super) default: Option<&'a ClusterKey>,
    pub(super) policies: &'a mut Policies,
}

/// A host, and what is wrong with what its Ingresses ask for.
pub(super) struct Built {
    pub(super) rules: Arc<VirtualHost>,
    pub(super) issues: Vec<Issue>,
    /// Keeps them compiled for as long as the host is the same.
    _patterns: HashMap<Arc<str>, Arc<Pattern>>,
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
        let policy = host.policy(member, ground);
        host.closed_by = host.closing(member);
        for rule in member.draft.rules.get(pattern).into_iter().flatten() {
            host.add_rule(member, rule, &policy, ground);
        }
    }
    if let (HostPattern::Any, None, Some(default)) = (pattern, &host.rules.fallback, ground.default) {
        host.rules.fallback = Some(Route {
            ingress: ObjectKey::new("", "controller"),
            rule: "defaultBackend".into(),
            path: everything(),
            backend: ground.clusters.backend(default),
            canary: None,
            policy: ground.policies.shared(RoutePolicy::default()),
        });
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

/// What an Ingress asks of all clients of a host.
struct Certificate {
    ingress: ObjectKey,
    handshake: Arc<ClientAuth>,
    request: Option<Arc<ClientCertificate>>,
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

    /// In ingress-nginx one path with a rewrite or `use-regex` makes all paths of the host regular
    /// expressions, those of other Ingresses too. A rewrite to the path itself is none.
    fn read_regexes(&mut self, members: &[&Member]) {
        let ours = |member: &&&Member| {
            member.draft.compat == Compat::IngressNginx && member.draft.annotations.canary.is_none()
        };
        let paths = |member: &Member| {
            let rules = member.draft.rules.get(&self.rules.host).into_iter().flatten();
            let paths = rules.filter_map(|rule| match &rule.slot {
                Slot::Path(path) => Some(path.clone()),
                _ => None,
            });
            paths.collect::<Vec<_>>()
        };
        self.regex = members.iter().filter(ours).any(|member| {
            member.draft.annotations.regex
                && paths(member).iter().any(|path| !rewrites_to_itself(member, path))
        });
        if self.regex {
            let paths = members.iter().filter(ours).flat_map(|member| paths(member));
            let exact = paths.filter(|path| path.path_type == PathType::Exact).map(|path| path.text);
            self.exact = exact.collect();
        }
    }

    /// What ingress-nginx writes into the host's server block: the first Ingress's counts.
    fn read_host_wide(&mut self, members: &[&Member]) {
        self.certificate = members.iter().find_map(|member| {
            Some(Certificate {
                ingress: member.draft.key.clone(),
                handshake: member.refers.client_auth.clone()?,
                request: member.policy(false).access.certificate,
            })
        });
        self.edits = members
            .iter()
            .find_map(|member| Some((member.draft.key.clone(), member.draft.annotations.for_hosts.clone()?)));
    }

    /// The policy of a member's routes. What its namespace's other Ingresses say for the whole host
    /// is in it; nobody changes the routes of another namespace.
    fn policy(&self, member: &Member, ground: &Ground<'_>) -> RoutePolicy {
        let mut policy = member.policy(ground.has_tls);
        let key = &member.draft.key;
        if let Some((by, edits)) = &self.edits
            && by != key
            && by.namespace == key.namespace
        {
            edits.apply(&mut policy);
        }
        if let Some(first) =
            self.certificate.as_ref().filter(|first| first.ingress.namespace == key.namespace)
            && policy.access.certificate.is_none()
        {
            policy.access.certificate.clone_from(&first.request);
        }
        if let Some((statuses, key)) = &member.refers.error_pages {
            let backend = ground.clusters.backend(key);
            if matches!(backend, Backend::Cluster(_)) {
                policy.error_pages = Some(Arc::new(ErrorPages { statuses: statuses.clone(), backend }));
            }
        }
        policy
    }

    /// Why nobody gets in to a member's routes. A host has one handshake: who wants certificates of
    /// other authorities than it asks for can't have them checked.
    fn closing(&mut self, member: &Member) -> Option<Arc<str>> {
        if member.refers.closed_by.is_some() {
            return member.refers.closed_by.clone();
        }
        let own = member.refers.client_auth.as_ref()?;
        let first = self.certificate.as_ref().filter(|first| first.handshake != *own)?;
        self.issues.push(issue(
            Severity::Error,
            IssueReason::Conflict,
            "Ingress",
            &member.draft.key,
            format!("metadata.annotations[{AUTH_TLS_SECRET}]"),
            format!(
                "Ingress {} asks the clients of host {} for other certificates and came first; the routes of this \
                 Ingress answer 503 there. Use the same Secret and depth in both.",
                first.ingress, self.rules.host
            ),
        ));
        Some(AUTH_TLS_SECRET.into())
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
            policy: ground.policies.shared(policy),
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

    /// How the path is compared on this host; if it can't be served, what to close instead.
    fn path_match(
        &mut self,
        member: &Member,
        rule: &Rule,
        path: &RulePath,
    ) -> Result<PathMatch, Option<path::Closing>> {
        let draft = &member.draft;
        let enforced = self.regex && draft.compat == Compat::IngressNginx;
        if !path.regex && !enforced {
            return Ok(path.plain());
        }
        if self.closed_by.is_some() {
            return Ok(PathMatch::Regex(path::literal_pattern(&path.text).into()));
        }
        // Beside an Exact path ingress-nginx writes the same Prefix path with a slash.
        let beside = path.path_type == PathType::Prefix
            && !draft.annotations.regex
            && self.exact.contains(&path.text)
            && !path.text.ends_with('/');
        let text: Arc<str> = if beside { format!("{}/", path.text).into() } else { path.text.clone() };
        let wrong = match self.patterns.contains_key(&text) {
            true => return Ok(PathMatch::Regex(text)),
            false => match path::compile(&text) {
                Ok(pattern) if self.pattern_bytes + pattern.bytes() <= HOST_PATTERN_BYTES => {
                    self.pattern_bytes += pattern.bytes();
                    self.patterns.insert(text.clone(), pattern);
                    return Ok(PathMatch::Regex(text));
                }
                Ok(_) => format!(
                    "the regular expressions of host {} need more than 8 MiB when compiled, so {:?} is not served. \
                     Use fewer or shorter ones.",
                    self.rules.host,
                    excerpt(&text)
                ),
                Err(wrong) => wrong,
            },
        };
        let field = format!("spec.{}.path", rule.place);
        self.issues.push(issue(
            Severity::Error,
            IssueReason::InvalidField,
            "Ingress",
            &draft.key,
            field,
            wrong,
        ));
        Err(path::closing(&path.text))
    }

    /// What takes the place of a path that can't be served, if access to its Ingress is restricted.
    fn close_path(
        &mut self,
        member: &Member,
        closing: Option<&path::Closing>,
    ) -> Option<(PathMatch, Backend)> {
        let by = self.closed_by.clone().or_else(|| member.refers.restricted_by.clone())?;
        let closing = closing?;
        if closing.host {
            self.closed.push((member.draft.key.clone(), by.clone()));
        }
        let path = if self.regex && member.draft.compat == Compat::IngressNginx {
            PathMatch::Regex(path::literal_pattern(&closing.path).into())
        } else {
            PathMatch::Prefix(closing.path.clone())
        };
        Some((path, Backend::Unavailable(Unavailable::AccessControl(by))))
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
            self.rules.fallback = Some(route);
            return None;
        };
        let winner = winner.clone();
        self.rules.shadowed.push(route);
        Some(winner)
    }

    /// Applies what closes the host as a whole to the routes of its namespace's other Ingresses.
    fn close(&mut self) {
        let closed = std::mem::take(&mut self.closed);
        let mut done = HashSet::new();
        for (by, annotation) in &closed {
            if !done.insert(&by.namespace) {
                continue;
            }
            for route in self.rules.routes.iter_mut().chain(&mut self.rules.fallback) {
                let is_closed = matches!(route.backend, Backend::Unavailable(Unavailable::AccessControl(_)));
                if is_closed || route.ingress.namespace != by.namespace {
                    continue;
                }
                route.backend = Backend::Unavailable(Unavailable::AccessControl(annotation.clone()));
                route.canary = None;
                self.issues.push(issue(
                    Severity::Error,
                    IssueReason::UnsupportedAnnotation,
                    "Ingress",
                    &route.ingress,
                    format!("spec.{}", route.rule),
                    format!(
                        "Ingress {by} restricts access to all of host {} with {annotation}, which can't be followed; \
                         requests get 503. Remove that annotation if the host may be open.",
                        self.rules.host
                    ),
                ));
            }
        }
    }

    fn finish(mut self) -> Option<Built> {
        self.rules.routes.sort_by_cached_key(|route| preference(&route.path));
        let rules = self.rules;
        let empty = rules.routes.is_empty() && rules.fallback.is_none();
        if empty && self.issues.is_empty() {
            return None;
        }
        Some(Built { rules: Arc::new(rules), issues: self.issues, _patterns: self.patterns })
    }
}

/// Longest path first, then Exact before Prefix before Regex. Where neither decides, by text: of
/// regular expressions the greater one is first, as ingress-nginx sorts them.
fn preference(path: &PathMatch) -> (Reverse<usize>, u8, String, Reverse<Arc<str>>) {
    let normal = normalise_rule(path.text());
    let none = || Reverse(Arc::from(""));
    match path {
        PathMatch::Exact(_) => (Reverse(normal.len()), 0, normal, none()),
        PathMatch::Prefix(_) => (Reverse(normal.len()), 1, normal, none()),
        PathMatch::Regex(text) => (Reverse(text.len()), 2, String::new(), Reverse(text.clone())),
    }
}

fn normal(path: &PathMatch) -> PathMatch {
    let text = || normalise_rule(path.text()).into();
    match path {
        PathMatch::Exact(_) => PathMatch::Exact(text()),
        PathMatch::Prefix(_) => PathMatch::Prefix(text()),
        PathMatch::Regex(pattern) => PathMatch::Regex(pattern.clone()),
    }
}

fn everything() -> PathMatch {
    PathMatch::Prefix("/".into())
}

fn rewrites_to_itself(member: &Member, path: &RulePath) -> bool {
    matches!(&member.draft.annotations.rewrite, Some(RewriteTarget::Replace(target)) if **target == *path.text)
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
