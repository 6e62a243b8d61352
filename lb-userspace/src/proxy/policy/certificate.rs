//! Certificates of clients: who gets in with which, and what the endpoint is told.
//!
//! The handshake asked for the certificate and judged it; the route says what that means. A
//! request without TLS has no certificate, whatever a proxy before us says.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use regex::Regex;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Refusal;
use super::facts::Facts;
use super::headers::Edits;
use super::redirect;
use super::template::escape;
use crate::model::ClientCertificate;
use crate::proxy::tls::CertificateRefusal;

const CERT: HeaderName = HeaderName::from_static("ssl-client-cert");
const VERIFY: HeaderName = HeaderName::from_static("ssl-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
const ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");

/// A route's rules.
#[derive(Debug)]
pub(super) struct Certificate {
    required: bool,
    pass_on: bool,
    error_page: Option<String>,
    common_name: CommonName,
}

#[derive(Debug)]
enum CommonName {
    Any,
    Matching(Regex),
    /// The expression can't be used: nobody's.
    Nobody,
}

impl Certificate {
    pub(super) fn new(rules: &ClientCertificate) -> Self {
        let common_name = match rules.common_name.as_deref().map(Regex::new) {
            None => CommonName::Any,
            Some(Ok(regex)) => CommonName::Matching(regex),
            Some(Err(error)) => {
                tracing::error!(%error, "an expression for common names can't be used; nobody gets in");
                CommonName::Nobody
            }
        };
        Self {
            required: rules.required,
            pass_on: rules.pass_on,
            error_page: rules.error_page.as_deref().map(str::to_owned),
            common_name,
        }
    }

    /// Whether the client's certificate will do.
    pub(super) fn check(&self, facts: &Facts<'_>) -> Result<(), Refusal> {
        let handshake = facts.client.handshake.as_ref();
        let refused = match handshake {
            Some(tls) => tls.refusal(self.required),
            None => self.required.then_some(CertificateRefusal::Missing),
        };
        if let Some(why) = refused {
            return Err(Refusal { response: Box::new(self.refuse(&why)), why: Some(why.to_string().into()) });
        }
        let subject = || handshake?.certificate().and_then(common_name);
        let fits = match &self.common_name {
            CommonName::Any => true,
            CommonName::Nobody => false,
            CommonName::Matching(regex) => subject().is_some_and(|name| regex.is_match(&name)),
        };
        if fits {
            return Ok(());
        }
        let why = "the name in the client's certificate is not let in";
        Err(Refusal::new(StatusCode::FORBIDDEN, "this is not open to your certificate", why))
    }

    fn refuse(&self, why: &CertificateRefusal) -> Response<Bytes> {
        match &self.error_page {
            Some(page) => redirect::to(StatusCode::FOUND, Some(page.clone())),
            None => crate::proxy::respond::plain(StatusCode::BAD_REQUEST, format!("{why}\n")),
        }
    }

    /// Tells the endpoint. What the client says about its certificate itself never goes on.
    pub(super) fn pass_on(&self, facts: &Facts<'_>, edits: &mut Edits) {
        for name in [&CERT, &VERIFY, &SUBJECT, &ISSUER] {
            edits.remove(name);
        }
        let Some(tls) = &facts.client.handshake else { return };
        if let Ok(verdict) = HeaderValue::from_str(&tls.verdict()) {
            edits.set(&VERIFY, verdict);
        }
        let Some(der) = tls.certificate() else { return };
        if let Ok((_, certificate)) = X509Certificate::from_der(der) {
            for (name, of) in [(&SUBJECT, certificate.subject()), (&ISSUER, certificate.issuer())] {
                if let Ok(value) = HeaderValue::try_from(distinguished_name(of)) {
                    edits.set(name, value);
                }
            }
        }
        if self.pass_on {
            let mut pem = Vec::new();
            escape(to_pem(der).as_bytes(), &mut pem);
            if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(pem)) {
                edits.set(&CERT, value);
            }
        }
    }
}

/// The first common name of a certificate's subject.
fn common_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// The parts from last to first, as RFC 4514 and nginx write them.
fn distinguished_name(name: &x509_parser::x509::X509Name<'_>) -> String {
    let registry = x509_parser::objects::oid_registry();
    let mut parts = Vec::new();
    for attribute in name.iter_attributes() {
        let kind = match x509_parser::objects::oid2abbrev(attribute.attr_type(), registry) {
            Ok(short) => short.to_owned(),
            Err(_) => attribute.attr_type().to_id_string(),
        };
        let mut part = format!("{kind}=");
        for (at, letter) in attribute.as_str().unwrap_or_default().chars().enumerate() {
            if matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
                || (at == 0 && matches!(letter, '#' | ' '))
            {
                part.push('\\');
            }
            part.push(if letter.is_control() { '?' } else { letter });
        }
        parts.push(part);
    }
    parts.reverse();
    parts.join(",")
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = next;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
