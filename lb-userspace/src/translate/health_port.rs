//! Ports by which load balancers ask whether this node has endpoints of a Service.

use std::collections::BTreeSet;

use super::report::issue;
use crate::model::{HealthPort, Issue, IssueReason, ObjectKey, Severity};
use crate::objects::{Objects, Service, SliceAddress};

pub(super) const FIELD: &str = "spec.healthCheckNodePort";

/// The port of a Service whose endpoints on `node` alone are asked; `None`: it has none. As with
/// kube-proxy, endpoints that terminate don't count, though they may still be asked.
pub(super) fn health_port(
    objects: &Objects,
    key: &ObjectKey,
    service: &Service,
    node: &str,
    issues: &mut Vec<Issue>,
) -> Option<HealthPort> {
    let asked = service.outside().health_port?;
    let Some(port) = u16::try_from(asked).ok().filter(|port| *port != 0) else {
        let message = format!("{asked} is no port and is ignored; write one from 1 to 65535.");
        let (severity, reason) = (Severity::Warning, IssueReason::InvalidField);
        issues.push(issue(severity, reason, "Service", key, FIELD, message));
        return None;
    };
    let mut here = BTreeSet::new();
    for (_, slice) in objects.slices_of(key) {
        for endpoint in slice.endpoints.iter().filter(|one| one.ready && one.node.as_deref() == Some(node)) {
            if let SliceAddress::Ip(ip) = endpoint.address {
                here.insert(ip.to_canonical());
            }
        }
    }
    Some(HealthPort { port, service: key.clone(), endpoints: here.len() })
}
