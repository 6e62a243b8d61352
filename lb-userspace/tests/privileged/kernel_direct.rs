//! VIPs whose packets go as they are, with real sockets: a client, a node that forwards, and two nodes with a
//! program of their own and a pod each, all in namespaces. The first node is their router, too, but has
//! nothing else to do with their replies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aya::Ebpf;
use sluice::dataplane::image::MapImage;
use sluice::dataplane::image::forward::{Backend, Ends, Service, Share};
use sluice::dataplane::kernel::{self, Dataplane, Settings};
use sluice::model::{Delivery, Transport, Vip};

use crate::checksums;
use crate::kernel_forwarding::{PATIENCE, Talk, VIPS, listen_to_redirects, question, serve};
use crate::kernel_node::{Client, Node, ip};

const PORT: u16 = 8080;
const SEEN: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];

/// Another node, and its pod.
pub struct Host {
    pub dataplane: Dataplane,
    host: Client,
    number: u8,
    /// Behind the dataplane, which has the lock on them for as long as it lives.
    _pins: Pins,
    pub pod: Client,
}

/// A pin directory that goes with the test.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        // The test may have failed with the pins in any state.
        let _ = kernel::remove(&self.0);
    }
}

pub struct Cluster {
    dataplane: Option<Dataplane>,
    pub hosts: Vec<Host>,
    pub client: Client,
    pub node: Node,
    _far: Ebpf,
}

fn address(number: u8, host: u8, v6: bool) -> IpAddr {
    let text = if v6 { format!("fd00:9:{number}::{host}") } else { format!("10.9.{number}.{host}") };
    text.parse().expect("an address")
}

pub fn counted(dataplane: &Dataplane, reason: &str) -> u64 {
    dataplane.counters().expect("counters").verdicts[reason]
}

impl Cluster {
    pub fn new() -> Self {
        let node = Node::new();
        for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            std::fs::write(format!("/proc/sys/net/{key}"), value).expect("sysctl");
        }
        let client = node.add_client();
        client.run(None, || checksums::are_whole("far"));
        let far = client.run(None, || listen_to_redirects("far"));
        let hosts = [1, 2].map(|number| {
            let host = node.add_endpoint(number);
            host.run(None, || checksums::are_whole("eth0"));
            let pod = node.add_pod(&host, number);
            serve(&pod, number, PORT);
            let pins = node.pin_dir.with_file_name(format!("{}h{number}", node.name));
            let settings =
                Settings { interface: vec!["eth0".into()], pin_dir: pins.clone(), ..node.settings() };
            let dataplane = host.run(None, || Dataplane::open(settings)).expect("open");
            // Neighbours get to know each other, as they do by keep_neighbours.
            for v6 in [false, true] {
                host.run(None, || {
                    let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
                    let socket = UdpSocket::bind(any).expect("a socket");
                    socket.send_to(&[], (address(number, 1, v6), 9)).expect("sent");
                });
            }
            Host { dataplane, host, number, _pins: Pins(pins), pod }
        });
        let mut cluster = Self { dataplane: None, hosts: hosts.into(), client, node, _far: far };
        cluster.open();
        cluster
    }

    /// Starts the first node's daemon, or a new one.
    fn open(&mut self) {
        self.dataplane = None;
        let interface = ["nic", "back1", "back2"].map(String::from).into();
        let settings = Settings { interface, ..self.node.settings() };
        self.dataplane = Some(Dataplane::open(settings).expect("open"));
    }

    pub fn first(&self) -> &Dataplane {
        self.dataplane.as_ref().expect("open")
    }

    /// Sends packets to the nodes with these numbers; others keep what they have. `trusted`: the others take
    /// packets from the first node.
    pub fn forward_to(&mut self, by: Delivery, numbers: &[u8], trusted: bool) {
        self.forward(|here| image(by, numbers, here, here == 0 || trusted));
    }

    /// Sends packets to both nodes, to this port of the VIPs and of their pods.
    pub fn forward_port(&mut self, by: Delivery, port: u16) {
        self.forward(|here| ports(by, &[1, 2], here, true, (port, port)));
    }

    /// Gives each node its image.
    fn forward(&mut self, image: impl Fn(u8) -> MapImage) {
        let own = image(0);
        let dataplane = self.dataplane.as_mut().expect("open");
        dataplane.apply(&own).expect("apply");
        assert_eq!(dataplane.verify(&own).expect("verify"), vec![]);
        for Host { dataplane, host, number, .. } in &mut self.hosts {
            let image = image(*number);
            host.run(None, || dataplane.apply(&image)).expect("apply");
            assert_eq!(dataplane.verify(&image).expect("verify"), vec![]);
        }
    }
}

/// The state of a node: the first one is 0.
fn image(by: Delivery, numbers: &[u8], here: u8, trusted: bool) -> MapImage {
    ports(by, numbers, here, trusted, (80, PORT))
}

/// The same of another port, and of the pods'.
fn ports(by: Delivery, numbers: &[u8], here: u8, trusted: bool, (port, target): (u16, u16)) -> MapImage {
    let mut image = MapImage::default();
    let forward = &mut image.forward;
    for (vip, v6) in VIPS.iter().zip([false, true]) {
        for transport in [Transport::Tcp, Transport::Udp] {
            let pod = if v6 { format!("fd00:77:{here}::2") } else { format!("10.77.{here}.2") };
            let pod = SocketAddr::new(pod.parse().expect("an address"), target);
            let mut service = Service::default();
            let mut draining = BTreeSet::new();
            let mut ends = BTreeMap::new();
            for number in [1, 2] {
                let end = address(number, 2, v6);
                let takes = numbers.contains(&number);
                let backend = match number == here {
                    true => Backend::Endpoint { address: pod, transport },
                    false => Backend::End { address: end, by },
                };
                forward.backends.insert(backend, takes);
                if !takes {
                    draining.insert(backend);
                    continue;
                }
                ends.insert(end, Share { endpoints: 1, here: number == here });
                if number == here {
                    service.targets.insert(pod);
                }
            }
            service.direct = Some(Ends { by, ends, draining });
            let vip = Vip { address: vip.parse().expect("an address"), port, transport };
            forward.services.insert(vip, service);
        }
    }
    for v6 in [false, true] {
        for number in [1, 2] {
            forward.nodes.insert(address(number, 2, v6), number == here);
            if trusted {
                forward.nodes.insert(address(number, 1, v6), here == 0);
            }
        }
    }
    image
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything that holds whatever is around the packets.
fn check(by: Delivery) {
    let mut cluster = Cluster::new();
    cluster.forward_to(by, &[1, 2], true);
    let open = |cluster: &Cluster, vip: &str| {
        Talk::connect(&cluster.client, vip).unwrap_or_else(|error| {
            let of = |dataplane: &Dataplane| dataplane.counters().expect("counters").verdicts;
            let others: Vec<_> = cluster.hosts.iter().map(|host| of(&host.dataplane)).collect();
            panic!("{vip}: {error}; {:?} {others:?}", of(cluster.first()))
        })
    };
    let mut kept = Vec::new();
    for (vip, seen) in VIPS.iter().zip(SEEN) {
        let mut answers = BTreeSet::new();
        for _ in 0..24 {
            let mut talk = open(&cluster, vip);
            let answer = talk.say();
            let (number, peer) = answer.split_once(' ').expect("two words");
            assert_eq!(peer, seen, "pods see the client");
            answers.insert(number.to_owned());
            kept.push((talk, answer));
            assert!(question(&cluster.client, vip).expect("an answer").ends_with(seen));
        }
        assert_eq!(answers.len(), 2, "both nodes are asked");
    }
    let mut all_the_same = |what: &str| {
        for (talk, answer) in &mut kept {
            assert_eq!(talk.say(), *answer, "{what}");
        }
    };
    assert!(counted(cluster.first(), "tunnelled") > 0);
    assert_eq!(counted(cluster.first(), "returned"), 0, "replies are none of its business");
    for Host { dataplane, .. } in &cluster.hosts {
        assert!(counted(dataplane, "decapsulated") > 0 && counted(dataplane, "returned") > 0);
    }
    // One node takes no more: what it has goes on, what is new goes to the other one.
    cluster.forward_to(by, &[1], true);
    all_the_same("one drains");
    for vip in VIPS {
        for _ in 0..12 {
            assert!(open(&cluster, vip).say().starts_with("1 "));
        }
    }
    cluster.forward_to(by, &[1, 2], true);
    all_the_same("it is back");
    // A new daemon goes on where the old one was, with what it knew of the ring.
    cluster.open();
    all_the_same("no daemon has said anything");
    cluster.forward_to(by, &[1, 2], true);
    all_the_same("a new daemon");
    cluster.forward_to(by, &[2], true);
    all_the_same("the other one drains");

    // Who is no node is not heard.
    cluster.forward_to(by, &[1, 2], false);
    let foreign = |cluster: &Cluster| -> u64 {
        cluster.hosts.iter().map(|host| counted(&host.dataplane, "tunnel_foreign")).sum()
    };
    let before = foreign(&cluster);
    let socket = cluster.client.run(None, || UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.send_to(b"?", (VIPS[0], 80)).expect("sent");
    wait("nobody refused it", || foreign(&cluster) > before);
    cluster.forward_to(by, &[1, 2], true);
    all_the_same("heard again");
}

#[test]
fn packets_in_ip_packets() {
    check(Delivery::Ipip);
}

#[test]
fn packets_in_datagrams() {
    check(Delivery::Gue);
}

#[test]
fn packets_by_the_mac_alone() {
    let mut cluster = Cluster::new();
    // Servers that have the VIPs themselves, in place of nodes with pods.
    for Host { dataplane, host, number, .. } in &mut cluster.hosts {
        host.run(None, || {
            for vip in VIPS {
                let nodad: &[&str] = if vip.contains(':') { &["nodad"] } else { &[] };
                ip(&[&["addr", "add", vip, "dev", "lo"], nodad].concat());
            }
        });
        serve(host, *number, 80);
        dataplane.apply(&MapImage::default()).expect("apply");
    }
    let image = image(Delivery::L2, &[1, 2], 0, true);
    let dataplane = cluster.dataplane.as_mut().expect("open");
    dataplane.apply(&image).expect("apply");
    assert_eq!(dataplane.verify(&image).expect("verify"), vec![]);
    for (vip, seen) in VIPS.iter().zip(SEEN) {
        let mut answers = BTreeSet::new();
        for _ in 0..24 {
            let mut talk = Talk::connect(&cluster.client, vip).expect("a connection");
            let answer = talk.say();
            assert!(answer.ends_with(seen) && talk.say() == answer, "{answer}");
            answers.insert(answer);
            assert!(question(&cluster.client, vip).expect("an answer").ends_with(seen));
        }
        assert_eq!(answers.len(), 2, "both servers are asked");
    }
    assert_eq!((counted(cluster.first(), "returned"), counted(cluster.first(), "tunnelled")), (0, 0));
}
