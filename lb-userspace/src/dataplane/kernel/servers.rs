//! The endpoints that QUIC packets may name. One table for all VIPs: a key is the slot of the VIP and the
//! endpoint's server id.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use lb_common::quic::ServerKey;

use super::{KernelError, take};

const NAME: &str = "L4_SERVERS";

/// The slots of endpoints, by their server ids.
type Names = BTreeMap<u64, u32>;

pub(super) struct Servers {
    map: HashMap<MapData, ServerKey, u32>,
    /// What the kernel has, by the VIP's slot.
    known: BTreeMap<u32, Names>,
}

impl Servers {
    /// Takes the map. What an earlier daemon left behind of other slots than these goes.
    pub(super) fn take(programs: &mut Ebpf, slots: &[u32]) -> Result<Self, KernelError> {
        let mut servers = Self { map: take(programs, NAME)?, known: BTreeMap::new() };
        servers.known = servers.read()?;
        let stray: Vec<_> = servers.known.keys().filter(|slot| !slots.contains(slot)).copied().collect();
        for slot in stray {
            servers.set(slot, Names::new())?;
        }
        Ok(servers)
    }

    /// What the kernel has now, by the VIP's slot.
    pub(super) fn read(&self) -> Result<BTreeMap<u32, Names>, KernelError> {
        let mut all = BTreeMap::<_, Names>::new();
        for entry in self.map.iter() {
            let (key, backend) = entry.map_err(KernelError::map(NAME))?;
            all.entry(key.vip).or_default().insert(key.id, backend);
        }
        Ok(all)
    }

    /// Has packets to the VIP in this slot name these, and nobody else.
    pub(super) fn set(&mut self, vip: u32, names: Names) -> Result<(), KernelError> {
        let known = self.known.entry(vip).or_default();
        for (id, backend) in &names {
            if known.get(id) != Some(backend) {
                self.map.insert(key(vip, *id), backend, 0).map_err(KernelError::map(NAME))?;
                known.insert(*id, *backend);
            }
        }
        let gone: Vec<_> = known.keys().filter(|id| !names.contains_key(id)).copied().collect();
        for id in gone {
            KernelError::removal(NAME, self.map.remove(&key(vip, id)))?;
            known.remove(&id);
        }
        if names.is_empty() {
            self.known.remove(&vip);
        }
        Ok(())
    }
}

const fn key(vip: u32, id: u64) -> ServerKey {
    ServerKey { id, vip, zero: 0 }
}
