//! Clients that a Service of ours is for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::report::issue;
use crate::model::{Issue, IssueReason, ObjectKey, Severity};
use crate::objects::{Service, excerpt};

/// The older way to write `spec.loadBalancerSourceRanges`, separated by commas. The field goes first.
const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) const FIELD: &str = "spec.loadBalancerSourceRanges";

/// The networks that packets are taken from; `None`: everybody's are. A list of which nothing is
/// usable is a list: then nobody's packets are taken, for that is the nearest to what was asked for.
pub(super) fn sources(
    key: &ObjectKey,
    service: &Service,
    issues: &mut Vec<Issue>,
) -> Option<BTreeSet<IpNet>> {
    let listed = &service.outside().source_ranges;
    let annotation = service.metadata.annotations.get(ANNOTATION).filter(|text| !text.trim().is_empty());
    let (field, texts): (_, Vec<&str>) = match annotation {
        _ if !listed.is_empty() => (FIELD, listed.iter().map(|text| text.trim()).collect()),
        Some(text) => (
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]",
            text.split(',').map(str::trim).collect(),
        ),
        None => return None,
    };
    let mut networks = BTreeSet::new();
    for text in texts {
        match text.parse::<IpNet>() {
            Ok(network) => drop(networks.insert(canonical(network))),
            Err(_) => {
                let message = format!(
                    "{:?} is no network and lets nobody in; write one as 192.0.2.0/24 or 2001:db8::/32.",
                    excerpt(text)
                );
                let (severity, reason) = (Severity::Warning, IssueReason::InvalidField);
                issues.push(issue(severity, reason, "Service", key, field, message));
            }
        }
    }
    if networks.is_empty() {
        let message = "lists no network, so nobody's packets are taken; correct the list, or remove it to let everybody in.";
        issues.push(issue(Severity::Error, IssueReason::InvalidField, "Service", key, field, message));
    }
    Some(networks)
}

/// Without bits behind the prefix, and IPv4 as such.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let network = network.trunc();
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (IpAddr::V4(v4), Some(length)) if network.addr().is_ipv6() => {
            IpNet::new(v4.into(), length).unwrap_or(network)
        }
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Outside;

    #[test]
    fn lists() {
        type Expect = (Option<&'static [&'static str]>, usize);
        let rows: [(&[&str], Option<&str>, Expect); 9] = [
            (&[], None, (None, 0)),
            (&["192.0.2.0/24", " 2001:db8::/32 "], None, (Some(&["192.0.2.0/24", "2001:db8::/32"]), 0)),
            (&["192.0.2.7/24", "192.0.2.9/24"], None, (Some(&["192.0.2.0/24"]), 0)),
            (&["0.0.0.0/0"], None, (Some(&["0.0.0.0/0"]), 0)),
            (&["::ffff:192.0.2.0/120"], None, (Some(&["192.0.2.0/24"]), 0)),
            // One that is good is enough, and no bad one opens the Service.
            (&["192.0.2.0/33", "192.0.2.1/32"], None, (Some(&["192.0.2.1/32"]), 1)),
            (&["192.0.2.1", "nonsense", ""], None, (Some(&[]), 4)),
            (&[], Some("198.51.100.0/24,x"), (Some(&["198.51.100.0/24"]), 1)),
            (&["192.0.2.0/24"], Some("198.51.100.0/24"), (Some(&["192.0.2.0/24"]), 0)),
        ];
        for (listed, annotation, (networks, problems)) in rows {
            let mut service = Service::default();
            service.metadata.annotations = annotation.map(|text| (ANNOTATION, text)).into_iter().collect();
            let source_ranges = listed.iter().map(|text| (*text).into()).collect();
            service.outside = Some(Box::new(Outside { source_ranges, ..Outside::default() }));
            let mut issues = Vec::new();
            let found = sources(&ObjectKey::new("default", "web"), &service, &mut issues);
            let shown = found.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
            let networks = networks.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
            assert_eq!((shown, issues.len()), (networks, problems), "{listed:?} {annotation:?}");
        }
    }
}
