//! Which server name gets which certificate.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::connections;
use super::member::Member;
use super::nameless::{self, Nameless};
use super::report::issue;
use super::secrets::Certificates;
use super::standin::{Hosts, StandIns};
use crate::model::{
    Certificate, ClientAuth, HostPattern, Issue, IssueReason, ObjectKey, Severity, TlsConfig, WorkerPool,
};

/// The hosts that Ingresses have TLS for, with how many entries name each.
#[derive(Default)]
pub(super) struct TlsHosts(HashMap<HostPattern, usize>);

impl TlsHosts {
    /// Whether some Ingress has TLS for the host, or for a wildcard that covers it.
    pub(super) fn covers(&self, host: &HostPattern) -> bool {
        self.0.contains_key(host) || wildcard_of(host).is_some_and(|wildcard| self.0.contains_key(&wildcard))
    }

    /// One more entry; whether it is the first.
    pub(super) fn add(&mut self, host: &HostPattern) -> bool {
        let count = self.0.entry(host.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// One entry less; whether it was the last.
    pub(super) fn remove(&mut self, host: &HostPattern) -> bool {
        let Some(count) = self.0.get_mut(host) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.0.remove(host);
        true
    }
}

/// So many Ingresses are told as a warning, which becomes an Event, that one Secret can't be used; the
/// others as a note. The Secret has an issue of its own that says why.
const MOST_TOLD: usize = 10;

/// The certificates of `members`, which come in the order of their rank: the first to bring one
/// for a host has it, unless the next is of another key type, which clients may prefer. `hosts` and
/// `stand_ins` are what they serve.
pub(super) fn config(
    members: &[&Member],
    hosts: &Hosts<'_>,
    stand_ins: &StandIns,
    default: Option<&ObjectKey>,
    certificates: &mut Certificates<'_>,
    node_pools: Option<&[WorkerPool]>,
    issues: &mut Vec<Issue>,
) -> TlsConfig {
    let default = default.and_then(|key| {
        if !certificates.exists(key) {
            let message =
                "the Secret of the default certificate does not exist; a self-signed one is used. Create it.";
            let (severity, reason) = (Severity::Error, IssueReason::SecretNotFound);
            issues.push(issue(severity, reason, "Secret", key, "", message));
        }
        certificates.get(key, issues)
    });
    let mut by_host: BTreeMap<HostPattern, Vec<Arc<Certificate>>> = BTreeMap::new();
    let mut names: HashMap<ObjectKey, HashSet<HostPattern>> = HashMap::new();
    let mut told: HashMap<&ObjectKey, usize> = HashMap::new();
    let mut without_hosts = Vec::new();
    for draft in members.iter().map(|member| &member.draft) {
        for tls in &draft.tls {
            // Without a Secret the hosts have the default certificate.
            let Some(secret) = &tls.secret else { continue };
            let mut say = |severity, reason, field: &str, message: String| {
                let field = format!("{}{field}", tls.place);
                issues.push(issue(severity, reason, "Ingress", &draft.key, field, message));
            };
            if !certificates.exists(secret) {
                say(
                    Severity::Error,
                    IssueReason::SecretNotFound,
                    ".secretName",
                    format!(
                        "Secret {secret} does not exist; its hosts get the default certificate. Create it."
                    ),
                );
                continue;
            }
            let mut found = Vec::new();
            let certificate = certificates.get(secret, &mut found);
            if certificate.is_none() || found.iter().any(|issue| issue.severity == Severity::Error) {
                let told = told.entry(secret).or_default();
                *told += 1;
                say(
                    if *told > MOST_TOLD { Severity::Note } else { Severity::Warning },
                    IssueReason::InvalidCertificate,
                    ".secretName",
                    format!(
                        "Secret {secret} can't be used as it is. Correct it; its own issue says what is wrong."
                    ),
                );
            }
            let Some(certificate) = certificate else {
                issues.append(&mut found);
                continue;
            };
            let names = names.entry(secret.clone()).or_insert_with(|| names_of(&certificate));
            for host in &tls.hosts {
                if *host == HostPattern::Any {
                    without_hosts.push(Nameless { draft, tls, certificate: certificate.clone() });
                    continue;
                }
                if !covers(names, host) {
                    say(
                        Severity::Warning,
                        IssueReason::CertificateMismatch,
                        ".hosts",
                        format!(
                            "the certificate of Secret {secret} does not cover {host}; it is still served. \
                             Use a certificate with that name."
                        ),
                    );
                }
                let have = by_host.entry(host.clone()).or_default();
                if have.iter().any(|other| other.secret == certificate.secret) {
                    continue;
                }
                // One of another key type would be all that some clients see of the host.
                let foreign =
                    |other: &&Arc<Certificate>| other.secret.namespace != certificate.secret.namespace;
                let rival =
                    |other: &&Arc<Certificate>| foreign(other) || key_type(other) == key_type(&certificate);
                if let Some(other) = have.iter().find(rival) {
                    let what = match foreign(&other) {
                        true => "is another namespace's",
                        false => "is of the same key type",
                    };
                    say(
                        Severity::Warning,
                        IssueReason::Conflict,
                        ".hosts",
                        format!(
                            "{host} has the certificate of Secret {} already, which came first and {what}; use one \
                             Secret for the host.",
                            other.secret
                        ),
                    );
                    continue;
                }
                have.push(certificate.clone());
            }
            issues.append(&mut found);
        }
    }
    for (host, stand_in) in &stand_ins.hosts {
        add_stand_in(host, &stand_in.source, stand_in.alias, &mut by_host, &names);
    }
    nameless::add(&without_hosts, members, hosts, &names, &mut by_host, issues);
    TlsConfig {
        by_host: by_host.into_iter().collect(),
        default,
        client_auth: client_auth(members, stand_ins),
        passthrough: connections::passthrough(members, hosts, stand_ins, issues),
        pools: connections::pools(members, stand_ins, node_pools, issues),
    }
}

/// A host that stands in for another has the other's certificate: an alias in any case, as in
/// ingress-nginx, a redirect if the certificate covers it.
fn add_stand_in(
    host: &HostPattern,
    source: &HostPattern,
    alias: bool,
    by_host: &mut BTreeMap<HostPattern, Vec<Arc<Certificate>>>,
    names: &HashMap<ObjectKey, HashSet<HostPattern>>,
) {
    if by_host.contains_key(host) {
        return;
    }
    let of_source = || by_host.get(source).or_else(|| by_host.get(&wildcard_of(source)?));
    let Some(certificates) = of_source().cloned() else { return };
    let covering = |certificate: &&Arc<Certificate>| {
        names.get(&certificate.secret).is_some_and(|names| covers(names, host))
    };
    let mut chosen: Vec<_> = certificates.iter().filter(covering).cloned().collect();
    if chosen.is_empty() && alias && wildcard_of(host).is_none_or(|wildcard| !by_host.contains_key(&wildcard))
    {
        chosen = certificates;
    }
    if !chosen.is_empty() {
        by_host.insert(host.clone(), chosen);
    }
}

/// Which names' clients are asked for certificates: the first Ingress with the host decides. The
/// routes of others that want something else are closed.
fn client_auth(members: &[&Member], stand_ins: &StandIns) -> Vec<(HostPattern, Arc<ClientAuth>)> {
    let mut found = BTreeMap::new();
    for member in members {
        let Some(asked) = &member.refers.client_auth else { continue };
        for host in member.draft.rules.hosts() {
            found.entry(host.clone()).or_insert_with(|| Arc::clone(asked));
        }
    }
    let aliases = stand_ins.hosts.iter().filter(|(_, stand_in)| stand_in.alias);
    let aliases: Vec<_> = aliases
        .filter_map(|(host, stand_in)| Some((host.clone(), found.get(&stand_in.source)?.clone())))
        .collect();
    found.extend(aliases);
    found.into_iter().collect()
}

/// The wildcard that covers a name.
pub(super) fn wildcard_of(host: &HostPattern) -> Option<HostPattern> {
    match host {
        HostPattern::Exact(name) => {
            name.split_once('.').map(|(_, suffix)| HostPattern::Wildcard(suffix.into()))
        }
        _ => None,
    }
}

/// A certificate may have thousands of names and thousands of hosts; read once, each host costs
/// two lookups.
fn names_of(certificate: &Certificate) -> HashSet<HostPattern> {
    let names = certificate.names.iter().filter_map(|name| HostPattern::parse(name).ok());
    names.filter(|name| *name != HostPattern::Any).collect()
}

fn covers(names: &HashSet<HostPattern>, host: &HostPattern) -> bool {
    names.contains(host) || wildcard_of(host).is_some_and(|wildcard| names.contains(&wildcard))
}

/// The algorithm of the leaf's key. Read again where it is needed, which is only where two
/// certificates meet on one host.
fn key_type(certificate: &Certificate) -> Option<String> {
    let leaf = certificate.chain.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(parsed.public_key().algorithm.algorithm.to_id_string())
}
