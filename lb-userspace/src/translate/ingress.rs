//! One Ingress by itself: rules to routes that still name their Services.
//!
//! Depends on nothing but the object and the class's defaults, so that results may be kept for as
//! long as the object is the same.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec};

use super::annotations::{Annotations, Defaults};
use super::report::issue;
use crate::model::{
    ClusterKey, HostPattern, Issue, IssueReason, ObjectKey, PathMatch, PortRef, Severity, Unavailable,
};
use crate::objects::excerpt;
use crate::route::{Target, normalise_rule};

/// What one Ingress asks for.
pub(super) struct Draft {
    pub(super) key: ObjectKey,
    /// `creationTimestamp`, nanoseconds since 1970. Manifests have none and come last.
    created: i128,
    pub(super) annotations: Annotations,
    pub(super) rules: Vec<Rule>,
    pub(super) tls: Vec<Tls>,
    pub(super) issues: Vec<Issue>,
}

/// Something that takes requests of a host.
pub(super) struct Rule {
    pub(super) host: HostPattern,
    /// Without `spec.`: `rules[0].http.paths[1]`.
    pub(super) place: Arc<str>,
    pub(super) slot: Slot,
    pub(super) backend: DraftBackend,
}

/// What of the host's requests a rule takes.
pub(super) enum Slot {
    Path(PathMatch),
    /// What no path takes.
    Fallback,
    /// Everything, but nobody says where to; the controller's default backend, if there is one.
    Open,
}

/// A backend as the Ingress names it.
#[derive(Clone)]
pub(super) enum DraftBackend {
    Service(ClusterKey),
    Unavailable(Unavailable),
}

/// One entry of `spec.tls`.
pub(super) struct Tls {
    pub(super) place: String,
    pub(super) hosts: Vec<HostPattern>,
    pub(super) secret: Option<ObjectKey>,
}

impl Draft {
    pub(super) fn new(key: &ObjectKey, ingress: &Ingress, defaults: &Defaults) -> Self {
        let mut issues = Vec::new();
        let annotations =
            Annotations::read(key, ingress.metadata.annotations.as_ref(), defaults, &mut issues);
        let created = ingress.metadata.creation_timestamp.as_ref();
        let mut draft = Self {
            key: key.clone(),
            created: created.map_or(i128::MAX, |time| time.0.as_nanosecond()),
            annotations,
            rules: Vec::new(),
            tls: Vec::new(),
            issues,
        };
        if let Some(spec) = &ingress.spec {
            draft.read_rules(spec);
            draft.read_tls(spec);
        }
        draft
    }

    /// Whose rules win: the older Ingress's, then by namespace and name.
    pub(super) fn rank(&self) -> (i128, &ObjectKey) {
        (self.created, &self.key)
    }

    fn read_rules(&mut self, spec: &IngressSpec) {
        let fallback = spec.default_backend.as_ref().map(|backend| {
            let backend = self.backend(backend, "spec.defaultBackend");
            (Arc::<str>::from("defaultBackend"), backend)
        });
        // The hosts that get the fallback, once each.
        let mut hosts = Vec::new();
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() {
            hosts.push(HostPattern::Any);
            if fallback.is_none() {
                self.say(
                    Severity::Warning,
                    "spec",
                    "has neither rules nor defaultBackend and serves nothing; give it one of them.".into(),
                );
            }
        }
        for (r, rule) in rules.iter().enumerate() {
            let host = match HostPattern::parse(rule.host.as_deref().unwrap_or_default()) {
                Ok(host) => host,
                Err(_) => {
                    let text = rule.host.as_deref().unwrap_or_default();
                    let text = excerpt(text).into_owned();
                    self.say(
                        Severity::Error,
                        &format!("spec.rules[{r}].host"),
                        format!(
                            "{text:?} is no DNS name or wildcard like *.example.com; the rule is not served. \
                             Correct the host."
                        ),
                    );
                    continue;
                }
            };
            hosts.push(host.clone());
            let Some(http) = &rule.http else {
                // "All its traffic": a rule of its own, or rules without a host would come first.
                let all = || Slot::Path(PathMatch::Prefix("/".into()));
                let closed_by = self.annotations.closed_by.clone();
                let (slot, backend) = match (&fallback, closed_by) {
                    (Some((_, backend)), _) => (all(), backend.clone()),
                    (None, Some(by)) => (all(), DraftBackend::Unavailable(Unavailable::AccessControl(by))),
                    (None, None) => (Slot::Open, DraftBackend::Unavailable(Unavailable::InvalidBackend)),
                };
                self.rules.push(Rule { host, place: format!("rules[{r}]").into(), slot, backend });
                continue;
            };
            if http.paths.is_empty() {
                self.say(
                    Severity::Warning,
                    &format!("spec.rules[{r}].http.paths"),
                    "is empty, so the rule serves nothing; add a path, or leave http out for all of them \
                     to go to the default backend."
                        .into(),
                );
            }
            for (p, path) in http.paths.iter().enumerate() {
                let place = format!("rules[{r}].http.paths[{p}]");
                let Some(matches) = self.path_match(path, &place) else { continue };
                let backend = self.backend(&path.backend, &format!("spec.{place}.backend"));
                self.rules.push(Rule {
                    host: host.clone(),
                    place: place.into(),
                    slot: Slot::Path(matches),
                    backend,
                });
            }
        }
        let Some((place, backend)) = fallback else { return };
        hosts.sort_unstable();
        hosts.dedup();
        self.rules.extend(hosts.into_iter().map(|host| Rule {
            host,
            place: place.clone(),
            slot: Slot::Fallback,
            backend: backend.clone(),
        }));
    }

    fn read_tls(&mut self, spec: &IngressSpec) {
        for (t, tls) in spec.tls.iter().flatten().enumerate() {
            let place = format!("spec.tls[{t}]");
            let mut hosts = Vec::new();
            for (h, host) in tls.hosts.iter().flatten().enumerate() {
                match HostPattern::parse(host) {
                    Ok(host) => hosts.push(host),
                    Err(_) => {
                        let host = excerpt(host).into_owned();
                        self.say(
                            Severity::Error,
                            &format!("{place}.hosts[{h}]"),
                            format!(
                                "{host:?} is no DNS name or wildcard like *.example.com; correct the host."
                            ),
                        );
                    }
                }
            }
            if tls.hosts.as_ref().is_none_or(Vec::is_empty) {
                // Without hosts the entry is for all hosts of the Ingress.
                hosts.extend(self.rules.iter().map(|rule| rule.host.clone()));
            }
            hosts.sort_unstable();
            hosts.dedup();
            let secret = tls.secret_name.as_deref().filter(|name| !name.is_empty());
            let secret =
                secret.map(|name| ObjectKey { namespace: self.key.namespace.clone(), name: name.into() });
            self.tls.push(Tls { place, hosts, secret });
        }
    }

    fn path_match(&mut self, path: &HTTPIngressPath, place: &str) -> Option<PathMatch> {
        let text = match path.path.as_deref() {
            None | Some("") => "/",
            Some(text) => text,
        };
        let wrong = if !text.starts_with('/') {
            Some("does not begin with /")
        } else if path.path_type != "ImplementationSpecific" && never_requested(text) {
            Some("holds //, /./, /../ or %2f, which no request's path has")
        } else if text.len() > MAX_PATH {
            Some("is longer than 4096 bytes")
        } else if !requestable(text) {
            Some("holds a space, a # or a % without two digits, which no request's path has unescaped")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.say(
                Severity::Error,
                &format!("spec.{place}.path"),
                format!("{:?} {wrong}; this path is not served. Correct the path.", excerpt(text)),
            );
            return self.closing(text);
        }
        if self.annotations.closed_by.is_some() && (self.annotations.regex || text.contains(REGEX)) {
            return self.closing(text);
        }
        match path.path_type.as_str() {
            "Exact" => Some(PathMatch::Exact(text.into())),
            "Prefix" | "ImplementationSpecific" => Some(PathMatch::Prefix(text.into())),
            "" => {
                self.say(
                    Severity::Warning,
                    &format!("spec.{place}.pathType"),
                    "is missing, which the Kubernetes API refuses; read as ImplementationSpecific. Add it."
                        .into(),
                );
                Some(PathMatch::Prefix(text.into()))
            }
            other => {
                self.say(
                    Severity::Error,
                    &format!("spec.{place}.pathType"),
                    format!(
                        "{:?} is none of Exact, Prefix and ImplementationSpecific; this path is not served. \
                         Write one of them.",
                        excerpt(other)
                    ),
                );
                self.closing(text)
            }
        }
    }

    /// For an Ingress whose access is restricted: what to close in place of a path that can't be
    /// served as it is written, so that its requests don't go to a shorter path of an open Ingress.
    /// The path is read generously, up to the last whole element before a regular expression
    /// begins. Where that leaves nothing but `/`, all of the Ingress's hosts are closed as by a
    /// server-snippet: a single `/` might lose to an older one. A path that no request can have in
    /// any spelling has nothing to close.
    fn closing(&mut self, text: &str) -> Option<PathMatch> {
        let by = self.annotations.closed_by.clone()?;
        let mut path = format!("/{}", text.trim_start_matches(['/', '^']));
        if let Some(at) = path.find(REGEX) {
            // `/a(/|$)` is how ingress-nginx users write "a and all below".
            let whole = path[at..].starts_with("(/|$)");
            path.truncate(at);
            if !whole {
                path.truncate(path.rfind('/').map_or(0, |slash| slash + 1));
            }
        }
        if path.len() > MAX_PATH {
            let end = path.floor_char_boundary(MAX_PATH);
            path.truncate(path[..end].rfind('/').map_or(0, |slash| slash + 1));
        }
        let path = normalise_rule(&path.replace(' ', "%20").replace('#', "%23"));
        if !requestable(&path) {
            return None;
        }
        if path == "/" && text != "/" {
            self.annotations.closes_hosts.get_or_insert(by);
        }
        Some(PathMatch::Prefix(path.into()))
    }

    /// A backend that can't be read takes its requests all the same and answers 503; without it
    /// they would go to some shorter path, where nobody wants them.
    fn backend(&mut self, backend: &IngressBackend, field: &str) -> DraftBackend {
        if let Some(closed_by) = &self.annotations.closed_by {
            return DraftBackend::Unavailable(Unavailable::AccessControl(closed_by.clone()));
        }
        let invalid = DraftBackend::Unavailable(Unavailable::InvalidBackend);
        let Some(service) = &backend.service else {
            if let Some(resource) = &backend.resource {
                let kind = excerpt(&resource.kind).into_owned();
                self.issues.push(issue(
                    Severity::Error,
                    IssueReason::Unsupported,
                    "Ingress",
                    &self.key,
                    format!("{field}.resource"),
                    format!("resource backends ({kind}) are not supported and answer 503; name a Service."),
                ));
                return DraftBackend::Unavailable(Unavailable::ResourceBackend);
            }
            self.say(
                Severity::Error,
                field,
                "names no Service and answers 503; add service.name and service.port.".into(),
            );
            return invalid;
        };
        if service.name.is_empty() {
            self.say(
                Severity::Error,
                &format!("{field}.service.name"),
                "is missing; requests get 503. Name the Service.".into(),
            );
            return invalid;
        }
        let port = service.port.as_ref();
        let number = port.and_then(|port| port.number).filter(|number| *number != 0);
        let name = port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
        let port = match (number, name) {
            (Some(number), None) => u16::try_from(number).ok().map(PortRef::Number),
            (None, Some(name)) if name.len() <= 63 => Some(PortRef::Name(name.into())),
            _ => None,
        };
        let Some(port) = port else {
            self.say(
                Severity::Error,
                &format!("{field}.service.port"),
                "must have either a number from 1 to 65535 or a name; requests get 503. Correct the port."
                    .into(),
            );
            return invalid;
        };
        let name = service.name.as_str().into();
        let service = ObjectKey { namespace: self.key.namespace.clone(), name };
        DraftBackend::Service(ClusterKey::new(service, port))
    }

    fn say(&mut self, severity: Severity, field: &str, message: String) {
        self.issues.push(issue(severity, IssueReason::InvalidField, "Ingress", &self.key, field, message));
    }
}

/// Longer paths are not served. Looking up a request's path costs a step for each of its elements
/// up to the longest rule, so one rule must not make all requests slow.
const MAX_PATH: usize = 4096;

/// What hardly is in a path unless it is a regular expression.
const REGEX: [char; 10] = ['(', '[', '{', '*', '+', '?', '^', '$', '|', '\\'];

/// Whether a request can have this path, after both are normalised.
fn requestable(path: &str) -> bool {
    Target::parse(&normalise_rule(path)).is_ok()
}

/// What the API server refuses in Exact and Prefix paths: requests are normalised before they are
/// compared, so such a path never matches.
fn never_requested(path: &str) -> bool {
    ["//", "/./", "/../", "%2f", "%2F"].iter().any(|part| path.contains(part))
        || path.ends_with("/..")
        || path.ends_with("/.")
}
