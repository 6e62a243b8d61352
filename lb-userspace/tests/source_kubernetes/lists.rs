//! Lists, watches, and what is handed on.

use std::time::Duration;

use sluice::source::Update;
use sluice::source::kubernetes;

use crate::api_server::{ApiServer, Fault};
use crate::common::*;

#[tokio::test]
async fn follows_every_kind() {
    for streams in [true, false] {
        follows_every_kind_of(server(streams).await, streams).await;
    }
}

async fn follows_every_kind_of(server: ApiServer, streams: bool) {
    let mut updates = started(&server).await;
    let first = updates.borrow().clone();
    let kept = first.objects.ingresses.values().next().expect("one");
    let annotations: Vec<_> = kept.metadata.annotations.iter().map(|(name, _)| name).collect();
    assert_eq!(annotations, ["sluice.dev/kept"]);

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
    assert_eq!(pages, if streams { 0 } else { 3 }, "7 Services in pages of 3");
    for seen in server.seen() {
        assert!(["list", "watch"].contains(&seen.verb), "{seen:?}");
        if seen.verb == "watch" {
            assert_eq!(seen.query["allowWatchBookmarks"], "true", "{seen:?}");
        }
    }
}

#[tokio::test]
async fn is_not_synced_before_every_kind_was_listed() {
    for late in ["ingresses", "ingressclasses", "services", "endpointslices"] {
        let server = ApiServer::start().await;
        server.apply(service("a"));
        for _ in 0..1000 {
            server.fail_next("list", late, Fault::Status(500));
            server.fail_next("watch", late, Fault::Status(500));
        }
        let mut updates = kubernetes::watch(server.client(), settings());
        let failing = until(&mut updates, late, |u| !u.health.is_ok()).await;
        assert!(!failing.synced && failing.objects.is_empty(), "{late}: {failing:?}");
        server.clear_faults();
        until_names(&mut updates, late, &["service a"]).await;
    }
}

#[tokio::test]
async fn a_server_without_streams_is_not_asked_for_them_again() {
    let server = server(false).await;
    let mut updates = started(&server).await;
    let streams = || server.seen().iter().filter(|seen| seen.query.contains_key("sendInitialEvents")).count();
    let first = streams();
    assert!((1..=4).contains(&first), "{first}");
    for more in ["two", "three"] {
        let before = listings(&server, "services");
        server.gone();
        server.apply(ingress(more, None));
        until(&mut updates, more, |u| names(u).contains(&format!("ingress {more}"))).await;
        until_asked(&server, "watch", "services", before + 1).await;
    }
    assert_eq!(streams(), first, "it refused, and is asked for pages since");
}

#[tokio::test]
async fn a_server_that_refused_streams_is_asked_again_after_a_while() {
    let server = server(false).await;
    server.apply(service("a"));
    let settings = kubernetes::Settings { streams_again: Duration::ZERO, ..settings() };
    let mut updates = kubernetes::watch(server.client(), settings);
    until_names(&mut updates, "the first state", &["service a"]).await;
    server.offer_streams(true);
    let lists = server.count("list", "services");
    server.gone();
    server.apply(service("b"));
    until_names(&mut updates, "the change", &["service a", "service b"]).await;
    assert_eq!(server.count("list", "services"), lists, "streams are offered now");
}

#[tokio::test]
async fn a_stream_that_does_not_work_out_is_a_list_in_pages() {
    let half = r#"{"type":"ADDED","object":{"metadata":{"namespace":"web","name":"half"}}}"#;
    for (what, body) in [("ends at once", String::new()), ("ends before its end", format!("{half}\n"))] {
        let server = server(true).await;
        server.fail_next("watch", "services", Fault::Body(body));
        let updates = started(&server).await;
        assert!(updates.borrow().health.is_ok(), "{what}: it was only asked for in another way");
        assert_eq!(server.count("list", "services"), 3, "{what}");
        assert_eq!(server.count("list", "ingresses"), 0, "{what}: the others are streams all the same");
    }
}
