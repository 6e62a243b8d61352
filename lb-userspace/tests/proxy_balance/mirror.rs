//! Copies of requests for mirrors.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice::model::{HeaderEdit, Mirror, Template};

use crate::named;
use crate::rig::{
    self, Rig, Running, endpoint, eventually, free_port, mirror as echo_body, read_head, read_response,
};

/// An endpoint that says what it gets: head and body, as far as it comes.
fn telling() -> (SocketAddr, Receiver<(String, Vec<u8>)>) {
    let (sender, receiver) = channel();
    let sender: Mutex<Sender<_>> = Mutex::new(sender);
    let address = endpoint(move |stream| {
        let Some(head) = read_head(stream) else { return };
        let lower = head.to_ascii_lowercase();
        let length =
            lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let mut body = Vec::new();
        let mut byte = [0; 4096];
        while body.len() < length.unwrap_or(0) || (lower.contains("chunked") && !body.ends_with(b"0\r\n\r\n"))
        {
            match stream.read(&mut byte) {
                Ok(count) if count > 0 => body.extend_from_slice(&byte[..count]),
                _ => break,
            }
        }
        drop(stream.write_all(b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\nSet-Cookie: a=b\r\n\r\nno!!"));
        drop(sender.lock().expect("a lock").send((head, body)));
    });
    (address, receiver)
}

fn to(address: SocketAddr, rest: &str) -> Mirror {
    let target = Template::parse(&format!("http://{address}{rest}")).expect("a template");
    Mirror { target, host: None, body: true }
}

fn mirrored(mirror: Mirror, buffer_request: bool) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo_body)]);
    rig.route_with("a.test", "/", "web", |draft| {
        draft.policy.mirror = Some(Arc::new(mirror));
        draft.policy.body.buffer_request = buffer_request;
    });
    rig.start(|settings| settings.workers = 1)
}

fn ask(proxy: &Running, request: &str) -> Vec<u8> {
    let mut stream = rig::connect(proxy.http);
    stream.write_all(request.as_bytes()).expect("sent");
    let seen = read_response(&mut stream, request.starts_with("HEAD")).expect("an answer");
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert!(!seen.has("set-cookie"), "the mirror's answer is nobody's");
    seen.body
}

/// A mirror that leads back to its own route gets one copy, which is not copied again.
#[test]
fn loops_end() {
    let (address, requests) = telling();
    let mut rig = Rig::new();
    let ourselves = rig.http;
    rig.cluster("web", &[address]);
    rig.route_with("", "/", "web", |draft| {
        draft.policy.mirror = Some(Arc::new(to(ourselves, "$request_uri")));
    });
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut stream = rig::connect(proxy.http);
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
    let copied = |head: &str| head.to_ascii_lowercase().contains("x-sluice-mirrored: 1");
    let mut copies: Vec<_> = (0..2)
        .map(|_| copied(&requests.recv_timeout(Duration::from_secs(20)).expect("a request").0))
        .collect();
    copies.sort();
    assert_eq!(copies, [false, true]);
    eventually(|| proxy.proxy.stats().total.mirrored == 1);
    assert_eq!(proxy.proxy.stats().total.requests, 2);
}

#[test]
fn what_mirrors_get() {
    let (address, copies) = telling();
    let port = address.port();
    for buffered in [false, true] {
        for (mirror, request, first_line, lines, body) in [
            (
                to(address, "$request_uri"),
                "GET /a/b?c=%20d HTTP/1.1\r\nHost: a.test\r\nX-Mine: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n",
                "GET /a/b?c=%20d HTTP/1.1",
                vec![
                    format!("host: 127.0.0.1:{port}"),
                    "x-mine: 1".to_owned(),
                    "x-forwarded-host: a.test".to_owned(),
                ],
                "",
            ),
            (
                Mirror { host: Some("mirror.test".into()), ..to(address, "/fixed") },
                "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nX-Forwarded-For: 1.2.3.4\r\n\r\nhello",
                "POST /fixed HTTP/1.1",
                vec![
                    "host: mirror.test".to_owned(),
                    "content-length: 5".to_owned(),
                    "x-forwarded-for: 127.0.0.1".to_owned(),
                ],
                "hello",
            ),
            (
                Mirror { body: false, ..to(address, "$request_uri") },
                "PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
                "PUT /x HTTP/1.1",
                vec![],
                "",
            ),
            (
                to(address, "$request_uri"),
                "POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "POST /x HTTP/1.1",
                vec![if buffered { "content-length: 5" } else { "transfer-encoding: chunked" }.to_owned()],
                if buffered { "hello" } else { "5\r\nhello\r\n0\r\n\r\n" },
            ),
            (
                to(address, "$request_uri"),
                "DELETE /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
                "DELETE /x HTTP/1.1",
                vec![],
                "",
            ),
            (to(address, ""), "HEAD /x HTTP/1.1\r\nHost: a.test\r\n\r\n", "HEAD / HTTP/1.1", vec![], ""),
        ] {
            let proxy = mirrored(mirror, buffered);
            ask(&proxy, request);
            let (head, copied) = copies.recv_timeout(Duration::from_secs(20)).expect("a copy");
            assert!(head.starts_with(&format!("{first_line}\r\n")), "{head}");
            let head = head.to_ascii_lowercase();
            for line in lines {
                assert!(head.lines().any(|have| have == line), "{line} is missing: {head}");
            }
            assert!(!head.contains("x-hop") && !head.contains("1.2.3.4"), "{head}");
            assert_eq!(String::from_utf8_lossy(&copied), body, "{head}");
            eventually(|| proxy.proxy.stats().total.mirrored == 1);
        }
    }
}

#[test]
fn mirrors_that_fail_are_nobodys_business() {
    let refused = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let silent = endpoint(|stream| drop(stream.read_to_end(&mut Vec::new())));
    let deaf = endpoint(|_| std::thread::sleep(Duration::from_secs(30)));
    let rude = endpoint(|stream| drop(stream.write_all(b"SMTP ready\r\n")));
    let unknown = Template::literal("http://mirror.invalid/");
    let target = |address: SocketAddr| to(address, "/").target;
    let long = "x".repeat(3_000_000);
    let chunked = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    for (name, target, fails) in [
        ("refused", target(refused), true),
        ("silent", target(silent), false),
        ("deaf", target(deaf), false),
        ("rude", target(rude), true),
        ("unknown", unknown, true),
        ("no URL", Template::literal("mirror"), true),
        ("no http", Template::literal("ftp://127.0.0.1/"), true),
    ] {
        let proxy = mirrored(Mirror { target, host: None, body: true }, false);
        for _ in 0..3 {
            ask(&proxy, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let request =
                format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{long}", long.len());
            // The endpoint sends back what it gets while it gets it: somebody has to read.
            assert!(echoed(&proxy, request) == long.as_bytes(), "{name}");
            let request =
                format!("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
            assert!(echoed(&proxy, request) == long.as_bytes(), "{name}");
        }
        if fails {
            eventually(|| proxy.proxy.stats().total.mirror_failures == 9);
        }
        assert_eq!(proxy.proxy.stats().total.upstream_failures, 0, "{name}");
    }
}

fn echoed(proxy: &Running, request: String) -> Vec<u8> {
    let mut stream = rig::connect(proxy.http);
    let mut writer = stream.try_clone().expect("a clone");
    let writing = std::thread::spawn(move || writer.write_all(request.as_bytes()).expect("sent"));
    let seen = read_response(&mut stream, false).expect("an answer");
    writing.join().expect("written");
    assert_eq!(seen.status, 200);
    seen.body
}

#[test]
fn copies_are_bounded() {
    let silent = endpoint(|stream| drop(stream.read_to_end(&mut Vec::new())));
    let mut rig = Rig::new();
    rig.cluster("web", &[named("ok")]);
    rig.route_with("a.test", "/", "web", |draft| draft.policy.mirror = Some(Arc::new(to(silent, "/"))));
    let proxy = rig.start(|settings| settings.workers = 1);
    for _ in 0..200 {
        assert_eq!(crate::word(proxy.http, "/", ""), "ok");
    }
    // 128 wait for an answer that never comes; the others were not even begun.
    assert_eq!(proxy.proxy.stats().total.mirror_failures, 72);
}

#[test]
fn incomplete_bodies_are_no_copies() {
    let (sender, copies) = channel();
    let sender: Mutex<Sender<_>> = Mutex::new(sender);
    let address = endpoint(move |stream| {
        let tell = |body| drop(sender.lock().expect("a lock").send(body));
        if read_head(stream).is_some() {
            tell(Vec::new());
            let mut body = Vec::new();
            drop(stream.read_to_end(&mut body));
            tell(body);
        }
    });
    let proxy = mirrored(to(address, "/"), false);
    let mut stream = rig::connect(proxy.http);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .expect("sent");
    // Of a request that breaks off before, there is no copy at all.
    copies.recv_timeout(Duration::from_secs(20)).expect("a copy begins");
    drop(stream);
    let body = copies.recv_timeout(Duration::from_secs(20)).expect("it ends");
    assert!(!body.ends_with(b"0\r\n\r\n"), "the mirror sees that it is not whole");
}

/// What a policy takes from clients, a mirror must not get from them either.
#[test]
fn a_mirror_believes_the_same_headers() {
    let (address, copies) = telling();
    let value = |text: &str| Template::parse(text).expect("a template");
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo_body)]);
    rig.route_with("a.test", "/", "web", |draft| {
        draft.policy.mirror = Some(Arc::new(to(address, "/copy")));
        draft.policy.request_headers = vec![
            HeaderEdit::Set { name: "x-user".into(), value: value("alice"), statuses: vec![] },
            HeaderEdit::Remove { name: "x-groups".into() },
        ];
    });
    let proxy = rig.start(|settings| settings.workers = 1);
    let sent = "X-User: mallory\r\nX_User: mallory\r\nX-Groups: mallory\r\nX-Mine: 1\r\n";
    ask(&proxy, &format!("GET / HTTP/1.1\r\nHost: a.test\r\n{sent}\r\n"));
    let (head, _) = copies.recv_timeout(Duration::from_secs(30)).expect("a copy");
    let head = head.to_ascii_lowercase();
    assert_eq!(head.matches("x-user: alice\r\n").count(), 1, "{head}");
    assert!(!head.contains("mallory") && head.contains("x-mine: 1\r\n"), "{head}");
}
