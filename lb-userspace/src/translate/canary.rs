//! Canaries: a second backend for other Ingresses' routes.

use std::sync::Arc;

use super::annotations::CanaryRule;
use super::ingress::{DraftBackend, Slot};
use super::member::Member;
use super::merge::{Ground, Host};
use super::report::issue;
use crate::model::{Backend, Canary, IssueReason, Route, Severity};
use crate::route::normalise_rule;

/// Attaches the rules of a canary Ingress to the routes that have the same path and type. A canary
/// that has none to attach to takes no request. Ingresses come in the order of their rank: of two
/// canaries for one route the first has it.
pub(super) fn attach(host: &mut Host, member: &Member, canary: &CanaryRule, ground: &Ground<'_>) {
    let key = &member.draft.key;
    for rule in member.draft.rules.get(&host.rules.host).into_iter().flatten() {
        let backend = match &rule.backend {
            DraftBackend::Service(key) => ground.clusters.backend(key),
            // Said already where it was read.
            DraftBackend::Unavailable(_) => continue,
        };
        let main = match &rule.slot {
            Slot::Path(path) => {
                let written = (path.path_type, normalise_rule(&path.text));
                host.written.get(&written).map(|at| &mut host.rules.routes[*at])
            }
            Slot::Fallback => host.rules.fallback.as_deref_mut(),
            Slot::Unservable(_) | Slot::Open => None,
        };
        let wrong = match main {
            None => Some(format!(
                "no other Ingress has this path of host {}, with the same type, for a canary to take a share of; \
                 it takes no requests. Add the rule to the main Ingress, or remove the annotation canary.",
                host.rules.host
            )),
            Some(main) if main.ingress.namespace != key.namespace => Some(format!(
                "the route is Ingress {}'s, which is in another namespace; its owner may not have agreed to a \
                 canary. Move one of the two.",
                main.ingress
            )),
            Some(Route { canary: Some(first), .. }) => Some(format!(
                "Ingress {} is a canary of the same route and came first; remove one of the two.",
                first.ingress
            )),
            // Without the main's own backend there is nothing to take a share of, and without the
            // canary's (which is said elsewhere) the main goes on alone.
            Some(main) => {
                if matches!((&main.backend, &backend), (Backend::Cluster(_), Backend::Cluster(_))) {
                    main.canary = Some(Arc::new(Canary {
                        ingress: key.clone(),
                        backend,
                        header: canary.header.clone(),
                        cookie: canary.cookie.clone(),
                        weight: canary.weight,
                        weight_total: canary.weight_total.max(1),
                    }));
                }
                None
            }
        };
        host.issues.extend(wrong.map(|message| {
            let field = format!("spec.{}", rule.place);
            issue(Severity::Warning, IssueReason::Conflict, "Ingress", key, field, message)
        }));
    }
}
