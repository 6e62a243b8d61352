//! What clients are caught at, who is told on for it, and what becomes of who is banned.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ipnet::IpNet;
use sluice::model::{ProxyProtocol, SniMode};
use sluice::proxy::{Caught, Offence, Settings};
use tokio::sync::mpsc::Receiver;

use crate::SOON;
use crate::frames::{self, CONTINUATION, Client, END_STREAM, HEADERS, PING, RST_STREAM, frame, request};
use crate::rig::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn start(change: impl FnOnce(&mut Settings)) -> (Running, Receiver<Caught>) {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
    rig.cluster("hang", &[endpoint(|stream| while read_head(stream).is_some() {})]);
    rig.route("a.test", "/", "web");
    rig.route("h.test", "/", "hang");
    rig.route_with("limited.test", "/", "web", |draft| draft.policy.limits.per_minute = Some(1));
    rig.certificate("a.test", certificate("a.test"));
    rig.sni = SniMode::Filter;
    let proxy = rig.start(|settings| {
        settings.workers = 1;
        settings.max_client_connections = 1;
        (settings.timeouts.header, settings.timeouts.handshake) = (SOON, SOON);
        change(settings);
    });
    let caught = proxy.proxy.caught().expect("nobody has asked before");
    assert!(proxy.proxy.caught().is_none());
    (proxy, caught)
}

fn next(caught: &mut Receiver<Caught>, what: &str) -> Caught {
    let mut one = None;
    eventually(|| {
        one = caught.try_recv().ok();
        one.is_some()
    });
    one.unwrap_or_else(|| panic!("{what}: not caught"))
}

/// Something that a client does.
type Deed<'a> = Box<dyn Fn() + 'a>;

/// Each way to be caught.
fn ways(proxy: &Running) -> Vec<(&'static str, Offence, Deed<'_>)> {
    let http = |bytes: Vec<u8>| {
        let address = proxy.http;
        move || {
            let mut stream = connect(address);
            drop(stream.write_all(&bytes));
            drop(stream.read_to_end(&mut Vec::new()));
        }
    };
    let h2 = |bytes: Vec<u8>| {
        move || {
            let mut client = Client::new(proxy.http);
            drop(client.0.write_all(&bytes));
            client.last_words();
        }
    };
    let rapid: Vec<u8> = (0..2000u32)
        .map(|n| 2 * n + 1)
        .flat_map(|n| [request(n, &frames::get("h.test")), frame(RST_STREAM, 0, n, &[0, 0, 0, 8])].concat())
        .collect();
    let endless = frame(CONTINUATION, 0, 1, &frames::field("x", &"y".repeat(100)));
    let head = frame(HEADERS, END_STREAM, 1, &frames::get("a.test"));
    vec![
        ("half a head", Offence::Slow, Box::new(http(b"GET / HTTP/1.1\r\nHost: ".to_vec()))),
        ("one byte", Offence::Slow, Box::new(http(b"P".to_vec()))),
        ("half a hello", Offence::Slow, {
            Box::new(|| {
                let mut stream = connect(proxy.https);
                drop(stream.write_all(&[22, 3, 1, 2, 0, 1, 0]));
                drop(stream.read_to_end(&mut Vec::new()));
            })
        }),
        ("a name that nobody serves", Offence::Name, {
            Box::new(|| {
                let mut client = tls(proxy.https, "nobody.test", &[]);
                assert!(client.conn.complete_io(&mut client.sock).is_err());
            })
        }),
        ("PING after PING", Offence::Flood, Box::new(h2(frame(PING, 0, 0, &[0; 8]).repeat(100_000)))),
        ("a head without end", Offence::Flood, Box::new(h2([head, endless.repeat(100_000)].concat()))),
        ("resets", Offence::Flood, Box::new(h2(rapid))),
        ("a connection too many", Offence::Connections, {
            Box::new(|| {
                let mut held = connect(proxy.http);
                held.write_all(GET.as_bytes()).expect("sent");
                assert_eq!(read_response(&mut held, false).expect("an answer").status, 200);
                assert_eq!(connect(proxy.http).read(&mut [0]).unwrap_or(0), 0);
            })
        }),
        ("a request too many", Offence::Requests, {
            Box::new(|| {
                let mut stream = connect(proxy.http);
                let get = GET.replace("a.test", "limited.test");
                let refused = (0..9).any(|_| {
                    stream.write_all(get.as_bytes()).expect("sent");
                    read_response(&mut stream, false).expect("an answer").status == 503
                });
                assert!(refused);
            })
        }),
    ]
}

#[test]
fn what_is_an_offence() {
    let (proxy, mut caught) = start(|_| ());
    let me: IpNet = "127.0.0.1/32".parse().expect("a net");
    for (what, offence, offend) in ways(&proxy) {
        println!("{what}");
        offend();
        assert_eq!(next(&mut caught, what), Caught { source: me, offence }, "{what}");
        eventually(|| proxy.proxy.stats().total.active == 0);
        assert!(caught.try_recv().is_err(), "{what}: once");
    }
    // Nothing of this is one: silence, mistakes, requests that nobody answers.
    for bytes in ["", "nonsense\r\n\r\n", "GET / HTTP/1.1\r\nHost: none.test\r\nConnection: close\r\n\r\n"] {
        let mut stream = connect(proxy.http);
        stream.write_all(bytes.as_bytes()).expect("sent");
        drop(stream.read_to_end(&mut Vec::new()));
        eventually(|| proxy.proxy.stats().total.active == 0);
        assert!(caught.try_recv().is_err(), "{bytes:?}");
    }
    let mut silent = connect(proxy.https);
    drop(silent.read_to_end(&mut Vec::new()));
    assert!(caught.try_recv().is_err(), "a connection at hand");
}

/// Who speaks for others is not told on, whatever they do, and neither are those it names.
#[test]
fn who_stands_behind_somebody() {
    type Change = fn(&mut Settings);
    let rows: [(&str, Change, &str); 3] = [
        (
            "a trusted proxy",
            |settings| settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")],
            "",
        ),
        (
            "whom a PROXY header names",
            |settings| {
                settings.proxy_protocol = ProxyProtocol {
                    from: vec!["127.0.0.0/8".parse().expect("a net")],
                    header_timeout: Duration::from_secs(20),
                };
            },
            "PROXY TCP4 203.0.113.7 198.51.100.1 4711 80\r\n",
        ),
        (
            "who sends one for itself",
            |settings| {
                settings.proxy_protocol = ProxyProtocol {
                    from: vec!["127.0.0.0/8".parse().expect("a net")],
                    header_timeout: Duration::from_secs(20),
                };
            },
            "PROXY UNKNOWN\r\n",
        ),
    ];
    for (what, change, header) in rows {
        let (proxy, mut caught) = start(change);
        let mut stream = connect(proxy.http);
        stream.write_all(format!("{header}GET / HTTP/1.1\r\nHost: ").as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{what}: {answer}");
        eventually(|| proxy.proxy.stats().total.active == 0);
        assert!(caught.try_recv().is_err(), "{what}");
    }
}

#[test]
fn who_is_banned_is_not_served() {
    let (proxy, _caught) = start(|settings| settings.max_client_connections = 0);
    let ban = |source: &str| proxy.proxy.ban([source.parse().expect("a net")].into_iter());
    let served = |from: &str| {
        let mut stream = self::from(from, proxy.http);
        // A closed door.
        drop(stream.write_all(GET.as_bytes()));
        read_response(&mut stream, false).is_some()
    };
    let mut open = from("127.0.0.7", proxy.http);
    for _ in 0..2 {
        open.write_all(GET.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut open, false).expect("an answer").status, 200);
        ban("127.0.0.7/32");
    }
    assert!(!served("127.0.0.7") && served("127.0.0.8"));
    assert_eq!(proxy.proxy.stats().total.banned, 1);
    ban("127.0.0.8/32");
    assert!(served("127.0.0.7") && !served("127.0.0.8"));
    proxy.proxy.ban(std::iter::empty());
    assert!(served("127.0.0.7") && served("127.0.0.8"));
}

/// A connection from another address of this machine.
fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let address: IpAddr = address.parse().expect("an address");
    socket.bind(&SocketAddr::new(address, 0).into()).expect("bound");
    socket.connect(&to.into()).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}
