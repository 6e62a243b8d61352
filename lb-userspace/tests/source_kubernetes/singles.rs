//! Secrets and ConfigMaps: only those that are named, whatever it takes.

use serde_json::{Value, json};
use sluice::model::ObjectKey;
use sluice::source::kubernetes::{self, Settings};
use sluice::source::{Health, Update};

use crate::api_server::{ApiServer, Fault};
use crate::common::*;

#[tokio::test]
async fn holds_only_secrets_that_are_referenced() {
    for (streams, watches) in [(true, 64), (false, 64), (true, 1), (false, 0)] {
        holds_only_what_is_referenced(&server(streams).await, watches).await;
    }
}

async fn holds_only_what_is_referenced(server: &ApiServer, single_watches: usize) {
    for name in ["x", "y", "default"] {
        server.apply(secret(name, "kubernetes.io/tls"));
    }
    server.apply(secret("opaque", "Opaque"));
    server.apply(secret("unnamed", "kubernetes.io/tls"));
    server.apply(ingress("one", Some("x")));
    let default_certificate = Some(ObjectKey::new("web", "default"));
    let settings = Settings { default_certificate, single_watches, ..settings() };
    let mut updates = kubernetes::watch(server.client(), settings);
    until_names(&mut updates, "first", &["ingress one", "secret default", "secret x"]).await;

    server.apply(ingress("one", Some("y")));
    let mut moved_without = false;
    loop {
        let update = updates.borrow_and_update().clone();
        let names = names(&update);
        let mut tls = update.objects.ingresses.values().flat_map(|ingress| &ingress.spec.tls);
        let wants_y = tls.next().is_some_and(|tls| tls.secret.as_deref() == Some("y"));
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
    // Whatever its type, and however it is named.
    let mut annotated = ingress("one", None);
    annotated["metadata"]["annotations"]["nginx.ingress.kubernetes.io/auth-secret"] = "web/opaque".into();
    server.apply(annotated);
    until_names(&mut updates, "opaque", &["ingress one", "secret default", "secret opaque"]).await;
    let data = |u: &Update| u.objects.secrets.values().map(|s| s.data.clone()).collect::<Vec<_>>();
    let before = data(&updates.borrow());
    let mut other = secret("opaque", "Opaque");
    other["data"]["tls.crt"] = "Yg==".into();
    server.apply(other);
    until(&mut updates, "replaced", |u| data(u) != before).await;
    server.delete(&secret("opaque", "Opaque"));
    until_names(&mut updates, "deleted", &["ingress one", "secret default"]).await;
    server.apply(secret("opaque", "Opaque"));
    until_names(&mut updates, "made again", &["ingress one", "secret default", "secret opaque"]).await;
    for seen in server.seen().iter().filter(|seen| seen.resource == "secrets") {
        let one = seen.query.get("fieldSelector").is_some_and(|f| f.starts_with("metadata.name="));
        let alone = one && seen.query["fieldSelector"] != "metadata.name=unnamed";
        assert!(seen.verb == "get" || alone || seen.names_only, "{seen:?}");
        assert!(!seen.names_only || single_watches < 64, "{seen:?}");
    }
}

/// More Secrets than watches: news of all of them arrive, and those that lose an own watch or win
/// one are never without.
#[tokio::test]
async fn thousands_of_secrets_share_a_watch() {
    for streams in [true, false] {
        let server = server(streams).await;
        let count = 200;
        let name = |n: usize| format!("s{n:03}");
        for n in 0..count {
            server.apply(secret(&name(n), "kubernetes.io/tls"));
            server.apply(ingress(&format!("i{n}"), Some(&name(n))));
        }
        let mut updates = kubernetes::watch(server.client(), Settings { single_watches: 5, ..settings() });
        let all = |u: &Update| u.objects.secrets.len() == count;
        until(&mut updates, "all of them", |u| u.synced && all(u)).await;
        let with = |u: &Update, value: &[u8]| {
            let has = |s: &&std::sync::Arc<k8s_openapi::api::core::v1::Secret>| {
                s.data.as_ref().is_some_and(|data| data["tls.crt"].0 == value)
            };
            u.objects.secrets.values().filter(has).count()
        };
        for n in 0..count {
            let mut other = secret(&name(n), "kubernetes.io/tls");
            other["data"]["tls.crt"] = "Yg==".into();
            server.apply(other);
        }
        until(&mut updates, "all replaced", |u| with(u, b"b") == count).await;
        // History is gone: what happened meanwhile is found by the list.
        server.delete(&secret(&name(100), "kubernetes.io/tls"));
        server.gone();
        for n in 0..20 {
            server.delete(&ingress(&format!("i{n}"), None));
        }
        let left = count - 21;
        until(&mut updates, "some gone", |u| u.objects.secrets.len() == left && with(u, b"b") == left).await;
        assert!(updates.borrow().health.is_ok());
    }
}

/// Whoever names a Secret that can't be read must not keep the node out of service, nor hold up
/// everybody else's changes.
#[tokio::test]
async fn a_secret_that_can_not_be_read_is_told_and_waited_for_only_once() {
    let server = server(true).await;
    server.apply(ingress("one", Some("x")));
    for _ in 0..10_000 {
        server.fail_next("list", "secrets", Fault::Status(403));
        server.fail_next("watch", "secrets", Fault::Status(403));
    }
    let mut updates = kubernetes::watch(server.client(), settings());
    let told = until(&mut updates, "synced", |u| u.synced).await;
    assert!(
        matches!(&told.health, Health::Degraded { reason, .. } if reason.contains("Secret web/x")),
        "{told:?}"
    );
    server.apply(ingress("two", None));
    until(&mut updates, "two", |u| u.objects.ingresses.len() == 2).await;
    server.apply(secret("x", "kubernetes.io/tls"));
    server.clear_faults();
    until_names(&mut updates, "readable", &["ingress one", "ingress two", "secret x"]).await;
}

#[tokio::test]
async fn follows_its_own_config_map() {
    let config_map = |name: &str, value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "web", "name": name},
            "data": {"a": value}})
    };
    for streams in [true, false] {
        let server = server(streams).await;
        server.apply(config_map("other", "x"));
        let key = ObjectKey::new("web", "sluice");
        let settings = Settings { config_map: Some(key.clone()), ..settings() };
        let mut updates = kubernetes::watch(server.client(), settings);
        let first = until(&mut updates, "synced", |u| u.synced).await;
        assert!(first.objects.config_maps.is_empty(), "{first:?}");
        let mut until_value = async |value: Option<&str>| {
            let now = |u: &Update| {
                let all = &u.objects.config_maps;
                assert!(all.len() <= 1, "only its own");
                all.get(&key).and_then(|map| map.data.clone()).and_then(|mut data| data.remove("a"))
            };
            until(&mut updates, "the settings", |u| now(u).as_deref() == value).await;
        };
        for value in ["one", "two"] {
            server.apply(config_map("sluice", value));
            until_value(Some(value)).await;
        }
        server.delete(&config_map("sluice", ""));
        until_value(None).await;
    }
}

/// What the settings, a class and the annotations of Ingresses name, with watches of their own or one
/// that all share.
#[tokio::test]
async fn follows_what_settings_classes_and_annotations_name() {
    for (streams, single_watches) in [(true, 64), (false, 64), (true, 0), (false, 0)] {
        let server = server(streams).await;
        let map = |name: &str, data: Value| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "web", "name": name},
                "data": data})
        };
        server.apply(secret("tls", "kubernetes.io/tls"));
        for name in ["parameters", "headers", "unnamed"] {
            server.apply(map(name, json!({"a": "1"})));
        }
        server.apply(map("sluice", json!({"default-ssl-certificate": "web/tls"})));
        let mut named = class("one");
        named["spec"]["parameters"] = json!({"kind": "ConfigMap", "namespace": "web", "name": "parameters"});
        server.apply(named);
        let mut annotated = ingress("one", None);
        annotated["metadata"]["annotations"]["nginx.ingress.kubernetes.io/custom-headers"] = "headers".into();
        server.apply(annotated);
        let config_map = Some(ObjectKey::new("web", "sluice"));
        let mut updates =
            kubernetes::watch(server.client(), Settings { config_map, single_watches, ..settings() });
        let all = ["class one", "ingress one", "map headers", "map parameters", "map sluice", "secret tls"];
        let first = until(&mut updates, "synced", |u| u.synced).await;
        assert_eq!(names(&first), all.map(str::to_owned).into(), "with the first update, not after it");

        let headers = |u: &Update| {
            u.objects.config_maps.get(&ObjectKey::new("web", "headers")).and_then(|m| m.data.clone())
        };
        let before = headers(&first);
        server.apply(map("headers", json!({"a": "2"})));
        until(&mut updates, "changed", |u| headers(u).is_some_and(|now| Some(&now) != before.as_ref())).await;

        server.apply(map("sluice", json!({})));
        server.apply(class("one"));
        server.apply(ingress("one", None));
        until_names(&mut updates, "nothing is named", &["class one", "ingress one", "map sluice"]).await;
    }
}
