//! Packets in packets that another node sent here, see [`crate::direct`]: they are taken out and go to an
//! endpoint of this node.
//!
//! Taken out is only what a node of the cluster sent to one of this node's addresses and what is for a VIP
//! whose packets are sent that way. Everything else in packets is passed as it came: other people use the
//! same protocols. What was taken out is never put in again, so two nodes that differ over a ring can't
//! throw a packet to and fro.
//!
//! ```text
//! node A ─► [IP A ► B [ client ► VIP ]] ─► node B: client ► VIP ─► a pod there ─► reply, straight to the client
//! ```

use crate::direct::{GUE_PORT, IN_IPV4, IN_IPV6, UDP_HEADER, V4, V6};
use crate::established;
use crate::forward::{self, Forward};
use crate::maps::{MAX_VIPS, NODE_PEER, NODE_SELF, VIP_DIRECT, VIP_RANGES, VipKey, VipValue};
use crate::packet::{self, ACK, FRAGMENT, ICMP, ICMPV6, IPV4, IPV6, Packet, SYN, TCP, UDP};
use crate::rare::Work;
use crate::reason::Reason;
use crate::verdict::{Verdict, is_v4, mapped, pass, words};
use crate::{fragment, icmp, ranges};

/// Judges a frame that may have a packet in its packet, and counts it. Whoever carries out
/// [`crate::verdict::Action::Unwrap`] goes on here.
#[inline(always)]
pub fn judge<E: Forward>(env: &E) -> Verdict {
    let verdict = taken_out(env).unwrap_or_else(|| pass(plain(env)));
    env.count(verdict.reason);
    verdict
}

/// What frames count as that hold nothing of ours.
#[inline(always)]
fn plain<E: Forward>(env: &E) -> Reason {
    if packet::shape(env).is_some() { Reason::NotVip } else { Reason::OtherProtocol }
}

/// `None`: it holds no packet to a VIP.
#[inline(always)]
fn taken_out<E: Forward>(env: &E) -> Option<Verdict> {
    let v6 = match open(env) {
        NOTHING => return None,
        // Whoever is no node could speak to pods in any client's name.
        FOREIGN => return Some(pass(Reason::TunnelForeign)),
        BROKEN => return Some(forward::drop(Reason::Truncated)),
        family => family == OPEN_V6,
    };
    Some(match packet::shape(env) {
        Some(packet) => {
            let packet = packet.hidden(env);
            let vip = env.work().map(|work| work.vip);
            vip.map_or(forward::drop(Reason::Truncated), |vip| arrived(env, &packet, vip))
        }
        None => rare(env, v6).unwrap_or(pass(Reason::Icmp)),
    })
}

/// [`open`]'s words: it holds nothing of ours.
const NOTHING: u32 = 0;
/// Somebody sent it who is no node.
const FOREIGN: u32 = 1;
/// It could not be taken out.
const BROKEN: u32 = 2;
/// The frame holds an IPv4 packet by now, to the VIP in [`Work::vip`].
const OPEN_V4: u32 = 3;
/// An IPv6 one.
const OPEN_V6: u32 = 4;

/// Takes a packet out. Out of line, and with no more to say than this: the verifier follows what comes behind it but
/// once, and the stacks of nested calls add up.
#[inline(never)]
fn open<E: Forward>(env: &E) -> u32 {
    opened(env).unwrap_or(NOTHING)
}

#[inline(always)]
fn opened<E: Forward>(env: &E) -> Option<u32> {
    let (source, target, protocol) = match u16::from_be_bytes(env.near(12)?) {
        IPV4 => {
            let head = env.near::<10>(14)?;
            let whole = u16::from_be_bytes([head[6], head[7]]) & 0x3fff == 0;
            if head[0] != 0x45 || !whole {
                return None;
            }
            (mapped(env.near(26)?), mapped(env.near(30)?), head[9])
        }
        IPV6 => {
            let [next, _] = env.near::<2>(20)?;
            (words(env.near(22)?), words(env.near(38)?), next)
        }
        _ => return None,
    };
    if env.node(&target)? != NODE_SELF {
        return None;
    }
    let over_v4 = is_v4(&target);
    let vip = match (over_v4, protocol) {
        (true, IN_IPV4 | IN_IPV6) => inside::<E, V4>(env, protocol == IN_IPV6),
        (false, IN_IPV4 | IN_IPV6) => inside::<E, V6>(env, protocol == IN_IPV6),
        (true, UDP) => behind_udp::<E, V4>(env),
        (false, UDP) => behind_udp::<E, V6>(env),
        _ => None,
    }?;
    if env.node(&source) != Some(NODE_PEER) {
        return Some(FOREIGN);
    }
    env.work()?.vip = vip.value;
    let v6 = vip.v6;
    let narrowed = match (over_v4, protocol) {
        (true, UDP) => narrow::<E, { V4 + UDP_HEADER }>(env, v6),
        (true, _) => narrow::<E, V4>(env, v6),
        (false, UDP) => narrow::<E, { V6 + UDP_HEADER }>(env, v6),
        (false, _) => narrow::<E, V6>(env, v6),
    };
    Some(match (narrowed, v6) {
        (false, _) => BROKEN,
        (true, false) => OPEN_V4,
        (true, true) => OPEN_V6,
    })
}

/// An ICMP error about a reply of an endpoint's, or a fragment. `None`: its connection is not known, or it is
/// neither.
#[inline(always)]
fn rare<E: Forward>(env: &E, v6: bool) -> Option<Verdict> {
    let mut work = env.work()?;
    let verdict =
        if v6 { of_version::<E, true>(env, &mut work) } else { of_version::<E, false>(env, &mut work) };
    verdict.map(told)
}

#[inline(always)]
fn of_version<E: Forward, const V6: bool>(env: &E, work: &mut Work) -> Option<Verdict> {
    match fragment::judge::<E, V6, true>(env, work) {
        Some(verdict) => Some(verdict),
        None => icmp::judge::<E, V6, true>(env, work),
    }
}

/// To a VIP.
struct Inside {
    value: VipValue,
    v6: bool,
}

/// The VIP that the packet inside is to. `None`: it is to none that is sent to in packets.
#[inline(always)]
fn inside<E: Forward, const OVER: usize>(env: &E, v6: bool) -> Option<Inside> {
    let Some(key) = (if v6 { key_v6::<E, OVER>(env) } else { key_v4::<E, OVER>(env) }) else {
        // It names no port, as its datagram's first fragment did.
        let known = fragment::is_known_within(env, 14 + OVER as u32, v6);
        return known.then_some(Inside { value: VipValue::default(), v6 });
    };
    let value = env.vip(&key)?;
    if value.flags & VIP_DIRECT == 0 { None } else { Some(Inside { value, v6 }) }
}

/// The same behind GUE's UDP header, whose variant is the inner version.
#[inline(always)]
fn behind_udp<E: Forward, const IP: usize>(env: &E) -> Option<Inside> {
    // A constant in a constant's place: the sum of a parameter is none.
    match IP {
        V4 => behind::<E, V4, { V4 + UDP_HEADER }>(env),
        _ => behind::<E, V6, { V6 + UDP_HEADER }>(env),
    }
}

#[inline(always)]
fn behind<E: Forward, const IP: usize, const OVER: usize>(env: &E) -> Option<Inside> {
    if u16::from_be_bytes(env.near(14 + IP + 2)?) != GUE_PORT {
        return None;
    }
    let [first, _] = env.near::<2>(14 + OVER)?;
    match first >> 4 {
        4 => inside::<E, OVER>(env, false),
        6 => inside::<E, OVER>(env, true),
        _ => None,
    }
}

/// The VIP of a packet, or of the reply that an ICMP error quotes.
#[inline(always)]
fn key_v4<E: Forward, const OVER: usize>(env: &E) -> Option<VipKey> {
    const QUOTED: usize = 20 + 8;
    let [version, _, _, _, _, _, f0, f1, _, protocol] = env.near::<10>(14 + OVER)?;
    let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff;
    // The first fragment of a datagram has its ports.
    if version != 0x45 || fragment & 0x1fff != 0 || (fragment != 0 && protocol != UDP) {
        return None;
    }
    if protocol == ICMP {
        let [inner, _, _, _, _, _, _, _, _, protocol] = env.near::<10>(14 + OVER + QUOTED)?;
        let port = u16::from_ne_bytes(env.near(14 + OVER + QUOTED + 20)?);
        let address = mapped(env.near(14 + OVER + QUOTED + 12)?);
        return if inner == 0x45 { Some(VipKey { address, port, protocol, zero: 0 }) } else { None };
    }
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let port = u16::from_ne_bytes(env.near(14 + OVER + 22)?);
    Some(VipKey { address: mapped(env.near(14 + OVER + 16)?), port, protocol, zero: 0 })
}

#[inline(always)]
fn key_v6<E: Forward, const OVER: usize>(env: &E) -> Option<VipKey> {
    const QUOTED: usize = 40 + 8;
    let [version, _, _, _, _, _, protocol, _] = env.near::<8>(14 + OVER)?;
    if version >> 4 != 6 {
        return None;
    }
    if protocol == ICMPV6 {
        let [inner, _, _, _, _, _, protocol, _] = env.near::<8>(14 + OVER + QUOTED)?;
        let port = u16::from_ne_bytes(env.near(14 + OVER + QUOTED + 40)?);
        let address = words(env.near(14 + OVER + QUOTED + 8)?);
        return if inner >> 4 == 6 { Some(VipKey { address, port, protocol, zero: 0 }) } else { None };
    }
    if protocol == FRAGMENT {
        let [next, _, o0, o1] = env.near::<4>(14 + OVER + 40)?;
        if next != UDP || u16::from_be_bytes([o0, o1]) & 0xfff8 != 0 {
            return None;
        }
        let port = u16::from_ne_bytes(env.near(14 + OVER + 50)?);
        return Some(VipKey { address: words(env.near(14 + OVER + 24)?), port, protocol: UDP, zero: 0 });
    }
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let port = u16::from_ne_bytes(env.near(14 + OVER + 42)?);
    Some(VipKey { address: words(env.near(14 + OVER + 24)?), port, protocol, zero: 0 })
}

/// Takes the headers around the packet away, and puts an Ethernet header in front of it.
#[inline(always)]
fn narrow<E: Forward, const OVER: usize>(env: &E, v6: bool) -> bool {
    let Some(macs) = env.near::<12>(0) else { return false };
    let kind = if v6 { IPV6 } else { IPV4 };
    env.narrow::<OVER>() && env.set(0, macs) && env.set(12, kind.to_be_bytes())
}

/// The packet, as if it had come like this, to endpoints of this node only.
#[inline(always)]
fn arrived<E: Forward>(env: &E, packet: &Packet, vip: VipValue) -> Verdict {
    let Some(flags) = packet::flags(env, packet) else { return forward::drop(Reason::Truncated) };
    env.count_vip(vip.slot, packet.end as u32, packet.protocol == TCP && flags & (SYN | ACK) == SYN);
    if ranges::asked(vip.flags) && !ranges::admit(env, packet, vip.slot) {
        return forward::drop(Reason::SourceOutside);
    }
    let here = here(vip);
    // Never as it is, to a VIP without the flag.
    let verdict = established::send(env, *packet, flags, &here)
        .or_else(|| forward::to_endpoint(env, packet, flags, &here));
    let verdict = verdict.unwrap_or(forward::drop(Reason::NoBackend));
    told(verdict)
}

/// A VIP with the endpoints of this node only, whose ring lies behind those of all.
#[inline(always)]
pub(crate) const fn here(vip: VipValue) -> VipValue {
    VipValue { slot: vip.slot + MAX_VIPS, flags: vip.flags & !(VIP_DIRECT | VIP_RANGES) }
}

/// As what a verdict counts here.
#[inline(always)]
fn told(verdict: Verdict) -> Verdict {
    match verdict.reason {
        Reason::Forwarded => Verdict { reason: Reason::Decapsulated, ..verdict },
        // The kernel delivers to endpoints of this node, and answers by itself.
        Reason::TooBig => forward::drop(Reason::TooBigUnanswered),
        _ => verdict,
    }
}
