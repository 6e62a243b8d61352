//! What most packets of VIPs in forward mode are: in the middle of a TCP connection whose [`Mark`] says all
//! that it takes to send them on.
//!
//! A shorter way than [`crate::forward`]'s for these, which is a part of the program that the NIC calls: on
//! machines whose returns are slow, a function of its own would be a sixth of what the whole way costs. So
//! it must not take much of the stack, either. What it can't decide it leaves as it was.

use crate::ends::ends;
use crate::flow;
use crate::forward::{self, Forward};
use crate::mark;
use crate::mark_table::marked;
use crate::packet::{FIN, Packet, RST, SYN, TCP};
use crate::verdict::Verdict;

/// Sends a packet of a usual shape to a VIP whose packets are written anew. `None`: it takes more than a mark.
#[inline(always)]
pub fn send<E: Forward>(env: &E, packet: Packet, flags: u8) -> Option<Verdict> {
    if packet.v6 {
        return send_v6(env, packet, flags);
    }
    let (slot, port) = find_v4(env, packet, flags)?;
    Some(forward::to(env, &packet, slot, port))
}

/// An IPv6 packet.
#[inline(always)]
pub(crate) fn send_v6<E: Forward>(env: &E, packet: Packet, flags: u8) -> Option<Verdict> {
    if !is_between(packet, flags) {
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
pub(crate) fn find_v4<E: Forward>(env: &E, packet: Packet, flags: u8) -> Option<(u32, u16)> {
    if is_between(packet, flags) { find(env, false) } else { None }
}

/// Whether it is in the middle of a connection.
#[inline(always)]
const fn is_between(packet: Packet, flags: u8) -> bool {
    packet.protocol == TCP && flags & (SYN | FIN | RST) == 0
}

/// [`Verdict::packed`], or 0. Out of line: there is no room for eight words of addresses on the stack.
#[inline(never)]
fn sent_v6<E: Forward>(env: &E, end: u16) -> u32 {
    let packet = Packet { ip: 14, transport: 54, end, protocol: TCP, v6: true };
    find(env, true).map_or(0, |(slot, port)| forward::to(env, &packet, slot, port).packed())
}

#[inline(always)]
fn find<E: Forward>(env: &E, v6: bool) -> Option<(u32, u16)> {
    let ends = ends(env, v6)?;
    let hash = flow::hash(&ends.source, ends.source_port, TCP);
    let mark = marked(env, hash, mark::tag(hash, &ends));
    let backend = env.backend(mark.backend())?;
    if !mark.holds(backend.generation, env.tick()) || backend.protocol != TCP {
        return None;
    }
    Some((mark.backend(), mark.port()))
}
