//! What most packets of VIPs in forward mode are: in the middle of a TCP connection, or of a flow of UDP, whose
//! [`Mark`](crate::mark::Mark) says all that it takes to send them on.
//!
//! A shorter way than [`crate::forward`]'s for these, which is a part of the program that the NIC calls: on
//! machines whose returns are slow, a function of its own would be a sixth of what the whole way costs. So
//! it must not take much of the stack, either. What it can't decide it leaves as it was.

use crate::ends::ends;
use crate::flow;
use crate::forward::{self, Forward};
use crate::maps::{VIP_QUIC, VipValue};
use crate::mark;
use crate::mark_table::marked;
use crate::packet::{FIN, Packet, RST, SYN, TCP};
use crate::verdict::Verdict;

/// Sends a packet of a usual shape to a VIP whose packets are written anew. `None`: it takes more than a mark.
#[inline(always)]
pub fn send<E: Forward>(env: &E, packet: Packet, flags: u8, vip: &VipValue) -> Option<Verdict> {
    if packet.v6 {
        return send_v6(env, packet, flags, vip);
    }
    let (slot, port) = find_v4(env, packet, flags, vip)?;
    Some(forward::to(env, &packet, slot, port))
}

/// An IPv6 packet.
#[inline(always)]
pub(crate) fn send_v6<E: Forward>(env: &E, packet: Packet, flags: u8, vip: &VipValue) -> Option<Verdict> {
    if packet.protocol != TCP || !is_between(flags, vip) {
        return None;
    }
    match sent_v6(env, packet.end) {
        0 => None,
        packed => Some(Verdict::unpacked(packed)),
    }
}

/// The slot of the endpoint of an IPv4 packet, and the port that its flow has there.
///
/// Apart from IPv6, so that what is constant costs nothing: most of an IPv4 address in words.
#[inline(always)]
pub(crate) fn find_v4<E: Forward>(env: &E, packet: Packet, flags: u8, vip: &VipValue) -> Option<(u32, u16)> {
    if is_between(flags, vip) { find(env, packet.protocol, false) } else { None }
}

/// Whether it may be in the middle of a connection. UDP has no flags; packets of QUIC may name another endpoint
/// than their flow's.
#[inline(always)]
const fn is_between(flags: u8, vip: &VipValue) -> bool {
    flags & (SYN | FIN | RST) == 0 && vip.flags & VIP_QUIC == 0
}

/// [`Verdict::packed`], or 0. Out of line: there is no room for eight words of addresses on the stack.
#[inline(never)]
fn sent_v6<E: Forward>(env: &E, end: u16) -> u32 {
    let packet = Packet { ip: 14, transport: 54, end, protocol: TCP, v6: true };
    find(env, TCP, true).map_or(0, |(slot, port)| forward::to(env, &packet, slot, port).packed())
}

#[inline(always)]
fn find<E: Forward>(env: &E, protocol: u8, v6: bool) -> Option<(u32, u16)> {
    let ends = ends(env, v6)?;
    let hash = flow::hash(&ends.source, ends.source_port, protocol);
    let mark = marked(env, hash, mark::tag(hash, &ends));
    let backend = env.backend(mark.backend())?;
    let its = protocol == TCP || flow::is_own_port(hash, mark.port());
    if !mark.holds(protocol, backend.generation, env.tick()) || backend.protocol != protocol || !its {
        return None;
    }
    Some((mark.backend(), mark.port()))
}
