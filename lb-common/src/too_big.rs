//! Packets that are too big for the way on: their senders are told how big they may be.
//!
//! The answer is made of the frame at hand, before anything of it is translated: it comes from whom
//! the packet was for, goes back to where it came from, and quotes the packet's beginning (RFC 792
//! and 1191; RFC 4443, section 3.2). IPv4 packets without "don't fragment" are answered, too: they
//! can't be cut here, and most who send them take notice all the same.

use crate::forward::{Forward, drop};
use crate::packet::{self, ICMPV6, Packet};
use crate::reason::Reason;
use crate::refuse::{add, folded, swap_macs};
use crate::verdict::{Action, Verdict};

/// How much is quoted, in bytes: the headers and the connection id of a QUIC packet. What is too big
/// has more.
pub const QUOTED: usize = 96;

/// Answers that one CPU gives in a tick, about a second. A sender needs one for each of its paths.
pub const ANSWERS: u32 = 1000;

const ETHERNET: usize = 14;
const ICMP: usize = 8;
const HOP_LIMIT: u8 = 64;

/// What one CPU answered lately, and what it is about to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Answers {
    /// In this tick.
    pub tick: u32,
    /// So many.
    pub given: u32,
    /// The MTU of the way on of the frame at hand, in bytes from the IP header on.
    pub mtu: u32,
}

/// The verdict on a packet that is bigger than its way on takes. Whoever carries it out goes on with
/// [`answer`].
#[inline(always)]
pub fn found<E: Forward>(env: &E, mtu: u32) -> Verdict {
    if let Some(mut answers) = env.answers() {
        answers.mtu = mtu;
    }
    Verdict { reason: Reason::TooBig, action: Action::Rare }
}

/// Tells the sender of the frame at hand, of which [`found`] was the verdict; `None`: it was not, for
/// it is none that [`packet::shape`] knows.
#[inline(always)]
pub fn judge<E: Forward>(env: &E) -> Option<Verdict> {
    let Packet { v6, .. } = packet::shape(env)?;
    Some(answer(env, v6))
}

/// Tells the sender of the frame at hand, unless too many were told already.
#[inline(never)]
pub fn answer<E: Forward>(env: &E, v6: bool) -> Verdict {
    let Some(mut answers) = env.answers() else { return drop(Reason::TooBigUnanswered) };
    let tick = env.tick();
    if answers.tick != tick {
        (answers.tick, answers.given) = (tick, 0);
    }
    if answers.given >= ANSWERS {
        return drop(Reason::TooBigUnanswered);
    }
    answers.given += 1;
    let mtu = answers.mtu;
    let length = if v6 { write_v6(env, mtu) } else { write_v4(env, mtu) };
    match length {
        Some(length) if swap_macs(env) && env.resize(length) => {
            Verdict { reason: Reason::TooBig, action: Action::Send }
        }
        _ => drop(Reason::TooBigUnanswered),
    }
}

/// Writes the IPv4 packet over the frame, and gives the frame's length.
#[inline(always)]
fn write_v4<E: Forward>(env: &E, mtu: u32) -> Option<usize> {
    const HEADER: usize = 20;
    let quote = env.near::<QUOTED>(ETHERNET)?;
    let ends = env.near::<8>(ETHERNET + 12)?;
    let [a, b, c, d, e, f, g, h] = ends;
    let [l0, l1] = ((HEADER + ICMP + QUOTED) as u16).to_be_bytes();
    // RFC 1812, section 4.3.2.5: precedence of network control.
    let head = [0x45, 0xc0, l0, l1, 0, 0, 0x40, 0, HOP_LIMIT, 1];
    let [c0, c1] = folded(add(&head) + add(&ends)).to_be_bytes();
    let [m0, m1] = (if mtu < 0xffff { mtu as u16 } else { 0xffff }).to_be_bytes();
    let [s0, s1] = folded(add(&[3, 4, m0, m1]) + add(&quote)).to_be_bytes();
    let done = env.set(ETHERNET + HEADER + ICMP, quote)
        && env.set(ETHERNET, head)
        && env.set(ETHERNET + 10, [c0, c1, e, f, g, h, a, b, c, d])
        && env.set(ETHERNET + HEADER, [3, 4, s0, s1, 0, 0, m0, m1]);
    done.then_some(ETHERNET + HEADER + ICMP + QUOTED)
}

/// The same in IPv6.
#[inline(always)]
fn write_v6<E: Forward>(env: &E, mtu: u32) -> Option<usize> {
    const HEADER: usize = 40;
    let quote = env.near::<QUOTED>(ETHERNET)?;
    let (source, target) = (env.near::<16>(ETHERNET + 8)?, env.near::<16>(ETHERNET + 24)?);
    let length = (ICMP + QUOTED) as u16;
    let [l0, l1] = length.to_be_bytes();
    let [m0, m1, m2, m3] = mtu.to_be_bytes();
    let pseudo = add(&source) + add(&target) + length as u32 + ICMPV6 as u32;
    let [s0, s1] = folded(pseudo + add(&[2, 0, m0, m1, m2, m3]) + add(&quote)).to_be_bytes();
    let done = env.set(ETHERNET + HEADER + ICMP, quote)
        && env.set(ETHERNET, [0x60, 0, 0, 0, l0, l1, ICMPV6, HOP_LIMIT])
        && env.set(ETHERNET + 8, target)
        && env.set(ETHERNET + 24, source)
        && env.set(ETHERNET + HEADER, [2, 0, s0, s1, m0, m1, m2, m3]);
    done.then_some(ETHERNET + HEADER + ICMP + QUOTED)
}
