//! What one worker knows of the endpoints it uses: requests in flight, and how fast they answer.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ahash::AHashMap;

use super::ewma::PeakEwma;

/// What a failure counts as, at least: an endpoint that breaks connections must not seem fast.
const FAILURE: Duration = Duration::from_secs(1);

/// How long an endpoint without requests is remembered.
const MEMORY: Duration = Duration::from_secs(60);

/// The endpoints that one worker has measured. Only those of clusters whose requests are
/// distributed by load.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Loads {
    endpoints: RefCell<AHashMap<SocketAddr, Rc<Load>>>,
}

#[derive(Debug)]
struct Load {
    in_flight: Cell<u32>,
    /// `None` until it has answered once.
    time: Cell<Option<PeakEwma>>,
    used: Cell<Instant>,
}

/// An endpoint's load at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Measure {
    /// Requests sent and not answered completely.
    pub(super) in_flight: u32,
    /// Response time in seconds, if it has answered before.
    pub(super) time: Option<f64>,
}

/// A request in flight: counted until it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct InFlight {
    load: Rc<Load>,
    since: Instant,
    observed: bool,
}

impl Loads {
    /// An endpoint's load. One that was never used has none.
    pub(super) fn measure(&self, address: SocketAddr, now: Instant) -> Measure {
        self.endpoints.borrow().get(&address).map_or_else(Measure::default, |load| Measure {
            in_flight: load.in_flight.get(),
            time: load.time.get().map(|time| time.get(now)),
        })
    }

    /// Counts a request that goes to an endpoint.
    pub(super) fn begin(&self, address: SocketAddr, now: Instant) -> InFlight {
        let mut endpoints = self.endpoints.borrow_mut();
        let load = endpoints.entry(address).or_insert_with(|| {
            Rc::new(Load { in_flight: Cell::new(0), time: Cell::new(None), used: Cell::new(now) })
        });
        load.in_flight.set(load.in_flight.get() + 1);
        load.used.set(now);
        InFlight { load: Rc::clone(load), since: now, observed: false }
    }

    /// Forgets endpoints that nobody used for a while.
    pub(in crate::proxy) fn sweep(&self, now: Instant) {
        self.endpoints
            .borrow_mut()
            .retain(|_, load| load.in_flight.get() > 0 || now.duration_since(load.used.get()) < MEMORY);
    }
}

impl InFlight {
    /// The endpoint's answer has begun.
    pub(super) fn answered(&mut self, now: Instant) {
        self.observe(now.duration_since(self.since), now);
    }

    /// The endpoint gave no answer, and that was its own fault.
    pub(super) fn failed(&mut self, now: Instant) {
        self.observe(now.duration_since(self.since).max(FAILURE), now);
    }

    fn observe(&mut self, time: Duration, now: Instant) {
        self.observed = true;
        let mut ewma = self.load.time.get();
        match &mut ewma {
            Some(ewma) => ewma.observe(time, now),
            None => ewma = Some(PeakEwma::new(time, now)),
        }
        self.load.time.set(ewma);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.set(self.load.in_flight.get() - 1);
        if !self.observed {
            // The client left before the answer: it would have taken at least that long.
            let (now, waited) = (Instant::now(), self.since.elapsed().as_secs_f64());
            if self.load.time.get().is_some_and(|time| time.get(now) < waited) {
                self.answered(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_counted_and_observed() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let (loads, start) = (Loads::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(loads.measure(address, start), Measure::default());

        let (mut one, two) = (loads.begin(address, start), loads.begin(address, start));
        one.answered(at(100));
        assert_eq!(loads.measure(address, at(100)), Measure { in_flight: 2, time: Some(0.1) });
        drop(one);
        drop(two);
        let mut three = loads.begin(address, at(100));
        three.failed(at(100));
        assert_eq!(loads.measure(address, at(100)), Measure { in_flight: 1, time: Some(1.0) });

        loads.sweep(at(600_000));
        assert_eq!(loads.endpoints.borrow().len(), 1, "in use");
        drop(three);
        loads.sweep(at(600_000));
        assert!(loads.endpoints.borrow().is_empty(), "forgotten");
    }
}
