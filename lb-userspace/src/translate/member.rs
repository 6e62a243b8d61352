//! One Ingress with what its annotations refer to.

use std::sync::Arc;

use super::annotations::Redirect;
use super::ingress::{Draft, DraftBackend};
use super::report::issue;
use crate::model::{
    Access, ClientAuth, ClusterKey, ExternalAuth, Issue, IssueReason, ObjectKey, PortRef, RoutePolicy,
    Severity, Via,
};
use crate::objects::Objects;

/// An Ingress of ours.
pub(super) struct Member {
    pub(super) draft: Draft,
    pub(super) refers: Refers,
}

/// What of an Ingress depends on Secrets, ConfigMaps and Services. Read again when those change.
#[derive(PartialEq)]
pub(super) struct Refers {
    /// Without what depends on the host.
    policy: Arc<RoutePolicy>,
    /// Statuses whose answers come from another cluster, which also steps in for clusters without an
    /// endpoint.
    pub(super) error_pages: Option<Box<(Vec<u16>, ClusterKey)>>,
    /// What the handshake for its hosts asks clients for.
    pub(super) client_auth: Option<Arc<ClientAuth>>,
    /// The annotation that restricts access and can't be followed: nobody gets in.
    pub(super) closed_by: Option<Arc<str>>,
    /// The same for the routes of its namespace's other Ingresses on its hosts.
    pub(super) closes_hosts: Option<Arc<str>>,
    /// The annotation that restricts access, whether it can be followed or not.
    pub(super) restricted_by: Option<Arc<str>>,
    pub(super) issues: Vec<Issue>,
}

impl Member {
    /// `default` is the controller's default backend.
    pub(super) fn new(draft: Draft, objects: &Objects, default: Option<&ClusterKey>) -> Self {
        let refers = Refers::new(&draft, objects, default);
        Self { draft, refers }
    }

    /// Reads again what it refers to; gives what was before if that differs.
    pub(super) fn read_again(&mut self, objects: &Objects, default: Option<&ClusterKey>) -> Option<Refers> {
        let new = Refers::new(&self.draft, objects, default);
        (new != self.refers).then(|| std::mem::replace(&mut self.refers, new))
    }

    /// Whether it says how connections for its hosts begin.
    pub(super) fn shapes_tls(&self) -> bool {
        let annotations = &self.draft.annotations;
        annotations.passthrough || annotations.worker_pool.is_some() || self.refers.client_auth.is_some()
    }

    /// Whether other hosts stand in for its own.
    pub(super) fn stands_in(&self) -> bool {
        let annotations = &self.draft.annotations;
        annotations.canary.is_none() && (annotations.www_redirect || !annotations.aliases.is_empty())
    }

    /// The clusters that it names, with the field of each. May name one several times.
    pub(super) fn clusters(&self) -> impl Iterator<Item = (&ClusterKey, Field<'_>)> {
        let rules = self.draft.rules.values().flatten().filter_map(|rule| match &rule.backend {
            DraftBackend::Service(key) => Some((key, Field::Rule(&rule.place))),
            DraftBackend::Unavailable(_) => None,
        });
        rules.chain(self.refers.error_pages.iter().map(|pages| (&pages.1, Field::DefaultBackend)))
    }

    /// The Service that it names without a port.
    pub(super) fn named_service(&self) -> Option<ObjectKey> {
        let name = self.draft.annotations.default_backend.clone()?;
        Some(ObjectKey { namespace: self.draft.key.namespace.clone(), name })
    }

    /// The server that is asked who gets in.
    pub(super) fn asks(&self) -> Option<&Arc<ExternalAuth>> {
        self.refers.policy.access.external.as_ref()
    }

    /// Whether plain requests of a host are sent to https; `has_tls`: some Ingress has TLS for it.
    fn redirects(&self, has_tls: bool) -> bool {
        match self.draft.annotations.redirect {
            Redirect::Always => true,
            Redirect::WithTls => has_tls,
            Redirect::Never => false,
        }
    }

    /// The policy of its routes of a host, without error pages.
    pub(super) fn policy(&self, has_tls: bool) -> RoutePolicy {
        RoutePolicy {
            https_redirect: self.redirects(has_tls).then_some(HTTPS_REDIRECT),
            // Browsers take it from hosts that they reached over https only, and then for good.
            hsts: self.refers.policy.hsts.filter(|_| has_tls),
            ..RoutePolicy::clone(&self.refers.policy)
        }
    }
}

impl Refers {
    fn new(draft: &Draft, objects: &Objects, default: Option<&ClusterKey>) -> Self {
        let annotations = &draft.annotations;
        let mut issues = Vec::new();
        let policy = annotations.policy(&draft.key, objects, &mut issues);
        // What is wrong with its Secret was said by the policy.
        let client_auth = annotations.client_auth(&draft.key, objects, &mut Vec::new());
        let failed = policy.as_ref().err().cloned();
        let policy = policy.unwrap_or_default();
        let closed_by = annotations.closed_by.clone().or(failed);
        let closes_hosts = annotations.closes_hosts.clone().or_else(|| client_auth.as_ref().err().cloned());
        let restricted_by = closed_by.clone().or_else(|| restriction(&policy.access));
        let error_pages = error_pages(draft, objects, default, &mut issues).map(Box::new);
        let client_auth = client_auth.ok().flatten();
        Self { policy, error_pages, client_auth, closed_by, closes_hosts, restricted_by, issues }
    }
}

/// The status of redirects to https: 308 keeps the method and the body.
const HTTPS_REDIRECT: u16 = 308;

/// Where an Ingress names a cluster.
#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    /// In a rule, or in `defaultBackend`.
    Rule(&'a str),
    /// In the annotation `default-backend`, or in the node's settings.
    DefaultBackend,
}

impl std::fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rule(place) if place.contains("paths") => write!(f, "spec.{place}.backend.service"),
            Self::Rule(_) => f.write_str("spec.defaultBackend.service"),
            Self::DefaultBackend => write!(f, "metadata.annotations[{DEFAULT_BACKEND}]"),
        }
    }
}

const DEFAULT_BACKEND: &str = "nginx.ingress.kubernetes.io/default-backend";

/// An annotation to blame for what isn't open.
fn restriction(access: &Access) -> Option<Arc<str>> {
    let name = match access {
        Access { allow: Some(_), .. } => "allowlist-source-range",
        Access { deny: Some(_), .. } => "denylist-source-range",
        Access { basic: Some(_), .. } => "auth-type",
        Access { external: Some(_), .. } => "auth-url",
        Access { certificate: Some(_), .. } => "auth-tls-secret",
        _ => return None,
    };
    Some(format!("nginx.ingress.kubernetes.io/{name}").into())
}

fn error_pages(
    draft: &Draft,
    objects: &Objects,
    default: Option<&ClusterKey>,
    issues: &mut Vec<Issue>,
) -> Option<(Vec<u16>, ClusterKey)> {
    let statuses = draft.annotations.error_statuses.clone();
    let mut say = |reason, annotation: &str, message: String| {
        let field = format!("metadata.annotations[{annotation}]");
        issues.push(issue(Severity::Warning, reason, "Ingress", &draft.key, field, message));
    };
    if let Some(name) = &draft.annotations.default_backend {
        let service = ObjectKey { namespace: draft.key.namespace.clone(), name: name.clone() };
        let Some(found) = objects.services.get(&service) else {
            let message = format!("Service {service} does not exist; the annotation is ignored. Create it.");
            say(IssueReason::ServiceNotFound, DEFAULT_BACKEND, message);
            return None;
        };
        let tcp = found.ports.iter().find(|port| port.protocol.is_none());
        let Some(number) = tcp.and_then(|port| u16::try_from(port.port).ok()) else {
            let message =
                format!("Service {service} has no TCP port; the annotation is ignored. Give it one.");
            say(IssueReason::PortNotFound, DEFAULT_BACKEND, message);
            return None;
        };
        let via = if draft.annotations.service_upstream { Via::ClusterIp } else { Via::Endpoints };
        return Some((statuses, ClusterKey { via, ..ClusterKey::new(service, PortRef::Number(number)) }));
    }
    if statuses.is_empty() {
        return None;
    }
    if default.is_none() {
        say(
            IssueReason::InvalidAnnotation,
            "nginx.ingress.kubernetes.io/custom-http-errors",
            "there is no default backend that could answer in an endpoint's place, so endpoints' answers go on \
             as they are; name a Service with the annotation default-backend."
                .into(),
        );
    }
    default.map(|key| (statuses, key.clone()))
}
