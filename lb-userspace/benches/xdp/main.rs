//! What the XDP programs cost: `cargo bench --bench xdp`, as root. The methods are in bench/xdp.md.
//!
//! `packets` shows frames to VIPs in proxy mode, `forward` those to VIPs in forward mode by the number
//! of connections; both count nanoseconds in BPF_PROG_TEST_RUN. `veth` sends packets through a node
//! that forwards, by XDP and by nftables.

mod forward;
mod network;
mod packets;
mod report;
mod rig;
mod veth;

use std::error::Error;

use clap::Parser;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use report::Report;

/// Measures all parts, or those that are named.
#[derive(Parser)]
struct Options {
    /// Frames to VIPs in proxy mode
    #[arg(long)]
    packets: bool,
    /// Frames to VIPs in forward mode
    #[arg(long)]
    forward: bool,
    /// Forwarding between veths, beside nftables
    #[arg(long)]
    veth: bool,
    /// Measure frames to VIPs in proxy mode with the programs' debug log on
    #[arg(long)]
    log: bool,
    /// Of frames to VIPs in forward mode, measure the cases alone whose names begin with this
    #[arg(long, value_name = "NAME", requires = "forward")]
    only: Option<String>,
    /// Also write the numbers into this file
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// Cargo says it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if !nix::unistd::geteuid().is_root() {
        return Err("BPF_PROG_TEST_RUN takes root: run it with sudo".into());
    }
    pin()?;
    network::enter()?;
    let all = !(options.packets || options.forward || options.veth);
    let mut report = Report::default();
    if all || options.packets {
        packets::measure(&mut report, options.log)?;
    }
    if all || options.forward {
        forward::measure(&mut report, options.only.as_deref())?;
    }
    if all || options.veth {
        veth::measure(&mut report)?;
    }
    match options.json {
        Some(path) => Ok(std::fs::write(path, report.json()?)?),
        None => Ok(()),
    }
}

/// Stays on the CPU that it is on: whose turn it is, is each CPU's own.
fn pin() -> Result<(), Box<dyn Error>> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}
