//! Annotations of ingress-nginx, read into types.
//!
//! ```text
//! reader (names, issues) ─► values (text to types) ─► one file for each family ─► Annotations
//!                                        resolve (Secrets, ConfigMaps) ─► RoutePolicy
//! ```
//!
//! What can't be followed is said and left out, unless leaving it out would open what it closes:
//! then the Ingress's routes answer 503. What ingress-nginx applies to a whole server block (a
//! server-snippet, client certificates) closes the routes of other Ingresses on the same host too,
//! if they are of the same namespace: their owner may count on it, and nobody can close the hosts
//! of another namespace.
//!
//! `sluice.dev/NAME` is the same annotation as `nginx.ingress.kubernetes.io/NAME` and goes before it.

mod access;
mod alias;
mod balance;
mod bodies;
mod canary;
mod catalogue;
mod certificates;
mod cors;
mod defaults;
mod errors;
mod external;
pub(super) mod headers;
mod limits;
mod matching;
mod mirror;
mod passwords;
pub(super) mod reader;
mod redirects;
mod resolve;
mod snippet;
mod upstream;
pub(super) mod values;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use reader::Reader;
use snippet::Scope;

use crate::model::{HostPattern, Issue, ObjectKey, RewriteTarget, RoutePolicy};
use crate::objects::AnnotationMap;

pub(super) use canary::CanaryRule;
pub use catalogue::{CATALOGUE, Entry, Support, entry};
pub(super) use certificates::ClientAuthRef;
pub use defaults::Defaults;
pub(super) use redirects::Redirect;
pub(super) use snippet::{Edits, endpoint_header};

/// What an Ingress's annotations ask for, read without looking at any other object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Annotations {
    pub(super) redirect: Redirect,
    /// What `rewrite-target` says. In the policy, too.
    pub(super) rewrite: Option<RewriteTarget>,
    /// An annotation that closes access and can't be followed.
    pub(super) closed_by: Option<Arc<str>>,
    /// The same for all routes of its hosts, other Ingresses' included.
    pub(super) closes_hosts: Option<Arc<str>>,
    /// Paths are regular expressions (`use-regex`, or implied by `rewrite-target`). In ingress-nginx, so
    /// are then the paths of all other Ingresses on the same hosts.
    pub(super) regex: bool,
    /// More hosts for each rule that has one (`server-alias`).
    pub(super) aliases: Vec<HostPattern>,
    /// `www.x` is sent to `x`, or `x` to `www.x`, whichever has no rules (`from-to-www-redirect`).
    pub(super) www_redirect: bool,
    /// The Ingress's rules are canaries of other Ingresses' rules.
    pub(super) canary: Option<CanaryRule>,
    /// Connections for the Ingress's hosts go to its backends as they are (`ssl-passthrough`).
    pub(super) passthrough: bool,
    /// TLS connections for the Ingress's hosts belong to this pool of workers (`worker-pool`).
    pub(super) worker_pool: Option<Arc<str>>,
    /// Requests go to ClusterIPs (`service-upstream`).
    pub(super) service_upstream: bool,
    /// Statuses whose answers come from `default_backend` (`custom-http-errors`), sorted.
    pub(super) error_statuses: Vec<u16>,
    /// A Service of the Ingress's namespace (`default-backend`): takes requests while a backend has no
    /// endpoint, and gives error pages.
    pub(super) default_backend: Option<Arc<str>>,
    /// `trailing slash`: `/foo` is sent to `/foo/` where only the latter has a rule, as nginx does.
    pub(super) trailing_slash_redirect: bool,
    /// Clients of the Ingress's hosts are asked for a certificate (`auth-tls-secret`). What requests
    /// without a good one get is in the policy.
    pub(super) client_auth: Option<ClientAuthRef>,
    /// What `server-snippet` changes in the policies of all routes of its hosts. Those of this Ingress
    /// have it already.
    pub(super) for_hosts: Option<Arc<Edits>>,
    /// What needs no other object.
    policy: Arc<RoutePolicy>,
    basic: Option<access::BasicRef>,
    upstream_tls: Option<upstream::TlsRef>,
    /// A ConfigMap with headers for the authentication server, and the annotation.
    auth_headers: Option<(ObjectKey, Arc<str>)>,
    /// A ConfigMap with headers for answers, and the annotation.
    custom_headers: Option<(ObjectKey, Arc<str>)>,
}

impl Annotations {
    /// Reads an Ingress's annotations. What is wrong with them is said in `issues`.
    pub(super) fn read(
        key: &ObjectKey,
        annotations: &AnnotationMap,
        defaults: &Defaults,
        issues: &mut Vec<Issue>,
    ) -> Self {
        let mut reader = Reader::of_ingress(key, annotations, issues);
        if reader.is_empty() { Self::none(defaults) } else { Self::from(&mut reader, defaults) }
    }

    /// What an Ingress without annotations asks for.
    fn none(defaults: &Defaults) -> Self {
        let matching = matching::Matching::new(defaults.compat);
        let mut policy = Arc::clone(&defaults.policy);
        if defaults.external_auth.is_some() {
            Arc::make_mut(&mut policy).access.external.clone_from(&defaults.external_auth);
        }
        Self {
            redirect: defaults.redirect,
            rewrite: None,
            closed_by: defaults.closed_by.clone(),
            closes_hosts: None,
            regex: false,
            aliases: Vec::new(),
            www_redirect: false,
            canary: None,
            passthrough: false,
            worker_pool: None,
            service_upstream: defaults.service_upstream,
            error_statuses: defaults.error_statuses.clone(),
            default_backend: None,
            trailing_slash_redirect: matching.trailing_slash_redirect,
            client_auth: None,
            for_hosts: None,
            policy,
            basic: None,
            upstream_tls: None,
            auth_headers: None,
            custom_headers: None,
        }
    }

    fn from(reader: &mut Reader<'_>, defaults: &Defaults) -> Self {
        let cross_namespace = defaults.cross_namespace;
        let mut policy = RoutePolicy::clone(&defaults.policy);
        let matching = matching::read(reader, defaults.compat, &mut policy);
        redirects::read(reader, &mut policy);
        access::networks(reader, &mut policy);
        let basic = access::basic(reader, cross_namespace);
        let external = external::read(reader, "auth-", cross_namespace);
        let global = reader.get("enable-global-auth", values::boolean).unwrap_or(true);
        let asked_otherwise = reader.text("auth-url").is_some() || !global;
        policy.access.external = match external.auth {
            None if !asked_otherwise => defaults.external_auth.clone(),
            own => own,
        };
        let certificates = certificates::read(reader, cross_namespace);
        let (client_auth, certificate) = certificates.unzip();
        policy.access.certificate = certificate;
        limits::read(reader, &mut policy);
        policy.cors = cors::read(reader);
        bodies::read(reader, &mut defaults.buffers.clone(), &mut policy);
        let upstream_tls = upstream::read(reader, cross_namespace, &mut policy);
        balance::read(reader, &mut policy);
        policy.mirror = mirror::read(reader);
        let errors = errors::read(reader, &defaults.error_statuses);
        let custom_headers = headers::config_map(reader, cross_namespace);
        if let Some(logged) = reader.get("enable-access-log", values::boolean) {
            policy.unlogged = !logged;
        }
        // Snippets last: in ingress-nginx they stand behind what annotations say.
        let for_hosts = snippet::read(reader, "server-snippet", Scope::Hosts, defaults.snippets);
        for_hosts.apply(&mut policy);
        snippet::read(reader, "configuration-snippet", Scope::Routes, defaults.snippets).apply(&mut policy);
        snippet::modsecurity(reader);

        let with_name = |reader: &Reader<'_>, key: Option<ObjectKey>, name: &str| {
            key.map(|key| (key, Arc::from(reader.written(name))))
        };
        Self {
            redirect: redirects::to_https(reader, defaults.redirect),
            rewrite: matching.rewrite,
            regex: matching.regex,
            aliases: matching.aliases,
            www_redirect: reader.get("from-to-www-redirect", values::boolean).unwrap_or_default(),
            canary: canary::read(reader),
            passthrough: matching.passthrough,
            worker_pool: matching.worker_pool,
            service_upstream: reader
                .get("service-upstream", values::boolean)
                .unwrap_or(defaults.service_upstream),
            error_statuses: errors.statuses,
            default_backend: errors.backend,
            trailing_slash_redirect: matching.trailing_slash_redirect,
            client_auth,
            for_hosts: (for_hosts != Edits::default()).then(|| Arc::new(for_hosts)),
            basic,
            upstream_tls,
            auth_headers: with_name(reader, external.headers, "auth-proxy-set-headers"),
            custom_headers: with_name(reader, custom_headers, "custom-headers"),
            closed_by: reader.closed_by.take().or_else(|| defaults.closed_by.clone()),
            closes_hosts: reader.closes_hosts.take(),
            policy: Arc::new(policy),
        }
    }
}
