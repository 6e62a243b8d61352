//! What a connection to an endpoint is made of, and with what keys.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::verify::EndpointVerifier;
use crate::model::{Certificate, UpstreamTls};
use crate::proxy::tls::Authorities;

/// How an endpoint is connected to. Requests share a connection only if theirs are the same: the
/// certificate that one route shows must not speak for another's requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Transport {
    Plain,
    Tls(Rc<TlsTransport>),
    /// With a PROXY header before it, which is one client's.
    Proxied(Rc<(Bytes, Transport)>),
}

impl Transport {
    /// The same with a PROXY header before it.
    pub(in crate::proxy) fn behind(self, header: Bytes) -> Self {
        Self::Proxied(Rc::new((header, self)))
    }

    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(_) => true,
            Self::Proxied(inner) => inner.1.is_tls(),
        }
    }
}

/// TLS with certain rules, under a certain name.
#[derive(Clone)]
pub(in crate::proxy) struct TlsTransport {
    id: u64,
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

/// What is offered in ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Alpn {
    Http1,
    Http2,
}

/// One worker's TLS configurations for endpoints, made when they are first needed. Not shared with
/// other workers: each connection writes what it learned about sessions into its configuration.
pub(in crate::proxy) struct Transports {
    provider: Arc<CryptoProvider>,
    known: RefCell<AHashMap<(*const UpstreamTls, Alpn), Known>>,
    next: Cell<u64>,
}

struct Known {
    id: u64,
    /// Held so that its address stays its own; `None`: nothing is checked and nothing shown.
    rules: Option<Arc<UpstreamTls>>,
    config: Arc<ClientConfig>,
}

impl Transports {
    pub(in crate::proxy) fn new() -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Self { provider, known: RefCell::default(), next: Cell::default() }
    }

    /// TLS by these rules, for a request for `host`.
    pub(in crate::proxy) fn tls(
        &self,
        rules: Option<&Arc<UpstreamTls>>,
        alpn: Alpn,
        host: &str,
    ) -> Transport {
        let key = (rules.map_or(std::ptr::null(), Arc::as_ptr), alpn);
        let mut known = self.known.borrow_mut();
        let known = known.entry(key).or_insert_with(|| {
            let id = self.next.replace(self.next.get() + 1);
            let config = Arc::new(client_config(&self.provider, rules.map(|rules| &**rules), alpn));
            Known { id, rules: rules.cloned(), config }
        });
        let (id, config) = (known.id, Arc::clone(&known.config));
        Transport::Tls(Rc::new(TlsTransport { id, config, name: name_of(rules.map(|rules| &**rules), host) }))
    }

    /// TLS that checks nothing but names the server, for those that no rules are known of.
    pub(in crate::proxy) fn unverified(&self) -> Arc<ClientConfig> {
        let mut config = client_config(&self.provider, None, Alpn::Http1);
        config.enable_sni = true;
        Arc::new(config)
    }

    /// Forgets the rules that no route has any more.
    pub(in crate::proxy) fn sweep(&self) {
        self.known.borrow_mut().retain(|_, known| match &known.rules {
            Some(rules) => Arc::strong_count(rules) > 1,
            None => true,
        });
    }
}

/// The name that is verified and sent. Where neither is done it is always the same, so that
/// connections are shared.
fn name_of(rules: Option<&UpstreamTls>, host: &str) -> ServerName<'static> {
    let host = || match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = |name: &str| name.trim_start_matches('[').trim_end_matches([']', '.']).to_owned();
    rules
        .filter(|rules| rules.verify || rules.send_name)
        .map(|rules| bare(rules.name.as_deref().unwrap_or_else(host)))
        .and_then(|name| ServerName::try_from(name).ok())
        .unwrap_or_else(|| ServerName::try_from("endpoint.invalid").expect("a DNS name"))
}

fn client_config(provider: &Arc<CryptoProvider>, rules: Option<&UpstreamTls>, alpn: Alpn) -> ClientConfig {
    let authorities = rules.filter(|rules| rules.verify).map(|rules| {
        Authorities::new(&rules.roots, &[], rules.depth).unwrap_or_else(|error| {
            tracing::error!(%error, "no endpoint's certificate is accepted: an authority can't be used");
            Authorities::nobody()
        })
    });
    let verifier = EndpointVerifier::new(authorities, provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let shown = rules.and_then(|rules| rules.certificate.as_deref());
    let mut config = match shown.map(|certificate| (certificate, key_of(certificate))) {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
            let with_key = key.map_err(|error| error.to_string()).and_then(|key| {
                builder.clone().with_client_auth_cert(chain, key).map_err(|error| error.to_string())
            });
            with_key.unwrap_or_else(|error| {
                tracing::error!(secret = %certificate.secret, error, "not shown to endpoints");
                builder.with_no_client_auth()
            })
        }
    };
    config.enable_sni = rules.is_some_and(|rules| rules.send_name);
    config.alpn_protocols = match alpn {
        Alpn::Http1 => vec![b"http/1.1".to_vec()],
        Alpn::Http2 => vec![b"h2".to_vec()],
    };
    config
}

fn key_of(certificate: &Certificate) -> Result<PrivateKeyDer<'static>, rustls::pki_types::pem::Error> {
    PrivateKeyDer::from_pem_slice(&certificate.key_pem)
}

impl PartialEq for TlsTransport {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.name == other.name
    }
}

impl Eq for TlsTransport {}

impl Hash for TlsTransport {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        self.name.hash(state);
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(verify: bool, send_name: bool, name: Option<&str>) -> Arc<UpstreamTls> {
        let name = name.map(Into::into);
        Arc::new(UpstreamTls { verify, roots: vec![], depth: 1, name, send_name, certificate: None })
    }

    #[test]
    fn which_requests_share_connections() {
        let transports = Transports::new();
        let (blind, checked, named) =
            (rules(false, false, None), rules(true, false, None), rules(false, true, Some("x.test")));
        for (one, other, same) in [
            ((None, Alpn::Http1, "a.test"), (None, Alpn::Http1, "b.test"), true),
            ((None, Alpn::Http1, "a.test"), (None, Alpn::Http2, "a.test"), false),
            ((Some(&blind), Alpn::Http1, "a.test"), (Some(&blind), Alpn::Http1, "b.test"), true),
            ((Some(&blind), Alpn::Http1, "a.test"), (None, Alpn::Http1, "a.test"), false),
            ((Some(&checked), Alpn::Http1, "a.test"), (Some(&checked), Alpn::Http1, "b.test"), false),
            ((Some(&checked), Alpn::Http1, "a.test"), (Some(&checked), Alpn::Http1, "a.test:8443"), true),
            ((Some(&named), Alpn::Http1, "a.test"), (Some(&named), Alpn::Http1, "b.test"), true),
            ((Some(&checked), Alpn::Http1, "[::1]:1"), (Some(&checked), Alpn::Http1, "[::1]"), true),
        ] {
            let make = |(rules, alpn, host)| transports.tls(rules, alpn, host);
            assert_eq!(make(one) == make(other), same, "{:?} {:?}", make(one), make(other));
        }
        assert_eq!(transports.known.borrow().len(), 5);
        drop(checked);
        transports.sweep();
        assert_eq!(transports.known.borrow().len(), 4, "rules that nobody has are forgotten");
    }
}
