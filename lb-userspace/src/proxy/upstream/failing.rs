//! Which endpoints could not be reached a moment ago.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ahash::AHashMap;

use crate::proxy::error::Error;

/// How long an endpoint comes last after its first failure; doubled with each further one.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// How long a failure is remembered after the rest.
const MEMORY: Duration = Duration::from_secs(30);

/// One worker's memory of endpoints that refused a connection or did not accept one in time. They
/// come last, but are never left out: where all fail, all are tried.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Failing {
    endpoints: RefCell<AHashMap<SocketAddr, Failed>>,
}

#[derive(Debug)]
struct Failed {
    rest: Duration,
    until: Instant,
}

impl Failing {
    /// Whether nobody failed lately, so that nobody need be asked about.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.endpoints.borrow().is_empty()
    }

    /// Whether an endpoint should come last.
    pub(in crate::proxy) fn rests(&self, address: SocketAddr, now: Instant) -> bool {
        self.endpoints.borrow().get(&address).is_some_and(|failed| failed.until > now)
    }

    /// A request goes to an endpoint. If its rest is over, this is the one that tries it, and the
    /// others wait for the outcome.
    pub(in crate::proxy) fn begin_trial(&self, address: SocketAddr, now: Instant) {
        if let Some(failed) = self.endpoints.borrow_mut().get_mut(&address)
            && failed.until <= now
        {
            failed.until = now + failed.rest;
        }
    }

    /// Takes note of a connection that could not be opened, if that says something about the
    /// endpoint. Whether it is the first after the endpoint was fine, or unknown.
    pub(in crate::proxy) fn failed(&self, address: SocketAddr, error: &Error, now: Instant) -> bool {
        if !is_of_endpoint(error) {
            return false;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let rest = endpoints.get(&address).map_or(FIRST_REST, |before| (before.rest * 2).min(LONGEST_REST));
        endpoints.insert(address, Failed { rest, until: now + rest }).is_none()
    }

    /// An endpoint accepted a connection.
    pub(in crate::proxy) fn recovered(&self, address: SocketAddr) {
        let mut endpoints = self.endpoints.borrow_mut();
        if !endpoints.is_empty() {
            endpoints.remove(&address);
        }
    }

    /// Forgets what is long ago: endpoints come and go, the memory must not grow with them.
    pub(in crate::proxy) fn sweep(&self, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, failed| failed.until + MEMORY > now);
    }
}

/// Not a lack of files, ports or memory on this side.
fn is_of_endpoint(error: &Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    match error {
        Error::ConnectTimeout(_) | Error::Tls { .. } => true,
        Error::Connection { source, .. } => matches!(
            source.kind(),
            ConnectionAborted
                | ConnectionRefused
                | ConnectionReset
                | HostUnreachable
                | NetworkUnreachable
                | TimedOut
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_and_one_request_tries() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let refused = || Error::Connection { address, source: io::ErrorKind::ConnectionRefused.into() };
        let at = |start: Instant, milliseconds| start + Duration::from_millis(milliseconds);
        let (failing, start) = (Failing::default(), Instant::now());
        assert!(failing.is_empty() && !failing.rests(address, start));
        failing.failed(address, &refused(), start);
        for (when, rests) in [(0, true), (999, true), (1000, false), (1001, true)] {
            assert_eq!(failing.rests(address, at(start, when)), rests, "after {when} ms");
            failing.begin_trial(address, at(start, when));
        }
        for _ in 0..9 {
            failing.failed(address, &refused(), start);
        }
        for (when, rests) in [(9_999, true), (10_000, false)] {
            assert_eq!(failing.rests(address, at(start, when)), rests, "after {when} ms");
        }
        failing.recovered(address);
        assert!(failing.is_empty());

        let no_files = io::Error::from_raw_os_error(nix::libc::EMFILE);
        failing.failed(address, &Error::Connection { address, source: no_files }, start);
        assert!(failing.is_empty(), "the lack of files is ours");
        failing.failed(address, &refused(), start);
        failing.sweep(at(start, 60_000));
        assert!(failing.is_empty(), "forgotten");
    }
}
