//! The Kubernetes source against a scripted API server: every failure keeps the last good state,
//! is told by the health, and is over when the server is well again.

#[allow(dead_code, reason = "other tests use other parts of the server")]
#[path = "support/api_server/mod.rs"]
mod api_server;

use std::collections::BTreeSet;
use std::time::Duration;

use api_server::{ApiServer, Fault};
use serde_json::{Value, json};
use sluice::source::kubernetes::{self, Settings};
use sluice::source::{Health, Update};
use tokio::sync::watch::Receiver;

/// Only keeps a broken test from hanging.
const DEADLINE: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    Settings {
        page: 3,
        answer: Duration::from_millis(500),
        idle: Duration::from_secs(5),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        ..Settings::default()
    }
}

fn ingress(name: &str, secret: Option<&str>) -> Value {
    let tls: Vec<Value> = secret.iter().map(|s| json!({"hosts": ["a.example"], "secretName": s})).collect();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "web", "name": name,
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "yes"}},
        "spec": {"tls": tls, "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
}

fn secret(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"namespace": "web", "name": name}, "data": {"tls.crt": "YQ=="}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "web", "name": name}, "spec": {}})
}

fn slice(name: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "web", "name": name, "labels": {"kubernetes.io/service-name": "s", "x": "y"}},
        "endpoints": [{"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "name": "p"}}]})
}

fn class(name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": name}, "spec": {"controller": "sluice.dev/ingress-controller"}})
}

/// Every object as `kind name`.
fn names(update: &Update) -> BTreeSet<String> {
    let objects = &update.objects;
    let mut all = BTreeSet::new();
    all.extend(objects.ingresses.keys().map(|key| format!("ingress {}", key.name)));
    all.extend(objects.classes.keys().map(|key| format!("class {}", key.name)));
    all.extend(objects.services.keys().map(|key| format!("service {}", key.name)));
    all.extend(objects.slices().keys().map(|key| format!("slice {}", key.name)));
    all.extend(objects.secrets.keys().map(|key| format!("secret {}", key.name)));
    all
}

async fn until(updates: &mut Receiver<Update>, what: &str, done: impl Fn(&Update) -> bool) -> Update {
    let found = tokio::time::timeout(DEADLINE, updates.wait_for(done)).await.map(|r| r.map(|u| u.clone()));
    match found {
        Ok(Ok(update)) => update,
        _ => panic!("{what} did not come about; the last state is {:?}", updates.borrow()),
    }
}

async fn until_names(updates: &mut Receiver<Update>, what: &str, expect: &[&str]) -> Update {
    let expect: BTreeSet<String> = expect.iter().map(|name| (*name).to_owned()).collect();
    until(updates, what, |u| u.synced && u.health.is_ok() && names(u) == expect).await
}

/// Waits until the server has seen `more` further requests of the kind.
async fn until_asked(server: &ApiServer, verb: &str, resource: &str, count: usize) {
    let asked = async {
        while server.count(verb, resource) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap_or_else(|_| panic!("no {verb} of {resource}"));
}

async fn started(server: &ApiServer) -> Receiver<Update> {
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        server.apply(service(name));
    }
    server.apply(class("sluice"));
    server.apply(ingress("one", None));
    server.apply(slice("s-1"));
    let mut updates = kubernetes::watch(server.client(), settings());
    until_names(&mut updates, "the first state", START).await;
    for resource in ["ingresses", "ingressclasses", "services", "endpointslices", "secrets"] {
        until_asked(server, "watch", resource, 1).await;
    }
    updates
}

const START: &[&str] = &[
    "class sluice",
    "ingress one",
    "service a",
    "service b",
    "service c",
    "service d",
    "service e",
    "service f",
    "service g",
    "slice s-1",
];

fn start_and(more: &[&'static str]) -> Vec<&'static str> {
    START.iter().chain(more).copied().collect()
}

#[tokio::test]
async fn follows_every_kind() {
    let server = ApiServer::start().await;
    let mut updates = started(&server).await;
    let first = updates.borrow().clone();
    let kept = first.objects.ingresses.values().next().expect("one");
    assert_eq!(kept.metadata.managed_fields.as_ref().map_or(0, Vec::len), 0);
    let annotations = kept.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["kept"]);

    server.apply(ingress("two", None));
    server.apply(slice("s-2"));
    server.delete(&service("g"));
    server.bookmark();
    let expect: Vec<&str> =
        start_and(&["ingress two", "slice s-2"]).into_iter().filter(|n| *n != "service g").collect();
    let second = until_names(&mut updates, "the changes", &expect).await;
    let one = |u: &Update| u.objects.ingresses.values().next().cloned().expect("one");
    assert!(std::sync::Arc::ptr_eq(&one(&first), &one(&second)), "unchanged objects are shared");
    assert_eq!(first.objects.ingresses.len(), 1, "earlier updates stay as they were");

    let lists: Vec<_> = server.seen().into_iter().filter(|s| s.verb == "list").collect();
    let pages = lists.iter().filter(|s| s.resource == "services").count();
    assert_eq!(pages, 3, "7 Services in pages of 3");
    for seen in server.seen() {
        assert!(["list", "watch"].contains(&seen.verb), "{seen:?}");
        if seen.verb == "watch" {
            assert_eq!(seen.query["allowWatchBookmarks"], "true", "{seen:?}");
        }
    }
}

#[tokio::test]
async fn is_not_synced_before_every_kind_was_listed() {
    for late in ["ingresses", "ingressclasses", "services", "endpointslices", "secrets"] {
        let server = ApiServer::start().await;
        server.apply(service("a"));
        for _ in 0..1000 {
            server.fail_next("list", late, Fault::Status(500));
        }
        let mut updates = kubernetes::watch(server.client(), settings());
        let failing = until(&mut updates, late, |u| !u.health.is_ok()).await;
        assert!(!failing.synced && failing.objects.is_empty(), "{late}: {failing:?}");
        server.clear_faults();
        until_names(&mut updates, late, &["service a"]).await;
    }
}

/// What goes wrong; whether the source must say so; whether it must list Ingresses again.
struct Row {
    what: &'static str,
    break_it: fn(&ApiServer),
    told: Option<&'static str>,
    mend: fn(&ApiServer),
    lists_again: bool,
}

#[tokio::test]
async fn outages_keep_the_last_good_state() {
    let rows = [
        Row { what: "410 event", break_it: ApiServer::gone, told: None, mend: |_| {}, lists_again: true },
        Row {
            what: "410 status",
            break_it: ApiServer::gone_by_status,
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "410 and an expired token",
            break_it: |s| {
                s.expire_tokens(3);
                s.gone();
            },
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "cut",
            break_it: ApiServer::disconnect_all,
            told: None,
            mend: |_| {},
            lists_again: false,
        },
        Row { what: "end", break_it: ApiServer::end_watches, told: None, mend: |_| {}, lists_again: false },
        Row {
            what: "500",
            break_it: |s| {
                s.outage(Some(500));
                s.disconnect_all();
            },
            told: Some("500"),
            mend: |s| s.outage(None),
            lists_again: false,
        },
        Row {
            what: "429",
            break_it: |s| {
                s.outage(Some(429));
                s.end_watches();
            },
            told: Some("429"),
            mend: |s| s.outage(None),
            lists_again: false,
        },
        Row {
            what: "403 after 410",
            break_it: |s| {
                s.outage(Some(403));
                s.gone();
            },
            told: Some("403"),
            mend: |s| s.outage(None),
            lists_again: true,
        },
        Row {
            what: "slow",
            break_it: |s| {
                for _ in 0..1000 {
                    s.fail_next("list", "ingresses", Fault::Slow(Duration::from_secs(30)));
                }
                s.gone();
            },
            told: Some("no answer"),
            mend: ApiServer::clear_faults,
            lists_again: true,
        },
    ];
    for Row { what, break_it, told, mend, lists_again } in rows {
        let server = ApiServer::start().await;
        let mut updates = started(&server).await;
        let lists = server.count("list", "ingresses");
        let watches = server.count("watch", "ingresses");
        break_it(&server);
        if let Some(told) = told {
            let says = |u: &Update| matches!(&u.health, Health::Degraded { reason, since } if reason.contains(told) && *since > 0);
            let degraded = until(&mut updates, what, says).await;
            assert!(degraded.synced, "{what}");
            assert_eq!(names(&degraded).len(), START.len(), "{what}: {:?}", names(&degraded));
        }
        server.apply(ingress("two", None));
        server.delete(&service("a"));
        mend(&server);
        let expect: Vec<&str> =
            start_and(&["ingress two"]).into_iter().filter(|n| *n != "service a").collect();
        until_names(&mut updates, what, &expect).await;
        until_asked(&server, "watch", "ingresses", watches + 1).await;
        assert_eq!(server.count("list", "ingresses") > lists, lists_again, "{what}");
    }
}

#[tokio::test]
async fn a_dead_server_that_comes_back() {
    let mut server = ApiServer::start().await;
    let mut updates = started(&server).await;
    server.stop().await;
    let degraded = until(&mut updates, "degraded", |u| !u.health.is_ok()).await;
    assert_eq!(names(&degraded).len(), START.len());
    server.apply(ingress("two", None));
    server.restart().await;
    until_names(&mut updates, "back again", &start_and(&["ingress two"])).await;
}

#[tokio::test]
async fn holds_only_secrets_that_are_referenced() {
    let server = ApiServer::start().await;
    for name in ["x", "y", "default"] {
        server.apply(secret(name, "kubernetes.io/tls"));
    }
    server.apply(secret("opaque", "Opaque"));
    server.apply(ingress("one", Some("x")));
    let default_certificate = Some(sluice::model::ObjectKey::new("web", "default"));
    let settings = Settings { default_certificate, ..settings() };
    let mut updates = kubernetes::watch(server.client(), settings);
    until_names(&mut updates, "first", &["ingress one", "secret default", "secret x"]).await;

    server.apply(ingress("one", Some("y")));
    let mut moved_without = false;
    loop {
        let update = updates.borrow_and_update().clone();
        let names = names(&update);
        let tls = update.objects.ingresses.values().next().and_then(|i| i.spec.clone()).and_then(|s| s.tls);
        let wants_y = tls.is_some_and(|tls| tls[0].secret_name.as_deref() == Some("y"));
        moved_without |= wants_y && !names.contains("secret y");
        if wants_y && names.contains("secret y") {
            assert!(!names.contains("secret x"), "{names:?}");
            break;
        }
        tokio::time::timeout(DEADLINE, updates.changed()).await.expect("in time").expect("runs");
    }
    assert!(!moved_without, "an update came before the Secret it needs");

    server.apply(secret("z", "kubernetes.io/tls"));
    server.apply(ingress("two", Some("z")));
    until_names(&mut updates, "z", &["ingress one", "ingress two", "secret default", "secret y", "secret z"])
        .await;
    server.delete(&secret("y", "kubernetes.io/tls"));
    server.delete(&ingress("two", None));
    until_names(&mut updates, "left", &["ingress one", "secret default"]).await;
}
