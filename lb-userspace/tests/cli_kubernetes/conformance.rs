//! The scenarios of kubernetes-sigs/ingress-controller-conformance: the real daemon against the
//! scripted API server. Each begins as that suite does: by waiting for an address in the Ingress's
//! status.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::daemon::{DEADLINE, Daemon, text, until};
use crate::{api_server, follow};

const NAMESPACE: &str = "conformance";

/// A pod of the suite's echo server: tells in JSON who it is and what it was asked.
fn pod(service: &str, name: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (service, name) = (service.to_owned(), name.to_owned());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (service, name) = (service.clone(), name.clone());
            std::thread::spawn(move || echo(&stream, &service, &name));
        }
    });
    address
}

fn echo(mut stream: &TcpStream, service: &str, name: &str) {
    let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(count) if count > 0 => {}
                _ => return,
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let words: Vec<_> = lines[0].split(' ').collect();
        let headers: BTreeMap<_, _> = lines[1..].iter().filter_map(|line| line.split_once(": ")).collect();
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if reader.read_exact(&mut vec![0; length]).is_err() {
            return;
        }
        let body = json!({"service": service, "pod": name, "method": words[0], "path": words[1],
            "proto": words[2], "host": headers.get("host"), "headers": headers})
        .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let body = if words[0] == "HEAD" { "" } else { &body };
        if stream.write_all((head + body).as_bytes()).is_err() {
            return;
        }
    }
}

/// A Service with so many pods.
fn publish(server: &ApiServer, service: &str, pods: usize) {
    server.apply(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": service}, "spec": {"ports": [{"port": 8080}]}}));
    for number in 0..pods {
        let name = format!("{service}-{number}");
        let address = pod(service, &name);
        server.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {"namespace": NAMESPACE, "name": name,
                "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"port": address.port()}],
            "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}]}));
    }
}

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 8080}}})
}

/// Host, and paths with their type and Service.
fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<_> = paths
        .iter()
        .map(|(path, kind, service)| json!({"path": path, "pathType": kind, "backend": backend(service)}))
        .collect();
    json!({"host": host, "http": {"paths": paths}})
}

fn ingress(name: &str, class: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": NAMESPACE, "name": name}, "spec": spec});
    object["spec"]["ingressClassName"] = class.into();
    object
}

/// A cluster with a daemon, which knows no more than its class.
fn cluster() -> (ApiServer, Daemon) {
    let server = api_server();
    server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}}));
    let daemon = follow(&server, &[], Daemon::is_ready);
    (server, daemon)
}

fn addresses(server: &ApiServer, object: &Value) -> Vec<String> {
    let ingress = server.get(object).unwrap_or_default();
    let entries = ingress.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).cloned();
    entries.into_iter().flatten().filter_map(|entry| entry["ip"].as_str().map(str::to_owned)).collect()
}

/// Creates an Ingress; where it can be reached.
fn reached(server: &ApiServer, object: &Value) -> String {
    server.apply(object.clone());
    until("an address in the status", || addresses(server, object).into_iter().next())
}

/// An answer.
struct Answer {
    status: u16,
    protocol: String,
    headers: BTreeSet<String>,
    body: Value,
}

fn ask(stream: &mut (impl Read + Write), method: &str, host: &str, path: &str) -> Answer {
    let length = if ["POST", "PUT", "PATCH"].contains(&method) { "Content-Length: 0\r\n" } else { "" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: conformance/1.0\r\n{length}Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    // TLS connections may end without a goodbye.
    let _ = stream.read_to_end(&mut answer);
    let answer = text(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let mut lines = head.lines();
    let (protocol, status) = lines.next().and_then(|line| line.split_once(' ')).expect("a status line");
    Answer {
        status: status[..3].parse().expect("a status"),
        protocol: protocol.to_owned(),
        headers: lines.filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase())).collect(),
        body: serde_json::from_str(body).unwrap_or_default(),
    }
}

fn http(daemon: &Daemon, address: &str, method: &str, host: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect((address, daemon.http)).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    ask(&mut stream, method, host, path)
}

#[track_caller]
fn assert_served_by(answer: &Answer, service: &str, what: &str) {
    match service {
        "404" => assert_eq!(answer.status, 404, "{what}"),
        _ => assert_eq!((answer.status, &answer.body["service"]), (200, &json!(service)), "{what}"),
    }
}

#[test]
fn default_backend() {
    let (server, daemon) = cluster();
    publish(&server, "echo", 1);
    let object = ingress("default-backend", "sluice", json!({"defaultBackend": backend("echo")}));
    let address = reached(&server, &object);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = http(&daemon, &address, method, "any.example.test", "/sub/path?q=1");
        assert_served_by(&answer, "echo", method);
        let told = &answer.body;
        assert_eq!((&told["method"], &told["path"]), (&json!(method), &json!("/sub/path?q=1")));
        assert_eq!((&told["proto"], &told["host"]), (&json!("HTTP/1.1"), &json!("any.example.test")));
        assert_eq!(told["headers"]["user-agent"], "conformance/1.0", "{told}");
        assert_eq!(answer.protocol, "HTTP/1.1");
        for name in ["content-length", "content-type", "date", "server"] {
            assert!(answer.headers.contains(name), "{method}: no {name} in {:?}", answer.headers);
        }
    }
}

#[test]
fn host_rules() {
    let (server, daemon) = cluster();
    publish(&server, "wildcard-foo-com", 1);
    publish(&server, "foo-bar-com", 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["foo.bar.com".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("a certificate");
    server.apply(crate::races::secret(NAMESPACE, &certificate.pem(), &key.serialize_pem()));
    let spec = json!({
        "tls": [{"hosts": ["foo.bar.com"], "secretName": "site"}],
        "rules": [
            rule("*.foo.com", &[("/", "Prefix", "wildcard-foo-com")]),
            rule("foo.bar.com", &[("/", "Prefix", "foo-bar-com")]),
        ],
    });
    let address = reached(&server, &ingress("host-rules", "sluice", spec));

    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("foo.bar.com").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect((address.as_str(), daemon.https)).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut tls = StreamOwned::new(connection, stream);
    let answer = ask(&mut tls, "GET", "foo.bar.com", "/");
    assert_served_by(&answer, "foo-bar-com", "https, with a certificate that can be verified");
    assert_eq!(answer.body["host"], "foo.bar.com");

    for (host, service) in [
        ("foo.bar.com", "foo-bar-com"),
        ("subdomain.bar.com", "404"),
        ("bar.foo.com", "wildcard-foo-com"),
        ("BAR.foo.com", "wildcard-foo-com"),
        ("baz.bar.foo.com", "404"),
        ("foo.com", "404"),
    ] {
        let answer = http(&daemon, &address, "GET", host, "/");
        assert_served_by(&answer, service, host);
    }
}

#[test]
fn ingress_class() {
    let (server, daemon) = cluster();
    publish(&server, "echo", 1);
    let spec = |host: &str| json!({"rules": [rule(host, &[("/", "Prefix", "echo")])]});
    let foreign = ingress("foreign", "some-other-class", spec("foreign.test"));
    server.apply(foreign.clone());
    let address = reached(&server, &ingress("own", "sluice", spec("own.test")));
    assert_eq!(addresses(&server, &foreign), Vec::<String>::new());
    assert_served_by(&http(&daemon, &address, "GET", "own.test", "/"), "echo", "our own");
    assert_served_by(&http(&daemon, &address, "GET", "foreign.test", "/"), "404", "another's");
}

#[test]
fn load_balancing() {
    let (server, daemon) = cluster();
    publish(&server, "echo", 10);
    let spec = json!({"rules": [rule("load-balancing", &[("/", "Prefix", "echo")])]});
    let address = reached(&server, &ingress("load-balancing", "sluice", spec));
    let mut pods = BTreeSet::new();
    for number in 0..100 {
        let answer = http(&daemon, &address, "GET", "load-balancing", "/");
        assert_served_by(&answer, "echo", &number.to_string());
        pods.insert(answer.body["pod"].to_string());
    }
    assert_eq!(pods.len(), 10, "{pods:?}");
}

#[test]
fn path_rules() {
    let (server, daemon) = cluster();
    for service in [
        "foo-exact",
        "foo-prefix",
        "foo-slash-exact",
        "aaa-prefix",
        "aaa-slash-bbb-prefix",
        "aaa-slash-bbb-slash-prefix",
    ] {
        publish(&server, service, 1);
    }
    let spec = json!({"rules": [
        rule("exact-path-rules", &[("/foo", "Exact", "foo-exact")]),
        rule("prefix-path-rules", &[
            ("/foo", "Prefix", "foo-prefix"),
            ("/aaa/bbb", "Prefix", "aaa-slash-bbb-prefix"),
            ("/aaa", "Prefix", "aaa-prefix"),
        ]),
        rule("mixed-path-rules", &[("/foo", "Prefix", "foo-prefix"), ("/foo", "Exact", "foo-exact")]),
        rule("trailing-slash-path-rules", &[
            ("/aaa/bbb/", "Prefix", "aaa-slash-bbb-slash-prefix"),
            ("/foo/", "Exact", "foo-slash-exact"),
        ]),
    ]});
    let address = reached(&server, &ingress("path-rules", "sluice", spec));
    for (host, path, service) in [
        ("exact-path-rules", "/foo", "foo-exact"),
        ("exact-path-rules", "/foo/", "404"),
        ("exact-path-rules", "/FOO", "404"),
        ("exact-path-rules", "/bar", "404"),
        ("prefix-path-rules", "/foo", "foo-prefix"),
        ("prefix-path-rules", "/foo/", "foo-prefix"),
        ("prefix-path-rules", "/FOO", "404"),
        ("prefix-path-rules", "/aaa/bbb", "aaa-slash-bbb-prefix"),
        ("prefix-path-rules", "/aaa/bbb/ccc", "aaa-slash-bbb-prefix"),
        ("prefix-path-rules", "/aaa/bbbccc", "aaa-prefix"),
        ("prefix-path-rules", "/aaa/ccc", "aaa-prefix"),
        ("prefix-path-rules", "/aaaccc", "404"),
        ("mixed-path-rules", "/foo", "foo-exact"),
        ("mixed-path-rules", "/foo/", "foo-prefix"),
        ("trailing-slash-path-rules", "/aaa/bbb", "aaa-slash-bbb-slash-prefix"),
        ("trailing-slash-path-rules", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"),
        ("trailing-slash-path-rules", "/foo", "404"),
        ("trailing-slash-path-rules", "/foo/", "foo-slash-exact"),
    ] {
        let answer = http(&daemon, &address, "GET", host, path);
        assert_served_by(&answer, service, &format!("{host}{path}"));
    }
}
