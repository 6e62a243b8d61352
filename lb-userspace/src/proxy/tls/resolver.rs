//! Which certificate a ClientHello gets.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::names::ByName;
use super::server_name;

/// The certificates of the name, else the default one.
pub(super) struct SniResolver {
    /// At least one each, the one to prefer first.
    pub(super) named: ByName<Vec<Arc<CertifiedKey>>>,
    pub(super) default: Arc<CertifiedKey>,
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = server_name(&hello);
        let Some(keys) = self.named.find(name.as_deref()) else { return Some(Arc::clone(&self.default)) };
        let schemes = hello.signature_schemes();
        let fits = keys.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        fits.or(keys.first()).cloned()
    }
}

impl fmt::Debug for SniResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SniResolver").finish_non_exhaustive()
    }
}
