//! What clients have used up of their limits on this node, whichever worker they came to.
//!
//! Workers share nothing on the way of a request, but a limit for each worker would be as many
//! limits as there are workers, and a client would get its share by the luck of the hash. So
//! requests of routes with limits, and only those, take a lock here: one of 64, chosen by the
//! client, held for a look-up in a table that fits in a cache line or two. Two workers meet at a
//! lock only while they serve the same 64th of all clients in the same fraction of a microsecond.
//!
//! Memory is bounded. Paces are forgotten when they are paid; where a flood of addresses fills the
//! table before, those closest to it go. That gives a client its burst again, never refuses one.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ahash::AHashMap;

use super::pace::Pace;
use crate::model::ObjectKey;

const SHARDS: usize = 64;

/// How many paces one shard remembers: 262,144 in all, 17 bytes each and what the table leaves free.
const PACES: usize = 4096;

/// Which limit of which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    PerSecond,
    PerMinute,
    Requests,
    /// Passwords that wait to be checked.
    Passwords,
}

/// What clients have used up of their limits.
#[derive(Debug)]
pub(super) struct Ledger {
    start: Instant,
    keys: RandomState,
    shards: Box<[Shard]>,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    /// Until when what was granted is paid, in nanoseconds after the start.
    paces: AHashMap<u64, u64>,
    /// What is in use now. Bounded by the requests that are being served.
    counts: AHashMap<u64, u32>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            keys: RandomState::new(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
        }
    }
}

impl Ledger {
    /// The account of a client for a limit of an Ingress. As in nginx, all routes of an Ingress
    /// count together.
    pub(super) fn entry(&self, ingress: &ObjectKey, kind: Kind, client: IpAddr) -> Entry {
        Entry(self.keys.hash_one((ingress, kind, subscriber(client))))
    }

    /// Whether a request may be served now at this pace; if so, it is booked.
    pub(super) fn grant(&self, entry: Entry, pace: Pace) -> bool {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.shard(entry).grant(entry.0, pace, now, PACES)
    }

    /// One more in use, until the answer is dropped; `None` if there are `limit` already.
    pub(super) fn hold(self: &Arc<Self>, entry: Entry, limit: u32) -> Option<Held> {
        let mut accounts = self.shard(entry);
        let used = accounts.counts.get(&entry.0).copied().unwrap_or(0);
        if used >= limit {
            return None;
        }
        accounts.counts.insert(entry.0, used + 1);
        Some(Held { ledger: Arc::clone(self), entry })
    }

    fn shard(&self, entry: Entry) -> MutexGuard<'_, Accounts> {
        // The tables use the hash's other end.
        let shard = &self.shards[(entry.0 >> 32) as usize % SHARDS];
        shard.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn grant(&mut self, key: u64, pace: Pace, now: u64, most: usize) -> bool {
        let before = self.paces.get(&key).copied();
        let Some(after) = pace.grant(before.unwrap_or(0), now) else { return false };
        if before.is_none() && self.paces.len() >= most {
            self.forget(now);
        }
        self.paces.insert(key, after);
        true
    }

    /// Makes room: what is paid goes, and if that is too little, what is paid before the mean.
    fn forget(&mut self, now: u64) {
        let before = self.paces.len();
        self.paces.retain(|_, paid_until| *paid_until > now);
        if self.paces.len() > before - before / 8 {
            let sum: u128 = self.paces.values().copied().map(u128::from).sum();
            let mean = sum / self.paces.len() as u128;
            self.paces.retain(|_, paid_until| u128::from(*paid_until) > mean);
        }
    }
}

/// Counts as in use while it lives.
#[derive(Debug)]
pub(in crate::proxy) struct Held {
    ledger: Arc<Ledger>,
    entry: Entry,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut accounts = self.ledger.shard(self.entry);
        match accounts.counts.get_mut(&self.entry.0) {
            Some(used) if *used > 1 => *used -= 1,
            _ => drop(accounts.counts.remove(&self.entry.0)),
        }
    }
}

/// Who counts as one client: an IPv4 address, or an IPv6 /64. A single subscriber has a /64 at
/// least, so limits for each address would be none. (nginx takes the whole address.)
fn subscriber(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(Ipv6Addr::from(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn who_counts_as_one() {
        for (one, other, same) in [
            ("1.2.3.4", "1.2.3.4", true),
            ("1.2.3.4", "1.2.3.5", false),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:1.2.3.4", "1.2.3.4", false),
        ] {
            let parse = |text: &str| subscriber(text.parse().expect("an address"));
            assert_eq!(parse(one) == parse(other), same, "{one} {other}");
        }
    }

    #[test]
    fn clients_limits_and_ingresses_count_apart() {
        let ledger = Ledger::default();
        let pace = Pace::new(1, 3600 * SECOND, 0);
        let (one, two) = (IpAddr::from([1, 2, 3, 4]), IpAddr::from([1, 2, 3, 5]));
        let (a, b) = (ObjectKey::new("x", "a"), ObjectKey::new("x", "b"));
        for (ingress, kind, client, granted) in [
            (&a, Kind::PerSecond, one, true),
            (&a, Kind::PerSecond, one, false),
            (&a, Kind::PerMinute, one, true),
            (&a, Kind::PerSecond, two, true),
            (&b, Kind::PerSecond, one, true),
            (&b, Kind::PerSecond, one, false),
        ] {
            let entry = ledger.entry(ingress, kind, client);
            assert_eq!(ledger.grant(entry, pace), granted, "{ingress} {kind:?} {client}");
        }
    }

    #[test]
    fn what_is_held_comes_back() {
        let ledger = Arc::new(Ledger::default());
        let entry = ledger.entry(&ObjectKey::new("x", "a"), Kind::Requests, IpAddr::from([1, 2, 3, 4]));
        let first = ledger.hold(entry, 2).expect("one");
        let second = ledger.hold(entry, 2).expect("two");
        assert!(ledger.hold(entry, 2).is_none(), "a third");
        drop(first);
        let third = ledger.hold(entry, 2).expect("one has gone");
        drop((second, third));
        assert!(ledger.shard(entry).counts.is_empty(), "nothing stays behind");
    }

    #[test]
    fn a_flood_of_addresses_fills_no_memory() {
        const MOST: usize = 64;
        let mut accounts = Accounts::default();
        let pace = Pace::new(1, SECOND, 4);
        // A client that has used up its burst is the last to be forgotten.
        while accounts.grant(u64::MAX, pace, 0, MOST) {}
        for key in 0..10_000 {
            assert!(accounts.grant(key, pace, key, MOST), "a new client gets in");
            assert!(accounts.paces.len() <= MOST, "{} entries", accounts.paces.len());
        }
        assert!(!accounts.grant(u64::MAX, pace, 10_000, MOST), "it is still remembered");
        assert!(accounts.grant(1, pace, 3600 * SECOND, MOST));
    }
}
