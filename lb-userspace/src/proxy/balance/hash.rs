//! Consistent hashing by highest random weight (rendezvous hashing, Thaler and Ravishankar 1998):
//! keys fall into slots, each slot rates all endpoints, and the best one has it.
//!
//! A slot only moves when its endpoint goes or a new one rates better, and the slots of an endpoint
//! that is gone spread over all others evenly. No ring and no Maglev table moves as few. Rating all
//! endpoints for each request would cost more the more there are, so that large clusters remember
//! the slots' owners: filled as requests come, and taken over when endpoints change. What is
//! remembered changes no answer, so that nodes agree whatever each has seen.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use ahash::AHashMap;
use smallvec::SmallVec;

/// Keys are told apart by so many bits: with 1,000 endpoints each has 262 slots, give or take 16.
const SLOT_BITS: u32 = 18;

/// From so many endpoints on, owners are remembered: below, rating them costs less than a look into
/// memory that is in no cache.
const REMEMBER: usize = 32;

/// What stands for an endpoint in ratings.
pub(in crate::proxy) type Seed = u64;

/// The same on all nodes and in all versions: clients must not lose their endpoints to an update.
pub(in crate::proxy) fn seed(address: SocketAddr) -> Seed {
    let port = address.port().to_be_bytes();
    mix(match address.ip() {
        IpAddr::V4(ip) => fnv(ip.octets().into_iter().chain(port)),
        IpAddr::V6(ip) => fnv(ip.octets().into_iter().chain(port)),
    })
}

/// The hash of a key, the same everywhere.
pub(super) fn key(text: &[u8]) -> u64 {
    mix(fnv(text.iter().copied()))
}

/// Endpoints, and what is known of the slots that they own. Numbers of endpoints are theirs in the
/// list of seeds.
#[derive(Debug)]
pub(in crate::proxy) struct Hashed {
    seeds: Box<[Seed]>,
    /// Each slot's owner and one; 0 is not known yet. Empty where owners aren't remembered. Whoever
    /// finds out writes it down; all find the same.
    owners: Box<[AtomicU16]>,
}

impl Hashed {
    pub(in crate::proxy) fn new(seeds: Box<[Seed]>) -> Self {
        let remembers = (REMEMBER..usize::from(u16::MAX)).contains(&seeds.len());
        let slots = if remembers { 1 << SLOT_BITS } else { 0 };
        Self { seeds, owners: (0..slots).map(|_| AtomicU16::new(0)).collect() }
    }

    /// Other endpoints, with what `before` remembers as far as it still holds.
    pub(in crate::proxy) fn after(before: &Self, seeds: Box<[Seed]>) -> Self {
        let this = Self::new(seeds);
        let numbers: AHashMap<Seed, usize> =
            this.seeds.iter().enumerate().map(|(at, seed)| (*seed, at)).collect();
        let stays: Vec<Option<usize>> = before.seeds.iter().map(|seed| numbers.get(seed).copied()).collect();
        let known: ahash::AHashSet<Seed> = before.seeds.iter().copied().collect();
        let new: Vec<usize> = (0..this.seeds.len()).filter(|at| !known.contains(&this.seeds[*at])).collect();
        // Where most are new there is little to take over.
        if new.len() > 64 {
            return this;
        }
        for (slot, (owner, old)) in this.owners.iter().zip(&before.owners).enumerate() {
            let Some(old) = usize::from(old.load(Relaxed)).checked_sub(1) else { continue };
            let Some(stays) = stays.get(old).copied().flatten() else { continue };
            let hash = mix(slot as u64);
            let rating = |at: &usize| rate(this.seeds[*at], hash);
            if let Some(best) = new.iter().copied().chain([stays]).max_by_key(rating) {
                owner.store(remembered(best), Relaxed);
            }
        }
        this
    }

    /// The endpoint that has `key`.
    pub(super) fn owner(&self, key: u64) -> Option<usize> {
        let slot = slot(key);
        let Some(known) = self.owners.get(slot) else { return self.rated(slot, |_| false) };
        if let Some(owner) = usize::from(known.load(Relaxed)).checked_sub(1) {
            return Some(owner);
        }
        let owner = self.rated(slot, |_| false)?;
        known.store(remembered(owner), Relaxed);
        Some(owner)
    }

    /// The endpoint that has `key`, as if those that are skipped were not there.
    pub(super) fn best(&self, key: u64, skip: impl Fn(usize) -> bool) -> Option<usize> {
        let owner = self.owner(key)?;
        if skip(owner) { self.rated(slot(key), skip) } else { Some(owner) }
    }

    /// `count` different endpoints for `key`, or all: the owners of slots that follow from it.
    pub(super) fn group(&self, key: u64, count: usize) -> SmallVec<[usize; 8]> {
        let count = count.min(self.seeds.len());
        let mut group = SmallVec::new();
        // The more are wanted of those there are, the more often one is found again.
        for draw in 0..16 * count as u64 {
            let Some(owner) = self.owner(mix(key.wrapping_add(draw))) else { break };
            if !group.contains(&owner) {
                group.push(owner);
            }
            if group.len() == count {
                return group;
            }
        }
        while let Some(other) = self.rated(slot(key), |at| group.contains(&at)) {
            group.push(other);
            if group.len() == count {
                break;
            }
        }
        group
    }

    fn rated(&self, slot: usize, skip: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = mix(slot as u64);
        let rated = self.seeds.iter().enumerate().filter(|(index, _)| !skip(*index));
        rated.max_by_key(|(_, seed)| rate(**seed, hash)).map(|(index, _)| index)
    }
}

fn slot(key: u64) -> usize {
    (key >> (64 - SLOT_BITS)) as usize
}

fn remembered(owner: usize) -> u16 {
    u16::try_from(owner + 1).unwrap_or(0)
}

fn rate(seed: Seed, key: u64) -> u64 {
    mix(seed ^ key)
}

/// FNV-1a.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The finaliser of MurmurHash3: every bit of the input decides about every bit of the output.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: usize = 4000;

    fn keys() -> impl Iterator<Item = u64> {
        (0..KEYS).map(|number| key(format!("user-{number}").as_bytes()))
    }

    /// Endpoints as clusters have them: neighbours in a pod network.
    fn seeds(first: u8, count: usize) -> Vec<Seed> {
        (0..count)
            .map(|at| seed(SocketAddr::from(([10, first, (at / 250) as u8, (at % 250) as u8], 8080))))
            .collect()
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(seed(SocketAddr::from(([10, 0, 0, 1], 8080))), 0xc4da_0a68_ba67_8347);
        assert_eq!(key(b"user-1"), 0x41a2_fca5_c684_01c5);
    }

    fn hashed(seeds: &[Seed]) -> Hashed {
        Hashed::new(seeds.into())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn keys_are_spread(first: u8, count in 1usize..80) {
            let hashed = hashed(&seeds(first, count));
            let mut load = vec![0usize; count];
            for key in keys() {
                load[hashed.owner(key).expect("an endpoint")] += 1;
            }
            let mean = KEYS as f64 / count as f64;
            // Six standard deviations of a binomial distribution.
            let most = mean + 6.0 * mean.sqrt();
            prop_assert!(load.iter().all(|one| (*one as f64) <= most), "{load:?}");
        }

        #[test]
        fn only_keys_of_what_goes_or_comes_move(first: u8, count in 2usize..80, gone in 0usize..80) {
            let (all, gone) = (seeds(first, count), gone % count);
            let mut less = all.clone();
            less.remove(gone);
            let (all_hashed, less_hashed) = (hashed(&all), hashed(&less));
            let mut moved = 0;
            for key in keys() {
                let before = all[all_hashed.owner(key).expect("an endpoint")];
                let after = less[less_hashed.owner(key).expect("an endpoint")];
                if before == all[gone] {
                    moved += 1;
                    let skipped = all_hashed.best(key, |index| index == gone).expect("another");
                    prop_assert_eq!(after, all[skipped], "skipping is as if it were gone");
                } else {
                    prop_assert_eq!(before, after);
                }
            }
            let mean = KEYS as f64 / count as f64;
            prop_assert!((moved as f64) <= mean + 6.0 * mean.sqrt(), "{moved} moved");
        }

        /// Whatever a table has seen and taken over, it says what a new one says.
        #[test]
        fn what_is_remembered_changes_nothing(
            first: u8,
            steps in prop::collection::vec((0usize..40, 0usize..40), 1..5),
        ) {
            let pool = seeds(first, 140);
            let (mut from, mut to) = (20, 80);
            let mut table = hashed(&pool[from..to]);
            for (less, more) in steps {
                for key in keys().take(1000) {
                    let fresh = rated_by_hand(&pool[from..to], key);
                    prop_assert_eq!(table.owner(key), fresh);
                    prop_assert_eq!(table.owner(key), fresh, "the second time");
                }
                (from, to) = ((from + less).min(100), (to + more).clamp(from + less + 1, 140));
                table = Hashed::after(&table, pool[from..to].into());
            }
        }

        #[test]
        fn groups_hold_different_endpoints_and_stay(first: u8, count in 1usize..80, size in 1usize..10, name: u64) {
            let all = seeds(first, count);
            let group = hashed(&all).group(name, size);
            prop_assert_eq!(group.len(), size.min(count));
            let mut different = group.clone();
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(different.len(), group.len());
            // Somebody else goes: the group is the same.
            if let Some(other) = (0..count).find(|index| !group.contains(index))
                && size * 4 < count
            {
                let mut less = all.clone();
                less.remove(other);
                let still: Vec<_> = hashed(&less).group(name, size).iter().map(|at| less[*at]).collect();
                let before: Vec<_> = group.iter().map(|at| all[*at]).collect();
                prop_assert_eq!(still, before);
            }
        }
    }

    fn rated_by_hand(seeds: &[Seed], key: u64) -> Option<usize> {
        (0..seeds.len()).max_by_key(|at| rate(seeds[*at], mix(slot(key) as u64)))
    }
}
