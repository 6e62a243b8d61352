//! Maglev's lookup table (Eisenbud et al., NSDI 2016, section 3.4): every backend fills the ring
//! along a permutation of its own, so that a change of backends moves few entries.

/// The ring of a Service with many backends. A prime, as all sizes.
pub const RING: u32 = 65_537;

/// The ring of every Service whose packets go as they are, whatever its backends: that a flow's entry is
/// always the same one is what [`crate::ring`] rests on. A hundred entries each for 160 backends.
pub const DIRECT_RING: u32 = 16_381;

/// Ring sizes and up to how many units of weight they are for: a hundred entries for each keep
/// the shares within about one per cent of even (section 5.3 of the paper).
const SIZES: [(u32, u32); 3] = [(509, 5), (4_093, 40), (RING, u32::MAX)];

/// A backend as the ring sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Names it, the same on every node and for ever: a hash of its address and port.
    pub identity: u64,
    /// Its share, in proportion to the others'. 0: none.
    pub weight: u32,
    /// What the ring holds where it is this backend's turn.
    pub value: u32,
}

/// The size of the ring for members of this weight in all.
pub const fn size(weight: u32) -> u32 {
    let mut i = 0;
    while weight > SIZES[i].1 {
        i += 1;
    }
    SIZES[i].0
}

/// Fills a ring; its length has to be a prime above 2. `next` is room for as many numbers as there
/// are members. Members have to be in an order that all nodes agree on. False, and the ring is as
/// it was: no member has a weight.
pub fn fill(ring: &mut [u32], members: &[Member], next: &mut [u32]) -> bool {
    let size = ring.len() as u64;
    if size < 3 || next.len() < members.len() || members.iter().all(|member| member.weight == 0) {
        return false;
    }
    // Values name slots of a map, which are far below.
    const FREE: u32 = u32::MAX;
    ring.fill(FREE);
    next[..members.len()].fill(0);
    let mut left = ring.len();
    loop {
        for (member, next) in members.iter().zip(&mut *next) {
            let (offset, skip) = permutation(member.identity, size);
            for _ in 0..member.weight {
                // A permutation of a prime reaches every entry, so there is a free one on it.
                loop {
                    let at = (offset + u64::from(*next) * skip) % size;
                    *next += 1;
                    if ring[at as usize] == FREE {
                        ring[at as usize] = member.value;
                        break;
                    }
                }
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
        }
    }
}

/// Where a backend begins and how far it steps.
const fn permutation(identity: u64, size: u64) -> (u64, u64) {
    let (a, b) = (mix(identity), mix(identity ^ 0x9e37_79b9_7f4a_7c15));
    (a % size, b % (size - 1) + 1)
}

/// SplitMix64's finisher: every bit of the input reaches every bit of the output.
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn ring(size: u32, members: &[(u64, u32)]) -> Vec<u32> {
        let members: Vec<_> = members
            .iter()
            .map(|(identity, weight)| Member {
                identity: *identity,
                weight: *weight,
                value: *identity as u32,
            })
            .collect();
        let mut ring = vec![0; size as usize];
        assert!(fill(&mut ring, &members, &mut vec![0; members.len()]));
        ring
    }

    fn even(n: u64) -> Vec<(u64, u32)> {
        (1..=n).map(|identity| (identity, 1)).collect()
    }

    fn shares(ring: &[u32], n: usize) -> Vec<usize> {
        (1..=n).map(|value| ring.iter().filter(|at| **at == value as u32).count()).collect()
    }

    #[test]
    fn small_rings() {
        for (size, members, expect) in [
            (7, even(1), vec![7]),
            (7, even(3), vec![3, 2, 2]),
            (11, even(3), vec![4, 4, 3]),
            (11, vec![(1, 2), (2, 1)], vec![8, 3]),
            (11, vec![(1, 0), (2, 1)], vec![0, 11]),
            (7, even(9), vec![1, 1, 1, 1, 1, 1, 1, 0, 0]),
        ] {
            assert_eq!(shares(&ring(size, &members), members.len()), expect, "{size} {members:?}");
        }
        assert!(!fill(&mut [0; 7], &[], &mut []));
        assert!(!fill(&mut [0; 7], &[Member { identity: 1, weight: 0, value: 1 }], &mut [0]));
    }

    #[test]
    fn a_members_own_ring_walks_its_permutation() {
        for size in [7, 11] {
            for identity in 0..200 {
                let (offset, skip) = permutation(identity, size);
                let walked: BTreeSet<_> = (0..size).map(|n| (offset + n * skip) % size).collect();
                assert_eq!(walked.len() as u64, size, "{identity}: {offset} {skip}");
            }
        }
    }

    #[test]
    fn shares_are_within_a_per_cent_and_little_else_moves() {
        for n in [2u64, 5, 10, 100] {
            let before = ring(RING, &even(n));
            let fair = RING as f64 / n as f64;
            for share in shares(&before, n as usize) {
                assert!((share as f64 / fair - 1.0).abs() < 0.01, "{n} backends: {share} of {fair}");
            }
            let without: Vec<_> = even(n).into_iter().filter(|(identity, _)| *identity != n).collect();
            let after = ring(RING, &without);
            let of_others = before.iter().zip(&after).filter(|(b, a)| **b != n as u32 && a != b).count();
            let moved = of_others as f64 / RING as f64;
            assert!(moved < 0.05, "{n} backends: {moved} of the entries moved without need");
        }
    }

    #[test]
    fn sizes_are_primes_with_room() {
        for (weight, expect) in [(1, 509), (5, 509), (6, 4_093), (40, 4_093), (41, RING), (10_000, RING)] {
            assert_eq!(size(weight), expect, "{weight}");
        }
        for size in SIZES.map(|(size, _)| size).into_iter().chain([DIRECT_RING]) {
            assert!((2..size).take_while(|n| n * n <= size).all(|n| size % n != 0), "{size}");
        }
    }

    proptest! {
        #[test]
        fn every_entry_is_some_members(
            members in prop::collection::btree_map(1..10_000u64, 0..4u32, 1..20),
            size in prop::sample::select(vec![7u32, 11, 509]),
        ) {
            let members: Vec<_> = members.into_iter().collect();
            prop_assume!(members.iter().any(|(_, weight)| *weight > 0));
            let ring = ring(size, &members);
            let weight = |value: &u32| members.iter().find(|(identity, _)| *identity == u64::from(*value));
            prop_assert!(ring.iter().all(|value| weight(value).is_some_and(|(_, weight)| *weight > 0)));
        }
    }
}
