//! Authorities and what they sign.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sluice::model::{Certificate, ObjectKey};

/// An authority with the certificates between it and its root.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
    /// The nearest first, without the root.
    above: Vec<Vec<u8>>,
}

impl Authority {
    pub fn root(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().expect("a key"));
        let der = params.self_signed(&key).expect("a certificate").der().to_vec();
        Self { issuer: Issuer::new(params, key), der, above: Vec::new() }
    }

    /// An authority that this one vouches for.
    pub fn below(&self, name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().expect("a key"));
        let der = params.signed_by(&key, &self.issuer).expect("a certificate").der().to_vec();
        let above = [std::slice::from_ref(&der), &self.above].concat();
        Self { issuer: Issuer::new(params, key), der, above }
    }

    /// A certificate for `name`, with what stands between it and the root.
    pub fn sign(&self, name: &str) -> Arc<Certificate> {
        self.sign_with(name, |_| ())
    }

    pub fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Arc<Certificate> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        Arc::new(Certificate {
            secret: ObjectKey::new("test", name),
            names: vec![name.to_owned()],
            not_before: 0,
            not_after: i64::MAX,
            chain: [&[made.der().to_vec()], &self.above[..]].concat(),
            key_pem: key.serialize_pem().into_bytes().into(),
        })
    }

    /// A revocation list with these serial numbers.
    pub fn revoke(&self, serials: &[u64]) -> Vec<u8> {
        let now = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = serials
            .iter()
            .map(|serial| rcgen::RevokedCertParams {
                serial_number: (*serial).into(),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let list = rcgen::CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(2100, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").der().to_vec()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Chain and key as rustls takes them.
pub fn parts(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    (chain, PrivateKeyDer::from_pem_slice(&certificate.key_pem).expect("a key"))
}

/// The common name of a certificate.
pub fn common_name(der: &[u8]) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    let name = certificate.subject().iter_common_name().next().expect("a name");
    name.as_str().expect("text").to_owned()
}
