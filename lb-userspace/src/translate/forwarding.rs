//! How packets of a Service of ours get to endpoints: written anew, or as they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::report::issue;
use crate::model::{Delivery, Direct, End, Issue, IssueReason, Nodes, ObjectKey, Severity};
use crate::objects::{FORWARDING, Objects, Service, excerpt};

const FIELD: &str = "metadata.annotations[sluice.dev/forwarding]";

/// What a Service asks for; `None`: packets are written anew.
pub(super) fn delivery(key: &ObjectKey, service: &Service, issues: &mut Vec<Issue>) -> Option<Delivery> {
    let value = service.metadata.annotations.get(FORWARDING)?.trim();
    let all = [Delivery::L2, Delivery::Ipip, Delivery::Gue];
    let found = all.into_iter().find(|by| by.name() == value);
    if found.is_none() && value != "nat" {
        let message = format!(
            "{:?} is not known, and packets are written anew (nat); write nat, dsr-l2, dsr-ipip or dsr-gue.",
            excerpt(value)
        );
        let (severity, reason) = (Severity::Warning, IssueReason::InvalidAnnotation);
        issues.push(issue(severity, reason, "Service", key, FIELD, message));
    }
    found
}

/// Endpoints, and the nodes that they are on.
pub(super) type Placed = BTreeMap<SocketAddr, Option<Arc<str>>>;

/// Whom packets of a VIP's family go to as they are. `here` is this node's name.
pub(super) fn direct(
    by: Delivery,
    objects: &Objects,
    here: Option<&str>,
    ready: &Placed,
    draining: &Placed,
    v4: bool,
) -> Direct {
    #[derive(Default)]
    struct Group {
        here: bool,
        targets: Vec<SocketAddr>,
        draining: Vec<SocketAddr>,
    }
    let mut groups = BTreeMap::<IpAddr, Group>::new();
    let mut add = |all: &Placed, list: fn(&mut Group) -> &mut Vec<SocketAddr>| {
        for (address, node) in all.iter().filter(|(address, _)| address.is_ipv4() == v4) {
            let is_here = node.is_some() && node.as_deref() == here;
            // Without anything around them, packets get no further than to the endpoint itself.
            let behind = node.as_deref().filter(|_| by != Delivery::L2);
            let known = behind.and_then(|node| objects.nodes.get(&ObjectKey::new("", node)));
            let end = known.and_then(|node| node.address(v4)).unwrap_or(address.ip());
            let group = groups.entry(end).or_default();
            group.here |= is_here;
            list(group).push(*address);
        }
    };
    add(ready, |group| &mut group.targets);
    add(draining, |group| &mut group.draining);
    let ends = groups.into_iter().map(|(address, Group { here, targets, draining })| End {
        address,
        here,
        targets: targets.into(),
        draining: draining.into(),
    });
    Direct { by, ends: ends.collect() }
}

/// What may keep packets that go as they are from arriving.
pub(super) fn doubts(
    key: &ObjectKey,
    by: Delivery,
    objects: &Objects,
    here: Option<&str>,
    ready: &Placed,
    issues: &mut Vec<Issue>,
) {
    let mut warn = |message: String| {
        let (severity, reason) = (Severity::Warning, IssueReason::Unsupported);
        issues.push(issue(severity, reason, "Service", key, FIELD, message));
    };
    let placed = || ready.values().flatten();
    if here.is_none() && placed().next().is_some() {
        warn(format!(
            "{} asks which endpoints are on this node, and this node's name is not known, so packets to \
             those are dropped; start sluice with --node-name.",
            by.name()
        ));
    }
    if by == Delivery::L2 {
        return;
    }
    let unknown = placed().find(|node| objects.nodes.get(&ObjectKey::new("", &***node)).is_none());
    if let Some(node) = unknown {
        warn(format!(
            "the address of node {} is not known, so {} packets go to its endpoints themselves, which have \
             to take them out and to have the VIP as an address; let sluice list Nodes, or add the Node.",
            excerpt(node),
            by.name()
        ));
    }
}

/// Of a Service whose QUIC packets would name endpoints.
pub(super) fn without_quic(key: &ObjectKey, by: Delivery) -> Issue {
    let message = format!(
        "{} sends packets by their addresses and ports alone, so sluice.dev/quic is ignored; remove one of the two.",
        by.name()
    );
    issue(Severity::Warning, IssueReason::Unsupported, "Service", key, FIELD, message)
}

/// The addresses of all nodes that are known.
pub(super) fn nodes(objects: &Objects, here: Option<&str>) -> Nodes {
    let mut nodes = Nodes::default();
    for (key, node) in &objects.nodes {
        let list = if Some(&*key.name) == here { &mut nodes.own } else { &mut nodes.peers };
        list.extend(node.addresses.iter().copied());
    }
    nodes.own.sort_unstable();
    nodes.peers.sort_unstable();
    nodes
}
