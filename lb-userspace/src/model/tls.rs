//! Certificates and which server name gets which.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{ClusterKey, HostPattern, ObjectKey, ProxyVersion};

/// A certificate chain with its key, checked: the key fits the leaf, the chain parses.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Certificate {
    /// The Secret it comes from.
    pub secret: ObjectKey,
    /// DNS names of the leaf (subjectAltName).
    pub names: Vec<String>,
    /// Start of validity, seconds since 1970.
    pub not_before: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
    /// DER, leaf first.
    #[serde(skip)]
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8, PKCS#1 or SEC1 in PEM. Never printed, never serialised.
    #[serde(skip)]
    pub key_pem: Arc<[u8]>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("secret", &self.secret)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Which server name gets which certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsConfig {
    /// Sorted by pattern; several certificates of one name differ in key type.
    pub by_host: Vec<(HostPattern, Vec<Arc<Certificate>>)>,
    /// For names without one, and for clients that send none. `None`: the proxy makes a
    /// self-signed one at start.
    pub default: Option<Arc<Certificate>>,
    /// Names whose clients are asked for a certificate. Sorted by pattern.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_auth: Vec<(HostPattern, Arc<ClientAuth>)>,
    /// Names whose connections go to a cluster as they are, TLS and all. `None`: they don't, though a
    /// wildcard's do that covers the name. Sorted by pattern.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passthrough: Vec<(HostPattern, Option<Passthrough>)>,
    /// Names whose connections belong to a named pool of workers, and which. `None`: to none, though a
    /// wildcard's do that covers the name. Sorted by pattern.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<(HostPattern, Option<Arc<str>>)>,
}

impl TlsConfig {
    /// The pool of workers that the connections of a host (as it is written) belong to.
    pub fn pool(&self, host: &HostPattern) -> Option<&Arc<str>> {
        let at = self.pools.binary_search_by(|(known, _)| known.cmp(host)).ok()?;
        self.pools[at].1.as_ref()
    }

    /// Whether the connections of a host (as it is written) go to its endpoints as they are.
    pub fn passes(&self, host: &HostPattern) -> bool {
        let at = self.passthrough.binary_search_by(|(known, _)| known.cmp(host));
        at.is_ok_and(|at| self.passthrough[at].1.is_some())
    }

    /// The pool of workers that connections with this server name belong to.
    pub fn pool_of(&self, name: &str) -> Option<&Arc<str>> {
        most_specific(&self.pools, name)
    }

    /// Where connections with this server name go as they are.
    pub fn passthrough_of(&self, name: &str) -> Option<&Passthrough> {
        most_specific(&self.passthrough, name)
    }
}

/// What is said for the most specific pattern that covers a name.
fn most_specific<'a, T>(entries: &'a [(HostPattern, Option<T>)], name: &str) -> Option<&'a T> {
    let covering = entries.iter().filter(|(pattern, _)| pattern.matches(name));
    covering.min_by(|a, b| a.0.cmp(&b.0))?.1.as_ref()
}

/// Where connections go that nobody looks into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passthrough {
    /// The cluster.
    pub cluster: Arc<ClusterKey>,
    /// What endpoints are told about the client before its first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
}

/// What is asked of a client's certificate in the handshake. What a request without a good one
/// gets is [`super::ClientCertificate`]'s.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ClientAuth {
    /// The Secret that the authorities come from.
    pub secret: ObjectKey,
    /// DER of the authorities (`ca.crt`).
    #[serde(skip)]
    pub roots: Vec<Vec<u8>>,
    /// DER of revocation lists (`ca.crl`).
    #[serde(skip)]
    pub revocations: Vec<Vec<u8>>,
    /// How many certificates there may be between a client's and an authority's.
    pub depth: u32,
    /// Certificates of other authorities are taken too (`optional_no_ca`): the endpoint decides.
    pub any_authority: bool,
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("secret", &self.secret).finish_non_exhaustive()
    }
}
