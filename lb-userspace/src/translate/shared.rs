//! Equal values, each once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Thousands of Ingresses have a handful of annotations and policies among them, from one translation
/// to the next.
pub(super) struct Shared<T> {
    known: HashSet<Arc<T>>,
    /// How many there were after the last sweep.
    swept: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), swept: 0 }
    }
}

impl<T: Hash + Eq> Shared<T> {
    /// The one that is equal.
    pub(super) fn get(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.known.get(&value) {
            return Arc::clone(known);
        }
        let value = Arc::new(value);
        self.known.insert(Arc::clone(&value));
        value
    }

    /// Forgets those that nobody else has, if there may be many.
    pub(super) fn sweep(&mut self) {
        if self.known.len() > 2 * self.swept + 64 {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.swept = self.known.len();
        }
    }
}
