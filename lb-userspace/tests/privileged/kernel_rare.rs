//! Errors, path MTUs and fragments of VIPs in forward mode, with real sockets: whatever a network has to
//! say of a connection gets to whom it is for, in his own words.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sluice::dataplane::image::forward::{Backend, Service};
use sluice::model::{Transport, Vip};

use crate::kernel_forwarding::{PATIENCE, Place, Talk, VIPS, forwarding};
use crate::kernel_node::ip;

/// Ports of the VIPs beside those that all tests have: the endpoint's is this and 8000.
const CLOSED: u16 = 81;
const GONE: u16 = 82;
const ECHO: u16 = 83;

/// Whether endpoints are behind the program, and how many VLAN tags the client is behind.
const WAYS: [(bool, u32); 4] = [(true, 0), (false, 0), (true, 1), (false, 2)];

/// Makes UDP ports of the VIPs lead to the first endpoint.
fn forward(place: &mut Place) {
    let mut image = forwarding(&[1]);
    for (vip, endpoint) in VIPS.iter().zip(["10.9.1.2", "fd00:9:1::2"]) {
        for port in [CLOSED, GONE, ECHO] {
            let address: IpAddr = endpoint.parse().expect("an address");
            let target = SocketAddr::new(address, 8000 + port);
            image
                .forward
                .backends
                .insert(Backend::Endpoint { address: target, transport: Transport::Udp }, true);
            let vip = Vip { address: vip.parse().expect("an address"), port, transport: Transport::Udp };
            let service = Service { targets: BTreeSet::from([target]), ..Service::default() };
            image.forward.services.insert(vip, service);
        }
    }
    place.dataplane.apply(&image).expect("apply");
}

fn any(vip: &str) -> &'static str {
    if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" }
}

/// A socket of the client's that hears nobody but the VIP.
fn connected(place: &Place, vip: &str, port: u16) -> UdpSocket {
    let socket = place.client.run(None, || UdpSocket::bind(any(vip))).expect("a socket");
    socket.connect(SocketAddr::new(vip.parse().expect("an address"), port)).expect("a route");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    socket
}

/// Sends until the socket is told that nobody is there.
fn is_refused(socket: &UdpSocket) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // What a send says may be the error of the one before.
        let said = socket.send(b"?").map(drop).and_then(|()| socket.recv(&mut [0; 8]).map(drop));
        if said.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
    }
    false
}

#[test]
fn whoever_sends_to_a_closed_port_is_told() {
    for (everywhere, tags) in WAYS {
        let mut place = Place::tagged(everywhere, tags);
        forward(&mut place);
        for (vip, endpoint) in VIPS.iter().zip(["10.9.1.2", "fd00:9:1::2"]) {
            let told = is_refused(&connected(&place, vip, CLOSED));
            let verdicts = place.dataplane.counters().expect("counters").verdicts;
            assert!(told, "{vip} {everywhere} {tags}: the client is told; {verdicts:?}");

            // The endpoint answers a client that is gone.
            let address = SocketAddr::new(endpoint.parse().expect("an address"), 8000 + GONE);
            let server = place.endpoints[0].run(None, || UdpSocket::bind(address)).expect("a socket");
            server.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            let (tell, told) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                let deadline = Instant::now() + PATIENCE;
                while Instant::now() < deadline {
                    if let Ok((_, peer)) = server.recv_from(&mut [0; 8]) {
                        server.connect(peer).expect("a route");
                        let _ = tell.send(());
                        return is_refused(&server);
                    }
                }
                false
            });
            let client = connected(&place, vip, GONE);
            client.send(b"?").expect("sent");
            told.recv_timeout(PATIENCE).expect("the endpoint hears the client");
            drop(client);
            let heard = thread.join().expect("the endpoint's thread");
            let verdicts = place.dataplane.counters().expect("counters").verdicts;
            assert!(heard, "{vip} {everywhere} {tags}: the endpoint is told; {verdicts:?}");
        }
        assert!(place.counted("icmp_forwarded") > 0 && place.counted("icmp_returned") > 0);
    }
}

#[test]
fn connections_learn_how_big_packets_may_be() {
    const SENT: usize = 20_000;
    for tags in 0..=2 {
        let mut place = Place::tagged(true, tags);
        let client = if tags == 0 {
            ["192.0.2.0/24", "2001:db8:1::/64", "nic"]
        } else {
            ["192.0.3.0/24", "2001:db8:3::/64", "nic.v"]
        };
        for [four, six, interface] in
            [client, ["10.9.1.0/24", "fd00:9:1::/64", "back1"], ["10.9.2.0/24", "fd00:9:2::/64", "back2"]]
        {
            ip(&["route", "replace", four, "dev", interface, "mtu", "lock", "1400"]);
            ip(&["-6", "route", "del", six, "dev", interface]);
            ip(&["-6", "route", "add", six, "dev", interface, "mtu", "lock", "1400"]);
        }
        place.dataplane.apply(&forwarding(&[1, 2])).expect("apply");
        for vip in VIPS {
            let before = place.counted("too_big");
            let mut talk = Talk::open(&place, vip);
            // The endpoint says 64 bytes for each: both directions are full of packets of the largest size.
            talk.0.write_all(&[b'?'; SENT]).expect("sent");
            let mut answers = vec![0; SENT * 64];
            let read = talk.0.read_exact(&mut answers);
            let verdicts = place.dataplane.counters().expect("counters").verdicts;
            assert!(read.is_ok(), "{vip} {tags}: {read:?}; {verdicts:?}");
            assert!(answers.chunks(64).all(|answer| answer == &answers[..64]), "{vip} {tags}");
            assert!(
                place.counted("too_big") >= before + 2,
                "{vip} {tags}: both sides are told; {verdicts:?}"
            );
        }
        assert_eq!(place.counted("too_big_unanswered"), 0);
    }
}

#[test]
fn datagrams_in_fragments_go_there_and_back() {
    for (everywhere, tags) in WAYS {
        let mut place = Place::tagged(everywhere, tags);
        forward(&mut place);
        let address = ("::", 8000 + ECHO);
        let server = place.endpoints[0].run(None, || UdpSocket::bind(address)).expect("a socket");
        std::thread::spawn(move || {
            let mut datagram = [0; 10_000];
            while let Ok((length, peer)) = server.recv_from(&mut datagram) {
                let _ = server.send_to(&datagram[..length], peer);
            }
        });
        for vip in VIPS {
            let clients: Vec<_> = (0..4).map(|_| connected(&place, vip, ECHO)).collect();
            for length in [10usize, 1400, 4000, 9000] {
                for (n, client) in clients.iter().enumerate() {
                    let sent: Vec<_> = (0..length).map(|at| (at * 7 + n) as u8).collect();
                    client.send(&sent).expect("sent");
                }
                for (n, client) in clients.iter().enumerate() {
                    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    let mut back = [0; 10_000];
                    let got = client.recv(&mut back);
                    let verdicts = place.dataplane.counters().expect("counters").verdicts;
                    assert!(got.is_ok(), "{vip} {everywhere} {tags} {length}: {got:?}; {verdicts:?}");
                    let same = (0..length).all(|at| back[at] == (at * 7 + n) as u8);
                    assert!(same && got.expect("ok") == length, "{vip} {everywhere} {tags} {length}");
                }
            }
        }
        assert!(place.counted("fragment_forwarded") > 0 && place.counted("fragment_returned") > 0);
    }
}
