//! Endpoints that are the node itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::report::issue;
use crate::model::{Endpoint, Issue, IssueReason, Listener, ObjectKey, Severity, Transport};

/// Marks which of a Service's endpoints this node answers for, and says so. They stay: a route may lead to
/// another one of the same node by another name; most likely it leads to itself.
pub(super) fn mark(
    service: &ObjectKey,
    endpoints: Arc<[Endpoint]>,
    listeners: &[Listener],
    issues: &mut Vec<Issue>,
) -> Arc<[Endpoint]> {
    let is_own = |endpoint: &Endpoint| listeners.iter().any(|listener| answers(listener, endpoint.address));
    let mut own = endpoints.iter().filter(|endpoint| is_own(endpoint));
    let Some(first) = own.next() else { return endpoints };
    let more = match own.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    issues.push(issue(
        Severity::Warning,
        IssueReason::Conflict,
        "Service",
        service,
        "",
        format!(
            "has the endpoint {}{more}, which this node itself answers for: requests come back to the proxy, and get \
             508 where they take the same route again and again. Let the Service name the application.",
            first.address
        ),
    ));
    endpoints.iter().map(|endpoint| Endpoint { own: is_own(endpoint), ..endpoint.clone() }).collect()
}

/// Whether connections to `address` come to the listener. Of one that listens on all addresses it is
/// only known that loopback is among them.
fn answers(listener: &Listener, address: SocketAddr) -> bool {
    let vip = listener.vip;
    let (own, asked) = (vip.address.to_canonical(), address.ip().to_canonical());
    let any = own.is_unspecified() && (asked.is_loopback() || asked.is_unspecified());
    let same_family = matches!((own, asked), (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)));
    vip.transport == Transport::Tcp && vip.port == address.port() && (own == asked || any && same_family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, SniMode, Vip};

    #[test]
    fn endpoints_of_the_node() {
        let listener = |address: &str, port| Listener {
            vip: Vip { address: address.parse().expect("an address"), port, transport: Transport::Tcp },
            protocol: Protocol::Http,
            sni: SniMode::Off,
        };
        for (endpoint, loops) in [
            ("198.51.100.10:80", true),
            ("198.51.100.10:81", false),
            ("198.51.100.11:80", false),
            ("[::ffff:198.51.100.10]:80", true),
            ("127.0.0.1:8080", true),
            ("127.0.0.1:80", false),
            ("10.0.0.1:8080", false),
            ("[::1]:8080", false),
            ("[2001:db8::10]:80", true),
        ] {
            let listeners =
                [listener("198.51.100.10", 80), listener("2001:db8::10", 80), listener("0.0.0.0", 8080)];
            let endpoints = Arc::new([Endpoint::new(endpoint.parse().expect("an address"))]);
            let mut issues = Vec::new();
            let marked = mark(&ObjectKey::new("default", "web"), endpoints, &listeners, &mut issues);
            assert_eq!((issues.len(), marked[0].own), (usize::from(loops), loops), "{endpoint}: {issues:?}");
            assert!(issues.iter().all(|issue| issue.message.contains(endpoint)), "{issues:?}");
        }
    }
}
