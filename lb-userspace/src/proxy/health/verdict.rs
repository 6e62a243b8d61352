//! What failures, answers and checks say about a cluster's endpoints.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::report::ClusterHealth;
use super::{Milliseconds, Vitals, now};
use crate::proxy::cluster::{ClusterSlot, Endpoints};
use crate::proxy::error::Error;

impl ClusterSlot {
    /// A request failed at an endpoint, or found no way there. `counts`: the route takes it for the
    /// endpoint's failure. Whether the endpoint gets no more requests, and did before.
    pub(in crate::proxy) fn failed(&self, address: SocketAddr, error: &Error, counts: bool) -> bool {
        let is_connect = is_of_connection(error);
        if !is_connect && !counts {
            return false;
        }
        let endpoints = self.endpoints();
        let Some(one) = endpoints.vitals_of(address) else { return false };
        one.note(&error.to_string());
        let now = now();
        let is_news = match is_connect {
            true => one.could_not_connect(now),
            false => self.count_failure(&endpoints, one, now),
        };
        self.trouble().store(true, SeqCst);
        is_news
    }

    /// An endpoint answered with a status that the route takes for a failure.
    pub(in crate::proxy) fn failed_with(&self, address: SocketAddr, status: http::StatusCode) {
        let endpoints = self.endpoints();
        let Some(one) = endpoints.vitals_of(address) else { return };
        one.note(&format!("answered {status}"));
        self.count_failure(&endpoints, one, now());
        self.trouble().store(true, SeqCst);
    }

    /// Whether any endpoint took connections a moment ago.
    pub(in crate::proxy) fn was_there_lately(&self) -> bool {
        self.endpoints().vitals().iter().any(|one| one.was_there_lately())
    }

    /// An endpoint took a connection.
    pub(in crate::proxy) fn reached(&self, address: SocketAddr) {
        if self.is_troubled() {
            self.improve(address, Vitals::reached);
        }
    }

    /// An endpoint answered a request.
    pub(in crate::proxy) fn answered(&self, address: SocketAddr) {
        if self.is_troubled() {
            self.improve(address, |one| one.answered(now()));
        }
    }

    /// A check came to a conclusion about an endpoint. Whether that changed.
    pub(super) fn checked(&self, address: SocketAddr, unwell: bool, error: Option<String>) -> bool {
        let endpoints = self.endpoints();
        let Some(one) = endpoints.vitals_of(address) else { return false };
        let changed = one.checked(unwell, error);
        if unwell {
            self.trouble().store(true, SeqCst);
        } else if changed {
            self.look_again();
        }
        changed
    }

    /// Nobody checks an endpoint any more.
    pub(super) fn unchecked(&self, address: SocketAddr) {
        if let Some(one) = self.endpoints().vitals_of(address) {
            one.unchecked();
            self.look_again();
        }
    }

    /// What is known, for people; `None` if nothing is.
    pub(in crate::proxy) fn health(&self) -> Option<ClusterHealth> {
        let endpoints = self.endpoints();
        let (now, circuit) = (now(), self.known_circuit());
        let known = endpoints.known_vitals();
        if known.is_none() && circuit.is_none() {
            return None;
        }
        let report = |one: &Arc<Vitals>| one.report(now, endpoints.warmth(one, now).is_some());
        Some(ClusterHealth {
            connections: circuit.map_or(0, |circuit| circuit.connections.load(Relaxed)),
            pending: circuit.map_or(0, |circuit| circuit.pending.load(Relaxed)),
            overflows: circuit.map_or(0, |circuit| circuit.overflows.load(Relaxed)),
            retry_overflows: circuit.map_or(0, |circuit| circuit.retry_overflows.load(Relaxed)),
            ejections: self.ejections().load(Relaxed),
            endpoints: known.unwrap_or_default().iter().map(report).collect(),
        })
    }

    fn count_failure(&self, endpoints: &Endpoints, one: &Vitals, now: Milliseconds) -> bool {
        let rules = &endpoints.cluster.care.ejection;
        let ejected = one.failed(now, rules, || endpoints.can_spare_one(now));
        if ejected {
            self.ejections().fetch_add(1, Relaxed);
            tracing::warn!(cluster = %self.key, address = %one.address, "endpoint fails requests: it is left alone for a while");
        }
        ejected
    }

    fn improve(&self, address: SocketAddr, change: impl FnOnce(&Vitals)) {
        let endpoints = self.endpoints();
        let Some(one) = endpoints.vitals_of(address) else { return };
        if one.is_troubled() {
            change(one);
            if !one.is_troubled() {
                self.look_again();
            }
        }
    }

    /// Whether anybody is in trouble. Who gets into trouble meanwhile says so after it is written
    /// down, which is either seen here or stays said.
    pub(in crate::proxy) fn look_again(&self) {
        self.trouble().store(false, SeqCst);
        let endpoints = self.endpoints();
        if endpoints.known_vitals().is_some_and(|all| all.iter().any(|one| one.is_troubled())) {
            self.trouble().store(true, SeqCst);
        }
    }
}

impl Endpoints {
    /// Whether one more may be ejected.
    fn can_spare_one(&self, now: Milliseconds) -> bool {
        let all = self.vitals();
        let ejected = all.iter().filter(|one| one.is_ejected(now)).count();
        // Whatever the share, somebody has to be left.
        let most = all.len() * self.cluster.care.ejection.max_percent as usize / 100;
        ejected < most.min(all.len().saturating_sub(1))
    }
}

/// Whether the endpoint took no connection. Not a lack of files, ports or memory on this side.
fn is_of_connection(error: &Error) -> bool {
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
    use crate::model::{Care, Cluster, ClusterKey, Ejection, Endpoint, ObjectKey, PortRef, UpstreamProtocol};

    fn slot(count: u16, ejection: Ejection) -> (ClusterSlot, Vec<SocketAddr>) {
        let addresses: Vec<_> = (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let cluster = Cluster {
            key: Arc::new(ClusterKey::new(ObjectKey::new("default", "web"), PortRef::Number(80))),
            protocol: UpstreamProtocol::Http,
            endpoints: addresses.iter().copied().map(Endpoint::new).collect(),
            care: Arc::new(Care { ejection, ..Care::default() }),
        };
        (ClusterSlot::new(Arc::new(cluster), 1), addresses)
    }

    fn closed(address: SocketAddr) -> Error {
        Error::Closed { address, source: io::ErrorKind::UnexpectedEof.into() }
    }

    #[test]
    fn no_more_are_ejected_than_can_be_spared() {
        for (count, max_percent, expect) in
            [(10, 50, 5), (10, 100, 9), (10, 0, 0), (2, 50, 1), (1, 100, 0), (3, 50, 1)]
        {
            let (slot, addresses) = slot(count, Ejection { after: 1, max_percent, ..Ejection::default() });
            let ejected = addresses.iter().filter(|one| slot.failed(**one, &closed(**one), true)).count();
            assert_eq!(ejected, expect, "{max_percent} % of {count}");
        }
    }

    #[test]
    fn trouble_ends_when_the_last_one_is_well() {
        let (slot, all) = slot(3, Ejection::default());
        let refused =
            |address| Error::Connection { address, source: io::ErrorKind::ConnectionRefused.into() };
        assert!(!slot.is_troubled() && slot.health().is_none());
        assert!(slot.failed(all[0], &refused(all[0]), false) && slot.is_troubled());
        slot.failed(all[1], &closed(all[1]), true);
        slot.reached(all[0]);
        assert!(slot.is_troubled(), "the other one failed");
        slot.answered(all[1]);
        assert!(!slot.is_troubled());
        assert!(
            !slot.failed(all[1], &closed(all[1]), false) && !slot.is_troubled(),
            "the route says it is none"
        );
        let no_files =
            Error::Connection { address: all[1], source: io::Error::from_raw_os_error(nix::libc::EMFILE) };
        assert!(!slot.failed(all[1], &no_files, false) && !slot.is_troubled(), "the lack of files is ours");
        slot.checked(all[2], true, Some("late".to_owned()));
        assert!(slot.is_troubled());
        slot.unchecked(all[2]);
        assert!(!slot.is_troubled());
    }

    #[test]
    fn what_is_known_goes_with_the_endpoint() {
        let (slot, all) = slot(3, Ejection { after: 1, ..Ejection::default() });
        slot.failed(all[1], &closed(all[1]), true);
        let without = |gone: SocketAddr| {
            let now = slot.endpoints();
            let endpoints = now.cluster.endpoints.iter().filter(|one| one.address != gone).cloned().collect();
            Arc::new(Cluster { endpoints, ..Cluster::clone(&now.cluster) })
        };
        slot.update(&without(all[0]));
        assert!(slot.is_troubled() && slot.endpoints().vitals_of(all[1]).expect("there").is_out(now()));
        slot.update(&without(all[1]));
        assert!(!slot.is_troubled(), "the one in trouble is gone");
    }
}
