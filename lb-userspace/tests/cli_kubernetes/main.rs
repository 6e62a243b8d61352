//! The real binary against a scripted API server, with a real endpoint behind it: what a cluster
//! would see of the daemon before, in and after every kind of outage.

#[path = "../support/anyone.rs"]
mod anyone;
#[allow(dead_code, reason = "other tests use other parts")]
#[path = "../support/api_server/mod.rs"]
mod api_server;
#[allow(dead_code, reason = "other tests use other parts")]
#[path = "../support/daemon.rs"]
mod daemon;

mod conformance;
mod kubectl;
mod races;

use std::net::SocketAddr;
use std::time::Duration;

use api_server::{ApiServer, Fault};
use daemon::{Daemon, endpoint, get, text, until};
use serde_json::{Value, json};

/// A server on a runtime of its own, which lasts as long as the test's process.
fn api_server() -> ApiServer {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = ApiServer::start().await;
            sender.send(server).expect("the test waits");
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().expect("a server")
}

/// A daemon that follows the server; `up` says when to go on.
fn follow(server: &ApiServer, environment: &[(&str, &str)], up: impl Fn(&Daemon) -> bool) -> Daemon {
    let dir = tempfile::tempdir().expect("a directory");
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).expect("a file");
    let kubeconfig = kubeconfig.to_str().expect("UTF-8").to_owned();
    Daemon::launch(dir, &["--kubernetes", "--kubeconfig", &kubeconfig], environment, up)
}

/// Class, Ingress, Service and its slice: `web.test` leads to the endpoint.
fn publish(server: &ApiServer, to: SocketAddr) {
    server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}}));
    server.apply(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "d", "name": "web"}, "spec": {"ports": [{"port": 80}]}}));
    server.apply(ingress("web", "sluice", "web.test"));
    server.apply(slice(&[to]));
}

fn ingress(name: &str, class: &str, host: &str) -> Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "d", "name": name},
        "spec": {"ingressClassName": class, "rules": [{"host": host, "http": {"paths": paths}}]}})
}

fn slice(to: &[SocketAddr]) -> Value {
    let endpoints: Vec<_> = to.iter().map(|a| json!({"addresses": [a.ip().to_string()]})).collect();
    let port = to.first().map_or(80, SocketAddr::port);
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": port}], "endpoints": endpoints})
}

fn health(daemon: &Daemon) -> String {
    daemon.json(&["status"])["source"]["health"].as_str().expect("text").to_owned()
}

/// Waits until the status says something of the source.
fn until_health(daemon: &Daemon, what: &str) -> String {
    until(what, || Some(health(daemon)).filter(|health| health.contains(what)))
}

fn until_served_by(daemon: &Daemon, host: &str, name: &str) {
    until(name, || {
        let (status, body) = daemon.get(host, "/");
        (status == 200 && body.starts_with(name)).then_some(())
    });
}

fn answers(daemon: &Daemon) -> bool {
    daemon.ask(&["probe", "live"]).status.code() == Some(0)
}

#[test]
fn serves_what_the_api_says() {
    let server = api_server();
    let (red, blue) = (endpoint("red", Duration::ZERO), endpoint("blue", Duration::ZERO));
    publish(&server, red);
    // An empty variable is none; several classes are separated by commas.
    let environment = [("SLUICE_ADOPT_CLASS", "other,nginx"), ("SLUICE_DEFAULT_BACKEND", "")];
    let daemon = follow(&server, &environment, Daemon::is_ready);
    assert_eq!(daemon.get("web.test", "/x"), (200, "red GET /x HTTP/1.1".to_owned()));
    assert_eq!((daemon.get("none.test", "/").0, health(&daemon)), (404, "ok".to_owned()));

    server.apply(slice(&[blue]));
    until_served_by(&daemon, "web.test", "blue");
    server.apply(slice(&[]));
    until("no endpoint", || (daemon.get("web.test", "/").0 == 503).then_some(()));
    server.apply(slice(&[red]));
    until_served_by(&daemon, "web.test", "red");

    server.apply(ingress("foreign", "traefik", "foreign.test"));
    server.apply(ingress("adopted", "nginx", "adopted.test"));
    until_served_by(&daemon, "adopted.test", "red");
    assert_eq!(daemon.get("foreign.test", "/").0, 404);
    server.delete(&ingress("adopted", "nginx", "adopted.test"));
    until("the host goes", || (daemon.get("adopted.test", "/").0 == 404).then_some(()));
}

#[test]
fn is_not_ready_before_the_first_lists_and_says_why() {
    let server = api_server();
    publish(&server, endpoint("red", Duration::ZERO));
    for _ in 0..1000 {
        server.fail_next("list", "endpointslices", Fault::Status(403));
        server.fail_next("watch", "endpointslices", Fault::Status(403));
    }
    let daemon = follow(&server, &[], answers);
    let health = until_health(&daemon, "403");
    assert!(health.contains("degraded") && health.contains("nothing was read yet"), "{health}");
    assert!(health.contains("EndpointSlice"), "{health}");
    assert_eq!(daemon.ask(&["status"]).status.code(), Some(1));
    let probe = daemon.ask(&["probe", "ready"]);
    assert_eq!(probe.status.code(), Some(1), "{}", text(&probe.stdout));
    let (code, why) = get(daemon.health, "h", "/readyz");
    assert!(code == 503 && why.contains("403"), "{code} {why}");
    assert_eq!(get(daemon.health, "h", "/healthz").0, 200, "waiting is no illness");
    assert_eq!(daemon.get("web.test", "/").0, 0, "connections are refused, not answered 404");

    server.clear_faults();
    until_served_by(&daemon, "web.test", "red");
    assert!(daemon.is_ready() && answers(&daemon));
    assert_eq!(daemon.ask(&["probe", "ready"]).status.code(), Some(0));
    let log = daemon.log();
    assert_eq!(log.matches("nothing to serve yet").count(), 1, "once for each change: {log}");
}

#[test]
fn outages_are_told_and_change_nothing_for_clients() {
    let server = api_server();
    let (red, blue) = (endpoint("red", Duration::ZERO), endpoint("blue", Duration::ZERO));
    publish(&server, red);
    let daemon = follow(&server, &[], Daemon::is_ready);

    server.outage(Some(500));
    server.disconnect_all();
    let told = until_health(&daemon, "500");
    assert!(told.contains("serving the last good state"), "{told}");
    assert_eq!(daemon.get("web.test", "/").0, 200);
    assert!(daemon.is_ready(), "an outage of the API takes no node out of service");
    server.apply(slice(&[blue]));
    server.outage(None);
    until_served_by(&daemon, "web.test", "blue");
    until_health(&daemon, "ok");
    assert!(daemon.log().contains("the source can be read again"), "{}", daemon.log());

    // History is gone: everything is listed anew, what went meanwhile is gone too.
    let watches = server.count("watch", "ingresses");
    server.outage(Some(410));
    server.gone();
    server.delete(&ingress("web", "sluice", "web.test"));
    server.apply(ingress("new", "sluice", "new.test"));
    assert_eq!(daemon.get("web.test", "/").0, 200);
    server.outage(None);
    until_served_by(&daemon, "new.test", "blue");
    assert_eq!(daemon.get("web.test", "/").0, 404);
    assert!(server.count("watch", "ingresses") > watches);
    until_health(&daemon, "ok");
}

#[test]
fn a_kubeconfig_that_can_not_be_used_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, "kind: [").expect("a file");
    let socket = dir.path().join("s");
    for file in [file.as_path(), std::path::Path::new("/no/such/kubeconfig")] {
        let out = daemon::command()
            .args(["run", "--no-xdp", "--kubernetes", "--health", "127.0.0.1:0", "--kubeconfig"])
            .arg(file)
            .arg("--socket")
            .arg(&socket)
            .output()
            .expect("the binary runs");
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains("kubeconfig") && !said.contains("panicked"), "{said}");
    }
}
