//! Frames to VIPs in forward mode and back, in order: one table for host functions and loaded program.

extern crate std;

use core::ops::{Deref, DerefMut};
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::HashMap;
use std::thread_local;
use std::vec;
use std::vec::Vec;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

use crate::direct_fixtures;
use crate::fixtures::Host;
use crate::flow::{self, Flow, WAYS};
use crate::forward::{Forward, Pending};
use crate::fragment::{FragmentKey, FragmentValue};
use crate::maglev::{self, Member};
use crate::maps::{
    BackendValue, RING_CHUNK, RingChunk, ServiceValue, VIP_AFFINITY, VIP_FORWARD, VIP_QUIC, VIP_RANGES,
    VipKey, VipValue, WayValue,
};
use crate::mark::{Mark, Marks};
use crate::packet::{TCP, UDP};
use crate::quic::{ServerKey, server_id};
use crate::ranges::{self, RangeKey, SLOT_BITS};
use crate::rare::Work;
use crate::reason::Reason;
use crate::ring::Entry;
use crate::too_big::Answers;
use crate::verdict::{Action, Verdict, mapped, words};

/// The forwarded VIP.
pub const VIP4: [u8; 4] = [198, 51, 100, 20];
/// Its IPv6 sister.
pub const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20];
/// Endpoints behind the NIC, and, with 9 in front of the last part, one that the kernel delivers to.
pub const BACKENDS4: [[u8; 4]; 3] = [[10, 9, 0, 2], [10, 9, 0, 3], [10, 9, 9, 2]];
/// The same in IPv6.
pub const BACKENDS6: [[u8; 16]; 3] = [v6(0, 2), v6(0, 3), v6(9, 2)];
/// The node's address towards the endpoints and the clients.
pub const NODE4: [u8; 4] = [10, 9, 0, 1];
/// The same in IPv6.
pub const NODE6: [u8; 16] = v6(0, 1);
/// The clients, who are in the same network here.
pub const CLIENT4: [u8; 4] = [10, 9, 0, 100];
/// The same in IPv6.
pub const CLIENT6: [u8; 16] = v6(0, 0x64);
/// A neighbour of the client, outside of the network that [`LISTED`] is for.
pub const OTHER4: [u8; 4] = [10, 9, 0, 200];
/// The same in IPv6.
pub const OTHER6: [u8; 16] = v6(0, 0xc8);
/// Everybody's MAC but the node's.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Of all ways, in bytes.
pub const MTU: u32 = 1500;
/// The node's.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const fn v6(net: u8, host: u8) -> [u8; 16] {
    [0xfd, 0, 0, 9, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

/// Slots in the VIP table, beyond those of the other fixtures.
const FIRST_SLOT: u32 = 100;
/// The ring is the same for all VIPs of a family, protocol and port.
pub(crate) const TARGET_PORT: u16 = 8080;

/// A frame and its fate.
pub struct Step {
    /// What it is.
    pub description: &'static str,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// How it leaves; `None`: as it came.
    pub becomes: Option<Vec<u8>>,
}

/// What the maps hold.
#[derive(Clone)]
pub struct Content {
    /// VIPs.
    pub vips: Vec<(VipKey, VipValue)>,
    /// Rings of VIPs, by slot.
    pub services: Vec<(u32, ServiceValue)>,
    /// All rings.
    pub chunks: Vec<RingChunk>,
    /// Endpoints, by slot.
    pub backends: Vec<BackendValue>,
    /// Prefixes of clients: their lengths and keys.
    pub ranges: Vec<(u32, RangeKey)>,
    /// Addresses of nodes, and whose they are.
    pub nodes: Vec<([u32; 4], u32)>,
    /// Endpoints that QUIC packets may name, and their slots.
    pub servers: Vec<(ServerKey, u32)>,
}

/// Ports of the VIPs: two endpoints; the same with affinity; an endpoint that the kernel delivers to; none.
pub const PORT: u16 = 80;
/// See [`PORT`].
pub const AFFINE: u16 = 81;
/// See [`PORT`].
pub const NEAR: u16 = 82;
/// See [`PORT`].
pub const EMPTY: u16 = 83;
/// Like [`PORT`], for the fixtures' client and half of its neighbours.
pub const LISTED: u16 = 84;
/// Like [`PORT`], for nobody.
pub const CLOSED: u16 = 85;

/// One endpoint, while QUIC packets may name two.
pub const NAMED: u16 = 78;

/// The content of the maps.
pub fn content() -> Content {
    // Rings take a while, and properties ask often.
    thread_local!(static CONTENT: Content = made());
    CONTENT.with(Content::clone)
}

fn made() -> Content {
    let (vips, services, chunks, backends, ranges, servers, nodes) = Default::default();
    let mut content = Content { vips, services, chunks, backends, ranges, servers, nodes };
    let mut slot = FIRST_SLOT;
    for v6 in [false, true] {
        for protocol in [TCP, UDP] {
            let first = content.backends.len() as u32;
            for n in 0..3 {
                let address = if v6 { words(BACKENDS6[n]) } else { mapped(BACKENDS4[n]) };
                let port = TARGET_PORT.to_be();
                content.backends.push(BackendValue { address, port, protocol, draining: 0, generation: 1 });
            }
            let rings =
                [(PORT, 0..2), (AFFINE, 0..2), (NEAR, 2..3), (EMPTY, 0..0), (LISTED, 0..2), (CLOSED, 0..2)];
            for (port, members) in rings.into_iter().chain([(NAMED, 0..1)]) {
                let address = if v6 { words(VIP6) } else { mapped(VIP4) };
                let flags = VIP_FORWARD
                    | if port == AFFINE { VIP_AFFINITY } else { 0 }
                    | if port >= LISTED { VIP_RANGES } else { 0 }
                    | if port == NAMED && protocol == UDP { VIP_QUIC } else { 0 };
                if flags & VIP_QUIC != 0 {
                    let ids =
                        (first..first + 2).map(|n| (server_id(&content.backends[n as usize].address), n));
                    content.servers.extend(ids.map(|(id, n)| (ServerKey { id, vip: slot, zero: 0 }, n)));
                }
                if port == LISTED {
                    // Bits of the slot and the network's; IPv4 is mapped.
                    let (bits, client) = if v6 { (121, words(CLIENT6)) } else { (96 + 25, mapped(CLIENT4)) };
                    content.ranges.push((SLOT_BITS + bits, ranges::key(slot, &client)));
                }
                let key = VipKey { address, port: port.to_be(), protocol, zero: 0 };
                content.vips.push((key, VipValue { slot, flags }));
                let members: Vec<_> =
                    members.map(|n| Member { identity: n.into(), weight: 1, value: first + n + 1 }).collect();
                let chunk = content.chunks.len() as u32;
                let size = if members.is_empty() { 0 } else { maglev::size(members.len() as u32) };
                let mut ring = vec![0; size as usize];
                maglev::fill(&mut ring, &members, &mut vec![0; members.len()]);
                for part in ring.chunks(RING_CHUNK) {
                    let mut chunk = RingChunk([0; RING_CHUNK]);
                    chunk.0[..part.len()].copy_from_slice(part);
                    content.chunks.push(chunk);
                }
                content.services.push((slot, ServiceValue { first: chunk, size }));
                slot += 1;
            }
        }
    }
    direct_fixtures::add(&mut content);
    content
}

/// The forwarder's tables made of vectors.
pub struct Tables {
    content: Content,
    pub(crate) flows: RefCell<Vec<Flow>>,
    pub(crate) marks: RefCell<Vec<Marks>>,
    answers: RefCell<Answers>,
    pending: RefCell<Pending>,
    work: RefCell<Work>,
    fragments: RefCell<HashMap<FragmentKey, FragmentValue>>,
    /// The time in ticks.
    pub now: u32,
    /// When rings changed, in seconds.
    pub changed: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self::sized(4096)
    }
}

impl Tables {
    /// With so many entries for flows: a power of two.
    pub fn sized(size: usize) -> Self {
        let flows = vec![Flow::default(); size].into();
        let marks = vec![Marks([0; WAYS as usize]); size / WAYS as usize].into();
        let (answers, pending, work, fragments) = Default::default();
        let content = content();
        Self { content, flows, marks, answers, pending, work, fragments, now: 1000, changed: 0 }
    }
}

#[cfg(test)]
impl Tables {
    /// Of the endpoint in a slot.
    pub(crate) fn address(&self, slot: u32) -> [u32; 4] {
        self.content.backends[slot as usize].address
    }

    /// The endpoint in a slot goes, and another one comes that has its address.
    pub(crate) fn replace(&mut self, slot: u32) {
        self.content.backends[slot as usize].generation += 2;
    }
}

impl Forward for Host {
    fn tick(&self) -> u32 {
        self.l4.now
    }

    fn service(&self, slot: u32) -> Option<ServiceValue> {
        self.l4.content.services.iter().find(|(other, _)| *other == slot).map(|(_, service)| *service)
    }

    fn in_range(&self, key: &RangeKey) -> bool {
        self.l4.content.ranges.iter().any(|(bits, range)| covers(*bits, range, key))
    }

    fn server(&self, key: &ServerKey) -> Option<u32> {
        self.l4.content.servers.iter().find(|(other, _)| other == key).map(|(_, slot)| *slot)
    }

    fn backend(&self, slot: u32) -> Option<impl Deref<Target = BackendValue>> {
        self.l4.content.backends.get(slot as usize)
    }

    fn ring(&self, chunk: u32, at: u32) -> Option<Entry> {
        self.l4.content.chunks.get(chunk as usize)?.0.get(at as usize).copied().map(Entry)
    }

    fn changed(&self, _slot: u32) -> u32 {
        self.l4.changed
    }

    fn node(&self, address: &[u32; 4]) -> Option<u32> {
        self.l4.content.nodes.iter().find(|(other, _)| other == address).map(|(_, role)| *role)
    }

    fn widen<const N: usize>(&self) -> bool {
        self.frame.borrow_mut().splice(..0, [0; N]);
        true
    }

    fn narrow<const N: usize>(&self) -> bool {
        let mut frame = self.frame.borrow_mut();
        frame.len() >= N && frame.drain(..N).len() == N
    }

    fn mask(&self) -> u32 {
        self.l4.flows.borrow().len() as u32 - 1
    }

    fn flow(&self, index: u32) -> Option<impl Deref<Target = Flow>> {
        // A copy: the entry may be written to while the caller looks at it.
        self.l4.flows.borrow().get(index as usize).copied().map(Box::new)
    }

    fn marks(&self, bucket: u32) -> Option<impl Deref<Target = Marks>> {
        self.l4.marks.borrow().get(bucket as usize).copied().map(Box::new)
    }

    fn mark(&self, bucket: u32, way: u32) -> Option<Mark> {
        Some(Mark(self.l4.marks.borrow().get(bucket as usize)?.0[way as usize]))
    }

    fn swap_mark(&self, index: u32, old: u64, new: u64) -> bool {
        let mut marks = self.l4.marks.borrow_mut();
        let mark = &mut marks[(index / WAYS) as usize].0[(index % WAYS) as usize];
        *mark == old && std::mem::replace(mark, new) == old
    }

    fn swap_stamp(&self, index: u32, old: u64, new: u64) -> bool {
        let mut flows = self.l4.flows.borrow_mut();
        let stamp = &mut flows[index as usize].stamp;
        *stamp == old && std::mem::replace(stamp, new) == old
    }

    fn pending(&self) -> Option<impl DerefMut<Target = Pending>> {
        Some(self.l4.pending.borrow_mut())
    }

    fn write_flow(&self, index: u32, new: &Pending, generation: u32) {
        let place = &mut self.l4.flows.borrow_mut()[index as usize];
        *place = Flow {
            stamp: place.stamp,
            client: new.ends.source,
            vip: new.ends.target,
            client_port: new.ends.source_port,
            vip_port: new.ends.target_port,
            port: new.port,
            protocol: new.protocol,
            zero: 0,
            backend: new.backend,
            generation,
            pad: [0; 2],
        };
    }

    fn keep(&self, _port: u16) {}

    fn way_to_backend(
        &self,
        _slot: u32,
        backend: &BackendValue,
    ) -> Result<impl Deref<Target = WayValue>, Reason> {
        let near = [mapped(BACKENDS4[2]), words(BACKENDS6[2])].contains(&backend.address);
        let source = if backend.address[0] == 0 { mapped(NODE4) } else { words(NODE6) };
        let interface = if near { 0 } else { 7 };
        let distant = [mapped(direct_fixtures::DISTANT4), words(direct_fixtures::DISTANT6)];
        let gateway = distant.contains(&backend.address).into();
        Ok(Box::new(WayValue { interface, macs: macs(), source, mtu: MTU, gateway, ..WayValue::default() }))
    }

    fn way_to_client(
        &self,
        _client: &[u32; 4],
        _vip: &[u32; 4],
        _length: u32,
    ) -> Option<impl Deref<Target = WayValue>> {
        Some(Box::new(WayValue { interface: 7, macs: macs(), mtu: MTU, ..WayValue::default() }))
    }

    fn set<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> bool {
        let mut frame = self.frame.borrow_mut();
        frame.get_mut(offset..offset + N).map(|place| place.copy_from_slice(&bytes)).is_some()
    }

    fn answers(&self) -> Option<impl DerefMut<Target = Answers>> {
        Some(self.l4.answers.borrow_mut())
    }

    fn work(&self) -> Option<impl DerefMut<Target = Work>> {
        Some(self.l4.work.borrow_mut())
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.l4.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.l4.fragments.borrow_mut().insert(*key, *value);
    }

    fn leave(&self, way: &WayValue) -> Action {
        let mut bytes = [0; 12];
        for (part, word) in bytes.chunks_mut(4).zip(way.macs) {
            part.copy_from_slice(&word.to_ne_bytes());
        }
        if self.set(0, bytes) { Action::Redirect } else { Action::Drop }
    }
}

/// Whether a prefix of so many bits covers a key.
fn covers(bits: u32, range: &RangeKey, key: &RangeKey) -> bool {
    let wire = |words: &RangeKey| words.map(u32::to_ne_bytes).concat();
    let (range, key) = (wire(range), wire(key));
    (0..bits as usize).all(|bit| (range[bit / 8] ^ key[bit / 8]) >> (7 - bit % 8) & 1 == 0)
}

fn macs() -> [u32; 3] {
    let bytes = [PEER_MAC, NODE_MAC].concat();
    let mut words = bytes.chunks(4).map(|part| u32::from_ne_bytes(part.try_into().expect("four")));
    [(); 3].map(|()| words.next().expect("three words"))
}

/// What kind of segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    SynAck,
    Ack,
    Rst,
    Datagram,
}

#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) mac: [u8; 6],
    pub(crate) address: &'a [u8],
    pub(crate) port: u16,
}

/// A packet from one end to another, of the version that their addresses are of.
pub(crate) fn addressed(from: End<'_>, to: End<'_>) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(from.mac, to.mac);
    match (<[u8; 4]>::try_from(from.address), <[u8; 4]>::try_from(to.address)) {
        (Ok(from), Ok(to)) => ethernet.ipv4(from, to, 64),
        _ => {
            let sixteen = |a: &[u8]| a.try_into().expect("sixteen");
            ethernet.ipv6(sixteen(from.address), sixteen(to.address), 64)
        }
    }
}

/// A frame from one end to another, whole with checksums.
pub(crate) fn frame(from: End<'_>, to: End<'_>, kind: Kind) -> Vec<u8> {
    let ip = addressed(from, to);
    let mut out = Vec::new();
    if kind == Kind::Datagram {
        ip.udp(from.port, to.port).write(&mut out, b"question").expect("a Vec takes everything");
        return out;
    }
    let tcp = ip.tcp(from.port, to.port, 1000, 5000);
    let tcp = match kind {
        Kind::Syn => tcp.syn(),
        Kind::SynAck => tcp.syn().ack(1),
        Kind::Rst => tcp.rst(),
        _ => tcp.ack(1),
    };
    let payload: &[u8] = if kind == Kind::Ack { b"hello" } else { b"" };
    tcp.write(&mut out, payload).expect("a Vec takes everything");
    out
}

/// The table, with what is rare and what goes as it is. Each step's outcome depends on those before.
pub fn all_steps() -> impl Iterator<Item = Step> {
    let rare = crate::rare_fixtures::steps().into_iter().chain(crate::quic_fixtures::steps());
    steps().into_iter().chain(rare).chain(direct_fixtures::steps())
}

fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for v6 in [false, true] {
        let pick = |four: &'static [u8], six: &'static [u8]| if v6 { six } else { four };
        let client = |port| End { mac: PEER_MAC, address: pick(&CLIENT4, &CLIENT6), port };
        let vip = |port| End { mac: NODE_MAC, address: pick(&VIP4, &VIP6), port };
        let node = |port| End { mac: NODE_MAC, address: pick(&NODE4, &NODE6), port };
        let backend = |n: usize| End {
            mac: PEER_MAC,
            address: if v6 { &BACKENDS6[n] } else { &BACKENDS4[n] },
            port: TARGET_PORT,
        };
        let address = if v6 { words(CLIENT6) } else { mapped(CLIENT4) };
        // The end of the way and the port there, by the same functions as the program's.
        let chosen = |port: u16, protocol: u8, affine: bool| {
            let hash = flow::hash(&address, port.to_be(), protocol);
            let by = if affine { flow::hash(&address, 0, 0) } else { hash };
            let members = [0, 1].map(|n| Member { identity: n, weight: 1, value: n as u32 });
            let mut ring = vec![0; maglev::size(2) as usize];
            maglev::fill(&mut ring, &members, &mut [0; 2]);
            let at = ((by >> 32) * ring.len() as u64) >> 32;
            (ring[at as usize] as usize, flow::port(hash, 0))
        };
        let mut step = |description, frame, reason, action, becomes| {
            steps.push(Step { description, frame, verdict: Verdict { reason, action }, becomes });
        };
        let out = Action::Redirect;
        for (protocol, kinds, answer) in
            [(TCP, [Kind::Syn, Kind::Ack], Kind::SynAck), (UDP, [Kind::Datagram; 2], Kind::Datagram)]
        {
            for (port, affine) in [(PORT, false), (AFFINE, true)] {
                for source in [0, 1, 2].map(|n| 40_000 + port * 10 + n) {
                    let (n, node_port) = chosen(source, protocol, affine);
                    // From the node, to the endpoint, with the peer's MAC.
                    let there = |kind| frame(node(node_port), backend(n), kind);
                    let back = frame(vip(port), client(source), answer);
                    let first = frame(client(source), vip(port), kinds[0]);
                    step("a connection's first", first, Reason::Forwarded, out, Some(there(kinds[0])));
                    let reply = frame(backend(n), node(node_port), answer);
                    step("its answer", reply, Reason::Returned, out, Some(back));
                    let next = frame(client(source), vip(port), kinds[1]);
                    step("its next", next, Reason::Forwarded, out, Some(there(kinds[1])));
                }
            }
            let near = frame(client(41_000), vip(NEAR), kinds[0]);
            let kept = frame(client(41_000), End { mac: NODE_MAC, ..backend(2) }, kinds[0]);
            step("to an endpoint of the kernel's", near, Reason::Forwarded, Action::Pass, Some(kept));
            let nowhere = frame(client(42_000), vip(EMPTY), kinds[0]);
            step("to a VIP without endpoints", nowhere, Reason::NoBackend, Action::Drop, None);
            let (n, node_port) = chosen(44_000, protocol, false);
            let listed = frame(client(44_000), vip(LISTED), kinds[0]);
            let there = frame(node(node_port), backend(n), kinds[0]);
            step("of a client that is listed", listed, Reason::Forwarded, out, Some(there));
            let other = End { address: pick(&OTHER4, &OTHER6), ..client(44_000) };
            let unlisted = frame(other, vip(LISTED), kinds[0]);
            step("of one that is not", unlisted, Reason::SourceOutside, Action::Drop, None);
            let closed = frame(client(44_000), vip(CLOSED), kinds[0]);
            step("where nobody is listed", closed, Reason::SourceOutside, Action::Drop, None);
            let stray = frame(backend(0), node(20_000), answer);
            step("a reply of no flow", stray, Reason::NotVip, Action::Pass, None);
            let (n, node_port) = chosen(40_000 + PORT * 10, protocol, false);
            let other = frame(backend(1 - n), node(node_port), answer);
            step("another endpoint's reply", other, Reason::NotVip, Action::Pass, None);
        }
        let reset = frame(client(43_000), vip(PORT), Kind::Rst);
        step("a reset of no flow", reset, Reason::NoFlow, Action::Drop, None);
        // No-ops behind the IP header, whose length says so.
        let mut optional = frame(client(43_001), vip(PORT), Kind::Syn);
        if v6 {
            let next = std::mem::replace(&mut optional[20], 60);
            optional[19] += 8;
            optional.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
        } else {
            optional[14] += 1;
            optional[17] += 4;
            optional.splice(34..34, [1; 4]);
        }
        step("options", optional, Reason::ForwardUnusual, Action::Drop, None);
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fixtures::judge;
    use crate::flow::{Phase, Stamp};
    use crate::maps::Tuning;
    use crate::mark::PERIOD;
    use crate::unusual_fixtures::tagged_steps;

    /// Without budgets: the fixtures' one client opens more connections than those allow.
    fn host() -> Host {
        let mut host = Host::new();
        host.tuning = Tuning::default();
        host
    }

    #[test]
    fn the_host_takes_every_step() {
        take(all_steps(), "");
    }

    #[test]
    fn and_behind_tags() {
        take(tagged_steps(1), "behind a tag");
        take(tagged_steps(2), "behind two tags");
    }

    fn take(steps: impl Iterator<Item = Step>, how: &str) {
        let mut host = host();
        for step in steps {
            host.frame = step.frame.clone().into();
            assert_eq!(judge(&host), step.verdict, "{} {how}", step.description);
            if step.verdict.action != Action::Drop {
                let becomes = step.becomes.unwrap_or(step.frame);
                assert_eq!(*host.frame.borrow(), becomes, "{} {how}", step.description);
            }
        }
    }

    #[test]
    fn no_two_flows_share_a_port_at_an_endpoint() {
        let mut host = host();
        let mut forwarded = 0;
        for port in 1024..3024u16 {
            let client = End { mac: PEER_MAC, address: &CLIENT4, port };
            let vip = End { mac: NODE_MAC, address: &VIP4, port: PORT };
            host.frame = frame(client, vip, Kind::Syn).into();
            forwarded += usize::from(judge(&host).reason == Reason::Forwarded);
        }
        // Half of the table: a few buckets are full.
        assert!(forwarded > 1900, "{forwarded} of 2,000");
        let flows = host.l4.flows.borrow();
        let mut ports: Vec<_> =
            flows.iter().filter(|flow| flow.stamp != 0).map(|flow| (flow.backend, flow.port)).collect();
        ports.sort_unstable();
        let all = ports.len();
        ports.dedup();
        assert_eq!(ports.len(), all);
        assert!(all > 1900, "{all} flows are left");
    }

    #[test]
    fn a_connection_stays_where_it_is_while_the_ring_moves() {
        let mut host = host();
        let client = End { mac: PEER_MAC, address: &CLIENT4, port: 40_080 };
        let vip = End { mac: NODE_MAC, address: &VIP4, port: PORT };
        let target = |host: &mut Host, kind| {
            host.frame = frame(client, vip, kind).into();
            assert_eq!(judge(host).reason, Reason::Forwarded);
            host.frame.borrow()[33]
        };
        let first = target(&mut host, Kind::Syn);
        let (old, new) = if first == 2 { (0, 1) } else { (1, 0) };
        // The ring has only the other endpoint from here on, and the old one is on its way out.
        let members = [Member { identity: new, weight: 1, value: new as u32 + 1 }];
        let mut ring = vec![0; 509];
        maglev::fill(&mut ring, &members, &mut [0]);
        for (chunk, part) in host.l4.content.chunks.iter_mut().zip(ring.chunks(RING_CHUNK)) {
            chunk.0[..part.len()].copy_from_slice(part);
        }
        host.l4.content.backends[old as usize].draining = 1;
        assert_eq!(target(&mut host, Kind::Ack), first);
        // A new connection over the same ports is not sent there once the old one was closed.
        host.frame = frame(client, vip, Kind::Rst).into();
        assert_eq!(judge(&host).reason, Reason::Forwarded);
        assert_ne!(target(&mut host, Kind::Syn), first);
        // And when the endpoint is gone altogether, so are its flows.
        host.l4.content.backends[new as usize].generation += 2;
        host.l4.content.services.iter_mut().for_each(|(_, service)| service.size = 0);
        host.frame = frame(client, vip, Kind::Ack).into();
        assert_eq!(judge(&host).reason, Reason::NoBackend);
    }

    #[test]
    fn marks_stand_for_flows() {
        let mut host = host();
        let client = End { mac: PEER_MAC, address: &CLIENT4, port: 40_090 };
        let vip = End { mac: NODE_MAC, address: &VIP4, port: PORT };
        let send = |host: &mut Host, kind| {
            host.frame = frame(client, vip, kind).into();
            judge(host).reason
        };
        let flow = |host: &Host| {
            let flows = host.l4.flows.borrow();
            flows.iter().position(|flow| flow.stamp != 0).expect("a flow")
        };
        assert_eq!(send(&mut host, Kind::Syn), Reason::Forwarded);
        let index = flow(&host);
        let known = host.l4.flows.borrow()[index];
        host.l4.flows.borrow_mut()[index].stamp = Stamp::new(Phase::Answered, host.l4.now).0;
        assert_eq!(send(&mut host, Kind::Ack), Reason::Forwarded);

        // With the flow gone the mark still knows the way, and the port.
        std::mem::take(&mut host.l4.flows.borrow_mut()[index]);
        assert_eq!(send(&mut host, Kind::Ack), Reason::Forwarded);
        assert_eq!(host.frame.borrow()[34..36], known.port.to_ne_bytes());
        assert_eq!(host.l4.flows.borrow()[index], Flow::default(), "nothing was entered");
        // The end of a connection asks the flow, and so does everything after a while.
        assert_eq!(send(&mut host, Kind::Rst), Reason::NoFlow);
        host.l4.now += PERIOD;
        assert_eq!(send(&mut host, Kind::Rst), Reason::NoFlow);
    }

    #[test]
    fn a_flow_whose_mark_was_given_away_goes_on() {
        let mut host = host();
        let client = End { mac: PEER_MAC, address: &CLIENT4, port: 40_090 };
        let vip = End { mac: NODE_MAC, address: &VIP4, port: PORT };
        let mut ports = BTreeSet::new();
        for phase in [Phase::Answered, Phase::Open, Phase::Open] {
            host.frame = frame(client, vip, if ports.is_empty() { Kind::Syn } else { Kind::Ack }).into();
            assert_eq!(judge(&host).reason, Reason::Forwarded);
            ports.insert(host.frame.borrow()[34..36].to_vec());
            let mut flows = host.l4.flows.borrow_mut();
            let mut flows: Vec<_> = flows.iter_mut().filter(|flow| flow.stamp != 0).collect();
            assert_eq!((flows.len(), ports.len()), (1, 1));
            flows[0].stamp = Stamp::new(phase, host.l4.now).0;
            let mut marks = host.l4.marks.borrow_mut();
            let mut marks: Vec<_> = marks.iter_mut().filter(|marks| marks.unused() < WAYS).collect();
            assert_eq!(marks.len(), 1);
            *marks[0] = Marks([0; WAYS as usize]);
        }
    }
}
