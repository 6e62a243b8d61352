//! Endpoints behind TLS.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use sluice::model::*;
use tokio_tungstenite::tungstenite;

use crate::endpoints::secure;
use crate::pki::Authority;
use crate::rig::{Rig, certificate, connect, echo, endpoint, host, read_response, send, tls};

fn rules(change: impl FnOnce(&mut UpstreamTls)) -> Option<Arc<UpstreamTls>> {
    let mut rules = UpstreamTls {
        verify: false,
        roots: vec![],
        depth: 1,
        name: None,
        send_name: false,
        certificate: None,
    };
    change(&mut rules);
    Some(Arc::new(rules))
}

/// A proxy with one cluster, whose endpoint is at `address`, for each of `routes`.
fn rig(address: SocketAddr, routes: Vec<(&str, UpstreamPolicy)>) -> Rig {
    let mut rig = Rig::new();
    rig.cluster("web", &[address]);
    for (name, policy) in routes {
        rig.route_with(&host(name), "/", "web", |draft| draft.policy.upstream = policy);
    }
    rig
}

fn https(tls: Option<Arc<UpstreamTls>>) -> UpstreamPolicy {
    UpstreamPolicy { protocol: Some(UpstreamProtocol::Https), tls, ..UpstreamPolicy::default() }
}

fn get(name: &str) -> String {
    format!("GET /p HTTP/1.1\r\nHost: {}\r\n\r\n", host(name))
}

#[test]
fn certificates_names_and_depth() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let middle = root.below("middle");
    let shown = other.sign("the proxy");
    let near = secure(&root.sign("verify.test"), &[]);
    let far = secure(&middle.sign("verify.test"), &[b"h2", b"http/1.1"]);
    let roots = vec![root.der.clone()];
    let verify = |change: fn(&mut UpstreamTls)| {
        let roots = roots.clone();
        rules(move |rules| {
            (rules.verify, rules.roots) = (true, roots);
            change(rules);
        })
    };
    for (what, address, tls, says) in [
        ("nothing is checked", near, None, Ok("name none, shown nobody, alpn none")),
        ("HTTP/1.1 is asked for", far, None, Ok("alpn http/1.1")),
        ("a name is sent", near, rules(|rules| rules.send_name = true), Ok("name verify.test")),
        (
            "another name is sent",
            near,
            rules(|rules| (rules.send_name, rules.name) = (true, Some("x.test".into()))),
            Ok("name x.test"),
        ),
        ("the request's host is verified", near, verify(|_| ()), Ok("name none")),
        ("another name", near, verify(|rules| rules.name = Some("other.test".into())), Err(())),
        ("an unknown authority", near, rules(|rules| rules.verify = true), Err(())),
        ("one certificate between", far, verify(|_| ()), Ok("alpn http/1.1")),
        ("one too many", far, verify(|rules| rules.depth = 0), Err(())),
        ("shown", near, rules(|rules| rules.certificate = Some(shown.clone())), Ok("shown the proxy")),
    ] {
        let proxy = rig(address, vec![("verify", https(tls))]).start(|_| ());
        let seen = send(proxy.http, &get("verify"));
        let totals = proxy.proxy.stats().total;
        match says {
            Ok(says) => {
                assert_eq!((seen.status, totals.upstream_tls_failures), (200, 0), "{what}: {seen:?}");
                assert!(seen.text().contains(says), "{what}: {}", seen.text());
                assert!(seen.text().contains("GET /p HTTP/1.1\r\nhost: verify.test\r\n"), "{}", seen.text());
            }
            Err(()) => {
                assert_eq!((seen.status, totals.upstream_tls_failures), (502, 1), "{what}: {seen:?}");
                assert!(!seen.text().contains("127.0.0.1"), "{what}: {}", seen.text());
            }
        }
    }
}

#[test]
fn what_is_spoken() {
    use UpstreamProtocol::{Auto, Http, Https};
    let tls_endpoint = secure(&Authority::root("root").sign("web.test"), &[]);
    let plain_endpoint = endpoint(|stream| match is_tls(stream) {
        true => drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        false => echo(stream),
    });
    for (route, cluster, over_tls, address, status) in [
        (Some(Https), Http, false, tls_endpoint, 200),
        (Some(Https), Http, false, plain_endpoint, 502),
        (None, Https, false, tls_endpoint, 200),
        (None, Http, false, plain_endpoint, 200),
        // What the route says goes before what the Service says.
        (Some(Http), Https, false, plain_endpoint, 200),
        (Some(Http), Https, false, tls_endpoint, 502),
        (Some(Auto), Http, false, plain_endpoint, 200),
        (Some(Auto), Http, true, plain_endpoint, 502),
        (Some(Auto), Http, true, tls_endpoint, 200),
    ] {
        let policy = UpstreamPolicy { protocol: route, ..UpstreamPolicy::default() };
        let mut rig = rig(address, vec![("web", policy)]);
        rig.protocol("web", cluster);
        rig.certificate("web.test", certificate("web.test"));
        let proxy = rig.start(|_| ());
        let seen = if over_tls {
            let mut client = tls(proxy.https, "web.test", &[]);
            client.write_all(get("web").as_bytes()).expect("sent");
            read_response(&mut client, false).expect("an answer")
        } else {
            send(proxy.http, &get("web"))
        };
        assert_eq!(seen.status, status, "{route:?} {cluster:?} over TLS: {over_tls}: {seen:?}");
    }
}

fn is_tls(stream: &std::net::TcpStream) -> bool {
    let mut first = [0];
    stream.peek(&mut first).is_ok() && first == [22]
}

#[test]
fn identities_are_not_mixed() {
    let root = Authority::root("root");
    let address = secure(&root.sign("web.test"), &[]);
    let showing = |name: &str| https(rules(|rules| rules.certificate = Some(root.sign(name))));
    let routes = vec![("one", showing("one")), ("two", showing("two")), ("none", https(None))];
    let proxy = rig(address, routes).start(|settings| settings.workers = 1);
    for round in 0..3 {
        for (name, number, shown) in [("one", 0, "one"), ("two", 1, "two"), ("none", 2, "nobody")] {
            let seen = send(proxy.http, &get(name));
            let says = format!("number {number}, name none, shown {shown},");
            assert!(seen.text().contains(&says), "round {round}, {name}: {}", seen.text());
        }
    }
    let totals = proxy.proxy.stats().total;
    assert_eq!((totals.upstream_connects, totals.upstream_reuses), (3, 6));
}

/// Bodies both ways through TLS, larger than what rustls or the socket hold.
#[test]
fn large_bodies() {
    let config = crate::endpoints::server_config(&Authority::root("root").sign("web.test"), &[]);
    let address = endpoint(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
        let mut tls = rustls::StreamOwned::new(connection, stream.try_clone().expect("a stream"));
        let head = crate::rig::read_head(&mut tls).expect("a head");
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .expect("a length");
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut tls, &mut body).expect("the body");
        drop(tls.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()));
        drop(tls.write_all(&body));
        drop(tls.flush());
        // Not closed before the proxy is.
        drop(std::io::Read::read(&mut tls, &mut [0]));
    });
    let proxy = rig(address, vec![("web", https(None))]).start(|_| ());
    let body: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
    let mut client = crate::rig::connect(proxy.http);
    let head = format!("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).expect("sent");
    client.write_all(&body).expect("sent");
    let seen = read_response(&mut client, false).expect("an answer");
    assert!(seen.status == 200 && seen.body == body, "{} bytes of {}", seen.body.len(), body.len());
}

#[test]
fn websockets() {
    let config = crate::endpoints::server_config(&Authority::root("root").sign("web.test"), &[]);
    let address = endpoint(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
        let tls = rustls::StreamOwned::new(connection, stream.try_clone().expect("a stream"));
        let mut socket = tungstenite::accept(tls).expect("an upgrade");
        while let Ok(message) = socket.read() {
            if socket.send(message).is_err() {
                return;
            }
        }
    });
    let proxy = rig(address, vec![("web", https(None))]).start(|_| ());
    let client = tungstenite::client("ws://web.test/", connect(proxy.http));
    let (mut socket, _) = client.expect("an upgrade");
    for message in ["one".to_owned(), "two".repeat(100_000)] {
        socket.send(message.clone().into()).expect("sent");
        assert_eq!(socket.read().expect("an answer").into_text().expect("text").as_str(), message);
    }
}

/// An answer that ends with the connection, which ends without TLS's goodbye.
#[test]
fn ends_without_goodbye() {
    let config = crate::endpoints::server_config(&Authority::root("root").sign("web.test"), &[]);
    let address = endpoint(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
        let mut tls = rustls::StreamOwned::new(connection, stream.try_clone().expect("a stream"));
        let head = crate::rig::read_head(&mut tls).expect("a head");
        let length = if head.contains("/short") { "Content-Length: 9\r\n" } else { "" };
        drop(tls.write_all(format!("HTTP/1.1 200 OK\r\n{length}\r\nhello").as_bytes()));
    });
    let proxy = rig(address, vec![("web", https(None))]).start(|_| ());
    for (path, whole) in [("/", true), ("/short", false)] {
        let mut client = connect(proxy.http);
        let request = format!("GET {path} HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("sent");
        let mut all = Vec::new();
        drop(client.read_to_end(&mut all));
        let text = String::from_utf8_lossy(&all);
        assert_eq!(text.ends_with("5\r\nhello\r\n0\r\n\r\n"), whole, "{path}: {text}");
    }
}
