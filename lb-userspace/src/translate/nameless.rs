//! Certificates of `tls` entries without hosts on Ingresses with rules for every host.
//!
//! The API leaves it to the controller which hosts these are. Every host would be too many: any namespace
//! could then choose what clients get for names that are none of its business. So such a certificate is
//! for the names that it has itself, as far as nobody else has them; what clients get for all other names
//! is for the operator to say (`--default-certificate`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::ingress::{Draft, Tls};
use super::member::Member;
use super::report::issue;
use super::standin::Hosts;
use super::tls::wildcard_of;
use crate::model::{Certificate, HostPattern, Issue, IssueReason, ObjectKey, Severity};

/// An entry of `tls` that says no host, on an Ingress whose rules don't either.
pub(super) struct Nameless<'a> {
    pub(super) draft: &'a Draft,
    pub(super) tls: &'a Tls,
    pub(super) certificate: Arc<Certificate>,
}

/// Enters the certificates for those of their names that are free. `names`: those of each Secret.
pub(super) fn add(
    entries: &[Nameless<'_>],
    members: &[&Member],
    hosts: &Hosts<'_>,
    names: &HashMap<ObjectKey, HashSet<HostPattern>>,
    by_host: &mut BTreeMap<HostPattern, Vec<Arc<Certificate>>>,
    issues: &mut Vec<Issue>,
) {
    if entries.is_empty() {
        return;
    }
    let owners = Owners::of(members, hosts);
    let named: BTreeSet<HostPattern> = by_host.keys().cloned().collect();
    for Nameless { draft, tls, certificate } in entries {
        let own: BTreeSet<_> = names.get(&certificate.secret).into_iter().flatten().collect();
        let (taken, free): (Vec<&HostPattern>, Vec<_>) =
            own.iter().partition(|name| owners.has_other(name, &draft.key.namespace));
        for name in free.into_iter().filter(|name| !named.contains(*name)) {
            // The Ingress that comes first has it.
            by_host.entry(name.clone()).or_insert_with(|| vec![Arc::clone(certificate)]);
        }
        let secret = &certificate.secret;
        let remedy = "Name hosts in tls; for all other names, the node's --default-certificate says which one they get";
        let (severity, reason, message) = match (taken.first(), own.is_empty()) {
            (_, true) => (
                Severity::Warning,
                IssueReason::CertificateMismatch,
                format!(
                    "names no host, and neither does the certificate of Secret {secret}, so nobody gets it. {remedy}."
                ),
            ),
            (Some(first), _) => {
                let more = match taken.len() - 1 {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                let message = format!(
                    "names no host, so the certificate of Secret {secret} is for its own names; {first}{more} among \
                     them is of Ingresses in other namespaces and left to them. {remedy}."
                );
                (Severity::Warning, IssueReason::Conflict, message)
            }
            (None, _) => (
                Severity::Note,
                IssueReason::Unsupported,
                format!(
                    "names no host, so the certificate of Secret {secret} is for its own names only. {remedy}."
                ),
            ),
        };
        issues.push(issue(severity, reason, "Ingress", &draft.key, format!("{}.hosts", tls.place), message));
    }
}

/// Which namespaces have rules or certificates for which hosts.
#[derive(Default)]
struct Owners<'a> {
    of: HashMap<HostPattern, BTreeSet<&'a str>>,
    /// By the wildcard that would cover the host.
    below: HashMap<HostPattern, BTreeSet<&'a str>>,
}

impl<'a> Owners<'a> {
    fn of(members: &[&'a Member], hosts: &Hosts<'_>) -> Self {
        let mut owners = Self::default();
        for draft in members.iter().map(|member| &member.draft) {
            // A rule that serves nothing takes no name from anybody.
            let served = draft.rules.hosts().filter(|host| {
                hosts(host).is_some_and(|rules| rules.all_routes().any(|route| route.ingress == draft.key))
            });
            for host in served.chain(draft.tls.iter().flat_map(|tls| &tls.hosts)) {
                owners.of.entry(host.clone()).or_default().insert(&draft.key.namespace);
                if let Some(wildcard) = wildcard_of(host) {
                    owners.below.entry(wildcard).or_default().insert(&draft.key.namespace);
                }
            }
        }
        owners
    }

    /// Whether another namespace has the name, the wildcard that covers it, or a host that it covers.
    fn has_other(&self, name: &HostPattern, namespace: &str) -> bool {
        let other = |owners: Option<&BTreeSet<&str>>| {
            owners.is_some_and(|owners| owners.iter().any(|owner| *owner != namespace))
        };
        let above = wildcard_of(name).and_then(|wildcard| self.of.get(&wildcard));
        other(self.of.get(name)) || other(above) || other(self.below.get(name))
    }
}
