//! An entry of a ring: to whom the flows go whose hash leads there, and to whom they went.
//!
//! Packets that are sent as they are (see [`crate::direct`]) need no memory as long as the ring stays:
//! all packets of a flow find the same entry. Where the ring changes, the entry keeps whose flows it
//! had before, and from then on its flows are entered in the flow table: packets in the middle of
//! a flow that is not there yet are the former endpoint's, beginnings are the new one's. So exactly those
//! flows are remembered that a change of the ring would have moved.
//!
//! The daemon writes entries ([`Entry::new`]), the programs read them. Rings of VIPs whose packets are
//! written anew have no former endpoints: each of their flows is in the table.

use crate::maps::MAX_BACKENDS;

/// An entry. From the lowest bit on: the endpoint's slot plus one (15), the former endpoint's likewise (15;
/// 0: there is none), whether still others have flows (1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(pub u32);

const BITS: u32 = 15;
const SLOT: u32 = (1 << BITS) - 1;
const OTHERS: u32 = 1 << (2 * BITS);
const _: () = assert!(MAX_BACKENDS < SLOT);

impl Entry {
    /// An entry of these slots.
    pub const fn new(now: u32, before: Option<u32>, others: bool) -> Self {
        let before = match before {
            Some(slot) => slot + 1,
            None => 0,
        };
        Self((now + 1) | (before << BITS) | if others { OTHERS } else { 0 })
    }

    /// The slot of the endpoint; `None`: there is none.
    #[inline(always)]
    pub const fn now(self) -> Option<u32> {
        (self.0 & SLOT).checked_sub(1)
    }

    /// The slot of the endpoint that has the flows which nobody has seen since the ring changed.
    #[inline(always)]
    pub const fn before(self) -> Option<u32> {
        (self.0 >> BITS & SLOT).checked_sub(1)
    }

    /// Whether endpoints besides these two have flows, all of which are in the table.
    pub const fn others(self) -> bool {
        self.0 & OTHERS != 0
    }

    /// Whether its flows are in the table.
    #[inline(always)]
    pub const fn remembers(self) -> bool {
        self.0 >> BITS != 0
    }

    /// The slot for a packet whose flow is not in the table. `begins`: it can't be of a flow that is older
    /// than the ring.
    #[inline(always)]
    pub const fn choice(self, begins: bool) -> Option<u32> {
        match self.before() {
            Some(before) if !begins => Some(before),
            _ => self.now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_stay_apart(now in 0..MAX_BACKENDS, before in prop::option::of(0..MAX_BACKENDS), others: bool) {
            let entry = Entry::new(now, before, others);
            prop_assert_eq!((entry.now(), entry.before(), entry.others()), (Some(now), before, others));
            prop_assert_eq!(entry.remembers(), before.is_some() || others);
            prop_assert_eq!(entry.choice(true), Some(now));
            prop_assert_eq!(entry.choice(false), before.or(Some(now)));
        }
    }

    #[test]
    fn entries_of_rings_without_history_are_slots_plus_one() {
        assert_eq!(Entry::new(7, None, false), Entry(8));
        assert_eq!((Entry(0).now(), Entry(0).choice(false), Entry(0).remembers()), (None, None, false));
    }
}
