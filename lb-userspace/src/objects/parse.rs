//! From a manifest's document to objects and issues.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Kind, Object, excerpt, v1beta1};
use crate::model::{Issue, IssueReason, ObjectKey, ObjectRef, Severity};

/// What one document holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The objects that can be used.
    pub objects: Vec<Object>,
    /// What is wrong with it or worth knowing.
    pub issues: Vec<Issue>,
}

/// Reads one document. `origin` says where it stands (`web.yaml:12`): issues of a document that
/// names no object are filed under it. `List`s are unpacked; empty documents give nothing.
pub fn parse(document: Value, origin: &str) -> Parsed {
    let mut parsed = Parsed::default();
    read(document, origin, &mut parsed);
    parsed
}

/// Unpacks one level of `List`; a list in a list is no use to anybody and is told as an unknown kind.
fn read(mut document: Value, origin: &str, out: &mut Parsed) {
    let mut items = match list_items(&mut document) {
        Some(Ok(items)) => items,
        Some(Err(issue)) => {
            out.issues.push(issue_of_file(origin, "items", issue));
            return;
        }
        None => {
            read_one(document, origin, "", out);
            return;
        }
    };
    for (index, item) in items.iter_mut().enumerate() {
        read_one(item.take(), origin, &format!("items[{index}]"), out);
    }
}

/// The items, if `document` is a `List`, `IngressList` or the like.
fn list_items(document: &mut Value) -> Option<Result<Vec<Value>, String>> {
    let kind = document.get("kind")?.as_str()?;
    let stem = kind.strip_suffix("List")?;
    if !stem.is_empty() && Kind::from_name(stem).is_none() {
        return None;
    }
    // The items of a typed list don't repeat what they are.
    let inherited = (!stem.is_empty()).then(|| (document.get("apiVersion").cloned(), stem.to_owned()));
    let mut items = match document.get_mut("items").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return Some(Err("items of a List must be a list; write each object as `- …`.".into())),
    };
    if let Some((version, stem)) = inherited {
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.entry("kind").or_insert_with(|| stem.clone().into());
            item.entry("apiVersion").or_insert_with(|| version.clone().unwrap_or_default());
        }
    }
    Some(Ok(items))
}

fn read_one(mut document: Value, origin: &str, field: &str, out: &mut Parsed) {
    if document.is_null() {
        return;
    }
    let file_issue = |message: String| issue_of_file(origin, field, message);
    if !document.is_object() {
        out.issues
            .push(file_issue("this is no Kubernetes object; write apiVersion, kind and metadata.".into()));
        return;
    }
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind_name) = (text("apiVersion"), text("kind"));
    if version.is_empty() || kind_name.is_empty() {
        out.issues.push(file_issue(
            "apiVersion or kind is missing; both are needed to know what the object is.".into(),
        ));
        return;
    }
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let unknown = |severity, message| Issue {
        severity,
        object: file(origin),
        reason: IssueReason::UnknownKind,
        field: field.into(),
        message,
    };
    let Some(kind) = Kind::from_name(&kind_name) else {
        out.issues.push(unknown(
            Severity::Note,
            format!(
                "{} {:?} ({}) is not a kind that Sluice reads; it is left alone.",
                excerpt(&kind_name),
                excerpt(&name),
                excerpt(&version)
            ),
        ));
        return;
    };
    let old = kind == Kind::Ingress && v1beta1::VERSIONS.contains(&version.as_str());
    if old {
        v1beta1::convert(&mut document);
    } else if version != kind.api_version() {
        let same_group =
            version.rsplit_once('/').map(|v| v.0) == kind.api_version().rsplit_once('/').map(|v| v.0);
        // Another group's kind of the same name (Knative has a Service) is simply not ours.
        let severity = if same_group { Severity::Warning } else { Severity::Note };
        out.issues.push(unknown(
            severity,
            format!(
                "{kind_name} {:?} is of apiVersion {}, which Sluice does not read; it reads {}.",
                excerpt(&name),
                excerpt(&version),
                kind.api_version()
            ),
        ));
        return;
    }
    match typed(kind, document) {
        Ok(object) if object.key().name.is_empty() => {
            out.issues.push(file_issue(format!(
                "{kind_name} without metadata.name is not read; give the object a name."
            )));
        }
        Ok(object) => {
            if old {
                out.issues.push(Issue {
                    severity: Severity::Note,
                    object: object.reference(),
                    reason: IssueReason::DeprecatedApi,
                    field: "apiVersion".into(),
                    message: format!(
                        "{version} left Kubernetes with 1.22; read as networking.k8s.io/v1. \
                         Rewrite the manifest to networking.k8s.io/v1."
                    ),
                });
            }
            out.objects.push(object);
        }
        Err(wrong) => out.issues.push(Issue {
            severity: Severity::Error,
            object: if name.is_empty() { file(origin) } else { wrong.reference(kind, &name) },
            reason: IssueReason::InvalidField,
            field: wrong.field,
            message: format!("the {kind_name} is not read: {}; correct the field.", excerpt(&wrong.cause)),
        }),
    }
}

/// Which field can't be read, and why.
struct WrongField {
    namespace: String,
    field: String,
    cause: String,
}

impl WrongField {
    fn reference(&self, kind: Kind, name: &str) -> ObjectRef {
        ObjectRef { kind: kind.name(), key: ObjectKey::new(self.namespace.as_str(), name) }
    }
}

fn typed(kind: Kind, document: Value) -> Result<Object, WrongField> {
    fn read<K: DeserializeOwned + Into<Object>>(document: Value, kind: Kind) -> Result<Object, WrongField> {
        let namespace = match document.pointer("/metadata/namespace").and_then(Value::as_str) {
            _ if !kind.namespaced() => "",
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        let namespace = namespace.to_owned();
        // To know where in the document the reader is costs as much as to read.
        if let Ok(object) = K::deserialize(&document) {
            return Ok(object.into());
        }
        match serde_path_to_error::deserialize::<_, K>(document) {
            Ok(object) => Ok(object.into()),
            Err(error) => {
                let field = error.path().to_string();
                let field = if field == "." { String::new() } else { excerpt(&field).into_owned() };
                // The reader's words quote the value, and a Secret's values are nobody's to read.
                let cause = match kind {
                    Kind::Secret => "not of the form the API gives it (data is base64 text)".into(),
                    _ => error.into_inner().to_string(),
                };
                Err(WrongField { namespace, field, cause })
            }
        }
    }
    use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
    match kind {
        Kind::Ingress => read::<networking::Ingress>(document, kind),
        Kind::IngressClass => read::<networking::IngressClass>(document, kind),
        Kind::Service => read::<core::Service>(document, kind),
        Kind::EndpointSlice => read::<discovery::EndpointSlice>(document, kind),
        Kind::Endpoints => read::<core::Endpoints>(document, kind),
        Kind::Secret => read::<core::Secret>(document, kind),
        Kind::ConfigMap => read::<core::ConfigMap>(document, kind),
        Kind::Node => read::<core::Node>(document, kind),
    }
}

fn file(origin: &str) -> ObjectRef {
    ObjectRef { kind: "File", key: ObjectKey::new("", origin) }
}

fn issue_of_file(origin: &str, field: &str, message: String) -> Issue {
    Issue {
        severity: Severity::Error,
        object: file(origin),
        reason: IssueReason::Unreadable,
        field: field.into(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::{IngressBackend, IngressPath, Objects, ServiceRef};

    /// What a document gives: the objects' names, then `reason object field` of each issue.
    #[track_caller]
    fn check(document: Value, expect: &[&str]) -> Parsed {
        let parsed = parse(document, "web.yaml");
        let objects = parsed.objects.iter().map(|object| object.reference().to_string());
        let issues = parsed.issues.iter().map(|i| format!("{:?} {} {}", i.reason, i.object, i.field));
        assert_eq!(objects.chain(issues).collect::<Vec<_>>(), expect, "{parsed:#?}");
        assert!(parsed.issues.iter().all(|i| i.message.len() < 600), "messages are bounded");
        parsed
    }

    fn service(spec: Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": spec })
    }

    #[test]
    fn documents() {
        check(Value::Null, &[]);
        check(json!([1]), &["Unreadable File web.yaml "]);
        check(json!({ "kind": "Service" }), &["Unreadable File web.yaml "]);
        check(json!({ "apiVersion": "v1", "kind": "Service" }), &["Unreadable File web.yaml "]);
        check(service(json!({})), &["Service default/web"]);
        check(
            json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
                    "metadata": { "name": "sluice", "namespace": "ignored" } }),
            &["IngressClass sluice"],
        );
        check(
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" } }),
            &["UnknownKind File web.yaml "],
        );
        check(
            json!({ "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "metadata": { "name": "x" } }),
            &["UnknownKind File web.yaml "],
        );
        check(
            service(json!({ "ports": [{ "port": 80 }, { "port": "eighty" }] })),
            &["InvalidField Service default/web spec.ports[1].port"],
        );
        check(
            service(json!({ "ports": "x".repeat(1 << 20) })),
            &["InvalidField Service default/web spec.ports"],
        );
    }

    #[test]
    fn secrets_hold_base64() {
        let secret = |data: &str| {
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "tls", "namespace": "a" },
                    "data": { "tls.crt": data }, "stringData": { "tls.key": "plain" } })
        };
        check(secret("QUJD"), &["Secret a/tls"]);
        check(secret("*not base64*"), &["InvalidField Secret a/tls data.tls.crt"]);
        let mut misplaced = secret("");
        misplaced["data"] = json!("hunter2");
        let parsed = check(misplaced, &["InvalidField Secret a/tls data"]);
        assert!(!format!("{parsed:?}").contains("hunter2"), "secrets are not quoted");
    }

    #[test]
    fn lists() {
        check(
            json!({ "apiVersion": "v1", "kind": "List", "items": [service(json!({})), null, 7] }),
            &["Service default/web", "Unreadable File web.yaml items[2]"],
        );
        check(
            json!({ "apiVersion": "v1", "kind": "ServiceList", "items": [{ "metadata": { "name": "a" } }] }),
            &["Service default/a"],
        );
        check(json!({ "apiVersion": "v1", "kind": "List" }), &[]);
        check(
            json!({ "apiVersion": "v1", "kind": "List", "items": "x" }),
            &["Unreadable File web.yaml items"],
        );
    }

    #[test]
    fn old_ingresses() {
        for version in v1beta1::VERSIONS {
            let parsed = check(
                json!({ "apiVersion": version, "kind": "Ingress", "metadata": { "name": "old" }, "spec": {
                    "backend": { "serviceName": "rest", "servicePort": "http" },
                    "rules": [{ "http": { "paths": [
                        { "path": "/a", "backend": { "serviceName": "test", "servicePort": 80 } },
                        { "path": "/b", "pathType": "Exact", "backend": { "serviceName": "test", "servicePort": "81" } },
                    ] } }] } }),
                &["Ingress default/old", "DeprecatedApi Ingress default/old apiVersion"],
            );
            let backend = |name: &str, port_number: Option<i32>, port_name: Option<&str>| IngressBackend {
                service: Some(ServiceRef {
                    name: name.into(),
                    port_number,
                    port_name: port_name.map(Into::into),
                }),
                resource: None,
            };
            let path = |path: &str, path_type: &'static str, backend| IngressPath {
                path: path.into(),
                path_type: path_type.into(),
                backend,
            };
            let mut objects = Objects::default();
            objects.insert(parsed.objects[0].clone());
            let spec = &objects.ingresses[&ObjectKey::new("default", "old")].spec;
            assert_eq!(spec.default_backend, Some(Box::new(backend("rest", None, Some("http")))));
            let paths = spec.rules[0].paths.as_deref().expect("paths");
            assert_eq!(
                paths,
                [
                    path("/a", "ImplementationSpecific", backend("test", Some(80), None)),
                    path("/b", "Exact", backend("test", Some(81), None)),
                ]
            );
        }
        check(
            json!({ "apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": { "name": "old" },
                    "spec": { "rules": [{ "http": { "paths": [{ "backend":
                        { "serviceName": ["test"], "servicePort": 80 } }] } }] } }),
            &["InvalidField Ingress default/old spec.rules[0].http.paths[0].backend.service.name"],
        );
    }
}
