//! VIPs whose packets go to endpoints as they are ("direct server return"): the endpoint, or the node that
//! it is on, answers the client by itself, and its replies don't come by here.
//!
//! ```text
//! client ─► VIP ─► ring ─► adjacent host      the MACs alone are written
//!                       ─► anybody else       IP [UDP 6080] around the packet ─► node (see crate::tunnel)
//!                       ─► pod of this node   as crate::forward does it: its replies pass here anyway
//! ```
//!
//! A packet that is sent needs no memory of its flow while its ring entry stays what it is:
//! [`crate::ring`].
//!
//! Packets in packets: IPv4 or IPv6 in either (RFC 2003, 2473, 4213), or the same behind a UDP header
//! (GUE, draft-ietf-intarea-gue, variant 1: the inner packet's version is the variant's number). UDP's source
//! port and IPv6's flow label are made of the flow's hash, so that what is between the nodes spreads flows
//! as it would the inner ones (RFC 6438). UDP's checksum is 0, over IPv6 too: the inner packet has one of its
//! own (RFC 6935, 6936). Its DSCP is the inner one's; congestion marks (ECN) of the way between are lost, as
//! RFC 6040 has it for ends of which the other one may not know them.

use crate::ends::{bytes, ends};
use crate::flow;
use crate::forward::{self, Forward, drop};
use crate::maps::{DIRECT_GUE, DIRECT_L2, VipValue, WayValue};
use crate::nat::fold;
use crate::packet::{IPV4, IPV6, Packet, UDP};
use crate::reason::Reason;
use crate::too_big;
use crate::verdict::{Verdict, is_v4};

/// The UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;
/// IPv4 in IP.
pub const IN_IPV4: u8 = 4;
/// IPv6 in IP.
pub const IN_IPV6: u8 = 41;

/// Length of the header of IPv4.
pub(crate) const V4: usize = 20;
/// Of IPv6.
pub(crate) const V6: usize = 40;
/// Of UDP.
pub(crate) const UDP_HEADER: usize = 8;

const HOPS: u8 = 64;
/// The least of the ports that are nobody's (RFC 6335); hashes choose one from there on.
const FIRST_SOURCE_PORT: u16 = 0xc000;

/// The packet that goes inside.
#[derive(Clone, Copy)]
struct Inner {
    v6: bool,
    length: u32,
    /// Traffic class, without ECN.
    class: u8,
}

/// Sends a packet of a usual shape as it is, if its ring entry is all that there is to know. `None`: its flow may
/// have to be looked for, or is none that is sent as it is.
#[inline(always)]
pub fn send<E: Forward>(env: &E, packet: &Packet, vip: &VipValue) -> Option<Verdict> {
    let ends = ends(env, packet.v6)?;
    let hash = flow::hash(&ends.source, ends.source_port, packet.protocol);
    let slot = forward::stateless(env, hash, vip, &ends)?;
    Some(sent(env, packet, slot, hash))
}

/// Sends such a packet to whom [`crate::forward::to_endpoint`] has chosen: [`Verdict::packed`].
///
/// Out of line, and not called from there: the stacks of nested calls add up.
#[inline(never)]
pub fn send_chosen<E: Forward>(env: &E, packet: Packet) -> u32 {
    match env.pending().map(|new| (new.backend, new.hash)) {
        Some((slot, hash)) => sent(env, &packet, slot, hash).packed(),
        None => drop(Reason::NoFlow).packed(),
    }
}

/// [`send`] for IPv6: [`Verdict::packed`], or 0. Out of line, as the stack has no room for its addresses.
#[inline(never)]
pub(crate) fn send_v6<E: Forward>(env: &E, packet: Packet, vip: VipValue) -> u32 {
    let packet = Packet { ip: 14, transport: 54, v6: true, ..packet };
    send(env, &packet, &vip).map_or(0, Verdict::packed)
}

#[inline(always)]
fn sent<E: Forward>(env: &E, packet: &Packet, slot: u32, hash: u64) -> Verdict {
    let Some(backend) = env.backend(slot) else { return drop(Reason::NoBackend) };
    let way = match env.way_to_backend(slot, &backend) {
        Ok(way) => way,
        Err(reason) => return drop(reason),
    };
    if way.interface == 0 {
        // The kernel can't deliver it: it takes no packet from outside that is from an address of its own.
        return drop(Reason::NoUplink);
    }
    let length = packet.end as u32 - packet.ip as u32;
    let kind = backend.protocol;
    let over_v4 = is_v4(&backend.address);
    let overhead = match (kind, over_v4) {
        (DIRECT_L2, _) => 0,
        (DIRECT_GUE, true) => V4 + UDP_HEADER,
        (DIRECT_GUE, false) => V6 + UDP_HEADER,
        (_, true) => V4,
        (_, false) => V6,
    } as u32;
    if length + overhead > way.mtu {
        return too_big::found(env, way.mtu.saturating_sub(overhead));
    }
    if kind == DIRECT_L2 {
        // Whoever is between would send it to the VIP: here.
        if way.gateway != 0 {
            return drop(Reason::NotAdjacent);
        }
        return Verdict { reason: Reason::Forwarded, action: env.leave(&way) };
    }
    let Some(head) = env.near::<2>(14) else { return drop(Reason::Truncated) };
    let class = if packet.v6 { u16::from_be_bytes(head) >> 4 } else { head[1] as u16 } as u8 & 0xfc;
    let inner = Inner { v6: packet.v6, length, class };
    let target = &backend.address;
    let done = match (over_v4, kind == DIRECT_GUE) {
        (true, false) => in_v4::<E, V4>(env, inner, &way, target, hash),
        (true, true) => in_v4::<E, { V4 + UDP_HEADER }>(env, inner, &way, target, hash),
        (false, false) => in_v6::<E, V6>(env, inner, &way, target, hash),
        (false, true) => in_v6::<E, { V6 + UDP_HEADER }>(env, inner, &way, target, hash),
    };
    if !done {
        return drop(Reason::Truncated);
    }
    Verdict { reason: Reason::Tunnelled, action: env.leave(&way) }
}

#[inline(always)]
fn in_v4<E: Forward, const OVER: usize>(
    env: &E,
    inner: Inner,
    way: &WayValue,
    target: &[u32; 4],
    hash: u64,
) -> bool {
    let gue = OVER > V4;
    let length = inner.length as u16 + OVER as u16;
    let protocol = if gue { UDP } else { within(inner) };
    let (source, target) = (way.source[3].to_ne_bytes(), target[3].to_ne_bytes());
    let half = |high, low| u16::from_be_bytes([high, low]) as u64;
    // Don't fragment: it fits, and who identifies it by nothing must not be cut (RFC 6864).
    let sum = 0x4500
        + inner.class as u64
        + length as u64
        + 0x4000
        + half(HOPS, protocol)
        + half(source[0], source[1])
        + half(source[2], source[3])
        + half(target[0], target[1])
        + half(target[2], target[3]);
    let [l0, l1] = length.to_be_bytes();
    let [c0, c1] = (!fold(sum)).to_be_bytes();
    env.widen::<OVER>()
        && env.set(12, IPV4.to_be_bytes())
        && env.set(14, [0x45, inner.class, l0, l1, 0, 0, 0x40, 0, HOPS, protocol, c0, c1])
        && env.set(26, source)
        && env.set(30, target)
        && (!gue || env.set(14 + V4, udp(inner, hash)))
}

#[inline(always)]
fn in_v6<E: Forward, const OVER: usize>(
    env: &E,
    inner: Inner,
    way: &WayValue,
    target: &[u32; 4],
    hash: u64,
) -> bool {
    let gue = OVER > V6;
    let [l0, l1] = (inner.length as u16 + (OVER - V6) as u16).to_be_bytes();
    let protocol = if gue { UDP } else { within(inner) };
    let label = (hash >> 20) as u32 & 0xf_ffff;
    let [a, b, c, d] = (6 << 28 | (inner.class as u32) << 20 | label).to_be_bytes();
    env.widen::<OVER>()
        && env.set(12, IPV6.to_be_bytes())
        && env.set(14, [a, b, c, d, l0, l1, protocol, HOPS])
        && env.set(22, bytes(way.source))
        && env.set(38, bytes(*target))
        && (!gue || env.set(14 + V6, udp(inner, hash)))
}

#[inline(always)]
const fn within(inner: Inner) -> u8 {
    if inner.v6 { IN_IPV6 } else { IN_IPV4 }
}

/// The UDP header of GUE.
#[inline(always)]
const fn udp(inner: Inner, hash: u64) -> [u8; UDP_HEADER] {
    let [s0, s1] = (FIRST_SOURCE_PORT | (hash >> 40) as u16).to_be_bytes();
    let [t0, t1] = GUE_PORT.to_be_bytes();
    let [l0, l1] = (inner.length as u16 + UDP_HEADER as u16).to_be_bytes();
    [s0, s1, t0, t1, l0, l1, 0, 0]
}
