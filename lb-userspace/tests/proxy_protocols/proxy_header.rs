//! PROXY headers: from load balancers in front, and to endpoints.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use sluice::model::*;

use crate::SOON;
use crate::rig::*;

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 8443\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn v2() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend([203, 0, 113, 7, 198, 51, 100, 1, 18, 103, 32, 251]);
    bytes
}

fn from(net: &str) -> ProxyProtocol {
    ProxyProtocol { from: vec![net.parse().expect("a net")], header_timeout: Duration::from_secs(20) }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    rig.certificate("a.test", certificate("a.test"));
    rig
}

/// Header and request in one piece, by the byte, and through TLS.
#[test]
fn the_client_is_who_the_header_says() {
    let proxy = rig().start(|settings| settings.proxy_protocol = from("127.0.0.0/8"));
    for header in [V1, &v2()] {
        for size in [1, 20, 1000] {
            let mut stream = connect(proxy.http);
            stream.set_nodelay(true).expect("an option");
            for piece in [header, GET.as_bytes()].concat().chunks(size) {
                stream.write_all(piece).expect("sent");
            }
            let text = read_response(&mut stream, false).expect("an answer").text();
            for line in [
                "x-real-ip: 203.0.113.7\r\n",
                "x-forwarded-for: 203.0.113.7\r\n",
                "x-forwarded-port: 8443\r\n",
            ] {
                assert!(text.contains(line), "{line:?} by {size}: {text}");
            }
        }
        let mut stream = connect(proxy.https);
        stream.write_all(header).expect("sent");
        let name = ServerName::try_from("a.test").expect("a name");
        let client = ClientConnection::new(tls_config(&[], |_| true), name).expect("a client");
        let mut tls = StreamOwned::new(client, stream);
        tls.write_all(GET.as_bytes()).expect("sent");
        let text = read_response(&mut tls, false).expect("an answer").text();
        assert!(text.contains("x-real-ip: 203.0.113.7\r\n"), "{text}");
    }
    // A load balancer that asks for itself.
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut stream = connect(proxy.http);
        stream.write_all(&[header, GET.as_bytes()].concat()).expect("sent");
        let text = read_response(&mut stream, false).expect("an answer").text();
        assert!(text.contains("x-real-ip: 127.0.0.1\r\n"), "{text}");
    }
    assert_eq!(proxy.proxy.stats().total.proxy_header_failures, 0);
}

#[test]
fn connections_without_a_good_header() {
    let rules = ProxyProtocol { header_timeout: SOON, ..from("127.0.0.0/8") };
    let proxy = rig().start(|settings| settings.proxy_protocol = rules);
    let rows: [(&str, &[u8]); 7] = [
        ("a request", GET.as_bytes()),
        ("no address", b"PROXY TCP4 a b c d\r\n"),
        ("a line without end", &[b'P'; 200]),
        ("the begin of a line", b"PROXY TCP4 203.0.113.7"),
        ("the begin of a header", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb"),
        ("another version", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"),
        ("nothing", b""),
    ];
    for (n, (what, bytes)) in rows.into_iter().enumerate() {
        for address in [proxy.http, proxy.https] {
            let mut stream = connect(address);
            stream.write_all(bytes).expect("sent");
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "{what}: no answer, not even a bad one");
        }
        eventually(|| proxy.proxy.stats().total.proxy_header_failures == 2 * (n as u64 + 1));
    }
    let totals = proxy.proxy.stats().total;
    assert_eq!((totals.requests, totals.tls_failures), (0, 0));
}

/// A header is only looked for where it is meant to be: anywhere else it is a bad request.
#[test]
fn headers_of_strangers_are_not_believed() {
    let mut proxy = rig().start(|settings| settings.proxy_protocol = from("192.0.2.0/24"));
    let send_both = |proxy: &Running| {
        let mut stream = connect(proxy.http);
        stream.write_all(&[V1, GET.as_bytes()].concat()).expect("sent");
        read_response(&mut stream, false).map(|seen| (seen.status, seen.text().contains("203.0.113.7")))
    };
    assert_eq!(send(proxy.http, GET).status, 200);
    assert_eq!(send_both(&proxy), Some((400, false)));
    // The cluster's settings go before the node's.
    proxy.change(|rig| rig.proxy_protocol = Some(Arc::new(from("127.0.0.0/8"))));
    assert_eq!(send_both(&proxy), Some((200, true)));
    proxy.change(|rig| rig.proxy_protocol = Some(Arc::default()));
    assert_eq!(send_both(&proxy), Some((400, false)));
}

/// The address in the header decides who gets in, and whether X-Forwarded-For counts.
#[test]
fn rules_see_the_address_in_the_header() {
    let mut rig = rig();
    for (name, net) in [("in.test", "203.0.113.0/24"), ("out.test", "127.0.0.0/8")] {
        rig.route_with(name, "/", "web", |draft| {
            draft.policy.access.allow = Some(Arc::new([net.parse().expect("a net")]));
        });
    }
    let proxy = rig.start(|settings| {
        settings.proxy_protocol = from("127.0.0.0/8");
        settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")];
        settings.max_client_connections = 1;
    });
    for (host, status) in [("in.test", 200), ("out.test", 403)] {
        let get = GET.replace("a.test\r\n", &format!("{host}\r\nX-Forwarded-For: 127.0.0.1\r\n"));
        let seen = send(proxy.http, &format!("{}{get}", String::from_utf8_lossy(V1)));
        assert_eq!(seen.status, status, "{host}: {}", seen.text());
        eventually(|| proxy.proxy.stats().total.active == 0);
    }
    // So does it who has how many connections.
    let open = |header: &[u8]| {
        let mut stream = connect(proxy.http);
        stream.write_all(&[header, GET.as_bytes()].concat()).expect("sent");
        let answered = read_response(&mut stream, false).is_some();
        (stream, answered)
    };
    let (_held, first) = open(V1);
    assert!(first && !open(&v2()).1 && open(b"PROXY TCP4 203.0.113.8 198.51.100.1 1 80\r\n").1);
}

/// An endpoint that takes a PROXY header, and answers each request with it.
fn behind_header(stream: &mut TcpStream) {
    let mut header = vec![0; 5];
    if stream.read_exact(&mut header).is_err() {
        return;
    }
    let text = if header == b"PROXY" {
        while !header.ends_with(b"\r\n") {
            let mut byte = [0];
            drop(stream.read_exact(&mut byte));
            header.push(byte[0]);
        }
        String::from_utf8_lossy(&header).trim_end().to_owned()
    } else {
        header.resize(16, 0);
        drop(stream.read_exact(&mut header[5..]));
        let mut ends = vec![0; usize::from(u16::from_be_bytes([header[14], header[15]]))];
        drop(stream.read_exact(&mut ends));
        let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ends[at..at + 4]).expect("four"));
        let port = |at: usize| u16::from_be_bytes([ends[at], ends[at + 1]]);
        format!("v2 {:x?} {} {} {} {}", &header[12..14], ip(0), ip(4), port(8), port(10))
    };
    say(stream, &text);
}

#[test]
fn endpoints_are_told_whom_they_serve() {
    let mut rig = Rig::new();
    rig.cluster("told", &[endpoint(behind_header)]);
    for (name, version) in [("one.test", ProxyVersion::V1), ("two.test", ProxyVersion::V2)] {
        rig.route_with(name, "/", "told", |draft| draft.policy.upstream.proxy_protocol = Some(version));
    }
    let proxy = rig.start(|_| ());
    let mut ports = Vec::new();
    for (name, begin) in [("one.test", "PROXY TCP4"), ("two.test", "v2 [21, 11]")] {
        for _ in 0..3 {
            let mut stream = connect(proxy.http);
            let source = stream.local_addr().expect("an address");
            for _ in 0..2 {
                stream.write_all(GET.replace("a.test", name).as_bytes()).expect("sent");
                let seen = read_response(&mut stream, false).expect("an answer");
                let expect = format!("{begin} 127.0.0.1 127.0.0.1 {} {}", source.port(), proxy.http.port());
                assert_eq!(String::from_utf8_lossy(&seen.body), expect);
            }
            ports.push(source.port());
        }
    }
    // No client's request went over another's connection.
    assert_eq!(proxy.proxy.stats().total.upstream_reuses, 0);
}

/// The same as an Ingress asks for it.
#[test]
fn endpoints_are_told_by_annotation() {
    for (annotations, begin) in [
        (r#"{"sluice.dev/upstream-proxy-protocol": "v1"}"#, "PROXY TCP4"),
        (r#"{"sluice.dev/upstream-proxy-protocol": "v2"}"#, "v2 [21, 11]"),
    ] {
        let mut rig = Rig::new();
        rig.annotated("told", annotations, "", endpoint(behind_header));
        let proxy = rig.start(|_| ());
        let mut stream = connect(proxy.http);
        let source = stream.local_addr().expect("an address");
        stream.write_all(GET.replace("a.test", "told.test").as_bytes()).expect("sent");
        let seen = read_response(&mut stream, false).expect("an answer");
        let expect = format!("{begin} 127.0.0.1 127.0.0.1 {} {}", source.port(), proxy.http.port());
        assert_eq!(String::from_utf8_lossy(&seen.body), expect, "{annotations}");
    }
}

/// Connections that nobody looks into: the header from in front is taken, another is sent on, and
/// the hello behind it is untouched.
#[test]
fn passed_through_connections() {
    let far = endpoint(|stream| {
        let mut all = vec![0; 28];
        if stream.read_exact(&mut all).is_err() {
            return;
        }
        let mut hello = [0; 3];
        drop(stream.read_exact(&mut hello));
        drop(stream.write_all(&[&all[12..], &hello].concat()));
    });
    let mut rig = rig();
    rig.cluster("far", &[far]);
    let to = Passthrough { cluster: Arc::new(key("far")), proxy_protocol: Some(ProxyVersion::V2) };
    rig.tls.passthrough.push((HostPattern::parse("far.test").expect("a host"), Some(to)));
    let proxy = rig.start(|settings| settings.proxy_protocol = from("127.0.0.0/8"));
    let name = ServerName::try_from("far.test").expect("a name");
    let mut client = ClientConnection::new(tls_config(&[], |_| true), name).expect("a client");
    let mut hello = V1.to_vec();
    client.write_tls(&mut hello).expect("a hello");
    let mut stream = connect(proxy.https);
    stream.write_all(&hello).expect("sent");
    let mut seen = [0; 19];
    stream.read_exact(&mut seen).expect("an answer");
    assert_eq!(seen[..16], v2()[12..], "whom the header from in front names");
    assert_eq!(seen[16..18], [22, 3], "the hello follows");
}

/// Over TLS to the endpoint the header comes before the handshake.
#[test]
fn before_tls_to_endpoints() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let address: SocketAddr = endpoint(move |stream| {
        let mut all = vec![0; 31];
        drop(stream.read_exact(&mut all));
        log.lock().expect("whole").push(all);
    });
    let mut rig = Rig::new();
    rig.cluster("web", &[address]);
    rig.route_with("a.test", "/", "web", |draft| {
        draft.policy.upstream.protocol = Some(UpstreamProtocol::Https);
        draft.policy.upstream.proxy_protocol = Some(ProxyVersion::V2);
    });
    let proxy = rig.start(|_| ());
    assert_eq!(send(proxy.http, GET).status, 502);
    let all = seen.lock().expect("whole").clone();
    assert!(all.iter().all(|bytes| bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")));
    assert!(!all.is_empty() && all.iter().all(|bytes| bytes[28..30] == [22, 3]));
}
