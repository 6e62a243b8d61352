//! The forwarder's maps: rings and endpoints.
//!
//! A ring is never changed where it is: the new one is written elsewhere, and the VIP's entry then
//! names it with one write of eight bytes. The place of the old one, like the slot of an endpoint
//! that is gone, rests until the next [`Forwarding::wake`], since a program that runs at this moment
//! may have read what led there.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use lb_common::maps::{
    BackendValue, MAX_BACKENDS, MAX_RING_CHUNKS, RING_CHUNK, RingChunk, ServiceValue, VIP_AFFINITY,
};

use super::tables::vip_key;
use super::{KernelError, take};
use crate::dataplane::image::forward::{Backend, Service, server_id};
use crate::model::{Transport, Vip};

const SERVICES: &str = "L4_SERVICES";
const RINGS: &str = "L4_RINGS";
const BACKENDS: &str = "L4_BACKENDS";

pub(super) struct Forwarding {
    services: Array<MapData, ServiceValue>,
    rings: Array<MapData, RingChunk>,
    backends: Array<MapData, BackendValue>,
    /// Endpoints by their slots, and whether they take new connections.
    slots: BTreeMap<Backend, (u32, bool)>,
    free_slots: BTreeSet<u32>,
    /// Whether each chunk of the rings is in use.
    used: Vec<bool>,
    resting_slots: Vec<u32>,
    resting_chunks: Vec<ServiceValue>,
}

impl Forwarding {
    /// Takes the maps, and reads what is in them. `rings` are the slots of VIPs in forward mode.
    pub(super) fn take(programs: &mut Ebpf, vips: &[u32]) -> Result<Self, KernelError> {
        let mut all = Self {
            services: take(programs, SERVICES)?,
            rings: take(programs, RINGS)?,
            backends: take(programs, BACKENDS)?,
            slots: BTreeMap::new(),
            free_slots: BTreeSet::new(),
            used: vec![false; MAX_RING_CHUNKS as usize],
            resting_slots: Vec::new(),
            resting_chunks: Vec::new(),
        };
        for slot in 0..MAX_BACKENDS {
            let value = all.value(slot)?;
            let known = backend(&value).filter(|backend| !all.slots.contains_key(backend));
            match known {
                Some(backend) => drop(all.slots.insert(backend, (slot, value.draining == 0))),
                None => drop(all.free_slots.insert(slot)),
            }
        }
        for slot in vips {
            let place = all.place(*slot)?;
            all.mark(place, true);
        }
        Ok(all)
    }

    /// What rested may be used again. To be called where time has passed since the last writes.
    pub(super) fn wake(&mut self) {
        self.free_slots.extend(self.resting_slots.drain(..));
        for place in std::mem::take(&mut self.resting_chunks) {
            self.mark(place, false);
        }
    }

    /// Keeps the kernel from forgetting the next hops of endpoints.
    pub(super) fn keep_neighbours(&self) {
        let addresses: BTreeSet<_> = self.slots.keys().map(|backend| backend.address.ip()).collect();
        ask_for_neighbours(addresses);
    }

    /// The endpoints that the kernel has now.
    pub(super) fn backends(&self) -> Result<BTreeMap<Backend, bool>, KernelError> {
        let mut backends = BTreeMap::new();
        for slot in 0..MAX_BACKENDS {
            let value = self.value(slot)?;
            if let Some(backend) = backend(&value) {
                backends.insert(backend, value.draining == 0);
            }
        }
        Ok(backends)
    }

    /// The endpoints as this process wrote them.
    pub(super) fn known_backends(&self) -> BTreeMap<Backend, bool> {
        self.slots.iter().map(|(backend, (_, takes))| (*backend, *takes)).collect()
    }

    /// The endpoints that the kernel has in these slots.
    pub(super) fn endpoints(&self, slots: &BTreeMap<u64, u32>) -> Result<BTreeSet<SocketAddr>, KernelError> {
        let mut endpoints = BTreeSet::new();
        for (id, slot) in slots {
            let found = backend(&self.value(*slot)?);
            endpoints.extend(found.map(|found| found.address).filter(|found| server_id(found.ip()) == *id));
        }
        Ok(endpoints)
    }

    /// The slots of endpoints, by their server ids.
    pub(super) fn slots(
        &self,
        transport: Transport,
        endpoints: &BTreeSet<SocketAddr>,
    ) -> Result<BTreeMap<u64, u32>, KernelError> {
        let slot = |address: &SocketAddr| {
            let known = self.slots.get(&Backend { address: *address, transport });
            let (slot, _) = known.ok_or(KernelError::Full(BACKENDS))?;
            Ok((server_id(address.ip()), *slot))
        };
        endpoints.iter().map(slot).collect()
    }

    /// What the kernel has of a VIP in forward mode, but for its clients and its endpoints' names; `None`: its ring is not what it should be.
    pub(super) fn service(&self, slot: u32, flags: u32) -> Result<Option<Service>, KernelError> {
        let affinity = flags & VIP_AFFINITY != 0;
        let ring = self.ring(self.place(slot)?)?;
        let mut targets = BTreeMap::new();
        for slot in ring.iter().copied().collect::<BTreeSet<_>>() {
            let Some(backend) = slot.checked_sub(1).map(|slot| self.value(slot)).transpose()? else {
                return Ok(None);
            };
            let Some(backend) = self::backend(&backend) else { return Ok(None) };
            targets.insert(backend.address, slot);
        }
        let service = Service { targets: targets.keys().copied().collect(), affinity, ..Service::default() };
        let slots: Vec<_> = targets.into_values().collect();
        let expected = service.ring();
        let same = expected.len() == ring.len()
            && expected.iter().zip(&ring).all(|(index, slot)| slots[*index as usize] == *slot);
        Ok(same.then_some(service))
    }

    pub(super) fn set_backend(&mut self, backend: &Backend, takes: bool) -> Result<(), KernelError> {
        let (slot, known) = match self.slots.get(backend) {
            Some((slot, _)) => (*slot, true),
            None => (self.free_slots.pop_first().ok_or(KernelError::Full(BACKENDS))?, false),
        };
        let old = self.value(slot)?;
        let key = vip_key(&Vip {
            address: backend.address.ip(),
            port: backend.address.port(),
            transport: backend.transport,
        });
        let value = BackendValue {
            address: key.address,
            port: key.port,
            protocol: key.protocol,
            draining: u8::from(!takes),
            generation: if known { old.generation } else { old.generation.wrapping_add(1) },
        };
        self.backends.set(slot, value, 0).map_err(KernelError::map(BACKENDS))?;
        self.slots.insert(*backend, (slot, takes));
        if !known {
            ask_for_neighbours([backend.address.ip()]);
        }
        Ok(())
    }

    /// Flows to the endpoint end with it: its slot's generation rises.
    pub(super) fn delete_backend(&mut self, backend: &Backend) -> Result<(), KernelError> {
        let Some((slot, _)) = self.slots.remove(backend) else { return Ok(()) };
        let generation = self.value(slot)?.generation.wrapping_add(1);
        let value = BackendValue { generation, ..BackendValue::default() };
        self.backends.set(slot, value, 0).map_err(KernelError::map(BACKENDS))?;
        self.resting_slots.push(slot);
        Ok(())
    }

    /// Writes the ring of the VIP in this slot. `known`: it had one before.
    pub(super) fn set_service(
        &mut self,
        vip: &Vip,
        slot: u32,
        service: &Service,
        known: bool,
    ) -> Result<(), KernelError> {
        let mut slots = Vec::with_capacity(service.targets.len());
        for address in &service.targets {
            let backend = Backend { address: *address, transport: vip.transport };
            let (slot, _) = self.slots.get(&backend).ok_or(KernelError::Full(BACKENDS))?;
            slots.push(slot + 1);
        }
        let ring: Vec<_> = service.ring().into_iter().map(|index| slots[index as usize]).collect();
        let old = if known { self.place(slot)? } else { ServiceValue::default() };
        let place = ServiceValue { first: self.room(service.chunks())?, size: ring.len() as u32 };
        for (chunk, part) in (place.first..).zip(ring.chunks(RING_CHUNK)) {
            let mut value = RingChunk([0; RING_CHUNK]);
            value.0[..part.len()].copy_from_slice(part);
            self.rings.set(chunk, value, 0).map_err(KernelError::map(RINGS))?;
        }
        self.services.set(slot, place, 0).map_err(KernelError::map(SERVICES))?;
        self.mark(place, true);
        self.resting_chunks.push(old);
        Ok(())
    }

    /// The VIP in this slot has no ring any more.
    pub(super) fn delete_service(&mut self, slot: u32) -> Result<(), KernelError> {
        let old = self.place(slot)?;
        self.services.set(slot, ServiceValue::default(), 0).map_err(KernelError::map(SERVICES))?;
        self.resting_chunks.push(old);
        Ok(())
    }

    fn place(&self, slot: u32) -> Result<ServiceValue, KernelError> {
        self.services.get(&slot, 0).map_err(KernelError::map(SERVICES))
    }

    fn value(&self, slot: u32) -> Result<BackendValue, KernelError> {
        self.backends.get(&slot, 0).map_err(KernelError::map(BACKENDS))
    }

    fn ring(&self, place: ServiceValue) -> Result<Vec<u32>, KernelError> {
        let mut ring = Vec::with_capacity(place.size as usize);
        for chunk in chunks(place) {
            let value = self.rings.get(&(chunk as u32), 0).map_err(KernelError::map(RINGS))?;
            ring.extend(value.0);
        }
        ring.truncate(place.size as usize);
        Ok(ring)
    }

    /// The first of so many free chunks in a row.
    fn room(&self, chunks: usize) -> Result<u32, KernelError> {
        let mut free = 0;
        for (at, used) in self.used.iter().enumerate() {
            free = if *used { 0 } else { free + 1 };
            if free >= chunks {
                return Ok((at + 1 - chunks.min(at + 1)) as u32);
            }
        }
        Err(KernelError::Full(RINGS))
    }

    fn mark(&mut self, place: ServiceValue, used: bool) {
        for chunk in chunks(place) {
            if let Some(mark) = self.used.get_mut(chunk) {
                *mark = used;
            }
        }
    }
}

/// Makes the kernel find out the MACs of next hops, which the program needs and can't ask for: an empty
/// datagram to the discard port does. Where it can't be sent there is no route, which packets to the
/// VIP are counted by.
fn ask_for_neighbours(addresses: impl IntoIterator<Item = IpAddr>) {
    const DISCARD: u16 = 9;
    let v4 = LazyCell::new(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok());
    let v6 = LazyCell::new(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok());
    for address in addresses {
        if let Some(socket) = if address.is_ipv4() { &*v4 } else { &*v6 } {
            let _ = socket.send_to(&[], (address, DISCARD));
        }
    }
}

/// The chunks of a ring.
fn chunks(place: ServiceValue) -> std::ops::Range<usize> {
    let first = place.first as usize;
    first..first + (place.size as usize).div_ceil(RING_CHUNK)
}

fn backend(value: &BackendValue) -> Option<Backend> {
    let transport = match value.protocol {
        6 => Transport::Tcp,
        17 => Transport::Udp,
        _ => return None,
    };
    let mut octets = [0; 16];
    for (part, word) in octets.chunks_mut(4).zip(value.address) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    let address = IpAddr::from(octets).to_canonical();
    Some(Backend { address: SocketAddr::new(address, u16::from_be(value.port)), transport })
}
