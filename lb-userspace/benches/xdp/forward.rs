//! Frames to VIPs in forward mode, over a program that only makes the packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use aya::Ebpf;
use aya::maps::{Array, HashMap};
use lb_common::flow::{Flow, Phase, Stamp};
use lb_common::maps::{
    BackendValue, DIRECT_IPIP, DIRECT_L2, MAX_L4_FLOWS, RING_CHUNK, RingChunk, ServiceValue, VIP_DIRECT,
    VIP_FORWARD, VipKey, VipValue,
};
use lb_common::reason::Reason;
use lb_common::verdict::mapped;
use nix::net::if_::if_nametoindex;
use sluice::dataplane::image::forward::Service;
use sluice::dataplane::kernel::{Sizes, VipTable, load_sized};

use crate::network::{FAR_IN, IN, OUT};
use crate::report::{Report, Samples};
use crate::rig::{Result, program, reasons, run};

const ROUNDS: usize = 41;
/// In a sample, or more: see [`Case::packets`].
const PACKETS: u32 = 50_000;
/// Enough for a million flows: each takes a port at one of them.
pub const BACKENDS: u16 = 128;

struct Case {
    name: &'static str,
    /// Entries of the flow table.
    flows: u32,
    /// How many clients take turns; 0: each packet is a new one's.
    clients: u32,
    /// How many VIPs there are.
    vips: u32,
    /// And how many of them the clients go to.
    targets: u32,
    /// Whether the packets are replies of their endpoints'.
    replies: bool,
    /// How packets go as they are, [`BackendValue::protocol`]; `None`: they are written anew.
    direct: Option<u8>,
    must: Option<f64>,
}

impl Case {
    /// The program that measures it.
    const fn program(&self) -> &'static str {
        match self.replies {
            true => "replies",
            false if self.wraps() => "wrapped",
            false => "clients",
        }
    }

    /// The one that only makes its packets.
    const fn base(&self) -> &'static str {
        if self.replies { "dressing_reply" } else { "dressing" }
    }

    /// How many packets a sample has: several of each flow's, or several for each entry of a table that new flows
    /// fill.
    ///
    /// A test run begins and ends with a pause, as the kernel waits for all CPUs, and others use the caches
    /// meanwhile. In shorter samples most lines of a large table would be touched for the first time
    /// since then, which under traffic they never are.
    const fn packets(&self) -> u32 {
        let often = match self.clients {
            0 if self.flows > MAX_L4_FLOWS => PACKETS,
            0 => 4 * MAX_L4_FLOWS,
            clients => 4 * clients,
        };
        if often > PACKETS { often } else { PACKETS }
    }

    const fn counts(&self) -> Reason {
        match self.replies {
            true => Reason::Returned,
            false if self.wraps() => Reason::Tunnelled,
            false => Reason::Forwarded,
        }
    }

    /// Whether each packet is put in another one.
    const fn wraps(&self) -> bool {
        matches!(self.direct, Some(DIRECT_IPIP))
    }
}

const ONE: Case = Case {
    name: "established, 1 flow",
    flows: MAX_L4_FLOWS,
    clients: 1,
    vips: 1,
    targets: 1,
    replies: false,
    direct: None,
    must: Some(60.0),
};

const REPLY: Case = Case { name: "reply, 1 flow", replies: true, must: None, ..ONE };

const DIRECT: Case = Case { name: "as it is, 1 flow", direct: Some(DIRECT_IPIP), ..ONE };

const ADJACENT: Case = Case { name: "as it is, adjacent, 1 flow", direct: Some(DIRECT_L2), ..ONE };

const CASES: [Case; 19] = [
    ONE,
    Case { name: "the same, 100 VIPs", vips: 100, ..ONE },
    Case { name: "the same, 1,000 VIPs", vips: 1_000, ..ONE },
    Case { name: "the same, 10,000 VIPs", vips: 10_000, ..ONE },
    Case {
        name: "10,000 flows, each to another VIP",
        clients: 10_000,
        vips: 10_000,
        targets: 10_000,
        must: None,
        ..ONE
    },
    Case { name: "established, 100,000 flows", flows: 1 << 18, clients: 100_000, must: Some(100.0), ..ONE },
    Case {
        name: "established, 1,000,000 flows",
        flows: 1 << 21,
        clients: 1_000_000,
        must: Some(150.0),
        ..ONE
    },
    Case { name: "each packet a new flow, full table", clients: 0, must: Some(150.0), ..ONE },
    Case { name: "the same, full table of 8,192", flows: 1 << 14, clients: 0, must: Some(150.0), ..ONE },
    Case { name: "the same, room for all", flows: 1 << 22, clients: 0, must: Some(150.0), ..ONE },
    REPLY,
    Case { name: "reply, 100,000 flows", clients: 100_000, ..REPLY },
    Case { name: "reply, 1,000,000 flows", flows: 1 << 21, clients: 1_000_000, ..REPLY },
    DIRECT,
    Case { name: "as it is, 100,000 flows", clients: 100_000, must: Some(100.0), ..DIRECT },
    Case { name: "as it is, 1,000,000 flows", clients: 1_000_000, must: Some(150.0), ..DIRECT },
    Case { name: "as it is, each packet a new flow", clients: 0, must: Some(150.0), ..DIRECT },
    ADJACENT,
    Case { name: "as it is, adjacent, 100,000 flows", clients: 100_000, must: Some(100.0), ..ADJACENT },
];

/// Measures all cases, or those whose names begin with `only`.
pub fn measure(report: &mut Report, only: Option<&str>) -> Result<()> {
    Report::head("VIPs in forward mode, ns");
    for case in CASES.iter().filter(|case| only.is_none_or(|only| case.name.starts_with(only))) {
        let sizes =
            Sizes { flows: case.flows, clients: case.clients, targets: case.targets, ..Sizes::default() };
        let mut programs = load_sized(None, false, &sizes)?;
        let own = case.program();
        for name in [own, "clients", case.base(), "shifting", "empty"] {
            program(&mut programs, name)?;
        }
        fill(&mut programs, case.vips, 6, case.direct)?;
        let frame = frame(6);
        // Every client several times before it counts, before and after its endpoint's answer. Nothing
        // between that and what counts: after some seconds each flow is looked at in full, once.
        let asks = if case.replies { "clients" } else { own };
        let packets = case.packets();
        // Until the endpoints have answered, a flow may take another's entry: some come again.
        for _ in 0..3 {
            run(&mut programs, asks, &frame, packets)?;
            answer(&mut programs, case)?;
        }
        // Of the clients' packets nothing is counted where it is about replies.
        let before = if case.replies { total(&reasons(&programs)?) } else { 0 };
        run(&mut programs, own, &frame, packets)?;
        let (mut empty, mut bare, mut whole) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..ROUNDS {
            empty.add(run(&mut programs, "empty", &frame, PACKETS)?);
            let dressing = run(&mut programs, case.base(), &frame, packets)?;
            // What gives the packet back to the next run is one call of two.
            let shifting =
                if case.wraps() { run(&mut programs, "shifting", &frame, PACKETS)? } else { dressing };
            bare.add((dressing + shifting) / 2.0);
            whole.add(run(&mut programs, own, &frame, packets)?);
        }
        check(&programs, case, before)?;
        report.cost(case.name, &whole, &bare, &empty, case.must);
    }
    Ok(())
}

/// Makes all connections ones that their endpoints have answered and their clients have gone on with.
fn answer(programs: &mut Ebpf, case: &Case) -> Result<()> {
    if case.clients == 0 || case.direct.is_some() {
        return Ok(());
    }
    let mut flows: Array<_, Flow> = programs.map_mut("L4_FLOWS").ok_or("no L4_FLOWS")?.try_into()?;
    let mut replies = Vec::new();
    for index in 0..case.flows {
        let flow = flows.get(&index, 0)?;
        if flow.stamp != 0 {
            let [high, low] = (flow.backend as u16).to_be_bytes();
            let [p, q] = flow.port.to_ne_bytes();
            replies.push(u64::from_ne_bytes([10, 10, high, low, p, q, 0, 0]));
        }
        if Stamp(flow.stamp).phase() == Some(Phase::Opening) {
            let stamp = Stamp::new(Phase::Open, flow.stamp as u32).0;
            flows.set(index, Flow { stamp, ..flow }, 0)?;
        }
    }
    // In no order: neighbours in the table aren't on the wire.
    replies.sort_unstable_by_key(|reply| reply.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32));
    let map = programs.map_mut("REPLIES").ok_or("no REPLIES")?;
    let mut table: Array<_, u64> = map.try_into()?;
    for (at, reply) in (0..case.clients).zip(replies.iter().cycle()) {
        table.set(at, *reply, 0)?;
    }
    Ok(())
}

fn total(counted: &[(Reason, u64)]) -> u64 {
    counted.iter().map(|(_, count)| count).sum()
}

/// A case is what its name says only if the packets were forwarded.
///
/// `before`: what was counted of others.
fn check(programs: &Ebpf, case: &Case, before: u64) -> Result<()> {
    let counted = reasons(programs)?;
    let all = total(&counted) - before;
    let forwarded = counted.iter().find(|(reason, _)| *reason == case.counts()).map_or(0, |(_, n)| *n);
    // A million new flows a second fill any table: what finds no room is dropped.
    if (forwarded as f64) < 0.95 * all as f64 {
        let counted: Vec<_> = counted.iter().map(|(reason, count)| (reason.name(), count)).collect();
        return Err(format!("{}: few were forwarded: {counted:?}", case.name).into());
    }
    Ok(())
}

/// The packet that clients are put into: the Ethernet header, IPv4, and 94 bytes of TCP or UDP.
pub fn frame(protocol: u8) -> Vec<u8> {
    let mut frame = vec![0; 128];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 8]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34]
        .copy_from_slice(&[0x45, 0, 0, 114, 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    if protocol == 6 {
        // The data offset and ACK.
        frame[46..48].copy_from_slice(&[0x50, 0x10]);
    } else {
        // UDP's length; no checksum.
        frame[38..42].copy_from_slice(&[0, 94, 0, 0]);
    }
    frame
}

/// So many VIPs, all with the same endpoints. `direct`: how these get packets as they are, if they do.
pub fn fill(programs: &mut Ebpf, vips: u32, protocol: u8, direct: Option<u8>) -> Result<()> {
    let mut uplinks: HashMap<_, u32, u32> = programs.take_map("UPLINKS").ok_or("no UPLINKS")?.try_into()?;
    for name in [IN, OUT] {
        uplinks.insert(if_nametoindex(name)?, 1, 0)?;
    }
    let mut backends: Array<_, BackendValue> =
        programs.take_map("L4_BACKENDS").ok_or("no L4_BACKENDS")?.try_into()?;
    let mut targets = BTreeSet::new();
    for slot in 0..BACKENDS {
        let [high, low] = slot.to_be_bytes();
        let address = if direct == Some(DIRECT_L2) { [10, 11, high, low] } else { [10, 10, high, low] };
        targets.insert(SocketAddr::new(IpAddr::from(address), 8080));
        let value = BackendValue {
            address: mapped(address),
            port: 8080u16.to_be(),
            protocol: direct.unwrap_or(protocol),
            draining: 0,
            generation: 1,
        };
        backends.set(slot.into(), value, 0)?;
    }
    let mut rings: Array<_, RingChunk> = programs.take_map("L4_RINGS").ok_or("no L4_RINGS")?.try_into()?;
    let ring = Service { targets, ..Service::default() }.ring();
    for (at, part) in (0..).zip(ring.chunks(RING_CHUNK)) {
        let mut chunk = RingChunk([0; RING_CHUNK]);
        for (to, from) in chunk.0.iter_mut().zip(part) {
            *to = from + 1;
        }
        rings.set(at, chunk, 0)?;
    }
    let mut services: Array<_, ServiceValue> =
        programs.take_map("L4_SERVICES").ok_or("no L4_SERVICES")?.try_into()?;
    let mut table = VipTable::take(programs)?;
    for slot in 0..vips {
        let [_, _, high, low] = slot.to_be_bytes();
        let key = VipKey { address: mapped([203, 0, high, low]), port: 80u16.to_be(), protocol, zero: 0 };
        let flags = VIP_FORWARD | if direct.is_some() { VIP_DIRECT } else { 0 };
        table.insert(&key, VipValue { slot, flags })?;
        services.set(slot, ServiceValue { first: 0, size: ring.len() as u32 }, 0)?;
    }
    Ok(())
}

/// The index of the interface that [`IN`] hears.
pub fn sender() -> Result<u32> {
    Ok(if_nametoindex(FAR_IN)?)
}
