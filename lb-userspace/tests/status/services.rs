//! What Services of type LoadBalancer are told that they are reached at.

use super::*;

/// A Service of our class that asks for addresses.
pub fn balanced(name: &str, vips: &str) -> Value {
    let mut service = service(name);
    service["metadata"]["annotations"] = json!({"sluice.dev/vips": vips});
    service["spec"]["type"] = "LoadBalancer".into();
    service["spec"]["loadBalancerClass"] = "sluice.dev/xdp".into();
    service
}

fn says(server: &ApiServer, name: &str) -> Vec<String> {
    let service = server.get(&service(name)).unwrap_or_default();
    let entries = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).cloned();
    entries.into_iter().flatten().map(|entry| entry["ip"].as_str().expect("an address").to_owned()).collect()
}

async fn until_says(server: &ApiServer, name: &str, expect: &[&str]) {
    until(&format!("{name} says {expect:?}"), || says(server, name) == expect).await;
}

fn writes(server: &ApiServer) -> Vec<(String, u16)> {
    let of_services = |written: &Written| written.resource == "services/status";
    server.written().into_iter().filter(of_services).map(|written| (written.name.1, written.code)).collect()
}

#[tokio::test]
async fn they_say_the_addresses_that_they_ask_for() {
    let server = cluster().await;
    // Of the same address, the older has it; what somebody else has handed out is that one's to say; another
    // class is nobody's business here.
    let mut older = balanced("older", "192.0.2.1,2001:db8::1");
    older["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    server.apply(older);
    let mut younger = balanced("younger", "192.0.2.1");
    younger["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z".into();
    server.apply(younger);
    let mut given = balanced("given", "");
    given["metadata"]["annotations"] = json!({});
    given["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
    server.apply(given);
    let mut foreign = balanced("foreign", "192.0.2.8");
    foreign["spec"]["loadBalancerClass"] = "example.com/other".into();
    server.apply(foreign);
    let mut asks = balanced("asks", "");
    asks["metadata"]["annotations"] = json!({});
    asks["spec"]["loadBalancerIP"] = "192.0.2.9".into();
    server.apply(asks);

    let leader = Controller::start(&server, quick("a", &["192.0.2.99"]));
    until_says(&server, "older", &["192.0.2.1", "2001:db8::1"]).await;
    until_says(&server, "asks", &["192.0.2.9"]).await;
    // An address more, one less.
    let mut changed = server.get(&service("older")).expect("a Service");
    changed["metadata"]["annotations"] = json!({"sluice.dev/vips": "192.0.2.1,192.0.2.2"});
    server.apply(changed);
    until_says(&server, "older", &["192.0.2.1", "192.0.2.2"]).await;
    // Somebody writes over it.
    let mut changed = server.get(&service("asks")).expect("a Service");
    changed["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}});
    server.apply(changed);
    until_says(&server, "asks", &["192.0.2.9"]).await;
    // The older goes, and the younger has the address.
    server.delete(&service("older"));
    until_says(&server, "younger", &["192.0.2.1"]).await;
    // Without the annotation what it says is what it has.
    let mut changed = server.get(&service("younger")).expect("a Service");
    changed["metadata"]["annotations"] = json!({});
    server.apply(changed);
    server.apply(ingress("last", "sluice", "web"));
    super::until_says(&server, "last", &["192.0.2.99"]).await;
    assert_eq!(
        (says(&server, "younger"), says(&server, "given")),
        (vec!["192.0.2.1".into()], vec!["192.0.2.7".into()])
    );
    assert!(says(&server, "foreign").is_empty());
    let mut done: Vec<_> =
        writes(&server).into_iter().filter(|(_, code)| *code == 200).map(|(name, _)| name).collect();
    done.sort_unstable();
    assert_eq!(done, ["asks", "asks", "older", "older", "younger"]);
    leader.end().await;

    // Nothing is written anew by the next one, nor taken back by the end of the one before.
    let next = Controller::start(&server, quick("b", &["192.0.2.99"]));
    server.apply(balanced("later", "192.0.2.20"));
    until_says(&server, "later", &["192.0.2.20"]).await;
    assert_eq!(writes(&server).iter().filter(|(_, code)| *code == 200).count(), 6);
    next.end().await;
}
