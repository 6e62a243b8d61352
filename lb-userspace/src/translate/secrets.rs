//! Secrets: certificates and authorities, read and checked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

use super::report::issue;
use crate::model::{Certificate, Issue, IssueReason, ObjectKey, Severity, TlsConfig};
use crate::objects::{Objects, excerpt};

static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(aws_lc_rs::default_provider);

/// The certificates that were asked for, each read once, with those of the previous snapshot to
/// save the work for Secrets that did not change.
pub(super) struct Certificates<'a> {
    objects: &'a Objects,
    now_unix: i64,
    previous: HashMap<&'a ObjectKey, &'a Arc<Certificate>>,
    read: HashMap<ObjectKey, Option<Arc<Certificate>>>,
}

impl<'a> Certificates<'a> {
    pub(super) fn new(objects: &'a Objects, now_unix: i64, previous: &'a TlsConfig) -> Self {
        let all = previous.by_host.iter().flat_map(|(_, certificates)| certificates).chain(&previous.default);
        let previous = all.map(|certificate| (&certificate.secret, certificate)).collect();
        Self { objects, now_unix, previous, read: HashMap::new() }
    }

    /// Whether the Secret is there at all.
    pub(super) fn exists(&self, key: &ObjectKey) -> bool {
        self.objects.secrets.contains_key(key)
    }

    /// The Secret's certificate, if it has a usable one. Says what is wrong with it the first
    /// time; a missing Secret is the asker's to report.
    pub(super) fn get(&mut self, key: &ObjectKey, issues: &mut Vec<Issue>) -> Option<Arc<Certificate>> {
        if let Some(known) = self.read.get(key) {
            return known.clone();
        }
        let secret = self.objects.secrets.get(key)?;
        let certificate = match read(key, secret, self.previous.get(key).copied()) {
            Ok(certificate) => {
                let untimely = if certificate.not_after < self.now_unix {
                    let message = format!(
                        "the certificate expired on {}; it is still served. Renew it.",
                        date(certificate.not_after)
                    );
                    Some((IssueReason::CertificateExpired, message))
                } else if self.now_unix < certificate.not_before {
                    let message = format!(
                        "the certificate is not valid before {}, so clients refuse it; it is still served. \
                         Use one that is valid, and check the node's clock.",
                        date(certificate.not_before)
                    );
                    Some((IssueReason::CertificateNotYetValid, message))
                } else {
                    None
                };
                issues.extend(untimely.map(|(reason, message)| {
                    issue(Severity::Warning, reason, "Secret", key, "data[tls.crt]", message)
                }));
                Some(certificate)
            }
            Err(BadSecret { field, cause, remedy }) => {
                // A rotation gone wrong must not cost the certificate that still works.
                let before = self.previous.get(key).copied().cloned();
                let instead = match before {
                    Some(_) => "the certificate it held before is still served",
                    None => "its hosts get the default certificate",
                };
                issues.push(issue(
                    Severity::Error,
                    IssueReason::InvalidCertificate,
                    "Secret",
                    key,
                    field,
                    format!("{}; {instead}. {remedy}", excerpt(&cause)),
                ));
                before
            }
        };
        self.read.insert(key.clone(), certificate.clone());
        certificate
    }
}

/// Why a Secret can't be used. Never quotes the Secret's data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadSecret {
    pub(super) field: &'static str,
    pub(super) cause: String,
    pub(super) remedy: &'static str,
}

/// The certificate and key of a Secret; `previous` if they are the same.
pub(super) fn read(
    key: &ObjectKey,
    secret: &Secret,
    previous: Option<&Arc<Certificate>>,
) -> Result<Arc<Certificate>, BadSecret> {
    let chain_pem = value(secret, "tls.crt").ok_or_else(|| BadSecret {
        field: "data[tls.crt]",
        cause: "tls.crt is missing".into(),
        remedy: "Put the certificate chain there in PEM.",
    })?;
    let key_pem = value(secret, "tls.key").ok_or_else(|| BadSecret {
        field: "data[tls.key]",
        cause: "tls.key is missing".into(),
        remedy: "Put the private key there in PEM.",
    })?;
    let bad_chain = |cause: String| BadSecret {
        field: "data[tls.crt]",
        cause,
        remedy: "Put the certificate chain there in PEM, the leaf first.",
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| bad_chain("tls.crt is no PEM".into()))?;
    if let Some(previous) = previous
        && *previous.key_pem == *key_pem
        && previous.chain.iter().map(Vec::as_slice).eq(chain.iter().map(AsRef::as_ref))
    {
        return Ok(previous.clone());
    }
    let leaf = chain.first().ok_or_else(|| bad_chain("tls.crt holds no certificate in PEM".into()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|_| bad_chain("tls.crt's first certificate can't be read".into()))?;
    let names = match parsed.subject_alternative_name() {
        Ok(Some(names)) => names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let not_before = parsed.validity().not_before.timestamp();
    let not_after = parsed.validity().not_after.timestamp();

    let bad_key = |cause: String, remedy| BadSecret { field: "data[tls.key]", cause, remedy };
    let private = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| {
        bad_key(
            "tls.key holds no private key in PEM".into(),
            "Use an unencrypted PKCS#8, PKCS#1 or SEC1 key.",
        )
    })?;
    CertifiedKey::from_der(chain.clone(), private, &PROVIDER).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => bad_key(
            "tls.key does not belong to tls.crt's first certificate".into(),
            "Put the key and the certificate of one pair there, the leaf first.",
        ),
        rustls::Error::InvalidCertificate(_) => {
            bad_chain("tls.crt's first certificate is damaged or larger than 64 KiB".into())
        }
        error => bad_key(format!("tls.key can't be used: {error}"), "Use an RSA, ECDSA or Ed25519 key."),
    })?;
    Ok(Arc::new(Certificate {
        secret: key.clone(),
        names,
        not_before,
        not_after,
        chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
        key_pem: key_pem.into(),
    }))
}

/// DER of those who may sign certificates, and of what they revoked.
pub(super) struct Authorities {
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) revocations: Vec<Vec<u8>>,
}

/// `ca.crt`, at least one certificate, and `ca.crl` if it is there.
pub(super) fn authorities(secret: &Secret) -> Result<Authorities, BadSecret> {
    let bad = |cause: &str| BadSecret {
        field: "data[ca.crt]",
        cause: cause.into(),
        remedy: "Put the certificates of the authorities there in PEM.",
    };
    let pem = value(secret, "ca.crt").ok_or_else(no_authorities)?;
    let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .map(|one| one.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| bad("ca.crt is no PEM"))?;
    if roots.is_empty() {
        return Err(bad("ca.crt holds no certificate in PEM"));
    }
    if roots.iter().any(|root| x509_parser::parse_x509_certificate(root).is_err()) {
        return Err(bad("ca.crt holds a certificate that can't be read"));
    }
    let bad = |cause: &str| BadSecret {
        field: "data[ca.crl]",
        cause: cause.into(),
        remedy: "Put the revocation lists there in PEM, or remove it.",
    };
    let pem = value(secret, "ca.crl").unwrap_or_default();
    let revocations: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
        .map(|one| one.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| bad("ca.crl is no PEM"))?;
    if revocations.iter().any(|list| x509_parser::parse_x509_crl(list).is_err()) {
        return Err(bad("ca.crl holds a revocation list that can't be read"));
    }
    Ok(Authorities { roots, revocations })
}

/// What is wrong with a Secret that should have authorities and has none.
pub(super) fn no_authorities() -> BadSecret {
    BadSecret {
        field: "data[ca.crt]",
        cause: "ca.crt is missing".into(),
        remedy: "Put the certificates of the authorities there in PEM.",
    }
}

/// Every entry, by name.
pub(super) fn entries(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    let data = secret.data.iter().flatten().map(|(name, bytes)| (name.as_str(), bytes.0.as_slice()));
    let plain = secret.string_data.iter().flatten().map(|(name, text)| (name.as_str(), text.as_bytes()));
    data.chain(plain).collect()
}

/// `stringData` goes over `data`, as it does on its way into the API server.
pub(super) fn value<'a>(secret: &'a Secret, name: &str) -> Option<&'a [u8]> {
    let plain = secret.string_data.as_ref().and_then(|data| data.get(name)).map(String::as_bytes);
    plain.or_else(|| secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice()))
}

fn date(unix: i64) -> String {
    jiff::Timestamp::from_second(unix)
        .map_or_else(|_| unix.to_string(), |time| time.strftime("%Y-%m-%d").to_string())
}
