//! The writes that turn one map image into another, in an order that never shows a half.

use std::collections::BTreeMap;

use lb_common::maps::MAX_NAMES;
use serde::Serialize;

use super::image::forward::{Backend, Forwarding, Service};
use super::image::{Class, MapImage, VipEntry};
use crate::model::Vip;

/// One write to the kernel's maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Counts a server name, or gives it another class.
    AddName(String, Class),
    /// The same for the names that a wildcard covers; holds its suffix.
    AddWildcard(String, Class),
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

/// The writes from `have` to `want`. No VIP ever refuses a name that both have: names come before the
/// VIPs whose hellos are looked up in them and go after those. Where a table has no room for what
/// comes and what goes together, what goes makes room first, and no VIP refuses any name meanwhile.
/// Endpoints come before the rings that lead to them and go after them.
pub fn diff(have: &MapImage, want: &MapImage) -> Vec<Op> {
    let room = MAX_NAMES as usize;
    let more = |have: &Names, want: &Names| {
        want.len() + have.keys().filter(|name| !want.contains_key(*name)).count() > room
    };
    let crowded = more(&have.names, &want.names) || more(&have.wildcards, &want.wildcards);
    let mut now = have.clone();
    let mut ops = Vec::new();
    // Before its VIP may become another mode's.
    ops.extend(services_that_go(have, want));
    if crowded {
        let open =
            |(vip, entry): (&Vip, &VipEntry)| Op::SetVip(*vip, VipEntry { filter_sni: false, ..*entry });
        ops.extend(have.vips.iter().filter(|(_, entry)| entry.filter_sni).map(open));
        ops.extend(names_that_go(have, want));
        apply(&ops, &mut now);
    }
    let named = |(name, class): (&String, &Class)| Op::AddName(name.clone(), *class);
    ops.extend(want.names.iter().filter(|(name, class)| now.names.get(*name) != Some(class)).map(named));
    let wild = |(suffix, class): (&String, &Class)| Op::AddWildcard(suffix.clone(), *class);
    let differs = |(suffix, class): &(&String, &Class)| now.wildcards.get(*suffix) != Some(class);
    ops.extend(want.wildcards.iter().filter(differs).map(wild));
    ops.extend(now.vips.keys().filter(|vip| !want.vips.contains_key(vip)).copied().map(Op::DeleteVip));
    let differs = |(vip, entry): &(&Vip, &VipEntry)| now.vips.get(vip) != Some(entry);
    ops.extend(want.vips.iter().filter(differs).map(|(vip, entry)| Op::SetVip(*vip, *entry)));
    if !crowded {
        ops.extend(names_that_go(have, want));
    }
    ops.extend(services_that_come(&have.forward, &want.forward));
    ops
}

type Names = BTreeMap<String, Class>;

fn names_that_go<'a>(have: &'a MapImage, want: &'a MapImage) -> impl Iterator<Item = Op> + 'a {
    let gone =
        |have: &'a Names, want: &'a Names| have.keys().filter(|name| !want.contains_key(*name)).cloned();
    let wildcards = gone(&have.wildcards, &want.wildcards).map(Op::DeleteWildcard);
    wildcards.chain(gone(&have.names, &want.names).map(Op::DeleteName))
}

fn services_that_go(have: &MapImage, want: &MapImage) -> impl Iterator<Item = Op> {
    let gone = have.forward.services.keys().filter(|vip| !want.forward.services.contains_key(vip));
    gone.copied().map(Op::DeleteService)
}

/// Endpoints, the rings that lead to them, and then the endpoints that no ring leads to any more.
fn services_that_come(have: &Forwarding, want: &Forwarding) -> impl Iterator<Item = Op> {
    let backends = want.backends.iter().filter(|(backend, takes)| have.backends.get(backend) != Some(takes));
    let services = want.services.iter().filter(|(vip, service)| have.services.get(vip) != Some(service));
    let gone = have.backends.keys().filter(|backend| !want.backends.contains_key(backend));
    backends
        .map(|(backend, takes)| Op::SetBackend(*backend, *takes))
        .chain(services.map(|(vip, service)| Op::SetService(*vip, service.clone())))
        .chain(gone.copied().map(Op::DeleteBackend))
}

/// Does the writes on an image instead of the kernel's maps.
pub fn apply(ops: &[Op], image: &mut MapImage) {
    for op in ops {
        match op {
            Op::AddName(name, class) => drop(image.names.insert(name.clone(), *class)),
            Op::AddWildcard(suffix, class) => drop(image.wildcards.insert(suffix.clone(), *class)),
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
                forwarding.services.insert(vip, Service { targets, affinity, ..Service::default() });
            }
            forwarding
        })
    }

    fn image() -> impl Strategy<Value = MapImage> {
        let entry = (any::<bool>(), any::<bool>()).prop_map(|(observe_sni, filter)| VipEntry {
            observe_sni,
            filter_sni: observe_sni && filter,
            steer_sni: observe_sni && !filter,
        });
        (
            prop::collection::btree_map(vip(), entry, 0..8),
            prop::collection::btree_map("[ab]{1,2}", 0..4u8, 0..6),
            prop::collection::btree_map("[ab]{1,2}", 0..4u8, 0..6),
            forwarding(),
        )
            .prop_map(|(vips, names, wildcards, forward)| MapImage {
                vips,
                names,
                wildcards,
                forward,
            })
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
        fn no_ring_leads_to_an_endpoint_that_is_not_there(a in image(), b in image()) {
            let mut state = a.clone();
            for op in diff(&a, &b) {
                apply(std::slice::from_ref(&op), &mut state);
                let Forwarding { backends, services } = &state.forward;
                for (vip, service) in services {
                    let there = |target: &SocketAddr| {
                        backends.contains_key(&Backend { address: *target, transport: vip.transport })
                    };
                    prop_assert!(service.targets.iter().all(there), "{:?}", op);
                }
            }
        }

        #[test]
        fn no_step_refuses_a_name_that_both_have(
            a in image(), b in image(), crowd in prop::bool::weighted(0.05),
        ) {
            let (mut a, mut b) = (a, b);
            if crowd {
                // Either fits the table alone, not both.
                let names = |letter: char| (0..MAX_NAMES - 6).map(move |n| (format!("{letter}{n}"), 0));
                a.names.extend(names('x'));
                b.names.extend(names('y'));
            }
            let refuses = |image: &MapImage| image.vips.values().any(|entry| entry.filter_sni);
            let both: Vec<_> = a.names.keys().filter(|name| b.names.contains_key(*name)).collect();
            let both_wild: Vec<_> =
                a.wildcards.keys().filter(|suffix| b.wildcards.contains_key(*suffix)).collect();
            let mut state = a.clone();
            for op in diff(&a, &b) {
                let names_change = matches!(
                    op,
                    Op::AddName(..) | Op::AddWildcard(..) | Op::DeleteName(_) | Op::DeleteWildcard(_)
                );
                apply(std::slice::from_ref(&op), &mut state);
                prop_assert!(state.names.len() <= MAX_NAMES as usize, "{:?}", op);
                prop_assert!(both.iter().all(|name| state.names.contains_key(*name)), "{:?}", op);
                prop_assert!(both_wild.iter().all(|name| state.wildcards.contains_key(*name)), "{:?}", op);
                // While anything is refused, one of the two sets is whole.
                if refuses(&state) && !(crowd && names_change) {
                    let whole = |want: &MapImage| {
                        want.names.keys().all(|name| state.names.contains_key(name))
                            && want.wildcards.keys().all(|suffix| state.wildcards.contains_key(suffix))
                    };
                    prop_assert!(whole(&a) || whole(&b), "{:?}", op);
                }
                prop_assert!(!(crowd && names_change && refuses(&state)), "{:?}", op);
            }
            prop_assert_eq!(state, b);
        }
    }
}
