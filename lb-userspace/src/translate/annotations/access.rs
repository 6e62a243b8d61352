//! Who gets in, by address and by password.

use std::sync::Arc;

use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::{ObjectKey, RoutePolicy, Satisfy};

/// What browsers show, unless said otherwise.
const REALM: &str = "Authentication Required";

/// Users and passwords, before the Secret is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BasicRef {
    pub(super) secret: ObjectKey,
    pub(super) form: SecretForm,
    pub(super) realm: Arc<str>,
    /// The annotation, as it is written.
    pub(super) annotation: Arc<str>,
}

/// How a Secret holds users and passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SecretForm {
    /// An htpasswd file under `auth`.
    File,
    /// A user for each key, and the hashed password as its value.
    Map,
}

/// Reads `allowlist-source-range` and its other names, and `satisfy`.
pub(super) fn networks(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    let allow = reader.either("allowlist-source-range", "whitelist-source-range");
    for name in [allow, "denylist-source-range"] {
        let networks = match reader.text(name) {
            Some(_) => reader.get_closing(name, values::networks),
            None if reader.has(name) => {
                // ingress-nginx refuses such a list, too.
                reader.close_bad(name, &Bad::new("names no network", "name some, or remove the annotation"));
                None
            }
            None => None,
        };
        match networks {
            Some(networks) if name == allow => policy.access.allow = Some(networks),
            Some(networks) => policy.access.deny = Some(networks),
            None => {}
        }
    }
    let satisfy = values::one_of(&[("all", Satisfy::All), ("any", Satisfy::Any)]);
    if let Some(satisfy) = reader.get("satisfy", satisfy) {
        policy.access.satisfy = satisfy;
    }
}

/// Reads `auth-type`, `auth-secret`, `auth-secret-type` and `auth-realm`.
pub(super) fn basic(reader: &mut Reader<'_>, cross_namespace: bool) -> Option<BasicRef> {
    let realm = reader.get("auth-realm", realm);
    let form = values::one_of(&[("auth-file", SecretForm::File), ("auth-map", SecretForm::Map)]);
    let form = reader.get_closing("auth-secret-type", form).unwrap_or(SecretForm::File);
    let secret = secret(reader, "auth-secret", cross_namespace);
    let kind = reader.get_closing("auth-type", |text| match text.trim() {
        basic if basic.eq_ignore_ascii_case("basic") => Ok(()),
        digest if digest.eq_ignore_ascii_case("digest") => {
            Err(Bad::new("depends on MD5 and is not supported", "use basic, over https"))
        }
        _ => Err(Bad::new("is no known kind of authentication", "write basic")),
    });
    let (kind_there, secret_there) = (reader.text("auth-type"), reader.text("auth-secret"));
    match (kind_there, secret_there) {
        (Some(_), None) => {
            reader.close("auth-type", "asks for passwords, but auth-secret is missing", "Name the Secret.");
        }
        (None, Some(_)) => reader.close(
            "auth-secret",
            "does nothing without auth-type, and most likely is meant to restrict access",
            "Add auth-type: basic, or remove it.",
        ),
        _ => {}
    }
    let realm = realm.unwrap_or_else(|| REALM.into());
    let annotation = reader.written("auth-secret").into();
    kind.and(secret).map(|secret| BasicRef { secret, form, realm, annotation })
}

/// The Secret or ConfigMap that an annotation names, where it may. Closes otherwise.
pub(super) fn secret(reader: &mut Reader<'_>, name: &str, cross_namespace: bool) -> Option<ObjectKey> {
    let own = reader.key.namespace.clone();
    reader.get_closing(name, |text| within(&own, text, cross_namespace))
}

/// A reference to an object of the own namespace, or of any if `cross_namespace`.
pub(super) fn within(own: &str, text: &str, cross_namespace: bool) -> Read<ObjectKey> {
    let key = values::reference(own, text)?;
    if cross_namespace || &*key.namespace == own {
        return Ok(key);
    }
    Err(Bad::new(
        "is in another namespace, which its owner may not have agreed to",
        "copy it to the Ingress's namespace, or set allow-cross-namespace-resources in the settings",
    ))
}

/// What can stand in a quoted string of a header.
fn realm(text: &str) -> Read<Arc<str>> {
    if text.len() <= 256 && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') {
        return Ok(text.into());
    }
    Err(Bad::new("can't stand in a header", "use letters, digits and spaces, without quotes"))
}
