//! Clients' certificates.

use std::sync::Arc;

use super::access::secret;
use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::{ClientCertificate, ObjectKey};

/// What the handshake has to ask for, before the Secret is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::translate) struct ClientAuthRef {
    pub(in crate::translate) secret: ObjectKey,
    pub(in crate::translate) depth: u32,
    pub(in crate::translate) any_authority: bool,
    /// The annotation, as it is written.
    pub(in crate::translate) annotation: Arc<str>,
}

/// How much is asked of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    On,
    Off,
    Optional,
    OptionalNoCa,
}

/// Reads `auth-tls-*`: the handshake's side, and the requests'.
pub(super) fn read(
    reader: &mut Reader<'_>,
    cross_namespace: bool,
) -> Option<(ClientAuthRef, Arc<ClientCertificate>)> {
    let verify = values::one_of(&[
        ("on", Verify::On),
        ("off", Verify::Off),
        ("optional", Verify::Optional),
        ("optional_no_ca", Verify::OptionalNoCa),
    ]);
    let verify = reader.get_closing("auth-tls-verify-client", verify);
    let depth = reader.get("auth-tls-verify-depth", values::number(1, 16)).unwrap_or(1);
    let error_page = reader.get("auth-tls-error-page", error_page);
    let pass_on = reader.get("auth-tls-pass-certificate-to-upstream", values::boolean).unwrap_or_default();
    let common_name = reader.get_closing("auth-tls-match-cn", common_name);
    let key = secret(reader, "auth-tls-secret", cross_namespace);
    if reader.text("auth-tls-secret").is_none() {
        for name in ["auth-tls-verify-client", "auth-tls-match-cn"] {
            if reader.text(name).is_some() && verify != Some(Verify::Off) {
                reader.close(
                    name,
                    "asks for certificates, but auth-tls-secret is missing",
                    "Name the Secret with the authorities in ca.crt, or remove it.",
                );
            }
        }
    }
    let verify = verify.unwrap_or(Verify::On);
    if verify == Verify::Off {
        return None;
    }
    let annotation = reader.written("auth-tls-secret").into();
    let any_authority = verify == Verify::OptionalNoCa;
    let depth = u32::try_from(depth).unwrap_or(1);
    let handshake = ClientAuthRef { secret: key?, depth, any_authority, annotation };
    let request = ClientCertificate { required: verify == Verify::On, pass_on, error_page, common_name };
    Some((handshake, Arc::new(request)))
}

/// A URL, or a path of the same host.
fn error_page(text: &str) -> Read<Arc<str>> {
    let page = text.trim();
    if values::is_path(page) {
        return Ok(page.into());
    }
    match values::url(page)?.as_literal() {
        Some(url) => Ok(url.into()),
        None => Err(Bad::new("uses variables", "write a fixed URL or path")),
    }
}

/// `CN=…` as ingress-nginx wants it, a regular expression from the name's begin.
fn common_name(text: &str) -> Read<Arc<str>> {
    let Some(name) = text.trim().trim_start_matches('^').strip_prefix("CN=") else {
        return Err(Bad::new("does not begin with CN=", "write CN= and a regular expression"));
    };
    values::pattern(&format!("^(?:{name})"))
}
