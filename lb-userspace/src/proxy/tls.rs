//! TLS towards clients: which certificate a server name gets, and the `rustls` configuration.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use ahash::AHashMap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureAlgorithm};

use crate::model::{Certificate, HostPattern, TlsConfig};

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadCertificate {
    #[error("its private key is no PEM key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

/// Makes `rustls` configurations. What must outlive a change of certificates, so that clients can
/// resume their sessions, is kept here.
pub(super) struct TlsBuilder {
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    self_signed: Arc<CertifiedKey>,
    /// Keys parsed for the configuration before, by the certificate they come from.
    parsed: Mutex<Parsed>,
}

type Parsed = Vec<(Arc<Certificate>, Arc<CertifiedKey>)>;

impl TlsBuilder {
    /// Generates the self-signed certificate and the ticket keys.
    pub(super) fn new() -> io::Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let self_signed = self_signed(&provider).map_err(io::Error::other)?;
        Ok(Self {
            tickets: aws_lc_rs::Ticketer::new().map_err(io::Error::other)?,
            sessions: ServerSessionMemoryCache::new(4096),
            self_signed: Arc::new(self_signed),
            provider,
            parsed: Mutex::default(),
        })
    }

    /// The configuration for these certificates. One that can't be used is logged and left out:
    /// its names get the default certificate.
    pub(super) fn build(&self, tls: &TlsConfig) -> Arc<ServerConfig> {
        let mut parsed = self.parsed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let old: AHashMap<*const Certificate, Arc<CertifiedKey>> =
            parsed.iter().map(|(certificate, key)| (Arc::as_ptr(certificate), Arc::clone(key))).collect();
        let mut seen: AHashMap<*const Certificate, Arc<CertifiedKey>> = AHashMap::new();
        let mut new = Parsed::new();
        let mut key_of = |certificate: &Arc<Certificate>| {
            let id = Arc::as_ptr(certificate);
            if let Some(key) = seen.get(&id) {
                return Some(Arc::clone(key));
            }
            let key = match old.get(&id) {
                Some(key) => Arc::clone(key),
                None => match certified_key(&self.provider, certificate) {
                    Ok(key) => Arc::new(key),
                    Err(error) => {
                        tracing::error!(secret = %certificate.secret, %error, "certificate left out");
                        return None;
                    }
                },
            };
            seen.insert(id, Arc::clone(&key));
            new.push((Arc::clone(certificate), Arc::clone(&key)));
            Some(key)
        };

        let mut resolver = SniResolver {
            default: tls
                .default
                .as_ref()
                .and_then(&mut key_of)
                .unwrap_or_else(|| Arc::clone(&self.self_signed)),
            exact: AHashMap::new(),
            wildcard: AHashMap::new(),
        };
        for (pattern, certificates) in &tls.by_host {
            let mut keys: Vec<_> = certificates.iter().filter_map(&mut key_of).collect();
            // ECDSA signs an order of magnitude faster than RSA.
            keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
            match pattern {
                _ if keys.is_empty() => {}
                HostPattern::Exact(name) => drop(resolver.exact.insert(name.as_ref().into(), keys)),
                HostPattern::Wildcard(suffix) => drop(resolver.wildcard.insert(suffix.as_ref().into(), keys)),
                HostPattern::Any => resolver.default = Arc::clone(&keys[0]),
            }
        }
        *parsed = new;

        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::clone(&self.sessions);
        Arc::new(config)
    }
}

/// Exact name, then wildcard, then the default.
struct SniResolver {
    exact: AHashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    wildcard: AHashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    default: Arc<CertifiedKey>,
}

impl SniResolver {
    /// The certificates for a name that is lower case already, as `rustls` hands it out.
    fn find(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let exact = self.exact.get(name);
        let found = exact.or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = hello.server_name().and_then(|name| {
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                self.find(&name.to_ascii_lowercase())
            } else {
                self.find(name)
            }
        });
        let Some(keys) = keys else { return Some(Arc::clone(&self.default)) };
        let schemes = hello.signature_schemes();
        let fits = keys.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        fits.or(keys.first()).cloned()
    }
}

impl fmt::Debug for SniResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SniResolver")
            .field("exact", &self.exact.len())
            .field("wildcard", &self.wildcard.len())
            .finish_non_exhaustive()
    }
}

fn certified_key(
    provider: &CryptoProvider,
    certificate: &Certificate,
) -> Result<CertifiedKey, BadCertificate> {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::from_pem_slice(&certificate.key_pem)?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}

fn self_signed(provider: &CryptoProvider) -> Result<CertifiedKey, Box<dyn std::error::Error + Send + Sync>> {
    let generated = rcgen::generate_simple_self_signed(vec!["sluice.invalid".to_owned()])?;
    let chain = vec![generated.cert.der().clone()];
    let key = PrivateKeyDer::try_from(generated.signing_key.serialize_der())?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}
