//! Names that many objects have in common (namespaces, nodes, zones), each kept once.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// So many are kept without a look at who still has them.
const ROOM: usize = 1024;

#[derive(Default)]
struct Names {
    known: HashSet<Arc<str>>,
    /// How many there were after the last sweep.
    swept: usize,
}

/// One for the process: the same cluster is read by several readers.
static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// The name, the same `Arc` as for everybody else who has it.
pub(super) fn shared(name: &str) -> Arc<str> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).get(name)
}

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return Arc::clone(known);
        }
        // Nodes and namespaces come and go for as long as the process lives.
        if self.known.len() >= 2 * self.swept + ROOM {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.swept = self.known.len();
        }
        let name: Arc<str> = name.into();
        self.known.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_not_for_ever() {
        assert!(Arc::ptr_eq(&shared("node-1"), &shared("node-1")));
        let mut names = Names::default();
        let held: Vec<_> = (0..10).map(|n| names.get(&format!("held-{n}"))).collect();
        for n in 0..100_000 {
            names.get(&format!("gone-{n}"));
            assert!(names.known.len() <= ROOM + 2 * held.len());
        }
        assert!(held.iter().all(|name| Arc::ptr_eq(name, &names.get(name))));
    }
}
