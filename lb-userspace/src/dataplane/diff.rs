//! The writes that turn one map image into another, in an order that never shows a half.

use serde::Serialize;

use super::image::forward::{Backend, Service};
use super::image::{MapImage, VipEntry};
use crate::model::Vip;

/// One write to the kernel's maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Counts a server name.
    AddName(String),
    /// Counts the names that a wildcard covers; holds its suffix.
    AddWildcard(String),
    /// Makes a VIP known or changes it.
    SetVip(Vip, VipEntry),
    /// The VIP is no longer ours.
    DeleteVip(Vip),
    /// Makes an endpoint of VIPs in forward mode known, or says whether it takes new connections.
    SetBackend(Backend, bool),
    /// Makes a VIP in forward mode known, or gives it another ring.
    SetService(Vip, Service),
    /// A VIP in forward mode is no longer ours.
    DeleteService(Vip),
    /// An endpoint is gone, and its connections with it.
    DeleteBackend(Backend),
    /// Stops counting a wildcard.
    DeleteWildcard(String),
    /// Stops counting a server name.
    DeleteName(String),
}

/// The writes from `have` to `want`. Endpoints come before the rings and VIPs that lead to them and
/// go after them. Names come before the VIPs whose hellos are looked up in
/// them. In each table what goes makes room before what comes: it holds either set, not both.
pub fn diff(have: &MapImage, want: &MapImage) -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(have.wildcards.difference(&want.wildcards).cloned().map(Op::DeleteWildcard));
    ops.extend(have.names.difference(&want.names).cloned().map(Op::DeleteName));
    ops.extend(want.names.difference(&have.names).cloned().map(Op::AddName));
    ops.extend(want.wildcards.difference(&have.wildcards).cloned().map(Op::AddWildcard));
    ops.extend(have.vips.keys().filter(|vip| !want.vips.contains_key(vip)).copied().map(Op::DeleteVip));
    ops.extend(
        want.vips
            .iter()
            .filter(|(vip, entry)| have.vips.get(vip) != Some(entry))
            .map(|(vip, entry)| Op::SetVip(*vip, *entry)),
    );
    let (have, want) = (&have.forward, &want.forward);
    // What goes makes room first: not endpoints, which rings in use may still name.
    let services = have.services.keys().filter(|vip| !want.services.contains_key(vip));
    let mut forward: Vec<_> = services.copied().map(Op::DeleteService).collect();
    let backends = want.backends.iter().filter(|(backend, takes)| have.backends.get(backend) != Some(takes));
    forward.extend(backends.map(|(backend, takes)| Op::SetBackend(*backend, *takes)));
    let services = want.services.iter().filter(|(vip, service)| have.services.get(vip) != Some(service));
    let set = services.map(|(vip, service)| Op::SetService(*vip, service.clone()));
    // A VIP may have changed from one mode to the other: its old one goes first.
    let at = ops.iter().position(|op| matches!(op, Op::SetVip(..))).unwrap_or(ops.len());
    ops.splice(at..at, forward);
    ops.extend(set);
    let backends = have.backends.keys().filter(|backend| !want.backends.contains_key(backend));
    ops.extend(backends.copied().map(Op::DeleteBackend));
    ops
}

/// Does the writes on an image instead of the kernel's maps.
pub fn apply(ops: &[Op], image: &mut MapImage) {
    for op in ops {
        match op {
            Op::AddName(name) => drop(image.names.insert(name.clone())),
            Op::AddWildcard(suffix) => drop(image.wildcards.insert(suffix.clone())),
            Op::SetVip(vip, entry) => drop(image.vips.insert(*vip, *entry)),
            Op::DeleteVip(vip) => drop(image.vips.remove(vip)),
            Op::DeleteWildcard(suffix) => drop(image.wildcards.remove(suffix)),
            Op::DeleteName(name) => drop(image.names.remove(name)),
            Op::SetBackend(backend, takes) => drop(image.forward.backends.insert(*backend, *takes)),
            Op::SetService(vip, service) => drop(image.forward.services.insert(*vip, service.clone())),
            Op::DeleteService(vip) => drop(image.forward.services.remove(vip)),
            Op::DeleteBackend(backend) => drop(image.forward.backends.remove(backend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use proptest::prelude::*;

    use super::super::image::forward::Forwarding;
    use super::*;
    use crate::model::Transport;

    fn vip() -> impl Strategy<Value = Vip> {
        (0..4u8, any::<bool>(), 1..4u16, any::<bool>()).prop_map(|(host, v6, port, udp)| Vip {
            address: if v6 {
                IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()))
            } else {
                IpAddr::V4(Ipv4Addr::new(192, 0, 2, host))
            },
            port,
            transport: if udp { Transport::Udp } else { Transport::Tcp },
        })
    }

    fn forwarding() -> impl Strategy<Value = Forwarding> {
        let target = (1..5u8).prop_map(|host| SocketAddr::from(([10, 0, 0, host], 80)));
        let targets = prop::collection::btree_set(target, 0..4);
        prop::collection::btree_map(vip(), (targets, any::<bool>()), 0..6).prop_map(|services| {
            let mut forwarding = Forwarding::default();
            for (vip, (targets, affinity)) in services {
                let backend = |address: &SocketAddr| Backend { address: *address, transport: vip.transport };
                forwarding.backends.extend(targets.iter().map(|address| (backend(address), affinity)));
                forwarding.services.insert(vip, Service { targets, affinity });
            }
            forwarding
        })
    }

    fn image() -> impl Strategy<Value = MapImage> {
        let entry = any::<bool>().prop_map(|observe_sni| VipEntry { observe_sni });
        (
            prop::collection::btree_map(vip(), entry, 0..8),
            prop::collection::btree_set("[ab]{1,2}", 0..6),
            prop::collection::btree_set("[ab]{1,2}", 0..6),
            forwarding(),
        )
            .prop_map(|(vips, names, wildcards, forward)| MapImage { vips, names, wildcards, forward })
    }

    proptest! {
        #[test]
        fn applied_it_gives_what_is_wanted(a in image(), b in image()) {
            let ops = diff(&a, &b);
            let mut state = a.clone();
            apply(&ops, &mut state);
            prop_assert_eq!(&state, &b);
            prop_assert_eq!(diff(&b, &state), vec![]);
        }

        #[test]
        fn names_come_before_vips_and_room_before_what_takes_it(a in image(), b in image()) {
            let rank = |op: &Op| match op {
                Op::DeleteName(_) | Op::DeleteWildcard(_) => 0,
                Op::AddName(_) | Op::AddWildcard(_) => 1,
                Op::DeleteVip(_) => 2,
                Op::DeleteService(_) => 3,
                Op::SetBackend(..) => 4,
                Op::SetVip(..) => 5,
                Op::SetService(..) => 6,
                Op::DeleteBackend(_) => 7,
            };
            prop_assert!(diff(&a, &b).is_sorted_by_key(rank));
        }
    }
}
