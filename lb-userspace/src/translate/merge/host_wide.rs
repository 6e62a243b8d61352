//! What an Ingress says for all of a host, as in ingress-nginx's server block.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Ground, Host};
use crate::model::{
    Backend, ClientAuth, ClientCertificate, ErrorPages, ExternalAuth, HostPattern, IssueReason, Mirror,
    ObjectKey, RoutePolicy, Severity, Unavailable,
};
use crate::translate::member::Member;
use crate::translate::report::issue;

const AUTH_TLS_SECRET: &str = "nginx.ingress.kubernetes.io/auth-tls-secret";
const AUTH_URL: &str = "nginx.ingress.kubernetes.io/auth-url";
const MIRROR_TARGET: &str = "nginx.ingress.kubernetes.io/mirror-target";

/// What an Ingress asks of all clients of a host.
pub(super) struct Certificate {
    ingress: ObjectKey,
    handshake: Arc<ClientAuth>,
    request: Option<Arc<ClientCertificate>>,
}

impl Host {
    /// What ingress-nginx writes into the host's server block: the first Ingress's counts.
    pub(super) fn read_host_wide(&mut self, members: &[&Member]) {
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
    pub(super) fn policy(&self, member: &Member, ground: &Ground<'_>) -> RoutePolicy {
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
        if let Some((statuses, key)) = member.refers.error_pages.as_deref() {
            let backend = ground.clusters.backend(key);
            if matches!(backend, Backend::Cluster(_)) {
                policy.error_pages = Some(Arc::new(ErrorPages { statuses: statuses.clone(), backend }));
            }
        }
        policy
    }

    /// Says so where clients would choose whom a member's mirror is, and takes it out of its policy: a rule
    /// without a host has whichever they ask for.
    pub(super) fn without_chosen_mirror(&mut self, member: &Member, policy: &mut RoutePolicy) {
        let chosen = |mirror: &Arc<Mirror>| mirror.target.leads_to_asked_host();
        if self.rules.host != HostPattern::Any || !policy.mirror.as_ref().is_some_and(chosen) {
            return;
        }
        policy.mirror = None;
        self.issues.push(issue(
            Severity::Warning,
            IssueReason::InvalidAnnotation,
            "Ingress",
            &member.draft.key,
            format!("metadata.annotations[{MIRROR_TARGET}]"),
            "is ignored for rules without a host: clients would choose who gets the copies. Use a fixed host in the \
             URL, or give the rules hosts.",
        ));
    }

    /// Why nobody gets in to a member's routes. A host has one handshake: who wants certificates of
    /// other authorities than it asks for can't have them checked. And who lets in whom the server says that
    /// the client names lets in everybody.
    pub(super) fn closing(&mut self, member: &Member) -> Option<Arc<str>> {
        if member.refers.closed_by.is_some() {
            return member.refers.closed_by.clone();
        }
        let chosen = |auth: &Arc<ExternalAuth>| auth.url.leads_to_asked_host();
        if self.rules.host == HostPattern::Any && member.asks().is_some_and(chosen) {
            self.issues.push(issue(
                Severity::Error,
                IssueReason::InvalidAnnotation,
                "Ingress",
                &member.draft.key,
                format!("metadata.annotations[{AUTH_URL}]"),
                "rules without a host would have clients choose who lets them in; requests get 503. Use a fixed host in \
                 the URL, or give the rules hosts.",
            ));
            return Some(AUTH_URL.into());
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

    /// Applies what closes the host as a whole to the routes of its namespace's other Ingresses.
    pub(super) fn close(&mut self) {
        let closed = std::mem::take(&mut self.closed);
        let mut done = HashSet::new();
        for (by, annotation) in &closed {
            if !done.insert(&by.namespace) {
                continue;
            }
            for route in self.rules.routes.iter_mut().chain(self.rules.fallback.as_deref_mut()) {
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
}
