//! Marks: what most packets of a flow need to know of it, in eight bytes.
//!
//! A flow fills a cache line, and with a hundred thousand of them nearly every packet would wait for
//! memory. The marks of a bucket share one line. In the middle of a TCP connection a packet is
//! written anew and sent on by the mark alone; every [`PERIOD`] ticks, at both ends of a connection, and for
//! UDP and packets that go as they are always, the flow itself is compared and told.
//!
//! The tag of a mark is a hash of the flow's ends. Of two flows in a bucket with the same one, neither is sent
//! by its mark, which the packet that begins the later one sees to, and whoever tells a flow. A packet of no
//! flow finds another one's tag once in millions of times: then it is taken for that one's, whose endpoint sees
//! by the sequence number that it is not. Shorter tags, in marks of four bytes, would let whoever sends packets
//! of no flow put them into other clients' connections once in a thousand times.

use crate::ends::Ends;
use crate::flow::{Phase, Stamp, WAYS};
use crate::maglev::mix;
use crate::maps::MAX_BACKENDS;

/// The marks of a bucket, in the order of its entries. 0: there is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Marks(pub [u64; WAYS as usize]);

impl Marks {
    /// How many of them have this tag.
    #[inline(always)]
    pub const fn count(&self, tag: u32) -> u32 {
        let mut count = 0;
        let mut at = 0;
        while at < WAYS as usize {
            // 1 where there is no difference. A branch for each would be one more thing for the verifier to
            // follow.
            let other = (Mark(self.0[at]).tag() ^ tag) as u64;
            count += (other.wrapping_sub(1) >> 63) as u32;
            at += 1;
        }
        count
    }
}

/// For how many ticks a mark stands for its flow: a power of two.
pub const PERIOD: u32 = 8;

/// A mark.
///
/// From the lowest bit on: the port at the endpoint (16, network order), the endpoint's slot (14), in which period
/// the flow was told and of which generation the endpoint was (10; 0: the mark is not to be relied on), the
/// tag (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

const BACKEND: u32 = 16;
const EPOCH: u32 = 30;
const TAG: u32 = 40;
const _: () = assert!(MAX_BACKENDS <= 1 << (EPOCH - BACKEND));

const EPOCHS: u32 = (1 << (TAG - EPOCH)) - 1;
/// How many periods apart two generations are.
const APART: u32 = 32;

/// The tag of a flow whose client's [`crate::flow::hash`] this is: never 0.
#[inline(always)]
pub const fn tag(hash: u64, ends: &Ends) -> u32 {
    let [a, b, c, d] = ends.target;
    let low = a as u64 | (b as u64) << 32;
    let high = (c ^ ends.target_port as u32) as u64 | (d as u64) << 32;
    let mixed = mix(hash ^ low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ high);
    let tag = (mixed >> TAG) as u32;
    tag + (tag == 0) as u32
}

impl Mark {
    /// Of a new flow.
    #[inline(always)]
    pub const fn new(tag: u32, backend: u32, port: u16) -> Self {
        Self(port as u64 | (backend as u64) << BACKEND | (tag as u64) << TAG)
    }

    /// The tag; 0: there is no flow.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> TAG) as u32
    }

    /// The endpoint's slot.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        (self.0 >> BACKEND) as u32 & ((1 << (EPOCH - BACKEND)) - 1)
    }

    /// The port that replies come to, network order; 0: the client's address and port are kept.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// Whether it can be relied on, its endpoint's slot being of this generation.
    #[inline(always)]
    pub const fn holds(self, generation: u32, now: u32) -> bool {
        (self.0 >> EPOCH) as u32 & EPOCHS == epoch(generation, now)
    }

    /// The same after its flow was told of a packet.
    #[inline(always)]
    #[must_use]
    pub const fn told(self, stamp: Stamp, generation: u32, now: u32) -> Self {
        let slow = self.slow();
        if matches!(stamp.phase(), Some(Phase::Open)) {
            return Self(slow.0 | (epoch(generation, now) as u64) << EPOCH);
        }
        slow
    }

    /// The same, but not to be relied on.
    #[inline(always)]
    #[must_use]
    pub const fn slow(self) -> Self {
        Self(self.0 & !((EPOCHS as u64) << EPOCH))
    }
}

/// Tells periods apart, and what was there before an endpoint in its slot. Both come around, but not at once
/// while a flow is in use. Never 0.
#[inline(always)]
const fn epoch(generation: u32, now: u32) -> u32 {
    1 + (now / PERIOD).wrapping_add(generation.wrapping_mul(APART)) % EPOCHS
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::flow;
    use crate::packet::TCP;

    proptest! {
        #[test]
        fn fields_stay_apart(
            port: u16, backend in 0..MAX_BACKENDS, generation: u32, tag in 1..1u32 << 24, now: u32,
        ) {
            let mark = Mark::new(tag, backend, port);
            let open = mark.told(Stamp::new(Phase::Open, now), generation, now);
            for mark in [mark, open, open.slow()] {
                prop_assert_eq!((mark.port(), mark.backend(), mark.tag()), (port, backend, tag));
            }
            prop_assert!(!mark.holds(generation, now) && open.slow() == mark, "a new flow's");
            prop_assert!(open.holds(generation, now));
            prop_assert!(!open.holds(generation, now.wrapping_add(PERIOD)), "too long ago");
            prop_assert!(!open.holds(generation.wrapping_add(1), now), "another endpoint");
            for phase in [Phase::Opening, Phase::Answered, Phase::Datagrams, Phase::Closing] {
                prop_assert_eq!(open.told(Stamp::new(phase, now), generation, now), mark);
            }
        }

        #[test]
        fn twins_are_counted(marks: [u64; WAYS as usize], at in 0..WAYS as usize) {
            let tag = Mark(marks[at]).tag();
            let count = marks.iter().filter(|mark| Mark(**mark).tag() == tag).count();
            prop_assert_eq!(Marks(marks).count(tag) as usize, count);
        }
    }

    #[test]
    fn tags_differ_by_both_ends() {
        let mut tags = BTreeSet::new();
        for client in 0..32u32 {
            for vip in 0..32u32 {
                let source = [0, 0, 0xffff_0000, 0x0a00_0000 + client];
                let target = [0, 0, 0xffff_0000, vip << 24];
                let ends = Ends { source, target, source_port: 7, target_port: 80 };
                let hash = flow::hash(&source, 7, TCP);
                tags.insert(tag(hash, &ends));
                tags.insert(tag(hash, &Ends { target_port: 81, ..ends }));
            }
        }
        // 2,048 of sixteen million: by chance, one pair in eight tables like this.
        assert!(tags.len() >= 2046 && !tags.contains(&0), "{}", tags.len());
    }
}
