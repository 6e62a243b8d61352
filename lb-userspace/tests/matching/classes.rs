//! Which Ingresses are ours, and whose defaults they get.

use serde_json::{Value, json};
use sluice::model::Compat;
use sluice::translate::Settings;

use super::{check_with, class, issues, serving, snapshot};

#[test]
fn classes() {
    let sluice = |annotations| class("sluice", "sluice.dev/ingress-controller", annotations);
    let nginx = class("nginx", "k8s.io/ingress-nginx", json!({}));
    let ingresses = [
        "own: own.com|P|/ class=sluice",
        "foreign: foreign.com|P|/ class=nginx",
        "unknown: unknown.com|P|/ class=nobody",
        "classless: classless.com|P|/",
        "legacy: legacy.com|P|/ kubernetes.io/ingress.class=sluice",
        "legacy-foreign: legacy-foreign.com|P|/ kubernetes.io/ingress.class=nginx",
    ];
    let strict = Settings::default();
    let rows = |foreign, unknown, classless| {
        [
            ("own.com", "/", "own"),
            ("legacy.com", "/", "legacy"),
            ("foreign.com", "/", if foreign { "foreign" } else { "404" }),
            ("legacy-foreign.com", "/", if foreign { "legacy-foreign" } else { "404" }),
            ("unknown.com", "/", if unknown { "unknown" } else { "404" }),
            ("classless.com", "/", if classless { "classless" } else { "404" }),
        ]
    };
    let plain = [sluice(json!({})), nginx.clone()];
    check_with(&ingresses, &plain, &strict, &rows(false, false, false));
    check_with(&ingresses, &plain, &serving(), &rows(false, true, true));
    let adopting = Settings { adopt: vec!["nginx".into()], ..Settings::default() };
    check_with(&ingresses, &plain, &adopting, &rows(true, false, false));
    let default = [sluice(json!({ "ingressclass.kubernetes.io/is-default-class": "true" })), nginx];
    check_with(&ingresses, &default, &strict, &rows(false, false, true));
}

/// As the API server decides for Ingresses that are created without a class.
#[test]
fn of_several_default_classes_the_youngest_counts() {
    let default = |name, controller, created: &str| {
        let mut class =
            class(name, controller, json!({ "ingressclass.kubernetes.io/is-default-class": "true" }));
        class["metadata"]["creationTimestamp"] = created.into();
        class
    };
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let (ours, theirs) = ("sluice.dev/ingress-controller", "traefik.io/ingress-controller");
    let strict = Settings::default();
    let adopting = Settings { adopt: vec!["traefik".into()], ..Settings::default() };
    for (classes, settings, served, told) in [
        ([default("sluice", ours, late), default("traefik", theirs, early)], &strict, true, false),
        ([default("sluice", ours, early), default("traefik", theirs, late)], &strict, false, true),
        // Of the same age: the first by name.
        ([default("sluice", ours, late), default("traefik", theirs, late)], &strict, true, false),
        ([default("sluice", ours, late), default("aaa", theirs, late)], &strict, false, true),
        ([default("sluice", ours, early), default("other", ours, late)], &strict, true, true),
        ([default("sluice", ours, early), default("traefik", theirs, late)], &adopting, true, true),
    ] {
        let answer = if served { "classless" } else { "404" };
        let ingresses = ["classless: a.com|P|/"];
        check_with(&ingresses, &classes, settings, &[("a.com", "/", answer)]);
        let said = issues(&snapshot(&ingresses, &classes, settings), "IngressClass sluice");
        assert_eq!(!said.is_empty(), told, "{classes:?}: {said:?}");
    }
}

#[test]
fn compat_is_of_the_class() {
    let sluice = |name, annotations| class(name, "sluice.dev/ingress-controller", annotations);
    let classes = [
        sluice("silent", json!({})),
        sluice("strict", json!({ "sluice.dev/compat": "kubernetes" })),
        sluice(
            "like-nginx",
            json!({ "sluice.dev/compat": "ingress-nginx",
                                     "ingressclass.kubernetes.io/is-default-class": "true" }),
        ),
        sluice("wrong", json!({ "sluice.dev/compat": "apache" })),
        class("nginx", "k8s.io/ingress-nginx", json!({ "sluice.dev/compat": "ingress-nginx" })),
    ];
    let ingresses = [
        "silent: silent.com|P|/ tls=silent.com class=silent",
        "strict: strict.com|P|/ tls=strict.com class=strict",
        "like-nginx: like-nginx.com|P|/ tls=like-nginx.com class=like-nginx",
        "plain: plain.com|P|/ class=like-nginx",
        "off: off.com|P|/ tls=off.com class=like-nginx nginx.ssl-redirect=false",
        "wrong: wrong.com|P|/ tls=wrong.com class=wrong",
        "adopted: adopted.com|P|/ tls=adopted.com class=nginx",
        "classless: classless.com|P|/ tls=classless.com",
        "forced: forced.com|P|/ class=strict nginx.force-ssl-redirect=true",
    ];
    for (node, silent) in [(Compat::Kubernetes, "silent"), (Compat::IngressNginx, "308 silent")] {
        let settings = Settings { compat: node, adopt: vec!["nginx".into()], ..Settings::default() };
        let wrong = silent.replace("silent", "wrong");
        check_with(
            &ingresses,
            &classes,
            &settings,
            &[
                ("silent.com", "/", silent),
                ("strict.com", "/", "strict"),
                ("like-nginx.com", "/", "308 like-nginx"),
                ("plain.com", "/", "plain"),
                ("off.com", "/", "off"),
                ("wrong.com", "/", &wrong),
                ("adopted.com", "/", "308 adopted"),
                ("classless.com", "/", "308 classless"),
                ("forced.com", "/", "308 forced"),
            ],
        );
    }
}

/// A class with `spec.parameters`.
fn with_parameters(name: &str, parameters: Value, annotations: Value) -> Value {
    let mut class = class(name, "sluice.dev/ingress-controller", annotations);
    class["spec"]["parameters"] = parameters;
    class
}

#[test]
fn compat_by_parameters() {
    let map = |name: &str, data: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "system" }, "data": data });
    let names = |name: &str| json!({ "kind": "ConfigMap", "name": name, "namespace": "system", "scope": "Namespace" });
    let strict = json!({ "sluice.dev/compat": "kubernetes" });
    let all = [
        map("like-nginx", json!({ "compat": "ingress-nginx" })),
        map("silent", json!({ "other": "x" })),
        map("wrong", json!({ "compat": "apache" })),
        with_parameters("nginx-like", names("like-nginx"), json!({})),
        with_parameters("annotated", names("like-nginx"), strict),
        with_parameters("silent", names("silent"), json!({})),
        with_parameters("wrong", names("wrong"), json!({})),
        with_parameters("dangling", names("gone"), json!({})),
        with_parameters(
            "odd",
            json!({ "kind": "Bucket", "name": "x", "apiGroup": "example.com" }),
            json!({}),
        ),
        with_parameters("nowhere", json!({ "kind": "ConfigMap", "name": "like-nginx" }), json!({})),
    ];
    let ingresses: Vec<_> = ["nginx-like", "annotated", "silent", "wrong", "dangling", "odd", "nowhere"]
        .map(|name| format!("{name}: {name}.com|P|/ tls={name}.com class={name}"))
        .into();
    let ingresses: Vec<_> = ingresses.iter().map(String::as_str).collect();
    let rows = [
        ("nginx-like.com", "/", "308 nginx-like"),
        ("annotated.com", "/", "annotated"),
        ("silent.com", "/", "silent"),
        ("wrong.com", "/", "wrong"),
        ("dangling.com", "/", "dangling"),
        ("odd.com", "/", "odd"),
        ("nowhere.com", "/", "nowhere"),
    ];
    check_with(&ingresses, &all, &Settings::default(), &rows);
    let told = snapshot(&ingresses, &all, &Settings::default());
    for (object, expect) in [
        ("IngressClass nginx-like", ""),
        ("IngressClass silent", ""),
        ("ConfigMap system/wrong", "data[compat]: \"apache\" is neither"),
        ("IngressClass dangling", "spec.parameters: ConfigMap system/gone does not exist"),
        ("IngressClass odd", "spec.parameters: names a \"Bucket\""),
        ("IngressClass nowhere", "spec.parameters: names a \"ConfigMap\""),
    ] {
        let found = issues(&told, object);
        assert_eq!(found.len(), usize::from(!expect.is_empty()), "{object}: {found:?}");
        assert!(found.iter().all(|issue| issue.starts_with(expect)), "{object}: {found:?}");
    }
}
