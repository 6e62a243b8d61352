//! The prefixes of clients that VIPs in forward mode take packets from. One table for all of them: a
//! key is the slot of the VIP and a prefix.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use ipnet::IpNet;
use lb_common::ranges::{self, RangeKey, SLOT_BITS};

use super::rules;
use super::{KernelError, take};

const NAME: &str = "L4_RANGES";

pub(super) struct Ranges {
    map: LpmTrie<MapData, RangeKey, u32>,
    /// What the kernel has, by slot.
    known: BTreeMap<u32, BTreeSet<IpNet>>,
}

impl Ranges {
    /// Takes the map. What an earlier daemon left behind of other slots than these goes.
    pub(super) fn take(programs: &mut Ebpf, slots: &[u32]) -> Result<Self, KernelError> {
        let mut ranges = Self { map: take(programs, NAME)?, known: BTreeMap::new() };
        ranges.known = ranges.read()?;
        let stray: Vec<_> = ranges.known.keys().filter(|slot| !slots.contains(slot)).copied().collect();
        for slot in stray {
            ranges.keep(slot, &BTreeSet::new())?;
        }
        Ok(ranges)
    }

    /// What the kernel has now, by slot.
    pub(super) fn read(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, KernelError> {
        let mut all = BTreeMap::<_, BTreeSet<_>>::new();
        for entry in self.map.iter() {
            let (key, _) = entry.map_err(KernelError::map(NAME))?;
            let bits = key.prefix_len().checked_sub(SLOT_BITS);
            let [slot, address @ ..] = key.data();
            if let Some(network) = bits.and_then(|bits| rules::network(&Key::new(bits, address))) {
                all.entry(slot).or_default().insert(network);
            }
        }
        Ok(all)
    }

    /// Adds what a VIP has not yet. What it has beyond that stays until [`Self::keep`].
    pub(super) fn add(&mut self, slot: u32, networks: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        let known = self.known.entry(slot).or_default();
        for network in networks {
            if !known.contains(network) {
                self.map.insert(&key(slot, network), 1, 0).map_err(KernelError::map(NAME))?;
                known.insert(*network);
            }
        }
        Ok(())
    }

    /// Removes all that a VIP has besides these.
    pub(super) fn keep(&mut self, slot: u32, networks: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        let Some(known) = self.known.get_mut(&slot) else { return Ok(()) };
        let gone: Vec<_> = known.difference(networks).copied().collect();
        for network in gone {
            KernelError::removal(NAME, self.map.remove(&key(slot, &network)))?;
            known.remove(&network);
        }
        if known.is_empty() {
            self.known.remove(&slot);
        }
        Ok(())
    }
}

fn key(slot: u32, network: &IpNet) -> Key<RangeKey> {
    let prefix = rules::key(network);
    Key::new(SLOT_BITS + prefix.prefix_len(), ranges::key(slot, &prefix.data()))
}
