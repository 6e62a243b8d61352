//! Clients that cost more than they pay, over HTTP/2. Each flood is bounded, and meanwhile another
//! client is served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::SOON;
use crate::frames::*;
use crate::rig::*;

const ENHANCE_YOUR_CALM: u32 = 11;
const CANCEL: u32 = 8;
/// Between two questions: floods run beside each other, and the machine has other work.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn proxy() -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
    rig.cluster("hang", &[endpoint(|stream| while read_head(stream).is_some() {})]);
    let big = endpoint(|stream| {
        read_head(stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"));
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    rig.cluster("big", &[big]);
    rig.route("a.test", "/", "web");
    rig.route("h.test", "/", "hang");
    rig.route("b.test", "/", "big");
    rig.start(|settings| {
        settings.workers = 1;
        settings.timeouts.client = SOON;
    })
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(GET).expect("sent");
    assert_eq!(read_response(stream, false).expect("an answer").status, 200);
}

/// Writes as much as is taken; whoever floods does not wait for answers. Meanwhile others ask again
/// and again, over both protocols, and every question is answered.
fn flood(proxy: &Running, begin: &[u8], piece: &[u8], most: usize) -> (usize, Option<u32>) {
    let mut client = Client::new(proxy.http);
    client.send(begin);
    let mut writer = client.0.try_clone().expect("a clone");
    let piece = piece.to_vec();
    let writing = std::thread::spawn(move || {
        let mut written = 0;
        while written < most && writer.write_all(&piece).is_ok() {
            written += piece.len();
        }
        // Otherwise a connection that bears all of it would never end.
        drop(writer.shutdown(std::net::Shutdown::Write));
        written
    });
    let over = AtomicBool::new(false);
    let code = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = connect(proxy.http);
            while !over.load(SeqCst) {
                ask(&mut other);
                std::thread::sleep(PAUSE);
            }
            ask(&mut other);
        });
        scope.spawn(|| {
            let mut other = Client::new(proxy.http);
            for stream in (1..).step_by(2) {
                other.send(&request(stream, &get("a.test")));
                let end = |frame: &Frame| frame.stream == stream && frame.flags & END_STREAM != 0;
                assert_eq!(other.until("another client", end).payload, b"hello");
                if over.load(SeqCst) {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        });
        let code = client.last_words();
        over.store(true, SeqCst);
        code
    });
    (writing.join().expect("written"), code)
}

/// The server's own resets count, too ("MadeYouReset", CVE-2025-8671), and so does what makes
/// the client's head grow without end.
#[test]
fn floods_that_end_the_connection() {
    let proxy = proxy();
    let numbers = |count: u32| (0..count).map(|n| 2 * n + 1);
    let made: Vec<u8> = numbers(3000)
        .flat_map(|n| [request(n, &get("h.test")), frame(WINDOW_UPDATE, 0, n, &[0; 4])].concat())
        .collect();
    let rapid: Vec<u8> = numbers(10_000)
        .flat_map(|n| [request(n, &get("a.test")), frame(RST_STREAM, 0, n, &CANCEL.to_be_bytes())].concat())
        .collect();
    let head = frame(HEADERS, END_STREAM, 1, &get("a.test"));
    let more = frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100)));
    let empty = frame(CONTINUATION, 0, 1, &[]);
    for (what, begin, piece, most) in [
        ("resets that the server makes", vec![], made.clone(), made.len()),
        ("resets", vec![], rapid.clone(), rapid.len()),
        ("CONTINUATION", head.clone(), more.repeat(100), 64 << 20),
        ("empty CONTINUATION", head.clone(), empty.repeat(1000), 64 << 20),
    ] {
        let (_, code) = flood(&proxy, &begin, &piece, most);
        assert!(matches!(code, Some(ENHANCE_YOUR_CALM | 1) | None), "{what}: {code:?}");
        eventually(|| proxy.proxy.stats().total.active == 0);
    }
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
}

/// Frames that carry nothing, more of them than fit to anything: the connection ends, and the client is
/// told.
#[test]
fn floods_of_frames_that_carry_nothing() {
    let proxy = proxy();
    for (what, begin, piece) in [
        ("PING", vec![], frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", vec![], setting(4, 1000)),
        ("WINDOW_UPDATE", request(1, &get("h.test")), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("empty DATA", open(1, &post("h.test")), frame(DATA, 0, 1, &[])),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])),
    ] {
        let before = proxy.proxy.stats().total.flooding;
        let (written, code) = flood(&proxy, &begin, &piece.repeat(1000), 64 << 20);
        assert!(written < 64 << 20, "{what}: all of it was taken");
        // Closed with bytes unread, a connection is reset, which may overtake the last words.
        assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{what}: {code:?}");
        eventually(|| proxy.proxy.stats().total.active == 0);
        // h2 itself has enough of DATA without any.
        assert!(proxy.proxy.stats().total.flooding == before + 1 || what == "empty DATA", "{what}");
    }
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
}

/// An entry of the table that is used again and again makes a head of megabytes out of a few bytes.
#[test]
fn a_compressed_head_is_measured_as_it_is_read() {
    let proxy = proxy();
    let mut client = Client::new(proxy.http);
    let value = "y".repeat(120);
    let bomb = [&get("a.test")[..], b"\x40\x01x", &[120], value.as_bytes(), &[0xbe; 16_000]].concat();
    client.send(&request(1, &bomb));
    let end = client.until("a bomb", |frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY));
    if end.kind == HEADERS {
        assert_ne!(end.payload[0], 0x88, "answered as if nothing were wrong");
    }
    ask(&mut connect(proxy.http));
}

/// One request after the other, each given up once it is on its way: no limit on open streams sees
/// anything of that.
#[test]
fn a_paced_reset_attack_ends() {
    let proxy = proxy();
    let mut client = Client::new(proxy.http);
    let mut sent = 0u64;
    let mut stream = 1;
    while proxy.proxy.stats().total.resetting == 0 {
        assert!(sent < 400, "the connection goes on");
        if client.0.write_all(&request(stream, &get("h.test"))).is_err() {
            break;
        }
        sent += 1;
        eventually(|| {
            let total = proxy.proxy.stats().total;
            total.requests >= sent || total.resetting > 0
        });
        drop(client.0.write_all(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())));
        eventually(|| {
            let total = proxy.proxy.stats().total;
            total.client_gone >= sent || total.resetting > 0
        });
        stream += 2;
    }
    assert_eq!(proxy.proxy.stats().total.resetting, 1);
    let mut goodbye = false;
    while let Some(frame) = client.next() {
        goodbye |= frame.kind == GOAWAY;
    }
    assert!(goodbye, "the client is told");
    ask(&mut connect(proxy.http));
    eventually(|| proxy.proxy.stats().total.active == 0);

    // Whoever takes as many answers as it gives up may go on.
    let mut client = Client::new(proxy.http);
    for n in 0..150u32 {
        let (one, two) = (4 * n + 1, 4 * n + 3);
        client.send(&request(one, &get("a.test")));
        client.until("an answer", |frame| frame.stream == one && frame.flags & END_STREAM != 0);
        client.send(&request(two, &get("h.test")));
        let begun = proxy.proxy.stats().total.client_gone;
        client.send(&frame(RST_STREAM, 0, two, &CANCEL.to_be_bytes()));
        eventually(|| proxy.proxy.stats().total.client_gone > begun);
    }
    client.ping("it goes on");
}

/// Whoever waits for an answer before it gives up, as deadlines and long polls have it, costs nobody more than
/// it pays.
#[test]
fn patient_clients_may_give_up() {
    const AT_ONCE: u32 = 120;
    let proxy = proxy();
    let mut client = Client::new(proxy.http);
    let numbers = |round: u32| (0..AT_ONCE).map(move |n| 2 * (round * AT_ONCE + n) + 1);
    for round in 0..2 {
        client.send(&numbers(round).flat_map(|n| request(n, &get("h.test"))).collect::<Vec<_>>());
        eventually(|| proxy.proxy.stats().total.requests == u64::from((round + 1) * AT_ONCE));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let reset = |n| frame(RST_STREAM, 0, n, &CANCEL.to_be_bytes());
        client.send(&numbers(round).flat_map(reset).collect::<Vec<_>>());
        eventually(|| proxy.proxy.stats().total.client_gone == u64::from((round + 1) * AT_ONCE));
    }
    client.send(&request(2 * 2 * AT_ONCE + 1, &get("a.test")));
    let end = client.until("another request", |frame| frame.flags & END_STREAM != 0 || frame.kind == GOAWAY);
    assert_eq!((end.kind, &end.payload[..]), (DATA, &b"hello"[..]));
    assert_eq!(proxy.proxy.stats().total.resetting, 0);
}

/// A stream whose window stays closed is given up; the connection and its other streams are not.
#[test]
fn a_stalled_stream_ends_alone() {
    let proxy = proxy();
    let mut client = Client::start(proxy.http, &setting(4, 0));
    client.send(&request(1, &get("b.test")));
    let reset = client.until("a stalled stream", |frame| frame.kind == RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (1, CANCEL));
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
    client.send(&request(3, &get("a.test")));
    client.send(&frame(WINDOW_UPDATE, 0, 3, &[0, 0, 1, 0]));
    let data = client.until("another stream", |frame| frame.kind == DATA);
    assert_eq!((data.stream, &data.payload[..]), (3, &b"hello"[..]));
}

/// A client that waits for its endpoint is not given up.
#[test]
fn a_stream_that_waits_for_its_endpoint_goes_on() {
    let mut rig = Rig::new();
    let slow = endpoint(|stream| {
        read_head(stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"));
        std::thread::sleep(SOON * 4);
        drop(stream.write_all(b"world"));
        drop(stream.read(&mut [0]));
    });
    rig.cluster("slow", &[slow]);
    rig.route("a.test", "/", "slow");
    let proxy = rig.start(|settings| settings.timeouts.client = SOON);
    let mut client = Client::new(proxy.http);
    client.send(&request(1, &get("a.test")));
    let mut body = Vec::new();
    while body.len() < 10 {
        body.extend(client.until("a slow endpoint", |frame| frame.kind == DATA).payload);
    }
    assert_eq!(body, b"helloworld");
}

/// Connections above the limit of a client are closed at once; others may come.
#[test]
fn connections_of_one_client() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|settings| settings.max_client_connections = 3);
    let mut held: Vec<_> = (0..3).map(|_| connect(proxy.http)).collect();
    held.iter_mut().for_each(ask);
    let mut extra = connect(proxy.http);
    assert_eq!(extra.read(&mut [0]).unwrap_or(0), 0, "one too many");
    assert_eq!(proxy.proxy.stats().total.crowded, 1);
    let mut other = from("127.0.0.2", proxy.http);
    ask(&mut other);
    held.pop();
    eventually(|| proxy.proxy.stats().total.active == 3);
    ask(&mut connect(proxy.http));
}

/// A connection from another address of this machine.
fn from(address: &str, to: std::net::SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let address: std::net::IpAddr = address.parse().expect("an address");
    socket.bind(&std::net::SocketAddr::new(address, 0).into()).expect("bound");
    socket.connect(&to.into()).expect("connected");
    socket.into()
}
