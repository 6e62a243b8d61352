//! Clients that take their time, by the hundred, while another one is served: every question of that
//! one is answered, and the slow ones cost no more than a connection each.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::frames::{self, Client, HEADERS, RST_STREAM, SETTINGS, frame, setting};
use crate::rig::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// Fewer than a process with the usual limit of open files holds, all kinds together.
const MANY: usize = 30;

fn proxy(header: Duration, client: Duration) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
    rig.cluster("mirror", &[endpoint(mirror)]);
    let big = endpoint(|stream| {
        read_head(stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"));
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    rig.cluster("big", &[big]);
    for (name, cluster) in [("a.test", "web"), ("m.test", "mirror"), ("b.test", "big")] {
        rig.route(name, "/", cluster);
    }
    rig.certificate("a.test", certificate("a.test"));
    rig.start(|settings| {
        settings.workers = 1;
        (settings.timeouts.header, settings.timeouts.handshake) = (header, header);
        (settings.timeouts.client, settings.timeouts.read) = (client, client);
    })
}

/// Asks so often that slow clients would show, and counts.
fn ask(proxy: &Running) {
    let mut stream = connect(proxy.http);
    for _ in 0..200 {
        stream.write_all(GET).expect("sent");
        assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
    }
    for _ in 0..5 {
        let mut fresh = connect(proxy.http);
        fresh.write_all(GET).expect("sent");
        assert_eq!(read_response(&mut fresh, false).expect("an answer").status, 200);
    }
}

/// Opens many connections that send these bytes and then nothing.
fn slow(proxy: &Running, address: std::net::SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    let before = proxy.proxy.stats().total.accepted;
    let streams: Vec<_> = (0..MANY)
        .map(|_| {
            let mut stream = connect(address);
            stream.write_all(bytes).expect("sent");
            stream
        })
        .collect();
    eventually(|| proxy.proxy.stats().total.accepted >= before + MANY as u64);
    streams
}

#[test]
fn slow_clients_are_nobody_elses_business() {
    let long = Duration::from_secs(600);
    let proxy = proxy(long, long);
    let h2 = |more: &[u8]| [frames::PREFACE, &setting(4, 0), more].concat();
    let rows: [(&str, bool, Vec<u8>); 9] = [
        ("nothing", false, vec![]),
        ("a part of a head", false, b"GET / HTTP/1.1\r\nHost: a.test\r\nX-".to_vec()),
        (
            "a part of a body",
            false,
            b"POST / HTTP/1.1\r\nHost: m.test\r\nContent-Length: 9\r\n\r\nab".to_vec(),
        ),
        (
            "a part of a chunk",
            false,
            b"POST / HTTP/1.1\r\nHost: m.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na".to_vec(),
        ),
        ("an answer that is not read", false, b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n".to_vec()),
        ("a preface", false, frames::PREFACE[..10].to_vec()),
        ("a window that stays closed", false, h2(&frames::request(1, &frames::get("b.test")))),
        ("a head without its end", false, h2(&frame(HEADERS, 0, 1, &frames::get("a.test")))),
        ("a part of a hello", true, vec![22, 3, 1, 2, 0, 1, 0]),
    ];
    let mut held = Vec::new();
    for (what, secure, bytes) in rows {
        held.push(slow(&proxy, if secure { proxy.https } else { proxy.http }, &bytes));
        println!("{what}");
        ask(&proxy);
    }
    let total = proxy.proxy.stats().total;
    assert!(total.active >= (MANY * held.len()) as u64, "{total:?}");
    drop(held);
    let left = || proxy.proxy.stats().total;
    eventually(|| left().active == 0 && left().requests_active == 0);
}

/// And each of them ends when its time is over, with an answer where one is owed.
#[test]
fn slow_clients_come_to_an_end() {
    let limit = Duration::from_secs(2);
    let proxy = proxy(limit, limit);
    for (bytes, starts) in [
        (&b""[..], ""),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX-", "HTTP/1.1 408 "),
        (b"POST / HTTP/1.1\r\nHost: m.test\r\nContent-Length: 9\r\n\r\nab", "HTTP/1.1 "),
        (b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n", "HTTP/1.1 200 "),
    ] {
        let held = slow(&proxy, proxy.http, bytes);
        ask(&proxy);
        eventually(|| proxy.proxy.stats().total.active == 0);
        for mut stream in held {
            let mut begin = vec![0; starts.len()];
            let read = stream.read_exact(&mut begin);
            assert!(read.is_ok() && begin == starts.as_bytes(), "{bytes:?}: {read:?} {begin:?}");
        }
    }
    // One that sends the head of a request byte by byte, each in good time, has all of them to send in time.
    let mut stream = connect(proxy.http);
    let mut sent = 0;
    while stream.write_all(b"X").is_ok() && proxy.proxy.stats().total.responses_4xx < MANY as u64 + 1 {
        sent += 1;
        assert!(sent < 2000, "it goes on and on");
        std::thread::sleep(Duration::from_millis(10));
    }
    // On HTTP/2 a stream is given up, and the connection lives on.
    let mut client = Client::start(proxy.http, &setting(4, 0));
    client.send(&frames::request(1, &frames::get("b.test")));
    let reset = client.until("a stalled stream", |frame| frame.kind == RST_STREAM);
    assert_eq!(reset.stream, 1);
    client.send(&frame(SETTINGS, 0, 0, &[]));
    client.ping("the connection lives on");
}
