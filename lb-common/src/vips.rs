//! The VIP table: open addressing in plain memory, read without a single call.
//!
//! Every frame is looked up here, and on machines whose returns are slow a hash map of the kernel
//! costs more than all the rest of the way: it is two or three calls deep. This table is an array of
//! chunks, whose lookup the kernel inlines, and each key is compared where it lies.
//!
//! One daemon writes, a place at a time and in steps that a reader may fall between: a place is
//! taken out of use before its key changes and put into use after ([`insert`], [`remove`] say which
//! writes). Places that were given up stay in the way of searches until the next one is empty.

use crate::maps::{MAX_VIPS, VipKey, VipValue};

/// Places of the table: at most a third of them is ever taken, so that most searches look at one.
pub const PLACES: usize = 32_768;
const _: () = assert!(PLACES.is_power_of_two() && PLACES >= 3 * MAX_VIPS as usize);

/// Places in a chunk: what the daemon reads and writes at once.
pub const CHUNK: usize = 256;

/// Chunks of the table.
pub const CHUNKS: u32 = (PLACES / CHUNK) as u32;

/// How many places a search looks at, one after the other, before it gives up.
pub const REACH: usize = 32;

/// Never taken, or free again: no search goes beyond.
pub const EMPTY: u32 = 0;
/// In use.
pub const TAKEN: u32 = 1;
/// Out of use, while places behind it may be in use.
pub const GONE: u32 = 2;

/// A place of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VipPlace {
    /// Meaningless unless taken.
    pub key: VipKey,
    /// [`EMPTY`], [`TAKEN`] or [`GONE`].
    pub state: u32,
    /// What is known of the VIP.
    pub value: VipValue,
}

/// Some places, one element of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VipChunk(pub [VipPlace; CHUNK]);

impl Default for VipChunk {
    fn default() -> Self {
        Self([VipPlace::default(); CHUNK])
    }
}

/// Where the search for a key begins.
#[inline(always)]
pub const fn start(key: &VipKey) -> usize {
    let [a, b, c, d] = key.address;
    let ends = (key.port as u64) << 8 | key.protocol as u64;
    let high = ((a as u64) << 32 | b as u64) ^ ends.wrapping_mul(0xff51_afd7_ed55_8ccd);
    let low = (c as u64) << 32 | d as u64;
    let mixed = (high ^ low.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 49) as usize & (PLACES - 1)
}

/// What the table says of a key. `place` gives the place of an index below [`PLACES`].
#[inline(always)]
pub fn find<'a>(key: &VipKey, place: impl Fn(usize) -> Option<&'a VipPlace>) -> Option<VipValue> {
    let start = start(key);
    for step in 0..REACH {
        let place = place((start + step) & (PLACES - 1))?;
        if place.state == EMPTY {
            return None;
        }
        if place.state == TAKEN && place.key == *key {
            return Some(place.value);
        }
    }
    None
}

/// Writes to the table: each an index and the place's new content.
#[derive(Clone, Debug)]
pub struct Writes {
    index: usize,
    /// For the place itself.
    steps: [Option<VipPlace>; 2],
    /// How many places become empty then, this one first, going back from it.
    freed: usize,
}

impl Iterator for Writes {
    type Item = (usize, VipPlace);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(place) = self.steps.iter_mut().find_map(Option::take) {
            return Some((self.index, place));
        }
        self.freed = self.freed.checked_sub(1)?;
        let index = self.index;
        self.index = before(index);
        Some((index, VipPlace::default()))
    }
}

/// The writes, in order, that bring a VIP into the table or change it. `None`: within [`REACH`] of
/// its start all places are taken.
pub fn insert(key: &VipKey, value: VipValue, place: impl Fn(usize) -> VipPlace) -> Option<Writes> {
    let taken = VipPlace { key: *key, state: TAKEN, value };
    let mut free = None;
    for index in reach(key) {
        let found = place(index);
        if found.state == TAKEN && found.key == *key {
            return Some(Writes { index, steps: [Some(taken), None], freed: 0 });
        }
        if found.state != TAKEN {
            free = free.or(Some(index));
        }
        if found.state == EMPTY {
            break;
        }
    }
    // The new key is written while the place is out of use.
    let steps = [Some(VipPlace { state: GONE, ..taken }), Some(taken)];
    free.map(|index| Writes { index, steps, freed: 0 })
}

/// The writes, in order, that take a VIP out of the table, and what was known of it. Places that no
/// search needs to pass any more become empty.
pub fn remove(key: &VipKey, place: impl Fn(usize) -> VipPlace) -> Option<(VipValue, Writes)> {
    let index = reach(key).take_while(|index| place(*index).state != EMPTY).find(|index| {
        let found = place(*index);
        found.state == TAKEN && found.key == *key
    })?;
    let found = place(index);
    let mut freed = 0;
    if place((index + 1) & (PLACES - 1)).state == EMPTY {
        freed = 1;
        let mut next = before(index);
        while place(next).state == GONE && freed < PLACES {
            freed += 1;
            next = before(next);
        }
    }
    let steps = [Some(VipPlace { state: GONE, ..found }), None];
    Some((found.value, Writes { index, steps, freed }))
}

fn before(index: usize) -> usize {
    index.wrapping_sub(1) & (PLACES - 1)
}

fn reach(key: &VipKey) -> impl Iterator<Item = usize> {
    let start = start(key);
    (0..REACH).map(move |step| (start + step) & (PLACES - 1))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    struct Table(Vec<VipPlace>);

    impl Table {
        fn new() -> Self {
            Self(std::vec![VipPlace::default(); PLACES])
        }

        fn find(&self, key: &VipKey) -> Option<VipValue> {
            find(key, |index| self.0.get(index))
        }

        /// Does the writes, and looks after each whether `others` are found all the time.
        fn write(&mut self, writes: Writes, others: &[VipKey]) {
            for (index, place) in writes {
                self.0[index] = place;
                assert!(others.iter().all(|key| self.find(key).is_some()));
            }
        }
    }

    fn key(address: [u32; 4], port: u16, protocol: u8) -> VipKey {
        VipKey { address, port, protocol, zero: 0 }
    }

    /// Keys whose searches begin at few places, some of them at the table's end.
    fn crowd() -> Vec<VipKey> {
        let keys = (0..).map(|n| key([0, 0, 0xffff_0000, n], 80, 6));
        keys.filter(|key| start(key) < 8 || start(key) > PLACES - 8).take(40).collect()
    }

    #[test]
    fn the_most_vips_there_can_be_have_room() {
        let v4 = |number: u32| [0, 0, 0xffff_0000, number.to_be()];
        type Make = fn(u32) -> VipKey;
        let patterns: [(&str, Make); 4] = [
            ("addresses in a row", |n| key([0, 0, 0xffff_0000, (0x0a00_0000 + n).to_be()], 80u16.to_be(), 6)),
            ("ports of one address", |n| key([0, 0, 0xffff_0000, 77], (n as u16).to_be(), 6)),
            ("IPv6 addresses in a row", |n| key([0xb80d_0120, 0, 0, n.to_be()], 443u16.to_be(), 17)),
            ("both ports of networks", |n| {
                key([0, 0, 0xffff_0000, (n << 7).to_be()], 443 - (n as u16 & 1), 6)
            }),
        ];
        for (what, make) in patterns {
            let mut table = Table::new();
            for slot in 0..MAX_VIPS {
                let value = VipValue { slot, ..VipValue::default() };
                let writes = insert(&make(slot), value, |index| table.0[index]);
                table.write(writes.unwrap_or_else(|| panic!("{what}: {slot}")), &[]);
            }
            for slot in 0..MAX_VIPS {
                assert_eq!(table.find(&make(slot)).map(|value| value.slot), Some(slot), "{what}");
            }
            assert_eq!(table.find(&key(v4(1), 1, 1)), None, "{what}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(changes in prop::collection::vec((0..40usize, any::<Option<u32>>()), 1..200)) {
            let near = crowd();
            let mut table = Table::new();
            let mut model: BTreeMap<VipKey, u32> = BTreeMap::new();
            for (at, change) in changes {
                let key = near[at % near.len()];
                let others: Vec<_> = model.keys().filter(|other| **other != key).copied().collect();
                match change {
                    Some(slot) => {
                        let value = VipValue { slot, ..VipValue::default() };
                        let Some(writes) = insert(&key, value, |index| table.0[index]) else { continue };
                        table.write(writes, &others);
                        model.insert(key, slot);
                    }
                    None => {
                        let removed = remove(&key, |index| table.0[index]);
                        let had = removed.as_ref().map(|(value, _)| value.slot);
                        prop_assert_eq!(had, model.remove(&key));
                        if let Some((_, writes)) = removed {
                            table.write(writes, &others);
                        }
                    }
                }
                for key in &near {
                    prop_assert_eq!(table.find(key).map(|value| value.slot), model.get(key).copied());
                }
            }
            for key in model.into_keys() {
                let (_, writes) = remove(&key, |index| table.0[index]).expect("there");
                table.write(writes, &[]);
            }
            prop_assert!(table.0.iter().all(|place| place.state == EMPTY));
        }
    }
}
