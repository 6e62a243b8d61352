//! What applies where an Ingress's annotations say nothing.

use std::sync::Arc;
use std::time::Duration;

use super::reader::Reader;
use super::redirects::{self, Redirect};
use super::snippet::Edits;
use super::{access, balance, bodies, errors, external, headers, limits, upstream, values};
use crate::model::{BodyLimits, Compat, ExternalAuth, HeaderEdit, Hsts, RoutePolicy, UpstreamPolicy};

/// What applies where an Ingress's annotations say nothing: nothing in strict Kubernetes behaviour,
/// ingress-nginx's own defaults in the other, and what the cluster's settings say over both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Whose defaults these are.
    pub compat: Compat,
    /// The policy of an Ingress without annotations.
    pub(in crate::translate) policy: Arc<RoutePolicy>,
    /// A setting that restricts access and can't be followed: nobody may get in.
    pub(in crate::translate) closed_by: Option<Arc<str>>,
    /// When plain requests are sent to https.
    pub(in crate::translate) redirect: Redirect,
    /// Statuses whose answers come from a default backend, sorted.
    pub(in crate::translate) error_statuses: Vec<u16>,
    /// Requests go to ClusterIPs.
    pub(in crate::translate) service_upstream: bool,
    /// Who is asked about requests, unless an Ingress says otherwise.
    pub(in crate::translate) external_auth: Option<Arc<ExternalAuth>>,
    /// How answers are read ahead, where they are.
    pub(in crate::translate) buffers: Buffers,
    /// What of snippets is understood is followed.
    pub(in crate::translate) snippets: bool,
    /// Annotations may name Secrets and ConfigMaps of other namespaces.
    pub(in crate::translate) cross_namespace: bool,
}

/// The buffers that answers are read into: how many, and of how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::translate) struct Buffers {
    pub(in crate::translate) number: u64,
    pub(in crate::translate) size: u64,
}

impl Defaults {
    /// Without settings of a cluster.
    pub fn new(compat: Compat) -> Self {
        let (policy, redirect) = match compat {
            Compat::Kubernetes => (RoutePolicy::default(), Redirect::Never),
            Compat::IngressNginx => (ingress_nginx(), Redirect::WithTls),
        };
        Self {
            compat,
            policy: Arc::new(policy),
            closed_by: None,
            redirect,
            error_statuses: Vec::new(),
            service_upstream: false,
            external_auth: None,
            buffers: Buffers { number: 4, size: 4096 },
            snippets: true,
            cross_namespace: false,
        }
    }
}

impl Defaults {
    /// With the entries of a cluster's settings that are about routes.
    pub(in crate::translate) fn configured(compat: Compat, reader: &mut Reader<'_>) -> Self {
        let mut defaults = Self::new(compat);
        let mut policy = RoutePolicy::clone(&defaults.policy);
        defaults.redirect = redirects::to_https(reader, defaults.redirect);
        access::networks(reader, &mut policy);
        limits::settings(reader, &mut policy);
        bodies::read(reader, &mut defaults.buffers, &mut policy);
        upstream::settings(reader, &mut policy);
        balance::algorithm(reader, &mut policy);
        headers::settings(reader, &mut policy);
        if let Some(off) = reader.get("disable-access-log", values::boolean) {
            policy.unlogged = off;
        }
        if let Some(statuses) = reader.get("custom-http-errors", errors::statuses) {
            defaults.error_statuses = statuses;
        }
        for (name, switch) in [
            ("service-upstream", &mut defaults.service_upstream),
            ("allow-snippet-annotations", &mut defaults.snippets),
            ("allow-cross-namespace-resources", &mut defaults.cross_namespace),
        ] {
            *switch = reader.get(name, values::boolean).unwrap_or(*switch);
        }
        defaults.external_auth = external::read(reader, "global-auth-", false).auth;
        defaults.policy = Arc::new(policy);
        defaults.closed_by = reader.closed_by.take();
        defaults
    }

    /// Has all requests and answers edited, before what Ingresses ask for.
    pub(in crate::translate) fn edit(&mut self, requests: &[Edits], answers: &[HeaderEdit]) {
        if !requests.is_empty() || !answers.is_empty() {
            let policy = Arc::make_mut(&mut self.policy);
            requests.iter().for_each(|edits| edits.apply(policy));
            policy.response_headers.extend_from_slice(answers);
        }
    }
}

/// The defaults of ingress-nginx's ConfigMap that change what a client or an endpoint sees.
fn ingress_nginx() -> RoutePolicy {
    RoutePolicy {
        body: BodyLimits { max_request: Some(1 << 20), buffer_request: true, ..BodyLimits::default() },
        upstream: UpstreamPolicy {
            connect_timeout: Some(Duration::from_secs(5)),
            send_timeout: Some(Duration::from_secs(60)),
            read_timeout: Some(Duration::from_secs(60)),
            ..UpstreamPolicy::default()
        },
        hsts: Some(Hsts { max_age: 31_536_000, include_subdomains: true, preload: false }),
        ..RoutePolicy::default()
    }
}
