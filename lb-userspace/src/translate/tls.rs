//! Which server name gets which certificate.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::ingress::Draft;
use super::report::issue;
use super::secrets::Certificates;
use crate::model::{Certificate, HostPattern, Issue, IssueReason, ObjectKey, Severity, TlsConfig};

/// The certificates of `ingresses`, which come in the order of their rank: the first to bring one
/// for a host has it, unless the next is of another key type, which clients may prefer.
pub(super) fn config(
    ingresses: &[Draft],
    default: Option<&ObjectKey>,
    certificates: &mut Certificates<'_>,
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
    for draft in ingresses {
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
            let Some(certificate) = certificates.get(secret, &mut found) else {
                issues.append(&mut found);
                continue;
            };
            let names = names.entry(secret.clone()).or_insert_with(|| names_of(&certificate));
            for host in &tls.hosts {
                if *host != HostPattern::Any && !covers(names, host) {
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
                if let Some(other) = have.iter().find(|other| key_type(other) == key_type(&certificate)) {
                    say(
                        Severity::Warning,
                        IssueReason::Conflict,
                        ".hosts",
                        format!(
                            "{host} has the certificate of Secret {} already, which came first and is of the same key type; \
                             use one Secret for the host.",
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
    // Without a name there is nothing to look up: such an entry is what clients get by default.
    let nameless = by_host.remove(&HostPattern::Any).and_then(|certificates| certificates.into_iter().next());
    TlsConfig {
        by_host: by_host.into_iter().collect(),
        default: default.or(nameless),
        ..TlsConfig::default()
    }
}

/// A certificate may have thousands of names and thousands of hosts; read once, each host costs
/// two lookups.
fn names_of(certificate: &Certificate) -> HashSet<HostPattern> {
    let names = certificate.names.iter().filter_map(|name| HostPattern::parse(name).ok());
    names.filter(|name| *name != HostPattern::Any).collect()
}

fn covers(names: &HashSet<HostPattern>, host: &HostPattern) -> bool {
    names.contains(host)
        || match host {
            HostPattern::Exact(name) => name
                .split_once('.')
                .is_some_and(|(_, suffix)| names.contains(&HostPattern::Wildcard(suffix.into()))),
            _ => false,
        }
}

/// The algorithm of the leaf's key. Read again where it is needed, which is only where two
/// certificates meet on one host.
fn key_type(certificate: &Certificate) -> Option<String> {
    let leaf = certificate.chain.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(parsed.public_key().algorithm.algorithm.to_id_string())
}
