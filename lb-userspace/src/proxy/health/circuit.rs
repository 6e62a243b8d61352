//! How much a cluster gets at a time. Exact over all workers, which costs writes to shared memory:
//! only where there is a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use super::Vitals;

/// What a cluster has at a time.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Circuit {
    pub(super) connections: AtomicU32,
    pub(super) pending: AtomicU32,
    retries: AtomicU32,
    pub(super) overflows: AtomicU64,
    pub(super) retry_overflows: AtomicU64,
    /// Something ended.
    pub(in crate::proxy) freed: Notify,
}

/// A request's right to be with a cluster and one of its endpoints, until it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Permit {
    circuit: Arc<Circuit>,
    endpoint: Option<Arc<Vitals>>,
    retries: bool,
    /// Its end is no news.
    silent: bool,
}

/// A request that waits, while it does.
pub(in crate::proxy) struct Waiting<'a>(&'a AtomicU32);

impl Circuit {
    /// Room for one more request.
    pub(in crate::proxy) fn enter(self: &Arc<Self>, most: Option<u32>) -> Option<Permit> {
        let permit = || Permit { circuit: Arc::clone(self), endpoint: None, retries: false, silent: false };
        take(&self.connections, most).then(permit)
    }

    /// A place among those that wait.
    pub(in crate::proxy) fn wait(&self, most: u32) -> Option<Waiting<'_>> {
        take(&self.pending, Some(most)).then(|| Waiting(&self.pending))
    }

    /// A request got 503.
    pub(in crate::proxy) fn overflow(&self) {
        self.overflows.fetch_add(1, Relaxed);
    }
}

/// Counts one more if that is not too many.
fn take(count: &AtomicU32, most: Option<u32>) -> bool {
    let fits = |now| (now < most.unwrap_or(u32::MAX)).then_some(now + 1);
    count.fetch_update(Relaxed, Relaxed, fits).is_ok()
}

impl Permit {
    /// The request goes to this endpoint, not to the one before.
    pub(in crate::proxy) fn move_to(&mut self, endpoint: &Arc<Vitals>) {
        endpoint.add_connection();
        if let Some(before) = self.endpoint.replace(Arc::clone(endpoint)) {
            before.remove_connection();
            self.circuit.freed.notify_waiters();
        }
    }

    /// Whether the request may be tried again.
    pub(in crate::proxy) fn retry(&mut self, most: Option<u32>) -> bool {
        self.retries = self.retries || take(&self.circuit.retries, most);
        if !self.retries {
            self.circuit.retry_overflows.fetch_add(1, Relaxed);
        }
        self.retries
    }

    /// The request goes nowhere yet. Nobody is told: whoever waits could do no better.
    pub(in crate::proxy) fn put_back(mut self) {
        self.silent = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.remove_connection();
        }
        if self.retries {
            self.circuit.retries.fetch_sub(1, Relaxed);
        }
        self.circuit.connections.fetch_sub(1, Relaxed);
        if !self.silent {
            self.circuit.freed.notify_waiters();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn limits_hold_and_what_ends_makes_room() {
        let circuit = Arc::new(Circuit::default());
        let mut one = circuit.enter(Some(2)).expect("room");
        let two = circuit.enter(Some(2)).expect("room");
        assert!(circuit.enter(Some(2)).is_none() && circuit.enter(None).is_some());
        let endpoints = [1, 2].map(|port| Arc::new(Vitals::new(SocketAddr::from(([127, 0, 0, 1], port)), 0)));
        one.move_to(&endpoints[0]);
        assert_eq!([endpoints[0].connections(), endpoints[1].connections()], [1, 0]);
        one.move_to(&endpoints[1]);
        assert_eq!([endpoints[0].connections(), endpoints[1].connections()], [0, 1]);
        drop(two);
        drop(circuit.enter(Some(2)).expect("room again"));
        drop(one);
        assert_eq!((endpoints[1].connections(), circuit.connections.load(Relaxed)), (0, 0));
    }

    #[test]
    fn retries_and_waiting_are_limited() {
        let circuit = Arc::new(Circuit::default());
        let mut permits = [(); 2].map(|()| circuit.enter(None).expect("no limit"));
        assert!(permits[0].retry(Some(1)) && permits[0].retry(Some(1)), "one request, however often");
        assert!(!permits[1].retry(Some(1)));
        assert_eq!(circuit.retry_overflows.load(Relaxed), 1);
        drop(permits);
        assert_eq!(circuit.retries.load(Relaxed), 0);
        let waiting = circuit.wait(1).expect("a place");
        assert!(circuit.wait(1).is_none() && circuit.wait(0).is_none());
        drop(waiting);
        assert!(circuit.wait(1).is_some());
    }
}
