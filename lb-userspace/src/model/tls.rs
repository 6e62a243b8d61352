//! Certificates and which server name gets which.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{HostPattern, ObjectKey};

/// A certificate chain with its key, checked: the key fits the leaf, the chain parses.
#[derive(Clone, PartialEq, Eq, Serialize)]
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
}
