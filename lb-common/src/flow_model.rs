//! The flow table and its marks against a model: whatever packets come in whatever order, at whatever times.

extern crate std;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use crate::ends::Ends;
use crate::fixtures::{Host, judge};
use crate::flow::{
    self, DATAGRAMS_KEPT, DATAGRAMS_SPARED, Flow, OPEN_SPARED, Phase, Stamp, WAYS, after_endpoint,
};
use crate::forward_fixtures::{
    BACKENDS4, BACKENDS6, CLIENT4, CLIENT6, End, Kind, NEAR, NODE_MAC, NODE4, PEER_MAC, PORT, TARGET_PORT,
    Tables, VIP4, VIP6, frame,
};
use crate::maps::Tuning;
use crate::mark::{self, PERIOD};
use crate::packet::{RST, SYN, TCP};
use crate::reason::Reason;
use crate::verdict::{mapped, words};

/// A client's connection, or what it sends in place of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Client {
    v6: bool,
    datagrams: bool,
    /// Its endpoint sees its address.
    near: bool,
    host: u8,
    port: u16,
}

/// Where it is: how far, at which endpoint (the last octet of its address) and port, since when silent.
#[derive(Clone, Copy, Debug)]
struct Known {
    phase: Phase,
    endpoint: u8,
    port: u16,
    tick: u32,
    /// When a packet of the client's last told its mark.
    told: u32,
}

impl Known {
    /// Whether the periods of marks have come around to the one in which its mark was told.
    fn is_around(self, now: u32) -> bool {
        let periods = now / PERIOD - self.told / PERIOD;
        periods > 0 && periods.is_multiple_of(mark::EPOCHS)
    }
}

struct World {
    host: Host,
    known: BTreeMap<Client, Known>,
}

impl Client {
    fn ends(self) -> Ends {
        let address = self.address();
        let (source, target) = if self.v6 {
            (words(address.try_into().expect("sixteen")), words(VIP6))
        } else {
            (mapped(address.try_into().expect("four")), mapped(VIP4))
        };
        Ends { source, target, source_port: self.port.to_be(), target_port: self.vip_port().to_be() }
    }

    fn address(self) -> Vec<u8> {
        let mut address = if self.v6 { CLIENT6.to_vec() } else { CLIENT4.to_vec() };
        *address.last_mut().expect("not empty") = self.host;
        address
    }

    fn vip_port(self) -> u16 {
        if self.near { NEAR } else { PORT }
    }

    fn protocol(self) -> u8 {
        if self.datagrams { crate::packet::UDP } else { TCP }
    }

    fn owns(self, flow: &Flow) -> bool {
        let ends = self.ends();
        (flow.client, flow.client_port, flow.protocol) == (ends.source, ends.source_port, self.protocol())
            && (flow.vip, flow.vip_port) == (ends.target, ends.target_port)
    }
}

impl World {
    fn new(entries: usize) -> Self {
        let mut host = Host::new();
        host.l4 = Tables::sized(entries);
        host.tuning = Tuning::default();
        Self { host, known: BTreeMap::new() }
    }

    fn now(&self) -> u32 {
        self.host.l4.now
    }

    /// Whether the promise to open connections, and to clients that sent datagrams twice, holds for it.
    fn is_spared(&self, known: Known) -> bool {
        let spared = match known.phase {
            Phase::Open => OPEN_SPARED,
            Phase::Datagrams => DATAGRAMS_SPARED,
            _ => 0,
        };
        self.now() - known.tick < spared
    }

    /// A client's packet.
    fn send(&mut self, client: Client, kind: Kind) -> Reason {
        let kind = if client.datagrams { Kind::Datagram } else { kind };
        let (address, vip) = (client.address(), if client.v6 { &VIP6[..] } else { &VIP4[..] });
        let from = End { mac: PEER_MAC, address: &address, port: client.port };
        let to = End { mac: NODE_MAC, address: vip, port: client.vip_port() };
        self.host.frame = frame(from, to, kind).into();
        let reason = judge(&self.host).reason;
        let before = self.known.get(&client).copied();
        if reason != Reason::Forwarded {
            assert!(!before.is_some_and(|known| self.is_spared(known)), "{client:?} {before:?}: {reason:?}");
            self.known.remove(&client);
            return reason;
        }
        let sent = self.host.frame.borrow();
        let (last, ports) = if client.v6 { (53, 54) } else { (33, 34) };
        let (endpoint, port) = (sent[last], u16::from_be_bytes([sent[ports], sent[ports + 1]]));
        drop(sent);
        let now = self.now();
        let same = before.is_some_and(|known| (known.endpoint, known.port) == (endpoint, port));
        if let Some(known) = before
            && self.is_spared(known)
        {
            assert!(same, "{client:?} {known:?} at {now} moved to {endpoint} {port}");
        }
        // What was promised to it.
        let stamp = self.stamp(client, endpoint, port);
        let phase = stamp.and_then(Stamp::phase).unwrap_or(Phase::Opening);
        // The stamp may be as old as the mark that stood for the flow; older only where periods have come around.
        let relied_on = matches!(phase, Phase::Open | Phase::Datagrams);
        let lag = if relied_on { stamp.map_or(0, |stamp| stamp.age(now)) } else { 0 };
        let around = before.filter(|known| known.is_around(now));
        assert!(lag < PERIOD || around.is_some(), "{client:?} was not told for {lag}");
        let told = around.map_or(now, |known| known.told);
        self.known.insert(client, Known { phase, endpoint, port, tick: now - lag, told });
        self.check_port(client, port);
        reason
    }

    /// What the table knows of a client's flow at this endpoint and port. There may be older ones that lost their
    /// marks, here or at others.
    fn stamp(&self, client: Client, endpoint: u8, port: u16) -> Option<Stamp> {
        let port = if client.near { 0 } else { port.to_be() };
        let at = |flow: &&Flow| {
            flow.port == port && self.host.l4.address(flow.backend)[3].to_ne_bytes()[3] == endpoint
        };
        let flows = self.host.l4.flows.borrow();
        let own = flows.iter().filter(at).filter(|flow| client.owns(flow));
        let alive = own.map(|flow| Stamp(flow.stamp)).filter(|stamp| stamp.alive(self.now()));
        alive.max_by_key(|stamp| (Reverse(stamp.age(self.now())), stamp.phase()))
    }

    /// Nobody else's flow has the port that a client's packet was sent from.
    fn check_port(&self, client: Client, port: u16) {
        if client.near {
            assert_eq!(port, client.port);
            return;
        }
        let flows = self.host.l4.flows.borrow();
        let mut address = if client.v6 { words(BACKENDS6[0]) } else { mapped(BACKENDS4[0]) };
        address[3] = u32::from_ne_bytes({
            let mut octets = address[3].to_ne_bytes();
            octets[3] = self.known[&client].endpoint;
            octets
        });
        let endpoint = flow::hash(&address, TARGET_PORT.to_be(), client.protocol());
        let flow = &flows[flow::place(endpoint, port, flows.len() as u32 - 1) as usize];
        // By place alone it may be another endpoint's.
        let there = flow.port == port.to_be() && self.host.l4.address(flow.backend) == address;
        let anothers = there && Stamp(flow.stamp).alive(self.now()) && !client.owns(flow);
        assert!(!anothers, "{client:?} is at another's port {port}");
    }

    /// An endpoint's packet to a client, if there is a connection.
    fn answer(&mut self, client: Client, kind: Kind) {
        let Some(known) = self.known.get(&client).copied() else { return };
        let kind = if client.datagrams { Kind::Datagram } else { kind };
        let spared = self.is_spared(known);
        let returned = if client.near {
            self.answer_near(client, kind)
        } else {
            self.answer_by_port(client, known, kind)
        };
        assert!(returned || !spared, "{client:?} {known:?}: nobody at {}", self.now());
        let phase = self.stamp(client, known.endpoint, known.port).and_then(Stamp::phase);
        if let Some(known) = self.known.get_mut(&client).filter(|_| returned) {
            known.phase = phase.unwrap_or(Phase::Opening);
        }
    }

    fn answer_by_port(&mut self, client: Client, known: Known, kind: Kind) -> bool {
        if client.v6 {
            return false;
        }
        let mut address = BACKENDS4[0];
        address[3] = known.endpoint;
        let from = End { mac: PEER_MAC, address: &address, port: TARGET_PORT };
        let to = End { mac: NODE_MAC, address: &NODE4, port: known.port };
        self.host.frame = frame(from, to, kind).into();
        if judge(&self.host).reason != Reason::Returned {
            return false;
        }
        let sent = self.host.frame.borrow();
        sent[30..34] == client.address() && sent[36..38] == client.port.to_be_bytes()
    }

    /// What the program at the egress does.
    fn answer_near(&mut self, client: Client, kind: Kind) -> bool {
        let now = self.now();
        let mut flows = self.host.l4.flows.borrow_mut();
        let own =
            flows.iter_mut().find(|flow| client.owns(flow) && flow.port == 0 && Stamp(flow.stamp).alive(now));
        let Some(flow) = own else { return false };
        let flags = if kind == Kind::Rst { RST } else { SYN };
        let phase = Stamp(flow.stamp).phase().expect("alive");
        flow.stamp = Stamp::new(after_endpoint(phase, flags), now).0;
        true
    }

    fn open(&mut self, client: Client) -> bool {
        self.send(client, Kind::Syn);
        self.answer(client, Kind::SynAck);
        self.send(client, Kind::Ack);
        self.known.get(&client).is_some_and(|known| known.phase == Phase::Open)
    }

    /// No two live flows have one port at one endpoint, and each lies where its replies look for it.
    fn check(&self) {
        let flows = self.host.l4.flows.borrow();
        let mut ports = BTreeMap::new();
        for (index, flow) in flows.iter().enumerate().filter(|(_, flow)| Stamp(flow.stamp).taken(self.now()))
        {
            let bucket = flow::bucket(
                flow::hash(&flow.client, flow.client_port, flow.protocol),
                flows.len() as u32 - 1,
            )
            .0;
            if flow.port == 0 {
                assert_eq!(index as u32 & !7, bucket);
            } else {
                assert_eq!(ports.insert((flow.backend, flow.port), index), None, "{flow:?}");
            }
        }
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Open(u8),
    Client(u8, Kind),
    Endpoint(u8, Kind),
    Time(u32),
    Flood(u16),
    Replaced(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![5 => Just(Kind::Ack), 2 => Just(Kind::Syn), 1 => Just(Kind::Rst)];
    let reply = prop_oneof![3 => Just(Kind::SynAck), 2 => Just(Kind::Ack), 1 => Just(Kind::Rst)];
    prop_oneof![
        4 => any::<u8>().prop_map(Event::Open),
        8 => (any::<u8>(), kind).prop_map(|(client, kind)| Event::Client(client, kind)),
        4 => (any::<u8>(), reply).prop_map(|(client, kind)| Event::Endpoint(client, kind)),
        2 => prop_oneof![0..12u32, 40..70u32, 250..320u32, 500..520u32].prop_map(Event::Time),
        1 => (1..200u16).prop_map(Event::Flood),
        1 => (0..2u8).prop_map(Event::Replaced),
    ]
}

const CLIENTS: u8 = 24;

/// Few clients, so that each has some history, of all kinds.
fn client(number: u8) -> Client {
    let number = number % CLIENTS;
    let (near, datagrams) = (number % 4 == 1, number % 6 == 2);
    Client { v6: false, datagrams, near, host: 100, port: 40_000 + u16::from(number) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_flow_gets_anothers_packets_and_open_ones_stay(
        entries in prop_oneof![Just(16usize), Just(32), Just(64)],
        events in proptest::collection::vec(event(), 1..160),
    ) {
        let mut world = World::new(entries);
        let mut flood = 0;
        for event in events {
            match event {
                Event::Open(number) => drop(world.open(client(number))),
                Event::Client(number, kind) => drop(world.send(client(number), kind)),
                Event::Endpoint(number, kind) => world.answer(client(number), kind),
                Event::Time(ticks) => world.host.l4.now += ticks,
                Event::Flood(packets) => {
                    for _ in 0..packets {
                        flood += 1;
                        let stranger = Client { host: 101 + (flood & 3) as u8, port: 1024 + flood, ..client(0) };
                        world.send(stranger, Kind::Syn);
                        world.known.remove(&stranger);
                    }
                }
                Event::Replaced(number) => {
                    world.host.l4.replace(u32::from(number));
                    let endpoint = BACKENDS4[usize::from(number)][3];
                    world.known.retain(|client, known| client.near || client.datagrams || known.endpoint != endpoint);
                }
            }
            world.check();
        }
    }
}

#[test]
fn half_of_a_table_has_room_for_all() {
    const FLOWS: u16 = 8192;
    let mut world = World::new(2 * usize::from(FLOWS));
    let client = |n: u16| Client { v6: false, datagrams: false, near: false, host: 100, port: 1024 + n };
    for n in 0..FLOWS {
        assert!(world.open(client(n)), "{n}");
    }
    // Each has kept what it began with, on both ways: by its mark, and by its entry.
    for ticks in [0, PERIOD] {
        world.host.l4.now += ticks;
        for n in 0..FLOWS {
            assert_eq!(world.send(client(n), Kind::Ack), Reason::Forwarded);
            world.answer(client(n), Kind::Ack);
        }
    }
    world.check();
}

#[test]
fn a_flood_turns_out_no_open_connection() {
    let mut world = World::new(4096);
    let client =
        |n: u16| Client { v6: false, datagrams: false, near: n.is_multiple_of(4), host: 100, port: 1024 + n };
    let open: Vec<_> = (0..1200).map(client).filter(|client| world.open(*client)).collect();
    assert!(open.len() > 1190, "{}", open.len());
    for (ticks, host) in [(0, 101), (40, 102), (200, 103)] {
        world.host.l4.now += ticks;
        let mut taken = 0;
        for port in 1024..21_024 {
            let stranger =
                Client { v6: false, datagrams: false, near: u16::is_multiple_of(port, 4), host, port };
            taken += u32::from(world.send(stranger, Kind::Syn) == Reason::Forwarded);
            world.known.remove(&stranger);
        }
        // Strangers turn out each other.
        assert!(taken > 19_000, "{taken}");
        for client in &open {
            // Would fail if it were dropped or moved.
            assert_eq!(world.send(*client, Kind::Ack), Reason::Forwarded);
        }
    }
    world.check();
}

#[test]
fn a_flood_of_datagrams_turns_out_no_client_that_spoke_twice() {
    let mut world = World::new(4096);
    let client =
        |host, port: u16| Client { v6: false, datagrams: true, near: port.is_multiple_of(4), host, port };
    let speaks = |world: &mut World, client| world.send(client, Kind::Datagram) == Reason::Forwarded;
    let known: Vec<_> = (0..1200)
        .map(|n| client(100, 1024 + n))
        .filter(|client| speaks(&mut world, *client) && speaks(&mut world, *client))
        .collect();
    assert!(known.len() > 1190, "{}", known.len());
    for (ticks, host) in [(0, 101), (DATAGRAMS_SPARED / 2, 102), (DATAGRAMS_SPARED / 3, 103)] {
        world.host.l4.now += ticks;
        let mut taken = 0;
        for port in 1024..21_024 {
            let stranger = client(host, port);
            taken += u32::from(speaks(&mut world, stranger));
            world.known.remove(&stranger);
        }
        // Strangers turn out each other.
        assert!(taken > 18_000, "{taken}");
        for client in &known {
            // Would fail if it were dropped or moved.
            assert!(speaks(&mut world, *client));
        }
    }
    world.check();
}

/// Clients with the same tag, to the VIP's port.
fn twins(datagrams: bool) -> Vec<(Client, Client)> {
    let mut seen = BTreeMap::new();
    let mut twins = Vec::new();
    for n in 0..40_000 {
        let client = Client {
            v6: false,
            datagrams,
            near: false,
            host: 100 + (n >> 14) as u8,
            port: 1024 + (n & 0x3fff) as u16,
        };
        let ends = client.ends();
        let tag = mark::tag(flow::hash(&ends.source, ends.source_port, client.protocol()), &ends);
        if let Some(first) = seen.insert(tag, client) {
            twins.push((first, client));
        }
    }
    twins
}

#[test]
fn flows_with_one_tag_stay_apart() {
    let twins = twins(false);
    assert!(twins.len() > 20, "{}", twins.len());
    let mut shared = 0;
    // Two buckets: all flows share them.
    for (first, second) in twins {
        for (one, other) in [(first, second), (second, first)] {
            let mut world = World::new(16);
            assert!(world.open(one));
            assert_eq!(world.send(one, Kind::Ack), Reason::Forwarded);
            shared += u32::from(world.open(other));
            for ticks in [0, 1, PERIOD, 3 * PERIOD] {
                world.host.l4.now += ticks;
                for client in [one, other, one] {
                    // Fails if it went to the other's endpoint or port.
                    world.send(client, Kind::Ack);
                }
            }
        }
    }
    assert!(shared > 20, "{shared}");
}

/// The bucket that a client's flow is at home in, and where its mark lies.
fn buckets(world: &World, client: Client) -> (u32, Option<u32>) {
    let ends = client.ends();
    let hash = flow::hash(&ends.source, ends.source_port, client.protocol());
    let tag = mark::tag(hash, &ends);
    let marks = world.host.l4.marks.borrow();
    let home = flow::bucket(hash, (marks.len() * WAYS as usize) as u32 - 1).0 / WAYS;
    let lies = |bucket: usize| {
        let tag = if bucket as u32 == home { tag } else { mark::away(tag) };
        marks[bucket].with_tag(tag) != 0
    };
    (home, (0..marks.len()).find(|bucket| lies(*bucket)).map(|bucket| bucket as u32))
}

#[test]
fn a_datagram_that_begins_a_flow_is_not_sent_by_anothers_mark() {
    let twins = twins(true);
    assert!(twins.len() > 20, "{}", twins.len());
    for (first, second) in twins {
        for (one, other) in [(first, second), (second, first)] {
            let mut world = World::new(16);
            for client in [one, one, one, other, other, one, other] {
                // Fails if it went to the other's port.
                assert_eq!(world.send(client, Kind::Datagram), Reason::Forwarded);
            }
        }
    }
}

#[test]
fn flows_with_one_tag_stay_apart_at_home_and_away() {
    let mut apart = 0;
    // In the place of the first bucket of one, the second one of the other.
    for (first, second) in twins(false) {
        for (one, other) in [(first, second), (second, first)] {
            let mut world = World::new(16);
            let (home, _) = buckets(&world, one);
            if buckets(&world, other).0 == home {
                continue;
            }
            for port in 0..200 {
                let filler = Client { host: 120, port: 1024 + port, ..one };
                if buckets(&world, filler).0 == home && buckets(&world, one).1.is_none() {
                    world.open(filler);
                }
                if world.host.l4.marks.borrow()[home as usize].unused() <= 2 {
                    break;
                }
            }
            if !world.open(one) || buckets(&world, one).1 == Some(home) || !world.open(other) {
                continue;
            }
            apart += 1;
            for ticks in [0, 1, PERIOD, 3 * PERIOD] {
                world.host.l4.now += ticks;
                for client in [one, other, one] {
                    // Fails if it went to the other's endpoint or port.
                    assert_eq!(world.send(client, Kind::Ack), Reason::Forwarded);
                }
            }
        }
    }
    assert!(apart > 10, "{apart}");
}

#[test]
fn who_lost_its_mark_is_not_sent_by_that_of_its_second_bucket() {
    let mut apart = 0;
    for (one, other) in twins(false) {
        let mut world = World::new(64);
        assert!(world.open(one) && world.open(other));
        let ((home, lies), (others, _)) = (buckets(&world, one), buckets(&world, other));
        if home == others || lies != Some(home) {
            continue;
        }
        apart += 1;
        world.host.l4.marks.borrow_mut()[home as usize].0 = [0; WAYS as usize];
        // Fails if it went to the other's endpoint or port.
        assert_eq!(world.send(one, Kind::Ack), Reason::Forwarded);
    }
    assert!(apart > 10, "{apart}");
}

#[test]
fn a_mark_that_seems_young_leads_to_no_entry_that_another_flow_took() {
    let datagrams = |host, port| Client { v6: false, datagrams: true, near: false, host, port };
    let mut taken = 0;
    for port in 1024..1124 {
        let mut world = World::new(64);
        let client = datagrams(100, port);
        for _ in 0..2 {
            assert_eq!(world.send(client, Kind::Datagram), Reason::Forwarded);
        }
        world.host.l4.now += mark::EPOCHS * PERIOD;
        for stranger in 0..60 {
            world.send(datagrams(101, 1024 + stranger), Kind::Datagram);
        }
        taken += u32::from(!world.host.l4.flows.borrow().iter().any(|flow| client.owns(flow)));
        // Fails if it is sent from another's port; and from one that is no longer its own, no reply comes back.
        if world.send(client, Kind::Datagram) == Reason::Forwarded {
            let known = world.known[&client];
            assert!(world.answer_by_port(client, known, Kind::Datagram), "{known:?}");
        }
    }
    assert!(taken > 10, "{taken}");
}

#[test]
fn who_is_sent_by_a_mark_that_seems_young_gets_replies() {
    let client = Client { v6: false, datagrams: true, near: false, host: 100, port: 1024 };
    for silence in [PERIOD, DATAGRAMS_KEPT, 600, mark::EPOCHS * PERIOD, 2 * mark::EPOCHS * PERIOD] {
        let mut world = World::new(64);
        for _ in 0..2 {
            assert_eq!(world.send(client, Kind::Datagram), Reason::Forwarded);
        }
        let known = world.known[&client];
        world.host.l4.now += silence;
        let seems_young = silence.is_multiple_of(mark::EPOCHS * PERIOD);
        // Replies to a client that has not spoken for long are nobody's.
        let returned = seems_young || world.answer_by_port(client, known, Kind::Datagram);
        assert_eq!(returned, seems_young || silence < DATAGRAMS_KEPT - 1, "{silence}");
        assert_eq!(world.send(client, Kind::Datagram), Reason::Forwarded);
        let known = world.known[&client];
        assert!(world.answer_by_port(client, known, Kind::Datagram), "{silence}");
    }
}
