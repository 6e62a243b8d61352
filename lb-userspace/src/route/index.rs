//! Texts to values, for many small tables.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use ahash::{AHasher, RandomState};

/// Values by text. Costs nothing while it is empty, and little while it is small.
#[derive(Debug)]
pub(super) struct Index<V>(HashMap<Box<str>, V, Seed>);

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<V> Index<V> {
    pub(super) fn reserve(&mut self, more: usize) {
        self.0.reserve(more);
    }

    pub(super) fn get(&self, text: &str) -> Option<&V> {
        self.0.get(text)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Inserts, unless there is a value already.
    pub(super) fn try_insert(&mut self, text: &str, value: V) {
        if let Entry::Vacant(free) = self.0.entry(text.into()) {
            free.insert(value);
        }
    }
}

impl<V: Default> Index<V> {
    /// The value, made if there is none.
    pub(super) fn entry(&mut self, text: Box<str>) -> &mut V {
        self.0.entry(text).or_default()
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
