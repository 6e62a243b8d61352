//! Frames of several buffers: NICs with an MTU of 9,000, through VIPs in both modes, whole in both
//! directions.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use sluice::dataplane::image::forward::{Backend, Forwarding, Service};
use sluice::dataplane::image::{MapImage, VipEntry};
use sluice::model::{Transport, Vip};

use crate::kernel_forwarding::{PATIENCE, Place, VIPS};
use crate::kernel_node::{VIP4, VIP6, ip, vip};

const PORT: u16 = 8081;
const MTU: &str = "9000";
/// More than two pages of 4 KiB, less than the MTU.
const DATAGRAM: usize = 8_900;
const STREAM: usize = 1 << 20;

#[test]
fn frames_of_several_buffers_come_through_whole() {
    for everywhere in [false, true] {
        let mut place = Place::new(everywhere);
        for interface in ["nic", "back1"] {
            ip(&["link", "set", interface, "mtu", MTU]);
        }
        place.client.run(None, || ip(&["link", "set", "far", "mtu", MTU]));
        place.endpoints[0].run(None, || {
            ip(&["link", "set", "eth0", "mtu", MTU]);
            echo(TcpListener::bind(("::", PORT)).expect("a listener"));
            let socket = UdpSocket::bind(("::", PORT)).expect("a socket");
            std::thread::spawn(move || {
                let mut datagram = [0; 2 * DATAGRAM];
                while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(&datagram[..length], peer);
                }
            });
        });
        let proxied = [VIP4, VIP6].map(|address| vip(&format!("{address}:80")));
        // Without workers, what a VIP in proxy mode lets pass is the stack's own.
        echo(TcpListener::bind(("::", 80)).expect("a listener"));
        let vips = proxied.iter().map(|vip| (*vip, VipEntry::default())).collect();
        place.dataplane.apply(&MapImage { vips, forward: forward(), ..MapImage::default() }).expect("apply");

        let forwarded = VIPS.map(|address| SocketAddr::new(address.parse().expect("an address"), 80));
        for to in proxied.map(|vip| SocketAddr::new(vip.address, vip.port)).into_iter().chain(forwarded) {
            stream(&place, to);
        }
        for to in forwarded {
            datagrams(&place, to);
        }
        for reason in ["vip", "forwarded", "returned"] {
            // An endpoint that the kernel delivers to is answered at the NIC's egress, which counts alike.
            assert!(place.counted(reason) > 100, "{reason}: {}", place.counted(reason));
        }
    }
}

/// The VIPs, to the first endpoint.
fn forward() -> Forwarding {
    let mut forward = Forwarding::default();
    for (vip, endpoint) in VIPS.iter().zip(["10.9.1.2", "fd00:9:1::2"]) {
        let address = SocketAddr::new(endpoint.parse::<IpAddr>().expect("an address"), PORT);
        for transport in [Transport::Tcp, Transport::Udp] {
            forward.backends.insert(Backend::Endpoint { address, transport }, true);
            let vip = Vip { address: vip.parse().expect("an address"), port: 80, transport };
            forward.services.insert(vip, Service { targets: [address].into(), ..Service::default() });
        }
    }
    forward
}

/// Says back what it hears.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let mut part = vec![0; 1 << 16];
                while let Ok(length @ 1..) = from.read(&mut part)
                    && to.write_all(&part[..length]).is_ok()
                {}
            });
        }
    });
}

/// A megabyte there and back, in segments as long as the MTU allows.
fn stream(place: &Place, peer: SocketAddr) {
    let stream = place.client.run(None, || TcpStream::connect_timeout(&peer, PATIENCE));
    let mut stream = stream.unwrap_or_else(|error| panic!("{peer}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let longest = getsockopt(&stream, TcpMaxSeg).expect("the segment size");
    assert!(longest > 8_800, "{peer}: segments of {longest} bytes");
    let sent = pattern(STREAM);
    let mut heard = vec![0; STREAM];
    std::thread::scope(|scope| {
        let mut there = stream.try_clone().expect("a second handle");
        let sent = &sent;
        scope.spawn(move || there.write_all(sent).expect("sent"));
        stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{peer}: {error}"));
    });
    assert!(heard == sent, "{peer}: other bytes came back");
}

/// Datagrams of one frame each.
fn datagrams(place: &Place, to: SocketAddr) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = place.client.run(None, || UdpSocket::bind(any)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for length in [DATAGRAM, 4_000, 5_000] {
        let sent = pattern(length);
        let mut heard = vec![0; 2 * DATAGRAM];
        socket.send_to(&sent, to).unwrap_or_else(|error| panic!("{to}: {error}"));
        let (got, _) = socket.recv_from(&mut heard).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert!(heard[..got] == sent, "{to}: {got} of {length} bytes, or others");
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251 + at) as u8).collect()
}
