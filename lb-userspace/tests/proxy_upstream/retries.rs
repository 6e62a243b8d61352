//! Retries, time limits, and what else a route has of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sluice::model::*;
use socket2::{SockFilter, SockRef};

use crate::rig::{
    Draft, Rig, connect, echo, endpoint, eventually, free_port, mirror, read_head, read_response, send,
};

/// Counts who came.
fn counting(
    count: &Arc<AtomicUsize>,
    serve: impl Fn(&mut TcpStream, &AtomicUsize) + Send + Sync + 'static,
) -> SocketAddr {
    let count = Arc::clone(count);
    endpoint(move |stream| serve(stream, &count))
}

fn status(code: u16) -> impl Fn(&mut TcpStream, &AtomicUsize) {
    move |stream, count| {
        while let Some(head) = read_head(stream) {
            count.fetch_add(1, Relaxed);
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            drop(stream.read_exact(&mut vec![0; length.unwrap_or(0)]));
            let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()));
        }
    }
}

fn substitution(from: &str, to: &str) -> Substitution {
    Substitution { from: Wanted::literal(from), to: Template::literal(to) }
}

fn silent(stream: &mut TcpStream, count: &AtomicUsize) {
    if read_head(stream).is_some() {
        count.fetch_add(1, Relaxed);
        drop(stream.read_to_end(&mut Vec::new()));
    }
}

fn closing(stream: &mut TcpStream, count: &AtomicUsize) {
    if read_head(stream).is_some() {
        count.fetch_add(1, Relaxed);
    }
}

fn nonsense(stream: &mut TcpStream, count: &AtomicUsize) {
    if read_head(stream).is_some() {
        count.fetch_add(1, Relaxed);
        drop(stream.write_all(b"nonsense\r\n\r\n"));
    }
}

#[test]
fn another_endpoint() {
    use RetryOn::{Error, InvalidHeader, NonIdempotent, Status, Timeout};
    let count = Arc::new(AtomicUsize::new(0));
    let busy = counting(&count, status(503));
    let missing = counting(&count, status(404));
    let late = counting(&count, silent);
    let closes = counting(&count, closing);
    let odd = counting(&count, nonsense);
    let default = || Retry::default().on;
    for (what, bad, on, tries, method, expect) in [
        ("a status", busy, vec![Status(503)], 3, "GET", [200, 200]),
        ("404, too", missing, vec![Status(404)], 3, "GET", [200, 200]),
        ("not that status", busy, vec![Status(502)], 3, "GET", [200, 503]),
        ("not by default", busy, default(), 3, "GET", [200, 503]),
        ("one try", busy, vec![Status(503)], 1, "GET", [200, 503]),
        ("not twice", busy, vec![Status(503)], 3, "POST", [200, 503]),
        ("twice", busy, vec![Status(503), NonIdempotent], 3, "POST", [200, 200]),
        ("may be repeated", busy, vec![Status(503)], 3, "PUT", [200, 200]),
        ("no answer in time", late, default(), 3, "GET", [200, 200]),
        ("no answer in time, not twice", late, default(), 3, "POST", [200, 504]),
        ("no time limit", late, vec![Error], 3, "GET", [200, 504]),
        ("no answer", closes, default(), 3, "GET", [200, 200]),
        ("no answer, not twice", closes, default(), 3, "POST", [200, 502]),
        ("no answer, not at all", closes, vec![Timeout], 3, "GET", [200, 502]),
        ("no HTTP", odd, default(), 3, "GET", [200, 502]),
        ("no HTTP, twice", odd, vec![InvalidHeader], 3, "GET", [200, 200]),
    ] {
        count.store(0, Relaxed);
        let mut rig = Rig::new();
        rig.cluster("web", &[bad, endpoint(mirror)]);
        rig.route_with("web.test", "/", "web", |draft| {
            draft.policy.upstream.retry = Retry { on, tries, timeout: Duration::ZERO };
            // Only the endpoint that never answers is given up.
            let patience = if bad == late { 1 } else { 60 };
            draft.policy.upstream.read_timeout = Some(Duration::from_secs(patience));
            draft.policy.body.buffer_request = true;
        });
        let proxy = rig.start(|settings| settings.workers = 1);
        let body = if method == "GET" { "" } else { "Content-Length: 4\r\n\r\nbody" };
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: web.test\r\n{body}{}",
            if body.is_empty() { "\r\n" } else { "" }
        );
        let mut seen: Vec<_> = (0..2).map(|_| send(proxy.http, &request)).collect();
        seen.sort_by_key(|seen| seen.status);
        assert_eq!(seen.iter().map(|seen| seen.status).collect::<Vec<_>>(), expect, "{what}");
        assert_eq!(count.load(Relaxed), 1, "{what}: the bad one is asked once");
        for seen in seen.iter().filter(|seen| seen.status == 200 && method != "GET") {
            assert_eq!(seen.body, b"body", "{what}: the body is sent again");
        }
    }
}

#[test]
fn how_often() {
    for (tries, asked) in [(1, 1), (2, 2), (3, 3), (0, 4)] {
        let count = Arc::new(AtomicUsize::new(0));
        let all: Vec<_> = (0..4).map(|_| counting(&count, status(503))).collect();
        let mut rig = Rig::new();
        rig.cluster("web", &all);
        rig.route_with("web.test", "/", "web", |draft| {
            let on = vec![RetryOn::Status(503)];
            draft.policy.upstream.retry = Retry { on, tries, timeout: Duration::ZERO };
        });
        let proxy = rig.start(|_| ());
        let seen = send(proxy.http, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
        // The last answer is the client's.
        assert_eq!((seen.status, count.load(Relaxed)), (503, asked), "{tries} tries");
    }
}

#[test]
fn a_body_that_is_gone_is_not_sent_again() {
    for (size, asked) in [(4, 2), (100_000, 2), (300_000, 1)] {
        let count = Arc::new(AtomicUsize::new(0));
        let mut rig = Rig::new();
        rig.cluster("web", &[counting(&count, status(503)), counting(&count, status(503))]);
        rig.route_with("web.test", "/", "web", |draft| {
            draft.policy.upstream.retry = Retry { on: vec![RetryOn::Status(503)], ..Retry::default() };
        });
        let proxy = rig.start(|_| ());
        let body = "b".repeat(size);
        let head = format!("PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {size}\r\n\r\n");
        let seen = send(proxy.http, &(head + &body));
        assert_eq!((seen.status, count.load(Relaxed)), (503, asked), "{size}");
    }
}

/// Its kernel takes nothing any more of what is sent, as if it came behind the end.
fn turn_deaf(socket: SockRef<'_>) {
    // A filter that leaves one byte of each packet; the headers stay in any case.
    const RETURN: u16 = 6;
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 1)]).expect("a filter");
}

/// An endpoint that closes every connection while the first request comes.
fn leaving() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // Its connections have it from the begin.
    turn_deaf(SockRef::from(&listener));
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::sleep(Duration::from_millis(20));
            drop(stream);
        }
    });
    address
}

/// Answers one request and closes while the next one comes.
fn leaves_later(stream: &mut TcpStream) {
    if read_head(stream).is_some() {
        turn_deaf(SockRef::from(&*stream));
        drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"));
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Nobody is asked twice who may have seen the request: what tells is whether the other end's kernel
/// has taken anything of it.
#[test]
fn connections_that_are_closed_while_a_request_comes() {
    for size in [1, 5000, 100_000] {
        let mut rig = Rig::new();
        rig.cluster("web", &[leaving(), leaving(), leaving(), endpoint(mirror)]);
        rig.cluster("kept", &[endpoint(leaves_later)]);
        rig.route("web.test", "/", "web");
        rig.route("kept.test", "/", "kept");
        let proxy = rig.start(|settings| settings.workers = 1);
        let body = "b".repeat(size);
        for host in ["web.test", "kept.test"] {
            let post = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n{body}");
            for _ in 0..4 {
                let before = send(proxy.http, "GET / HTTP/1.1\r\nHost: kept.test\r\n\r\n");
                assert_eq!(before.status, 204);
                // For the connection to be one that such a request takes.
                std::thread::sleep(Duration::from_millis(5));
                let seen = send(proxy.http, &post);
                let expect = if host == "web.test" { 200 } else { 204 };
                assert_eq!(seen.status, expect, "{host} {size}: {seen:?}");
            }
        }
    }
}

/// While all endpoints are gone that there were, a request waits for those that come next, but not if
/// they have been gone for long.
#[test]
fn endpoints_that_come_a_moment_later() {
    let post = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 4\r\n\r\nbody";
    let gone: [SocketAddr; 2] = [0; 2].map(|_| ([127, 0, 0, 1], free_port()).into());
    let attempt = || {
        let mut rig = Rig::new();
        rig.cluster("web", &gone);
        rig.route("web.test", "/", "web");
        let mut proxy = rig.start(|settings| settings.workers = 1);
        let address = proxy.http;
        let asking = std::thread::spawn(move || send(address, post).status);
        eventually(|| proxy.proxy.stats().total.upstream_failures >= 2);
        let next = endpoint(mirror);
        proxy.change(|rig| rig.cluster("web", &[next]));
        asking.join().expect("asked")
    };
    // It does not wait for ever, and the news may be late.
    assert!((0..10).any(|_| attempt() == 200), "nobody waits");

    let mut rig = Rig::new();
    rig.cluster("web", &gone);
    rig.route("web.test", "/", "web");
    let proxy = rig.start(|settings| settings.workers = 1);
    let failures = || proxy.proxy.stats().total.upstream_failures;
    eventually(|| {
        let before = failures();
        assert_eq!(send(proxy.http, post).status, 502);
        failures() == before + 2
    });
}

#[test]
fn heads() {
    let redirects = endpoint(|stream| {
        while read_head(stream).is_some() {
            let answer = "HTTP/1.1 302 Found\r\nLocation: http://inner.test/a\r\nSet-Cookie: a=b; Path=/app; Domain=inner.test\r\nContent-Length: 0\r\n\r\n";
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    let wordy = endpoint(|stream| {
        while read_head(stream).is_some() {
            let long = "a".repeat(8000);
            let answer = format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 0\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    let echoes = endpoint(echo);
    type Describe = fn(&mut Draft);
    let rows: [(&str, SocketAddr, Describe, u16, &[&str]); 9] = [
        ("as it is", echoes, |_| (), 200, &["GET / HTTP/1.1\r\nhost: web.test\r\n"]),
        (
            "1.0",
            echoes,
            |draft| draft.policy.upstream.http10 = true,
            200,
            &["GET / HTTP/1.0\r\n", "connection: close\r\n"],
        ),
        (
            "a host",
            echoes,
            |draft| draft.policy.upstream.host = Some(Template::literal("inner.test")),
            200,
            &["host: inner.test\r\n", "x-forwarded-host: web.test\r\n"],
        ),
        (
            "a connection header",
            echoes,
            |draft| draft.policy.upstream.connection = Some("keep-alive".into()),
            200,
            &["connection: keep-alive\r\n"],
        ),
        ("as it came", redirects, |_| (), 302, &["location: http://inner.test/a\r\n"]),
        (
            "rewritten",
            redirects,
            |draft| {
                draft.policy.upstream.response = ResponseRewrite {
                    location: vec![substitution("http://inner.test/", "https://web.test/")],
                    cookie_domain: vec![substitution("inner.test", "web.test")],
                    cookie_path: vec![substitution("/app", "/")],
                };
            },
            302,
            &["location: https://web.test/a\r\n", "set-cookie: a=b; Path=/; Domain=web.test\r\n"],
        ),
        ("a long head", wordy, |_| (), 200, &["x-long: aaa"]),
        ("too long", wordy, |draft| draft.policy.body.max_response_head = Some(4096), 502, &[]),
        (
            "long enough",
            wordy,
            |draft| draft.policy.body.max_response_head = Some(16384),
            200,
            &["x-long: aaa"],
        ),
    ];
    for (what, address, describe, status, says) in rows {
        let mut rig = Rig::new();
        rig.cluster("web", &[address]);
        rig.route_with("web.test", "/", "web", describe);
        let proxy = rig.start(|_| ());
        let seen = send(proxy.http, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n");
        assert_eq!(seen.status, status, "{what}: {seen:?}");
        for part in says {
            assert!(seen.text().contains(part), "{what}: {part:?} in {}", seen.text());
        }
    }
}

/// HTTP/1.0 knows no chunks: a body without a length is read to its end first, as far as there is
/// room for it.
#[test]
fn http10_needs_a_length() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(mirror_once)]);
    rig.route_with("web.test", "/", "web", |draft| draft.policy.upstream.http10 = true);
    let proxy = rig.start(|_| ());
    for (size, status) in [(2, 200), (2_000_000, 411)] {
        let request = format!(
            "PUT / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n",
            "a".repeat(size)
        );
        let mut client = connect(proxy.http);
        // The answer may come before all is sent.
        drop(client.write_all(request.as_bytes()));
        let seen = read_response(&mut client, false).expect("an answer");
        assert_eq!(seen.status, status, "{size}: {seen:?}");
        assert!(status != 200 || seen.body == b"aa", "{seen:?}");
    }
}

/// Sends a request's body back as HTTP/1.0 has it.
fn mirror_once(stream: &mut TcpStream) {
    let head = read_head(stream).expect("a head");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.expect("a length")];
    stream.read_exact(&mut body).expect("the body");
    drop(stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n"));
    drop(stream.write_all(&body));
}
