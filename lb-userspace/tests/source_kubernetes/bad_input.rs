//! Objects that nobody should write, and answers that no server should give.

use serde_json::json;
use sluice::source::kubernetes;

use crate::common::*;

/// The issues, each by its object.
fn issues(update: &sluice::source::Update) -> Vec<String> {
    update.issues.iter().map(|issue| issue.object.to_string()).collect()
}

#[tokio::test]
async fn objects_that_can_not_be_read_cost_only_themselves() {
    for streams in [true, false] {
        let server = server(streams).await;
        let mut bad = service("bad");
        bad["spec"] = json!(7);
        server.apply(bad.clone());
        for name in ["a", "b"] {
            server.apply(service(name));
        }
        let mut updates = kubernetes::watch(server.client(), settings());
        let first = until_names(&mut updates, "the good ones", &["service a", "service b"]).await;
        assert_eq!(issues(&first), ["Service web/bad"]);
        // One that was good is served on as it was.
        let mut worse = service("a");
        worse["spec"] = json!("x");
        server.apply(worse);
        let told = until(&mut updates, "two issues", |u| u.issues.len() == 2).await;
        assert_eq!(
            (issues(&told), told.health.is_ok()),
            (vec!["Service web/a".into(), "Service web/bad".into()], true)
        );
        assert_eq!(names(&told), names(&first));
        server.apply(service("a"));
        server.delete(&bad);
        until(&mut updates, "no issues", |u| u.issues.is_empty()).await;
    }
}

#[tokio::test]
async fn an_object_without_a_name_is_told() {
    let server = server(true).await;
    let mut updates = started(&server).await;
    server.send("services", "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resourceVersion\":\"1\"}}}\n");
    let told = until(&mut updates, "an issue", |u| !u.issues.is_empty()).await;
    assert!(told.issues[0].message.contains("metadata.name"), "{:?}", told.issues);
    assert_eq!(names(&told).len(), START.len());
}

#[tokio::test]
async fn large_objects_are_read_and_huge_ones_named() {
    let server = server(true).await;
    let mut updates = started(&server).await;
    let annotated = |name: &str, bytes: usize| {
        let mut object = ingress(name, None);
        object["metadata"]["annotations"]["sluice.dev/note"] = "x".repeat(bytes).into();
        object
    };
    let mut many = ingress("many", None);
    let rule = |n: usize| json!({"host": format!("h{n}.example"), "http": {"paths": []}});
    many["spec"]["rules"] = (0..10_000).map(rule).collect();
    server.apply(many);
    server.apply(annotated("large", 1 << 20));
    until_names(&mut updates, "large ones", &start_and(&["ingress large", "ingress many"])).await;
    // As servers write it: the name first.
    let line = |name: &str| {
        let note = "x".repeat(17 << 20);
        format!(
            r#"{{"type":"MODIFIED","object":{{"metadata":{{"name":"{name}","namespace":"web","annotations":{{"note":"{note}"}}}}}}}}"#
        )
    };
    server.send("ingresses", &format!("{}\n{}\n", line("huge"), line("large")));
    server.apply(service("after"));
    let told = until(&mut updates, "issues", |u| u.issues.len() == 2).await;
    assert_eq!(issues(&told), ["Ingress web/huge", "Ingress web/large"]);
    assert!(told.issues[0].message.contains("16 MiB"), "{:?}", told.issues);
    until_names(&mut updates, "the others", &start_and(&["ingress large", "ingress many", "service after"]))
        .await;
    server.apply(annotated("huge", 10));
    server.apply(annotated("large", 10));
    until(&mut updates, "mended", |u| u.issues.is_empty() && u.objects.ingresses.len() == 4).await;
}
