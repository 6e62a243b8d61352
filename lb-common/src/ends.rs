//! The two ends of a packet: read from it, and written anew.

use crate::forward::Forward;
use crate::nat::Change;
use crate::packet::{Packet, TCP};
use crate::verdict::{mapped, words};

/// The two ends of a packet: addresses, and ports in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ends {
    /// Where it is from.
    pub source: [u32; 4],
    /// Where it is to.
    pub target: [u32; 4],
    /// The port it is from.
    pub source_port: u16,
    /// The port it is to.
    pub target_port: u16,
}

const V4_TRANSPORT: usize = 34;
const V6_TRANSPORT: usize = 54;

/// Who sends a packet of a usual shape to whom.
#[inline(always)]
pub(crate) fn ends<E: Forward>(env: &E, v6: bool) -> Option<Ends> {
    let (source, target, ports) = if v6 {
        (words(env.near::<16>(22)?), words(env.near::<16>(38)?), env.near::<4>(V6_TRANSPORT)?)
    } else {
        (mapped(env.near::<4>(26)?), mapped(env.near::<4>(30)?), env.near::<4>(V4_TRANSPORT)?)
    };
    let source_port = u16::from_ne_bytes([ports[0], ports[1]]);
    let target_port = u16::from_ne_bytes([ports[2], ports[3]]);
    Some(Ends { source, target, source_port, target_port })
}

/// Writes the new ends and the checksums that follow. False: the frame is too short for its own
/// headers, and is as it was.
#[inline(always)]
pub(crate) fn rewrite<E: Forward>(env: &E, packet: &Packet, old: &Ends, new: &Ends) -> bool {
    let tcp = packet.protocol == TCP;
    let sum = if packet.v6 {
        let (tcp_sum, udp_sum) = (V6_TRANSPORT + 16, V6_TRANSPORT + 6);
        if tcp { env.near::<2>(tcp_sum) } else { env.near::<2>(udp_sum) }
    } else {
        let (tcp_sum, udp_sum) = (V4_TRANSPORT + 16, V4_TRANSPORT + 6);
        if tcp { env.near::<2>(tcp_sum) } else { env.near::<2>(udp_sum) }
    };
    let Some(sum) = sum else { return false };
    let ports = Change::NONE.half(old.source_port, new.source_port).half(old.target_port, new.target_port);
    let two = u16::to_ne_bytes;
    let [a, b] = two(new.source_port);
    let [c, d] = two(new.target_port);
    // One piece of the frame from the first to the last byte that changes, but for the transport's sum.
    let all = if packet.v6 {
        let ends: [u8; 36] = join([&bytes(new.source), &bytes(new.target), &[a, b, c, d]]);
        if !env.set(22, ends) {
            return false;
        }
        ports.address(old.source, new.source).address(old.target, new.target)
    } else {
        let addresses = Change::NONE.word(old.source[3], new.source[3]).word(old.target[3], new.target[3]);
        let Some(header) = env.near::<2>(24) else { return false };
        let header = two(addresses.apply(u16::from_ne_bytes(header)));
        let (source, target) = (new.source[3].to_ne_bytes(), new.target[3].to_ne_bytes());
        let ends: [u8; 14] = join([&header, &source, &target, &[a, b, c, d]]);
        if !env.set(24, ends) {
            return false;
        }
        ports.word(old.source[3], new.source[3]).word(old.target[3], new.target[3])
    };
    let sum = u16::from_ne_bytes(sum);
    let sum = two(if tcp { all.apply(sum) } else { all.apply_udp(sum) });
    match (packet.v6, tcp) {
        (false, true) => env.set(V4_TRANSPORT + 16, sum),
        (false, false) => env.set(V4_TRANSPORT + 6, sum),
        (true, true) => env.set(V6_TRANSPORT + 16, sum),
        (true, false) => env.set(V6_TRANSPORT + 6, sum),
    }
}

/// Pieces one behind the other; they have to be as long as the whole.
#[inline(always)]
fn join<const N: usize, const M: usize>(pieces: [&[u8]; M]) -> [u8; N] {
    let mut whole = [0; N];
    let mut at = 0;
    for piece in pieces {
        for byte in piece {
            whole[at] = *byte;
            at += 1;
        }
    }
    whole
}

/// An address as it lies on the wire.
#[inline(always)]
pub(crate) fn bytes(address: [u32; 4]) -> [u8; 16] {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = address.map(u32::to_ne_bytes);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
