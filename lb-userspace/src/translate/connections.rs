//! What becomes of all TLS connections for a host, before anybody looks into them: passed on as they are, or served
//! by a pool of workers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::member::Member;
use super::report::issue;
use super::standin::{Hosts, StandIns};
use super::tls::wildcard_of;
use crate::model::{
    Backend, HostPattern, Issue, IssueReason, ObjectKey, Passthrough, PathMatch, Severity, WorkerPool,
};

/// Which names' connections go on as they are, and where to: to the backend of the host's `/`, or
/// of its first path. Path rules mean nothing for them.
pub(super) fn passthrough(
    members: &[&Member],
    hosts: &Hosts<'_>,
    stand_ins: &StandIns,
    issues: &mut Vec<Issue>,
) -> Vec<(HostPattern, Option<Passthrough>)> {
    let mut found = BTreeMap::new();
    let owners = Owners::new(members, |member| member.draft.annotations.passthrough);
    for member in members.iter().filter(|member| member.draft.annotations.passthrough) {
        let key = &member.draft.key;
        for host in member.draft.rules.hosts() {
            let mut say = |reason, wrong: &str| {
                let field = "metadata.annotations[nginx.ingress.kubernetes.io/ssl-passthrough]";
                let message = format!("is ignored for host {host}: {wrong}");
                issues.push(issue(Severity::Warning, reason, "Ingress", key, field, message));
            };
            if let Some(first) = owners.other(host, key) {
                let wrong = format!(
                    "Ingress {first} of another namespace has rules for it and came first, and all its connections \
                     would go past them; use another host."
                );
                say(IssueReason::Conflict, &wrong);
                continue;
            }
            let own = hosts(host).into_iter().flat_map(|rules| rules.all_routes());
            let mut own = own.filter(|route| route.ingress == *key);
            let root = |path: &PathMatch| matches!(path.text(), "/");
            let route = own.clone().find(|route| root(&route.path)).or_else(|| own.next());
            match (host, route.map(|route| (&route.backend, &route.policy.upstream))) {
                (HostPattern::Any, _) => say(
                    IssueReason::InvalidAnnotation,
                    "connections are told apart by their server name; give the rule a host.",
                ),
                (_, Some((Backend::Cluster(cluster), upstream))) => {
                    let proxy_protocol = upstream.proxy_protocol;
                    let passthrough = || Some(Passthrough { cluster: cluster.clone(), proxy_protocol });
                    found.entry(host.clone()).or_insert_with(passthrough);
                }
                (_, _) => say(
                    IssueReason::InvalidAnnotation,
                    "no path of the host has a backend that connections could go to; correct the backend.",
                ),
            }
        }
    }
    with_exceptions(found, members, stand_ins)
}

/// Which names' connections belong to a pool of workers: the first Ingress with the host that names one
/// decides. `node`: the pools that there are, if that is known.
pub(super) fn pools(
    members: &[&Member],
    stand_ins: &StandIns,
    node: Option<&[WorkerPool]>,
    issues: &mut Vec<Issue>,
) -> Vec<(HostPattern, Option<Arc<str>>)> {
    let mut found: BTreeMap<HostPattern, (Arc<str>, &ObjectKey)> = BTreeMap::new();
    let owners = Owners::new(members, |member| member.draft.annotations.worker_pool.is_some());
    for member in members {
        let Some(pool) = &member.draft.annotations.worker_pool else { continue };
        let key = &member.draft.key;
        let mut say = |reason, message: String| {
            let field = "metadata.annotations[sluice.dev/worker-pool]";
            issues.push(issue(Severity::Warning, reason, "Ingress", key, field, message));
        };
        if node.is_some_and(|node| !node.iter().any(|known| known.name == *pool)) {
            let message = format!(
                "this node has no pool {pool}; all its general workers serve the hosts. Start it with --worker-pool \
                 {pool}=N."
            );
            say(IssueReason::Unsupported, message);
        }
        for host in member.draft.rules.hosts() {
            if *host == HostPattern::Any {
                let message = "is ignored for rules without a host: connections are told apart by their server \
                               name; give the rules hosts.";
                say(IssueReason::InvalidAnnotation, message.to_owned());
                continue;
            }
            if let Some(first) = owners.other(host, key) {
                let message = format!(
                    "is ignored for host {host}: Ingress {first} of another namespace has rules for it and came \
                     first; use another host."
                );
                say(IssueReason::Conflict, message);
                continue;
            }
            match found.get(host) {
                None => drop(found.insert(host.clone(), (pool.clone(), key))),
                Some((other, _)) if other == pool => {}
                Some((other, first)) => {
                    let message = format!(
                        "host {host} belongs to pool {other} of Ingress {first}, which came first; name the same \
                         pool in both."
                    );
                    say(IssueReason::Conflict, message);
                }
            }
        }
    }
    let aliases =
        stand_ins.hosts.iter().filter(|(host, stand_in)| stand_in.alias && !found.contains_key(*host));
    let aliases: Vec<_> = aliases
        .filter_map(|(host, stand_in)| Some((host.clone(), found.get(&stand_in.source)?.clone())))
        .collect();
    found.extend(aliases);
    let found = found.into_iter().map(|(host, (pool, _))| (host, Some(pool))).collect();
    with_exceptions(found, members, stand_ins)
}

/// Who says how the connections for a host begin: the namespace whose Ingress was first to have rules for it.
/// Others may have paths there, but not take all of its connections away.
#[derive(Default)]
struct Owners<'a>(HashMap<&'a HostPattern, &'a ObjectKey>);

impl<'a> Owners<'a> {
    /// Of the hosts of those of `members` that are `asking`.
    fn new(members: &[&'a Member], asking: impl Fn(&Member) -> bool) -> Self {
        let asking = members.iter().filter(|member| asking(member));
        let hosts: HashSet<_> = asking.flat_map(|member| member.draft.rules.hosts()).collect();
        let mut owners = HashMap::new();
        if !hosts.is_empty() {
            for draft in members.iter().map(|member| &member.draft) {
                for host in draft.rules.hosts().filter(|host| hosts.contains(host)) {
                    owners.entry(host).or_insert(&draft.key);
                }
            }
        }
        Self(owners)
    }

    /// The Ingress whose namespace decides, if that is not this one's.
    fn other(&self, host: &HostPattern, key: &ObjectKey) -> Option<&'a ObjectKey> {
        self.0.get(host).copied().filter(|first| first.namespace != key.namespace)
    }
}

/// `found`, sorted, with the hosts that have rules of their own where a wildcard in it covers them: what is said
/// for it is not said for them.
fn with_exceptions<T>(
    mut found: BTreeMap<HostPattern, Option<T>>,
    members: &[&Member],
    stand_ins: &StandIns,
) -> Vec<(HostPattern, Option<T>)> {
    if found.keys().any(|host| matches!(host, HostPattern::Wildcard(_))) {
        let own = members.iter().flat_map(|member| member.draft.rules.hosts());
        for host in own.chain(stand_ins.hosts.keys()) {
            let covered =
                || wildcard_of(host).is_some_and(|wildcard| matches!(found.get(&wildcard), Some(Some(_))));
            if !found.contains_key(host) && covered() {
                found.insert(host.clone(), None);
            }
        }
    }
    found.into_iter().collect()
}
