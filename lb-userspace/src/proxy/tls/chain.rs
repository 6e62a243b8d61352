//! Whether a certificate leads to an authority: for clients' and for endpoints' certificates.

use std::cell::Cell;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder};

/// Why a certificate does not count. In the words that OpenSSL has for it: endpoints behind nginx
/// know them from `$ssl_client_verify`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum Unverified {
    /// None was sent, or none was asked for.
    #[error("no certificate")]
    Missing,
    /// No authority of ours signed it.
    #[error("unable to verify the first certificate")]
    UnknownAuthority,
    /// There are too many certificates between it and its authority.
    #[error("certificate chain too long")]
    TooDeep,
    /// Its time, or that of one above it, is over.
    #[error("certificate has expired")]
    Expired,
    /// Its time, or that of one above it, has not come.
    #[error("certificate is not yet valid")]
    NotYetValid,
    /// Its authority took it back.
    #[error("certificate revoked")]
    Revoked,
    /// There are revocation lists, but no valid one says anything about it.
    #[error("unable to get certificate CRL")]
    RevocationUnknown,
    /// Something else is wrong with it.
    #[error("{0}")]
    Other(webpki::Error),
}

impl From<webpki::Error> for Unverified {
    fn from(error: webpki::Error) -> Self {
        match error {
            webpki::Error::UnknownIssuer => Self::UnknownAuthority,
            webpki::Error::CertExpired { .. } => Self::Expired,
            webpki::Error::CertNotValidYet { .. } => Self::NotYetValid,
            webpki::Error::CertRevoked => Self::Revoked,
            webpki::Error::UnknownRevocationStatus | webpki::Error::CrlExpired { .. } => {
                Self::RevocationUnknown
            }
            other => Self::Other(other),
        }
    }
}

/// Who may sign, and how far away.
#[derive(Debug)]
pub(in crate::proxy) struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Vec<CertRevocationList<'static>>,
    /// Certificates that may stand between a leaf and an authority.
    depth: u32,
}

impl Authorities {
    /// Reads certificates and revocation lists, both DER.
    ///
    /// # Errors
    /// If one of them can't be read. Leaving it out would be wrong either way: a list that is not
    /// looked at lets in what was revoked.
    pub(in crate::proxy) fn new(
        roots: &[Vec<u8>],
        revocations: &[Vec<u8>],
        depth: u32,
    ) -> Result<Self, webpki::Error> {
        let anchor = |der: &Vec<u8>| {
            let der = CertificateDer::from_slice(der);
            webpki::anchor_from_trusted_cert(&der).map(|anchor| anchor.to_owned())
        };
        let list = |der: &Vec<u8>| webpki::OwnedCertRevocationList::from_der(der).map(Into::into);
        Ok(Self {
            anchors: roots.iter().map(anchor).collect::<Result<_, _>>()?,
            revocations: revocations.iter().map(list).collect::<Result<_, _>>()?,
            depth,
        })
    }

    /// Nobody: every certificate is of an unknown authority.
    pub(in crate::proxy) fn nobody() -> Self {
        Self { anchors: Vec::new(), revocations: Vec::new(), depth: 0 }
    }

    /// The names of the authorities, DER.
    pub(super) fn names(&self) -> impl Iterator<Item = rustls::DistinguishedName> {
        self.anchors.iter().map(|anchor| rustls::DistinguishedName::in_sequence(&anchor.subject))
    }

    /// Follows a certificate to an authority.
    pub(in crate::proxy) fn verify(
        &self,
        leaf: &EndEntityCert<'_>,
        others: &[CertificateDer<'_>],
        usage: KeyUsage,
        algorithms: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), Unverified> {
        let lists: Vec<_> = self.revocations.iter().collect();
        // As OpenSSL: every certificate of the chain is looked up, and a list that is out of date says nothing.
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|builder| builder.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let too_deep = Cell::new(false);
        let is_near = |path: &webpki::VerifiedPath<'_>| {
            if path.intermediate_certificates().count() <= self.depth as usize {
                return Ok(());
            }
            too_deep.set(true);
            Err(webpki::Error::PathLenConstraintViolated)
        };
        let verified = leaf.verify_for_usage(
            algorithms.all,
            &self.anchors,
            others,
            now,
            usage,
            revocation,
            Some(&is_near),
        );
        match verified {
            Ok(_) => Ok(()),
            Err(_) if too_deep.get() => Err(Unverified::TooDeep),
            Err(error) => Err(error.into()),
        }
    }
}
