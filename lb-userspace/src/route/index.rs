//! Texts to values, for many small tables.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use ahash::{AHasher, RandomState};

/// As many are compared one by one: quicker than a hash, and a fifth of the size of the least table.
const FEW: usize = 8;

/// Values by text. Costs nothing while it is empty, and little while it is small.
#[derive(Debug)]
pub(super) struct Index<V> {
    few: Vec<(Box<str>, V)>,
    /// In their place, once there are more.
    #[expect(
        clippy::box_collection,
        reason = "most have none, and there are two in each of thousands of hosts"
    )]
    many: Option<Box<HashMap<Box<str>, V, Seed>>>,
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self { few: Vec::new(), many: None }
    }
}

impl<V> Index<V> {
    /// Makes room for `more`, and has lookups cost the same from now on however many there are.
    pub(super) fn reserve(&mut self, more: usize) {
        self.many().reserve(more);
    }

    pub(super) fn get(&self, text: &str) -> Option<&V> {
        match &self.many {
            Some(many) => many.get(text),
            None => self.few.iter().find(|(known, _)| **known == *text).map(|(_, value)| value),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.as_ref().is_none_or(|many| many.is_empty())
    }

    /// The value; made by `make` if there is none.
    pub(super) fn entry(&mut self, text: &str, make: impl FnOnce() -> V) -> &mut V {
        let known = self.few.iter().position(|(known, _)| **known == *text);
        if self.many.is_some() || (known.is_none() && self.few.len() >= FEW) {
            return self.many().entry(text.into()).or_insert_with(make);
        }
        let at = known.unwrap_or_else(|| {
            self.few.reserve_exact(1);
            self.few.push((text.into(), make()));
            self.few.len() - 1
        });
        &mut self.few[at].1
    }

    fn many(&mut self) -> &mut HashMap<Box<str>, V, Seed> {
        let few = &mut self.few;
        self.many.get_or_insert_with(|| Box::new(std::mem::take(few).into_iter().collect()))
    }
}

/// The process's seed: one of its own would double the size of a small table.
#[derive(Clone, Copy, Debug, Default)]
struct Seed;

static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl BuildHasher for Seed {
    type Hasher = AHasher;

    fn build_hasher(&self) -> AHasher {
        SEED.build_hasher()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_found_alike() {
        for (count, reserve) in
            [(0, false), (1, false), (1, true), (FEW, false), (FEW + 1, false), (100, false), (100, true)]
        {
            let mut index = Index::default();
            if reserve {
                index.reserve(count);
            }
            for round in 0..2 {
                for n in 0..count {
                    let value = *index.entry(&n.to_string(), || n + 1000 * round);
                    assert_eq!(value, n, "the first one stays: {count}, {reserve}");
                }
            }
            let found: Vec<_> = (0..=count).map(|n| index.get(&n.to_string()).copied()).collect();
            let expect: Vec<_> = (0..count).map(Some).chain([None]).collect();
            assert_eq!((found, index.is_empty()), (expect, count == 0), "{count}, {reserve}");
        }
    }
}
