//! Nodes: only while a Service asks where packets in packets go.

use std::net::IpAddr;

use serde_json::{Value, json};
use sluice::model::ObjectKey;
use sluice::source::kubernetes;

use crate::common::*;

fn node(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]}})
}

fn asking(name: &str) -> Value {
    let mut service = service(name);
    service["metadata"]["annotations"] = json!({"sluice.dev/forwarding": "dsr-ipip"});
    service
}

#[tokio::test]
async fn nodes_are_read_while_a_service_asks() {
    for streams in [true, false] {
        let server = server(streams).await;
        server.apply(node("a", "192.0.2.1"));
        server.apply(service("one"));
        let mut updates = kubernetes::watch(server.client(), settings());
        until_names(&mut updates, "without", &["service one"]).await;
        assert_eq!(server.count("list", "nodes") + server.count("watch", "nodes"), 0, "nobody asks");

        // Who asks is told together with what it asks for.
        server.apply(asking("one"));
        let asks = |update: &sluice::source::Update| {
            update.objects.services.values().any(|service| !service.metadata.annotations.is_empty())
        };
        let update = until(&mut updates, "asked", asks).await;
        assert!(names(&update).contains("node a"), "{:?}", names(&update));
        server.apply(node("b", "192.0.2.2"));
        server.apply(asking("two"));
        until_names(&mut updates, "two", &["node a", "node b", "service one", "service two"]).await;
        server.apply(node("b", "192.0.2.3"));
        let moved: IpAddr = [192, 0, 2, 3].into();
        let address = |update: &sluice::source::Update| {
            let node = update.objects.nodes.get(&ObjectKey::new("", "b"));
            node.and_then(|node| node.address(true))
        };
        until(&mut updates, "moved", |update| address(update) == Some(moved)).await;
        server.delete(&node("a", ""));
        server.apply(service("one"));
        until_names(&mut updates, "one asks", &["node b", "service one", "service two"]).await;
        server.delete(&asking("two"));
        until_names(&mut updates, "nobody asks", &["service one"]).await;
        server.apply(asking("one"));
        until_names(&mut updates, "again", &["node b", "service one"]).await;
    }
}
