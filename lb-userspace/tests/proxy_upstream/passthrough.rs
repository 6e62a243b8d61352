//! TLS connections that go on as they are.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use sluice::model::*;

use crate::SOON;
use crate::endpoints::secure;
use crate::pki::Authority;
use crate::rig::*;

/// A proxy that passes `names` on to `addresses` and terminates `own.test`.
fn rig(names: &[&str], addresses: &[SocketAddr]) -> Rig {
    let mut rig = Rig::new();
    rig.cluster("far", addresses);
    rig.cluster("web", &[endpoint(|stream| say(stream, "terminated"))]);
    for name in ["own.test", "other.test"] {
        rig.route(name, "/", "web");
        rig.certificate(name, certificate(name));
    }
    for name in names {
        let pattern = HostPattern::parse(name).expect("a host");
        let to = Passthrough { cluster: Arc::new(key("far")), proxy_protocol: None };
        rig.tls.passthrough.push((pattern, Some(to)));
    }
    rig
}

fn get(stream: &mut Tls, name: &str) -> Option<Seen> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).ok()?;
    read_response(stream, false)
}

#[test]
fn names_decide() {
    let root = Authority::root("root");
    let far = secure(&root.sign("far.test"), &[]);
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let proxy = rig(&["far.test", "*.far.test"], &[dead, far]).start(|_| ());
    for (name, subject_is, says) in [
        ("far.test", "far.test", "name far.test"),
        ("a.far.test", "far.test", "name a.far.test"),
        ("own.test", "own.test", "terminated"),
        ("a.b.far.test", "sluice.invalid", "no route"),
        // Without a name there is nothing to go by.
        ("127.0.0.1", "sluice.invalid", "no route"),
    ] {
        for _ in 0..2 {
            let mut client = tls(proxy.https, name, &[]);
            let seen = get(&mut client, name).unwrap_or_else(|| panic!("{name}: no answer"));
            assert_eq!(subject(&client), subject_is, "{name}");
            assert!(seen.text().contains(says), "{name}: {}", seen.text());
        }
    }
    let totals = proxy.proxy.stats().total;
    assert_eq!((totals.tunnels, totals.tls_handshakes), (4, 6));
    eventually(|| proxy.proxy.stats().total.tunnels_active == 0);
    assert!(proxy.proxy.stats().total.tunnel_bytes > 0);
}

#[test]
fn a_hello_in_pieces() {
    let far = secure(&Authority::root("root").sign("far.test"), &[]);
    let proxy = rig(&["far.test"], &[far]).start(|_| ());
    for name in ["far.test", "own.test"] {
        for size in [1, 100, 400] {
            let server = ServerName::try_from(name).expect("a name");
            let mut client = ClientConnection::new(tls_config(&[], |_| true), server).expect("a client");
            let mut hello = Vec::new();
            client.write_tls(&mut hello).expect("a hello");
            let mut stream = connect(proxy.https);
            stream.set_nodelay(true).expect("an option");
            for piece in hello.chunks(size) {
                stream.write_all(piece).expect("sent");
                std::thread::sleep(Duration::from_micros(500));
            }
            let mut client = rustls::StreamOwned::new(client, stream);
            assert!(get(&mut client, name).is_some(), "{name} by {size}");
            assert_eq!(subject(&client), name, "{name} by {size}");
        }
    }
}

#[test]
fn hellos_that_never_come() {
    let far = secure(&Authority::root("root").sign("far.test"), &[]);
    let proxy = rig(&["far.test"], &[far]).start(|settings| settings.timeouts.handshake = SOON);
    for (what, bytes, ends) in [
        ("nothing", &b""[..], false),
        ("the begin of one", &b"\x16\x03\x01\x02\x00\x01"[..], false),
        ("the begin, and no more", &b"\x16\x03\x01\x02\x00\x01"[..], true),
        ("no TLS", &b"GET / HTTP/1.1\r\n\r\n"[..], false),
    ] {
        let mut stream = connect(proxy.https);
        stream.write_all(bytes).expect("sent");
        if ends {
            stream.shutdown(Shutdown::Write).expect("closed");
        }
        // An alert at most, then the end.
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
        assert!(rest.len() < 20, "{what}: {rest:?}");
    }
    assert_eq!(proxy.proxy.stats().total.tunnels, 0);
}

fn hello() -> Vec<u8> {
    let server = ServerName::try_from("far.test").expect("a name");
    let mut client = ClientConnection::new(tls_config(&[], |_| true), server).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a hello");
    hello
}

/// Whatever comes in what pieces, however many at a time: it comes out in order, both ways at once.
#[test]
fn much_and_little() {
    let back = endpoint(|stream| {
        let mut piece = vec![0; 100_000];
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            if stream.write_all(&piece[..count]).is_err() {
                return;
            }
        }
    });
    let proxy = rig(&["far.test"], &[back]).start(|settings| settings.workers = 1);
    for (clients, size, step) in [(1, 5000, 10), (3, 6_000_000, 6_000_000), (100, 300_000, 50_000)] {
        std::thread::scope(|scope| {
            for number in 0..clients {
                let address = proxy.https;
                scope.spawn(move || {
                    let mut sent = hello();
                    sent.extend((0..size).map(|at| (at / 7 + number) as u8));
                    let mut stream = connect(address);
                    let mut writer = stream.try_clone().expect("a handle");
                    let expect = sent.clone();
                    let writing = std::thread::spawn(move || {
                        for piece in sent.chunks(step) {
                            writer.write_all(piece).expect("sent");
                        }
                        writer.shutdown(Shutdown::Write).expect("closed");
                    });
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).expect("all of it");
                    assert!(got == expect, "{} of {} bytes", got.len(), expect.len());
                    writing.join().expect("written");
                });
            }
        });
    }
    let total = proxy.proxy.stats().total;
    assert!(total.spliced_bytes > 0 && total.spliced_bytes < total.tunnel_bytes, "both are used");
}

/// One side may close its half while the other goes on; tunnels outlive the configuration and end
/// with the time to drain.
#[test]
fn halves_and_ends() {
    let counting = endpoint(|stream| {
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        drop(stream.write_all(format!("{} bytes", all.len()).as_bytes()));
    });
    let mut proxy = rig(&["far.test"], &[counting]).start(|_| ());
    let open = |bytes: &[u8]| -> TcpStream {
        let mut stream = connect(proxy.https);
        stream.write_all(bytes).expect("sent");
        stream
    };
    let (one, two) = (hello(), hello());
    let (mut first, mut second) = (open(&one), open(&two));
    eventually(|| proxy.proxy.stats().total.tunnels_active == 2);
    proxy.change(|rig| rig.tls.passthrough.clear());
    first.shutdown(Shutdown::Write).expect("closed");
    let mut answer = String::new();
    first.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, format!("{} bytes", one.len()));
    eventually(|| proxy.proxy.stats().total.tunnels_active == 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(proxy.proxy.shutdown(SOON));
    assert_eq!(second.read(&mut [0; 100]).unwrap_or(0), 0, "the tunnel ended with the time to drain");
}
