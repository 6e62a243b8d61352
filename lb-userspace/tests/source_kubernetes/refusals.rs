//! The scripted server itself: that it refuses what the real one refuses, so that a test fails when
//! we begin to send it.

use http::Request;
use serde_json::{Value, json};

use crate::api_server::ApiServer;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/n/events";
const INGRESS: &str = "/apis/networking.k8s.io/v1/namespaces/n/ingresses/web/status";
const MERGE: &str = "application/merge-patch+json";

/// The status that a request is answered with.
async fn ask(server: &ApiServer, method: &str, path: &str, kind: &str, body: &Value) -> u16 {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(body.to_string().into_bytes()).expect("a request");
    match server.client().request::<Value>(request).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{method} {path}: {other}"),
    }
}

/// `object` with `value` at `pointer`; `null` takes away what is there.
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    let mut object = object.clone();
    object.pointer_mut(parent).expect("a parent")[field] = value;
    object
}

#[tokio::test]
async fn objects_that_are_refused() {
    let server = ApiServer::start().await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"leaseDurationSeconds": 15, "leaseTransitions": 0, "renewTime": "2026-01-01T00:00:00.000000Z"}});
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "r", "action": "a", "note": "n",
        "reportingController": "sluice.dev/ingress-controller", "reportingInstance": "i",
        "regarding": {"kind": "Ingress", "namespace": "n", "name": "web"}});
    for (object, path, pointer, value, code) in [
        (&lease, LEASES, "/spec/leaseDurationSeconds", json!(0), 422),
        (&lease, LEASES, "/spec/leaseTransitions", json!(-1), 422),
        (&lease, LEASES, "/spec/renewTime", json!("2026-01-01T00:00:00Z"), 400),
        (&lease, LEASES, "/spec/preferredHolder", json!("x"), 422),
        (&lease, LEASES, "/metadata/name", json!("A_b"), 422),
        (&lease, LEASES, "/metadata/namespace", json!("other"), 400),
        (&lease, LEASES, "/metadata/resourceVersion", json!("7"), 500),
        (&lease, LEASES, "/metadata/labels", json!({"a": "b c"}), 422),
        (&lease, LEASES, "/metadata/annotations", json!({"a": "x".repeat(300_000)}), 422),
        (&lease, LEASES, "/kind", json!("Event"), 400),
        (&lease, LEASES, "/apiVersion", json!(null), 400),
        (&event, EVENTS, "/eventTime", json!(null), 422),
        (&event, EVENTS, "/type", json!("Error"), 422),
        (&event, EVENTS, "/reason", json!(""), 422),
        (&event, EVENTS, "/action", json!(null), 422),
        (&event, EVENTS, "/note", json!("x".repeat(1025)), 422),
        (&event, EVENTS, "/reportingInstance", json!("x".repeat(129)), 422),
        (&event, EVENTS, "/reportingController", json!("a/b/c"), 422),
        (&event, EVENTS, "/regarding/namespace", json!(null), 422),
        (&event, EVENTS, "/deprecatedCount", json!(1), 422),
        (
            &event,
            EVENTS,
            "/series",
            json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}),
            422,
        ),
        (&event, EVENTS, "/note", json!("x".repeat(1024)), 200),
        (&lease, LEASES, "/spec/leaseTransitions", json!(null), 200),
    ] {
        let sent = with(object, pointer, value);
        let got = ask(&server, "POST", path, "application/json", &sent).await;
        assert_eq!(got, code, "{pointer} of {}", object["kind"]);
    }

    let one = |collection: &str, name: &str| format!("{collection}/{name}");
    server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "n", "name": "web"}}));
    let entries = |entries: Value| json!({"status": {"loadBalancer": {"ingress": entries}}});
    let series =
        |count| json!({"series": {"count": count, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}});
    for (method, path, kind, body, code) in [
        ("PUT", one(LEASES, "l"), "application/json", lease.clone(), 422),
        ("PUT", one(LEASES, "l"), "application/json", with(&lease, "/metadata/name", json!("m")), 400),
        ("PUT", one(LEASES, "l"), MERGE, lease.clone(), 415),
        ("PUT", one(LEASES, "none"), "application/json", with(&lease, "/metadata/name", json!("none")), 404),
        ("POST", LEASES.to_owned(), "application/json", lease.clone(), 409),
        (
            "DELETE",
            one(LEASES, "l"),
            "application/json",
            json!({"preconditions": {"resourceVersion": "0"}}),
            409,
        ),
        ("PATCH", one(EVENTS, "e"), MERGE, series(1), 422),
        ("PATCH", one(EVENTS, "e"), MERGE, json!({"series": {"count": 2}}), 422),
        ("PATCH", one(EVENTS, "e"), MERGE, json!({"note": "another"}), 422),
        ("PATCH", one(EVENTS, "e"), "application/json", series(2), 415),
        ("PATCH", one(EVENTS, "e"), MERGE, series(2), 200),
        ("PATCH", INGRESS.to_owned(), MERGE, entries(json!([{"ip": "300.1.1.1"}])), 422),
        ("PATCH", INGRESS.to_owned(), MERGE, entries(json!([{"hostname": "A.example"}])), 422),
        ("PATCH", INGRESS.to_owned(), MERGE, entries(json!([{"hostname": "192.0.2.1"}])), 422),
        ("PATCH", INGRESS.to_owned(), MERGE, entries(json!([{"ip": "192.0.2.1", "ipMode": "VIP"}])), 400),
        ("PATCH", INGRESS.to_owned(), MERGE, json!({"metadata": {"resourceVersion": "0"}}), 409),
        (
            "PATCH",
            INGRESS.to_owned(),
            MERGE,
            entries(json!([{"ip": "192.0.2.1"}, {"hostname": "a.example"}])),
            200,
        ),
    ] {
        assert_eq!(ask(&server, method, &path, kind, &body).await, code, "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn questions_that_are_refused() {
    let server = ApiServer::start().await;
    for (query, code) in [
        ("limit=5", 200),
        ("limit=x", 400),
        ("continue=1%0An%0Aa", 200),
        ("continue=1%0An%0Aa&resourceVersion=1", 400),
        ("resourceVersionMatch=NotOlderThan", 422),
        ("resourceVersionMatch=NotOlderThan&resourceVersion=0", 200),
        ("sendInitialEvents=true", 422),
        ("fieldSelector=metadata.name%3Da", 200),
        ("fieldSelector=spec.x%3Da", 400),
        ("watch=true&sendInitialEvents=true&allowWatchBookmarks=true", 422),
        ("watch=true&resourceVersionMatch=NotOlderThan", 422),
        ("watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", 422),
    ] {
        let path = format!("/api/v1/services?{query}");
        assert_eq!(ask(&server, "GET", &path, "application/json", &json!(null)).await, code, "{query}");
    }
}
