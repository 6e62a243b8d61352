//! Answers in a server's place, made of the frame at hand.
//!
//! A client whose server name nobody serves is told so by XDP: a TLS alert and the end of the
//! stream, sent back where the hello came from. The local stack never sees that hello. What the
//! client sends next becomes a reset for the stack, which would wait for it otherwise; and what
//! comes after that is answered here.

use crate::env::Env;
use crate::packet::{ACK, FIN, PSH, Packet, RST, TCP};

/// The record of a fatal alert `unrecognized_name` (RFC 8446 §6, RFC 6066 §3). Its version is what
/// every client reads before anything is agreed upon.
pub const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// TCP's options of nearly all segments after the first: two no-ops and timestamps.
const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];

/// Ethernet's shortest frame. Nothing is made shorter than it came, or than this.
pub(crate) const SHORTEST: usize = 60;

/// A window with room for the client's own end.
const WINDOW: u16 = 1024;

const HOP_LIMIT: u8 = 64;

/// What a segment is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reply {
    /// The alert and the end of the stream, to the client.
    Alert,
    /// An acknowledgement of all that the client said, its own end too; to the client.
    Acknowledge,
    /// A reset for the local stack.
    Reset,
    /// A reset for the client.
    Refusal,
    /// Nothing.
    Nothing,
}

/// Whether a segment whose payload begins at `payload` can be answered here. IP and TCP options that
/// are out of the ordinary are left to the local stack, which knows them all.
#[inline(always)]
pub fn is_plain<E: Env>(env: &E, packet: &Packet, payload: usize) -> bool {
    let header = if packet.v6 { 40 } else { 20 };
    let options = payload.saturating_sub(packet.transport as usize + 20);
    packet.transport - packet.ip == header && (options == 0 || stamps(env, packet, options).is_some())
}

/// The client's timestamp and ours that it echoes, of `options` bytes of options.
#[inline(always)]
fn stamps<E: Env>(env: &E, packet: &Packet, options: usize) -> Option<[u8; 8]> {
    if options < 12 {
        return None;
    }
    let [n, m, kind, size, stamps @ ..] = env.far::<12>(packet.transport as usize + 20)?;
    if [n, m, kind, size] == TIMESTAMPS { Some(stamps) } else { None }
}

/// Turns the frame into the reply; a reset has the sequence number `expects`. False: there is nothing
/// to reply, or the frame is damaged now; either way it has to be dropped.
#[inline(always)]
pub fn turn<E: Env>(env: &E, packet: &Packet, payload: usize, reply: Reply, expects: u32) -> bool {
    if reply == Reply::Nothing {
        return false;
    }
    let (ip, transport) = (packet.ip as usize, packet.transport as usize);
    let Some(head) = env.far::<20>(transport) else { return false };
    let [a, b, c, d, s0, s1, s2, s3, k0, k1, k2, k3, ..] = head;
    // What the segment takes of the sequence: its payload, and the end of the stream if it has it.
    let span = (packet.end as u32).saturating_sub(payload as u32) + (head[13] & FIN) as u32;
    let next = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(span).to_be_bytes();
    let back = reply != Reply::Reset;
    let (ports, sequence, acknowledged, flags) = match reply {
        Reply::Reset => ([a, b, c, d], expects.to_be_bytes(), [0; 4], RST),
        Reply::Refusal => ([c, d, a, b], [k0, k1, k2, k3], [0; 4], RST),
        Reply::Alert => ([c, d, a, b], [k0, k1, k2, k3], next, ACK | PSH | FIN),
        _ => ([c, d, a, b], [k0, k1, k2, k3], next, ACK),
    };
    // A reset needs none: it is taken by its sequence number alone.
    let stamps =
        if flags & RST == 0 { stamps(env, packet, payload.saturating_sub(transport + 20)) } else { None };
    let options = if stamps.is_some() { 12 } else { 0 };
    let alert = reply == Reply::Alert;
    let length = 20 + options + if alert { ALERT.len() } else { 0 };

    let header = if packet.v6 { 40 } else { 20 };
    let addresses = if packet.v6 { write_v6(env, ip, length, back) } else { write_v4(env, ip, length, back) };
    let Some(mut sum) = addresses else { return false };
    let transport = ip + header;
    sum += TCP as u32 + length as u32;
    if let Some([a, b, c, d, e, f, g, h]) = stamps {
        let [n, m, kind, size] = TIMESTAMPS;
        let stamps = [n, m, kind, size, e, f, g, h, a, b, c, d];
        sum += add(&stamps);
        if !env.store(transport + 20, &stamps) {
            return false;
        }
    }
    if alert {
        sum += add(&ALERT);
        if !env.store(transport + 20 + options, &ALERT) {
            return false;
        }
    }
    let window = WINDOW.to_be_bytes();
    let rest = [(20 + options as u8) << 2, flags, window[0], window[1]];
    sum += add(&ports) + add(&sequence) + add(&acknowledged) + add(&rest);
    let [c0, c1] = folded(sum).to_be_bytes();
    if !(env.store(transport, &ports)
        && env.store(transport + 4, &sequence)
        && env.store(transport + 8, &acknowledged)
        && env.store(transport + 12, &rest)
        && env.store(transport + 16, &[c0, c1, 0, 0]))
    {
        return false;
    }
    if back && !swap_macs(env) {
        return false;
    }
    let came = env.length() as usize;
    let shortest = if came < SHORTEST { came } else { SHORTEST };
    let ends = transport + length;
    env.resize(if ends > shortest { ends } else { shortest })
}

/// Sends a frame back to where it came from. False: it ends before.
#[inline(always)]
pub(crate) fn swap_macs<E: Env>(env: &E) -> bool {
    let Some([a, b, c, d, e, f, g, h, i, j, k, l]) = env.far::<12>(0) else { return false };
    env.store(0, &[g, h, i, j, k, l, a, b, c, d, e, f])
}

/// Writes the IPv4 header for `length` bytes of TCP, with the addresses the other way round if it goes
/// `back`. Gives the addresses' part of its checksum.
#[inline(always)]
pub(crate) fn write_v4<E: Env>(env: &E, ip: usize, length: usize, back: bool) -> Option<u32> {
    let [a, b, c, d, e, f, g, h] = env.far::<8>(ip + 12)?;
    let ends = if back { [e, f, g, h, a, b, c, d] } else { [a, b, c, d, e, f, g, h] };
    let [t0, t1] = (20 + length as u16).to_be_bytes();
    let head = [0x45, 0, t0, t1, 0, 0, 0x40, 0, HOP_LIMIT, TCP];
    let [c0, c1] = folded(add(&head) + add(&ends)).to_be_bytes();
    let stored = env.store(ip, &head) && env.store(ip + 10, &[c0, c1]) && env.store(ip + 12, &ends);
    if stored { Some(add(&ends)) } else { None }
}

/// The same in IPv6.
#[inline(always)]
pub(crate) fn write_v6<E: Env>(env: &E, ip: usize, length: usize, back: bool) -> Option<u32> {
    let source = env.far::<16>(ip + 8)?;
    let destination = env.far::<16>(ip + 24)?;
    let [l0, l1] = (length as u16).to_be_bytes();
    let stored = env.store(ip, &[0x60, 0, 0, 0, l0, l1, TCP, HOP_LIMIT])
        && (!back || (env.store(ip + 8, &destination) && env.store(ip + 24, &source)));
    if stored { Some(add(&source) + add(&destination)) } else { None }
}

/// The sum of the words in network order (RFC 1071), as if a zero followed an odd end.
#[inline(always)]
pub(crate) fn add<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at + 1 < N {
        sum += u16::from_be_bytes([bytes[at], bytes[at + 1]]) as u32;
        at += 2;
    }
    if at < N {
        sum += (bytes[at] as u32) << 8;
    }
    sum
}

/// The checksum of a sum of at most some dozen words.
#[inline(always)]
pub(crate) fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}
