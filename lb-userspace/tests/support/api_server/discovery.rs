//! What there is, as clients ask before anything else that know no kinds themselves: kubectl does.

use serde_json::{Value, json};

/// Kind, plural, and whether objects have a namespace.
type Kind = (&'static str, &'static str, bool);

/// Group and version, with what is in it.
const GROUPS: &[(&str, &[Kind])] = &[
    (
        "v1",
        &[
            ("Service", "services", true),
            ("Secret", "secrets", true),
            ("ConfigMap", "configmaps", true),
            ("Node", "nodes", false),
        ],
    ),
    ("networking.k8s.io/v1", &[("Ingress", "ingresses", true), ("IngressClass", "ingressclasses", false)]),
    ("discovery.k8s.io/v1", &[("EndpointSlice", "endpointslices", true)]),
    ("events.k8s.io/v1", &[("Event", "events", true)]),
    ("coordination.k8s.io/v1", &[("Lease", "leases", true)]),
];

/// The document at this path, if it is one of discovery.
pub(super) fn document(path: &str) -> Option<Value> {
    match path.trim_end_matches('/') {
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        "/apis" => {
            let groups = GROUPS.iter().filter_map(|(version, _)| {
                let (name, number) = version.split_once('/')?;
                let version = json!({"groupVersion": version, "version": number});
                Some(json!({"name": name, "versions": [version], "preferredVersion": version}))
            });
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()}))
        }
        path => {
            let version = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
            let (_, kinds) = GROUPS.iter().find(|(known, _)| *known == version)?;
            let resources = kinds.iter().map(|(kind, plural, namespaced)| {
                json!({"name": plural, "singularName": kind.to_ascii_lowercase(), "namespaced": namespaced, "kind": kind,
                    "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]})
            });
            Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
                "resources": resources.collect::<Vec<_>>()}))
        }
    }
}
