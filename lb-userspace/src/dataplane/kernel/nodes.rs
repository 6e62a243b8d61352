//! The addresses of nodes: who may send this one packets in packets, and to which addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use lb_common::maps::{NODE_PEER, NODE_SELF};

use super::tables::{address, address_key};
use super::{KernelError, take};

const NAME: &str = "L4_NODES";

pub(super) struct Nodes {
    map: HashMap<MapData, [u32; 4], u32>,
}

impl Nodes {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { map: take(programs, NAME)? })
    }

    /// What the kernel has; true: this node's.
    pub(super) fn read(&self) -> Result<BTreeMap<IpAddr, bool>, KernelError> {
        let entry = |entry: Result<([u32; 4], u32), MapError>| {
            entry.map(|(key, role)| (address(&key), role == NODE_SELF)).map_err(KernelError::map(NAME))
        };
        self.map.iter().map(entry).collect()
    }

    pub(super) fn set(&mut self, ip: IpAddr, own: bool) -> Result<(), KernelError> {
        let role = if own { NODE_SELF } else { NODE_PEER };
        self.map.insert(address_key(ip), role, 0).map_err(KernelError::map(NAME))
    }

    pub(super) fn delete(&mut self, ip: IpAddr) -> Result<(), KernelError> {
        KernelError::removal(NAME, self.map.remove(&address_key(ip)))
    }
}
