//! Packets through a node that forwards them from one veth to another: by XDP, and by nftables.
//!
//! All of it is one thread's work: the kernel sends 64 packets (BPF_PROG_TEST_RUN with live frames), and
//! before the next 64 it lets the node and whoever is behind it take them. So none is ever lost for want
//! of room, and the thread's CPU time holds all that was done.

use aya::Ebpf;
use aya::maps::PerCpuArray;
use aya::programs::links::FdLink;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, XdpMode};
use nix::time::{ClockId, clock_gettime};
use sluice::dataplane::kernel::{Sizes, load_sized};

use crate::forward::{fill, frame, sender};
use crate::network::{FAR_OUT, IN, feed};
use crate::report::{Report, Samples};
use crate::rig::{Result, program};

const ROUNDS: usize = 7;
const PACKETS: u32 = 640_000;
const UDP: u8 = 17;

/// By the number of connections.
const CASES: [(u32, &str, &str); 2] = [
    (1, "Sluice, 1 flow", "nftables, 1 flow"),
    (100_000, "Sluice, 100,000 flows", "nftables, 100,000 flows"),
];

/// The same VIP in nftables: connections spread over as many endpoints by their hash.
fn rules() -> String {
    let endpoints: Vec<_> = (0..128).map(|n| format!("{n} : 10.10.0.{n}")).collect();
    format!(
        "table ip sluice_bench {{\n chain in {{\n  type nat hook prerouting priority dstnat;\n  \
         ip daddr 203.0.0.0 udp dport 80 dnat to jhash ip saddr . udp sport mod 128 map {{ {} }}:8080\n }}\n}}\n",
        endpoints.join(", ")
    )
}

/// Measures both.
pub fn measure(report: &mut Report) -> Result<()> {
    // What a driver does for packets that go to the stack: collect them, and merge what can be merged.
    feed("ethtool", &["-K", IN, "gro", "on"], "")?;
    feed("nft", &["-f", "-"], &rules())?;
    Report::throughput_head("forwarding, veth to veth");
    for (clients, ours, theirs) in CASES {
        let sizes = Sizes { flows: 1 << 18, clients, targets: 1, sender: sender()? };
        let mut programs = load_sized(None, false, &sizes)?;
        for name in ["generator", "swallow", "discard", "sluice"] {
            program(&mut programs, name)?;
        }
        fill(&mut programs, 1, UDP, None)?;
        // Only what listens by XDP can be sent to by XDP.
        let _end = attach(&mut programs, "swallow", FAR_OUT)?;
        let (mut none, mut xdp, mut nft) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..ROUNDS {
            {
                let _here = attach(&mut programs, "discard", IN)?;
                none.add(send(&mut programs, 0)?);
            }
            {
                let _here = attach(&mut programs, "sluice", IN)?;
                xdp.add(send(&mut programs, PACKETS)?);
            }
            nft.add(send(&mut programs, PACKETS)?);
        }
        report.throughput("the generator alone", &none, &Samples::default());
        report.throughput(ours, &xdp, &none);
        report.throughput(theirs, &nft, &none);
    }
    Ok(())
}

/// Sends packets twice, once for every connection to be known, and gives the nanoseconds of CPU time for
/// each. `arrive`: how many have to come out.
fn send(programs: &mut Ebpf, arrive: u32) -> Result<f64> {
    let frame = frame(UDP);
    let mut taken = 0.0;
    for _ in 0..2 {
        let before = swallowed(programs)?;
        let started = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.repeat = PACKETS;
        options.attrs = TestRunAttrs::new().xdp_live_frames(64);
        program(programs, "generator")?.test_run(options)?;
        let ended = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        taken = (std::time::Duration::from(ended) - std::time::Duration::from(started)).as_nanos() as f64;
        let came = swallowed(programs)? - before;
        if came < u64::from(arrive) * 99 / 100 {
            return Err(format!("{came} of {PACKETS} packets arrived").into());
        }
    }
    Ok(taken / f64::from(PACKETS))
}

fn swallowed(programs: &Ebpf) -> Result<u64> {
    let map: PerCpuArray<_, u64> = programs.map("SWALLOWED").ok_or("no map SWALLOWED")?.try_into()?;
    Ok(map.get(&0, 0)?.iter().sum())
}

/// Attaches a program for as long as the link is held.
fn attach(programs: &mut Ebpf, name: &str, interface: &str) -> Result<FdLink> {
    let program = program(programs, name)?;
    let link = program.attach(interface, XdpMode::Driver)?;
    Ok(program.take_link(link)?.try_into()?)
}
