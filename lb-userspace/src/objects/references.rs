//! Which Secrets an Ingress names. Only those are ever asked for.

use k8s_openapi::api::networking::v1::Ingress;

use crate::model::ObjectKey;

/// What the names of annotations for Sluice begin with; of two that differ in it alone, the first
/// counts.
pub const ANNOTATION_PREFIXES: [&str; 2] = ["sluice.dev/", "nginx.ingress.kubernetes.io/"];

/// Annotations that hold the name of a Secret, alone or as `namespace/name`.
const ANNOTATIONS: [&str; 3] = ["auth-secret", "auth-tls-secret", "proxy-ssl-secret"];

/// The Secrets that an Ingress names, sorted, each once. What can't be the name of an object is left
/// out: it would end up in a path or a selector of a request. Whether an Ingress may use a Secret
/// of another namespace is for the translation to say.
pub fn secrets_of(ingress: &Ingress) -> Vec<ObjectKey> {
    let own = ingress.metadata.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    let tls = tls.filter_map(|tls| tls.secret_name.as_deref()).map(|name| (own, name));
    let annotations = ingress.metadata.annotations.as_ref();
    let named = annotations.into_iter().flatten().filter(|(name, _)| {
        ANNOTATION_PREFIXES
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .is_some_and(|name| ANNOTATIONS.contains(&name))
    });
    let annotated = named.map(|(_, value)| {
        let value = value.trim();
        value.split_once('/').unwrap_or((own, value))
    });
    let mut keys: Vec<_> = tls
        .chain(annotated)
        .filter(|(namespace, name)| is_whole_name(namespace) && is_whole_name(name))
        .map(|(namespace, name)| ObjectKey::new(namespace, name))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Whether `text` has the length and the letters of a DNS subdomain (RFC 1123), as names in Kubernetes do.
pub fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|b| is_alphanumeric(b) || matches!(b, b'-' | b'.'))
}

/// The same, and with an end and a begin as the API demands of Secrets and namespaces.
fn is_whole_name(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    is_name(text) && ends.into_iter().flatten().all(is_alphanumeric)
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_secrets() {
        let ingress = |tls: &[&str], annotations: serde_json::Value| -> Ingress {
            let tls: Vec<_> = tls.iter().map(|name| json!({ "secretName": name })).collect();
            serde_json::from_value(json!({
                "metadata": { "namespace": "a", "name": "i", "annotations": annotations },
                "spec": { "tls": tls } }))
            .expect("an Ingress")
        };
        let auth = |value: &str| json!({ "nginx.ingress.kubernetes.io/auth-secret": value });
        for (tls, annotations, expect) in [
            (&["x", "", "x"][..], json!({}), "a/x"),
            (&[], auth("users"), "a/users"),
            (&["x"], auth(" b/users "), "a/x b/users"),
            (&["x,metadata.name!=y", "../x", "X", "-x", "x."], json!({}), ""),
            (&[], json!({ "sluice.dev/auth-secret": "b/own", "example.com/auth-secret": "no" }), "b/own"),
            (&[], auth("b/c/d"), ""),
            (&[], auth("../../x"), ""),
            (
                &[],
                json!({ "nginx.ingress.kubernetes.io/auth-tls-secret": "b/ca",
                "nginx.ingress.kubernetes.io/proxy-ssl-secret": "b/client", "auth-secret": "no" }),
                "b/ca b/client",
            ),
        ] {
            let keys: Vec<_> =
                secrets_of(&ingress(tls, annotations.clone())).iter().map(ToString::to_string).collect();
            assert_eq!(keys.join(" "), expect, "{tls:?} {annotations}");
        }
    }
}
