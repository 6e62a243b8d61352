//! What messages mean: targets in one form for everybody, headers of one connection only, bodies
//! that nobody reads, answers in doubt, expectations.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::SOON;
use crate::frames::{self, ACK, Client, DATA, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, frame};
use crate::rig::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn start(serve: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(serve)]);
    rig.route("a.test", "/", "web");
    rig.start(|settings| settings.workers = 1)
}

/// The first line that the endpoint gets for a target over HTTP/2; the status where it gets nothing.
fn over_http2(proxy: &Running, target: &str) -> String {
    let mut client = Client::new(proxy.http);
    let length = u8::try_from(target.len()).expect("short");
    let path = [&[0x04, length][..], target.as_bytes()].concat();
    client.send(&frames::request(1, &[&[0x82, 0x86][..], &path, b"\x01\x06a.test"].concat()));
    let end = client.until(target, |frame| match frame.kind {
        HEADERS => frame.stream == 1 && frame.payload[0] != 0x88,
        DATA | RST_STREAM => frame.stream == 1,
        kind => kind == GOAWAY,
    });
    match end.kind {
        DATA => String::from_utf8_lossy(&end.payload).lines().next().unwrap_or_default().to_owned(),
        _ => "400".to_owned(),
    }
}

#[test]
fn targets_have_one_form() {
    let proxy = start(echo);
    let over_http1 = |target: &str, more: &str| {
        let seen = send(proxy.http, &format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n"));
        match seen.status {
            200 => String::from_utf8_lossy(&seen.body).lines().next().unwrap_or_default().to_owned(),
            other => other.to_string(),
        }
    };
    for (target, expect) in [
        ("/a/b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../../a", "/a"),
        ("/a/./b/.", "/a/b/"),
        ("//a///b", "/a/b"),
        ("/%2e%2e/a", "/a"),
        ("/a/%2E/b", "/a/b"),
        ("/a/%2e%2e%2fb", "/a/..%2Fb"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb", "/a%5Cb"),
        ("/a\\b", "/a%5Cb"),
        ("/%41%7e", "/A~"),
        ("/a;b=c/d", "/a;b=c/d"),
        ("/a/..;/b", "400"),
        ("/a/.;b", "400"),
        ("/%00", "400"),
        ("/%0", "400"),
        ("/%zz", "400"),
        ("/a?b=/../c&d=%zz", "/a?b=/../c&d=%zz"),
        ("*", "400"),
    ] {
        let expect = match expect {
            "400" => expect.to_owned(),
            path => format!("GET {path} HTTP/1.1"),
        };
        assert_eq!(over_http1(target, ""), expect, "{target}");
        assert_eq!(over_http1(target, "TE: trailers\r\n"), expect, "{target}, through hyper");
        assert_eq!(over_http2(&proxy, target), expect, "{target}, over HTTP/2");
    }
    // Only HTTP/1.1 has these.
    for (target, expect) in [
        ("http://a.test/x/../y", "GET /y HTTP/1.1"),
        ("http://a.test", "GET / HTTP/1.1"),
        ("HTTP://A.TEST/", "GET / HTTP/1.1"),
        ("ftp://a.test/", "400"),
        ("/a#b", "400"),
        ("a.test:80", "400"),
    ] {
        assert_eq!(over_http1(target, ""), expect, "{target}");
    }
    // About the server, and so about no route.
    assert_eq!(send(proxy.http, "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n").status, 404);
}

/// What concerns one connection goes no further, either way; and a client can't use that to hide
/// what the proxy or others say.
#[test]
fn headers_of_one_connection() {
    let talkative = |stream: &mut TcpStream| {
        while let Some(head) = read_head(stream) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: x-listed, set-cookie\r\nX-Listed: 1\r\n\
                 Set-Cookie: a=b\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nProxy-Authenticate: Basic\r\n\
                 Trailer: X-Sum\r\nTE: trailers\r\nUpgrade: h2c\r\nX-End: 1\r\n\r\n{head}",
                head.len()
            );
            drop(stream.write_all(answer.as_bytes()));
        }
    };
    let proxy = start(talkative);
    for (line, gone) in [
        ("Keep-Alive: 5", "keep-alive"),
        ("Proxy-Connection: x", "proxy-connection"),
        ("Proxy-Authorization: Basic x", "proxy-authorization"),
        ("Proxy-Authenticate: x", "proxy-authenticate"),
        ("Proxy: http://evil", "proxy:"),
        ("TE: gzip", "te:"),
        ("Trailer: x-sum", "trailer"),
        ("Upgrade: h2c", "upgrade"),
        ("HTTP2-Settings: AAMAAABk", "http2-settings"),
        ("Connection: x-mine\r\nX-Mine: 1", "x-mine"),
        ("Connection: close, x-mine , ,x-yours\r\nX-Mine: 1\r\nX-Yours: 1", "x-yours"),
        ("Connection: keep-alive\r\nConnection: X-MINE\r\nx-mine: 1", "x-mine"),
    ] {
        let seen = send(proxy.http, &GET.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n")));
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        assert!(!body.contains(&format!("\r\n{gone}")), "{line}: {body}");
        for name in ["x-listed", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "upgrade"] {
            assert!(!seen.has(name), "{name}: {}", seen.head);
        }
        assert!(seen.has("x-end") && seen.header("set-cookie") == Some("a=b"), "{}", seen.head);
    }
    for (name, value) in [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "a.test"),
        ("X-Real-IP", "127.0.0.1"),
        ("Host", "a.test"),
        ("Authorization", "Bearer x"),
        ("Cookie", "a=b"),
    ] {
        let lines = format!("Authorization: Bearer x\r\nCookie: a=b\r\nConnection: {name}");
        let body = send(proxy.http, &GET.replace("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"))).text();
        let line = format!("\r\n{}: {value}\r\n", name.to_lowercase());
        assert!(body.contains(&line), "{name} is kept: {body}");
    }
}

/// Whoever answers before a body has come: what is left of it is a body still.
#[test]
fn what_is_left_of_a_body_is_no_request() {
    const SECOND: &str = "GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let seen = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&seen);
    // Reads heads only, and answers at once.
    let hasty = move |stream: &mut TcpStream| {
        if let Some(head) = read_head(stream) {
            log.lock().expect("whole").push_str(&head);
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"));
            drop(stream.read(&mut [0; 4096]));
        }
    };
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(hasty)]);
    rig.route("a.test", "/", "web");
    rig.route_with("small.test", "/", "web", |draft| draft.policy.body.max_request = Some(1));
    rig.route_with("moved.test", "/", "web", |draft| draft.redirect(308));
    let proxy = rig.start(|settings| settings.workers = 1);
    for (host, status) in [("a.test", 200), ("small.test", 413), ("moved.test", 308), ("unknown.test", 404)] {
        for (framing, body) in [
            (format!("Content-Length: {}", SECOND.len()), SECOND.to_owned()),
            ("Transfer-Encoding: chunked".to_owned(), format!("{:x}\r\n{SECOND}\r\n0\r\n\r\n", SECOND.len())),
            (format!("Content-Length: {}", 5000 * SECOND.len()), SECOND.repeat(5000)),
        ] {
            let mut stream = connect(proxy.http);
            let head = format!("POST /first HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n");
            let last = "GET /last HTTP/1.1\r\nHost: unknown.test\r\n\r\n";
            // The connection may end before all is sent.
            drop(stream.write_all(format!("{head}{body}{last}").as_bytes()));
            let mut all = Vec::new();
            drop(stream.set_read_timeout(Some(SOON)));
            drop(stream.read_to_end(&mut all));
            let text = String::from_utf8_lossy(&all).into_owned();
            let statuses: Vec<_> =
                text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
            assert_eq!(statuses.first(), Some(&&*status.to_string()), "{host} {framing}: {text}");
            assert!(matches!(statuses[1..], [] | ["404"]), "{host} {framing}: {text}");
        }
    }
    assert!(!seen.lock().expect("whole").contains("/second"));
}

/// An endpoint's answer that two readers could read in two ways is nobody's answer, and what follows it
/// is not the next one's.
#[test]
fn answers_in_doubt() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (what, answer, status) in [
        (
            "both framings",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            502,
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 502),
        ("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1,2\r\n\r\nx", 502),
        ("a sign", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", 502),
        ("another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 502),
        ("a coding that is none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 502),
        ("a folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", 502),
        ("a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", 502),
        ("a zero", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", 502),
        (
            "another protocol that nobody asked for",
            "HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            502,
        ),
        ("no status", "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n", 502),
        ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", 502),
        // These are clear; what comes behind them is not asked for.
        ("more than it says", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", 304),
        ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let proxy = start(move |stream| {
            while read_head(stream).is_some() {
                let text = match count.fetch_add(1, SeqCst) {
                    0 => format!("{answer}{evil}"),
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".to_owned(),
                };
                drop(stream.write_all(text.as_bytes()));
            }
        });
        for more in ["", "TE: trailers\r\n"] {
            asked.store(0, SeqCst);
            let get = GET.replace("\r\n\r\n", &format!("\r\n{more}\r\n"));
            let mut stream = connect(proxy.http);
            for expect in [status, 200] {
                if stream.write_all(get.as_bytes()).is_err() {
                    break;
                }
                let Some(seen) = read_response(&mut stream, false) else { break };
                assert_eq!(seen.status, expect, "{what} {more:?}: {}", seen.text());
                assert!(!seen.text().contains("evil"), "{what} {more:?}: {}", seen.text());
            }
            let seen = send(proxy.http, &get);
            assert_eq!(
                (seen.status, &seen.body[..]),
                (200, &b"good"[..]),
                "{what} {more:?}: {}",
                seen.text()
            );
        }
    }
}

/// An endpoint that wants no body says so before it comes, and the client keeps it; what else a client
/// may expect is the endpoint's business.
#[test]
fn expectations() {
    let refusing = |stream: &mut TcpStream| {
        while let Some(head) = read_head(stream) {
            let expects = head.contains("expect: 100-continue");
            let status = if expects { "417 Expectation Failed" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            drop(stream.write_all(answer.as_bytes()));
            if expects {
                return;
            }
        }
    };
    let proxy = start(refusing);
    let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(send(proxy.http, post).status, 417, "the endpoint's word, without a 100 before it");
    let seen = send(proxy.http, &GET.replace("\r\n\r\n", "\r\nExpect: a miracle\r\n\r\n"));
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert!(seen.text().contains("expect: a miracle"), "{}", seen.text());
    // Without a body there is nothing to wait for.
    let seen = send(proxy.http, &GET.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
    assert!(matches!(seen.status, 200 | 417), "{}", seen.text());
}

/// On HTTP/2, too: a connection that nobody uses ends with a word, and a body that does not come is not
/// waited for.
#[test]
fn time_limits_on_http2() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(mirror)]);
    rig.cluster("hang", &[endpoint(|stream| while read_head(stream).is_some() {})]);
    rig.route("a.test", "/", "web");
    rig.route("h.test", "/", "hang");
    let proxy = rig.start(|settings| {
        settings.workers = 1;
        (settings.timeouts.idle, settings.timeouts.client) = (SOON, SOON);
    });
    let mut client = Client::new(proxy.http);
    client.send(&frames::request(1, &frames::get("a.test")));
    client.until("an answer", |frame| frame.stream == 1 && frame.flags & END_STREAM != 0);
    let mut goodbye = None;
    while let Some(next) = client.next() {
        match next.kind {
            GOAWAY => goodbye = Some(next.number(4)),
            PING if next.flags & ACK == 0 => drop(client.0.write_all(&frame(PING, ACK, 0, &next.payload))),
            _ => {}
        }
    }
    assert_eq!(goodbye, Some(0), "an idle connection ends in good order");
    let mut client = Client::new(proxy.http);
    let head = [frames::post("h.test"), frames::field("content-length", "5")].concat();
    client.send(&[frames::open(1, &head), frame(DATA, 0, 1, b"ab")].concat());
    let answer = client.until("a body that does not come", |frame| frame.stream == 1);
    let is_refused = matches!(answer.kind, HEADERS | RST_STREAM) && answer.payload[0] != 0x88;
    assert!(is_refused, "{} {:?}", answer.kind, answer.payload);
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
}

/// What a trusted proxy says of the host and the port that its client asked for is passed on.
#[test]
fn a_trusted_proxys_host_and_port() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|settings| {
        settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")];
        settings.forwarded = true;
    });
    let lines = "X-Forwarded-Host: shop.test\r\nX-Forwarded-Port: 8443\r\nForwarded: for=203.0.113.7\r\n\r\n";
    let text = send(proxy.http, &GET.replace("\r\n\r\n", &format!("\r\n{lines}"))).text();
    for line in [
        "x-forwarded-host: shop.test",
        "x-forwarded-port: 8443",
        "forwarded: for=203.0.113.7, for=127.0.0.1;host=\"a.test\";proto=http",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}: {text}");
    }
}

/// A short body that nobody wants is read, and its connection used again. Whoever has more to send, or waits to be
/// asked for it, is told that the connection ends: its next request would be sent in vain.
#[test]
fn bodies_that_nobody_takes() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(mirror)]);
    rig.route("a.test", "/", "web");
    rig.route_with("a.test", "/closed", "web", |draft| draft.policy.access.allow = Some(Arc::new([])));
    rig.route_with("a.test", "/secure", "web", |draft| draft.redirect(308));
    rig.route_with("a.test", "/short", "web", |draft| draft.policy.body.max_request = Some(10));
    // Says at once that it wants nothing, and goes on to listen.
    rig.cluster(
        "refusing",
        &[endpoint(|stream| {
            while let Some(head) = read_head(stream) {
                let status = if head.contains("/enough") { 200 } else { 401 };
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nno");
                drop(stream.write_all(answer.as_bytes()));
            }
        })],
    );
    rig.route("refusing.test", "/", "refusing");
    let proxy = rig.start(|settings| {
        settings.workers = 1;
        settings.timeouts.client = SOON;
    });
    let body = "x".repeat(256 * 1024);
    const EXPECT: &str = "Expect: 100-continue\r\n";
    for (host, path, length, sent, more, status, ends) in [
        ("a.test", "/", 1000, 1000, "", 200, false),
        ("none.test", "/", 0, 0, "", 404, false),
        ("none.test", "/", 1000, 1000, "", 404, false),
        ("none.test", "/", 256 * 1024, 256 * 1024, "", 404, false),
        ("none.test", "/", 256 * 1024 + 1, 1000, "", 404, true),
        ("none.test", "/", 1000, 0, EXPECT, 404, true),
        ("a.test", "/closed", 1000, 1000, "", 403, false),
        ("a.test", "/closed", 0, 0, "", 403, false),
        ("a.test", "/secure", 1000, 1000, "", 308, false),
        ("a.test", "/secure", 1_000_000, 1000, "", 308, true),
        ("a.test", "/short", 1000, 1000, "", 413, true),
        ("refusing.test", "/", 1000, 0, EXPECT, 401, true),
        ("refusing.test", "/", 1000, 0, "", 401, true),
    ] {
        let what = format!("{host}{path} {length} {more}");
        let mut stream = connect(proxy.http);
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{more}\r\n");
        let begin = sent.min(500);
        stream.write_all(format!("{head}{}", &body[..begin]).as_bytes()).expect("sent");
        // The rest comes behind the answer, as it may.
        std::thread::sleep(std::time::Duration::from_millis(20));
        stream.write_all(&body.as_bytes()[begin..sent]).expect("sent");
        let seen = read_response(&mut stream, false).expect("an answer");
        let told = seen.header("connection") == Some("close");
        assert_eq!((seen.status, told), (status, ends), "{what}");
        match ends {
            true => {
                stream.set_read_timeout(Some(std::time::Duration::from_secs(9))).expect("a timeout");
                assert_eq!(stream.read(&mut [0]).ok(), Some(0), "{what}: it ends");
            }
            false => {
                stream.write_all(GET.as_bytes()).expect("sent");
                assert_eq!(read_response(&mut stream, false).expect("another").status, 200, "{what}");
            }
        }
    }
    // Over HTTP/2 a reset says it, where there is more than a little, but not at once.
    for (path, length, reset) in [
        ("/", 1000, false),
        ("/short", 1000, false),
        ("/", 256 * 1024 + 1, true),
        ("/refusing", 1_000_000, true),
        ("/enough", 1_000_000, true),
        ("/secure", 1_000_000, true),
        ("/short", 1_000_000, true),
    ] {
        let host = match path {
            "/" => "none.test",
            "/refusing" | "/enough" => "refusing.test",
            _ => "a.test",
        };
        let mut client = Client::new(proxy.http);
        let more =
            [frames::field(":path", path), frames::field("content-length", &length.to_string())].concat();
        let head = frames::post(host);
        // The path of the static table is left out.
        let head = [&head[..2], &head[3..], &more].concat();
        client.send(&frames::open(1, &head));
        client.until("an answer", |frame| frame.stream == 1 && frame.flags & END_STREAM != 0);
        let last = if reset { 0 } else { END_STREAM };
        client.send(&[frame(DATA, last, 1, &body.as_bytes()[..1000]), frame(PING, 0, 0, &[7; 8])].concat());
        let end = client.until("what follows", |frame| frame.kind == RST_STREAM || frame.payload == [7; 8]);
        // A client that goes on to send behind what is no failure is stopped at once.
        let at_once = matches!(path, "/enough" | "/secure");
        assert_eq!(end.kind == PING, !at_once, "{path} {length}");
        if reset && !at_once {
            let end = client.until("the end", |frame| frame.kind == RST_STREAM);
            assert_eq!((end.stream, end.number(0)), (1, 0), "{path} {length}");
        }
    }
    // A body that does not come is not waited for.
    let mut stream = connect(proxy.http);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: none.test\r\nContent-Length: 9\r\n\r\nabc").expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("an answer").status, 404);
    assert_eq!(stream.read(&mut [0]).ok(), Some(0), "it ends");
    eventually(|| proxy.proxy.stats().total.active == 0);
}

/// A fleet that fails is not asked for more than it was: retries are a share of the requests.
#[test]
fn retries_have_a_budget() {
    const REQUESTS: usize = 1000;
    let asked = Arc::new(AtomicUsize::new(0));
    let failing = |asked: &Arc<AtomicUsize>| -> SocketAddr {
        let asked = Arc::clone(asked);
        endpoint(move |stream| {
            while read_head(stream).is_some() {
                asked.fetch_add(1, SeqCst);
                drop(stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
            }
        })
    };
    let mut rig = Rig::new();
    rig.cluster("web", &[failing(&asked), failing(&asked), failing(&asked)]);
    rig.route_with("a.test", "/", "web", |draft| {
        draft.policy.upstream.retry.on = vec![sluice::model::RetryOn::Status(503)];
        draft.policy.upstream.retry.tries = 3;
    });
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut stream = connect(proxy.http);
    for _ in 0..REQUESTS {
        stream.write_all(GET.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream, false).expect("an answer").status, 503);
    }
    let total = proxy.proxy.stats().total;
    assert_eq!(asked.load(SeqCst) as u64, REQUESTS as u64 + total.upstream_retries);
    assert!(total.upstream_retries < 2 * REQUESTS as u64, "{} retries", total.upstream_retries);
}
