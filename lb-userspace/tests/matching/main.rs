//! From manifests to the route of a request: what `translate`, [`RouteTable::build`] and
//! [`RouteTable::find`] answer together, for every rule of the Ingress API on hosts and paths, and
//! for what ingress-nginx adds.
//!
//! A case is a handful of one-line Ingresses (see [`ingress`]) and rows of `host path → answer`.
//! Answers are `NAME` (the Ingress whose path took it), `NAME/default` (its default backend),
//! `404`, `503 NAME`, `308 NAME`; `NAME+CANARY` where there is one, `NAME → TARGET` where the path
//! is rewritten, `301 NAME → URL` where the route sends elsewhere, `NAME!` where not everyone gets
//! in. Hosts and paths go through the same normalisation as a request's.

mod api;
mod classes;
mod nginx;
mod regex;
mod restricted;
mod stand_ins;

use serde_json::{Value, json};
use sluice::model::{Access, Backend, Compat, Snapshot};
use sluice::objects::{Objects, parse};
use sluice::route::{Rewritten, RouteTable, Target, normalise_host};
use sluice::translate::{Settings, UnknownClass, translate};

/// `NAME: WORD…`, in which a word is one of
/// - `HOST|TYPE|PATH`: a path of a rule; the host may be empty; TYPE is `P`, `E` or `I`;
/// - `HOST|-`: a rule without `http`;
/// - `default`: has a default backend;
/// - `tls=HOST`, `class=NAME`, `age=YEAR` (of creation), `ns=NAMESPACE`, `to=SERVICE:PORT`;
/// - `NAME=VALUE` with a dot in the name: an annotation, `nginx.` short for ingress-nginx's prefix.
fn ingress(line: &str) -> Value {
    let (name, words) = line.split_once(": ").expect("`NAME: WORD…`");
    let backend = |text: &str| {
        let (service, port) = text.split_once(':').expect("SERVICE:PORT");
        let port = match port.parse::<u16>() {
            Ok(number) => json!({ "number": number }),
            Err(_) => json!({ "name": port }),
        };
        json!({ "service": { "name": service, "port": port } })
    };
    let mut object = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": name, "annotations": {} }, "spec": { "rules": [], "tls": [] } });
    let to =
        words.split(' ').find_map(|word| word.strip_prefix("to=")).map_or_else(|| backend("web:80"), backend);
    for word in words.split(' ') {
        if word == "default" {
            object["spec"]["defaultBackend"] = to.clone();
        } else if let Some((host, rest)) = word.split_once('|') {
            let mut rule = json!({});
            if !host.is_empty() {
                rule["host"] = host.into();
            }
            if let Some((kind, path)) = rest.split_once('|') {
                let kind = match kind {
                    "P" => "Prefix",
                    "E" => "Exact",
                    "I" => "ImplementationSpecific",
                    other => other,
                };
                rule["http"] = json!({ "paths": [{ "path": path, "pathType": kind, "backend": to }] });
            }
            object["spec"]["rules"].as_array_mut().expect("a list").push(rule);
        } else {
            let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{word} is no word"));
            match key {
                "to" => {}
                "tls" => {
                    object["spec"]["tls"].as_array_mut().expect("a list").push(json!({ "hosts": [value] }))
                }
                "class" => object["spec"]["ingressClassName"] = value.into(),
                "age" => object["metadata"]["creationTimestamp"] = format!("{value}-01-01T00:00:00Z").into(),
                "ns" => object["metadata"]["namespace"] = value.into(),
                name => {
                    let name = name.replace("nginx.", "nginx.ingress.kubernetes.io/");
                    object["metadata"]["annotations"][name] = value.replace('_', " ").into();
                }
            }
        }
    }
    object
}

fn class(name: &str, controller: &str, annotations: Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": { "name": name, "annotations": annotations }, "spec": { "controller": controller } })
}

/// Services of the namespaces `default` and `other`: `web` with ports 80 (http) and UDP 53, `empty`
/// without endpoints, `far`, which is an ExternalName.
fn services() -> Vec<Value> {
    let mut all = Vec::new();
    for namespace in ["default", "other"] {
        let service = |name: &str, spec: Value| {
            json!({ "apiVersion": "v1", "kind": "Service",
                    "metadata": { "name": name, "namespace": namespace }, "spec": spec })
        };
        let ports = json!([{ "name": "http", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" },
                           { "name": "sctp", "port": 54, "protocol": "SCTP" }]);
        all.push(service("web", json!({ "ports": ports })));
        all.push(service("empty", json!({ "ports": ports })));
        all.push(service("headless", json!({ "clusterIP": "None", "ports": ports })));
        all.push(service(
            "far",
            json!({ "type": "ExternalName", "externalName": "example.com", "ports": ports }),
        ));
        for name in ["web", "headless"] {
            all.push(
                json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": format!("{name}-1"), "namespace": namespace,
                              "labels": { "kubernetes.io/service-name": name } },
                "ports": [{ "name": "http", "port": 8080 }, { "name": "dns", "port": 53, "protocol": "UDP" }],
                "endpoints": [{ "addresses": ["10.0.0.1"] }] }),
            );
        }
    }
    all
}

fn serving() -> Settings {
    Settings { unknown_class: UnknownClass::Serve, serve_classless: true, ..Settings::default() }
}

fn like_nginx() -> Settings {
    Settings { compat: Compat::IngressNginx, ..serving() }
}

fn snapshot(ingresses: &[&str], more: &[Value], settings: &Settings) -> Snapshot {
    let (mut objects, mut issues) = (Objects::default(), Vec::new());
    for document in ingresses.iter().map(|line| ingress(line)).chain(services()).chain(more.iter().cloned()) {
        let parsed = parse(document, "matching.rs");
        issues.extend(parsed.issues);
        for object in parsed.objects {
            objects.insert(object);
        }
    }
    translate(&objects, settings, &issues, 1_780_272_000, &Snapshot::empty())
}

fn answer(snapshot: &Snapshot, table: &RouteTable, host: &str, path: &str) -> String {
    let host = (!host.is_empty()).then(|| normalise_host(host).expect("a host"));
    let target = Target::parse(path).expect("a target");
    let Some(found) = table.find(host.as_deref(), target.path()) else { return "404".into() };
    let route = found.route;
    let name = &route.ingress.name;
    match &route.backend {
        Backend::Unavailable(_) => return format!("503 {name}"),
        Backend::Cluster(key) if snapshot.clusters[&**key].endpoints.is_empty() => {
            return format!("503 {name}");
        }
        Backend::Cluster(_) | Backend::Answered => {}
    }
    if let Some(status) = route.policy.https_redirect {
        return format!("{status} {name}");
    }
    if let Some(redirect) = &route.policy.redirect {
        return format!("{} {name} → {}", redirect.status, redirect.to);
    }
    let guard = if route.policy.access == Access::default() { "" } else { "!" };
    let canary = route.canary.as_ref().map_or_else(String::new, |canary| format!("+{}", canary.ingress.name));
    let rewritten = match found.rewrite(&target, |variable, text| text.push_str(&format!("<{variable}>"))) {
        Ok(Rewritten::Target(new)) if *new == target => String::new(),
        Ok(Rewritten::Target(new)) => format!(" → {}", new.path_and_query()),
        Ok(Rewritten::Redirect(url)) => format!(" → 302 {url}"),
        Err(bad) => format!(" → 400 {bad}"),
    };
    match &*route.rule {
        "defaultBackend" => format!("{name}/default{canary}{guard}{rewritten}"),
        _ => format!("{name}{canary}{guard}{rewritten}"),
    }
}

/// The issues of an object, as `field: message`.
fn issues(snapshot: &Snapshot, object: &str) -> Vec<String> {
    let of = snapshot.issues.iter().filter(|issue| issue.object.to_string() == object);
    of.map(|issue| format!("{}: {}", issue.field, issue.message)).collect()
}

#[track_caller]
fn check_with(ingresses: &[&str], more: &[Value], settings: &Settings, rows: &[(&str, &str, &str)]) {
    let snapshot = snapshot(ingresses, more, settings);
    let table = RouteTable::build(&snapshot.routing);
    for (host, path, expect) in rows {
        let got = answer(&snapshot, &table, host, path);
        assert_eq!(got, *expect, "{host:?} {path} of {ingresses:#?}\n{:#?}", snapshot.issues);
    }
    // The order of manifests decides nothing.
    let mut reversed = ingresses.to_vec();
    reversed.reverse();
    assert_eq!(self::snapshot(&reversed, more, settings).routing, snapshot.routing);
}

/// Answers the same in both behaviours.
#[track_caller]
fn check(ingresses: &[&str], rows: &[(&str, &str, &str)]) {
    check_with(ingresses, &[], &serving(), rows);
    check_with(ingresses, &[], &like_nginx(), rows);
}

/// In Kubernetes' own behaviour.
#[track_caller]
fn check_strict(ingresses: &[&str], rows: &[(&str, &str, &str)]) {
    check_with(ingresses, &[], &serving(), rows);
}

/// In ingress-nginx's.
#[track_caller]
fn check_nginx(ingresses: &[&str], rows: &[(&str, &str, &str)]) {
    check_with(ingresses, &[], &like_nginx(), rows);
}
