//! VIPs in forward mode with real sockets: a client, a node and two endpoints, each in a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode as AyaMode;
use etherparse::PacketBuilder;
use ipnet::IpNet;
use lb_common::reason::Reason;
use sluice::dataplane::image::forward::{Backend, Ends, Forwarding, Service, Share};
use sluice::dataplane::image::{MapImage, VipEntry};
use sluice::dataplane::kernel::{Dataplane, Settings, load};
use sluice::model::{Delivery, Transport, Vip};

use crate::checksums;
use crate::kernel_node::{Client, Node};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const VIPS: [&str; 2] = ["198.51.100.20", "2001:db8:2::20"];
const PORT: u16 = 8080;

pub struct Place {
    pub dataplane: Dataplane,
    pub endpoints: Vec<Client>,
    pub client: Client,
    pub node: Node,
    _far: Vec<Ebpf>,
}

impl Place {
    /// With the program on the client's side only, or on the endpoints' too.
    pub fn new(everywhere: bool) -> Self {
        let node = Node::new();
        for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            std::fs::write(format!("/proc/sys/net/{key}"), value).expect("sysctl");
        }
        let client = node.add_client();
        let endpoints: Vec<_> = [1, 2].map(|number| node.add_endpoint(number)).into();
        client.run(None, || checksums::are_whole("far"));
        let mut far = vec![client.run(None, || listen_to_redirects("far"))];
        for (endpoint, number) in endpoints.iter().zip(1u8..) {
            endpoint.run(None, || checksums::are_whole("eth0"));
            far.push(endpoint.run(None, || listen_to_redirects("eth0")));
            serve(endpoint, number, PORT);
            // The node learns who its neighbours are.
            for address in [format!("10.9.{number}.2:{PORT}"), format!("[fd00:9:{number}::2]:{PORT}")] {
                let address = address.parse().expect("an address");
                TcpStream::connect_timeout(&address, PATIENCE).expect("the endpoint answers the node");
            }
        }
        let back = ["back1".to_owned(), "back2".to_owned()];
        let interface =
            if everywhere { [&["nic".to_owned()][..], &back].concat() } else { vec!["nic".into()] };
        let dataplane = Dataplane::open(Settings { interface, ..node.settings() }).expect("open");
        Self { dataplane, endpoints, client, node, _far: far }
    }

    /// With the client behind so many VLAN tags, two at most.
    pub fn tagged(everywhere: bool, tags: u32) -> Self {
        let mut place = Self::new(everywhere);
        if tags > 0 {
            place._far.extend(place.node.tag(&place.client, tags));
        }
        place
    }

    /// Forwards to the endpoints with these numbers; others keep what they have.
    pub fn forward_to(&mut self, numbers: &[u8]) {
        let image = forwarding(numbers);
        self.dataplane.apply(&image).expect("apply");
        assert_eq!(self.dataplane.verify(&image).expect("verify"), vec![]);
    }

    pub fn counted(&self, reason: &str) -> u64 {
        self.dataplane.counters().expect("counters").verdicts[reason]
    }
}

/// VIPs that lead to the endpoints with these numbers; others keep what they have.
pub fn forwarding(numbers: &[u8]) -> MapImage {
    let mut forward = Forwarding::default();
    for (vip, v6) in VIPS.iter().zip([false, true]) {
        for transport in [Transport::Tcp, Transport::Udp] {
            let target = |number: u8| -> SocketAddr {
                let ip: IpAddr = if v6 { format!("fd00:9:{number}::2") } else { format!("10.9.{number}.2") }
                    .parse()
                    .expect("an address");
                SocketAddr::new(ip, PORT)
            };
            let targets: BTreeSet<_> = numbers.iter().map(|number| target(*number)).collect();
            for number in [1, 2] {
                let backend = Backend::Endpoint { address: target(number), transport };
                forward.backends.insert(backend, numbers.contains(&number));
            }
            let vip = Vip { address: vip.parse().expect("an address"), port: 80, transport };
            forward.services.insert(vip, Service { targets, ..Service::default() });
        }
    }
    MapImage { forward, ..MapImage::default() }
}

/// A connection of the client's to a VIP: says something and hears who answers, and whom that one sees.
pub struct Talk(pub TcpStream);

impl Talk {
    pub fn open(place: &Place, vip: &str) -> Self {
        Self::connect(&place.client, vip).unwrap_or_else(|error| {
            panic!("{vip}: {error}; {:?}", place.dataplane.counters().expect("counters").verdicts)
        })
    }

    pub fn connect(client: &Client, vip: &str) -> std::io::Result<Self> {
        let address = SocketAddr::new(vip.parse().expect("an address"), 80);
        let stream = client.run(None, || TcpStream::connect_timeout(&address, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    pub fn say(&mut self) -> String {
        self.0.write_all(b"?").expect("sent");
        let mut answer = [0; 64];
        self.0.read_exact(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer).trim().to_owned()
    }
}

/// One question and its answer over UDP.
fn ask(place: &Place, vip: &str) -> String {
    question(&place.client, vip).unwrap_or_else(|error| {
        panic!("{vip}: {error}; {:?}", place.dataplane.counters().expect("counters").verdicts)
    })
}

/// The same of any client.
pub fn question(client: &Client, vip: &str) -> std::io::Result<String> {
    let any = if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = client.run(None, || UdpSocket::bind(any))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"?", SocketAddr::new(vip.parse().expect("an address"), 80))?;
    let mut answer = [0; 64];
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
}

/// An endpoint that answers with its number and the address of who asks.
pub fn serve(endpoint: &Client, number: u8, port: u16) {
    let (tcp, udp) = endpoint.run(None, || {
        let tcp = TcpListener::bind(("::", port)).expect("a listener");
        (tcp, UdpSocket::bind(("::", port)).expect("a socket"))
    });
    let answer = move |peer: SocketAddr| format!("{:<64}", format!("{number} {}", peer.ip().to_canonical()));
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let Ok(peer) = stream.peer_addr() else { return };
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok()
                    && stream.write_all(answer(peer).as_bytes()).is_ok()
                {}
            });
        }
    });
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok((_, peer)) = udp.recv_from(&mut byte) {
            let _ = udp.send_to(answer(peer).as_bytes(), peer);
        }
    });
}

/// A veth takes redirected frames while there is a program at its end, too.
pub fn listen_to_redirects(interface: &str) -> Ebpf {
    let mut programs = load(None, false).expect("load");
    let program: &mut Xdp = programs.program_mut("empty").expect("program").try_into().expect("XDP");
    program.load().expect("verifier");
    program.attach(interface, AyaMode::Driver).expect("attach");
    programs
}

/// Everything that holds whatever the way to the endpoints is. `seen`: whom endpoints see, by family.
pub fn check(place: &mut Place, seen: [&str; 2]) {
    place.forward_to(&[1, 2]);
    let mut kept = Vec::new();
    for (vip, seen) in VIPS.iter().zip(seen) {
        let mut answers = BTreeSet::new();
        for _ in 0..24 {
            let mut talk = Talk::open(place, vip);
            let answer = talk.say();
            let (number, peer) = answer.split_once(' ').expect("two words");
            assert!(seen.is_empty() || peer == seen, "{vip}: the endpoint sees {peer}");
            answers.insert(number.to_owned());
            kept.push((talk, answer));
            assert!(!ask(place, vip).is_empty());
        }
        assert_eq!(answers.len(), 2, "both endpoints are asked");
    }
    assert!(place.counted("forwarded") > 0 && place.counted("returned") > 0);
    // One endpoint takes no more: what it has goes on, what is new goes to the other.
    place.forward_to(&[1]);
    for (talk, answer) in &mut kept {
        assert_eq!(talk.say(), *answer);
    }
    for vip in VIPS {
        for _ in 0..12 {
            assert!(Talk::open(place, vip).say().starts_with("1 "));
            assert!(ask(place, vip).starts_with("1 "));
        }
    }
    // It comes back: nothing moves that was there.
    place.forward_to(&[1, 2]);
    for (talk, answer) in &mut kept {
        assert_eq!(talk.say(), *answer);
    }
    assert_eq!((place.counted("flows_full"), place.counted("ports_full")), (0, 0));
}

#[test]
fn endpoints_behind_the_program_see_the_node() {
    let mut place = Place::new(true);
    check(&mut place, ["", ""]);
    let mut talk = Talk::open(&place, VIPS[0]);
    let answer = talk.say();
    assert!(answer.ends_with(".1") && answer.contains(" 10.9."), "{answer}");
    // The daemon is gone; its program is not.
    let Place { dataplane, endpoints, client, node, _far } = place;
    drop(dataplane);
    assert_eq!(talk.say(), answer);
    let dataplane = Dataplane::open(Settings {
        interface: vec!["nic".into(), "back1".into(), "back2".into()],
        ..node.settings()
    });
    let place = Place { dataplane: dataplane.expect("open again"), endpoints, client, node, _far };
    assert_eq!(talk.say(), answer);
    assert!(place.dataplane.read().expect("read").forward.services.len() == 4);
    drop(talk);
    assert_eq!(place.endpoints.len(), 2);
    assert!(place.node.pin_dir.exists());
}

#[test]
fn endpoints_that_the_kernel_delivers_to_see_the_client() {
    let mut place = Place::new(false);
    check(&mut place, ["192.0.2.2", "2001:db8:1::2"]);
}

#[test]
fn a_made_up_packet_goes_where_a_real_one_would_and_leaves_nothing_behind() {
    for everywhere in [true, false] {
        let mut place = Place::new(everywhere);
        place.forward_to(&[1, 2]);
        let counted = place.dataplane.counters().expect("counters");
        let mut endpoints = BTreeSet::new();
        for port in 1000..1032u16 {
            let mut frame = Vec::new();
            let packet =
                PacketBuilder::ethernet2([2; 6], [2; 6]).ipv4([192, 0, 2, 2], [198, 51, 100, 20], 64);
            packet.tcp(port, 80, 1, 1000).syn().write(&mut frame, &[]).expect("written");
            let mut same = BTreeSet::new();
            for _ in 0..3 {
                let got = place.dataplane.rehearse(&frame).expect("judged");
                assert_eq!(got.reason, Reason::Forwarded);
                same.insert((got.frame[30..34].to_vec(), got.frame[36..38].to_vec()));
            }
            assert_eq!(same.len(), 1, "always the same endpoint");
            endpoints.extend(same);
        }
        let port = PORT.to_be_bytes().to_vec();
        let expect = [1, 2].map(|number| (vec![10, 9, number, 2], port.clone()));
        assert_eq!(endpoints, expect.into());
        let now = place.dataplane.counters().expect("counters");
        assert_eq!(now.vips, counted.vips);
        assert_eq!(now.verdicts["forwarded"], counted.verdicts["forwarded"]);
    }
}

/// Makes VIPs take packets of these networks only; `None`: everybody's.
fn listed(sources: Option<&[&str]>) -> MapImage {
    let mut image = forwarding(&[1, 2]);
    let sources: Option<BTreeSet<IpNet>> =
        sources.map(|all| all.iter().map(|one| one.parse().expect("a network")).collect());
    for (vip, service) in &mut image.forward.services {
        let fits = |network: &&IpNet| network.addr().is_ipv4() == vip.address.is_ipv4();
        service.sources = sources.as_ref().map(|all| all.iter().filter(fits).copied().collect());
    }
    image
}

#[test]
fn only_clients_that_a_service_lists_are_let_in() {
    let mut place = Place::new(true);
    // The client is 192.0.2.2 and 2001:db8:1::2; a list, and the families that it lets in.
    let rows: [(Option<&[&str]>, [bool; 2]); 8] = [
        (None, [true, true]),
        (Some(&["192.0.2.0/24", "2001:db8:1::/64"]), [true, true]),
        (Some(&["192.0.2.2/32", "2001:db8:1::2/128"]), [true, true]),
        (Some(&["192.0.2.3/32", "2001:db8:1::3/128"]), [false, false]),
        (Some(&["0.0.0.0/0"]), [true, false]),
        (Some(&["::/0"]), [false, true]),
        (Some(&[]), [false, false]),
        (None, [true, true]),
    ];
    for (sources, admitted) in rows {
        let image = listed(sources);
        place.dataplane.apply(&image).expect("apply");
        assert_eq!(place.dataplane.verify(&image).expect("verify"), vec![], "{sources:?}");
        for (vip, admitted) in VIPS.iter().zip(admitted) {
            if admitted {
                assert!(Talk::open(&place, vip).say().contains(' '), "{sources:?} {vip}");
                assert!(!ask(&place, vip).is_empty());
                continue;
            }
            let before = place.counted("source_outside");
            let any = if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = place.client.run(None, || UdpSocket::bind(any)).expect("a socket");
            socket.send_to(b"?", SocketAddr::new(vip.parse().expect("an address"), 80)).expect("sent");
            let deadline = std::time::Instant::now() + PATIENCE;
            while place.counted("source_outside") == before {
                assert!(std::time::Instant::now() < deadline, "{sources:?} {vip}: nothing was dropped");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    // A connection that is open is over as soon as its client is no longer listed, and goes on after.
    place.dataplane.apply(&listed(Some(&["192.0.2.0/24"]))).expect("apply");
    let mut talk = Talk::open(&place, VIPS[0]);
    let answer = talk.say();
    place.dataplane.apply(&listed(Some(&["192.0.2.128/25"]))).expect("apply");
    let before = place.counted("source_outside");
    talk.0.write_all(b"?").expect("sent");
    let deadline = std::time::Instant::now() + PATIENCE;
    while place.counted("source_outside") == before {
        assert!(std::time::Instant::now() < deadline, "nothing was dropped");
        std::thread::sleep(Duration::from_millis(5));
    }
    place.dataplane.apply(&listed(None)).expect("apply");
    let mut late = [0; 64];
    talk.0.read_exact(&mut late).expect("the answer to what TCP sent again");
    assert_eq!(String::from_utf8_lossy(&late).trim(), answer);
}

/// Changes one thing about an image, but for what [`forwarding`] has in it.
fn alter(image: &mut MapImage, random: &mut fastrand::Rng) {
    let vip = |third: u8, random: &mut fastrand::Rng| Vip {
        address: [198, 51, third, random.u8(..)].into(),
        port: [80, 443, 8443][random.usize(..3)],
        transport: Transport::Tcp,
    };
    match random.u8(..5) {
        0 => {
            let vip = vip(101, random);
            if image.vips.remove(&vip).is_none() {
                let entry = VipEntry { observe_sni: random.bool(), ..VipEntry::default() };
                image.vips.insert(vip, entry);
            }
        }
        1 => toggle(&mut image.names, format!("n{}.example.com", random.u8(..)), random.u8(..3)),
        2 => toggle(&mut image.wildcards, format!("w{}.example.com", random.u8(..)), random.u8(..3)),
        // A Service comes, goes, or gets other endpoints.
        _ => {
            let vip = Vip { port: 80, ..vip(102, random) };
            if image.forward.services.remove(&vip).is_none() {
                let ports = (0..random.u16(..8)).map(|_| random.u16(1..200));
                let targets: BTreeSet<_> =
                    ports.map(|port| SocketAddr::new([10, 9, 1, 2].into(), port)).collect();
                let networks = |random: &mut fastrand::Rng| {
                    let lengths = (0..random.u8(..4)).map(|_| random.u8(8..=32));
                    lengths.map(|length| IpNet::new_assert([10, 0, 0, 0].into(), length)).collect()
                };
                let sources = random.bool().then(|| networks(random));
                // One at most, for all have one address.
                let named = targets.iter().take(random.usize(..2)).copied().collect();
                let affinity = random.bool();
                // Some go as they are to others besides, as far as rings have room for all.
                let direct = (random.u8(..8) == 0).then(|| ends(random, !targets.is_empty()));
                let service = Service { targets, affinity, sources, named, direct };
                image.forward.services.insert(vip, service);
            }
        }
    }
    let forward = &mut image.forward;
    let asked = forward.services.iter().flat_map(|(vip, service)| service.backends(vip.transport));
    // Now and then one drains before it goes.
    let kept = forward.backends.keys().filter(|_| random.u8(..) > 0).copied();
    let drain: Vec<_> = kept.collect();
    let mut backends: BTreeMap<_, _> = drain.into_iter().map(|one| (one, false)).collect();
    backends.extend(asked.map(|backend| (backend, true)));
    forward.backends = backends;
}

/// Up to seven others, and this node.
fn ends(random: &mut fastrand::Rng, here: bool) -> Ends {
    let mut share = |here| Share { endpoints: random.u32(1..4), here };
    let others = (1..8u8).map(|host| (IpAddr::from([10, 9, 3, host]), share(false)));
    let mut ends: BTreeMap<_, _> = others.collect();
    ends.retain(|_, _| random.bool());
    if here {
        ends.insert([10, 9, 3, 9].into(), Share { endpoints: 2, here });
    }
    let by = [Delivery::L2, Delivery::Ipip, Delivery::Gue][random.usize(..3)];
    Ends { by, ends, draining: BTreeSet::new() }
}

fn toggle(names: &mut BTreeMap<String, u8>, name: String, class: u8) {
    if names.remove(&name).is_none() {
        names.insert(name, class);
    }
}

/// What XDP sends is no use of a neighbour to the kernel, which forgets it some day.
#[test]
fn neighbours_that_the_kernel_forgot_are_found_again() {
    let mut place = Place::new(true);
    place.forward_to(&[1, 2]);
    let neighbours = |what: &str| {
        let ip = std::process::Command::new("ip").args(["neigh", what, "dev", "back1"]).output().expect("ip");
        String::from_utf8(ip.stdout).expect("text")
    };
    neighbours("flush");
    place.dataplane.keep_neighbours();
    let end = Instant::now() + PATIENCE;
    while !["10.9.1.2 lladdr", "fd00:9:1::2 lladdr"].iter().all(|one| neighbours("show").contains(one)) {
        assert!(Instant::now() < end, "{}", neighbours("show"));
        std::thread::sleep(Duration::from_millis(20));
    }
    for vip in VIPS {
        assert!(Talk::open(&place, vip).say().contains(' '), "{vip}");
    }
}

#[test]
fn ten_thousand_changes_under_traffic_leave_the_maps_as_asked_and_connections_as_they_were() {
    const CHANGES: usize = 10_000;
    let mut place = Place::new(true);
    let mut image = forwarding(&[1, 2]);
    place.dataplane.apply(&image).expect("apply");
    let mut talks: Vec<_> = VIPS.iter().cycle().take(8).map(|vip| Talk::open(&place, vip)).collect();
    let answers: Vec<_> = talks.iter_mut().map(Talk::say).collect();
    let mut random = fastrand::Rng::with_seed(5);
    for change in 0..CHANGES {
        alter(&mut image, &mut random);
        place.dataplane.apply(&image).unwrap_or_else(|error| panic!("change {change}: {error}"));
        if change % 20 == 0 {
            let at = change / 20 % talks.len();
            assert_eq!(talks[at].say(), answers[at], "change {change}");
        }
        if change % 100 == 0 {
            // As the daemon does: with so many namespaces, the kernel has more neighbours than it keeps.
            place.dataplane.keep_neighbours();
        }
        if change % 500 == 0 {
            assert_eq!(place.dataplane.verify(&image).expect("verify"), vec![], "change {change}");
            assert!(Talk::open(&place, VIPS[0]).say().contains(' '));
        }
    }
    assert_eq!(place.dataplane.verify(&image).expect("verify"), vec![]);
    assert_eq!(talks.iter_mut().map(Talk::say).collect::<Vec<_>>(), answers);
    // Nothing was lost that has to be found again: slots, rings, counters.
    place.forward_to(&[1, 2]);
    assert_eq!(place.dataplane.read().expect("read").forward.services.len(), 4);
}
