//! The table of marks as packets use it: which flow is it, and room for a new one's mark.
//!
//! A mark lies in one of two buckets: one that the client chooses, and its partner, which the tag chooses. It goes
//! to the partner if its own bucket has few places left and the partner has more, so that a table that is half
//! full has room for all. There its tag says that it is away, so it is never taken for that of a flow at home. It is
//! looked for in its own bucket first.
//!
//! So two flows can be taken for each other only if they have the same bucket and the same tag. The packet that begins
//! the later one finds the other's mark, and puts its own beside it: where there is one mark with a tag, no other
//! bucket is asked for it. What it takes for that not to happen is that both begin on two CPUs within a
//! microsecond, and it is left to chance. (In UDP a flow's first packet may be sent by a mark: see [`crate::mark`].)
//!
//! # Why no mark that is relied on leads to another flow's entry
//!
//! - A mark is relied on if it was told within [`PERIOD`](crate::mark::PERIOD) that its flow is open, or one of UDP, by
//!   whoever had just written that into the flow's stamp, or found it there as it would have written it. For
//!   [`flow::OPEN_SPARED`] ticks from then on ([`flow::DATAGRAMS_SPARED`]) nobody takes the entry.
//! - A client's packet that ends or restarts the connection makes the mark slow first, and the stamp say so
//!   only then. So flows that are not open have slow marks, save those that their endpoints have ended, which
//!   the stamp tells apart ([`flow::Phase::Ending`]).
//! - Who takes an entry from a flow whose mark may be relied on makes that mark slow, with the stamp busy
//!   and before anything is written ([`forget`]). So it doesn't matter either that periods come around, and
//!   marks of long ago would seem new. All that this costs: a client that was silent for 64 periods (or twice as many)
//!   may be sent by its old mark until the period ends, and its flow counts as silent until then.
//! - A slot whose endpoint is replaced has another generation. There are eight, so a client that was silent for 64
//!   periods, and for eight endpoints in its slot, may be sent to the next one until the period ends.

use core::hint::black_box;

use crate::ends::Ends;
use crate::flow::{self, Flow, Stamp, WAYS};
use crate::forward::{Forward, Pending};
use crate::mark::{self, Mark, Way, lowest};
use crate::packet::UDP;

/// No entry. In place of `Option`: what it would hold besides is one more thing for the verifier to
/// tell apart.
pub(crate) const NONE: u32 = u32::MAX;

/// With so few free places, a bucket's partner is asked.
const CROWDED: u32 = 2;

/// The other bucket of a mark with this tag.
#[inline(always)]
pub(crate) const fn partner(bucket: u32, tag: u32, mask: u32) -> u32 {
    (bucket ^ (tag.wrapping_mul(0x9e37_79b1) >> 8 | 1)) & (mask / WAYS)
}

/// The second bucket of a flow that is at home in this one, and the tag of its mark there.
#[inline(always)]
const fn second(bucket: u32, tag: u32, mask: u32) -> (u32, u32) {
    (partner(bucket, tag, mask), mark::away(tag))
}

/// The mark with a tag, which may be one that doesn't hold; else one without a tag.
#[inline(always)]
pub(crate) fn marked<E: Forward>(env: &E, hash: u64, tag: u32) -> Mark {
    let mask = env.mask();
    let (first, way) = flow::bucket(hash, mask);
    let mut bucket = first / WAYS;
    let mut tag_there = tag;
    for _ in 0..2 {
        let Some(marks) = env.marks(bucket) else { break };
        for step in 0..WAYS {
            let mark = Mark(marks.0[((way + step) & (WAYS - 1)) as usize]);
            if mark.tag() == tag_there {
                return mark;
            }
        }
        (bucket, tag_there) = second(bucket, tag, mask);
    }
    Mark(0)
}

/// The tag of a flow's mark in one of its two buckets.
#[inline(always)]
pub(crate) fn tag_in<E: Forward>(env: &E, new: &Pending, bucket: u32) -> u32 {
    let home = flow::bucket(new.hash, env.mask()).0 / WAYS;
    if bucket == home { new.tag } else { mark::away(new.tag) }
}

/// The entry of the flow that a client's packet belongs to, whose mark is noted in `new`. Without one, noted is the
/// mark that it had, if it is still there, and whether another flow has its tag. Out of line: the verifier
/// has less to tell apart.
#[inline(never)]
pub(crate) fn find<E: Forward>(env: &E, new: &mut Pending) -> u32 {
    (new.mark, new.twin) = (NONE, false);
    let mask = env.mask();
    let mut bucket = flow::bucket(new.hash, mask).0 / WAYS;
    let Some(marks) = env.marks(bucket) else { return NONE };
    let mut found = marks.with_tag(new.tag);
    if found == 0 && marks.unused() <= CROWDED {
        let tag;
        (bucket, tag) = second(bucket, new.tag, mask);
        let Some(marks) = env.marks(bucket) else { return NONE };
        found = marks.with_tag(tag);
    }
    new.bucket = bucket;
    // More than two of one tag are the work of chance on chance.
    let mut its = NONE;
    for _ in 0..2 {
        if found == 0 {
            break;
        }
        let index = look(env, new, lowest(found));
        if index != NONE {
            its = index;
        }
        found &= found - 1;
    }
    its
}

/// Whether a mark is of the flow that a packet belongs to: its entry. Notes it, or another flow's that has its tag.
#[inline(always)]
fn look<E: Forward>(env: &E, new: &mut Pending, way: u32) -> u32 {
    let at = new.bucket * WAYS + way;
    let Some(mark) = env.mark(new.bucket, way) else { return NONE };
    let index = led(env, new.hash, mark);
    let held = holds(env, index, mark, new);
    if held == TWIN {
        new.twin = true;
        env.swap_mark(at, mark.0, mark.twin().0);
    } else if held == ITS || new.mark == NONE {
        (new.mark, new.was) = (at, mark.0);
    }
    if held == ITS { index } else { NONE }
}

/// [`holds`]' words: no flow, this one, another one.
const GONE: u32 = 0;
const ITS: u32 = 1;
const TWIN: u32 = 2;

/// Whose flow is at an entry that a mark with the tag of `new` leads to.
#[inline(always)]
fn holds<E: Forward>(env: &E, index: u32, mark: Mark, new: &Pending) -> u32 {
    let Some(flow) = env.flow(index) else { return GONE };
    // The entry may have become another one's that the mark is not of.
    let leads = flow.backend == mark.backend()
        && flow.port == mark.port()
        && mark.tag() == tag_in(env, new, new.bucket);
    if !leads || !Stamp(flow.stamp).taken(new.now) {
        return GONE;
    }
    if same_ends(&flow, new) {
        return if Stamp(flow.stamp).alive(new.now) { ITS } else { GONE };
    }
    if tag_of(&flow) == new.tag { TWIN } else { GONE }
}

/// The entry that a mark leads to, of a client with this hash.
#[inline(always)]
fn led<E: Forward>(env: &E, hash: u64, mark: Mark) -> u32 {
    let port = mark.port();
    if port == 0 {
        return flow::bucket(hash, env.mask()).0 | mark.way().0 & (WAYS - 1);
    }
    let Some(backend) = env.backend(mark.backend()) else { return NONE };
    let endpoint = flow::hash(&backend.address, backend.port, backend.protocol);
    flow::place(endpoint, u16::from_be(port), env.mask())
}

/// Whether a flow is the one that a packet is of.
#[inline(always)]
pub(crate) fn same_ends(flow: &Flow, new: &Pending) -> bool {
    // LLVM doesn't know it any more: it would read it once for all flows that it is compared with, and keep it on
    // the stack, which has no room for it.
    let new = black_box(new);
    let Ends { source, target, source_port, target_port } = &new.ends;
    // One branch instead of eleven, each of which the verifier would follow.
    let mut other = (flow.client_port ^ source_port | flow.vip_port ^ target_port) as u32;
    other |= (flow.protocol ^ new.protocol) as u32;
    for at in 0..4 {
        other |= flow.client[at] ^ source[at] | flow.vip[at] ^ target[at];
    }
    other == 0
}

/// The tag of a flow's mark.
#[inline(always)]
fn tag_of(flow: &Flow) -> u32 {
    let hash = flow::hash(&flow.client, flow.client_port, flow.protocol);
    mark::tag(hash, &Ends { target: flow.vip, target_port: flow.vip_port, ..Ends::default() })
}

/// Notes in `new` where its flow's mark may be, unless it is there already. False: nowhere.
#[inline(never)]
pub(crate) fn room<E: Forward>(env: &E, new: &mut Pending) -> u32 {
    if new.mark != NONE {
        return 1;
    }
    let mask = env.mask();
    let (first, way) = flow::bucket(new.hash, mask);
    let mut bucket = if new.twin { new.bucket } else { first / WAYS };
    let Some(marks) = env.marks(bucket) else { return 0 };
    let mut room = marks.room(way, new.now);
    if room.free <= CROWDED && !new.twin {
        let partner = partner(bucket, new.tag, mask);
        let Some(marks) = env.marks(partner) else { return 0 };
        let other = marks.room(way, new.now);
        if other.free > room.free || (room.free == 0 && other.worth > room.worth) {
            (bucket, room) = (partner, other);
        }
    }
    let Some(mark) = env.mark(bucket, room.way) else { return 0 };
    new.mark = bucket * WAYS + room.way;
    new.was = mark.0;
    (room.worth != 0) as u32
}

/// Whether the flow of UDP at an entry has a mark that may be relied on. Out of line: it is for few.
#[inline(never)]
pub(crate) fn is_relied_on<E: Forward>(env: &E, index: u32, now: u32) -> u32 {
    let Some(flow) = env.flow(index) else { return 0 };
    let mark = marked(env, flow::hash(&flow.client, flow.client_port, flow.protocol), tag_of(&flow));
    let its = mark.backend() == flow.backend && mark.port() == flow.port;
    (its && mark.holds(UDP, flow.generation, now)) as u32
}

/// Makes the marks of a flow slow whose entry is about to be that of `new`, which may have noted the place of one of
/// them: as its own, or as one to be given away. Out of line: it is for few.
#[inline(never)]
pub(crate) fn forget<E: Forward>(env: &E, index: u32, new: &mut Pending) {
    let Some(flow) = env.flow(index) else { return };
    let hash = flow::hash(&flow.client, flow.client_port, flow.protocol);
    let tag = tag_of(&flow);
    let mask = env.mask();
    let mut bucket = flow::bucket(hash, mask).0 / WAYS;
    let mut tag_there = tag;
    for _ in 0..2 {
        let Some(marks) = env.marks(bucket) else { return };
        let found = marks.of(Mark::new(tag_there, flow.backend, Way::new(index, flow.port), false));
        if found != 0
            && let Some(mark) = env.mark(bucket, lowest(found))
        {
            let at = bucket * WAYS + lowest(found);
            let gone = mark.gone(new.now).0;
            if env.swap_mark(at, mark.0, gone) && at == new.mark && mark.0 == new.was {
                new.was = gone;
            }
        }
        (bucket, tag_there) = second(bucket, tag, mask);
    }
}
