//! The proxy over real loopback sockets: bytes in, and what client and endpoint see.

#[path = "support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rig::{Rig, certificate, echo, endpoint, free_port, host, read_response, send};
use sluice::model::{Backend, Unavailable};
use tokio_tungstenite::tungstenite::Message;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn routes_policies_and_failures() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let smuggler = endpoint(|stream| {
        rig::read_head(stream);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        drop(stream.write_all(answer));
    });
    let garbage = endpoint(|stream| {
        rig::read_head(stream);
        drop(stream.write_all(b"what?\r\n\r\n"));
    });
    let silent = endpoint(|stream| drop(stream.read_to_end(&mut Vec::new())));
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.cluster("dead", &[dead]);
    rig.cluster("empty", &[]);
    rig.cluster("half", &[dead, endpoint(echo)]);
    rig.cluster("garbage", &[garbage]);
    rig.cluster("smuggler", &[smuggler]);
    rig.cluster("silent", &[silent]);
    for name in ["web", "dead", "empty", "half", "garbage", "smuggler", "silent"] {
        rig.route(&host(name), "/", name);
    }
    rig.route_with("rewrite.test", "/", "web", |policy| policy.rewrite("/new"));
    rig.route_with("secure.test", "/", "web", |policy| policy.redirect(308));
    rig.unavailable("gone.test", Backend::Unavailable(Unavailable::ResourceBackend));
    let proxy = rig.start(|settings| settings.timeouts.read = Duration::from_millis(300));
    let redirect = format!("location: https://secure.test:{}/p?q=1", proxy.https.port());
    for (name, path, status, says) in [
        ("web.test", "/a?b=c", 200, "GET /a?b=c HTTP/1.1"),
        ("WEB.test.:80", "/", 200, "GET / HTTP/1.1"),
        ("web.test", "/x/../a/./b", 200, "GET /a/b HTTP/1.1"),
        ("web.test", "/a%00", 400, "not valid"),
        ("unknown.test", "/", 404, "no route"),
        ("dead.test", "/", 502, "no valid answer"),
        ("half.test", "/", 200, "GET / HTTP/1.1"),
        ("half.test", "/", 200, "GET / HTTP/1.1"),
        ("empty.test", "/", 503, "no endpoint"),
        ("gone.test", "/", 503, "no endpoint"),
        ("garbage.test", "/", 502, "no valid answer"),
        ("smuggler.test", "/", 502, "no valid answer"),
        ("silent.test", "/", 504, "in time"),
        ("rewrite.test", "/old/path?q=1", 200, "GET /new?q=1 HTTP/1.1"),
        ("secure.test", "/p?q=1", 308, redirect.as_str()),
    ] {
        let seen = send(proxy.http, &format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n"));
        assert_eq!(seen.status, status, "{name}{path}: {seen:?}");
        assert!(seen.text().contains(says), "{name}{path}: {}", seen.text());
        assert!(seen.has("server") && seen.has("date"), "{seen:?}");
    }
    let stats = proxy.proxy.stats();
    assert_eq!(stats.clusters["test/smuggler:80"], 1);
}

#[test]
fn requests_that_must_not_pass() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{rest}");
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a.test\r\n{rest}\r\n");
    for (request, status) in [
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), 400),
        (post("Content-Length: 1\r\nContent-Length: 1\r\n\r\na"), 400),
        (post("Content-Length: +1\r\n\r\na"), 400),
        (post("Content-Length: 1,1\r\n\r\na"), 400),
        (post("Content-Length: 0x1\r\n\r\na"), 400),
        (post("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), 400),
        ("POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: a.test\n\n".to_owned(), 400),
        (get("X: a\rb\r\n"), 400),
        (get("X: a\r\n b\r\n"), 400),
        (get("X: a\0b\r\n"), 400),
        ("GET /#f HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (get("Host: a.test\r\n"), 400),
        ("GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n".to_owned(), 400),
        ("GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 400),
        ("GET * HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 400),
        ("CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n".to_owned(), 405),
        ("TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 405),
        ("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 200),
        ("GET http://a.test?x=1 HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 200),
    ] {
        let mut stream = rig::connect(proxy.http);
        // A second request that must only be answered where the first one was sound.
        let bytes = format!("{request}GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n");
        stream.write_all(bytes.as_bytes()).expect("sent");
        let first = read_response(&mut stream, false).unwrap_or_else(|| panic!("no answer: {request:?}"));
        assert_eq!(first.status, status, "{request:?}: {}", first.text());
        let second = read_response(&mut stream, false);
        assert_eq!(second.is_some(), status == 200, "{request:?} then {second:?}");
    }
}

#[test]
fn headers_between_client_and_endpoint() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let seen = send(
        proxy.http,
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, x-secret, x-forwarded-for\r\nX-Secret: 1\r\n\
         Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip, trailers\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
         X-Forwarded-Proto: https\r\nX-Scheme: https\r\nForwarded: for=6.6.6.6\r\nProxy: evil\r\nX-Mine: yes\r\n\r\n",
    );
    let text = String::from_utf8_lossy(&seen.body).into_owned();
    let port = format!("x-forwarded-port: {}", proxy.http.port());
    for line in [
        "host: a.test",
        "x-mine: yes",
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        "x-real-ip: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-scheme: http",
        "x-scheme: http",
        "x-forwarded-host: a.test",
        port.as_str(),
        "x-request-id: ",
    ] {
        assert!(text.contains(&format!("\r\n{line}")), "{line} in {text}");
    }
    for word in ["secret", "keep-alive", "proxy", "gzip", "6.6.6.6", "evil"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    assert!(!seen.has("x-hop") && !seen.has("keep-alive") && seen.has("x-end"), "{seen:?}");
}

#[test]
fn connections_to_endpoints_are_kept_and_stale_ones_replaced() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    // Closes after each answer without saying so.
    let rude = endpoint(|stream| {
        if rig::read_head(stream).is_some() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        }
    });
    rig.cluster("rude", &[rude]);
    rig.route("a.test", "/", "web");
    rig.route("rude.test", "/", "rude");
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut stream = rig::connect(proxy.http);
    for _ in 0..10 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
        assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
    }
    let totals = proxy.proxy.stats().total;
    assert_eq!((totals.upstream_connects, totals.upstream_reuses), (1, 9));
    for _ in 0..20 {
        assert_eq!(send(proxy.http, "GET / HTTP/1.1\r\nHost: rude.test\r\n\r\n").status, 200);
    }
}

#[test]
fn bodies_both_ways() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(rig::mirror)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let big = vec![b'x'; 8 << 20];
    for chunked in [false, true] {
        let mut stream = rig::connect(proxy.http);
        let mut writer = stream.try_clone().expect("a clone");
        let body = big.clone();
        let sender = std::thread::spawn(move || {
            let framing = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", body.len()),
            };
            drop(
                writer.write_all(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n").as_bytes()),
            );
            if !chunked {
                drop(writer.write_all(&body));
                return;
            }
            for part in body.chunks(100_000) {
                drop(writer.write_all(&[format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()));
            }
            drop(writer.write_all(b"0\r\n\r\n"));
        });
        // The endpoint answers while the request is still being sent, and the client reads late.
        std::thread::sleep(Duration::from_millis(100));
        let seen = read_response(&mut stream, false).expect("an answer");
        sender.join().expect("sent");
        assert_eq!((seen.status, seen.body.len()), (200, big.len()), "chunked: {chunked}");
        assert!(seen.body == big, "the body came back changed");
    }
    let mut stream = rig::connect(proxy.http);
    stream.write_all(b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
    assert_eq!(read_response(&mut stream, true).expect("an answer").status, 200);
    let waits = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(waits.as_bytes()).expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("100").status, 100);
    stream.write_all(b"hi").expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("an answer").body, b"hi");
}

#[test]
fn certificates_by_name_and_swapped_under_an_open_connection() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("", "/", "web");
    rig.certificate("exact.test", certificate("exact.test"));
    rig.certificate("*.wild.test", certificate("*.wild.test"));
    let mut proxy = rig.start(|_| ());
    let ask = |tls: &mut rig::Tls, name: &str| {
        tls.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).expect("sent");
        read_response(tls, false).expect("an answer").text()
    };
    for (name, subject) in [
        ("exact.test", "exact.test"),
        ("a.wild.test", "*.wild.test"),
        ("a.b.wild.test", "sluice.invalid"),
        ("other.test", "sluice.invalid"),
    ] {
        let mut tls = rig::tls(proxy.https, name, &[b"http/1.1"]);
        let text = ask(&mut tls, name);
        assert!(text.contains("x-forwarded-proto: https"), "{name}: {text}");
        assert_eq!(rig::subject(&tls), subject, "{name}");
    }
    let mut open = rig::tls(proxy.https, "exact.test", &[b"http/1.1"]);
    ask(&mut open, "exact.test");
    let old = rig::fingerprint(&open);
    proxy.change(|rig| rig.certificate("exact.test", certificate("exact.test")));
    ask(&mut open, "exact.test");
    let mut fresh = rig::tls(proxy.https, "exact.test", &[b"http/1.1"]);
    ask(&mut fresh, "exact.test");
    assert_ne!(rig::fingerprint(&fresh), old);
}

#[test]
fn http2_by_prior_knowledge_and_alpn() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    assert_eq!(rig::alpn(&mut rig::tls(proxy.https, "a.test", &[b"h2", b"http/1.1"])), b"h2");
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("h2");
        tokio::spawn(connection);
        for (uri, status) in [("http://a.test/x", 200), ("http://b.test/x", 404)] {
            let request = http::Request::get(uri).header("cookie", "a=1").header("cookie", "b=2");
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            let response = client.send_request(request).await.expect("an answer");
            assert_eq!(response.status(), status, "{uri}");
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            let text = String::from_utf8_lossy(&body);
            assert!(status != 200 || text.contains("cookie: a=1; b=2"), "{text}");
        }
    });
}

#[test]
fn endpoints_and_listeners_follow_the_snapshot() {
    let mut rig = Rig::new();
    let (one, two) = (endpoint(|s| rig::say(s, "one")), endpoint(|s| rig::say(s, "two")));
    rig.cluster("web", &[one]);
    rig.route("a.test", "/", "web");
    let mut proxy = rig.start(|_| ());
    let mut stream = rig::connect(proxy.http);
    for (endpoints, answers) in [
        (vec![one], vec!["one"]),
        (vec![two], vec!["two"]),
        (vec![], vec!["no endpoint"]),
        (vec![one, two], vec!["one", "two"]),
    ] {
        proxy.change(|rig| rig.cluster("web", &endpoints));
        let mut heard = std::collections::BTreeSet::<&str>::new();
        for _ in 0..8 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
            let text = read_response(&mut stream, false).expect("an answer").text();
            heard.extend(answers.iter().copied().filter(|answer| text.contains(answer)));
        }
        assert_eq!(heard.len(), answers.len(), "{endpoints:?}: {heard:?}");
    }
    let old = proxy.http;
    let new: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    proxy.change(|rig| rig.http = new);
    rig::eventually(|| TcpStream::connect(new).is_ok() && TcpStream::connect(old).is_err());
    assert_eq!(send(new, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").status, 200);
}

#[test]
fn websockets_open_after_101_and_end_with_the_drain() {
    let mut rig = Rig::new();
    rig.cluster("socket", &[endpoint(rig::websocket_echo)]);
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "socket");
    rig.route("b.test", "/", "web");
    let mut proxy = rig.start(|_| ());
    let declined = "GET / HTTP/1.1\r\nHost: b.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(send(proxy.http, declined).status, 200);
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
        let (mut socket, response) =
            tokio_tungstenite::client_async("ws://a.test/chat", stream).await.expect("a websocket");
        assert_eq!(response.status(), 101);
        for text in ["hello", "world"] {
            socket.send(Message::text(text)).await.expect("sent");
            assert_eq!(socket.next().await.expect("a message").expect("a message"), Message::text(text));
            proxy.change(|_| ());
        }
        assert_eq!(proxy.proxy.stats().total.tunnels_active, 1);
        let shutdown = proxy.proxy.shutdown(Duration::from_millis(300));
        tokio::time::timeout(Duration::from_secs(20), shutdown).await.expect("the drain ends");
        assert!(!matches!(socket.next().await, Some(Ok(Message::Text(_)))));
    });
}

#[test]
fn shutdown_lets_requests_finish() {
    let mut rig = Rig::new();
    let slow = endpoint(|stream| {
        rig::read_head(stream);
        std::thread::sleep(Duration::from_millis(400));
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"));
    });
    rig.cluster("slow", &[slow]);
    rig.route("a.test", "/", "slow");
    let proxy = rig.start(|_| ());
    let mut stream = rig::connect(proxy.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
    rig::eventually(|| proxy.proxy.stats().total.requests_active == 1);
    runtime().block_on(async {
        let shutdown = proxy.proxy.shutdown(Duration::from_secs(20));
        tokio::time::timeout(Duration::from_secs(30), shutdown).await.expect("the drain ends");
    });
    let seen = read_response(&mut stream, false).expect("an answer");
    assert_eq!((seen.status, seen.body.as_slice()), (200, &b"done"[..]));
    assert_eq!(seen.header("connection"), Some("close"));
}

/// While others are to take over, what is open ends in good order, and who comes gets one answer.
#[test]
fn resting_ends_connections_and_refuses_nobody() {
    let mut rig = Rig::new();
    let slow = endpoint(|stream| {
        while rig::read_head(stream).is_some() {
            std::thread::sleep(Duration::from_millis(300));
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"));
        }
    });
    rig.cluster("web", &[endpoint(echo)]);
    rig.cluster("slow", &[slow]);
    rig.cluster("socket", &[endpoint(rig::websocket_echo)]);
    for name in ["web", "slow", "socket"] {
        rig.route(&host(name), "/", name);
    }
    let proxy = rig.start(|settings| settings.workers = 1);
    let get = |name: &str, more: &str| format!("GET / HTTP/1.1\r\nHost: {name}.test\r\n{more}\r\n");
    let ask = |stream: &mut TcpStream, request: &str| {
        stream.write_all(request.as_bytes()).expect("sent");
        let seen = read_response(stream, false).expect("an answer");
        assert_eq!(seen.status, 200);
        seen.header("connection") == Some("close")
    };
    for more in ["", "TE: trailers\r\n"] {
        let (web, slow) = (get("web", more), get("slow", more));
        let mut idle = rig::connect(proxy.http);
        assert!(!ask(&mut idle, &web), "{more:?}");
        let mut busy = rig::connect(proxy.http);
        busy.write_all(slow.as_bytes()).expect("sent");
        rig::eventually(|| proxy.proxy.stats().total.requests_active == 1);
        proxy.proxy.rest(true);
        assert!(read_response(&mut idle, false).is_none(), "an idle connection ends");
        let seen = read_response(&mut busy, false).expect("an answer");
        assert_eq!((seen.status, seen.header("connection")), (200, Some("close")), "{}", seen.head);
        for _ in 0..2 {
            let mut late = rig::connect(proxy.http);
            assert!(ask(&mut late, &web), "{more:?}: one answer and the end");
            assert!(read_response(&mut late, false).is_none());
        }
        proxy.proxy.rest(false);
        rig::eventually(|| {
            let mut stream = rig::connect(proxy.http);
            !ask(&mut stream, &web) && !ask(&mut stream, &web)
        });
    }
    runtime().block_on(async {
        let connect = async || {
            let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
            let (client, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
                TokioExecutor::new(),
                TokioIo::new(stream),
            )
            .await
            .expect("h2");
            (client, tokio::spawn(connection))
        };
        let request = || http::Request::get("http://web.test/").body(Empty::new()).expect("a request");
        let (mut client, open) = connect().await;
        assert_eq!(client.send_request(request()).await.expect("an answer").status(), 200);
        let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
        let (mut socket, _) =
            tokio_tungstenite::client_async("ws://socket.test/", stream).await.expect("a socket");
        proxy.proxy.rest(true);
        tokio::time::timeout(Duration::from_secs(20), open)
            .await
            .expect("GOAWAY")
            .expect("no panic")
            .expect("in order");
        let (mut late, open) = connect().await;
        assert_eq!(late.send_request(request()).await.expect("an answer").status(), 200);
        tokio::time::timeout(Duration::from_secs(20), open)
            .await
            .expect("GOAWAY")
            .expect("no panic")
            .expect("in order");
        socket.send(Message::text("still here")).await.expect("sent");
        assert_eq!(socket.next().await.expect("a message").expect("a message"), Message::text("still here"));
    });
}
