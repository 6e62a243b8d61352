//! What holds for translation as a whole: reuse, bounds, and any input at all. Single rules are
//! in `tests/golden`.

use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::model::{Backend, HostPattern, IssueReason, Severity};
use crate::objects::{Object, parse};

fn serving() -> Settings {
    Settings { unknown_class: UnknownClass::Serve, serve_classless: true, ..Settings::default() }
}

fn store<'a>(documents: impl IntoIterator<Item = &'a Value>) -> (Objects, Vec<Issue>) {
    let (mut objects, mut issues) = (Objects::default(), Vec::new());
    for document in documents {
        let parsed = parse(document.clone(), "test.yaml");
        issues.extend(parsed.issues);
        for object in parsed.objects {
            objects.insert(object);
        }
    }
    (objects, issues)
}

fn run(objects: &Objects, previous: &Snapshot) -> Snapshot {
    translate(objects, &serving(), &[], 0, previous)
}

fn ingress(spec: Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "web" }, "spec": spec })
}

fn path(path: &str) -> Value {
    json!({ "path": path, "pathType": "Prefix", "backend": { "service": { "name": "web", "port": { "number": 80 } } } })
}

fn service() -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 80 }] } })
}

fn slice(addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
            "ports": [{ "port": 8080 }], "endpoints": endpoints })
}

fn secret() -> Value {
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(vec!["a.example.com".to_owned()]).expect("names");
    let certificate = params.self_signed(&key).expect("signs");
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "tls" },
            "stringData": { "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() } })
}

/// A certificate without hosts is for its own names, until somebody in another namespace has them.
#[test]
fn a_name_is_given_back_when_another_namespace_has_it() {
    let any =
        ingress(json!({ "tls": [{ "secretName": "tls" }], "rules": [{ "http": { "paths": [path("/")] } }] }));
    let theirs = |host: &str, namespace: &str, spec: Value| {
        let mut object = ingress(spec);
        object["metadata"] = json!({ "name": "theirs", "namespace": namespace });
        object["spec"]["rules"] = json!([{ "host": host, "http": { "paths": [path("/")] } }]);
        object
    };
    let (objects, _) = store(&[any, service(), secret()]);
    let mut translator = Translator::default();
    let mut last = Snapshot::empty();
    for (host, namespace, tls, has_it) in [
        ("b.example.com", "other", json!([]), true),
        ("a.example.com", "other", json!([]), false),
        ("a.example.com", "default", json!([]), true),
        ("*.example.com", "other", json!([]), false),
        ("*.b.example.com", "other", json!([]), true),
        ("b.example.com", "other", json!([{ "hosts": ["a.example.com"] }]), false),
        ("b.example.com", "other", json!([{ "secretName": "none" }]), true),
    ] {
        let mut objects = objects.clone();
        for object in parse(theirs(host, namespace, json!({ "tls": tls })), "test.yaml").objects {
            objects.insert(object);
        }
        last = translator.translate(&objects, &serving(), &[], 0, &last);
        assert_eq!(
            last.tls,
            run(&objects, &Snapshot::empty()).tls,
            "{host} in {namespace}: not as from nothing"
        );
        let names: Vec<_> = last.tls.by_host.iter().map(|(host, _)| host.to_string()).collect();
        assert_eq!(names == ["a.example.com"], has_it, "{host} in {namespace}: {names:?}");
        assert_eq!(last.tls.default, None);
        let told = last
            .issues
            .iter()
            .any(|issue| issue.reason == IssueReason::Conflict && issue.severity == Severity::Warning);
        assert_eq!(told, !has_it, "{host} in {namespace}: {:?}", last.issues);
    }
}

/// Where Services may have addresses is followed while it runs.
#[test]
fn the_setting_of_services_addresses_is_live() {
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "game", "annotations": { VIPS: "192.0.2.1" } },
        "spec": { "type": "LoadBalancer", "loadBalancerClass": LOAD_BALANCER_CLASS, "ports": [{ "port": 80 }] } });
    let key = ObjectKey::new("sluice", "settings");
    let settings = Settings { config_map: Some(key), ..serving() };
    let mut translator = Translator::default();
    let mut last = Snapshot::empty();
    for (networks, served) in
        [("192.0.2.0/24", 1), ("198.51.100.0/24", 0), ("192.0.2.0/33", 0), ("192.0.2.1", 1)]
    {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "sluice", "name": "settings" }, "data": { "service-vips": networks } });
        let (objects, _) = store(&[service.clone(), map]);
        last = translator.translate(&objects, &settings, &[], 0, &last);
        assert_eq!(last.services.len(), served, "{networks}: {:?}", last.issues);
        let told = last.issues.iter().any(|issue| issue.reason == IssueReason::NoAddress);
        assert_eq!(told, served == 0, "{networks}: {:?}", last.issues);
    }
}

#[test]
fn what_does_not_change_is_the_same_arc() {
    let spec = json!({ "tls": [{ "hosts": ["a.example.com"], "secretName": "tls" }],
                       "rules": [{ "host": "a.example.com", "http": { "paths": [path("/")] } }] });
    let (mut objects, _) = store(&[ingress(spec), service(), slice(&["10.0.0.1"]), secret()]);
    let mut replace = |document: Value| {
        for object in parse(document, "test.yaml").objects {
            objects.insert(object);
        }
        objects.clone()
    };
    let first = run(&replace(Value::Null), &Snapshot::empty());
    assert_eq!(first.generation, 1);
    assert_eq!(first.tls.by_host.len(), 1, "{:?}", first.issues);

    let same = run(&replace(Value::Null), &first);
    assert_eq!(same.generation, 1);
    assert!(Arc::ptr_eq(&same.issues, &first.issues));

    let moved = run(&replace(slice(&["10.0.0.2"])), &same);
    assert_eq!(moved.generation, 2);
    assert!(Arc::ptr_eq(&moved.routing, &first.routing), "endpoints are no part of the routing");
    assert!(Arc::ptr_eq(&moved.tls, &first.tls));

    let renewed = run(&replace(secret()), &moved);
    assert_eq!(renewed.generation, 3);
    assert!(!Arc::ptr_eq(&renewed.tls, &moved.tls), "another certificate of the same name");
    let cluster = |snapshot: &Snapshot| snapshot.clusters.values().next().expect("one").clone();
    assert!(Arc::ptr_eq(&cluster(&renewed), &cluster(&moved)));

    let rules = json!({ "rules": [{ "http": { "paths": [path("/new")] } }],
                        "tls": [{ "hosts": ["a.example.com", "b.example.com"], "secretName": "tls" }] });
    let rerouted = run(&replace(ingress(rules)), &renewed);
    assert_eq!(rerouted.generation, 4);
    let certificate = |snapshot: &Snapshot| snapshot.tls.by_host[0].1[0].clone();
    assert!(Arc::ptr_eq(&certificate(&rerouted), &certificate(&renewed)), "certificates are not read again");

    let settings = serving();
    let note = Issue { message: "seen".into(), ..renewed.issues.first().cloned().unwrap_or_else(some_issue) };
    let noted = translate(&replace(Value::Null), &settings, &[note], 0, &rerouted);
    assert_eq!(noted.generation, 4, "issues alone are no new generation");
    assert_ne!(noted.issues, rerouted.issues);
}

#[test]
fn a_rotation_gone_wrong_keeps_the_certificate_before() {
    let spec = json!({ "tls": [{ "hosts": ["a.example.com"], "secretName": "tls" }],
                       "rules": [{ "host": "a.example.com", "http": { "paths": [path("/")] } }] });
    let (mut good, mut other) = (secret(), secret());
    let first = run(&store(&[ingress(spec.clone()), good.clone()]).0, &Snapshot::empty());
    // The key of another certificate, and no PEM at all.
    good["stringData"]["tls.key"] = other["stringData"]["tls.key"].take();
    other["stringData"]["tls.crt"] = json!("not PEM");
    other["stringData"]["tls.key"] = json!("not PEM");
    for bad in [good, other] {
        let objects = store(&[ingress(spec.clone()), bad]).0;
        let after = run(&objects, &first);
        assert_eq!(after.tls, first.tls);
        let told = |snapshot: &Snapshot, text: &str| {
            snapshot
                .issues
                .iter()
                .any(|issue| issue.reason == IssueReason::InvalidCertificate && issue.message.contains(text))
        };
        assert!(told(&after, "before is still served"), "{:?}", after.issues);
        let anew = run(&objects, &Snapshot::empty());
        assert!(anew.tls.by_host.is_empty() && told(&anew, "default certificate"), "{:?}", anew.issues);
    }
}

#[test]
fn a_bad_secret_of_many_is_no_flood() {
    let bad = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "tls" },
                      "stringData": { "tls.crt": "no PEM", "tls.key": "none" } });
    let ingresses = (0..30).map(|n| {
        let host = format!("h{n}.example.com");
        let mut one = ingress(json!({ "tls": [{ "hosts": [host.as_str()], "secretName": "tls" }],
                                      "rules": [{ "host": host.as_str(), "http": { "paths": [path("/")] } }] }));
        one["metadata"]["name"] = format!("web-{n:02}").into();
        one
    });
    let documents: Vec<_> = ingresses.chain([bad, service(), slice(&["10.0.0.1"])]).collect();
    let snapshot = run(&store(&documents).0, &Snapshot::empty());
    let count = |kind, severity| {
        snapshot.issues.iter().filter(|issue| (issue.object.kind, issue.severity) == (kind, severity)).count()
    };
    assert_eq!(count("Secret", Severity::Error), 1, "{:?}", snapshot.issues);
    assert_eq!((count("Ingress", Severity::Warning), count("Ingress", Severity::Note)), (10, 20));
}

fn some_issue() -> Issue {
    let key = ObjectKey::new("", "web.yaml");
    report::issue(crate::model::Severity::Note, IssueReason::UnknownKind, "File", &key, "", "")
}

#[test]
fn huge_objects_are_bounded() {
    let dangling = json!({ "service": { "name": "gone", "port": { "number": 80 } } });
    let paths: Vec<_> = (0..10_000)
        .map(|n| json!({ "path": format!("/{n}"), "pathType": "Prefix", "backend": dangling }))
        .chain([path("/good")])
        .collect();
    let mut huge = ingress(json!({ "rules": [{ "http": { "paths": paths } }] }));
    let megabyte = "x".repeat(1 << 20);
    huge["metadata"]["annotations"] = json!({
        "nginx.ingress.kubernetes.io/ssl-redirect": megabyte,
        "nginx.ingress.kubernetes.io/rewrite-target": format!("/{megabyte}$1"),
        format!("nginx.ingress.kubernetes.io/{megabyte}"): "",
    });
    let (objects, issues) = store(&[huge, service(), slice(&["10.0.0.1"])]);
    assert!(issues.is_empty());
    let snapshot = run(&objects, &Snapshot::empty());
    let routes = &snapshot.routing.hosts[0].routes;
    assert_eq!(routes.len(), 10_001);
    assert_eq!(routes.iter().filter(|route| matches!(route.backend, Backend::Cluster(_))).count(), 1);
    assert!(snapshot.issues.len() <= 101, "{}", snapshot.issues.len());
    assert!(snapshot.issues.iter().all(|issue| issue.message.len() + issue.field.len() < 700));
}

/// Ten thousand regular expressions of one host are compiled only as far as memory is for them;
/// the rest is said.
#[test]
fn many_patterns_are_bounded() {
    let paths: Vec<_> = (0..10_000)
        .map(|n| {
            let mut path = path(&format!("/p{n}/([a-z0-9-]{{1,40}})(/|$)(.*)"));
            path["pathType"] = "ImplementationSpecific".into();
            path
        })
        .collect();
    let mut huge = ingress(json!({ "rules": [{ "host": "a.com", "http": { "paths": paths } }] }));
    huge["metadata"]["annotations"] = json!({ "nginx.ingress.kubernetes.io/use-regex": "true" });
    let (objects, _) = store(&[huge, service(), slice(&["10.0.0.1"])]);
    let snapshot = run(&objects, &Snapshot::empty());
    let routes = &snapshot.routing.hosts[0].routes;
    let bytes = |route: &crate::model::Route| {
        crate::route::Pattern::new(route.path.text()).expect("compiled before").bytes()
    };
    let total: usize = routes.iter().map(bytes).sum();
    assert!(
        (100..10_000).contains(&routes.len()) && total <= 8 << 20,
        "{} routes, {total} bytes",
        routes.len()
    );
    assert!(snapshot.issues.len() <= 101, "{}", snapshot.issues.len());
    assert!(snapshot.issues.iter().any(|issue| issue.message.contains("more than 8 MiB")));
}

/// Would take hours if anything in it were quadratic in hosts, names or rules.
#[test]
fn many_hosts_names_and_conflicts() {
    let hosts: Vec<String> = (0..5_000).map(|n| format!("h{n}.example.com")).collect();
    let key = KeyPair::generate().expect("key");
    // A certificate of all the names is more than TLS libraries read, which is said of it.
    let signed = |names: &[String]| {
        CertificateParams::new(names).expect("names").self_signed(&key).expect("signs").pem()
    };
    let huge = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "huge" },
        "stringData": { "tls.crt": signed(&hosts), "tls.key": key.serialize_pem() } });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "tls" },
        "stringData": { "tls.crt": signed(&hosts[..2_000]), "tls.key": key.serialize_pem() } });
    let mut documents = vec![service(), slice(&["10.0.0.1"]), secret, huge];
    for (n, host) in hosts.iter().enumerate() {
        let mut one = ingress(json!({
            "tls": [{ "hosts": [host], "secretName": "tls" }],
            "rules": [{ "host": host, "http": { "paths": [path("/")] } }] }));
        one["metadata"]["name"] = format!("web-{n}").into();
        documents.push(one);
    }
    // One Ingress that wants all of it once more, and all in one host.
    let paths: Vec<_> = (0..10_000).map(|n| path(&format!("/{}", n / 2))).collect();
    let rules = hosts.iter().map(|host| json!({ "host": host, "http": { "paths": [path("/")] } }));
    let rules: Vec<_> = rules.chain([json!({ "http": { "paths": paths } })]).collect();
    documents.push(ingress(
        json!({ "tls": [{ "hosts": hosts, "secretName": "tls" }, { "hosts": hosts, "secretName": "huge" }],
        "rules": rules }),
    ));

    let (objects, _) = store(&documents);
    let snapshot = run(&objects, &Snapshot::empty());
    assert_eq!(snapshot.routing.hosts.len(), 5_001);
    assert_eq!(snapshot.tls.by_host.len(), 5_000);
    let count = |reason| snapshot.issues.iter().filter(|issue| issue.reason == reason).count();
    assert_eq!(count(IssueReason::InvalidCertificate), 1);
    // One of each `web-…` whose host has no name in the certificate, and a bounded list of `web`'s.
    let mismatches = count(IssueReason::CertificateMismatch);
    assert!((3_000..=3_101).contains(&mismatches), "{mismatches}");
    let again = run(&objects, &snapshot);
    assert!(Arc::ptr_eq(&again.routing, &snapshot.routing) && Arc::ptr_eq(&again.tls, &snapshot.tls));
}

/// Of thousands of Ingresses an edit of one leaves all others by the same pointer. With
/// `--nocapture` it says how long edits take.
#[test]
fn an_edit_touches_its_own() {
    const COUNT: usize = 5_000;
    let named = |mut document: Value, name: &str| {
        document["metadata"]["name"] = name.into();
        document
    };
    let route = |n: usize, text: &str| {
        let backend = json!({ "service": { "name": format!("web-{n}"), "port": { "number": 80 } } });
        let path = json!({ "path": text, "pathType": "Prefix", "backend": backend });
        let rules = json!([{ "host": format!("h{n}.example.com"), "http": { "paths": [path] } }]);
        named(ingress(json!({ "rules": rules })), &format!("web-{n}"))
    };
    let endpoints = |n: usize, last: usize| {
        let addresses: Vec<_> = (0..10).map(|i| format!("10.{}.{}.{}", n / 256, n % 256, last + i)).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let mut slice = named(slice(&addresses), &format!("web-{n}-1"));
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = format!("web-{n}").into();
        slice
    };
    let mut documents = Vec::new();
    for n in 0..COUNT {
        documents.extend([route(n, "/"), named(service(), &format!("web-{n}")), endpoints(n, 1)]);
    }
    let (mut objects, _) = store(&documents);
    let mut translator = Translator::default();
    let mut run =
        |objects: &Objects, previous: &Snapshot| translator.translate(objects, &serving(), &[], 0, previous);
    let mut put = |document: Value| {
        for object in parse(document, "test.yaml").objects {
            objects.insert(object);
        }
        objects.clone()
    };
    let first = run(&put(Value::Null), &Snapshot::empty());
    assert_eq!((first.routing.hosts.len(), first.clusters.len()), (COUNT, COUNT));

    let edited = run(&put(route(77, "/new")), &first);
    let differs = edited.routing.hosts.iter().zip(&first.routing.hosts).filter(|(a, b)| !Arc::ptr_eq(a, b));
    assert_eq!(differs.map(|(a, _)| a.host.to_string()).collect::<Vec<_>>(), ["h77.example.com"]);
    assert!(edited.clusters.values().zip(first.clusters.values()).all(|(a, b)| Arc::ptr_eq(a, b)));

    let moved = run(&put(endpoints(99, 2)), &edited);
    assert!(Arc::ptr_eq(&moved.routing, &edited.routing) && Arc::ptr_eq(&moved.issues, &edited.issues));
    let differs = moved.clusters.values().zip(edited.clusters.values()).filter(|(a, b)| !Arc::ptr_eq(a, b));
    assert_eq!(differs.map(|(a, _)| a.key.to_string()).collect::<Vec<_>>(), ["default/web-99:80"]);
    assert_eq!(run(&put(Value::Null), &moved).generation, moved.generation);
}

#[test]
fn listeners_are_sorted() {
    use crate::model::{Protocol, SniMode, Transport, Vip};
    let listener = |port| Listener {
        vip: Vip { address: [10, 0, 0, 1].into(), port, transport: Transport::Tcp },
        protocol: Protocol::Http,
        sni: SniMode::Off,
    };
    let settings = Settings { listeners: vec![listener(443), listener(80), listener(443)], ..serving() };
    let snapshot = translate(&Objects::default(), &settings, &[], 0, &Snapshot::empty());
    assert_eq!(*snapshot.listeners, [listener(80), listener(443)]);
    assert_eq!(snapshot.generation, 1);
}

/// Objects of few names, so that they refer to each other, with values right and wrong.
fn document() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "web", ""]);
    let host =
        prop::sample::select(vec!["", "a.com", "A.com.", "www.a.com", "*.com", "*", "bad host", "*.a.com"]);
    let text = prop::sample::select(vec![
        "/",
        "/a",
        "/a/",
        "a",
        "",
        "//",
        "/é",
        "true",
        "$1",
        "tls",
        "/a(/|$)(.*)",
        "/%61",
        "deny all;",
        "a.com",
        "www.a.com,b.com",
        "web",
        "/(?!x)",
    ]);
    let kind = prop::sample::select(vec!["Exact", "Prefix", "ImplementationSpecific", "", "Odd"]);
    let port = prop_oneof![
        (-1..90_000i32).prop_map(|number| json!({ "number": number })),
        Just(json!({ "name": "http" })),
        Just(json!({ "number": 80 })),
        Just(Value::Null),
    ];
    let backend = (name.clone(), port, 0..9u8).prop_map(|(name, port, shape)| match shape {
        0 => json!({}),
        1 => json!({ "resource": { "kind": "Bucket", "name": name } }),
        _ => json!({ "service": { "name": name, "port": port } }),
    });
    let paths = prop::collection::vec(
        (text.clone(), kind, backend.clone())
            .prop_map(|(path, kind, backend)| json!({ "path": path, "pathType": kind, "backend": backend })),
        0..4,
    );
    let rule = (host.clone(), prop::option::of(paths)).prop_map(|(host, paths)| match paths {
        Some(paths) => json!({ "host": host, "http": { "paths": paths } }),
        None => json!({ "host": host }),
    });
    let annotation = prop::sample::select(vec![
        "kubernetes.io/ingress.class",
        "nginx.ingress.kubernetes.io/rewrite-target",
        "nginx.ingress.kubernetes.io/ssl-redirect",
        "nginx.ingress.kubernetes.io/auth-url",
        "nginx.ingress.kubernetes.io/server-snippet",
        "nginx.ingress.kubernetes.io/use-regex",
        "nginx.ingress.kubernetes.io/canary",
        "nginx.ingress.kubernetes.io/server-alias",
        "nginx.ingress.kubernetes.io/from-to-www-redirect",
        "nginx.ingress.kubernetes.io/ssl-passthrough",
        "nginx.ingress.kubernetes.io/default-backend",
        "nginx.ingress.kubernetes.io/auth-tls-secret",
        "nginx.ingress.kubernetes.io/service-upstream",
    ]);
    let time = prop::option::of((2020..2026i32).prop_map(|year| format!("{year}-01-01T00:00:00Z")));
    let tls = (prop::option::of(host), prop::option::of(name.clone()))
        .prop_map(|(host, secret)| json!({ "hosts": host.map(|host| [host]), "secretName": secret }));
    let ingress = (
        name.clone(),
        time,
        prop::collection::vec(rule, 0..4),
        prop::option::of(backend),
        prop::collection::vec(tls, 0..3),
        prop::option::of((annotation, text.clone())),
    )
        .prop_map(|(name, time, rules, default, tls, annotation)| {
            let annotations: serde_json::Map<_, _> =
                annotation.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                    "metadata": { "name": name, "creationTimestamp": time, "annotations": annotations },
                    "spec": { "rules": rules, "defaultBackend": default, "tls": tls } })
        });
    let service = (name.clone(), -1..90i32, any::<bool>()).prop_map(|(name, port, external)| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "type": external.then_some("ExternalName"), "ports": [{ "port": port }, { "port": 80, "name": "http" }] } })
    });
    let address = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1", "x", ""]);
    let endpoint =
        (address, any::<[Option<bool>; 3]>()).prop_map(|(address, [ready, serving, terminating])| {
            json!({ "addresses": [address],
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
        });
    let slice = (name.clone(), name.clone(), prop::collection::vec(endpoint, 0..4), -1..70_000i32).prop_map(
        |(name, service, endpoints, port)| {
            json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
                    "ports": [{ "port": port }, { "name": "http", "port": 8080 }], "endpoints": endpoints })
        },
    );
    let secret = (name, text).prop_map(|(name, text)| {
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
                "stringData": { "tls.crt": text, "tls.key": text } })
    });
    prop_oneof![4 => ingress, 2 => service, 2 => slice, 1 => secret]
}

proptest! {
    /// What is remembered decides nothing: after any edits the result is that of a start from
    /// nothing.
    #[test]
    fn remembered_as_from_nothing(
        edits in prop::collection::vec((document(), 0..8u8), 0..24),
        settings in prop::sample::select(vec![Compat::Kubernetes, Compat::IngressNginx]),
    ) {
        let mut settings = Settings { compat: settings, ..serving() };
        let (mut objects, mut translator) = (Objects::default(), Translator::default());
        let mut last = Snapshot::empty();
        for (n, (edit, kind)) in edits.into_iter().enumerate() {
            let parsed = parse(edit, "test.yaml");
            for object in parsed.objects {
                match kind {
                    0 => drop(objects.remove(object.kind(), object.key())),
                    _ => drop(objects.insert(object)),
                }
            }
            if n == 12 {
                let key = ObjectKey::new("default", "web");
                settings.default_backend = Some(ClusterKey::new(key, crate::model::PortRef::Number(80)));
            }
            // Several edits may come at once.
            if kind == 1 {
                continue;
            }
            let fresh = translate(&objects, &settings, &parsed.issues, 0, &last);
            let next = translator.translate(&objects, &settings, &parsed.issues, 0, &last);
            prop_assert_eq!(&next.routing, &fresh.routing);
            prop_assert_eq!(&next.clusters, &fresh.clusters);
            prop_assert_eq!(&next.tls, &fresh.tls);
            prop_assert_eq!(&next.issues, &fresh.issues);
            prop_assert_eq!(next.generation, fresh.generation);
            for (new, old) in next.routing.hosts.iter().filter_map(|new| {
                Some((new, last.routing.hosts.iter().find(|old| *old == new)?))
            }) {
                prop_assert!(Arc::ptr_eq(new, old), "{} did not change", new.host);
            }
            last = next;
        }
    }

    #[test]
    fn any_objects(documents in prop::collection::vec(document(), 0..12)) {
        let (objects, issues) = store(&documents);
        let snapshot = translate(&objects, &serving(), &issues, 0, &Snapshot::empty());

        // The invariants that the model's docs promise.
        let routing = &snapshot.routing;
        prop_assert!(routing.hosts.is_sorted_by(|a, b| a.host < b.host));
        for host in &routing.hosts {
            for (n, route) in host.routes.iter().enumerate() {
                prop_assert!(host.routes[..n].iter().all(|other| other.path != route.path));
                prop_assert!(route.path.text().starts_with('/'));
                if let Backend::Cluster(key) = &route.backend {
                    prop_assert!(snapshot.clusters.contains_key(&**key));
                }
            }
            let length = |route: &crate::model::Route| crate::route::normalise_rule(route.path.text()).len();
            prop_assert!(host.routes.is_sorted_by_key(|route| std::cmp::Reverse(length(route))));
        }
        for cluster in snapshot.clusters.values() {
            prop_assert!(cluster.endpoints.is_sorted_by(|a, b| a.address < b.address));
        }
        prop_assert!(snapshot.tls.by_host.iter().all(|(host, _)| *host != HostPattern::Any));
        for issue in &*snapshot.issues {
            prop_assert!(issue.message.ends_with('.'), "a sentence: {}", issue.message);
        }

        // Documents that don't replace each other may come in any order.
        let distinct = {
            let mut seen = std::collections::HashSet::new();
            documents.iter().all(|document| {
                parse(document.clone(), "").objects.iter().all(|object: &Object| seen.insert(object.reference()))
            })
        };
        if distinct {
            let (objects, issues) = store(documents.iter().rev());
            let reversed = translate(&objects, &serving(), &issues, 0, &Snapshot::empty());
            prop_assert_eq!(&reversed.routing, &snapshot.routing);
            prop_assert_eq!(&reversed.clusters, &snapshot.clusters);
            prop_assert_eq!(&reversed.issues, &snapshot.issues);
        }
        let again = translate(&objects, &serving(), &issues, 0, &snapshot);
        prop_assert_eq!(again.generation, snapshot.generation);
        prop_assert!(Arc::ptr_eq(&again.routing, &snapshot.routing));
    }
}
