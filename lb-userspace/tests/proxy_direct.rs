//! The short way of plain requests beside the long one: the same requests both ways, and what the
//! endpoint and the client see must be the same.

#[path = "support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;

use rig::{Rig, Running, connect, endpoint, eventually, read_response};
use sluice::model::Hsts;

/// Answers with the request's head, in the form that the path names.
fn answering(stream: &mut TcpStream) {
    while let Some(head) = rig::read_head(stream) {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let form = path.rsplit('/').next().unwrap_or_default().split('?').next().unwrap_or_default();
        let is_head = head.starts_with("HEAD");
        let length = head.len();
        let body = if is_head { "" } else { &head };
        let answer = match form {
            "chunked" if is_head => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "chunked" => {
                let (one, two) = body.split_at(length / 2);
                format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x};x=y\r\n{one}\r\n{:x}\r\n{two}\r\n\
                     0\r\nX-Trailer: 1\r\n\r\n",
                    one.len(),
                    two.len()
                )
            }
            "close" => format!("HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n{body}"),
            "empty" => "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n".to_owned(),
            "same" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n".to_owned(),
            "zero" => "HTTP/1.1 404 Nothing Here\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "interim" => format!(
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
            "dated" => format!(
                "HTTP/1.1 200 OK\r\nDate: then\r\nSERVER: mine\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            ),
            "strict" => format!(
                "HTTP/1.1 200 OK\r\nstrict-Transport-Security: max-age=1\r\nX-A: strict-transport-security: x\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            ),
            "bad" => "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx".to_owned(),
            "switched" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(),
            "huge" => format!("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000)),
            _ => format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
                 Keep-Alive: 5\r\nX-Obs: \u{e9}\r\nX-End: 1\r\n\r\n{body}"
            ),
        };
        if stream.write_all(answer.as_bytes()).is_err() || matches!(form, "close" | "bad" | "switched") {
            return;
        }
    }
}

fn start() -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(answering)]);
    rig.cluster("empty", &[]);
    rig.route("a.test", "/", "web");
    rig.route("empty.test", "/", "empty");
    rig.start(|_| ())
}

/// What makes a connection leave the short way for good.
const LONG: &str = "GET /warm HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\n\r\n";

/// Status, headers and body of the answer, as far as both ways must agree on them.
fn outcome(
    mut stream: impl Read + Write,
    request: &[u8],
    long: bool,
) -> Option<(u16, Vec<String>, Vec<String>)> {
    if long {
        stream.write_all(LONG.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
    }
    stream.write_all(request).expect("sent");
    let seen = read_response(&mut stream, request.starts_with(b"HEAD"))?;
    let body = String::from_utf8_lossy(&seen.body).into_owned();
    Some((seen.status, comparable(&seen.head), comparable(&body)))
}

/// Lines by name, without what differs from one request to the next.
fn comparable(head: &str) -> Vec<String> {
    let mut lines: Vec<_> = head
        .lines()
        .map(|line| match line.split_once(": ") {
            Some((name @ ("date" | "x-request-id"), value)) if value != "then" => format!("{name}: …"),
            _ => line.to_owned(),
        })
        .collect();
    if let Some((_, rest)) = lines.split_first_mut() {
        // Of the same name, the order counts.
        rest.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    }
    lines
}

fn check(proxy: &Running, request: &[u8]) {
    let short = outcome(connect(proxy.http), request, false);
    let long = outcome(connect(proxy.http), request, true);
    assert_eq!(short, long, "{}", String::from_utf8_lossy(request));
}

#[test]
fn every_form_of_answer() {
    let proxy = start();
    let plain = || proxy.proxy.stats().total.direct;
    for form in
        ["length", "chunked", "close", "empty", "same", "zero", "interim", "dated", "bad", "switched", "huge"]
    {
        for method in ["GET", "HEAD"] {
            let before = plain();
            check(&proxy, format!("{method} /{form}?a=b HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes());
            assert_eq!(plain(), before + 1, "{method} {form} takes the short way where it may");
        }
    }
}

/// The policy's line is the only one of its name, over TLS and in Sluice's own answers too.
#[test]
fn strict_transport_security() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(answering)]);
    rig.cluster("empty", &[]);
    for (host, cluster) in [("a.test", "web"), ("empty.test", "empty")] {
        rig.route_with(host, "/", cluster, |draft| {
            draft.policy.hsts = Some(Hsts { max_age: 60, include_subdomains: true, preload: false });
        });
    }
    rig.certificate("a.test", rig::certificate("a.test"));
    let proxy = rig.start(|_| ());
    for (host, path, plain, secure) in [
        ("a.test", "/length", None, Some("max-age=60; includeSubDomains")),
        ("a.test", "/strict", Some("max-age=1"), Some("max-age=60; includeSubDomains")),
        ("a.test", "/bad", None, Some("max-age=60; includeSubDomains")),
        ("empty.test", "/", None, Some("max-age=60; includeSubDomains")),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let both = [false, true].map(|long| {
            let direct = proxy.proxy.stats().total.direct;
            let plain = outcome(connect(proxy.http), request.as_bytes(), long);
            let secure = outcome(rig::tls(proxy.https, "a.test", &[]), request.as_bytes(), long);
            let took = proxy.proxy.stats().total.direct - direct;
            assert_eq!(took, if long || host != "a.test" { 0 } else { 2 }, "{host}{path}");
            (plain.expect("an answer"), secure.expect("an answer"))
        });
        assert_eq!(both[0], both[1], "{host}{path}");
        for ((_, head, _), expect) in [(&both[0].0, plain), (&both[0].1, secure)] {
            let mut lines = head.iter().filter_map(|line| line.strip_prefix("strict-transport-security: "));
            assert_eq!((lines.next(), lines.next()), (expect, None), "{host}{path}");
        }
    }
}

#[test]
fn hostile_and_odd_heads() {
    let proxy = start();
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n",
        "GET / HTTP/1.1\r\nHost: a.test:80\r\n",
        "GET / HTTP/1.1\r\nHost: A.Test.\r\n",
        "GET / HTTP/1.1\r\nHost: a.test/x\r\n",
        "GET / HTTP/1.1\r\nHost: a.test, b.test\r\n",
        "GET / HTTP/1.1\r\nHost: \u{e9}.test\r\n",
        "GET / HTTP/1.1\r\nHost: empty.test\r\n",
        "GET / HTTP/1.1\r\nHost: unknown.test\r\n",
        "GET / HTTP/1.0\r\nHost: a.test\r\n",
        "GET  / HTTP/1.1\r\nHost: a.test\r\n",
        "GET /a b HTTP/1.1\r\nHost: a.test\r\n",
        "get / HTTP/1.1\r\nHost: a.test\r\n",
        "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n",
        "GET /a/../b//c/./d HTTP/1.1\r\nHost: a.test\r\n",
        "GET /a%2e%2e/%2F%5c%7e HTTP/1.1\r\nHost: a.test\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a.test\r\n",
        "GET /%zz HTTP/1.1\r\nHost: a.test\r\n",
        "GET /a/..;x HTTP/1.1\r\nHost: a.test\r\n",
        "GET /a?b=/../c&d=%zz HTTP/1.1\r\nHost: a.test\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a.test\r\n",
        "GET /\\a HTTP/1.1\r\nHost: a.test\r\n",
        "GET /\"<>^`{|} HTTP/1.1\r\nHost: a.test\r\n",
        "GET * HTTP/1.1\r\nHost: a.test\r\n",
        "GET / HTTP/1.1\r\nHost : a.test\r\n",
        "GET / HTTP/1.1\r\n Host: a.test\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\nX: a\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\0b\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX\u{e9}: a\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: \u{e9}\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX:   a  \t\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX:\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\n: a\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: identity\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: x-forwarded-for\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nProxy: http://evil\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a=b\r\nCookie: c=d\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/grpc\r\n",
        "GET /bad HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/grpc\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
        "DELETE / HTTP/1.1\r\nHost: a.test\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n",
        "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n",
    ] {
        check(&proxy, format!("{head}\r\n").as_bytes());
    }
    let many = "X: 1\r\n".repeat(70);
    check(&proxy, format!("GET / HTTP/1.1\r\nHost: a.test\r\n{many}\r\n").as_bytes());
    let long = "a".repeat(20_000);
    check(&proxy, format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {long}\r\n\r\n").as_bytes());
}

#[test]
fn random_heads() {
    let proxy = start();
    let mut random = fastrand::Rng::with_seed(7);
    let targets = [
        "/",
        "/length",
        "/chunked?x",
        "/a/./b/../c",
        "/%41%2f",
        "//x",
        "/dated",
        "/%5C;a=b",
        "/\u{7f}",
        "/interim",
        "/close",
        "/empty",
        "/same",
        "/zero",
        "/strict",
    ];
    let lines = [
        "Accept: */*",
        "accept-encoding: gzip",
        "Cookie: a=b",
        "COOKIE: c=d",
        "X-Twice: 1",
        "x-twice: 2",
        "Connection: keep-alive",
        "Keep-Alive: 300",
        "X-Request-ID: mine",
        "X-Forwarded-Host: other",
        "Authorization: Basic x",
        "If-None-Match: \"a\"",
        "Range: bytes=0-1",
        "X-\u{e4}: 1",
        "X-Empty:",
        "Via: 1.1 x",
        "TE: trailers",
        "Trailer: x",
        "Max-Forwards: 0",
        "Upgrade-Insecure-Requests: 1",
        "X-Sluice-Hops: 3",
        "Connection: close",
        "Content-Length: 0",
        "Forwarded: for=6.6.6.6",
        "X_Real_IP: 6.6.6.6",
        "traceparent: 00-1-2-3",
    ];
    for _ in 0..300 {
        let mut head = format!("{} {} HTTP/1.1\r\n", random.choice(["GET", "GET", "HEAD"]).expect("one"), {
            random.choice(targets).expect("one")
        });
        let at = random.usize(0..6);
        for place in 0..6 {
            if place == at {
                head.push_str(["Host: a.test\r\n", "HOST:a.test:8080\r\n"][usize::from(random.bool())]);
            } else if random.bool() {
                head.push_str(random.choice(lines).expect("one"));
                head.push_str("\r\n");
            }
        }
        check(&proxy, format!("{head}\r\n").as_bytes());
    }
}

#[test]
fn requests_in_pieces_and_in_a_row() {
    let proxy = start();
    let one = "GET /one HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let two = "GET /two HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for cut in 1..one.len() {
        let mut stream = connect(proxy.http);
        stream.write_all(&one.as_bytes()[..cut]).expect("sent");
        stream.write_all(&[&one.as_bytes()[cut..], two.as_bytes()].concat()).expect("sent");
        for name in ["/one", "/two"] {
            let seen = read_response(&mut stream, false).expect("an answer");
            assert!(seen.text().contains(name), "cut at {cut}: {}", seen.text());
        }
    }
    let mut stream = connect(proxy.http);
    for round in 0..20 {
        let request = [one, LONG, two][round % 2];
        stream.write_all(request.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200, "{round}");
    }
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    let mut rig = Rig::new();
    let (told, gone) = std::sync::mpsc::channel();
    rig.cluster(
        "silent",
        &[endpoint(move |stream| {
            rig::read_head(stream);
            // Ends when the proxy gives the request up.
            let _ = told.send(stream.read_to_end(&mut Vec::new()).is_ok());
        })],
    );
    rig.route("a.test", "/", "silent");
    let proxy = rig.start(|_| ());
    let mut stream = connect(proxy.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
    eventually(|| proxy.proxy.stats().total.direct == 1);
    drop(stream);
    gone.recv_timeout(std::time::Duration::from_secs(20)).expect("the endpoint is left, too");
    eventually(|| proxy.proxy.stats().total.client_gone == 1);
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251) as u8 ^ at as u8).collect()
}

/// Answers `/LENGTH/SENT/PIECE`: announces so much, sends so much of it, so much at once.
fn delivering(stream: &mut TcpStream) {
    while let Some(head) = rig::read_head(stream) {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let numbers: Vec<usize> = path.split('/').filter_map(|part| part.parse().ok()).collect();
        let [length, sent, piece] = numbers[..] else { return };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        for part in pattern(sent).chunks(piece) {
            if stream.write_all(part).is_err() {
                return;
            }
            if piece < sent {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        if sent < length {
            return;
        }
    }
}

/// Bodies that go from socket to socket: every byte in its place, and the connections good for the
/// next request exactly when the body was whole. Of a body that breaks off hyper may keep the last
/// bytes, so these go one way only.
#[test]
fn large_bodies() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(delivering)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let total = || proxy.proxy.stats().total;
    for (length, sent, piece, patient) in [
        (1 << 20, 1 << 20, 1 << 20, true),
        (1 << 20, 1 << 20, 1 << 20, false),
        (5_000_001, 5_000_001, 1 << 22, false),
        (400_000, 400_000, 10_000, true),
        (200_000, 200_000, 199_999, true),
        (64 * 1024, 64 * 1024, 1 << 20, true),
        (64 * 1024 + 1, 64 * 1024 + 1, 1000, true),
        (1 << 20, 300_000, 50_000, true),
        (1 << 20, 1, 1, true),
        (1 << 20, (1 << 20) - 1, 1 << 20, false),
    ] {
        for long in [false, true].into_iter().filter(|long| !long || sent == length) {
            let before = total();
            let context = format!("{sent} of {length} by {piece}, {long}");
            let mut stream = connect(proxy.http);
            if long {
                let warm = LONG.replace("/warm", "/5/5/5");
                stream.write_all(warm.as_bytes()).expect("sent");
                assert_eq!(read_response(&mut stream, false).expect("an answer").body, pattern(5));
            }
            let request = format!("GET /{length}/{sent}/{piece} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("sent");
            if !patient {
                // Everything on the way is full by then, and nobody waits for more than that.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            assert!(rig::read_head(&mut stream).expect("a head").starts_with("HTTP/1.1 200 "), "{context}");
            let mut body = Vec::new();
            let ended = Read::by_ref(&mut stream).take(length as u64).read_to_end(&mut body);
            assert!(body == pattern(sent), "{context}: {} came, {ended:?}", body.len());
            if sent == length {
                stream.write_all(b"GET /7/7/7 HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
                assert_eq!(
                    read_response(&mut stream, false).expect("an answer").body,
                    pattern(7),
                    "{context}"
                );
            } else {
                eventually(|| total().upstream_failures == before.upstream_failures + 1);
            }
            eventually(|| total().requests_active == 0);
            let after = total();
            let others = if long { 5 } else { 0 } + if sent == length { 7 } else { 0 };
            let bytes = after.response_bytes - before.response_bytes;
            assert_eq!(bytes, (sent + others) as u64, "{context}");
            let spliced = after.spliced_bytes - before.spliced_bytes;
            match !long && length >= 200_000 && sent > 100_000 {
                true => assert!(spliced > 0 && spliced <= sent as u64, "{context}: {spliced}"),
                false => assert!(spliced == 0 || !long, "{context}: {spliced}"),
            }
        }
    }
}

/// A client that leaves in the middle takes its endpoint's connection with it, and nothing else.
#[test]
fn large_bodies_that_nobody_takes() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(delivering)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let total = || proxy.proxy.stats().total;
    for _ in 0..5 {
        let before = total().requests;
        let mut stream = connect(proxy.http);
        stream.write_all(b"GET /50000000/50000000/50000000 HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
        eventually(|| total().requests > before && total().spliced_bytes > 0);
        drop(stream);
        eventually(|| total().requests_active == 0 && total().active == 0);
    }
    assert!(total().response_bytes < 5 * 50_000_000);
    let seen = rig::send(proxy.http, "GET /9/9/9 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(seen.body, pattern(9));
}
