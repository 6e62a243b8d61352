//! Policies, each once.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::RoutePolicy;

/// Thousands of routes have a handful of policies among them, from one snapshot to the next.
#[derive(Default)]
pub(super) struct Policies {
    known: HashSet<Arc<RoutePolicy>>,
    /// How many there were after the last sweep.
    swept: usize,
}

impl Policies {
    /// The policy that is equal.
    pub(super) fn shared(&mut self, policy: RoutePolicy) -> Arc<RoutePolicy> {
        if let Some(known) = self.known.get(&policy) {
            return Arc::clone(known);
        }
        let policy = Arc::new(policy);
        self.known.insert(Arc::clone(&policy));
        policy
    }

    /// Forgets those that nobody else has, if there may be many.
    pub(super) fn sweep(&mut self) {
        if self.known.len() > 2 * self.swept + 64 {
            self.known.retain(|policy| Arc::strong_count(policy) > 1);
            self.swept = self.known.len();
        }
    }
}
