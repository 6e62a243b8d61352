//! Redirects from `/foo` to `/foo/` where only the latter has a rule, as nginx gives them for a
//! `location /foo/`.

use super::merge::{Ground, Host};
use crate::model::{Backend, PathMatch, Redirect, Route, RoutePolicy, Template, TemplatePart, Variable};
use crate::route::normalise_rule;

/// Adds the redirects of a host's routes whose Ingresses want them. Regular expressions have none.
pub(super) fn redirect(host: &mut Host, ground: &mut Ground<'_>) {
    if host.regex {
        return;
    }
    for at in std::mem::take(&mut host.slashes) {
        let route = &host.rules.routes[at];
        let slashed = match &route.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) => normalise_rule(path),
            PathMatch::Regex(_) => continue,
        };
        let Some(bare) = slashed.strip_suffix('/').filter(|bare| !bare.is_empty()) else { continue };
        let (exact, prefix) = (PathMatch::Exact(bare.into()), PathMatch::Prefix(bare.into()));
        if host.taken.contains_key(&exact) || host.taken.contains_key(&prefix) {
            continue;
        }
        let to = Template(vec![
            TemplatePart::Text(slashed.as_str().into()),
            TemplatePart::Variable(Variable::IsArgs),
            TemplatePart::Variable(Variable::Query),
        ]);
        let policy = RoutePolicy {
            https_redirect: route.policy.https_redirect,
            redirect: Some(Redirect { status: 301, to }),
            hsts: route.policy.hsts,
            unlogged: route.policy.unlogged,
            ..RoutePolicy::default()
        };
        let redirect = Route {
            path: exact.clone(),
            backend: Backend::Answered,
            canary: None,
            policy: ground.policies.get(policy),
            ..route.clone()
        };
        host.taken.insert(exact, host.rules.routes.len());
        host.rules.routes.push(redirect);
    }
}
