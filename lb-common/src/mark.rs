//! Marks: what most packets of a flow need to know of it, in eight bytes.
//!
//! A flow fills a cache line, and with a hundred thousand of them nearly every packet would wait for
//! memory. The marks of a whole bucket share one line. In the middle of a TCP connection a packet is
//! sent on by the mark alone; every [`PERIOD`] ticks, at both ends of a connection, and for UDP
//! always, the flow itself is compared and told.
//!
//! The tag of a mark is a hash of the flow's ends. No two flows of a bucket have the same one, which
//! the packet that begins a flow sees to: it is compared in full with whoever has its tag.

use crate::ends::Ends;
use crate::flow::{Phase, Stamp, WAYS};
use crate::maglev::mix;
use crate::maps::MAX_BACKENDS;

/// The marks of a bucket, in the order of its entries. 0: there is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Marks(pub [u64; WAYS as usize]);

/// For how many ticks a mark stands for its flow: a power of two.
pub const PERIOD: u32 = 8;

/// A mark.
///
/// From the lowest bit on: the port at the endpoint (16, network order), the endpoint's slot (14), the
/// low bits of its generation (4), in which period the flow was told (5), whether that may be
/// relied on (1), the tag (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

const BACKEND: u32 = 16;
const GENERATION: u32 = 30;
const TIME: u32 = 34;
const QUICK: u64 = 1 << 39;
const TAG: u32 = 40;
const _: () = assert!(MAX_BACKENDS <= 1 << (GENERATION - BACKEND));

const GENERATIONS: u32 = 0xf;
const TIMES: u64 = 0x1f << TIME;

/// The tag of a flow whose client's [`crate::flow::hash`] this is: never 0.
#[inline(always)]
pub const fn tag(hash: u64, ends: &Ends) -> u32 {
    let [a, b, c, d] = ends.target;
    let low = a as u64 | (b as u64) << 32;
    let high = (c ^ ends.target_port as u32) as u64 | (d as u64) << 32;
    let mixed = mix(hash ^ low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ high);
    (mixed >> TAG) as u32 | 1
}

impl Mark {
    /// Of a new flow.
    #[inline(always)]
    pub const fn new(tag: u32, backend: u32, generation: u32, port: u16) -> Self {
        Self(
            port as u64
                | (backend as u64) << BACKEND
                | ((generation & GENERATIONS) as u64) << GENERATION
                | (tag as u64) << TAG,
        )
    }

    /// The tag; 0: there is no flow.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> TAG) as u32
    }

    /// The endpoint's slot.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        (self.0 >> BACKEND) as u32 & ((1 << (GENERATION - BACKEND)) - 1)
    }

    /// The port that replies come to, network order; 0: the client's address and port are kept.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// Whether its endpoint may be the one with this generation.
    #[inline(always)]
    pub const fn is_of(self, generation: u32) -> bool {
        (self.0 >> GENERATION) as u32 & GENERATIONS == generation & GENERATIONS
    }

    /// Whether it has this tag and can be relied on.
    #[inline(always)]
    pub const fn is_quick(self, tag: u32, now: u32) -> bool {
        const LOOKED_AT: u64 = !((1 << TIME) - 1);
        self.0 & LOOKED_AT == (tag as u64) << TAG | QUICK | time(now)
    }

    /// The same after its flow was told of a packet.
    #[inline(always)]
    #[must_use]
    pub const fn told(self, stamp: Stamp, now: u32) -> Self {
        let quick = if matches!(stamp.phase(), Some(Phase::Open)) { QUICK } else { 0 };
        Self(self.0 & !(TIMES | QUICK) | quick | time(now))
    }
}

#[inline(always)]
const fn time(now: u32) -> u64 {
    ((now / PERIOD) as u64) << TIME & TIMES
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
            let mark = Mark::new(tag, backend, generation, port);
            let quick = mark.told(Stamp::new(Phase::Open, now), now);
            for mark in [mark, quick] {
                prop_assert_eq!((mark.port(), mark.backend(), mark.tag()), (port, backend, tag));
                prop_assert!(mark.is_of(generation) && !mark.is_of(generation.wrapping_add(1)));
            }
            prop_assert!(!mark.is_quick(tag, now), "a new flow's");
            prop_assert!(quick.is_quick(tag, now) && !quick.is_quick(tag ^ 1, now));
            prop_assert!(!quick.is_quick(tag, now.wrapping_add(PERIOD)), "too long ago");
            for phase in [Phase::Opening, Phase::Answered, Phase::Datagrams, Phase::Closing] {
                prop_assert!(!quick.told(Stamp::new(phase, now), now).is_quick(tag, now));
            }
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
        // 2,048 of eight million: by chance, one pair in four tables like this.
        assert!(tags.len() >= 2046 && !tags.contains(&0), "{}", tags.len());
    }
}
