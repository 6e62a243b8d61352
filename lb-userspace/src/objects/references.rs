//! Which Secrets and ConfigMaps other objects name. Only those are ever asked for.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::IngressClass;

use super::{Ingress, Kind};
use crate::model::ObjectKey;

/// What the names of annotations for Sluice begin with; of two that differ in it alone, the first
/// counts.
pub const ANNOTATION_PREFIXES: [&str; 2] = ["sluice.dev/", "nginx.ingress.kubernetes.io/"];

/// An object that another one names.
pub type Reference = (Kind, ObjectKey);

/// Annotations that hold the name of an object, alone or as `namespace/name`.
const ANNOTATIONS: [(&str, Kind); 5] = [
    ("auth-secret", Kind::Secret),
    ("auth-tls-secret", Kind::Secret),
    ("proxy-ssl-secret", Kind::Secret),
    ("auth-proxy-set-headers", Kind::ConfigMap),
    ("custom-headers", Kind::ConfigMap),
];

/// Entries of a cluster's settings that hold the name of an object, as `namespace/name`.
const SETTINGS: [(&str, Kind); 4] = [
    ("default-certificate", Kind::Secret),
    ("default-ssl-certificate", Kind::Secret),
    ("add-headers", Kind::ConfigMap),
    ("proxy-set-headers", Kind::ConfigMap),
];

/// The Secrets and ConfigMaps that an Ingress names, sorted, each once. What can't be the name of an
/// object is left out: it would end up in a path or a selector of a request. Whether an Ingress may
/// use an object of another namespace is for the translation to say.
pub fn references_of(key: &ObjectKey, ingress: &Ingress) -> Vec<Reference> {
    let own = &*key.namespace;
    let tls = ingress.spec.tls.iter();
    let tls = tls.filter_map(|tls| tls.secret.as_deref()).map(|name| (Kind::Secret, own, name));
    let annotated = ingress.metadata.annotations.iter().filter_map(|(name, value)| {
        let name = ANNOTATION_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
        let (_, kind) = ANNOTATIONS.iter().find(|(known, _)| *known == name)?;
        let value = value.trim();
        let (namespace, name) = value.split_once('/').unwrap_or((own, value));
        Some((*kind, namespace, name))
    });
    let mut references: Vec<_> =
        tls.chain(annotated).filter_map(|(kind, namespace, name)| reference(kind, namespace, name)).collect();
    references.sort_unstable();
    references.dedup();
    references
}

/// The ConfigMap that an IngressClass names as its parameters, if that is what it names.
pub fn parameters_of(class: &IngressClass) -> Option<ObjectKey> {
    let parameters = class.spec.as_ref()?.parameters.as_ref()?;
    let is_core = parameters.api_group.as_deref().unwrap_or_default().is_empty();
    if !is_core || parameters.kind != Kind::ConfigMap.name() {
        return None;
    }
    reference(Kind::ConfigMap, parameters.namespace.as_deref()?, &parameters.name).map(|(_, key)| key)
}

/// The Secrets and ConfigMaps that a ConfigMap names which holds the settings of a cluster.
pub fn references_of_settings(settings: &ConfigMap) -> Vec<Reference> {
    let named = |(key, kind): &(&str, Kind)| {
        let (namespace, name) = settings.data.as_ref()?.get(*key)?.trim().split_once('/')?;
        reference(*kind, namespace, name)
    };
    SETTINGS.iter().filter_map(named).collect()
}

fn reference(kind: Kind, namespace: &str, name: &str) -> Option<Reference> {
    (is_whole_name(namespace) && is_whole_name(name)).then(|| (kind, ObjectKey::new(namespace, name)))
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
    use k8s_openapi::api::networking::v1 as networking;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_in_ingresses() {
        let ingress = |tls: &[&str], annotations: serde_json::Value| -> Ingress {
            let tls: Vec<_> = tls.iter().map(|name| json!({ "secretName": name })).collect();
            let ingress = json!({ "metadata": { "annotations": annotations }, "spec": { "tls": tls } });
            Ingress::from(&serde_json::from_value::<networking::Ingress>(ingress).expect("an Ingress"))
        };
        let auth = |value: &str| json!({ "nginx.ingress.kubernetes.io/auth-secret": value });
        for (tls, annotations, expect) in [
            (&["x", "", "x"][..], json!({}), "a/x"),
            (&[], auth("users"), "a/users"),
            (&["x"], auth(" b/users "), "a/x b/users"),
            (
                &["x"],
                json!({ "sluice.dev/custom-headers": "more", "nginx.ingress.kubernetes.io/auth-proxy-set-headers": "b/x" }),
                "a/x ConfigMap:a/more ConfigMap:b/x",
            ),
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
            let shown = |(kind, key): &Reference| match kind {
                Kind::Secret => key.to_string(),
                kind => format!("{}:{key}", kind.name()),
            };
            let names: Vec<_> = references_of(&ObjectKey::new("a", "i"), &ingress(tls, annotations.clone()))
                .iter()
                .map(shown)
                .collect();
            assert_eq!(names.join(" "), expect, "{tls:?} {annotations}");
        }
    }

    #[test]
    fn names_in_classes_and_settings() {
        for (parameters, expect) in [
            (json!({ "kind": "ConfigMap", "namespace": "n", "name": "p" }), Some("n/p")),
            (json!({ "kind": "ConfigMap", "apiGroup": "", "namespace": "n", "name": "p" }), Some("n/p")),
            (json!({ "kind": "ConfigMap", "apiGroup": "x.example", "namespace": "n", "name": "p" }), None),
            (json!({ "kind": "ConfigMap", "name": "p" }), None),
            (json!({ "kind": "ConfigMap", "namespace": "n", "name": "../p" }), None),
            (json!({ "kind": "Secret", "namespace": "n", "name": "p" }), None),
        ] {
            let class = json!({ "metadata": { "name": "c" }, "spec": { "parameters": parameters } });
            let class: IngressClass = serde_json::from_value(class).expect("a class");
            assert_eq!(parameters_of(&class).map(|key| key.to_string()).as_deref(), expect, "{parameters}");
        }
        for (data, expect) in [
            (json!({ "default-ssl-certificate": "n/tls" }), vec!["n/tls"]),
            (
                json!({ "default-certificate": " n/tls ", "default-ssl-certificate": "m/tls" }),
                vec!["n/tls", "m/tls"],
            ),
            (json!({ "default-certificate": "tls", "other": "n/tls" }), vec![]),
            (json!({ "add-headers": "n/a", "proxy-set-headers": "n/p" }), vec!["n/a", "n/p"]),
            (json!(null), vec![]),
        ] {
            let map: ConfigMap = serde_json::from_value(json!({ "data": data })).expect("a ConfigMap");
            let names: Vec<_> = references_of_settings(&map).iter().map(|(_, key)| key.to_string()).collect();
            assert_eq!(names, expect, "{data}");
        }
    }
}
