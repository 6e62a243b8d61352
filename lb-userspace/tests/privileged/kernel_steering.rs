//! Which worker gets a connection, and what is counted on the way: a client over a veth pair.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use lb_common::fixtures::client_hello;
use sluice::dataplane::image::VipEntry;
use sluice::dataplane::kernel::{Counters, Dataplane, WorkerSocket};
use sluice::model::{Transport, Vip};

use crate::kernel_node::{Node, VIP4, VIP6, image, vip};

/// Only so that a broken test ends.
const DEADLINE: Duration = Duration::from_secs(20);

/// A worker's two listeners, on loopback as the proxy's are.
struct Listeners {
    cpu: usize,
    v4: TcpListener,
    v6: TcpListener,
}

impl Listeners {
    fn new(cpu: usize) -> Self {
        let bind = |address| {
            let listener = TcpListener::bind(address).expect("bind");
            listener.set_nonblocking(true).expect("non-blocking");
            listener
        };
        Self { cpu, v4: bind("127.0.0.1:0"), v6: bind("[::1]:0") }
    }

    /// Takes what waits, without waiting.
    fn accept(&self, v6: bool) -> Vec<TcpStream> {
        let listener = if v6 { &self.v6 } else { &self.v4 };
        std::iter::from_fn(|| listener.accept().ok()).map(|(stream, _)| stream).collect()
    }
}

fn set_workers(dataplane: &mut Dataplane, workers: &[Listeners]) {
    let sockets: Vec<_> = workers
        .iter()
        .map(|w| WorkerSocket { cpu: w.cpu, class: 0, v4: w.v4.as_fd(), v6: Some(w.v6.as_fd()) })
        .collect();
    dataplane.set_workers(&sockets).expect("workers");
}

fn connect(to: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&to.parse::<SocketAddr>().expect("address and port"), DEADLINE)
}

/// Waits until the counters are as they should be: frames that end a connection come late.
fn counters(dataplane: &Dataplane, reached: impl Fn(&Counters) -> bool) -> Counters {
    let start = Instant::now();
    loop {
        let counters = dataplane.counters().expect("counters");
        if reached(&counters) {
            return counters;
        }
        assert!(start.elapsed() < DEADLINE, "{counters:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_receiving_cpu_chooses_the_worker() {
    const CONNECTIONS: usize = 8;
    let node = Node::new();
    let client = node.add_client();
    let mut dataplane = node.open().expect("start");
    let cpus = std::thread::available_parallelism().expect("CPUs").get();
    // In reverse, so that a worker's index is not its CPU's number; and always two at least.
    let workers: Vec<_> = (0..cpus.max(2)).rev().map(Listeners::new).collect();
    set_workers(&mut dataplane, &workers);
    dataplane.apply(&image()).expect("apply");

    for (address, v6) in [(VIP4, false), (VIP6, true)] {
        for cpu in 0..cpus {
            let to = format!("{address}:80");
            // What veth sends is received on the sender's CPU.
            let clients: Vec<_> =
                client.run(Some(cpu), || (0..CONNECTIONS).map(|_| connect(&to).expect("steered")).collect());
            // A client is connected a moment before its last ACK is through.
            let start = Instant::now();
            let mut accepted: Vec<_> = workers.iter().map(|worker| worker.accept(v6)).collect();
            while accepted.iter().map(Vec::len).sum::<usize>() < CONNECTIONS {
                assert!(start.elapsed() < DEADLINE, "{to} on CPU {cpu}: {accepted:?}");
                std::thread::sleep(Duration::from_millis(5));
                accepted.iter_mut().zip(&workers).for_each(|(all, worker)| all.extend(worker.accept(v6)));
            }
            for (worker, accepted) in workers.iter().zip(accepted) {
                let expect = if worker.cpu == cpu { CONNECTIONS } else { 0 };
                assert_eq!(accepted.len(), expect, "{to} on CPU {cpu}: worker of CPU {}", worker.cpu);
                for stream in accepted {
                    assert_eq!(stream.local_addr().expect("address").to_string(), to);
                }
            }
            drop(clients);
        }
    }
    let verdicts = dataplane.counters().expect("counters").verdicts;
    assert_eq!(verdicts["steered"], 2 * (cpus * CONNECTIONS) as u64);
    assert_eq!(verdicts["steer_no_socket"], 0);
    assert!(client.run(None, || connect("198.51.100.1:81")).is_err(), "no VIP, no listener");
}

#[test]
fn vips_and_names_are_counted() {
    let node = Node::new();
    let client = node.add_client();
    let mut dataplane = node.open().expect("start");
    let workers = [Listeners::new(0)];
    set_workers(&mut dataplane, &workers);
    dataplane.apply(&image()).expect("apply");
    for address in [VIP4, VIP6] {
        for (name, reason, row) in [
            ("a.example.com", "hello_exact", "a.example.com"),
            ("x.wild.example.com", "hello_wildcard", "*.wild.example.com"),
            ("nobody.test", "hello_unknown", ""),
        ] {
            let before = dataplane.counters().expect("counters");
            let to = format!("{address}:443");
            let hello = client_hello(Some(name), 40);
            let stream = client.run(None, || {
                let mut stream = connect(&to).expect("steered");
                stream.write_all(&hello).expect("send");
                stream
            });
            let reached = |now: &Counters| now.verdicts[reason] == before.verdicts[reason] + 1;
            let after = counters(&dataplane, reached);
            for (was, now) in before.sni.iter().zip(&after.sni) {
                let expect = was.connections + u64::from(now.name == row);
                assert_eq!(now.connections, expect, "{} by {name} to {to}", now.name);
            }
            for (was, now) in before.vips.iter().zip(&after.vips) {
                let hit = now.vip == vip(&to);
                let (packets, bytes) = (now.packets - was.packets, now.bytes - was.bytes);
                assert_eq!(now.connections - was.connections, u64::from(hit), "{} by {to}", now.vip);
                assert_eq!(packets >= 3, hit, "{} by {to}: {packets} packets", now.vip);
                assert_eq!(bytes > hello.len() as u64, hit, "{} by {to}: {bytes} bytes", now.vip);
            }
            drop(stream);
        }
    }
}

#[test]
fn a_udp_vip_is_counted_and_left_to_its_socket() {
    let node = Node::new();
    let client = node.add_client();
    let mut dataplane = node.open().expect("start");
    set_workers(&mut dataplane, &[Listeners::new(0)]);
    for (address, any) in [(VIP4, "0.0.0.0"), (VIP6, "[::]")] {
        let to = format!("{address}:53");
        let udp = Vip { transport: Transport::Udp, ..vip(&to) };
        let mut want = image();
        want.vips.insert(udp, VipEntry::default());
        dataplane.apply(&want).expect("apply");
        // A socket on any address is looked up after sk_lookup, one on the VIP before it.
        let server = UdpSocket::bind(format!("{any}:53")).expect("bind");
        server.set_read_timeout(Some(DEADLINE)).expect("timeout");
        client.run(None, || {
            let socket = UdpSocket::bind(format!("{any}:0")).expect("bind");
            socket.send_to(b"query", &to).expect("send");
        });
        let mut buffer = [0; 16];
        let (length, _) = server.recv_from(&mut buffer).expect("the datagram");
        assert_eq!(&buffer[..length], b"query");
        let now = dataplane.counters().expect("counters");
        let count = now.vips.iter().find(|count| count.vip == udp).expect("the VIP");
        assert_eq!((count.packets, count.connections), (1, 0), "{to}");
        assert_eq!((now.verdicts["steered"], now.verdicts["steer_no_socket"]), (0, 0), "{to}");
    }
}

#[test]
fn without_a_worker_a_connection_is_refused_and_counted() {
    let node = Node::new();
    let client = node.add_client();
    let mut dataplane = node.open().expect("start");
    dataplane.apply(&image()).expect("apply");
    for (at, address) in [VIP4, VIP6].into_iter().enumerate() {
        let error = client.run(None, || connect(&format!("{address}:80"))).expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(dataplane.counters().expect("counters").verdicts["steer_no_socket"], at as u64 + 1);
    }
}
