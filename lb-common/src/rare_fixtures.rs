//! ICMP errors, fragments and packets that are too big, in order: one table for host functions and
//! loaded program. All frames are an independent library's, checksums included.

extern crate std;

use std::vec;
use std::vec::Vec;

use etherparse::{
    EtherType, Icmpv4Type, Icmpv6Type, IpDscp, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader,
    Ipv6Header, PacketBuilder, icmpv4, icmpv6,
};

use crate::flow;
use crate::forward_fixtures::{
    BACKENDS4, BACKENDS6, CLIENT4, CLIENT6, End, Kind, LISTED, MTU, NEAR, NODE_MAC, NODE4, NODE6, OTHER4,
    OTHER6, PEER_MAC, PORT, Step, TARGET_PORT, VIP4, VIP6, addressed, frame,
};
use crate::fragment::salt;
use crate::maglev::{self, Member};
use crate::packet::{TCP, UDP};
use crate::reason::Reason;
use crate::too_big::QUOTED;
use crate::verdict::{Action, Verdict, mapped, words};

/// The error's kind.
#[derive(Clone, Copy)]
pub(crate) enum Error {
    TooBig(u32),
    TimeExceeded,
    Unreachable,
    Echo,
}

/// One family's ends.
#[derive(Clone, Copy)]
struct Place {
    v6: bool,
}

impl Place {
    fn pick(self, four: &'static [u8], six: &'static [u8]) -> &'static [u8] {
        if self.v6 { six } else { four }
    }

    fn client(self, port: u16) -> End<'static> {
        End { mac: PEER_MAC, address: self.pick(&CLIENT4, &CLIENT6), port }
    }

    /// Somebody on the way to the client.
    fn router(self) -> End<'static> {
        End { mac: PEER_MAC, address: self.pick(&OTHER4, &OTHER6), port: 0 }
    }

    fn vip(self, port: u16) -> End<'static> {
        End { mac: NODE_MAC, address: self.pick(&VIP4, &VIP6), port }
    }

    fn node(self, port: u16) -> End<'static> {
        End { mac: NODE_MAC, address: self.pick(&NODE4, &NODE6), port }
    }

    fn backend(self, n: usize) -> End<'static> {
        End { mac: PEER_MAC, address: self.pick(&BACKENDS4[n], &BACKENDS6[n]), port: TARGET_PORT }
    }

    /// The endpoint of the client's flow from this port, and the flow's port there.
    fn chosen(self, port: u16, protocol: u8) -> (usize, u16) {
        let hash = flow::hash(&address(self.client(0)), port.to_be(), protocol);
        let members = [0, 1].map(|n| Member { identity: n, weight: 1, value: n as u32 });
        let mut ring = vec![0; maglev::size(2) as usize];
        maglev::fill(&mut ring, &members, &mut [0; 2]);
        let at = ((hash >> 32) * ring.len() as u64) >> 32;
        (ring[at as usize] as usize, flow::port(hash, 0))
    }
}

fn address(end: End<'_>) -> [u32; 4] {
    match <[u8; 4]>::try_from(end.address) {
        Ok(four) => mapped(four),
        Err(_) => words(end.address.try_into().expect("sixteen")),
    }
}

/// An error from one to another, about a packet.
pub(crate) fn error(from: End<'_>, to: End<'_>, kind: Error, quoted: &[u8], control: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(from.mac, to.mac);
    let mut out = Vec::new();
    let written = match (<[u8; 4]>::try_from(from.address), <[u8; 4]>::try_from(to.address)) {
        (Ok(from), Ok(to)) => {
            let mut header = Ipv4Header::new(0, 64, IpNumber::ICMP, from, to).expect("short");
            if control {
                header.dscp = IpDscp::try_new(48).expect("six bits");
            }
            let kind = match kind {
                Error::TooBig(mtu) => {
                    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                        next_hop_mtu: mtu as u16,
                    })
                }
                Error::TimeExceeded => {
                    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
                }
                Error::Unreachable => Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port),
                Error::Echo => Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 2 }),
            };
            ethernet
                .ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
                .icmpv4(kind)
                .write(&mut out, quoted)
        }
        _ => {
            let sixteen = |a: &[u8]| a.try_into().expect("sixteen");
            let kind = match kind {
                Error::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu },
                Error::TimeExceeded => Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
                Error::Unreachable => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
                Error::Echo => Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 2 }),
            };
            ethernet.ipv6(sixteen(from.address), sixteen(to.address), 64).icmpv6(kind).write(&mut out, quoted)
        }
    };
    written.expect("a Vec takes everything");
    out
}

/// What the sender of a frame is told that was too big.
pub(crate) fn told(from: End<'_>, to: End<'_>, mtu: u32, big: &[u8]) -> Vec<u8> {
    error(to, from, Error::TooBig(mtu), &big[14..14 + QUOTED], true)
}

/// A datagram with so many bytes in it.
fn datagram(from: End<'_>, to: End<'_>, length: usize) -> Vec<u8> {
    let body: Vec<_> = (0..length).map(|n| n as u8).collect();
    let mut out = Vec::new();
    addressed(from, to).udp(from.port, to.port).write(&mut out, &body).expect("a Vec takes everything");
    out
}

/// A datagram of so many bytes in fragments of up to so many bytes each.
pub(crate) fn pieces(from: End<'_>, to: End<'_>, id: u32, length: usize, size: usize) -> Vec<Vec<u8>> {
    let whole = datagram(from, to, length);
    let v6 = from.address.len() == 16;
    let body = &whole[if v6 { 54 } else { 34 }..];
    let kind = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let mut out = Vec::new();
    for (n, part) in body.chunks(size).enumerate() {
        let at = n * size;
        let more = at + part.len() < body.len();
        let offset = IpFragOffset::try_new((at / 8) as u16).expect("thirteen bits");
        let mut piece = [&to.mac[..], &from.mac, &kind.0.to_be_bytes()].concat();
        if v6 {
            let header = Ipv6Header {
                payload_length: part.len() as u16 + 8,
                next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
                hop_limit: 64,
                source: from.address.try_into().expect("sixteen"),
                destination: to.address.try_into().expect("sixteen"),
                ..Ipv6Header::default()
            };
            piece.extend(header.to_bytes());
            piece.extend(Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, id).to_bytes());
        } else {
            let (source, target) =
                (from.address.try_into().expect("four"), to.address.try_into().expect("four"));
            let mut header =
                Ipv4Header::new(part.len() as u16, 64, IpNumber::UDP, source, target).expect("short");
            (header.identification, header.dont_fragment) = (id as u16, false);
            (header.more_fragments, header.fragment_offset) = (more, offset);
            header.header_checksum = header.calc_header_checksum();
            piece.extend(header.to_bytes());
        }
        piece.extend(part);
        out.push(piece);
    }
    out
}

/// The identification that a fragment has behind the node.
fn moved(v6: bool, from: End<'_>, id: u32) -> u32 {
    let id = id.wrapping_add(salt(&address(from)));
    if v6 { id } else { u32::from(id as u16) }
}

/// The table. Each step's outcome depends on those before.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for place in [false, true].map(|v6| Place { v6 }) {
        errors(place, &mut steps);
        too_big(place, &mut steps);
        fragments(place, &mut steps);
    }
    steps
}

const OUT: Action = Action::Redirect;

fn step(
    steps: &mut Vec<Step>,
    description: &'static str,
    frame: Vec<u8>,
    reason: Reason,
    action: Action,
    becomes: Option<Vec<u8>>,
) {
    steps.push(Step { description, frame, verdict: Verdict { reason, action }, becomes });
}

fn errors(place: Place, steps: &mut Vec<Step>) {
    let pass = Action::Pass;
    let header = if place.v6 { 40 } else { 20 };
    for (protocol, first, later) in [(TCP, Kind::Syn, Kind::Ack), (UDP, Kind::Datagram, Kind::Datagram)] {
        let (client, vip, near) = (place.client(45_000), place.vip(PORT), place.vip(NEAR));
        let (n, port) = place.chosen(45_000, protocol);
        let (node, backend) = (place.node(port), place.backend(n));
        step(
            steps,
            "a connection's first",
            frame(client, vip, first),
            Reason::Forwarded,
            OUT,
            Some(frame(node, backend, first)),
        );
        let kept = End { mac: NODE_MAC, ..place.backend(2) };
        let to_near = frame(client, near, first);
        step(
            steps,
            "the same by the kernel",
            to_near,
            Reason::Forwarded,
            pass,
            Some(frame(client, kept, first)),
        );
        for kind in [Error::TooBig(MTU), Error::TimeExceeded, Error::Unreachable] {
            // As much as is quoted at least, and all.
            for length in [header + 8, header + 16, usize::MAX] {
                let quote = |from, to| {
                    let whole = frame(from, to, later);
                    let end = whole.len().min(length.saturating_add(14));
                    whole[14..end].to_vec()
                };
                let came = error(place.router(), vip, kind, &quote(vip, client), false);
                let goes = error(node, backend, kind, &quote(backend, node), false);
                step(steps, "about a reply", came, Reason::IcmpForwarded, OUT, Some(goes));
                let came = error(place.router(), near, kind, &quote(near, client), false);
                let goes = error(place.router(), kept, kind, &quote(kept, client), false);
                step(steps, "about a reply of the kernel's", came, Reason::IcmpForwarded, pass, Some(goes));
                for from in [place.router(), backend] {
                    let came = error(from, node, kind, &quote(node, backend), false);
                    let goes = error(vip, client, kind, &quote(client, vip), false);
                    step(steps, "about a client's packet", came, Reason::IcmpReturned, OUT, Some(goes));
                }
            }
            let quote = |from, to| frame(from, to, later)[14..].to_vec();
            let unknown = quote(vip, place.client(45_001));
            let stray = error(place.router(), vip, kind, &unknown, false);
            step(steps, "about nobody's reply", stray, Reason::Icmp, pass, None);
            let stray = error(place.router(), node, kind, &quote(place.node(port + 1), backend), false);
            step(steps, "about nobody's packet", stray, Reason::Icmp, pass, None);
            let strange = error(place.router(), node, kind, &quote(vip, client), false);
            step(steps, "to somebody else", strange, Reason::Icmp, pass, None);
            let short = error(place.router(), vip, kind, &quote(vip, client)[..header + 7], false);
            step(steps, "that quotes too little", short, Reason::Icmp, pass, None);
        }
        let echo = error(client, vip, Error::Echo, &frame(vip, client, later)[14..], false);
        step(steps, "an echo request", echo, Reason::Icmp, pass, None);
    }
}

fn too_big(place: Place, steps: &mut Vec<Step>) {
    let headers = if place.v6 { 48 } else { 28 };
    let most = MTU as usize - headers;
    let (client, vip) = (place.client(46_000), place.vip(PORT));
    let (n, port) = place.chosen(46_000, UDP);
    let (node, backend) = (place.node(port), place.backend(n));
    for (from, to, new_from, new_to, reason) in
        [(client, vip, node, backend, Reason::Forwarded), (backend, node, vip, client, Reason::Returned)]
    {
        let fits = datagram(from, to, most);
        step(steps, "one that just fits", fits, reason, OUT, Some(datagram(new_from, new_to, most)));
        let big = datagram(from, to, most + 1);
        let told = error(to, from, Error::TooBig(MTU), &big[14..14 + QUOTED], true);
        step(steps, "one that is too big", big, Reason::TooBig, Action::Send, Some(told));
    }
    // The kernel cuts or answers what it delivers itself.
    let (near, kept) = (place.vip(NEAR), End { mac: NODE_MAC, ..place.backend(2) });
    let goes = datagram(client, kept, most + 1);
    let big = datagram(client, near, most + 1);
    step(steps, "too big for the kernel's way", big, Reason::Forwarded, Action::Pass, Some(goes));
}

fn fragments(place: Place, steps: &mut Vec<Step>) {
    const ID: u32 = 0xfffe;
    let pass = Action::Pass;
    let (client, vip) = (place.client(47_000), place.vip(PORT));
    let (n, port) = place.chosen(47_000, UDP);
    let (node, backend) = (place.node(port), place.backend(n));
    let three = |from, to, id| pieces(from, to, id, 100, 48);
    let overtakes = three(client, vip, ID).remove(1);
    step(steps, "one before any first", overtakes, Reason::Fragment, pass, None);
    let ways = [
        (client, vip, node, backend, Reason::FragmentForwarded),
        (backend, node, vip, client, Reason::FragmentReturned),
    ];
    for (from, to, new_from, new_to, reason) in ways {
        for (order, id) in [([0, 1, 2], ID), ([2, 0, 1], ID + 1), ([1, 2, 0], ID + 2), ([2, 1, 0], ID + 3)] {
            let id = if place.v6 { id << 16 } else { u32::from(id as u16) };
            let came = three(from, to, id);
            let goes = three(new_from, new_to, moved(place.v6, from, id));
            for at in order {
                step(steps, "a fragment", came[at].clone(), reason, OUT, Some(goes[at].clone()));
            }
        }
    }
    let (near, kept) = (place.vip(NEAR), End { mac: NODE_MAC, ..place.backend(2) });
    for (came, goes) in three(client, near, 7).into_iter().zip(three(client, kept, 7)) {
        step(steps, "by the kernel", came, Reason::FragmentForwarded, pass, Some(goes));
    }
    let unlisted = End { address: place.router().address, ..client };
    let came = three(unlisted, place.vip(LISTED), 8).remove(0);
    step(steps, "of somebody who is not listed", came, Reason::SourceOutside, Action::Drop, None);
    let nobody = three(client, place.vip(1), 9).remove(0);
    step(steps, "to no VIP", nobody, Reason::Fragment, pass, None);
    let most = MTU as usize / 8 * 8;
    let big = pieces(client, vip, 10, 2 * most, most).remove(0);
    let told = error(vip, client, Error::TooBig(MTU), &big[14..14 + QUOTED], true);
    step(steps, "a fragment that is too big", big, Reason::TooBig, Action::Send, Some(told));
    // The client's other flow goes elsewhere, perhaps; each datagram's fragments stay together.
    for source in 47_010..47_014 {
        let (n, port) = place.chosen(source, UDP);
        let id = u32::from(source);
        let came = three(place.client(source), vip, id);
        let goes = three(place.node(port), place.backend(n), moved(place.v6, client, id));
        for (came, goes) in came.into_iter().zip(goes) {
            step(steps, "of another flow", came, Reason::FragmentForwarded, OUT, Some(goes));
        }
    }
}
