//! VLAN tags (IEEE 802.1Q), out of the way: a frame is judged as if it had come without them.
//!
//! ```text
//! tagged ─► bare ─► Send, Redirect     by the way that the kernel found, which is of untagged interfaces: bare
//!                ─► answer, to sender  tagged again, as it came
//!                ─► Pass               tagged again, so that the VLAN's device takes it
//! ```
//!
//! On to endpoints by a VLAN, and back to clients on one, it is the kernel that sends: for such ways it names
//! the VLAN's device, which has no program of ours. Which VLANs a node is in, its NIC's filter knows.

use crate::forward::{Forward, drop};
use crate::packet::{SERVICE_TAG, TAG};
use crate::reason::Reason;
use crate::verdict::{Action, Verdict};

/// Both MACs, in front of the tags.
const MACS: usize = 12;
/// Of one tag.
const ONE: usize = 4;
/// Of two.
const TWO: usize = 8;

/// What was taken off a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tags {
    /// As they lie, the outer one first, and what is behind a single one.
    bytes: u64,
    /// How many: two at most.
    count: u32,
    zero: u32,
}

/// Takes a frame's tags off, two at most, and keeps them in [`crate::rare::Work::tags`]. False: they stay, and the
/// frame is as it was.
///
/// Out of line, as [`put_back`], and not by way of registers: for the verifier, what is between the two is the
/// same whatever the tags are.
#[inline(never)]
pub fn take_off<E: Forward>(env: &E) -> bool {
    let Some(mut work) = env.work() else { return false };
    // No IP packet is shorter.
    let Some(bytes) = env.near::<TWO>(MACS) else { return false };
    let [outer, next, _, _, inner, last, _, _] = bytes;
    work.tags.count = 0;
    if !is_tag([outer, next]) {
        return true;
    }
    work.tags.bytes = u64::from_ne_bytes(bytes);
    if !is_tag([inner, last]) {
        work.tags.count = 1;
        return take::<E, ONE>(env);
    }
    work.tags.count = 2;
    take::<E, TWO>(env)
}

/// Puts them back, if that is how the frame leaves.
#[inline(always)]
pub fn put_back<E: Forward>(env: &E, verdict: Verdict) -> Verdict {
    let answers = verdict.action == Action::Send && verdict.reason == Reason::TooBig;
    if (verdict.action != Action::Pass && !answers) || put_all(env) {
        return verdict;
    }
    drop(Reason::Truncated)
}

#[inline(never)]
fn put_all<E: Forward>(env: &E) -> bool {
    let Some(Tags { bytes, count, .. }) = env.work().map(|work| work.tags) else { return false };
    let bytes = bytes.to_ne_bytes();
    let [a, b, c, d, ..] = bytes;
    match count {
        0 => true,
        1 => put::<E, ONE>(env, [a, b, c, d]),
        _ => put::<E, TWO>(env, bytes),
    }
}

#[inline(always)]
const fn is_tag(kind: [u8; 2]) -> bool {
    matches!(u16::from_be_bytes(kind), TAG | SERVICE_TAG)
}

#[inline(always)]
fn take<E: Forward, const N: usize>(env: &E) -> bool {
    let Some(macs) = env.near::<MACS>(0) else { return false };
    env.narrow::<N>() && env.set(0, macs)
}

#[inline(always)]
fn put<E: Forward, const N: usize>(env: &E, tags: [u8; N]) -> bool {
    let Some(macs) = env.near::<MACS>(0) else { return false };
    env.widen::<N>() && env.set(0, macs) && env.set(MACS, tags)
}
