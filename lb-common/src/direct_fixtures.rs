//! Frames to VIPs whose packets go as they are, and packets in packets from another node, in order: part of
//! the table of [`crate::forward_fixtures`].

extern crate std;

use std::vec;
use std::vec::Vec;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};

use crate::direct::GUE_PORT;
use crate::flow;
use crate::forward_fixtures::{
    BACKENDS4, BACKENDS6, CLIENT4, CLIENT6, Content, End, Kind, MTU, NODE_MAC, NODE4, NODE6, OTHER4, OTHER6,
    PEER_MAC, PORT, Step, TARGET_PORT, VIP4, VIP6, addressed, frame,
};
use crate::maps::{
    BackendValue, DIRECT_GUE, DIRECT_IPIP, DIRECT_L2, MAX_VIPS, NODE_PEER, NODE_SELF, RING_CHUNK, RingChunk,
    ServiceValue, VIP_DIRECT, VIP_FORWARD, VIP_RANGES, VipKey, VipValue,
};
use crate::packet::{TCP, UDP};
use crate::ranges::{self, SLOT_BITS};
use crate::rare_fixtures::{Error, error, pieces, told};
use crate::reason::Reason;
use crate::ring::Entry;
use crate::verdict::{Action, Verdict, mapped, words};

/// Slots in the VIP table.
const FIRST_SLOT: u32 = 200;

/// Who is beyond a router: the client's own network has no such host.
pub const DISTANT4: [u8; 4] = [10, 99, 0, 2];
/// The same in IPv6.
pub const DISTANT6: [u8; 16] = [0xfd, 0, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Ports of the VIPs, each with one endpoint: a neighbour by its MAC.
pub const L2: u16 = 90;
/// The same in IPv4.
pub const IPIP4: u16 = 91;
/// In IPv6.
pub const IPIP6: u16 = 92;
/// In UDP over IPv4.
pub const GUE4: u16 = 93;
/// In UDP over IPv6.
pub const GUE6: u16 = 94;
/// An endpoint by its MAC that is behind a router.
pub const BEYOND: u16 = 95;
/// Two: the ring led to the second one, and leads to the first one now.
pub const MOVED: u16 = 96;
/// One of this node's.
pub const HERE: u16 = 97;
/// As [`IPIP4`], and no endpoint on this node is for packets of others.
pub const ELSEWHERE: u16 = IPIP4;
/// As [`HERE`], for the fixtures' client and half of its neighbours.
pub const FEW: u16 = 98;
/// In IP of its own family, by an interface without the program.
pub const UNLINKED: u16 = 99;

/// The endpoint of this node.
const NEAR: usize = 2;

/// Adds to the content of the maps.
pub fn add(content: &mut Content) {
    let mut slot = FIRST_SLOT;
    let first = content.backends.len() as u32;
    let direct = |address, protocol| BackendValue { address, port: 0, protocol, draining: 0, generation: 1 };
    // By place: two neighbours by MAC, nodes by what is around packets, who is too far away, where a ring
    // led before, two whom only the kernel reaches.
    content.backends.extend([
        direct(mapped(BACKENDS4[0]), DIRECT_L2),
        direct(words(BACKENDS6[0]), DIRECT_L2),
        direct(mapped(BACKENDS4[0]), DIRECT_IPIP),
        direct(words(BACKENDS6[0]), DIRECT_IPIP),
        direct(mapped(BACKENDS4[0]), DIRECT_GUE),
        direct(words(BACKENDS6[0]), DIRECT_GUE),
        direct(mapped(DISTANT4), DIRECT_L2),
        direct(words(DISTANT6), DIRECT_L2),
        direct(mapped(BACKENDS4[1]), DIRECT_IPIP),
        direct(mapped(BACKENDS4[NEAR]), DIRECT_IPIP),
        direct(words(BACKENDS6[NEAR]), DIRECT_IPIP),
    ]);
    for v6 in [false, true] {
        for protocol in [TCP, UDP] {
            // The endpoints that packets are written anew for lie as the other fixtures put them.
            let near = 3 * (2 * u32::from(v6) + u32::from(protocol == UDP)) + NEAR as u32;
            let at = |place: u32| Entry::new(first + place, None, false);
            let family = u32::from(v6);
            for (port, entry) in [
                (L2, at(family)),
                (IPIP4, at(2)),
                (IPIP6, at(3)),
                (GUE4, at(4)),
                (GUE6, at(5)),
                (BEYOND, at(6 + family)),
                (MOVED, Entry::new(first + 2, Some(first + 8), false)),
                (HERE, Entry::new(near, None, false)),
                (FEW, Entry::new(near, None, false)),
                (UNLINKED, at(9 + family)),
            ] {
                let address = if v6 { words(VIP6) } else { mapped(VIP4) };
                let key = VipKey { address, port: port.to_be(), protocol, zero: 0 };
                let flags = VIP_FORWARD | VIP_DIRECT | if port == FEW { VIP_RANGES } else { 0 };
                content.vips.push((key, VipValue { slot, flags }));
                if port == FEW {
                    let (bits, client) = if v6 { (121, words(CLIENT6)) } else { (96 + 25, mapped(CLIENT4)) };
                    content.ranges.push((SLOT_BITS + bits, ranges::key(slot, &client)));
                }
                let mut ring = |slot, entry: Entry| {
                    let mut chunk = RingChunk([0; RING_CHUNK]);
                    chunk.0[0] = entry.0;
                    let place = ServiceValue { first: content.chunks.len() as u32, size: 1 };
                    content.chunks.push(chunk);
                    content.services.push((slot, place));
                };
                ring(slot, entry);
                if port != ELSEWHERE {
                    ring(slot + MAX_VIPS, Entry::new(near, None, false));
                }
                slot += 1;
            }
        }
    }
    content.nodes = vec![
        (mapped(NODE4), NODE_SELF),
        (words(NODE6), NODE_SELF),
        (mapped(BACKENDS4[0]), NODE_PEER),
        (words(BACKENDS6[0]), NODE_PEER),
    ];
}

/// What is around a packet.
#[derive(Clone, Copy)]
struct Around<'a> {
    from: &'a [u8],
    to: &'a [u8],
    gue: bool,
    /// The flow's hash.
    hash: u64,
    /// The source port of UDP, where it is no hash's.
    port: Option<u16>,
}

/// A frame in a packet, made by an independent library, from one MAC to another.
fn wrapped(frame: &[u8], around: Around<'_>, macs: ([u8; 6], [u8; 6])) -> Vec<u8> {
    let inner = &frame[14..];
    let v6 = inner[0] >> 4 == 6;
    let mut payload = Vec::new();
    let mut protocol = if v6 { IpNumber(41) } else { IpNumber(4) };
    if around.gue {
        protocol = IpNumber::UDP;
        let port = around.port.unwrap_or(0xc000 | (around.hash >> 40) as u16);
        let length = inner.len() as u16 + 8;
        let udp = UdpHeader { source_port: port, destination_port: GUE_PORT, length, checksum: 0 };
        payload.extend(udp.to_bytes());
    }
    payload.extend(inner);
    let mut out = [macs.1, macs.0].concat();
    if let (Ok(from), Ok(to)) = (around.from.try_into(), around.to.try_into()) {
        let mut ip = Ipv4Header::new(payload.len() as u16, 64, protocol, from, to).expect("short enough");
        ip.header_checksum = ip.calc_header_checksum();
        out.extend([8, 0]);
        out.extend(ip.to_bytes());
    } else {
        let ip = Ipv6Header {
            flow_label: ((around.hash >> 20) as u32 & 0xf_ffff).try_into().expect("twenty bits"),
            payload_length: payload.len() as u16,
            next_header: protocol,
            hop_limit: 64,
            source: around.from.try_into().expect("sixteen"),
            destination: around.to.try_into().expect("sixteen"),
            ..Ipv6Header::default()
        };
        out.extend([0x86, 0xdd]);
        out.extend(ip.to_bytes());
    }
    out.extend(payload);
    out
}

/// The table. Each step's outcome depends on those before.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut step = |description, frame, reason, action, becomes| {
        steps.push(Step { description, frame, verdict: Verdict { reason, action }, becomes });
    };
    for v6 in [false, true] {
        let pick = |four: &'static [u8], six: &'static [u8]| if v6 { six } else { four };
        let client = |port| End { mac: PEER_MAC, address: pick(&CLIENT4, &CLIENT6), port };
        let vip = |port| End { mac: NODE_MAC, address: pick(&VIP4, &VIP6), port };
        let near =
            End { mac: NODE_MAC, address: pick(&BACKENDS4[NEAR], &BACKENDS6[NEAR]), port: TARGET_PORT };
        let address = if v6 { words(CLIENT6) } else { mapped(CLIENT4) };
        let hash = |port: u16, protocol| flow::hash(&address, port.to_be(), protocol);
        let out = (NODE_MAC, PEER_MAC);
        let by4 = |n: usize, gue, hash| Around { from: &NODE4, to: &BACKENDS4[n], gue, hash, port: None };
        let by6 = |gue, hash| Around { from: &NODE6, to: &BACKENDS6[0], gue, hash, port: None };
        for (protocol, kinds) in [(TCP, [Kind::Syn, Kind::Ack]), (UDP, [Kind::Datagram; 2])] {
            for kind in kinds {
                let sent = |port, to| frame(client(port), vip(to), kind);
                let neighbour = {
                    let mut frame = sent(50_000, L2);
                    frame[..12].copy_from_slice(&[PEER_MAC, NODE_MAC].concat());
                    frame
                };
                let leaves = Action::Redirect;
                step(
                    "to a neighbour, as it is",
                    sent(50_000, L2),
                    Reason::Forwarded,
                    leaves,
                    Some(neighbour),
                );
                step("to no neighbour", sent(50_001, BEYOND), Reason::NotAdjacent, Action::Drop, None);
                for (to, around) in [
                    (IPIP4, by4(0, false, hash(50_002, protocol))),
                    (IPIP6, by6(false, hash(50_002, protocol))),
                    (GUE4, by4(0, true, hash(50_002, protocol))),
                    (GUE6, by6(true, hash(50_002, protocol))),
                ] {
                    let becomes = Some(wrapped(&sent(50_002, to), around, out));
                    step("in a packet", sent(50_002, to), Reason::Tunnelled, leaves, becomes);
                }
                step("by no uplink", sent(50_004, UNLINKED), Reason::NoUplink, Action::Drop, None);
                let written = frame(client(50_003), near, kind);
                let here = sent(50_003, HERE);
                step("to an endpoint of this node", here, Reason::Forwarded, Action::Pass, Some(written));
            }
        }
        // A ring that changed: what is in the middle of a connection goes where it went, what begins goes to
        // the new endpoint, and what is known stays.
        for (port, kind, n) in [
            (51_000, Kind::Ack, 1),
            (51_000, Kind::Ack, 1),
            (51_001, Kind::Syn, 0),
            (51_001, Kind::Ack, 0),
            (51_001, Kind::Ack, 0),
            (51_002, Kind::Rst, 1),
            (51_002, Kind::Syn, 0),
            (51_002, Kind::Rst, 0),
            (51_002, Kind::Ack, 0),
        ] {
            let sent = frame(client(port), vip(MOVED), kind);
            let becomes = Some(wrapped(&sent, by4(n, false, hash(port, TCP)), out));
            step("where the ring changed", sent, Reason::Tunnelled, Action::Redirect, becomes);
        }
        // In fragments, of which the first one has the ports: one way for all of a client's.
        let whole = flow::hash(&address, 0, UDP);
        let ways = [
            (IPIP4, by4(0, false, whole)),
            (IPIP6, by6(false, whole)),
            (GUE4, by4(0, true, whole)),
            (GUE6, by6(true, whole)),
        ];
        for (id, (to, around)) in (70..).zip(ways) {
            let came = pieces(client(55_000), vip(to), id, 100, 48);
            for piece in [came[0].clone(), came[2].clone(), came[1].clone()] {
                let becomes = Some(wrapped(&piece, around, out));
                step("a fragment in a packet", piece, Reason::Tunnelled, Action::Redirect, becomes);
            }
        }
        for piece in pieces(client(55_000), vip(L2), 80, 100, 48) {
            let mut neighbour = piece.clone();
            neighbour[..12].copy_from_slice(&[PEER_MAC, NODE_MAC].concat());
            step("a fragment as it is", piece, Reason::Forwarded, Action::Redirect, Some(neighbour));
        }
        for (piece, n) in pieces(client(55_000), vip(HERE), 81, 100, 48).into_iter().zip(0..) {
            let goes = pieces(client(55_000), near, 81, 100, 48).remove(n);
            step("a fragment that stays", piece, Reason::FragmentForwarded, Action::Pass, Some(goes));
        }
        let lone = pieces(client(55_000), vip(BEYOND), 82, 100, 48).remove(0);
        step("a fragment to no neighbour", lone, Reason::NotAdjacent, Action::Drop, None);
        // It fits the way alone, and not with what is around it.
        let most = if v6 { 1440 } else { 1472 };
        let big = pieces(client(55_000), vip(IPIP4), 83, 2 * most, most).remove(0);
        let answer = told(client(55_000), vip(IPIP4), MTU - 20, &big);
        step("a fragment that is too big", big, Reason::TooBig, Action::Send, Some(answer));
        too_big(v6, &mut step);
        // Whom an error about a reply is for, who sent the reply knows.
        let router = |mac| End { mac, address: pick(&OTHER4, &OTHER6), port: 0 };
        let answers = [(TCP, Kind::SynAck), (UDP, Kind::Datagram)];
        for (protocol, answer) in answers {
            let reply = frame(vip(IPIP4), client(54_000), answer);
            let told = error(router(PEER_MAC), vip(0), Error::TooBig(1280), &reply[14..], false);
            let becomes = Some(wrapped(&told, by4(0, false, hash(54_000, protocol)), out));
            step("an error about a reply", told, Reason::Tunnelled, Action::Redirect, becomes);
        }

        // From the other node.
        let came = (PEER_MAC, NODE_MAC);
        let from4 = |gue| Around { from: &BACKENDS4[0], to: &NODE4, gue, hash: 7, port: Some(50_000) };
        let from6 = |gue| Around { from: &BACKENDS6[0], to: &NODE6, gue, hash: 7, port: Some(50_000) };
        let all = [from4(false), from4(true), from6(false), from6(true)];
        for around in all {
            for kind in [Kind::Syn, Kind::Ack, Kind::Datagram] {
                let inner = |to| frame(client(52_000), vip(to), kind);
                let packed = |to| wrapped(&inner(to), around, came);
                let written = || Some(frame(client(52_000), near, kind));
                for to in [GUE4, HERE, FEW] {
                    step("of a node", packed(to), Reason::Decapsulated, Action::Pass, written());
                }
                step("for nobody here", packed(ELSEWHERE), Reason::NoBackend, Action::Drop, None);
                let reason = if around.gue { Reason::NotVip } else { Reason::OtherProtocol };
                step("to a VIP of another kind", packed(PORT), reason, Action::Pass, None);
                step("to no VIP", packed(7), reason, Action::Pass, None);
                let stranger = if around.to.len() == 4 {
                    Around { from: &OTHER4, ..around }
                } else {
                    Around { from: &OTHER6, ..around }
                };
                let stranger = wrapped(&inner(HERE), stranger, came);
                step("of no node", stranger, Reason::TunnelForeign, Action::Pass, None);
                let elsewhere = if around.to.len() == 4 {
                    Around { to: &OTHER4, ..around }
                } else {
                    Around { to: &OTHER6, ..around }
                };
                step("to another node", wrapped(&inner(HERE), elsewhere, came), reason, Action::Pass, None);
                let other = End { address: pick(&OTHER4, &OTHER6), ..client(52_001) };
                let unlisted = wrapped(&frame(other, vip(FEW), kind), around, came);
                step("of a client that is not listed", unlisted, Reason::SourceOutside, Action::Drop, None);
                // Neither version of IP.
                let mut odd = packed(HERE);
                let inner_at = odd.len() - (inner(HERE).len() - 14);
                odd[inner_at] ^= 0x10;
                step("of an unknown variant", odd, reason, Action::Pass, None);
            }
            let reason = if around.gue { Reason::NotVip } else { Reason::OtherProtocol };
            for (to, id) in [(HERE, 90), (FEW, 91), (GUE4, 92)] {
                // The same as of another way: it is the same datagram.
                let pieces = |to: End<'_>| pieces(client(57_000), to, id, 100, 48);
                for (piece, goes) in pieces(vip(to)).into_iter().zip(pieces(near)) {
                    let came_in = wrapped(&piece, around, came);
                    step(
                        "a fragment of a node",
                        came_in,
                        Reason::FragmentForwarded,
                        Action::Pass,
                        Some(goes),
                    );
                }
            }
            let other = End { address: pick(&OTHER4, &OTHER6), ..client(57_001) };
            let unlisted = wrapped(&pieces(other, vip(FEW), 93, 100, 48)[0], around, came);
            step("a fragment of one not listed", unlisted, Reason::SourceOutside, Action::Drop, None);
            let unknown = wrapped(&pieces(other, vip(HERE), 94, 100, 48)[1], around, came);
            step("a fragment of nothing known", unknown, reason, Action::Pass, None);
            let nowhere = wrapped(&pieces(client(57_000), vip(ELSEWHERE), 95, 100, 48)[0], around, came);
            step("a fragment for nobody here", nowhere, Reason::NoBackend, Action::Drop, None);
            let plain = wrapped(&pieces(client(57_000), vip(PORT), 96, 100, 48)[0], around, came);
            step("a fragment to a VIP of another kind", plain, reason, Action::Pass, None);
            for (_, answer) in answers {
                let quote = |from, port| frame(from, client(port), answer)[14..].to_vec();
                let about = |port| {
                    error(router(PEER_MAC), vip(0), Error::TimeExceeded, &quote(vip(HERE), port), false)
                };
                let goes = error(router(PEER_MAC), near, Error::TimeExceeded, &quote(near, 52_000), false);
                let came_in = wrapped(&about(52_000), around, came);
                step("an error of a node", came_in, Reason::IcmpForwarded, Action::Pass, Some(goes));
                let nobodys = wrapped(&about(52_002), around, came);
                step("about nothing known", nobodys, Reason::Icmp, Action::Pass, Some(about(52_002)));
            }
        }
    }
    steps
}

/// A packet that fits the way, but not with the headers around it.
fn too_big(v6: bool, step: &mut impl FnMut(&'static str, Vec<u8>, Reason, Action, Option<Vec<u8>>)) {
    let (client, vip): (&[u8], &[u8]) = if v6 { (&CLIENT6, &VIP6) } else { (&CLIENT4, &VIP4) };
    let header = if v6 { 48 } else { 28 };
    for (port, over) in [(IPIP4, 20), (IPIP6, 40), (GUE4, 28), (GUE6, 48)] {
        let mtu = MTU as usize - over;
        let from = End { mac: PEER_MAC, address: client, port: 53_000 };
        let to = End { mac: NODE_MAC, address: vip, port };
        let mut big = Vec::new();
        let udp = addressed(from, to).udp(from.port, to.port);
        udp.write(&mut big, &vec![7; mtu + 1 - header]).expect("a Vec takes everything");
        let told = told(from, to, mtu as u32, &big);
        step("too big with what is around it", big, Reason::TooBig, Action::Send, Some(told));
    }
}
