//! Ingresses of the API versions before v1, turned into v1.
//!
//! `extensions/v1beta1` and `networking.k8s.io/v1beta1` have the same shape. They left the API
//! server with Kubernetes 1.22, but not people's manifests.

use serde_json::{Map, Value, json};

/// The API versions that [`convert`] reads.
pub const VERSIONS: [&str; 2] = ["extensions/v1beta1", "networking.k8s.io/v1beta1"];

/// Rewrites an Ingress of one of [`VERSIONS`] in place: `backend` to `defaultBackend`,
/// `serviceName` and `servicePort` to `service`, a missing `pathType` to
/// `ImplementationSpecific`. What it doesn't understand stays for the v1 reader to refuse.
pub fn convert(ingress: &mut Value) {
    ingress["apiVersion"] = json!("networking.k8s.io/v1");
    let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(mut backend) = spec.remove("backend") {
        convert_backend(&mut backend);
        spec.insert("defaultBackend".into(), backend);
    }
    for rule in elements(spec.get_mut("rules")) {
        for path in elements(rule.pointer_mut("/http/paths")) {
            let Some(path) = path.as_object_mut() else { continue };
            path.entry("pathType").or_insert_with(|| json!("ImplementationSpecific"));
            if let Some(backend) = path.get_mut("backend") {
                convert_backend(backend);
            }
        }
    }
}

fn elements(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

fn convert_backend(backend: &mut Value) {
    let Some(fields) = backend.as_object_mut() else { return };
    let name = fields.remove("serviceName");
    let port = fields.remove("servicePort");
    if name.is_none() && port.is_none() {
        return;
    }
    let mut service = Map::new();
    if let Some(name) = name {
        service.insert("name".into(), name);
    }
    // A port name has at least one letter, so digits in quotes can only mean the number.
    let port = port.map(|port| match port {
        Value::String(text) => match text.parse::<u16>() {
            Ok(number) => json!({ "number": number }),
            Err(_) => json!({ "name": text }),
        },
        number => json!({ "number": number }),
    });
    if let Some(port) = port {
        service.insert("port".into(), port);
    }
    fields.insert("service".into(), service.into());
}
