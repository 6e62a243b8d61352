//! What the tests of the Kubernetes source share: objects, a source that is quick to try again, and
//! waiting for what it says.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sluice::source::Update;
use sluice::source::kubernetes::{self, Backoff, Settings};
use tokio::sync::watch::Receiver;

use crate::api_server::{self, ApiServer};

/// Only keeps a broken test from hanging.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn settings() -> Settings {
    Settings {
        page: 3,
        answer: Duration::from_millis(500),
        idle: Duration::from_secs(1),
        backoff: Backoff { min: Duration::from_millis(5), max: Duration::from_millis(50) },
        ..Settings::default()
    }
}

pub fn ingress(name: &str, secret: Option<&str>) -> Value {
    let tls: Vec<Value> = secret.iter().map(|s| json!({"hosts": ["a.example"], "secretName": s})).collect();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "web", "name": name,
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "meta.helm.sh/release-name": "shop", "sluice.dev/kept": "yes"}},
        "spec": {"tls": tls, "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
}

pub fn secret(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"namespace": "web", "name": name}, "data": {"tls.crt": "YQ=="}})
}

pub fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "web", "name": name}, "spec": {}})
}

pub fn slice(name: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "web", "name": name, "labels": {"kubernetes.io/service-name": "s", "x": "y"}},
        "endpoints": [{"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "name": "p"}}]})
}

pub fn class(name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": name}, "spec": {"controller": "sluice.dev/ingress-controller"}})
}

/// Every object as `kind name`.
pub fn names(update: &Update) -> BTreeSet<String> {
    let objects = &update.objects;
    let mut all = BTreeSet::new();
    all.extend(objects.ingresses.keys().map(|key| format!("ingress {}", key.name)));
    all.extend(objects.classes.keys().map(|key| format!("class {}", key.name)));
    all.extend(objects.services.keys().map(|key| format!("service {}", key.name)));
    all.extend(objects.slices().keys().map(|key| format!("slice {}", key.name)));
    all.extend(objects.secrets.keys().map(|key| format!("secret {}", key.name)));
    all.extend(objects.config_maps.keys().map(|key| format!("map {}", key.name)));
    all.extend(objects.nodes.keys().map(|key| format!("node {}", key.name)));
    all
}

pub async fn until(updates: &mut Receiver<Update>, what: &str, done: impl Fn(&Update) -> bool) -> Update {
    let found = tokio::time::timeout(DEADLINE, updates.wait_for(done)).await.map(|r| r.map(|u| u.clone()));
    match found {
        Ok(Ok(update)) => update,
        _ => {
            let last = updates.borrow();
            let issues: Vec<_> = last.issues.iter().map(|issue| issue.to_string()).collect();
            panic!(
                "{what} did not come about; last: {:?} {issues:?} {} {:?}",
                last.health,
                last.synced,
                names(&last)
            )
        }
    }
}

pub async fn until_names(updates: &mut Receiver<Update>, what: &str, expect: &[&str]) -> Update {
    let expect: BTreeSet<String> = expect.iter().map(|name| (*name).to_owned()).collect();
    until(updates, what, |u| u.synced && u.health.is_ok() && names(u) == expect).await
}

/// Waits until the server has seen `more` further requests of the kind.
pub async fn until_asked(server: &ApiServer, verb: &str, resource: &str, count: usize) {
    let asked = async {
        while server.count(verb, resource) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap_or_else(|_| panic!("no {verb} of {resource}"));
}

/// How often all objects of a resource were asked for, by pages or by a stream.
pub fn listings(server: &ApiServer, resource: &str) -> usize {
    let seen = server.seen().into_iter().filter(|seen| seen.resource == resource);
    seen.filter(|seen| match seen.verb {
        "list" => !seen.query.contains_key("continue"),
        _ => seen.query.contains_key("sendInitialEvents"),
    })
    .count()
}

/// A server that offers streaming lists, or one that does not.
pub async fn server(streams: bool) -> ApiServer {
    let server = ApiServer::start().await;
    server.offer_streams(streams);
    server
}

pub async fn started(server: &ApiServer) -> Receiver<Update> {
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        server.apply(service(name));
    }
    server.apply(class("sluice"));
    server.apply(ingress("one", None));
    server.apply(slice("s-1"));
    let mut updates = kubernetes::watch(server.client(), settings());
    until_names(&mut updates, "the first state", START).await;
    for resource in ["ingresses", "ingressclasses", "services", "endpointslices"] {
        // The first watch of a server without streams is one that it refused.
        let refused = usize::from(server.count("list", resource) > 0);
        let last = |seen: &api_server::Seen| seen.resource == resource && seen.verb == "watch";
        let tried = || {
            server
                .seen()
                .iter()
                .filter(|seen| last(seen) && seen.query.contains_key("sendInitialEvents"))
                .count()
        };
        until_asked(server, "watch", resource, 1 + refused.min(tried())).await;
    }
    updates
}

pub const START: &[&str] = &[
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

pub fn start_and(more: &[&'static str]) -> Vec<&'static str> {
    START.iter().chain(more).copied().collect()
}
