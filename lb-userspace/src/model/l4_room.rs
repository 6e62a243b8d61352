//! How many VIPs in forward mode the kernel's tables have room for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_common::maglev;
use lb_common::maps::{MAX_BACKENDS, MAX_RANGES, MAX_RING_CHUNKS, MAX_SERVERS, MAX_VIPS, RING_CHUNK};

use super::{Delivery, L4Service, Transport};

/// What is left. A VIP is forwarded to all of its endpoints or not at all, so each is taken in whole.
#[derive(Debug)]
pub struct L4Room {
    vips: usize,
    backends: BTreeSet<Place>,
    chunks: usize,
    ranges: usize,
    names: usize,
}

/// Whom packets go to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Endpoint(SocketAddr, Transport),
    End(IpAddr, Delivery),
}

/// What there is no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// One more VIP.
    #[error("the kernel's tables hold {MAX_VIPS} VIPs, listeners included")]
    Vips,
    /// Its endpoints.
    #[error("the kernel's tables hold {MAX_BACKENDS} endpoints of Services of type LoadBalancer")]
    Endpoints,
    /// Its ring.
    #[error(
        "the kernel's tables have no room for the choice among so many endpoints: 2,048 Services of up to 5, \
         15 of more than 40, or 62 by DSR"
    )]
    Ring,
    /// The networks that it lists.
    #[error("the kernel's tables hold {} networks of loadBalancerSourceRanges", MAX_RANGES / 2)]
    Sources,
    /// The names of its endpoints.
    #[error("the kernel's tables hold {} endpoints that QUIC packets may name", MAX_SERVERS / 2)]
    Names,
}

impl L4Room {
    /// Besides so many VIPs in proxy mode.
    pub fn besides(proxied: usize) -> Self {
        Self {
            vips: (MAX_VIPS as usize).saturating_sub(proxied),
            backends: BTreeSet::new(),
            // Rings, lists and names are replaced, not changed: the old ones stay while the new ones are
            // written.
            chunks: MAX_RING_CHUNKS as usize / 2,
            ranges: MAX_RANGES as usize / 2,
            names: MAX_SERVERS as usize / 2,
        }
    }

    /// Takes a VIP in.
    ///
    /// # Errors
    /// What of it doesn't fit; then nothing was taken.
    pub fn take(&mut self, one: &L4Service) -> Result<(), NoRoom> {
        let places = places(one);
        let chunks = chunks(written_anew(one), one.direct.is_some());
        let listed = one.sources.as_ref().map_or(0, |all| all.len());
        let named = if one.quic { one.targets.len() + one.draining.len() } else { 0 };
        for (fits, missing) in [
            (self.vips > 0, NoRoom::Vips),
            (self.backends.len() + places.len() < MAX_BACKENDS as usize, NoRoom::Endpoints),
            (chunks <= self.chunks, NoRoom::Ring),
            (listed <= self.ranges, NoRoom::Sources),
            (named <= self.names, NoRoom::Names),
        ] {
            if !fits {
                return Err(missing);
            }
        }
        self.vips -= 1;
        self.backends.extend(places);
        self.chunks -= chunks;
        self.ranges -= listed;
        self.names -= named;
        Ok(())
    }
}

/// How many chunks the ring of so many endpoints takes, and that of everybody where packets go as they are.
pub fn chunks(targets: usize, direct: bool) -> usize {
    let targets = if targets == 0 { 0 } else { maglev::size(targets as u32) };
    let all = if direct { maglev::DIRECT_RING } else { 0 };
    (targets as usize).div_ceil(RING_CHUNK) + (all as usize).div_ceil(RING_CHUNK)
}

/// How many of its endpoints get packets that are written anew.
fn written_anew(one: &L4Service) -> usize {
    let Some(direct) = &one.direct else { return one.targets.len() };
    direct.ends.iter().filter(|end| end.here).map(|end| end.targets.len()).sum()
}

fn places(one: &L4Service) -> Vec<Place> {
    let endpoints = |targets: &[SocketAddr], draining: &[SocketAddr]| {
        let all = targets.iter().chain(draining);
        all.map(|address| Place::Endpoint(*address, one.vip.transport)).collect::<Vec<_>>()
    };
    let Some(direct) = &one.direct else { return endpoints(&one.targets, &one.draining) };
    let ends = direct.ends.iter().flat_map(|end| match end.here {
        true => endpoints(&end.targets, &end.draining),
        false => vec![Place::End(end.address, direct.by)],
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ipnet::IpNet;

    use super::*;
    use crate::model::{Direct, End, ObjectKey, Vip};

    fn service(number: u16, targets: usize, listed: usize, quic: bool) -> L4Service {
        let [a, b] = number.to_be_bytes();
        let target = |n: usize| SocketAddr::from(([10, a, b, n as u8], 80));
        let network = |n: usize| {
            let [_, x, y, z] = (n as u32).to_be_bytes();
            IpNet::new_assert([100, x, y, z].into(), 32)
        };
        L4Service {
            vip: Vip { address: [192, 0, a, b].into(), port: 443, transport: Transport::Udp },
            service: ObjectKey::new("default", "web"),
            targets: (0..targets).map(target).collect(),
            draining: Arc::new([]),
            affinity: false,
            quic,
            local: false,
            sources: (listed > 0).then(|| (0..listed).map(network).collect()),
            direct: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_named_and_takes_no_room() {
        let rows: [(usize, usize, usize, bool, usize, NoRoom); 6] = [
            (0, 1, 0, false, 2048, NoRoom::Ring),
            (0, 60, 0, false, 15, NoRoom::Ring),
            (0, 0, 0, false, MAX_VIPS as usize, NoRoom::Vips),
            (MAX_VIPS as usize - 3, 1, 0, false, 3, NoRoom::Vips),
            (0, 1, MAX_RANGES as usize / 4, false, 2, NoRoom::Sources),
            (MAX_VIPS as usize, 1, 0, true, 0, NoRoom::Vips),
        ];
        for (proxied, targets, listed, quic, count, missing) in rows {
            let mut room = L4Room::besides(proxied);
            for number in 0..count {
                assert_eq!(
                    room.take(&service(number as u16, targets, listed, quic)),
                    Ok(()),
                    "{number} {missing:?}"
                );
            }
            let one_more = service(count as u16, targets, listed, quic);
            assert_eq!(room.take(&one_more), Err(missing), "{targets} {listed}");
            if missing != NoRoom::Vips {
                assert_eq!(
                    room.take(&service(count as u16, 0, 0, false)),
                    Ok(()),
                    "a smaller one still fits"
                );
            }
        }
    }

    #[test]
    fn packets_that_go_as_they_are_take_a_ring_of_everybody() {
        let direct = |number| {
            let one = service(number, 4, 0, false);
            let (here, there) = one.targets.split_at(1);
            let end = |host, here, targets: &[SocketAddr]| End {
                address: [10, 255, 0, host].into(),
                here,
                targets: targets.into(),
                draining: Arc::new([]),
            };
            let ends = [end(1, true, here), end(2, false, there)].into();
            L4Service { direct: Some(Direct { by: Delivery::Ipip, ends }), ..one }
        };
        let mut room = L4Room::besides(0);
        for number in 0..62 {
            assert_eq!(room.take(&direct(number)), Ok(()), "{number}");
        }
        assert_eq!(room.take(&direct(62)), Err(NoRoom::Ring));
        // This node's endpoint of each, and the other node once.
        assert_eq!(room.backends.len(), 62 + 1);
    }
}
