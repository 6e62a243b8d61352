//! The forwarder's cost by the number of flows, over a program that only makes the packets.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use aya::Ebpf;
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::forward_fixtures::VIP4;
use lb_common::maps::{
    BackendValue, RING_CHUNK, ReasonCounters, RingChunk, ServiceValue, VIP_FORWARD, VipKey, VipValue,
};
use lb_common::reason::Reason;
use lb_common::verdict::mapped;
use nix::net::if_::if_nametoindex;
use sluice::dataplane::image::forward::Service;
use sluice::dataplane::kernel::{VipTable, load_sized};

const ROUNDS: usize = 41;
const PACKETS: u32 = 50_000;
/// Enough for a million flows: each takes a port at one of them.
const BACKENDS: u16 = 128;

/// A case: its name, entries of the flow table, clients (0: each packet is a new one's), VIPs.
const CASES: [(&str, u32, u32, u16); 6] = [
    ("established, 1 flow", 1 << 17, 1, 1),
    ("established, 1 flow, 10,000 VIPs", 1 << 17, 1, 10_000),
    ("established, 100,000 flows", 1 << 19, 100_000, 1),
    ("established, 1,000,000 flows", 1 << 22, 1_000_000, 1),
    ("each packet a new flow, small table", 1 << 17, 0, 1),
    ("each packet a new flow, large table", 1 << 22, 0, 1),
];

/// Measures all cases and prints them.
pub fn run() -> Result<(), Box<dyn Error>> {
    network()?;
    println!("\n| forward | median | least | least over making the packet |\n| --- | --- | --- | --- |");
    for (name, table, clients, vips) in CASES {
        let mut programs = load_sized(None, false, table, clients)?;
        for name in ["clients", "dressing"] {
            program(&mut programs, name)?.load()?;
        }
        fill(&mut programs, vips)?;
        // Every client once or more before it counts.
        for _ in 0..(clients as usize * 4).div_ceil(PACKETS as usize) {
            measure(&mut programs, "clients")?;
        }
        let (mut bare, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(measure(&mut programs, "dressing")?);
            whole.push(measure(&mut programs, "clients")?);
        }
        bare.sort_by(f64::total_cmp);
        whole.sort_by(f64::total_cmp);
        let shares = reasons(&programs)?;
        let least = whole[0] - bare[0];
        println!("| {name} | {:.0} | {:.0} | {least:.0} | {shares}", whole[ROUNDS / 2], whole[0]);
    }
    Ok(())
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, Box<dyn Error>> {
    Ok(programs.program_mut(name).ok_or("no such program")?.try_into()?)
}

fn measure(programs: &mut Ebpf, name: &str) -> Result<f64, Box<dyn Error>> {
    let mut frame = vec![0x45; 128];
    frame[..12].fill(2);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 114, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // The data offset and ACK.
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.repeat = PACKETS;
    Ok(program(programs, name)?.test_run(options)?.duration.as_nanos() as f64)
}

/// What the packets were counted as: a case is what its name says only if they were forwarded.
fn reasons(programs: &Ebpf) -> Result<String, Box<dyn Error>> {
    let map: PerCpuArray<_, ReasonCounters> = programs.map("REASONS").ok_or("no map REASONS")?.try_into()?;
    let cpus = map.get(&0, 0)?;
    let sum = |reason: Reason| cpus.iter().map(|cpu| cpu.0[reason as usize]).sum::<u64>();
    let all: u64 = Reason::ALL.iter().map(|reason| sum(*reason)).sum();
    let forwarded = sum(Reason::Forwarded) as f64 / all as f64;
    let full = sum(Reason::FlowsFull) + sum(Reason::PortsFull);
    if forwarded < 0.95 {
        let all: Vec<_> = Reason::ALL.iter().map(|r| (r.name(), sum(*r))).filter(|(_, n)| *n > 0).collect();
        return Err(format!("only {forwarded:.3} of the packets were forwarded: {all:?}").into());
    }
    Ok(format!("{:.4} forwarded, {full} without room", forwarded))
}

/// A namespace of its own with a next hop for all endpoints.
fn network() -> Result<(), Box<dyn Error>> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let commands = "link add nic type veth peer name far\nlink set lo up\nlink set nic up\nlink set far up\n\
                    addr add 10.9.0.1/24 dev nic\nroute add 10.10.0.0/16 via 10.9.0.2\n\
                    neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev nic nud permanent\n";
    ip.stdin.take().ok_or("no stdin")?.write_all(commands.as_bytes())?;
    if !ip.wait()?.success() { Err("ip failed".into()) } else { Ok(()) }
}

fn fill(programs: &mut Ebpf, count: u16) -> Result<(), Box<dyn Error>> {
    let mut uplinks: HashMap<_, u32, u32> = programs.take_map("UPLINKS").ok_or("no UPLINKS")?.try_into()?;
    uplinks.insert(if_nametoindex("nic")?, 1, 0)?;
    let mut backends: Array<_, BackendValue> =
        programs.take_map("L4_BACKENDS").ok_or("no L4_BACKENDS")?.try_into()?;
    let mut targets = BTreeSet::new();
    for slot in 0..BACKENDS {
        let [high, low] = slot.to_be_bytes();
        let address = [10, 10, high, low];
        targets.insert(SocketAddr::new(IpAddr::from(address), 8080));
        let value = BackendValue {
            address: mapped(address),
            port: 8080u16.to_be(),
            protocol: 6,
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
    let mut vips = VipTable::take(programs)?;
    for slot in 0..u32::from(count) {
        let [_, _, high, low] = slot.to_be_bytes();
        let address = if slot == 0 { VIP4 } else { [203, 0, high, low] };
        let key = VipKey { address: mapped(address), port: 80u16.to_be(), protocol: 6, zero: 0 };
        vips.insert(&key, VipValue { slot, flags: VIP_FORWARD })?;
        services.set(slot, ServiceValue { first: 0, size: ring.len() as u32 }, 0)?;
    }
    Ok(())
}
