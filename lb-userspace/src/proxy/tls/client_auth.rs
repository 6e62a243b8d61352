//! Certificates of clients: asked for in the handshake, judged after it.
//!
//! A handshake never fails for want of a good certificate: the client would only see an alert. The
//! request gets an answer that says what is wrong, as from nginx. What the handshake does prove is
//! that the client has the certificate's key.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::chain::{Authorities, Unverified};
use crate::model::ClientAuth;

/// What is known of a client from its TLS handshake.
#[derive(Debug)]
pub(in crate::proxy) struct ClientTls {
    /// The name that the client asked for: lower case, without trailing dot.
    pub(in crate::proxy) server_name: Option<Box<str>>,
    /// The client's chain, its own certificate first. Empty: none was asked for, or none sent.
    chain: Vec<CertificateDer<'static>>,
    judged: RefCell<Judged>,
}

/// A judgement, and by whose rules.
#[derive(Debug)]
struct Judged {
    /// `None`: no certificate was asked for.
    rules: Option<Arc<ClientAuth>>,
    outcome: Result<(), Unverified>,
}

/// Why a request is refused for its client's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum CertificateRefusal {
    /// One is required and none came.
    #[error("No required SSL certificate was sent")]
    Missing,
    /// One came and does not count.
    #[error("The SSL certificate error")]
    Bad(Unverified),
}

impl ClientTls {
    pub(super) fn new(
        server_name: Option<Box<str>>,
        chain: Vec<CertificateDer<'static>>,
        authority: Option<&Authority>,
    ) -> Self {
        let judged = match authority {
            None => Judged { rules: None, outcome: Err(Unverified::Missing) },
            Some(authority) => authority.judge(&chain),
        };
        Self { server_name, chain, judged: RefCell::new(judged) }
    }

    /// The client's certificate, DER.
    pub(in crate::proxy) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Why a request of this client is refused; `None` lets it in. A bad certificate is refused even
    /// where none is required, but `any_authority` takes those of authorities that nobody knows.
    pub(in crate::proxy) fn refusal(&self, required: bool) -> Option<CertificateRefusal> {
        let judged = self.judged.borrow();
        match &judged.outcome {
            Ok(()) => None,
            Err(Unverified::Missing) => required.then_some(CertificateRefusal::Missing),
            Err(Unverified::UnknownAuthority)
                if judged.rules.as_ref().is_some_and(|rules| rules.any_authority) =>
            {
                None
            }
            Err(why) => Some(CertificateRefusal::Bad(why.clone())),
        }
    }

    /// `SUCCESS`, `FAILED:reason` or `NONE`, as nginx's `$ssl_client_verify`.
    pub(in crate::proxy) fn verdict(&self) -> Cow<'static, str> {
        match &self.judged.borrow().outcome {
            Ok(()) => "SUCCESS".into(),
            Err(Unverified::Missing) => "NONE".into(),
            Err(why) => format!("FAILED:{why}").into(),
        }
    }

    /// Whether a request for `host`, whose clients are asked by `authority` now, must come over
    /// another connection: one that asked for a certificate by that host's rules, under its name.
    ///
    /// Where only the rules' contents changed since the handshake, the certificate is judged anew.
    pub(super) fn is_misdirected(&self, host: Option<&str>, authority: Option<&Authority>) -> bool {
        let mut judged = self.judged.borrow_mut();
        match (&judged.rules, authority) {
            (None, None) => false,
            (Some(old), Some(new)) if self.server_name.as_deref() == host => {
                if *old != new.rules {
                    *judged = new.judge(&self.chain);
                }
                false
            }
            _ => true,
        }
    }
}

/// A host's rules for certificates of clients, ready to be applied.
pub(super) struct Authority {
    pub(super) rules: Arc<ClientAuth>,
    authorities: Authorities,
    algorithms: WebPkiSupportedAlgorithms,
    names: Vec<DistinguishedName>,
}

impl Authority {
    /// Reads the authorities. Where one can't be read, no certificate counts: less would be open
    /// than was meant.
    pub(super) fn new(rules: &Arc<ClientAuth>, provider: &CryptoProvider) -> Self {
        let authorities = Authorities::new(&rules.roots, &rules.revocations, rules.depth);
        let authorities = authorities.unwrap_or_else(|error| {
            tracing::error!(secret = %rules.secret, %error, "no client certificate is accepted: \
                an authority or revocation list can't be used");
            Authorities::nobody()
        });
        // Browsers offer only certificates of the authorities they are told; told of none, any.
        let names = if rules.any_authority { Vec::new() } else { authorities.names().collect() };
        let algorithms = provider.signature_verification_algorithms;
        Self { rules: Arc::clone(rules), authorities, algorithms, names }
    }

    fn judge(&self, chain: &[CertificateDer<'_>]) -> Judged {
        let outcome = match chain.split_first() {
            None => Err(Unverified::Missing),
            Some((leaf, others)) => {
                EndEntityCert::try_from(leaf).map_err(Unverified::Other).and_then(|leaf| {
                    let usage = KeyUsage::client_auth();
                    self.authorities.verify(&leaf, others, usage, &self.algorithms, UnixTime::now())
                })
            }
        };
        Judged { rules: Some(Arc::clone(&self.rules)), outcome }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Asks for a certificate and takes any, or none.
impl ClientCertVerifier for Authority {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
