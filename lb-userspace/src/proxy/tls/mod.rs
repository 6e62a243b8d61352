//! TLS towards clients: which certificate a server name gets, and the `rustls` configuration.

mod chain;
mod client_auth;
mod names;
mod resolver;
mod tickets;

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex};

use ahash::AHashMap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache,
    StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use rustls::{ConfigBuilder, ServerConfig, SignatureAlgorithm, WantsVerifier};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

pub(super) use chain::{Authorities, Unverified};
pub(super) use client_auth::{CertificateRefusal, ClientTls};

use crate::model::{Certificate, ClientAuth, Passthrough, TlsConfig};
use client_auth::Authority;
pub(super) use names::ByName;
use resolver::SniResolver;
pub(super) use tickets::ROTATION;
use tickets::Tickets;

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
    tickets: Arc<Tickets>,
    sessions: Arc<dyn StoresServerSessions>,
    self_signed: Arc<CertifiedKey>,
    parsed: Mutex<Parsed>,
}

/// What was parsed for the configuration before.
#[derive(Default)]
struct Parsed {
    /// Keys, by the certificate they come from.
    keys: Vec<(Arc<Certificate>, Arc<CertifiedKey>)>,
    authorities: Vec<Arc<Authority>>,
}

impl TlsBuilder {
    /// Generates the self-signed certificate and the ticket keys.
    pub(super) fn new() -> io::Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let self_signed = self_signed(&provider).map_err(io::Error::other)?;
        Ok(Self {
            tickets: Arc::new(Tickets::new().map_err(io::Error::other)?),
            sessions: ServerSessionMemoryCache::new(4096),
            self_signed: Arc::new(self_signed),
            provider,
            parsed: Mutex::default(),
        })
    }

    /// Changes the key of session tickets; see [`Tickets::rotate`].
    pub(super) fn rotate_tickets(&self) -> Result<(), rustls::Error> {
        self.tickets.rotate()
    }

    /// The configuration for these certificates. One that can't be used is logged and left out:
    /// its names get the default certificate.
    pub(super) fn build(&self, tls: &TlsConfig) -> Arc<Termination> {
        let mut parsed = self.parsed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let old: AHashMap<*const Certificate, Arc<CertifiedKey>> = parsed
            .keys
            .iter()
            .map(|(certificate, key)| (Arc::as_ptr(certificate), Arc::clone(key)))
            .collect();
        let mut seen: AHashMap<*const Certificate, Arc<CertifiedKey>> = AHashMap::new();
        let mut new = Vec::new();
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

        let default = tls.default.as_ref().and_then(&mut key_of);
        let named = tls.by_host.iter().filter_map(|(pattern, certificates)| {
            let mut keys: Vec<_> = certificates.iter().filter_map(&mut key_of).collect();
            // ECDSA signs an order of magnitude faster than RSA.
            keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
            (!keys.is_empty()).then(|| (pattern.clone(), keys))
        });
        let named = named.collect();
        let default = default.unwrap_or_else(|| Arc::clone(&self.self_signed));
        let resolver = Arc::new(SniResolver { named, default });

        let old: AHashMap<*const ClientAuth, Arc<Authority>> =
            parsed.authorities.iter().map(|one| (Arc::as_ptr(&one.rules), Arc::clone(one))).collect();
        let mut asking: AHashMap<*const ClientAuth, Asking> = AHashMap::new();
        let by_name = tls.client_auth.iter().map(|(pattern, rules)| {
            let id = Arc::as_ptr(rules);
            let one = asking.entry(id).or_insert_with(|| {
                let known = old.get(&id).cloned();
                let authority = known.unwrap_or_else(|| Arc::new(Authority::new(rules, &self.provider)));
                let config = self.asking_config(Arc::clone(&resolver), Arc::clone(&authority));
                Asking { authority, config }
            });
            (pattern.clone(), one.clone())
        });
        let by_name = by_name.collect();
        parsed.keys = new;
        parsed.authorities = asking.into_values().map(|one| one.authority).collect();
        Arc::new(Termination {
            config: self.open_config(resolver),
            asking: by_name,
            passthrough: tls.passthrough.iter().cloned().collect(),
            pools: tls.pools.iter().cloned().collect(),
        })
    }

    /// For names whose clients are not asked for a certificate.
    fn open_config(&self, resolver: Arc<SniResolver>) -> Arc<ServerConfig> {
        let mut config = self.versions().with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = alpn();
        config.ticketer = Arc::clone(&self.tickets) as Arc<dyn ProducesTickets>;
        config.session_storage = Arc::clone(&self.sessions);
        Arc::new(config)
    }

    /// For names whose clients are asked. Sessions can't be resumed: a resumed one would bring the
    /// certificate of a handshake that followed other rules, maybe another name's.
    fn asking_config(&self, resolver: Arc<SniResolver>, authority: Arc<Authority>) -> Arc<ServerConfig> {
        let mut config = self.versions().with_client_cert_verifier(authority).with_cert_resolver(resolver);
        config.alpn_protocols = alpn();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    fn versions(&self) -> ConfigBuilder<ServerConfig, WantsVerifier> {
        ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
    }
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

/// What happens to TLS connections of clients: by the server name of the ClientHello.
#[derive(Debug)]
pub(super) struct Termination {
    /// For names that are not in `asking`.
    config: Arc<ServerConfig>,
    asking: ByName<Asking>,
    passthrough: ByName<Option<Passthrough>>,
    /// Pools of workers.
    pools: ByName<Option<Arc<str>>>,
}

/// For names whose clients are asked for a certificate.
#[derive(Clone, Debug)]
struct Asking {
    authority: Arc<Authority>,
    config: Arc<ServerConfig>,
}

impl Termination {
    /// The handshake with a client.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, ClientTls)> {
        let (stream, authority) = if self.asking.is_empty() {
            (TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await?, None)
        } else {
            let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let name = server_name(&start.client_hello()).map(Cow::into_owned);
            let asking = self.asking.find(name.as_deref());
            let config = asking.map_or(&self.config, |one| &one.config);
            (start.into_stream(Arc::clone(config)).await?, asking.map(|one| &*one.authority))
        };
        let connection = stream.get_ref().1;
        let name = connection.server_name().map(|name| canonical(name).into());
        let chain = authority.and(connection.peer_certificates()).unwrap_or_default().to_vec();
        let client = ClientTls::new(name, chain, authority);
        Ok((stream, client))
    }

    /// Whether a request for `host` (lower case, without port and trailing dot) may not come over
    /// this client's connection, because a certificate is asked for by other rules there: 421.
    pub(super) fn is_misdirected(&self, client: &ClientTls, host: Option<&str>) -> bool {
        client.is_misdirected(host, self.asking.find(host).map(|one| &*one.authority))
    }

    /// Whether there are names whose connections go on as they are.
    pub(super) fn has_passthrough(&self) -> bool {
        !self.passthrough.is_empty()
    }

    /// The pool of workers that the connections for a name belong to.
    pub(super) fn pool(&self, name: &str) -> Option<&Arc<str>> {
        self.pools.find(Some(&canonical(name)))?.as_ref()
    }

    /// Where the connections for a name go as they are.
    pub(super) fn passthrough(&self, name: &str) -> Option<&Passthrough> {
        self.passthrough.find(Some(&canonical(name)))?.as_ref()
    }
}

/// The name that a client asks for, as names are compared.
fn server_name<'a>(hello: &'a ClientHello<'a>) -> Option<Cow<'a, str>> {
    hello.server_name().map(canonical)
}

/// Lower case, without trailing dot.
pub(super) fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => name.to_ascii_lowercase().into(),
        false => name.into(),
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
