//! VIPs that read QUIC's connection ids, with real sockets: who moves to another address keeps the
//! endpoint that the ids name.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sluice::dataplane::image::MapImage;
use sluice::dataplane::image::forward::{Backend, server_id};
use sluice::model::Transport;

use crate::kernel_forwarding::{PATIENCE, Place, VIPS, forwarding};
use crate::kernel_node::ip;

/// Where the client moves to, by the family of the VIP.
const MOVED: [&str; 2] = ["192.0.2.3", "2001:db8:1::3"];
const ENDPOINTS: [[&str; 2]; 2] = [["10.9.1.2", "10.9.2.2"], ["fd00:9:1::102", "fd00:9:2::202"]];

/// Gives endpoints IPv6 addresses whose last halves differ, as those of pods do, and the client another one.
fn readdress(place: &Place) {
    for (endpoint, address) in place.endpoints.iter().zip(ENDPOINTS[1]) {
        endpoint.run(None, || ip(&["addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]));
    }
    for (endpoint, number) in place.endpoints.iter().zip(1..) {
        // The only one, for it answers from whichever the kernel prefers.
        endpoint.run(None, || ip(&["addr", "del", &format!("fd00:9:{number}::2/64"), "dev", "eth0"]));
    }
    place.client.run(None, || {
        ip(&["addr", "add", &format!("{}/24", MOVED[0]), "dev", "far"]);
        ip(&["addr", "add", &format!("{}/64", MOVED[1]), "dev", "far", "nodad"]);
    });
}

/// The UDP VIPs: rings of the endpoints with these numbers, and ids that name those.
fn image(ring: &[usize], named: &[usize]) -> MapImage {
    let mut image = forwarding(&[]);
    image.forward.backends.clear();
    image.forward.services.retain(|vip, _| vip.transport == Transport::Udp);
    for (vip, service) in &mut image.forward.services {
        let family = usize::from(vip.address.is_ipv6());
        let address = |number: &usize| SocketAddr::new(parse(ENDPOINTS[family][*number]), 8080);
        service.targets = ring.iter().map(address).collect();
        service.named = named.iter().map(address).collect();
        for address in &service.named {
            let backend = Backend::Endpoint { address: *address, transport: Transport::Udp };
            image.forward.backends.insert(backend, service.targets.contains(address));
        }
    }
    image
}

fn parse(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A packet of a connection whose ids name this endpoint.
fn packet(endpoint: &str, long: bool) -> Vec<u8> {
    let address = parse(endpoint);
    let server = &server_id(address).to_ne_bytes()[..if address.is_ipv4() { 4 } else { 8 }];
    let cid = [&[server.len() as u8 + 4], server, &[1, 2, 3, 4]].concat();
    let begin = if long { vec![0xc3, 0, 0, 0, 1, cid.len() as u8] } else { vec![0x41] };
    [&begin[..], &cid, &[0; 24]].concat()
}

/// Sends a packet from an address of the client's (any, if none is given) and a new port: which endpoint
/// answers.
fn ask(place: &Place, vip: &str, from: Option<&str>, packet: &[u8]) -> usize {
    let any = if vip.contains(':') { "::" } else { "0.0.0.0" };
    ask_from(place, vip, (from.unwrap_or(any), 0), packet)
}

fn ask_from(place: &Place, vip: &str, from: (&str, u16), packet: &[u8]) -> usize {
    let socket = place.client.run(None, || UdpSocket::bind(from)).expect("a socket");
    say(place, vip, &socket, packet)
}

fn say(place: &Place, vip: &str, socket: &UdpSocket, packet: &[u8]) -> usize {
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let end = Instant::now() + PATIENCE;
    let mut answer = [0; 64];
    loop {
        socket.send_to(packet, SocketAddr::new(parse(vip), 80)).expect("sent");
        // A datagram may be lost, the first ones before neighbours are known.
        if socket.recv_from(&mut answer).is_ok() {
            // Endpoints answer with their number, from 1 on.
            return usize::from(answer[0] - b'1');
        }
        assert!(Instant::now() < end, "{vip}: {:?}", place.dataplane.counters().expect("counters").verdicts);
    }
}

#[test]
fn connection_ids_lead_to_their_endpoint_from_wherever_they_come() {
    for everywhere in [true, false] {
        let mut place = Place::new(everywhere);
        readdress(&place);
        place.dataplane.apply(&image(&[0, 1], &[0, 1])).expect("apply");
        assert_eq!(place.dataplane.verify(&image(&[0, 1], &[0, 1])).expect("verify"), vec![]);
        let families = VIPS.into_iter().zip(ENDPOINTS).zip(MOVED);
        for ((vip, endpoints), moved) in families {
            let mut by_ring = BTreeSet::new();
            for _ in 0..24 {
                for (number, endpoint) in endpoints.into_iter().enumerate() {
                    for long in [false, true] {
                        let packet = packet(endpoint, long);
                        assert_eq!(ask(&place, vip, None, &packet), number, "{vip} {long}");
                        assert_eq!(ask(&place, vip, Some(moved), &packet), number, "{vip} {long}, moved");
                    }
                }
                // Ids that clients chose, and those that name nobody here.
                by_ring.insert(ask(&place, vip, None, &[0xc3, 0, 0, 0, 1, 8, 0x9f, 1, 2, 3, 4, 5, 6, 7, 8]));
                let nobody = packet(if vip.contains(':') { "fd00::9" } else { "10.9.9.9" }, false);
                by_ring.insert(ask(&place, vip, None, &nobody));
            }
            assert_eq!(by_ring.len(), 2, "{vip}: the ring has both");
            // Two connections by the same ports: each packet goes where its id says.
            let any = if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = place.client.run(None, || UdpSocket::bind(any)).expect("a socket");
            for (number, endpoint) in endpoints.into_iter().enumerate().cycle().take(8) {
                assert_eq!(say(&place, vip, &socket, &packet(endpoint, false)), number, "{vip}");
            }
        }

        // The second drains: its connections stay, new ones don't come.
        place.dataplane.apply(&image(&[0], &[0, 1])).expect("apply");
        for ((vip, endpoints), moved) in VIPS.into_iter().zip(ENDPOINTS).zip(MOVED) {
            for port in 2000..2008 {
                assert_eq!(ask(&place, vip, Some(moved), &packet(endpoints[1], false)), 1, "{vip}");
                // No port that had a flow before.
                assert_eq!(ask_from(&place, vip, (moved, port), b"anything else"), 0, "{vip}");
            }
        }
        // It is gone: its ids go by the ring.
        place.dataplane.apply(&image(&[0], &[0])).expect("apply");
        assert_eq!(place.dataplane.verify(&image(&[0], &[0])).expect("verify"), vec![]);
        for (vip, endpoints) in VIPS.into_iter().zip(ENDPOINTS) {
            for _ in 0..8 {
                assert_eq!(ask(&place, vip, None, &packet(endpoints[1], false)), 0, "{vip}");
            }
        }
    }
}
