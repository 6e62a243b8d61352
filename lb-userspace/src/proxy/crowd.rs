//! How many connections each client has open, over all workers.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::{AHashMap, RandomState};

use super::offences::client_network;

/// Parts with a lock each, so that workers seldom meet.
const SHARDS: usize = 64;

/// The clients' open connections. Only written when a connection comes or goes, and only where
/// there is a limit.
#[derive(Debug)]
pub(super) struct Crowd {
    most: u32,
    hasher: RandomState,
    shards: Box<[Mutex<AHashMap<IpAddr, u32>>]>,
}

/// A connection that counts for its client until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    crowd: Arc<Crowd>,
    client: IpAddr,
}

/// The client has as many connections as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Crowd {
    /// At most `most` connections for each client; 0 is no limit.
    pub(super) fn new(most: u32) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { most, hasher: RandomState::new(), shards })
    }

    /// One more connection of a client; `None` where nobody counts.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Option<Admitted>, TooMany> {
        if self.most == 0 {
            return Ok(None);
        }
        let client = client_network(address).addr();
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_default();
        if *open >= self.most {
            return Err(TooMany);
        }
        *open += 1;
        drop(shard);
        Ok(Some(Admitted { crowd: Arc::clone(self), client }))
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, AHashMap<IpAddr, u32>> {
        let shard = self.hasher.hash_one(client) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut shard = self.crowd.shard(self.client);
        if let Some(open) = shard.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                shard.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_share() {
        let crowd = Crowd::new(2);
        let ip = |text: &str| text.parse().expect("an address");
        let mut held = Vec::new();
        for (address, fits) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::3", true),
        ] {
            let admitted = crowd.admit(ip(address));
            assert_eq!(admitted.is_ok(), fits, "{address}");
            held.extend(admitted);
        }
        held.remove(0);
        assert!(crowd.admit(ip("192.0.2.1")).is_ok());
        held.clear();
        assert!(crowd.shards.iter().all(|shard| shard.lock().expect("whole").is_empty()));
        assert!((0..100).all(|_| matches!(Crowd::new(0).admit(ip("192.0.2.1")), Ok(None))));
    }
}
