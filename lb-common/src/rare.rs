//! Frames that few are like, in a program of their own: what it takes to judge them is no burden to
//! the usual ones.
//!
//! [`crate::verdict::judge`] gives them the action [`Action::Rare`]; what they come to is counted here.

use crate::ends::Ends;
use crate::env::Env;
use crate::forward::Forward;
use crate::fragment::{FragmentKey, FragmentValue, Piece};
use crate::icmp::Quote;
use crate::maps::{VipValue, WayValue};
use crate::packet::{self, Packet};
use crate::reason::Reason;
use crate::tags::{self, Tags};
use crate::verdict::{Action, Verdict, pass};
use crate::{fragment, icmp, too_big};

/// What is known of a frame on its way through here. The stack has no room for it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Work {
    /// An error and what it quotes, as it came.
    pub old: Quote,
    /// As it goes.
    pub new: Quote,
    /// A fragment as it came.
    pub piece: Piece,
    /// The ends of a fragment as it goes, or of the flow that an error is about.
    pub ends: Ends,
    /// The fragment's datagram.
    pub key: FragmentKey,
    /// What becomes of that.
    pub value: FragmentValue,
    /// The tags that it came with.
    pub tags: Tags,
    /// The packet of a frame with tags.
    pub packet: Packet,
    /// Its VIP, or the one of a packet that was in another node's.
    pub vip: VipValue,
    /// The way on.
    pub way: WayValue,
    /// The entry of the flow that an error is about.
    pub index: u32,
    /// 1: the error goes to the client; 2: it goes as it is to whom a packet of its client's would go.
    pub returns: u32,
}

/// Judges a frame that was found to be rare, and counts it. What turns out to be none of ours goes to
/// the local stack.
#[inline(always)]
pub fn judge<E: Forward>(env: &E) -> Verdict {
    let verdict = match too_big::judge(env) {
        Some(verdict) => verdict,
        None => untagged(env),
    };
    env.count(verdict.reason);
    verdict
}

/// Whether frames that are passed for this reason may be ours all the same.
#[inline(always)]
pub const fn is_rare(reason: Reason) -> bool {
    matches!(reason, Reason::Icmp | Reason::Fragment)
}

#[inline(always)]
fn untagged<E: Forward>(env: &E) -> Verdict {
    if tags::take_off(env) { tags::put_back(env, other(env)) } else { pass(why(env)) }
}

#[inline(always)]
fn other<E: Forward>(env: &E) -> Verdict {
    let reason = why(env);
    let ours = match env.near(12).map(u16::from_be_bytes) {
        Some(packet::IPV4) => of_version::<E, false>(env, reason),
        Some(packet::IPV6) => of_version::<E, true>(env, reason),
        _ => None,
    };
    match ours {
        Some(verdict) => verdict,
        None => pass(reason),
    }
}

/// `None`: it is none of ours.
#[inline(always)]
fn of_version<E: Forward, const V6: bool>(env: &E, reason: Reason) -> Option<Verdict> {
    let mut work = env.work()?;
    let verdict = match reason {
        Reason::Icmp => icmp::judge::<E, V6, false>(env, &mut work)?,
        Reason::Fragment => fragment::judge::<E, V6, false>(env, &mut work)?,
        _ => return None,
    };
    // A fragment may be too big as well, and is told of here.
    let too_big = verdict.reason == Reason::TooBig && verdict.action == Action::Rare;
    Some(if too_big { too_big::answer(env, V6) } else { verdict })
}

/// Why the frame was passed.
#[inline(always)]
fn why<E: Env>(env: &E) -> Reason {
    match packet::walk(env) {
        Ok(_) => Reason::OtherProtocol,
        Err(reason) => reason,
    }
}
