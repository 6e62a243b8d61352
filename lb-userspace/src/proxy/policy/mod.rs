//! Policies as the workers apply them: [`RoutePolicy`] with what is computed once for it.

use std::sync::Arc;

use ahash::AHashMap;

use crate::model::RoutePolicy;

/// A route's policy, ready to be applied. Lives as long as any configuration has a route with it.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) rules: Arc<RoutePolicy>,
}

impl Policy {
    fn new(rules: Arc<RoutePolicy>) -> Self {
        Self { rules }
    }
}

/// The policies of a configuration, one for each that differs.
#[derive(Debug, Default)]
pub(super) struct Policies(AHashMap<Arc<RoutePolicy>, Arc<Policy>>);

impl Policies {
    /// The policy for `rules`: the one that is there, or that `previous` has, so that what a policy
    /// counts outlives changes of other routes.
    pub(super) fn get(&mut self, rules: &Arc<RoutePolicy>, previous: Option<&Self>) -> Arc<Policy> {
        if let Some(known) = self.0.get(rules) {
            return Arc::clone(known);
        }
        let kept = previous.and_then(|previous| previous.0.get(rules)).cloned();
        let policy = kept.unwrap_or_else(|| Arc::new(Policy::new(Arc::clone(rules))));
        self.0.insert(Arc::clone(rules), Arc::clone(&policy));
        policy
    }
}
