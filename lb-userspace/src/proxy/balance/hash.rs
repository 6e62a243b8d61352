//! Consistent hashing by highest random weight (rendezvous hashing, Thaler and Ravishankar 1998):
//! each key rates all endpoints, and the best one has it.
//!
//! A key only moves when its endpoint goes or a new one rates better, and the keys of an endpoint
//! that is gone spread over all others evenly. No ring could do better, and there is nothing to
//! build or to keep but a number for each endpoint; the price is one pass over the endpoints for
//! each request.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

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

/// The endpoint that `key` rates best among those that are not skipped.
pub(super) fn best(seeds: &[Seed], key: u64, skip: impl Fn(usize) -> bool) -> Option<usize> {
    let rated = seeds.iter().enumerate().filter(|(index, _)| !skip(*index));
    rated.max_by_key(|(_, seed)| rate(**seed, key)).map(|(index, _)| index)
}

/// The endpoints that `key` rates best, the best first; `count` of them if there are as many.
pub(super) fn group(seeds: &[Seed], key: u64, count: usize) -> SmallVec<[usize; 8]> {
    let mut rated: SmallVec<[(u64, usize); 8]> = SmallVec::new();
    for (index, seed) in seeds.iter().enumerate() {
        let rating = rate(*seed, key);
        let place = rated.partition_point(|(better, _)| *better >= rating);
        if place < count {
            rated.truncate(count - 1);
            rated.insert(place, (rating, index));
        }
    }
    rated.into_iter().map(|(_, index)| index).collect()
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

    fn none(_: usize) -> bool {
        false
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(seed(SocketAddr::from(([10, 0, 0, 1], 8080))), 0xc4da_0a68_ba67_8347);
        assert_eq!(key(b"user-1"), 0x41a2_fca5_c684_01c5);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn keys_are_spread(first: u8, count in 1usize..40) {
            let seeds = seeds(first, count);
            let mut load = vec![0usize; count];
            for key in keys() {
                load[best(&seeds, key, none).expect("an endpoint")] += 1;
            }
            let mean = KEYS as f64 / count as f64;
            // Six standard deviations of a binomial distribution.
            let most = mean + 6.0 * mean.sqrt();
            prop_assert!(load.iter().all(|one| (*one as f64) <= most), "{load:?}");
        }

        #[test]
        fn only_keys_of_what_goes_or_comes_move(first: u8, count in 2usize..40, gone in 0usize..40) {
            let (all, gone) = (seeds(first, count), gone % count);
            let mut less = all.clone();
            less.remove(gone);
            let mut moved = 0;
            for key in keys() {
                let before = all[best(&all, key, none).expect("an endpoint")];
                let after = less[best(&less, key, none).expect("an endpoint")];
                if before == all[gone] {
                    moved += 1;
                    let skipped = best(&all, key, |index| index == gone).expect("another");
                    prop_assert_eq!(after, all[skipped], "skipping is as if it were gone");
                } else {
                    prop_assert_eq!(before, after);
                }
            }
            let mean = KEYS as f64 / count as f64;
            prop_assert!((moved as f64) <= mean + 6.0 * mean.sqrt(), "{moved} moved");
        }

        #[test]
        fn groups_are_the_best(first: u8, count in 1usize..40, size in 1usize..10, name: u64) {
            let seeds = seeds(first, count);
            let group = group(&seeds, name, size);
            prop_assert_eq!(group.len(), size.min(count));
            let mut taken = Vec::new();
            for index in group {
                prop_assert_eq!(Some(index), best(&seeds, name, |one| taken.contains(&one)));
                taken.push(index);
            }
        }
    }
}
