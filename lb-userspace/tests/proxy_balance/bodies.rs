//! Bodies: how large, and who waits for whom.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice::model::BodyLimits;
use sluice::proxy::Settings;

use crate::rig::{self, Rig, Running, endpoint, eventually, read_head, read_response};

/// What an endpoint saw.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    heads: Mutex<Vec<String>>,
    /// All bytes after heads.
    bytes: AtomicUsize,
}

/// Notes what it gets; answers a body of the length that the head has, or of chunks, with 200.
fn noting(seen: &Arc<Seen>) -> SocketAddr {
    let seen = Arc::clone(seen);
    endpoint(move |stream| {
        seen.connections.fetch_add(1, SeqCst);
        while let Some(head) = read_head(stream) {
            let length = head.to_ascii_lowercase().split("content-length: ").nth(1).map(|rest| {
                rest.lines().next().and_then(|digits| digits.parse::<usize>().ok()).expect("a length")
            });
            seen.heads.lock().expect("a lock").push(head.clone());
            let mut body = Vec::new();
            let complete = |body: &[u8]| match length {
                Some(length) => body.len() >= length,
                None => !head.contains("chunked") || body.ends_with(b"0\r\n\r\n"),
            };
            while !complete(&body) {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes) {
                    Ok(count) if count > 0 => {
                        seen.bytes.fetch_add(count, SeqCst);
                        body.extend_from_slice(&bytes[..count]);
                    }
                    _ => return,
                }
            }
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        }
    })
}

/// `a.test` over one endpoint, one worker.
fn with_limits(address: SocketAddr, limits: BodyLimits, change: impl FnOnce(&mut Settings)) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[address]);
    rig.route_with("a.test", "/", "web", |draft| draft.policy.body = limits);
    rig.start(|settings| {
        settings.workers = 1;
        change(settings);
    })
}

fn at_most(max: u64, buffer_request: bool) -> BodyLimits {
    BodyLimits { max_request: Some(max), buffer_request, ..BodyLimits::default() }
}

fn post(headers: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n{body}")
}

fn chunked(sizes: &[usize]) -> String {
    let chunk = |size: &usize| format!("{size:x}\r\n{}\r\n", "x".repeat(*size));
    let chunks: String = sizes.iter().map(chunk).collect();
    post("Transfer-Encoding: chunked\r\n", &format!("{chunks}0\r\n\r\n"))
}

fn lengthy(length: usize) -> String {
    post(&format!("Content-Length: {length}\r\n"), &"x".repeat(length))
}

#[test]
fn bodies_that_are_too_long() {
    for buffered in [false, true] {
        for (sent, max, status, most) in [
            (lengthy(100), 100, 200, 100),
            (lengthy(101), 100, 413, 0),
            (lengthy(0), 100, 200, 0),
            // All of it is on the way before the answer comes, and the answer still arrives.
            (lengthy(5_000_000), 100, 413, 0),
            (post("Content-Length: 101\r\nExpect: 100-continue\r\n", ""), 100, 413, 0),
            (post("Content-Length: 1000000000000\r\n", "x"), 100, 413, 0),
            // Frames of chunks count for the endpoint's bytes, not for the limit.
            (chunked(&[50, 50]), 100, 200, 130),
            (chunked(&[50, 51]), 100, 413, 130),
            (chunked(&[101]), 100, 413, 130),
            (chunked(&[100_000; 50]), 1_000_000, 413, 1_010_000),
            // 0 is no limit.
            (lengthy(5_000_000), 0, 200, 5_000_000),
            (chunked(&[100_000; 50]), 0, 200, 5_100_000),
        ] {
            let seen = Arc::new(Seen::default());
            let proxy = with_limits(noting(&seen), at_most(max, buffered), |_| ());
            let mut stream = rig::connect(proxy.http);
            let what = format!("{} bytes, {max} allowed, buffered: {buffered}", sent.len());
            stream.write_all(sent.as_bytes()).unwrap_or_else(|error| panic!("{what}: {error}"));
            let answer = read_response(&mut stream, false).unwrap_or_else(|| panic!("{what}: no answer"));
            assert_eq!(answer.status, status, "{what}: {}", answer.text());
            let bytes = seen.bytes.load(SeqCst);
            assert!(bytes <= most, "{what}: {bytes} bytes reached the endpoint");
            if status == 200 {
                stream.write_all(lengthy(1).as_bytes()).expect("sent");
                assert_eq!(read_response(&mut stream, false).expect("kept alive").status, 200, "{what}");
                continue;
            }
            if most == 0 || buffered && max < 1_000_000 {
                assert_eq!(seen.heads.lock().expect("a lock").len(), 0, "{what}: the endpoint saw it");
            }
            assert_eq!(answer.header("connection"), Some("close"), "{what}");
            assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "{what}: nothing follows");
            eventually(|| proxy.proxy.stats().total.requests_active == 0);
            assert_eq!(proxy.proxy.stats().total.upstream_failures, 0, "{what}: not the endpoint's fault");
        }
    }
}

#[test]
fn bodies_that_are_too_long_on_http2() {
    let seen = Arc::new(Seen::default());
    let proxy = with_limits(noting(&seen), at_most(1000, false), |_| ());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut client, connection) = handshake.await.expect("h2");
        tokio::spawn(connection);
        for (pieces, announced, status) in [
            (1, true, 200),
            (11, true, 413),
            (10, false, 200),
            (11, false, 413),
            (500, false, 413),
            (1, false, 200),
        ] {
            let piece =
                || Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(vec![7; 100])));
            let body = match announced {
                true => Full::new(Bytes::from(vec![7; pieces * 100])).boxed(),
                false => StreamBody::new(futures::stream::iter((0..pieces).map(move |_| piece()))).boxed(),
            };
            let request = http::Request::post("http://a.test/").body(body).expect("a request");
            client.ready().await.expect("the connection lives on");
            let answer = client.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), status, "{pieces} pieces, announced: {announced}");
            drop(answer.into_body().collect().await);
        }
    });
    assert_eq!(proxy.proxy.stats().total.upstream_failures, 0);
}

#[test]
fn endpoints_see_requests_when_they_are_complete() {
    for (headers, body, framing) in [
        ("Content-Length: 10\r\n", "0123456789", "content-length: 10\r\n"),
        ("Content-Length: 10\r\nExpect: 100-continue\r\n", "0123456789", "content-length: 10\r\n"),
        // Once it is there, its length is known.
        ("Transfer-Encoding: chunked\r\n", "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", "content-length: 10\r\n"),
    ] {
        let seen = Arc::new(Seen::default());
        let limits = BodyLimits { buffer_request: true, ..BodyLimits::default() };
        let proxy = with_limits(noting(&seen), limits, |_| ());
        let mut stream = rig::connect(proxy.http);
        stream.write_all(post(headers, "").as_bytes()).expect("sent");
        if headers.contains("Expect") {
            assert_eq!(read_response(&mut stream, false).expect("an interim answer").status, 100);
        }
        let (first, second) = body.split_at(body.len() - 1);
        stream.write_all(first.as_bytes()).expect("sent");
        eventually(|| proxy.proxy.stats().total.requests_active == 1);
        // As much time as a proxy that does not wait would need.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(seen.connections.load(SeqCst), 0, "{headers}: the endpoint is not troubled");
        stream.write_all(second.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
        let heads = seen.heads.lock().expect("a lock");
        let head = heads[0].to_ascii_lowercase();
        assert!(head.contains(framing) && !head.contains("expect"), "{head}");
        assert_eq!(seen.bytes.load(SeqCst), 10);
    }
}

/// A request that took its route before an edit is answered as it would have been, although nobody names
/// its Service any more.
#[test]
fn a_route_that_moves_on_leaves_nobody_behind() {
    let seen = Arc::new(Seen::default());
    let limits = BodyLimits { buffer_request: true, ..BodyLimits::default() };
    let mut proxy = with_limits(noting(&seen), limits, |_| ());
    let mut stream = rig::connect(proxy.http);
    stream.write_all(post("Content-Length: 10\r\n", "hello").as_bytes()).expect("sent");
    eventually(|| proxy.proxy.stats().total.requests_active == 1);
    let other = Arc::new(Seen::default());
    proxy.change(|rig| {
        rig.replace_routes();
        rig.remove_cluster("web");
        rig.cluster("other", &[noting(&other)]);
        rig.route("a.test", "/", "other");
    });
    stream.write_all(b"world").expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
    assert_eq!((seen.bytes.load(SeqCst), other.bytes.load(SeqCst)), (10, 0));
    stream.write_all(lengthy(3).as_bytes()).expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
    assert_eq!((seen.bytes.load(SeqCst), other.bytes.load(SeqCst)), (10, 3), "the next one goes on");
}

#[test]
fn buffers_are_bounded() {
    // What does not fit is passed on as it comes: to the endpoint before the body is complete.
    for (memory, first, total) in [(64 * 1024, 70_000, 80_000), (32 << 20, 1_100_000, 2_000_000)] {
        for announced in [true, false] {
            let seen = Arc::new(Seen::default());
            let limits = BodyLimits { buffer_request: true, ..BodyLimits::default() };
            let proxy = with_limits(noting(&seen), limits, |settings| settings.body_memory = memory);
            let mut stream = rig::connect(proxy.http);
            let rest = total - first;
            let (headers, begin, end) = match announced {
                true => (format!("Content-Length: {total}\r\n"), "x".repeat(first), "x".repeat(rest)),
                false => (
                    "Transfer-Encoding: chunked\r\n".to_owned(),
                    format!("{first:x}\r\n{}\r\n", "x".repeat(first)),
                    format!("{rest:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(rest)),
                ),
            };
            stream.write_all(post(&headers, &begin).as_bytes()).expect("sent");
            eventually(|| seen.bytes.load(SeqCst) >= first);
            stream.write_all(end.as_bytes()).expect("sent");
            assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
        }
    }
}

#[test]
fn buffered_requests_are_sent_again() {
    // The first endpoint takes the request and breaks the connection.
    let broken = endpoint(|stream| drop(stream.read_exact(&mut [0; 200_000])));
    for (limits, status) in
        [(BodyLimits { buffer_request: true, ..BodyLimits::default() }, 200), (BodyLimits::default(), 502)]
    {
        let seen = Arc::new(Seen::default());
        // Turns begin with the lowest address.
        let good = std::iter::repeat_with(|| noting(&seen)).find(|good| *good > broken).expect("one");
        let mut rig = Rig::new();
        rig.cluster("web", &[broken, good]);
        rig.route_with("a.test", "/", "web", |draft| draft.policy.body = limits);
        let proxy = rig.start(|settings| settings.workers = 1);
        let mut stream = rig::connect(proxy.http);
        // PUT may be done twice; where its body is gone, as of those that are this long, it can't.
        let request = lengthy(300_000).replacen("POST", "PUT", 1);
        stream.write_all(request.as_bytes()).expect("sent");
        let answer = read_response(&mut stream, false).expect("an answer");
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

#[test]
fn clients_that_leave_give_their_memory_back() {
    let seen = Arc::new(Seen::default());
    let limits = BodyLimits { buffer_request: true, ..BodyLimits::default() };
    let proxy = with_limits(noting(&seen), limits, |settings| settings.body_memory = 128 * 1024);
    for _ in 0..20 {
        let mut stream = rig::connect(proxy.http);
        stream.write_all(post("Content-Length: 60000\r\n", &"x".repeat(50_000)).as_bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut");
        drop(stream.read_to_end(&mut Vec::new()));
    }
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
    assert_eq!(seen.connections.load(SeqCst), 0, "none was complete");
    let mut stream = rig::connect(proxy.http);
    stream.write_all(post("Content-Length: 60000\r\n", &"x".repeat(50_000)).as_bytes()).expect("sent");
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(seen.connections.load(SeqCst), 0, "there is memory to wait in");
    stream.write_all("x".repeat(10_000).as_bytes()).expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
}

#[test]
fn slow_clients_do_not_hold_endpoints() {
    const BODY: usize = 64 << 20;
    // More than sockets hold: an endpoint that has written it has a proxy that read it.
    for (ahead, held) in [(Some(80 << 20), false), (None, true), (Some(64 * 1024), true)] {
        let written = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&written);
        let address = endpoint(move |stream: &mut TcpStream| {
            while read_head(stream).is_some() {
                drop(
                    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").as_bytes()),
                );
                for _ in 0..BODY / 4096 {
                    if stream.write_all(&[7; 4096]).is_err() {
                        return;
                    }
                    counting.fetch_add(4096, SeqCst);
                }
            }
        });
        let limits = BodyLimits { buffer_response: ahead, ..BodyLimits::default() };
        let proxy = with_limits(address, limits, |settings| settings.body_memory = 128 << 20);
        let mut stream = rig::connect(proxy.http);
        socket2::SockRef::from(&stream).set_recv_buffer_size(16 * 1024).expect("a small buffer");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
        eventually(|| written.load(SeqCst) > 64 * 1024);
        if held {
            let mut last = 0;
            // Until nothing moves any more.
            eventually(|| {
                std::thread::sleep(std::time::Duration::from_millis(200));
                std::mem::replace(&mut last, written.load(SeqCst)) == written.load(SeqCst)
            });
            assert!(written.load(SeqCst) < BODY, "{ahead:?}: the endpoint waits for the client");
        } else {
            eventually(|| written.load(SeqCst) == BODY);
            eventually(|| proxy.proxy.stats().total.upstream_connects == 1);
        }
        let answer = read_response(&mut stream, false).expect("an answer");
        assert!(answer.body.len() == BODY && answer.body.iter().all(|byte| *byte == 7), "{ahead:?}");
        // The connection serves another request, and a client that leaves ends what is read for it.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
        eventually(|| written.load(SeqCst) > BODY);
        drop(stream);
        eventually(|| proxy.proxy.stats().total.requests_active == 0);
        assert_eq!(proxy.proxy.stats().total.upstream_connects, 1);
    }
}

#[test]
fn what_is_read_ahead_is_passed_on_at_once_and_broken_off_where_it_breaks() {
    let address = endpoint(|stream| {
        read_head(stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"));
        drop(stream.read(&mut [0]));
    });
    let limits = BodyLimits { buffer_response: Some(1 << 20), ..BodyLimits::default() };
    let proxy = with_limits(address, limits, |settings| {
        settings.timeouts.read = std::time::Duration::from_millis(500);
    });
    let mut stream = rig::connect(proxy.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
    read_head(&mut stream).expect("a head");
    let mut piece = [0; 8];
    stream.read_exact(&mut piece).expect("the first chunk");
    assert_eq!(&piece, b"3\r\none\r\n");
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "an answer that broke does not look complete");
}
