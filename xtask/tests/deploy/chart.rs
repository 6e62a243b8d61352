//! The Helm chart: that it installs what the kustomize base does, and what its values change.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::render::{Objects, deploy, helm, kustomize, one, run};

/// What only Helm adds: labels of its own, and a new pod template when settings change.
const HELMS_OWN: [&str; 3] = ["helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"];

fn without_helms_own(mut objects: Objects) -> Objects {
    for object in objects.values_mut() {
        let labels = object["metadata"]["labels"].as_object_mut().expect("labels");
        for label in HELMS_OWN {
            assert!(labels.remove(label).is_some(), "{label} of {object}");
        }
    }
    let daemonset = objects.get_mut(&("DaemonSet".into(), "sluice".into())).expect("a DaemonSet");
    let metadata = daemonset["spec"]["template"]["metadata"].as_object_mut().expect("metadata");
    let annotations = metadata.remove("annotations").expect("annotations");
    let names: Vec<_> = annotations.as_object().expect("a map").keys().collect();
    assert_eq!(names, ["checksum/config"]);
    objects
}

#[track_caller]
fn assert_same(chart: &Objects, base: &Objects) {
    assert_eq!(chart.keys().collect::<Vec<_>>(), base.keys().collect::<Vec<_>>());
    for (key, object) in base {
        assert_eq!(chart[key], *object, "{key:?}: left the chart's, right the kustomization's");
    }
}

#[test]
fn helm_lint_finds_nothing() {
    if let Err(said) = run("helm", &["lint", "--strict", "helm/sluice"]) {
        panic!("{said}");
    }
}

#[test]
fn the_default_values_install_the_kustomize_base() {
    let mut base = kustomize("base");
    let namespace = base.remove(&("Namespace".into(), "sluice-system".into()));
    assert!(namespace.is_some(), "the chart leaves the namespace to --create-namespace");
    assert_same(&without_helms_own(helm(&[]).expect("renders")), &base);
}

#[test]
fn what_is_left_to_choose_is_a_component() {
    for (value, component) in [
        ("networkPolicy.enabled=true", "network-policy"),
        ("clusterSettings={\"compat\":\"kubernetes\"}", "cluster-settings"),
    ] {
        let overlay = tempfile::tempdir_in(deploy()).expect("a directory");
        let text = format!(
            "resources: [../base]\ncomponents: [../components/{component}]\nnamespace: sluice-system\n"
        );
        fs::write(overlay.path().join("kustomization.yaml"), text).expect("a file");
        let mut base = kustomize(overlay.path().to_str().expect("UTF-8"));
        base.remove(&("Namespace".into(), "sluice-system".into()));
        assert_same(&without_helms_own(helm(&[value]).expect("renders")), &base);
    }
}

/// Rows: values, the object's kind, where in it, what is there.
#[test]
fn values_change_what_they_say() {
    let pod = |rest: &str| format!("/spec/template/spec{rest}");
    let container = |rest: &str| format!("/spec/template/spec/containers/0{rest}");
    let null = Value::Null;
    for (values, kind, pointer, expect) in [
        (
            &["image.repository=\"r.test/sluice\""][..],
            "DaemonSet",
            container("/image"),
            json!("r.test/sluice:0.1.0"),
        ),
        (&["image.tag=\"2\""], "DaemonSet", pod("/initContainers/0/image"), json!("sluice:2")),
        (&["imagePullSecrets=[{\"name\":\"r\"}]"], "DaemonSet", pod("/imagePullSecrets/0/name"), json!("r")),
        (&["drainTimeout=300"], "DaemonSet", pod("/terminationGracePeriodSeconds"), json!(315)),
        (&["drainTimeout=300"], "ConfigMap", "/data/SLUICE_DRAIN_TIMEOUT".into(), json!("300")),
        (&["xdp.interfaces=[\"a\",\"b\"]"], "ConfigMap", "/data/SLUICE_INTERFACE".into(), json!("a,b")),
        (&["xdp.enabled=false"], "ConfigMap", "/data/SLUICE_NO_XDP".into(), json!("true")),
        (&["xdp.enabled=false"], "ConfigMap", "/data/SLUICE_INTERFACE".into(), null.clone()),
        // `run` refuses --wait-for-lock without XDP: there is no lock, so no two pods on a node.
        (&["xdp.enabled=false"], "DaemonSet", container("/args"), json!(["run", "--kubernetes"])),
        (&["xdp.enabled=false"], "DaemonSet", "/spec/updateStrategy/rollingUpdate/maxSurge".into(), json!(0)),
        (
            &["xdp.enabled=false"],
            "DaemonSet",
            "/spec/updateStrategy/rollingUpdate/maxUnavailable".into(),
            json!(1),
        ),
        (
            &["xdp.enabled=false"],
            "DaemonSet",
            container("/securityContext/capabilities/add"),
            json!(["NET_BIND_SERVICE"]),
        ),
        (&["xdp.enabled=false"], "DaemonSet", container("/volumeMounts/1"), null.clone()),
        (&["xdp.enabled=false"], "DaemonSet", pod("/volumes/1"), null.clone()),
        (&["xdp.enabled=false"], "DaemonSet", pod("/securityContext/appArmorProfile"), null.clone()),
        (
            &["listen.httpPort=8080", "listen.vips=[\"192.0.2.1\",\"2001:db8::1\"]"],
            "ConfigMap",
            "/data/SLUICE_VIP".into(),
            json!("192.0.2.1,2001:db8::1"),
        ),
        (&["listen.httpPort=8080"], "ConfigMap", "/data/SLUICE_HTTP_PORT".into(), json!("8080")),
        (
            &["listen.httpPort=8080", "networkPolicy.enabled=true"],
            "NetworkPolicy",
            "/spec/ingress/0/ports/0/port".into(),
            json!(8080),
        ),
        (
            &[
                "networkPolicy.enabled=true",
                "health=\"[::]:9100\"",
                "networkPolicy.metricsFrom=[{\"namespaceSelector\":{}}]",
            ],
            "NetworkPolicy",
            "/spec/ingress/1/ports/0/port".into(),
            json!(9100),
        ),
        (
            &["ingress.compat=\"ingress-nginx\"", "ingress.adoptClasses=[\"nginx\",\"old\"]"],
            "ConfigMap",
            "/data/SLUICE_ADOPT_CLASS".into(),
            json!("nginx,old"),
        ),
        (
            &["ingressClass.default=true"],
            "IngressClass",
            "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class".into(),
            json!("true"),
        ),
        (
            &["ingressClass.compat=\"ingress-nginx\""],
            "IngressClass",
            "/metadata/annotations/sluice.dev~1compat".into(),
            json!("ingress-nginx"),
        ),
        (&["status.enabled=false"], "ConfigMap", "/data/SLUICE_NO_STATUS".into(), json!("true")),
        (
            &["status.publishAddresses=[\"192.0.2.1\",\"edge.test\"]"],
            "ConfigMap",
            "/data/SLUICE_PUBLISH_ADDRESS".into(),
            json!("192.0.2.1,edge.test"),
        ),
        (
            &["status.publishService=\"a/b\""],
            "ConfigMap",
            "/data/SLUICE_PUBLISH_SERVICE".into(),
            json!("a/b"),
        ),
        (
            &["services.vips=[\"192.0.2.0/24\",\"2001:db8::/64\"]"],
            "ConfigMap",
            "/data/SLUICE_SERVICE_VIPS".into(),
            json!("192.0.2.0/24,2001:db8::/64"),
        ),
        (&["config.SLUICE_WORKERS=4"], "ConfigMap", "/data/SLUICE_WORKERS".into(), json!("4")),
        // Helm's own form of large numbers would be 1e+06.
        (
            &["config.SLUICE_MAX_CONNECTIONS=1000000"],
            "ConfigMap",
            "/data/SLUICE_MAX_CONNECTIONS".into(),
            json!("1000000"),
        ),
        (&["doctor.enabled=false"], "DaemonSet", pod("/initContainers"), null.clone()),
        (
            &["securityContext={\"privileged\":true}"],
            "DaemonSet",
            container("/securityContext"),
            json!({"privileged": true}),
        ),
        (
            &["podSecurityContext={\"seLinuxOptions\":{\"type\":\"spc_t\"}}"],
            "DaemonSet",
            pod("/securityContext/seLinuxOptions/type"),
            json!("spc_t"),
        ),
        (
            &["updateStrategy.maxSurge=0", "updateStrategy.maxUnavailable=\"10%\""],
            "DaemonSet",
            "/spec/updateStrategy/rollingUpdate".into(),
            json!({"maxSurge": 0, "maxUnavailable": "10%"}),
        ),
        (
            &["serviceAccount.create=false", "serviceAccount.name=\"mine\""],
            "ClusterRoleBinding",
            "/subjects/0/name".into(),
            json!("mine"),
        ),
        (&["fullnameOverride=\"edge\""], "ClusterRoleBinding", "/roleRef/name".into(), json!("edge")),
        (&["nodeSelector={\"pool\":\"edge\"}"], "DaemonSet", pod("/nodeSelector/pool"), json!("edge")),
        (
            &["podAnnotations={\"a\":\"b\"}"],
            "DaemonSet",
            "/spec/template/metadata/annotations/a".into(),
            json!("b"),
        ),
    ] {
        let objects = helm(values).unwrap_or_else(|e| panic!("{values:?}: {e}"));
        let got = one(&objects, kind).pointer(&pointer).cloned().unwrap_or_default();
        assert_eq!(got, expect, "{values:?}: {kind} {pointer}");
    }
    for (values, gone) in [
        ("ingressClass.create=false", &["IngressClass"][..]),
        ("rbac.create=false", &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
        ("serviceAccount.create=false", &["ServiceAccount"]),
    ] {
        let objects = helm(&[values]).expect("renders");
        assert!(objects.keys().all(|(kind, _)| !gone.contains(&kind.as_str())), "{values}");
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (value, expect) in [
        ("xdp.enable=false", "enable"),
        ("xdp.mode=\"fast\"", "mode"),
        ("xdp.interfaces=[]", "interfaces"),
        ("ingress.compat=\"nginx\"", "compat"),
        ("ingress.defaultBackend=\"web\"", "defaultBackend"),
        ("listen.httpPort=0", "httpPort"),
        ("services.vips=[\"pool-a\"]", "vips"),
        ("drainTimeout=\"30s\"", "drainTimeout"),
        ("status.publishService=\"b\"", "publishService"),
        ("config.WORKERS=4", "WORKERS"),
        ("accessLog=\"stderr\"", "accessLog"),
        ("intrface=\"eth0\"", "intrface"),
    ] {
        let said = helm(&[value]).expect_err(value);
        assert!(said.contains(expect), "{value}: {said}");
    }
}

/// Written twice, one of the two would be lost without a word.
#[test]
fn variables_with_values_of_their_own_are_refused_as_options() {
    let text = fs::read_to_string(deploy().join("helm/sluice/templates/configmap.yaml")).expect("a file");
    let written = text.lines().filter_map(|line| line.trim().split_once(':'));
    let names: BTreeSet<_> =
        written.map(|(name, _)| name).filter(|name| name.starts_with("SLUICE_")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let settings = "clusterSettings={\"proxy-body-size\":\"8m\"}";
        let said = helm(&[settings, &format!("config.{name}=\"x\"")]).expect_err(name);
        assert!(said.contains(&format!("config.{name} is what the chart writes from")), "{name}: {said}");
    }
}

#[test]
fn notes_say_where_to_look() {
    for (value, expect) in [
        ("xdp.interfaces=[\"a\",\"b\"]", "attaches to a, b"),
        ("xdp.enabled=false", "XDP is off"),
        ("accessLog=\"off\"", "exec daemonset/sluice -- /sluice status"),
        ("ingress.adoptClasses=[\"nginx\"]", "Those of nginx too"),
    ] {
        let command =
            ["install", "sluice", "helm/sluice", "--dry-run=client", "--namespace=n", "--set-json", value];
        let said = run("helm", &command).expect("renders");
        let notes = said.split("NOTES:").nth(1).expect("notes");
        assert!(notes.contains(expect), "{value}: {notes}");
    }
}

#[test]
fn settings_have_new_pods() {
    let checksum = |values: &[&str]| {
        let objects = helm(values).expect("renders");
        one(&objects, "DaemonSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone()
    };
    assert_ne!(checksum(&[]), checksum(&["accessLog=\"off\""]));
    assert_eq!(checksum(&[]), checksum(&["resources={}"]));
}

/// Every value stands in the schema and has a comment above it or above a sibling right before it.
#[test]
fn every_value_is_documented_and_typed() {
    let text = fs::read_to_string(deploy().join("helm/sluice/values.yaml")).expect("values.yaml");
    let values: Value = serde_saphyr::from_str(&text).expect("YAML");
    let schema = fs::read_to_string(deploy().join("helm/sluice/values.schema.json")).expect("the schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    fn compare(values: &Value, schema: &Value, path: &str) {
        let names = |value: &Value| -> BTreeSet<String> {
            value.as_object().into_iter().flat_map(|o| o.keys().cloned()).filter(|k| k != "global").collect()
        };
        let Some(properties) = schema.get("properties") else { return };
        assert_eq!(names(values), names(properties), "values.yaml and its schema differ below {path:?}");
        assert_eq!(schema["additionalProperties"], false, "{path}");
        for name in names(values) {
            compare(&values[&name], &properties[&name], &format!("{path}.{name}"));
        }
    }
    compare(&values, &schema, "");

    let mut documented = false;
    for line in text.lines() {
        match line.trim_start() {
            "" => documented = false,
            comment if comment.starts_with('#') => documented = true,
            _ => assert!(documented || line.starts_with(' ') || says_itself(line), "{line:?} has no comment"),
        }
    }
}

/// Blocks whose values have the comments.
fn says_itself(line: &str) -> bool {
    line.ends_with(':') || line.ends_with(": {}")
}

/// Whoever comes from ingress-nginx looks for the keys of its ConfigMap.
#[test]
fn every_setting_of_a_cluster_is_listed() {
    let keys = deploy().join("../lb-userspace/src/translate/config_map/keys.rs");
    let keys = fs::read_to_string(keys).expect("the keys");
    let known = keys.split("KNOWN: &[&str] = &[").nth(1).and_then(|rest| rest.split("];").next());
    let known: Vec<_> = known.expect("the list").split('"').skip(1).step_by(2).collect();
    let readme = fs::read_to_string(deploy().join("README.md")).expect("deploy/README.md");
    assert!(known.len() > 40, "{known:?}");
    for key in known {
        assert!(readme.contains(&format!("`{key}`")), "deploy/README.md does not list {key}");
    }
}

/// Options that the daemon doesn't have would be passed over without a word.
#[test]
fn every_variable_is_an_option_of_the_daemon() {
    let cli = deploy().join("../lb-userspace/src/app/cli/run.rs");
    let cli = fs::read_to_string(cli).expect("the command line's grammar");
    let chart =
        fs::read_to_string(deploy().join("helm/sluice/templates/configmap.yaml")).expect("a template");
    let base = one(&kustomize("base"), "ConfigMap")["data"].clone();
    let rendered =
        chart.lines().filter_map(|line| line.trim_start().split_once(':').map(|(name, _)| name.to_owned()));
    let variables: BTreeSet<String> = rendered
        .chain(base.as_object().expect("data").keys().cloned())
        .filter(|name| name.starts_with("SLUICE_"))
        .collect();
    assert!(variables.len() > 10, "{variables:?}");
    for variable in variables {
        assert!(cli.contains(&format!("\"{variable}\"")), "sluice run has no {variable}");
    }
}
