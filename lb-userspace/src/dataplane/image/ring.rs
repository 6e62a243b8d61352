//! What becomes of a ring's entries when the ring changes: whose flows they had stays known, as
//! [`lb_common::ring`] has it.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::ring::Entry;

/// A ring of slots with what its entries had before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: Vec<Entry>,
    /// Of entries that say [`Entry::others`]: who may have flows in the table besides their two.
    former: BTreeMap<u32, BTreeSet<u32>>,
}

impl History {
    /// A ring that somebody else wrote. `slots`: whom any of its flows may belong to.
    pub fn of(entries: Vec<Entry>, slots: &BTreeSet<u32>) -> Self {
        let others = (0..).zip(&entries).filter(|(_, entry)| entry.others());
        let former = others.map(|(at, _)| (at, slots.clone())).collect();
        Self { entries, former }
    }

    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Leads to these slots from now on. Flows of those that are `alive` stay theirs. A ring of another
    /// length has none of the old one's flows.
    pub fn follow(&mut self, now: &[u32], alive: &BTreeSet<u32>) {
        if self.entries.len() != now.len() {
            self.entries = now.iter().map(|slot| Entry::new(*slot, None, false)).collect();
            self.former.clear();
            return;
        }
        for (at, (entry, now)) in (0..).zip(self.entries.iter_mut().zip(now)) {
            let mut former = self.former.remove(&at).unwrap_or_default();
            former.retain(|slot| alive.contains(slot) && slot != now);
            let mut before = entry.before().filter(|slot| alive.contains(slot));
            if let Some(old) = entry.now().filter(|old| old != now && alive.contains(old)) {
                // Once the entry remembers, flows that it doesn't know are the first one's.
                match before {
                    None => before = Some(old),
                    Some(first) if first != old => drop(former.insert(old)),
                    Some(_) => {}
                }
            }
            before = before.filter(|slot| slot != now);
            *entry = Entry::new(*now, before, !former.is_empty());
            if !former.is_empty() {
                self.former.insert(at, former);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of flows, and the program's rule: one ring entry, whose flows are told apart by number.
    #[derive(Default)]
    struct Program {
        table: BTreeMap<u8, u32>,
    }

    impl Program {
        /// Where a packet goes.
        fn packet(&mut self, entry: Entry, flow: u8, begins: bool, alive: &BTreeSet<u32>) -> u32 {
            if !entry.remembers() {
                return entry.now().expect("an endpoint");
            }
            let known = self.table.get(&flow).copied().filter(|slot| alive.contains(slot));
            let slot = known.unwrap_or_else(|| entry.choice(begins).expect("an endpoint"));
            self.table.insert(flow, slot);
            slot
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// The ring leads to this endpoint.
        Move(u32),
        /// An endpoint is gone, with its flows.
        Gone(u32),
        /// Another one has the slot.
        Came(u32),
        /// The daemon begins anew.
        Restart,
        /// Flows that send a packet, all that are open unless they are left out here.
        Talk(BTreeSet<u8>),
        /// A flow begins, over the ports of an old one if need be.
        Open(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..5u32).prop_map(Step::Move),
            1 => (0..5u32).prop_map(Step::Gone),
            1 => (0..5u32).prop_map(Step::Came),
            1 => Just(Step::Restart),
            3 => prop::collection::btree_set(0..6u8, 0..3).prop_map(Step::Talk),
            4 => (0..6u8).prop_map(Step::Open),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn flows_stay_where_they_are_while_their_endpoint_lives(steps in steps(), silent in any::<bool>()) {
            let mut alive: BTreeSet<u32> = (0..5).collect();
            let mut history = History::default();
            history.follow(&[0], &alive);
            let mut program = Program::default();
            // Open flows: where they began, and whether the ring changed since their last packet.
            let mut flows = BTreeMap::<u8, (u32, bool)>::new();
            for step in steps {
                let entry = history.entries()[0];
                match step {
                    Step::Move(to) if alive.contains(&to) => {
                        history.follow(&[to], &alive);
                        flows.values_mut().for_each(|flow| flow.1 = true);
                    }
                    Step::Gone(slot) if entry.now() != Some(slot) => {
                        alive.remove(&slot);
                        flows.retain(|_, (at, _)| *at != slot);
                        program.table.retain(|_, at| *at != slot);
                        history.follow(&[entry.now().expect("one")], &alive);
                        // What says so must be gone before another one has the slot.
                        prop_assert_ne!(history.entries()[0].before(), Some(slot));
                    }
                    Step::Came(slot) => drop(alive.insert(slot)),
                    Step::Restart => history = History::of(history.entries().to_vec(), &alive),
                    Step::Open(flow) => {
                        // An old flow over the same ports has ended; the table may still know it.
                        let to = program.packet(entry, flow, true, &alive);
                        flows.insert(flow, (to, false));
                    }
                    Step::Talk(quiet) => {
                        for (flow, (at, moved)) in &mut flows {
                            if silent && quiet.contains(flow) {
                                continue;
                            }
                            prop_assert_eq!(program.packet(entry, *flow, false, &alive), *at);
                            *moved = false;
                        }
                    }
                    Step::Move(_) | Step::Gone(_) => {}
                }
                // Everybody speaks between two changes, or somebody would be taken for another's.
                let entry = history.entries()[0];
                for (flow, (at, moved)) in flows.iter_mut().filter(|(_, (_, moved))| *moved) {
                    prop_assert_eq!(program.packet(entry, *flow, false, &alive), *at);
                    *moved = false;
                }
            }
        }
    }

    #[test]
    fn histories() {
        let all: BTreeSet<_> = (0..9).collect();
        let without = |gone: &[u32]| all.iter().copied().filter(|slot| !gone.contains(slot)).collect();
        let new = |now, before, others| Entry::new(now, before, others);
        // From slot 0, to these slots one after the other, while these are gone; and the last entry.
        for (moves, expect) in [
            (&[(0, &[][..])][..], new(0, None, false)),
            (&[(1, &[])], new(1, Some(0), false)),
            (&[(1, &[0])], new(1, None, false)),
            (&[(1, &[]), (1, &[])], new(1, Some(0), false)),
            (&[(1, &[]), (1, &[0])], new(1, None, false)),
            (&[(1, &[]), (0, &[])], new(0, None, true)),
            (&[(1, &[]), (0, &[1])], new(0, None, false)),
            (&[(1, &[]), (2, &[])], new(2, Some(0), true)),
            (&[(1, &[]), (2, &[0])], new(2, Some(1), false)),
            (&[(1, &[]), (2, &[]), (2, &[0])], new(2, None, true)),
            (&[(1, &[]), (2, &[]), (2, &[0, 1])], new(2, None, false)),
            (&[(1, &[]), (2, &[]), (1, &[])], new(1, Some(0), true)),
        ] {
            let mut history = History::default();
            history.follow(&[0], &all);
            for (now, gone) in moves {
                history.follow(&[*now], &without(gone));
            }
            assert_eq!(history.entries(), [expect], "{moves:?}");
        }
    }

    #[test]
    fn only_entries_that_move_remember() {
        let all: BTreeSet<_> = (0..9).collect();
        let mut history = History::default();
        history.follow(&[0, 1, 2, 3], &all);
        history.follow(&[0, 4, 2, 3], &all);
        let remember: Vec<_> = history.entries().iter().map(|entry| entry.remembers()).collect();
        assert_eq!(remember, [false, true, false, false]);
        // A ring of another length begins anew.
        history.follow(&[0, 1], &all);
        assert!(history.entries().iter().all(|entry| !entry.remembers()));
    }
}
