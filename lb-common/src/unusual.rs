//! Packets to VIPs in forward mode that don't lie as nearly all do, in a program of their own: what is
//! unusual about a frame is taken out of the way, and it is judged by the same code as all others.
//!
//! [`crate::verdict::judge`] gives them the action [`Action::Unusual`] once they have passed the rules for
//! sources and are counted with their VIP; what they come to is counted here.
//!
//! Forwarded are frames with VLAN tags ([`tags`]). IPv4 options and IPv6 extension headers are dropped: hosts and
//! routers are told to be wary of the ones (RFC 7126), networks lose much of the others (RFC 7872), and no
//! client's TCP or UDP needs either.
//!
//! Out of line is what the verifier should follow but once, whatever was found before.

use crate::forward::{Forward, drop};
use crate::maps::{VIP_FORWARD, VipKey};
use crate::packet;
use crate::reason::Reason;
use crate::verdict::{Action, Verdict, forward, mapped, words};
use crate::{tags, too_big};

/// Judges a frame that was found to be unusual, and counts it.
#[inline(always)]
pub fn judge<E: Forward>(env: &E) -> Verdict {
    let taken = tags::take_off(env);
    let verdict = if taken { tags::put_back(env, bare(env)) } else { drop(Reason::ForwardUnusual) };
    env.count(verdict.reason);
    verdict
}

/// Without tags.
#[inline(always)]
fn bare<E: Forward>(env: &E) -> Verdict {
    if !is_known(env) {
        return drop(Reason::ForwardUnusual);
    }
    let Some((packet, vip)) = env.work().map(|work| (work.packet, work.vip)) else {
        return drop(Reason::ForwardUnusual);
    };
    let Some(flags) = packet::flags(env, &packet) else { return drop(Reason::Truncated) };
    let verdict = forward(env, packet, flags, vip);
    let too_big = verdict.reason == Reason::TooBig && verdict.action == Action::Rare;
    if too_big { too_big::answer(env, packet.v6) } else { verdict }
}

/// Whether the frame is a packet to a VIP in forward mode whose headers lie where [`packet::shape`] wants them:
/// [`crate::rare::Work::packet`] and [`crate::rare::Work::vip`]. By way of memory, for the same reason: of what
/// comes from there, the verifier knows nothing that would make two cases of one.
#[inline(never)]
fn is_known<E: Forward>(env: &E) -> bool {
    // Frames in several buffers are read the second way only.
    let Some(packet) = packet::shape(env).or_else(|| packet::walk(env).ok()) else { return false };
    if !packet.is_usual() {
        return false;
    }
    let (address, port) = if packet.v6 {
        (env.near(38).map(words), env.near::<2>(56))
    } else {
        (env.near(30).map(mapped), env.near::<2>(36))
    };
    let (Some(address), Some(port)) = (address, port) else { return false };
    let key = VipKey { address, port: u16::from_ne_bytes(port), protocol: packet.protocol, zero: 0 };
    match (env.vip(&key), env.work()) {
        (Some(vip), Some(mut work)) if vip.flags & VIP_FORWARD != 0 => {
            (work.packet, work.vip) = (packet, vip);
            true
        }
        _ => false,
    }
}
