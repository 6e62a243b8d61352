//! The maps that follow the snapshot, and the counters beside them.
//!
//! Counters lie in arrays of their own, found by a slot number in the VIP's or name's entry. The
//! slots in use are read back from the kernel, so they survive the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lb_common::maps::{
    MAX_NAMES, MAX_VIPS, NameKey, ReasonCounters, VIP_AFFINITY, VIP_DIRECT, VIP_FILTER_SNI, VIP_FORWARD,
    VIP_OBSERVE_SNI, VIP_QUIC, VIP_RANGES, VIP_STEER, VipCounters, VipKey, VipValue, name_class, name_slot,
    name_value,
};
use lb_common::reason::Reason;

use super::forwarding::Forwarding;
use super::nodes::Nodes;
use super::ranges::Ranges;
use super::servers::Servers;
use super::{Counters, KernelError, NameCount, VipCount, VipTable, take};
use crate::dataplane::diff::Op;
use crate::dataplane::image::forward::{self, Service};
use crate::dataplane::image::{Class, MapImage, VipEntry};
use crate::model::{Transport, Vip};

pub(super) struct Tables {
    vips: VipTable,
    vip_counters: PerCpuArray<MapData, VipCounters>,
    names: HashMap<MapData, NameKey, u32>,
    wildcards: HashMap<MapData, NameKey, u32>,
    name_counters: PerCpuArray<MapData, u64>,
    reasons: PerCpuArray<MapData, ReasonCounters>,
    forwarding: Forwarding,
    ranges: Ranges,
    nodes: Nodes,
    servers: Servers,
    /// Of VIPs in forward mode, as this process wrote them.
    services: BTreeMap<Vip, Service>,
    free_vips: BTreeSet<u32>,
    free_names: BTreeSet<u32>,
    cpus: usize,
}

impl Tables {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, KernelError> {
        let vips = VipTable::take(programs)?;
        let forwarded: Vec<_> =
            vips.entries()?.iter().filter(|(_, v)| is_forwarded(v)).map(|(_, v)| v.slot).collect();
        let mut tables = Self {
            forwarding: Forwarding::take(programs, &forwarded)?,
            ranges: Ranges::take(programs, &forwarded)?,
            nodes: Nodes::take(programs)?,
            servers: Servers::take(programs, &forwarded)?,
            services: BTreeMap::new(),
            vips,
            vip_counters: take(programs, "VIP_COUNTERS")?,
            names: take(programs, "NAMES")?,
            wildcards: take(programs, "WILDCARDS")?,
            name_counters: take(programs, "NAME_COUNTERS")?,
            reasons: take(programs, "REASONS")?,
            free_vips: (0..MAX_VIPS).collect(),
            free_names: (0..2 * MAX_NAMES).collect(),
            cpus: nr_cpus().map_err(|(path, source)| KernelError::PinDir { path: path.into(), source })?,
        };
        for (_, value) in tables.vips.entries()? {
            tables.free_vips.remove(&value.slot);
        }
        for (name, map) in [("NAMES", &tables.names), ("WILDCARDS", &tables.wildcards)] {
            for (_, value) in entries(name, map)? {
                tables.free_names.remove(&name_slot(value));
            }
        }
        tables.services = tables.read_services()?;
        Ok(tables)
    }

    pub(super) fn keep_neighbours(&self) {
        self.forwarding.keep_neighbours();
    }

    /// Looks at what somebody else may have changed.
    pub(super) fn refresh(&mut self) -> Result<(), KernelError> {
        self.forwarding.wake();
        self.vips.refresh()
    }

    pub(super) fn read(&self) -> Result<MapImage, KernelError> {
        let vips = self.vips.entries()?;
        let names = |name, map| -> Result<_, KernelError> {
            let entries = entries(name, map)?.into_iter();
            Ok(entries.map(|(key, value)| (text(&key), name_class(value) as Class)).collect())
        };
        let proxied = vips.into_iter().filter(|(_, value)| !is_forwarded(value));
        Ok(MapImage {
            vips: proxied.map(|(key, value)| (vip(&key), entry(value))).collect(),
            names: names("NAMES", &self.names)?,
            wildcards: names("WILDCARDS", &self.wildcards)?,
            forward: forward::Forwarding {
                backends: self.forwarding.backends()?,
                services: self.read_services()?,
                nodes: self.nodes.read()?,
            },
        })
    }

    /// As [`Self::read`], but for rings and endpoints: of these there are thousands, so what this
    /// process wrote is believed as long as their VIPs are there.
    pub(super) fn know(&self) -> Result<MapImage, KernelError> {
        let vips = self.vips.entries()?;
        let there: BTreeSet<_> =
            vips.iter().filter(|(_, v)| is_forwarded(v)).map(|(key, _)| vip(key)).collect();
        let services = self.services.iter().filter(|(vip, _)| there.contains(vip));
        let services = services.map(|(vip, service)| (*vip, service.clone())).collect();
        let proxied = vips.into_iter().filter(|(_, value)| !is_forwarded(value));
        let names = |name, map| -> Result<_, KernelError> {
            let entries = entries(name, map)?.into_iter();
            Ok(entries.map(|(key, value)| (text(&key), name_class(value) as Class)).collect())
        };
        Ok(MapImage {
            vips: proxied.map(|(key, value)| (vip(&key), entry(value))).collect(),
            names: names("NAMES", &self.names)?,
            wildcards: names("WILDCARDS", &self.wildcards)?,
            forward: forward::Forwarding {
                backends: self.forwarding.known_backends(),
                services,
                nodes: self.nodes.read()?,
            },
        })
    }

    fn read_services(&self) -> Result<BTreeMap<Vip, Service>, KernelError> {
        let mut services = BTreeMap::new();
        let mut ranges = self.ranges.read()?;
        let mut servers = self.servers.read()?;
        for (key, value) in self.vips.entries()? {
            let vip = vip(&key);
            if is_forwarded(&value)
                && let Some(mut service) = self.forwarding.service(&vip, value, self.services.get(&vip))?
            {
                let listed = value.flags & VIP_RANGES != 0;
                service.sources = listed.then(|| ranges.remove(&value.slot).unwrap_or_default());
                if let Some(slots) = servers.remove(&value.slot).filter(|_| value.flags & VIP_QUIC != 0) {
                    service.named = self.forwarding.endpoints(&slots)?;
                }
                services.insert(vip, service);
            }
        }
        Ok(services)
    }

    pub(super) fn write(&mut self, op: &Op) -> Result<(), KernelError> {
        match op {
            Op::SetVip(vip, entry) => self.set_vip(vip, *entry),
            Op::SetBackend(backend, takes) => self.forwarding.set_backend(backend, *takes),
            Op::DeleteBackend(backend) => self.forwarding.delete_backend(backend),
            Op::SetNode(address, own) => self.nodes.set(*address, *own),
            Op::DeleteNode(address) => self.nodes.delete(*address),
            Op::SetService(vip, service) => {
                let flag = |on, flag| if on { flag } else { 0 };
                let flags = VIP_FORWARD
                    | flag(service.direct.is_some(), VIP_DIRECT)
                    | flag(service.affinity, VIP_AFFINITY)
                    | flag(service.sources.is_some(), VIP_RANGES)
                    | flag(!service.named.is_empty(), VIP_QUIC);
                let nobody = BTreeSet::new();
                let sources = service.sources.as_ref().unwrap_or(&nobody);
                let (slot, known) = self.vip_slot(vip)?;
                // The ring first: no packet is to find the VIP without one.
                self.forwarding.set_service(vip, slot, service, known)?;
                self.servers.set(slot, self.forwarding.slots(vip.transport, &service.named)?)?;
                // Who comes is in before the VIP asks, who goes is out after.
                self.ranges.add(slot, sources)?;
                self.put_vip(vip, VipValue { slot, flags }, known)?;
                self.ranges.keep(slot, sources)?;
                self.services.insert(*vip, service.clone());
                Ok(())
            }
            Op::DeleteService(vip) => {
                self.services.remove(vip);
                if let Some(value) = self.vips.remove(&vip_key(vip))? {
                    self.forwarding.delete_service(value.slot)?;
                    self.ranges.keep(value.slot, &BTreeSet::new())?;
                    self.servers.set(value.slot, BTreeMap::new())?;
                    self.free_vips.insert(value.slot);
                }
                Ok(())
            }
            Op::DeleteVip(vip) => {
                if let Some(value) = self.vips.remove(&vip_key(vip))? {
                    self.free_vips.insert(value.slot);
                }
                Ok(())
            }
            Op::AddName(name, class) => {
                let mut slots = Slots::new(&mut self.free_names, &mut self.name_counters, self.cpus);
                add("NAMES", &mut self.names, name, *class, &mut slots)
            }
            Op::AddWildcard(suffix, class) => {
                let mut slots = Slots::new(&mut self.free_names, &mut self.name_counters, self.cpus);
                add("WILDCARDS", &mut self.wildcards, suffix, *class, &mut slots)
            }
            Op::DeleteName(name) => {
                let value = delete("NAMES", &mut self.names, &name_key(name)?)?;
                self.free_names.extend(value.map(name_slot));
                Ok(())
            }
            Op::DeleteWildcard(suffix) => {
                let value = delete("WILDCARDS", &mut self.wildcards, &name_key(suffix)?)?;
                self.free_names.extend(value.map(name_slot));
                Ok(())
            }
        }
    }

    pub(super) fn counters(&self) -> Result<Counters, KernelError> {
        let reasons = self.reasons.get(&0, 0).map_err(KernelError::map("REASONS"))?;
        let sum = |index: usize| reasons.iter().map(|cpu| cpu.0[index]).sum();
        let verdicts = Reason::ALL.iter().map(|reason| (reason.name(), sum(*reason as usize))).collect();

        let mut vips = Vec::new();
        for (key, value) in self.vips.entries()? {
            let cpus = self.vip_counters.get(&value.slot, 0).map_err(KernelError::map("VIP_COUNTERS"))?;
            vips.push(VipCount {
                vip: vip(&key),
                packets: cpus.iter().map(|cpu| cpu.packets).sum(),
                bytes: cpus.iter().map(|cpu| cpu.bytes).sum(),
                connections: cpus.iter().map(|cpu| cpu.connections).sum(),
            });
        }
        vips.sort_by_key(|count| count.vip);

        let mut sni = Vec::new();
        for (map_name, map, prefix) in [("NAMES", &self.names, ""), ("WILDCARDS", &self.wildcards, "*.")] {
            for (key, value) in entries(map_name, map)? {
                let cpus = self
                    .name_counters
                    .get(&name_slot(value), 0)
                    .map_err(KernelError::map("NAME_COUNTERS"))?;
                sni.push(NameCount {
                    name: format!("{prefix}{}", text(&key)),
                    connections: cpus.iter().sum(),
                });
            }
        }
        sni.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Counters { verdicts, vips, sni })
    }

    fn set_vip(&mut self, vip: &Vip, entry: VipEntry) -> Result<(), KernelError> {
        let (slot, known) = self.vip_slot(vip)?;
        let flag = |on, flag| if on { flag } else { 0 };
        let flags = flag(entry.observe_sni, VIP_OBSERVE_SNI)
            | flag(entry.filter_sni, VIP_FILTER_SNI)
            | flag(entry.steer_sni, VIP_STEER);
        self.put_vip(vip, VipValue { slot, flags }, known)
    }

    /// The slot of a VIP, and whether it had one before.
    fn vip_slot(&mut self, vip: &Vip) -> Result<(u32, bool), KernelError> {
        if let Some(value) = self.vips.get(&vip_key(vip)) {
            return Ok((value.slot, true));
        }
        let slot = self.free_vips.pop_first().ok_or(KernelError::Full("VIPS"))?;
        let zeros = vec![VipCounters::default(); self.cpus];
        reset("VIP_COUNTERS", &mut self.vip_counters, slot, zeros)?;
        Ok((slot, false))
    }

    fn put_vip(&mut self, vip: &Vip, value: VipValue, known: bool) -> Result<(), KernelError> {
        let inserted = self.vips.insert(&vip_key(vip), value);
        if inserted.is_err() && !known {
            self.free_vips.insert(value.slot);
        }
        inserted
    }
}

/// Names' counters.
struct Slots<'a> {
    free: &'a mut BTreeSet<u32>,
    counters: &'a mut PerCpuArray<MapData, u64>,
    cpus: usize,
}

impl<'a> Slots<'a> {
    fn new(free: &'a mut BTreeSet<u32>, counters: &'a mut PerCpuArray<MapData, u64>, cpus: usize) -> Self {
        Self { free, counters, cpus }
    }
}

fn add(
    map_name: &'static str,
    map: &mut HashMap<MapData, NameKey, u32>,
    name: &str,
    class: Class,
    slots: &mut Slots<'_>,
) -> Result<(), KernelError> {
    let key = name_key(name)?;
    if let Ok(value) = map.get(&key, 0) {
        let value = name_value(name_slot(value), class.into());
        return map.insert(key, value, 0).map_err(KernelError::map(map_name));
    }
    let slot = slots.free.pop_first().ok_or(KernelError::Full(map_name))?;
    reset("NAME_COUNTERS", slots.counters, slot, vec![0; slots.cpus])?;
    map.insert(key, name_value(slot, class.into()), 0).map_err(|error| {
        slots.free.insert(slot);
        KernelError::map(map_name)(error)
    })
}

/// A slot may have counted for somebody else before.
fn reset<T: aya::Pod>(
    name: &'static str,
    map: &mut PerCpuArray<MapData, T>,
    slot: u32,
    zeros: Vec<T>,
) -> Result<(), KernelError> {
    let error = KernelError::map(name);
    let zeros = PerCpuValues::try_from(zeros).map_err(|source| error(MapError::IoError(source)))?;
    map.set(slot, zeros, 0).map_err(error)
}

fn delete<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &mut HashMap<MapData, K, V>,
    key: &K,
) -> Result<Option<V>, KernelError> {
    let value = map.get(key, 0).ok();
    KernelError::removal(name, map.remove(key)).map(|()| value)
}

fn entries<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &HashMap<MapData, K, V>,
) -> Result<Vec<(K, V)>, KernelError> {
    map.iter().collect::<Result<_, _>>().map_err(KernelError::map(name))
}

fn is_forwarded(value: &VipValue) -> bool {
    value.flags & VIP_FORWARD != 0
}

pub(super) fn vip_key(vip: &Vip) -> VipKey {
    let protocol = match vip.transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    };
    VipKey { address: address_key(vip.address), port: vip.port.to_be(), protocol, zero: 0 }
}

/// An address as keys have it.
pub(super) fn address_key(address: IpAddr) -> [u32; 4] {
    let address = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    lb_common::verdict::words(address.octets())
}

/// The address in a key.
pub(super) fn address(key: &[u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (part, word) in octets.chunks_mut(4).zip(key) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

fn vip(key: &VipKey) -> Vip {
    Vip {
        address: address(&key.address),
        port: u16::from_be(key.port),
        transport: if key.protocol == 17 { Transport::Udp } else { Transport::Tcp },
    }
}

fn entry(value: VipValue) -> VipEntry {
    VipEntry {
        observe_sni: value.flags & VIP_OBSERVE_SNI != 0,
        filter_sni: value.flags & VIP_FILTER_SNI != 0,
        steer_sni: value.flags & VIP_STEER != 0,
    }
}

fn name_key(name: &str) -> Result<NameKey, KernelError> {
    // The image holds no name that is too long; one that gets here otherwise has no room.
    NameKey::new(name.as_bytes()).ok_or(KernelError::Full("NAMES"))
}

fn text(key: &NameKey) -> String {
    let bytes = key.bytes();
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
