//! What a cluster installs: that it parses, fits together, and asks for no more than it needs.

#[path = "deploy/chart.rs"]
mod chart;
#[path = "deploy/render.rs"]
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use render::deploy;

/// All documents of a file.
fn documents(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(deploy().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn strings(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The kustomization's objects by kind.
fn base() -> BTreeMap<String, Vec<Value>> {
    let mut objects: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for resource in strings(&documents("base/kustomization.yaml")[0]["resources"]) {
        for document in documents(&format!("base/{resource}")) {
            let kind = document["kind"].as_str().expect("a kind").to_owned();
            objects.entry(kind).or_default().push(document);
        }
    }
    objects
}

/// (resource, verb) pairs of a role's rules.
fn grants(role: &Value) -> BTreeSet<(String, String)> {
    let mut grants = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                let name = if group.is_empty() { resource } else { format!("{group}/{resource}") };
                grants.extend(strings(&rule["verbs"]).into_iter().map(|verb| (name.clone(), verb)));
            }
        }
    }
    grants
}

#[test]
fn the_kustomization_lists_every_file() {
    let listed = strings(&documents("base/kustomization.yaml")[0]["resources"]);
    let files: BTreeSet<_> = fs::read_dir(deploy().join("base"))
        .expect("deploy/base")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    assert_eq!(listed, files);
}

/// An overlay need not name the base's namespace again for what it adds to land there.
#[test]
fn components_are_for_the_namespace_of_the_base() {
    let namespace = &documents("base/kustomization.yaml")[0]["namespace"];
    for entry in fs::read_dir(deploy().join("components")).expect("deploy/components") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let kustomization = &documents(&format!("components/{name}/kustomization.yaml"))[0];
        for resource in strings(&kustomization["resources"]) {
            for object in documents(&format!("components/{name}/{resource}")) {
                assert_eq!(object["metadata"]["namespace"], *namespace, "{name}/{resource}");
            }
        }
    }
}

#[test]
fn rights_are_what_is_watched_and_no_more() {
    let base = base();
    let mut expected = BTreeSet::new();
    let mut grant = |resource: &str, verbs: &[&str]| {
        expected.extend(verbs.iter().map(|verb| (resource.to_owned(), (*verb).to_owned())));
    };
    let watch = ["list", "watch"];
    grant("networking.k8s.io/ingresses", &watch);
    grant("networking.k8s.io/ingressclasses", &watch);
    grant("discovery.k8s.io/endpointslices", &watch);
    grant("services", &watch);
    grant("nodes", &watch);
    for named in ["configmaps", "secrets"] {
        grant(named, &["get", "list", "watch"]);
    }
    grant("networking.k8s.io/ingresses/status", &["patch"]);
    grant("services/status", &["patch"]);
    grant("events.k8s.io/events", &["create", "patch"]);
    assert_eq!(base["ClusterRole"].len(), 1);
    assert_eq!(grants(&base["ClusterRole"][0]), expected);
    // Leases only in the namespace of the installation.
    assert_eq!(base["Role"].len(), 1);
    let leases = ["get", "list", "create", "update", "delete"];
    let expected = leases.map(|verb| ("coordination.k8s.io/leases".to_owned(), verb.to_owned()));
    assert_eq!(grants(&base["Role"][0]), BTreeSet::from(expected));

    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        let binding = &base[kind][0];
        assert_eq!(binding["subjects"].as_array().map(Vec::len), Some(1));
        assert_eq!(binding["subjects"][0]["name"], base["ServiceAccount"][0]["metadata"]["name"]);
        let role = kind.trim_end_matches("Binding");
        assert_eq!(binding["roleRef"]["kind"], role);
        assert_eq!(binding["roleRef"]["name"], base[role][0]["metadata"]["name"]);
    }
}

#[test]
fn the_daemonset_can_surge_and_keeps_its_pins() {
    let base = base();
    let spec = &base["DaemonSet"][0]["spec"];
    let pod = &spec["template"]["spec"];
    assert_eq!(spec["updateStrategy"]["rollingUpdate"]["maxSurge"], 1);
    assert_eq!(spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 0);
    assert_eq!((&pod["hostNetwork"], &pod["dnsPolicy"]), (&true.into(), &"ClusterFirstWithHostNet".into()));
    assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
    let drain = base["ConfigMap"][0]["data"]["SLUICE_DRAIN_TIMEOUT"].as_str().expect("a setting");
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
    assert_eq!(
        grace,
        drain.parse::<u64>().expect("a number") + 15,
        "handing over and draining end before SIGKILL"
    );
    assert_eq!(pod["initContainers"][0]["args"], serde_json::json!(["doctor", "--brief"]));
    assert_eq!(pod["serviceAccountName"], base["ServiceAccount"][0]["metadata"]["name"]);
    let volumes: BTreeMap<_, _> = pod["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .map(|v| (v["name"].to_string(), v["hostPath"]["path"].clone()))
        .filter(|(_, path)| path.is_string())
        .collect();
    // Two pods share a node during an update: what each of them listens on must be its own.
    assert_eq!(volumes.keys().collect::<Vec<_>>(), ["\"bpffs\""], "only pins are shared");
    let sluice = &pod["containers"][0];
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(sluice[probe]["exec"]["command"][1], "probe", "{probe}");
    }
    let waits = |argument: &String| argument.starts_with("--wait-for-lock=");
    assert!(strings(&sluice["args"]).iter().any(waits), "without it a surge can't take over");
    let containers = ["initContainers", "containers"].map(|list| pod[list].as_array().expect("containers"));
    for container in containers.into_iter().flatten() {
        assert_eq!(container["ports"], Value::Null, "ports of hostNetwork pods keep a surge from starting");
        let security = &container["securityContext"];
        assert_eq!(
            (&security["privileged"], &security["allowPrivilegeEscalation"]),
            (&Value::Null, &false.into())
        );
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(
            container["terminationMessagePolicy"], "FallbackToLogsOnError",
            "the pod says why it fails"
        );
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            if let Some(path) = volumes.get(&mount["name"].to_string()) {
                assert_eq!(*path, mount["mountPath"], "same path inside and outside");
            }
        }
        let settings = &base["ConfigMap"][0];
        assert_eq!(container["envFrom"][0]["configMapRef"]["name"], settings["metadata"]["name"]);
        for argument in strings(&container["args"]) {
            if let Some((_, variable)) = argument.trim_end_matches(')').split_once("$(") {
                assert!(settings["data"][variable].is_string(), "configmap.yaml lacks {variable}");
            }
        }
    }
}

#[test]
fn examples_point_to_services_and_classes_that_exist() {
    let mut objects = Vec::new();
    for entry in fs::read_dir(deploy().join("examples")).expect("deploy/examples") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        objects.extend(documents(&format!("examples/{name}")));
    }
    let names = |kind: &str| -> BTreeSet<String> {
        let of_kind = objects.iter().filter(|o| o["kind"] == kind);
        of_kind.filter_map(|o| o["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let (services, classes) = (names("Service"), names("IngressClass"));
    let mut paths = 0;
    for ingress in objects.iter().filter(|o| o["kind"] == "Ingress") {
        if let Some(class) = ingress["spec"]["ingressClassName"].as_str() {
            assert!(classes.contains(class), "{class}");
        }
        for rule in ingress["spec"]["rules"].as_array().expect("rules") {
            for path in rule["http"]["paths"].as_array().expect("paths") {
                let backend = &path["backend"];
                let name = backend["service"]["name"].as_str().or(backend["serviceName"].as_str());
                assert!(services.contains(name.expect("a Service")), "{name:?}");
                paths += 1;
            }
        }
    }
    assert_eq!(paths, 8, "fan-out 2, hosts 2, any host 1, rewrite 1, TLS 2");
}
