//! Which addresses a Service in forward mode has, and who says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::report::issue;
use crate::model::{Issue, IssueReason, L4Service, ObjectKey, Severity};
use crate::objects::{Objects, Service, excerpt};

/// Annotation of such a Service: the addresses that it is reached at, separated by commas.
pub const VIPS: &str = "sluice.dev/vips";

/// Where a Service's addresses are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Annotation,
    Spec,
    /// Another controller has handed them out.
    Status,
}

impl Place {
    const fn field(self) -> &'static str {
        match self {
            Self::Annotation => "metadata.annotations[sluice.dev/vips]",
            Self::Spec => "spec.loadBalancerIP",
            Self::Status => "status.loadBalancer.ingress",
        }
    }
}

/// What Services shall say that they are reached at: where they are served, if it is they who ask for those
/// addresses. What another controller has handed out is that one's to say.
pub fn published(objects: &Objects, served: &[L4Service]) -> BTreeMap<ObjectKey, BTreeSet<IpAddr>> {
    let mut published = BTreeMap::<_, BTreeSet<_>>::new();
    for one in served {
        let service = objects.services.get(&one.service);
        if service.is_some_and(|service| written(service).0 != Place::Status) {
            published.entry(one.service.clone()).or_default().insert(one.vip.address);
        }
    }
    published
}

/// The addresses of a Service.
pub(super) fn addresses(key: &ObjectKey, service: &Service, issues: &mut Vec<Issue>) -> BTreeSet<IpAddr> {
    let (place, texts) = written(service);
    let mut addresses = BTreeSet::new();
    for text in &texts {
        match text.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() => {
                addresses.insert(ip.to_canonical());
            }
            _ => issues.push(issue(
                Severity::Warning,
                IssueReason::InvalidField,
                "Service",
                key,
                place.field(),
                format!(
                    "{:?} is no address that clients can connect to, and is ignored; correct it.",
                    excerpt(text)
                ),
            )),
        }
    }
    if texts.is_empty() {
        issues.push(issue(
            Severity::Warning,
            IssueReason::NoAddress,
            "Service",
            key,
            "",
            format!(
                "has no address and is not served; write one into spec.loadBalancerIP or the annotation {VIPS}, \
                 or let a controller that hands out addresses fill in its status."
            ),
        ));
    }
    addresses
}

fn written(service: &Service) -> (Place, Vec<&str>) {
    let outside = service.outside();
    if let Some(list) = service.metadata.annotations.get(VIPS) {
        (Place::Annotation, list.split(',').map(str::trim).collect())
    } else if let Some(one) = outside.asked_ip.as_deref().filter(|text| !text.is_empty()) {
        (Place::Spec, vec![one])
    } else {
        (Place::Status, outside.addresses.iter().filter_map(|given| given.ip.as_deref()).collect())
    }
}
