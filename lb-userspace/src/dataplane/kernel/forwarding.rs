//! The forwarder's maps: rings and endpoints.
//!
//! A ring is never changed where it is: the new one is written elsewhere, and the VIP's entry then
//! names it with one write of eight bytes. The place of the old one, like the slot of an endpoint
//! that is gone, rests until the next [`Forwarding::wake`], since a program that runs at this moment
//! may have read what led there.
//!
//! A VIP whose packets go as they are has two rings: one of all, with its history, and one of this node's
//! endpoints, for packets that other nodes sent here.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use lb_common::maps::{
    BackendValue, DIRECT_GUE, DIRECT_IPIP, DIRECT_L2, MAX_BACKENDS, MAX_RING_CHUNKS, MAX_VIPS, RING_CHUNK,
    RingChunk, ServiceValue, VIP_AFFINITY, VIP_DIRECT, VipValue,
};
use lb_common::ring::Entry;
use nix::time::{ClockId, clock_gettime};

use super::tables::{address, address_key};
use super::{KernelError, take};
use crate::dataplane::image::forward::{Backend, Ends, Service, Share, server_id};
use crate::dataplane::image::ring::History;
use crate::model::{Delivery, Transport, Vip};

const SERVICES: &str = "L4_SERVICES";
const RINGS: &str = "L4_RINGS";
const BACKENDS: &str = "L4_BACKENDS";
const CHANGED: &str = "L4_CHANGED";

pub(super) struct Forwarding {
    services: Array<MapData, ServiceValue>,
    rings: Array<MapData, RingChunk>,
    backends: Array<MapData, BackendValue>,
    changed: Array<MapData, u32>,
    /// Of VIPs whose packets go as they are, by slot.
    histories: BTreeMap<u32, History>,
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
            changed: take(programs, CHANGED)?,
            histories: BTreeMap::new(),
            slots: BTreeMap::new(),
            free_slots: BTreeSet::new(),
            used: vec![false; MAX_RING_CHUNKS as usize],
            resting_slots: Vec::new(),
            resting_chunks: Vec::new(),
        };
        for slot in 0..MAX_BACKENDS {
            let value = all.value(slot)?;
            let known = backend_of(&value).filter(|backend| !all.slots.contains_key(backend));
            match known {
                Some(backend) => drop(all.slots.insert(backend, (slot, value.draining == 0))),
                None => drop(all.free_slots.insert(slot)),
            }
        }
        for slot in vips.iter().flat_map(|slot| [*slot, slot + MAX_VIPS]) {
            let place = all.place(slot)?;
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
        let addresses: BTreeSet<_> = self.slots.keys().map(Backend::ip).collect();
        ask_for_neighbours(addresses);
    }

    /// The endpoints that the kernel has now.
    pub(super) fn backends(&self) -> Result<BTreeMap<Backend, bool>, KernelError> {
        let mut backends = BTreeMap::new();
        for slot in 0..MAX_BACKENDS {
            let value = self.value(slot)?;
            if let Some(backend) = backend_of(&value) {
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
            if let Some(Backend::Endpoint { address, .. }) = backend_of(&self.value(*slot)?)
                && server_id(address.ip()) == *id
            {
                endpoints.insert(address);
            }
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
            let known = self.slots.get(&Backend::Endpoint { address: *address, transport });
            let (slot, _) = known.ok_or(KernelError::Full(BACKENDS))?;
            Ok((server_id(address.ip()), *slot))
        };
        endpoints.iter().map(slot).collect()
    }

    /// What the kernel has of a VIP in forward mode, but for its clients and its endpoints' names; `None`: its
    /// ring is not what it should be. `known`: as this process wrote it.
    pub(super) fn service(
        &self,
        vip: &Vip,
        value: VipValue,
        known: Option<&Service>,
    ) -> Result<Option<Service>, KernelError> {
        let affinity = value.flags & VIP_AFFINITY != 0;
        let ring: Vec<_> = self.ring(value.slot)?.into_iter().map(Entry::now).collect();
        if value.flags & VIP_DIRECT == 0 {
            let targets = self.targets(&ring)?;
            let service = targets.map(|targets| Service { targets, affinity, ..Service::default() });
            return Ok(service.filter(|service| self.leads_to(service, vip, &ring, service.ring())));
        }
        // Of an end's share nothing is left in a ring that could be read from it.
        if let Some(known) = known.filter(|known| known.direct.is_some()) {
            let here: Vec<_> = self.ring(value.slot + MAX_VIPS)?.into_iter().map(Entry::now).collect();
            let same = self.leads_to(known, vip, &ring, known.whole_ring())
                && self.leads_to(known, vip, &here, known.ring());
            if same {
                let (sources, named) = Default::default();
                return Ok(Some(Service { affinity, sources, named, ..known.clone() }));
            }
        }
        let ends = BTreeMap::from([(vip.address, Share { endpoints: 0, here: false })]);
        let direct = Ends { by: Delivery::Ipip, ends, draining: BTreeSet::new() };
        Ok(Some(Service { affinity, direct: Some(direct), ..Service::default() }))
    }

    /// The endpoints in a ring; `None`: somebody else is in it.
    fn targets(&self, ring: &[Option<u32>]) -> Result<Option<BTreeSet<SocketAddr>>, KernelError> {
        let mut targets = BTreeSet::new();
        for slot in ring.iter().collect::<BTreeSet<_>>() {
            let backend = slot.map(|slot| self.value(slot)).transpose()?;
            let Some(Backend::Endpoint { address, .. }) = backend.and_then(|value| backend_of(&value)) else {
                return Ok(None);
            };
            targets.insert(address);
        }
        Ok(Some(targets))
    }

    /// Whether a ring of slots is the one that a Service should have.
    fn leads_to(&self, service: &Service, vip: &Vip, ring: &[Option<u32>], expected: Vec<u32>) -> bool {
        let slot = |backend| self.slots.get(&backend).map(|(slot, _)| *slot);
        let slots: Vec<_> = service.backends(vip.transport).map(slot).collect();
        expected.len() == ring.len()
            && expected.iter().zip(ring).all(|(index, at)| at.is_some() && slots[*index as usize] == *at)
    }

    pub(super) fn set_backend(&mut self, backend: &Backend, takes: bool) -> Result<(), KernelError> {
        let (slot, known) = match self.slots.get(backend) {
            Some((slot, _)) => (*slot, true),
            None => (self.free_slots.pop_first().ok_or(KernelError::Full(BACKENDS))?, false),
        };
        let old = self.value(slot)?;
        let (port, protocol) = match backend {
            Backend::Endpoint { address, transport: Transport::Tcp } => (address.port(), 6),
            Backend::Endpoint { address, transport: Transport::Udp } => (address.port(), 17),
            Backend::End { by, .. } => (0, delivery(*by)),
        };
        let value = BackendValue {
            address: address_key(backend.ip()),
            port: port.to_be(),
            protocol,
            draining: u8::from(!takes),
            generation: if known { old.generation } else { old.generation.wrapping_add(1) },
        };
        self.backends.set(slot, value, 0).map_err(KernelError::map(BACKENDS))?;
        self.slots.insert(*backend, (slot, takes));
        if !known {
            ask_for_neighbours([backend.ip()]);
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

    /// Writes the rings of the VIP in this slot. `known`: it had some before.
    pub(super) fn set_service(
        &mut self,
        vip: &Vip,
        slot: u32,
        service: &Service,
        known: bool,
    ) -> Result<(), KernelError> {
        let slot_of = |backend| match self.slots.get(&backend) {
            Some((slot, _)) => Ok(*slot),
            None => Err(KernelError::Full(BACKENDS)),
        };
        let slots: Vec<_> = service.backends(vip.transport).map(slot_of).collect::<Result<_, _>>()?;
        let of = |ring: Vec<u32>| -> Vec<_> { ring.into_iter().map(|at| slots[at as usize]).collect() };
        let plain = |ring: Vec<u32>| ring.into_iter().map(|slot| Entry::new(slot, None, false)).collect();
        let Some(direct) = &service.direct else {
            let ring: Vec<_> = plain(of(service.ring()));
            self.histories.remove(&slot);
            self.write(slot, &ring, known)?;
            return self.write(slot + MAX_VIPS, &[], known);
        };
        let (ring, here): (_, Vec<_>) = (of(service.whole_ring()), plain(of(service.ring())));
        let draining = direct.draining.iter().filter_map(|backend| self.slots.get(backend));
        let alive: BTreeSet<_> = slots.iter().copied().chain(draining.map(|(slot, _)| *slot)).collect();
        let mut history = match self.histories.remove(&slot) {
            Some(history) => history,
            None if known => History::of(self.ring(slot)?, &alive),
            None => History::default(),
        };
        history.follow(&ring, &alive);
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec() as u32);
        self.changed.set(slot, now, 0).map_err(KernelError::map(CHANGED))?;
        self.write(slot + MAX_VIPS, &here, known)?;
        self.write(slot, history.entries(), known)?;
        self.histories.insert(slot, history);
        Ok(())
    }

    /// Writes a ring, and then where it is.
    fn write(&mut self, slot: u32, ring: &[Entry], known: bool) -> Result<(), KernelError> {
        let old = if known { self.place(slot)? } else { ServiceValue::default() };
        let first = if ring.is_empty() { 0 } else { self.room(ring.len().div_ceil(RING_CHUNK))? };
        let place = ServiceValue { first, size: ring.len() as u32 };
        for (chunk, part) in (place.first..).zip(ring.chunks(RING_CHUNK)) {
            let mut value = RingChunk([0; RING_CHUNK]);
            for (to, entry) in value.0.iter_mut().zip(part) {
                *to = entry.0;
            }
            self.rings.set(chunk, value, 0).map_err(KernelError::map(RINGS))?;
        }
        self.services.set(slot, place, 0).map_err(KernelError::map(SERVICES))?;
        self.mark(place, true);
        self.resting_chunks.push(old);
        Ok(())
    }

    /// The VIP in this slot has no ring any more.
    pub(super) fn delete_service(&mut self, slot: u32) -> Result<(), KernelError> {
        self.histories.remove(&slot);
        self.write(slot, &[], true)?;
        self.write(slot + MAX_VIPS, &[], true)
    }

    fn place(&self, slot: u32) -> Result<ServiceValue, KernelError> {
        self.services.get(&slot, 0).map_err(KernelError::map(SERVICES))
    }

    fn value(&self, slot: u32) -> Result<BackendValue, KernelError> {
        self.backends.get(&slot, 0).map_err(KernelError::map(BACKENDS))
    }

    fn ring(&self, slot: u32) -> Result<Vec<Entry>, KernelError> {
        let place = self.place(slot)?;
        let mut ring = Vec::with_capacity(place.size as usize);
        for chunk in chunks(place) {
            let value = self.rings.get(&(chunk as u32), 0).map_err(KernelError::map(RINGS))?;
            ring.extend(value.0.map(Entry));
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

fn backend_of(value: &BackendValue) -> Option<Backend> {
    let ip = address(&value.address);
    let transport = match value.protocol {
        6 => Transport::Tcp,
        17 => Transport::Udp,
        other => {
            let all = [Delivery::L2, Delivery::Ipip, Delivery::Gue];
            let by = all.into_iter().find(|by| delivery(*by) == other)?;
            return Some(Backend::End { address: ip, by });
        }
    };
    Some(Backend::Endpoint { address: SocketAddr::new(ip, u16::from_be(value.port)), transport })
}

const fn delivery(by: Delivery) -> u8 {
    match by {
        Delivery::L2 => DIRECT_L2,
        Delivery::Ipip => DIRECT_IPIP,
        Delivery::Gue => DIRECT_GUE,
    }
}
