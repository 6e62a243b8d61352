//! Ingress status, Events and who writes them, against a scripted API server that compares versions
//! and keeps a log of every write.

#[allow(dead_code, reason = "other tests use other parts")]
#[path = "support/api_server/mod.rs"]
mod api_server;
#[path = "support/controller.rs"]
mod controller;
#[allow(dead_code, reason = "other tests use other parts")]
#[path = "support/daemon.rs"]
mod daemon;
#[path = "status/services.rs"]
mod services;

use std::collections::BTreeSet;
use std::time::Duration;

use api_server::{ApiServer, Fault, Rights, Written};
use controller::{Controller, quick, until};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use sluice::model::ObjectKey;
use sluice::status::{Pace, Publish};

fn class(name: &str, controller: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": name}, "spec": {"controller": controller}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "d", "name": name}, "spec": {"ports": [{"port": 80}]}})
}

fn ingress(name: &str, class: &str, to: &str) -> Value {
    let backend = json!({"service": {"name": to, "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "d", "name": name},
        "spec": {"ingressClassName": class, "rules": [{"host": format!("{name}.test"), "http": {"paths": paths}}]}})
}

fn lease() -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"namespace": "sluice-system", "name": "sluice"}})
}

/// A server with our class, another's, a Service, and an Ingress of each class.
async fn cluster() -> ApiServer {
    let server = ApiServer::start().await;
    server.apply(class("sluice", "sluice.dev/ingress-controller"));
    server.apply(class("other", "example.com/other"));
    server.apply(service("web"));
    server.apply(ingress("web", "sluice", "web"));
    server.apply(ingress("foreign", "other", "web"));
    server
}

/// What the Ingress says, in its order.
fn says(server: &ApiServer, name: &str) -> Vec<String> {
    let ingress = server.get(&ingress(name, "", "")).unwrap_or_default();
    let entries = ingress.pointer("/status/loadBalancer/ingress").cloned().unwrap_or_default();
    let text = |entry: &Value| {
        assert!(entry["ports"].is_null(), "{entry}");
        entry["ip"].as_str().or(entry["hostname"].as_str()).expect("an address").to_owned()
    };
    entries.as_array().into_iter().flatten().map(text).collect()
}

async fn until_says(server: &ApiServer, name: &str, expect: &[&str]) {
    until(&format!("{name} says {expect:?}"), || says(server, name) == expect).await;
}

/// Status writes to this Ingress that were done: what they made it say, as text.
fn status_writes(server: &ApiServer, name: &str) -> Vec<String> {
    let of_it = |w: &Written| w.resource == "ingresses/status" && w.name.1 == name && w.code == 200;
    let said = |w: Written| w.body["status"]["loadBalancer"]["ingress"].to_string();
    server.written().into_iter().filter(of_it).map(said).collect()
}

fn holder(server: &ApiServer) -> Option<String> {
    server.get(&lease())?["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

/// Gives an Ingress another class, without touching its status.
fn set_class(server: &ApiServer, name: &str, class: &str) {
    let mut object = server.get(&ingress(name, "", "")).expect("an Ingress");
    object["spec"]["ingressClassName"] = class.into();
    server.apply(object);
}

/// Has somebody write a status.
fn set_status(server: &ApiServer, name: &str, ip: &str) {
    let mut object = server.get(&ingress(name, "", "")).expect("an Ingress");
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    server.apply(object);
}

#[tokio::test]
async fn written_once_and_not_again_after_a_restart() {
    let server = cluster().await;
    set_status(&server, "foreign", "192.0.2.99");
    let publish = ["2001:db8::1", "192.0.2.1", "lb.example"];
    let first = Controller::start(&server, quick("a", &publish));
    until_says(&server, "web", &["192.0.2.1", "2001:db8::1", "lb.example"]).await;
    first.end().await;
    assert_eq!(says(&server, "web").len(), 3, "an end takes nothing back");

    let second = Controller::start(&server, quick("b", &publish));
    server.apply(ingress("later", "sluice", "web"));
    until_says(&server, "later", &["192.0.2.1", "2001:db8::1", "lb.example"]).await;
    assert_eq!(status_writes(&server, "web").len(), 1);
    // A change of the Ingress that leaves the status alone is no reason to write it.
    let mut changed = server.get(&ingress("web", "", "")).expect("an Ingress");
    changed["metadata"]["annotations"] = json!({"a": "b"});
    server.apply(changed);
    server.apply(ingress("last", "sluice", "web"));
    until_says(&server, "last", &["192.0.2.1", "2001:db8::1", "lb.example"]).await;
    assert_eq!(status_writes(&server, "web").len(), 1);
    assert_eq!(says(&server, "foreign"), ["192.0.2.99"]);
    assert!(status_writes(&server, "foreign").is_empty());
    // The server shows a write before its answer has reached the writer.
    until("the second write is counted", || second.report().writes == 2).await;
    let report = second.report();
    assert_eq!((report.is_leader, report.leader.as_deref()), (true, Some("b")));
    for write in server.written().iter().filter(|w| w.resource == "ingresses/status") {
        let fields: Vec<_> = write.body.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["metadata", "status"], "a patch of nothing else");
        assert_eq!((write.verb, write.manager.as_deref()), ("patch", Some("sluice")));
    }
    second.end().await;
}

/// At each status write, the last Lease that was written names the one who wrote it.
fn only_the_holder_wrote(server: &ApiServer, addresses: &[(&str, &str)]) {
    let mut holder = None;
    let mut turns = Vec::new();
    for write in server.written().into_iter().filter(|w| w.code < 300) {
        if write.resource == "leases" && write.name.1 == "sluice" {
            holder = write.body["spec"]["holderIdentity"].as_str().map(str::to_owned);
        }
        if write.resource == "ingresses/status" {
            let said = write.body["status"].to_string();
            let writer = addresses.iter().find(|(_, ip)| said.contains(ip)).map(|(who, _)| (*who).to_owned());
            assert_eq!(writer, holder, "{write:?}");
            turns.push(writer);
        }
    }
    turns.dedup();
    assert_eq!(turns.len(), addresses.len(), "each of them wrote, in turn: {turns:?}");
}

#[tokio::test]
async fn one_writes_and_another_takes_over() {
    let server = cluster().await;
    let mut first = Some(Controller::start(&server, quick("a", &["192.0.2.1"])));
    until_says(&server, "web", &["192.0.2.1"]).await;
    let second = Controller::start(&server, quick("b", &["192.0.2.2"]));
    until("b sees who leads", || second.report().leader.as_deref() == Some("a")).await;
    for n in 0..20 {
        server.apply(ingress(&format!("n{n}"), "sluice", "web"));
    }
    until_says(&server, "n19", &["192.0.2.1"]).await;
    assert!(!second.report().is_leader);

    // Ended by force: its Lease has to run out.
    first.take().expect("a").kill();
    until_says(&server, "web", &["192.0.2.2"]).await;
    assert_eq!(holder(&server).as_deref(), Some("b"));
    let spec = server.get(&lease()).expect("a Lease")["spec"].clone();
    assert_eq!((&spec["leaseTransitions"], &spec["leaseDurationSeconds"]), (&json!(1), &json!(1)));

    // Ended properly: the Lease is let go of, and nobody has to wait.
    let third = Controller::start(&server, quick("c", &["192.0.2.3"]));
    until("c sees who leads", || third.report().leader.as_deref() == Some("b")).await;
    second.end().await;
    until_says(&server, "web", &["192.0.2.3"]).await;
    until_says(&server, "n19", &["192.0.2.3"]).await;
    third.end().await;
    assert_eq!(holder(&server), None);
    only_the_holder_wrote(&server, &[("a", "192.0.2.1"), ("b", "192.0.2.2"), ("c", "192.0.2.3")]);
}

#[tokio::test]
async fn a_leader_stays_leader_through_conflicts() {
    let server = cluster().await;
    let leader = Controller::start(&server, quick("a", &["192.0.2.1"]));
    until_says(&server, "web", &["192.0.2.1"]).await;
    for round in 0..3 {
        // Somebody annotates the Lease: the next renewal is of a version that is no more.
        let mut touched = server.get(&lease()).expect("a Lease");
        touched["metadata"]["annotations"] = json!({"round": round.to_string()});
        server.apply(touched);
        if round == 1 {
            server.fail_next("update", "leases", Fault::Status(500));
        }
        let renewals = |w: &Written| w.resource == "leases" && w.verb == "update" && w.code == 200;
        let before = server.written().iter().filter(|w| renewals(w)).count();
        until("renewed", || server.written().iter().filter(|w| renewals(w)).count() > before).await;
    }
    assert!(server.written().iter().any(|w| w.resource == "leases" && w.code == 409), "there were conflicts");
    server.apply(ingress("later", "sluice", "web"));
    until_says(&server, "later", &["192.0.2.1"]).await;
    let kept = server.get(&lease()).expect("a Lease");
    assert_eq!(kept["metadata"]["annotations"]["round"], "2", "what others write there is kept");
    assert_eq!(kept["spec"]["leaseTransitions"], 0);
    // Deleted by somebody: made anew.
    server.delete(&lease());
    until("the Lease is back", || holder(&server).as_deref() == Some("a")).await;
    leader.end().await;
}

#[tokio::test]
async fn a_lost_lease_leaves_everything_as_it_is() {
    let server = cluster().await;
    let leader = Controller::start(&server, quick("a", &["192.0.2.1"]));
    until_says(&server, "web", &["192.0.2.1"]).await;
    // Another one takes it, and renews it with a clock that is years behind.
    let take = |second: i64| {
        let mut taken = server.get(&lease()).expect("a Lease");
        taken["spec"]["holderIdentity"] = "z".into();
        let time = Timestamp::from_second(second).expect("a time");
        taken["spec"]["renewTime"] = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string().into();
        server.apply(taken);
    };
    take(0);
    until("a knows", || leader.report().leader.as_deref() == Some("z")).await;
    server.apply(ingress("later", "sluice", "web"));
    let looks = server.count("get", "leases");
    let mut second = 0;
    until("a looks on", || {
        second += 1;
        take(second);
        server.count("get", "leases") > looks + 20
    })
    .await;
    assert!(!leader.report().is_leader && says(&server, "later").is_empty());
    assert_eq!(says(&server, "web"), ["192.0.2.1"]);
    // The other one falls silent.
    until_says(&server, "later", &["192.0.2.1"]).await;
    assert_eq!(holder(&server).as_deref(), Some("a"));
    assert_eq!(status_writes(&server, "web").len(), 1);
    leader.end().await;
}

#[tokio::test]
async fn taken_back_when_the_class_changes() {
    let server = cluster().await;
    let leader = Controller::start(&server, quick("a", &["192.0.2.1"]));
    until_says(&server, "web", &["192.0.2.1"]).await;
    set_class(&server, "web", "other");
    until_says(&server, "web", &[]).await;
    assert_eq!(status_writes(&server, "web").last().map(String::as_str), Some("null"));
    // Now it is the other controller's, which may even be at the same address.
    for ip in ["192.0.2.77", "192.0.2.1"] {
        set_status(&server, "web", ip);
        let mark = format!("mark-{}", ip.replace('.', "-"));
        server.apply(ingress(&mark, "sluice", "web"));
        until_says(&server, &mark, &["192.0.2.1"]).await;
        assert_eq!(says(&server, "web"), [ip]);
    }
    assert_eq!(status_writes(&server, "web").len(), 2);
    assert_eq!(leader.report().taken_back, 1);
    // And home again.
    set_status(&server, "web", "192.0.2.77");
    set_class(&server, "web", "sluice");
    until_says(&server, "web", &["192.0.2.1"]).await;
    leader.end().await;
}

/// A class that changed while no Sluice was there: the API's book says who wrote the status.
#[tokio::test]
async fn taken_back_when_nobody_saw_the_class_change() {
    let server = cluster().await;
    for (name, manager, subresource) in
        [("ours", "sluice", Some("status")), ("theirs", "other", Some("status")), ("kubectl", "sluice", None)]
    {
        let mut object = ingress(name, "other", "web");
        object["metadata"]["managedFields"] =
            json!([{"manager": manager, "operation": "Update", "subresource": subresource}]);
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        server.apply(object);
    }
    let leader = Controller::start(&server, quick("a", &["192.0.2.1"]));
    until_says(&server, "ours", &[]).await;
    until_says(&server, "web", &["192.0.2.1"]).await;
    for name in ["theirs", "kubectl"] {
        assert_eq!(says(&server, name), ["192.0.2.1"], "{name}");
        assert!(status_writes(&server, name).is_empty(), "{name}");
    }
    until("it counts what it took back", || leader.report().taken_back == 1).await;
    leader.end().await;
}

#[tokio::test]
async fn failures_are_tried_again_and_empty_nothing() {
    for code in [409, 429, 500, 503] {
        let server = cluster().await;
        for _ in 0..3 {
            server.fail_next("patch", "ingresses/status", Fault::Status(code));
        }
        let leader = Controller::start(&server, quick("a", &["192.0.2.1"]));
        until_says(&server, "web", &["192.0.2.1"]).await;
        assert_eq!(status_writes(&server, "web").len(), 1, "{code}");
        assert_eq!(server.count("patch", "ingresses/status"), 4, "{code}");
        assert!(leader.report().failures >= 3, "{code}: {:?}", leader.report());

        // Nothing at all answers, for longer than a Lease lasts.
        server.outage(Some(code));
        until("it no longer leads", || !leader.report().is_leader).await;
        server.outage(None);
        server.apply(ingress("later", "sluice", "web"));
        until_says(&server, "later", &["192.0.2.1"]).await;
        assert_eq!(
            (says(&server, "web"), status_writes(&server, "web").len()),
            (vec!["192.0.2.1".into()], 1)
        );
        leader.end().await;
    }
}

#[tokio::test]
async fn what_is_deleted_is_forgotten() {
    let server = cluster().await;
    for _ in 0..1000 {
        server.fail_next("patch", "ingresses/status", Fault::Status(500));
    }
    let leader = Controller::start(&server, quick("a", &["192.0.2.1"]));
    until("it tries", || server.count("patch", "ingresses/status") > 2).await;
    server.delete(&ingress("web", "", ""));
    until("it waits for nothing", || leader.report().is_leader && leader.report().writes_waiting == 0).await;
    server.clear_faults();
    server.apply(ingress("web", "other", "web"));
    server.apply(ingress("later", "sluice", "web"));
    until_says(&server, "later", &["192.0.2.1"]).await;
    assert!(says(&server, "web").is_empty() && status_writes(&server, "web").is_empty());
    leader.end().await;
}

fn members(server: &ApiServer) -> BTreeSet<String> {
    let leases = ["a", "b"].map(|who| format!("sluice-{who}"));
    let there = |name: &String| {
        let mut object = lease();
        object["metadata"]["name"] = name.as_str().into();
        server.get(&object).is_some()
    };
    leases.into_iter().filter(there).collect()
}

#[tokio::test]
async fn the_addresses_of_all_nodes_are_published() {
    let server = cluster().await;
    let node = |name: &str| {
        let mut settings = quick(name, &[]);
        settings.publish = Publish::Nodes;
        settings
    };
    let first = Controller::on_node(&server, node("a"), &["192.0.2.1", "2001:db8::1"]);
    until_says(&server, "web", &["192.0.2.1", "2001:db8::1"]).await;
    let second = Controller::on_node(&server, node("b"), &["192.0.2.2", "192.0.2.1"]);
    until_says(&server, "web", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
    assert_eq!(members(&server).len(), 2);
    assert_eq!(first.report().addresses, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    // One that others are to take over from is not published, though it is there.
    second.rest(true);
    until_says(&server, "web", &["192.0.2.1", "2001:db8::1"]).await;
    second.rest(false);
    until_says(&server, "web", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
    first.rest(true);
    until_says(&server, "web", &["192.0.2.1", "192.0.2.2"]).await;
    first.rest(false);
    until_says(&server, "web", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;

    // The leader goes: the other one publishes both until the first has been silent for long enough.
    first.kill();
    until_says(&server, "web", &["192.0.2.1", "192.0.2.2"]).await;
    until("the Lease of a is removed", || members(&server) == BTreeSet::from(["sluice-b".to_owned()])).await;
    assert!(!status_writes(&server, "web").contains(&"null".to_owned()));
    // A Lease that somebody deletes is made again.
    let mut own = lease();
    own["metadata"]["name"] = "sluice-b".into();
    server.delete(&own);
    until("b says again where it is", || members(&server).contains("sluice-b")).await;
    assert_eq!(says(&server, "web"), ["192.0.2.1", "192.0.2.2"]);
    second.end().await;
    assert_eq!(says(&server, "web"), ["192.0.2.1", "192.0.2.2"]);
}

#[tokio::test]
async fn the_address_of_a_service_is_published() {
    let server = cluster().await;
    let mut settings = quick("a", &[]);
    settings.publish = Publish::Service(ObjectKey::new("d", "front"));
    let leader = Controller::start(&server, settings);
    until("it leads", || leader.report().is_leader).await;
    let mut front = service("front");
    front["spec"]["type"] = "LoadBalancer".into();
    server.apply(front.clone());
    server.apply(ingress("later", "sluice", "web"));
    until("both are told of", || leader.report().events == 2).await;
    assert!(says(&server, "web").is_empty(), "nothing is known yet");
    front["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}});
    server.apply(front.clone());
    until_says(&server, "web", &["lb.example"]).await;
    until_says(&server, "later", &["lb.example"]).await;
    // The Service goes, the address stays.
    server.delete(&front);
    until("it is gone", || leader.report().addresses.is_empty()).await;
    server.apply(ingress("last", "sluice", "web"));
    until("the last is told of", || leader.report().events == 3).await;
    assert_eq!((says(&server, "web"), says(&server, "last").len()), (vec!["lb.example".to_owned()], 0));
    leader.end().await;
}

/// Events that were made: (regarding, type, reason), sorted.
fn events(server: &ApiServer) -> Vec<(String, String, String)> {
    let made = |w: &Written| w.resource == "events" && w.verb == "create" && w.code == 201;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = server
        .written()
        .iter()
        .filter(|w| made(w))
        .map(|w| (text(&w.body["regarding"]["name"]), text(&w.body["type"]), text(&w.body["reason"])))
        .collect();
    all.sort();
    all
}

fn event(name: &str, kind: &str, reason: &str) -> (String, String, String) {
    (name.to_owned(), kind.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn issues_become_events_once() {
    let server = cluster().await;
    server.apply(ingress("bad", "sluice", "missing"));
    server.apply(ingress("foreign-bad", "other", "missing"));
    // What has something wrong with it is not told to be well.
    let expect = [event("bad", "Warning", "ServiceNotFound"), event("web", "Normal", "Synced")];
    let first = Controller::start(&server, quick("a", &["192.0.2.1"]));
    until("two Events", || events(&server) == expect).await;
    first.end().await;
    let made = server.written().into_iter().find(|w| w.resource == "events" && w.body["type"] == "Warning");
    let made = made.expect("made").body;
    assert_eq!(
        made["regarding"]["uid"],
        server.get(&ingress("bad", "", "")).expect("there")["metadata"]["uid"]
    );
    assert_eq!(
        (&made["reportingController"], &made["reportingInstance"]),
        (&json!("sluice.dev/ingress-controller"), &json!("a"))
    );
    assert!(made["note"].as_str().is_some_and(|note| note.contains("missing")), "{made}");

    // Another leader: the Event is there already, which the server says, and it is not repeated.
    let second = Controller::start(&server, quick("b", &["192.0.2.1"]));
    server.apply(ingress("later", "sluice", "missing"));
    let mut expect = [&expect[..], &[event("later", "Warning", "ServiceNotFound")]].concat();
    expect.sort();
    until("one more", || events(&server) == expect).await;
    let counted = |w: &Written| w.resource == "events" && w.verb == "patch";
    assert!(!server.written().iter().any(counted), "nothing was said twice");
    assert!(server.written().iter().any(|w| w.resource == "events" && w.code == 409));
    second.end().await;

    // What goes on being wrong is counted up after its time, in the same Event; and made anew when
    // the server has forgotten it.
    let settings =
        sluice::status::Settings { again: Duration::from_millis(300), ..quick("c", &["192.0.2.1"]) };
    let third = Controller::start(&server, settings);
    let of_bad = |w: &&Written| counted(w) && w.name.1.starts_with("bad.") && w.code == 200;
    until("counted up", || server.written().iter().filter(of_bad).count() > 1).await;
    let patch = server.written().iter().rfind(|w| of_bad(w)).cloned().expect("a patch").body;
    assert_eq!(patch.as_object().expect("an object").keys().collect::<Vec<_>>(), ["series"]);
    assert!(patch["series"]["count"].as_i64() >= Some(2), "{patch}");
    assert_eq!(events(&server), expect);
    let name = server.written().iter().rfind(|w| of_bad(w)).expect("a patch").name.1.clone();
    let old = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"namespace": "d", "name": name}});
    server.delete(&old);
    until("made anew", || server.get(&old).is_some_and(|event| event["series"].is_null())).await;
    third.end().await;
}

#[tokio::test]
async fn changes_are_told_and_counted() {
    let server = cluster().await;
    let settings =
        sluice::status::Settings { synced_again: Duration::from_millis(20), ..quick("a", &["192.0.2.1"]) };
    let leader = Controller::start(&server, settings);
    until("served", || events(&server) == [event("web", "Normal", "Synced")]).await;
    until_says(&server, "web", &["192.0.2.1"]).await;
    let counted = |w: &&Written| w.resource == "events" && w.verb == "patch" && w.code == 200;
    assert_eq!(server.written().iter().filter(counted).count(), 0, "its own status is no change");
    let mut changed = server.get(&ingress("web", "", "")).expect("there");
    changed["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/app-root": "/a"});
    server.apply(changed);
    until("counted up", || server.written().iter().filter(counted).count() == 1).await;
    assert_eq!(events(&server).len(), 1);
    leader.end().await;
}

#[tokio::test]
async fn a_flood_of_issues_is_told_slowly() {
    let server = cluster().await;
    for n in 0..300 {
        server.apply(ingress(&format!("bad-{n:03}"), "sluice", "missing"));
    }
    let mut settings = quick("a", &["192.0.2.1"]);
    settings.events = Pace { per_second: 0.01, burst: 7 };
    settings.writes = Pace { per_second: 0.01, burst: 11 };
    let leader = Controller::start(&server, settings);
    until("both buckets are empty", || {
        let report = leader.report();
        (report.events, report.writes) == (7, 11)
            && report.events_waiting == 294
            && report.writes_waiting == 290
    })
    .await;
    assert_eq!((events(&server).len(), server.count("patch", "ingresses/status")), (7, 11));
    leader.end().await;
}

#[tokio::test]
async fn events_that_the_server_refuses_are_counted() {
    let server = cluster().await;
    server.fail_next("create", "events", Fault::Status(500));
    server.fail_next("create", "events", Fault::Status(403));
    let leader = Controller::start(&server, quick("a", &["192.0.2.1"]));
    until("refused", || leader.report().events_dropped == 1).await;
    until_says(&server, "web", &["192.0.2.1"]).await;
    assert!(leader.report().last_error.is_some_and(|error| error.contains("403")));
    server.apply(ingress("later", "sluice", "web"));
    until("the next one is told", || events(&server) == [event("later", "Normal", "Synced")]).await;
    leader.end().await;
}

/// The whole controller, with the rights that a cluster gives it and no others.
#[tokio::test]
async fn rights_are_enough_and_none_is_in_vain() {
    let server = cluster().await;
    server.enforce(Rights::read(include_str!("../../deploy/base/rbac.yaml"), "sluice-system"));
    let secret = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"namespace": "d", "name": name}, "data": {"tls.crt": "eA==", "tls.key": "eA=="}})
    };
    server.apply(secret("one"));
    server.apply(secret("two"));
    server.apply(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "d", "name": "headers"}}),
    );
    let mut tunnel = service("tunnel");
    tunnel["metadata"]["annotations"] = json!({"sluice.dev/forwarding": "dsr-ipip"});
    server.apply(tunnel);
    server.apply(services::balanced("dns", "192.0.2.53"));
    // More objects than there are watches of single ones, and a server that offers no streams: lists
    // and gets are of use, too.
    server.offer_streams(false);
    let mut many = ingress("many", "sluice", "missing");
    many["spec"]["tls"] = (0..80).map(|n| json!({"secretName": format!("s{n}")})).collect();
    many["metadata"]["annotations"] = json!({"sluice.dev/custom-headers": "headers"});
    server.apply(many);
    let mut tls = ingress("tls", "sluice", "missing");
    tls["spec"]["tls"] =
        json!([{"hosts": ["a.test"], "secretName": "one"}, {"hosts": ["b.test"], "secretName": "two"}]);
    server.apply(tls);
    let node = |name: &str| {
        let again = Duration::from_millis(100);
        sluice::status::Settings { publish: Publish::Nodes, again, ..quick(name, &[]) }
    };
    // Of three nodes the leader dies and one ends properly.
    let first = Controller::on_node(&server, node("a"), &["192.0.2.1"]);
    until_says(&server, "web", &["192.0.2.1"]).await;
    let second = Controller::on_node(&server, node("b"), &["192.0.2.2"]);
    until_says(&server, "web", &["192.0.2.1", "192.0.2.2"]).await;
    first.kill();
    until_says(&server, "web", &["192.0.2.2"]).await;
    set_class(&server, "web", "other");
    until_says(&server, "web", &[]).await;
    until("every right was of use", || {
        assert_eq!(server.refused(), []);
        server.unused_rights().is_empty()
    })
    .await;
    second.end().await;
    assert_eq!((holder(&server), server.refused()), (None, vec![]));
}

/// The binary as a cluster runs it.
mod binary {
    use super::*;
    use crate::daemon::{Daemon, text, until};

    #[test]
    fn writes_status_and_lets_go_at_its_end() {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                sender.send(cluster().await).expect("the test waits");
                std::future::pending::<()>().await;
            });
        });
        let server = receiver.recv().expect("a server");
        let dir = tempfile::tempdir().expect("a directory");
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).expect("a file");
        let kubeconfig = kubeconfig.to_str().expect("UTF-8").to_owned();
        let options = ["--kubernetes", "--kubeconfig", &kubeconfig];
        let mut daemon = Daemon::launch(dir, &options, &[], Daemon::is_ready);
        until("the VIP is published", || (says(&server, "web") == ["127.0.0.1"]).then_some(()));
        let report = until("the report", || {
            Some(daemon.json(&["status"])["publishing"].clone()).filter(|report| report["writes"] == 1)
        });
        assert_eq!((&report["is_leader"], &report["addresses"]), (&json!(true), &json!(["127.0.0.1"])));
        let shown = text(&daemon.ask(&["status"]).stdout);
        assert!(shown.contains("this daemon (") && shown.contains("1 statuses"), "{shown}");
        // Without a namespace of its own in the kubeconfig, the Lease is in the default one.
        let mut own = lease();
        own["metadata"]["namespace"] = "default".into();
        let holder =
            || server.get(&own).and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned));
        assert!(holder().is_some());
        let unnamed = server.seen().into_iter().find(|seen| !seen.agent.starts_with("sluice/"));
        assert_eq!(unnamed, None, "each request says whose it is");
        daemon.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
        assert_eq!((holder(), says(&server, "web")), (None, vec!["127.0.0.1".to_owned()]));
    }
}
