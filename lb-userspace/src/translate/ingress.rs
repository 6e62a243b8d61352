//! One Ingress by itself: rules that still name their Services.
//!
//! Depends on nothing but the object and the class's defaults, so that results may be kept for as
//! long as the object is the same.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use super::annotations::{Annotations, Defaults};
use super::by_host::ByHost;
use super::path::{self, Closing, RulePath};
use super::report::issue;
use super::shared::Shared;
use crate::model::{
    ClusterKey, Compat, HostPattern, Issue, IssueReason, ObjectKey, PortRef, Severity, Unavailable, Via,
};
use crate::objects::{Ingress, IngressBackend, IngressRule, IngressSpec, excerpt};

/// What one Ingress asks for.
pub(super) struct Draft {
    pub(super) key: ObjectKey,
    /// `creationTimestamp`, seconds since 1970. Manifests have none and come last.
    created: i64,
    pub(super) compat: Compat,
    pub(super) annotations: Arc<Annotations>,
    /// In the order of the manifest, host by host.
    pub(super) rules: ByHost<Vec<Rule>>,
    pub(super) tls: Vec<Tls>,
    pub(super) issues: Vec<Issue>,
}

/// Whose rules win: the older Ingress's, then by namespace and name.
pub(super) type Rank = (i64, ObjectKey);

/// Something that takes requests of a host.
pub(super) struct Rule {
    /// Without `spec.`: `rules[0].http.paths[1]`.
    pub(super) place: Arc<str>,
    pub(super) slot: Slot,
    pub(super) backend: DraftBackend,
}

/// The place of the only path of most Ingresses.
static FIRST: LazyLock<Arc<str>> = LazyLock::new(|| "rules[0].http.paths[0]".into());

/// What of the host's requests a rule takes.
pub(super) enum Slot {
    Path(RulePath),
    /// A path that can't be served as it is written: what to close in its place if access to the
    /// Ingress is restricted.
    Unservable(Closing),
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
#[derive(PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) place: String,
    pub(super) hosts: Vec<HostPattern>,
    pub(super) secret: Option<ObjectKey>,
}

impl Draft {
    pub(super) fn new(
        key: &ObjectKey,
        ingress: &Ingress,
        defaults: &Defaults,
        shared: &mut Shared<Annotations>,
    ) -> Self {
        let mut issues = Vec::new();
        let annotations = Annotations::read(key, &ingress.metadata.annotations, defaults, &mut issues);
        let mut draft = Self {
            key: key.clone(),
            created: ingress.metadata.created.unwrap_or(i64::MAX),
            compat: defaults.compat,
            annotations: shared.get(annotations),
            rules: ByHost::default(),
            tls: Vec::new(),
            issues,
        };
        draft.read_rules(&ingress.spec);
        draft.rules.values_mut().for_each(Vec::shrink_to_fit);
        draft.read_tls(&ingress.spec);
        draft
    }

    pub(super) fn rank(&self) -> Rank {
        (self.created, self.key.clone())
    }

    fn read_rules(&mut self, spec: &IngressSpec) {
        let fallback =
            spec.default_backend.as_ref().map(|backend| self.backend(backend, "spec.defaultBackend"));
        let rules = &spec.rules;
        if rules.is_empty() {
            self.rules.entry(HostPattern::Any);
            if fallback.is_none() {
                self.say(
                    Severity::Warning,
                    "spec",
                    "has neither rules nor defaultBackend and serves nothing; give it one of them.".into(),
                );
            }
        }
        for (r, rule) in rules.iter().enumerate() {
            self.read_rule(r, rule, fallback.as_ref());
        }
        let Some(backend) = fallback else { return };
        let place: Arc<str> = "defaultBackend".into();
        for rules in self.rules.values_mut() {
            rules.push(Rule { place: place.clone(), slot: Slot::Fallback, backend: backend.clone() });
        }
    }

    fn read_rule(&mut self, r: usize, rule: &IngressRule, fallback: Option<&DraftBackend>) {
        let Ok(host) = HostPattern::parse(&rule.host) else {
            let text = excerpt(&rule.host).into_owned();
            self.say(
                Severity::Error,
                &format!("spec.rules[{r}].host"),
                format!(
                    "{text:?} is no DNS name or wildcard like *.example.com; the rule is not served. \
                     Correct the host."
                ),
            );
            return;
        };
        if *rule.host == *"*" || rule.host.parse::<IpAddr>().is_ok() {
            self.say(
                Severity::Warning,
                &format!("spec.rules[{r}].host"),
                format!(
                    "{:?} is served, but the Kubernetes API refuses it; write a DNS name, a wildcard like \
                     *.example.com, or no host for all.",
                    rule.host
                ),
            );
        }
        let mut found = Vec::new();
        let Some(paths) = &rule.paths else {
            // "All its traffic": a rule of its own, or rules without a host would come first.
            let all = || Slot::Path(RulePath::everything());
            let (slot, backend) = match (fallback, &self.annotations.closed_by) {
                (Some(backend), _) => (all(), backend.clone()),
                (None, Some(by)) => {
                    (all(), DraftBackend::Unavailable(Unavailable::AccessControl(by.clone())))
                }
                (None, None) => (Slot::Open, DraftBackend::Unavailable(Unavailable::InvalidBackend)),
            };
            found.push(Rule { place: format!("rules[{r}]").into(), slot, backend });
            self.rules.entry(host).append(&mut found);
            return;
        };
        if paths.is_empty() {
            self.say(
                Severity::Warning,
                &format!("spec.rules[{r}].http.paths"),
                "is empty, so the rule serves nothing; add a path, or leave http out for all of them \
                 to go to the default backend."
                    .into(),
            );
        }
        for (p, path) in paths.iter().enumerate() {
            let place = match (r, p) {
                (0, 0) => Arc::clone(&FIRST),
                _ => format!("rules[{r}].http.paths[{p}]").into(),
            };
            let read = path::read(path, self.compat, &self.annotations);
            if let Some((severity, field, message)) = read.wrong {
                self.say(severity, &format!("spec.{place}.{field}"), message);
            }
            let Some(slot) = read.slot else { continue };
            let backend = self.backend(&path.backend, &format!("spec.{place}.backend"));
            found.push(Rule { place, slot, backend });
        }
        self.rules.entry(host).append(&mut found);
    }

    fn read_tls(&mut self, spec: &IngressSpec) {
        for (t, tls) in spec.tls.iter().enumerate() {
            let place = format!("spec.tls[{t}]");
            let mut hosts = Vec::new();
            for (h, host) in tls.hosts.iter().enumerate() {
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
            if tls.hosts.is_empty() {
                // Without hosts the entry is for all hosts of the Ingress.
                hosts.extend(self.rules.hosts().cloned());
            }
            hosts.sort_unstable();
            hosts.dedup();
            let secret = tls.secret.as_deref().filter(|name| !name.is_empty());
            let secret =
                secret.map(|name| ObjectKey { namespace: self.key.namespace.clone(), name: name.into() });
            self.tls.push(Tls { place, hosts, secret });
        }
    }

    /// A backend that can't be read takes its requests all the same and answers 503; without it
    /// they would go to some shorter path, where nobody wants them.
    fn backend(&mut self, backend: &IngressBackend, field: &str) -> DraftBackend {
        if let Some(closed_by) = &self.annotations.closed_by {
            return DraftBackend::Unavailable(Unavailable::AccessControl(closed_by.clone()));
        }
        let invalid = DraftBackend::Unavailable(Unavailable::InvalidBackend);
        let Some(service) = &backend.service else {
            if let Some(kind) = &backend.resource {
                let kind = excerpt(kind).into_owned();
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
        let number = service.port_number.filter(|number| *number != 0);
        let name = service.port_name.as_deref().filter(|name| !name.is_empty());
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
        let name = (*service.name).into();
        let service = ObjectKey { namespace: self.key.namespace.clone(), name };
        let via = if self.annotations.service_upstream { Via::ClusterIp } else { Via::Endpoints };
        DraftBackend::Service(ClusterKey { via, ..ClusterKey::new(service, port) })
    }

    fn say(&mut self, severity: Severity, field: &str, message: String) {
        self.issues.push(issue(severity, IssueReason::InvalidField, "Ingress", &self.key, field, message));
    }
}
