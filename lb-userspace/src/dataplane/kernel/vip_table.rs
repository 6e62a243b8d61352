//! The VIP table in the kernel, read and written in chunks.

use aya::Ebpf;
use aya::maps::{Array, MapData};
use lb_common::maps::{VipKey, VipValue};
use lb_common::vips::{self, CHUNK, CHUNKS, TAKEN, VipChunk, VipPlace, Writes};

use super::{KernelError, take};

const NAME: &str = "VIPS";

/// The table, with a copy of it in this process: only its daemon writes it. What somebody else
/// changes is seen by [`VipTable::refresh`].
pub struct VipTable {
    map: Array<MapData, VipChunk>,
    chunks: Vec<VipChunk>,
}

impl VipTable {
    /// Takes the map out of the loaded object and reads it.
    ///
    /// # Errors
    /// A map that is not there or can't be read.
    pub fn take(programs: &mut Ebpf) -> Result<Self, KernelError> {
        let mut table = Self { map: take(programs, NAME)?, chunks: Vec::new() };
        table.refresh()?;
        Ok(table)
    }

    /// Reads what the kernel has.
    ///
    /// # Errors
    /// A map that can't be read.
    pub fn refresh(&mut self) -> Result<(), KernelError> {
        self.chunks = self.read()?;
        Ok(())
    }

    /// All VIPs that the kernel has now, in no order.
    ///
    /// # Errors
    /// A map that can't be read.
    pub fn entries(&self) -> Result<Vec<(VipKey, VipValue)>, KernelError> {
        let chunks = self.read()?;
        let places = chunks.iter().flat_map(|chunk| &chunk.0).filter(|place| place.state == TAKEN);
        Ok(places.map(|place| (place.key, place.value)).collect())
    }

    /// What was known of a VIP when the table was read last.
    pub fn get(&self, key: &VipKey) -> Option<VipValue> {
        vips::find(key, |index| self.chunks.get(index / CHUNK)?.0.get(index % CHUNK))
    }

    /// Makes a VIP known or changes it.
    ///
    /// # Errors
    /// A map that can't be written, or has no place for this VIP.
    pub fn insert(&mut self, key: &VipKey, value: VipValue) -> Result<(), KernelError> {
        let writes = vips::insert(key, value, |index| self.place(index)).ok_or(KernelError::Full(NAME))?;
        self.write(writes)
    }

    /// Forgets a VIP, and says what was known of it.
    ///
    /// # Errors
    /// A map that can't be written.
    pub fn remove(&mut self, key: &VipKey) -> Result<Option<VipValue>, KernelError> {
        let Some((value, writes)) = vips::remove(key, |index| self.place(index)) else { return Ok(None) };
        self.write(writes)?;
        Ok(Some(value))
    }

    fn read(&self) -> Result<Vec<VipChunk>, KernelError> {
        (0..CHUNKS).map(|index| self.map.get(&index, 0).map_err(KernelError::map(NAME))).collect()
    }

    fn place(&self, index: usize) -> VipPlace {
        self.chunks[index / CHUNK].0[index % CHUNK]
    }

    fn write(&mut self, writes: Writes) -> Result<(), KernelError> {
        for (index, place) in writes {
            let chunk = &mut self.chunks[index / CHUNK];
            chunk.0[index % CHUNK] = place;
            // The other places are written as they are: who reads them at that moment sees no change.
            self.map.set((index / CHUNK) as u32, *chunk, 0).map_err(KernelError::map(NAME))?;
        }
        Ok(())
    }
}
