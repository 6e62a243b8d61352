//! A certificate authority of the laboratory's own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};

use super::Result;

/// An authority that clients of [`Authority::client`] trust.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The chain: the certificate alone, since the authority is the root.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

impl Authority {
    /// A new authority with a new key.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "laboratory authority");
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// A certificate for `names`; wildcards are names too.
    pub fn issue(&self, names: &[&str]) -> Result<Issued> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone())?;
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("laboratory", |n| n));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A client that trusts this authority alone and offers the protocols `alpn`.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.client_with(rustls::crypto::aws_lc_rs::default_provider(), alpn)
    }

    /// The same with this cryptography: key exchanges in the order that the client prefers.
    pub fn client_with(&self, provider: CryptoProvider, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority's certificate, just made");
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder =
            builder.with_safe_default_protocol_versions().expect("the provider has TLS 1.2 and 1.3");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
