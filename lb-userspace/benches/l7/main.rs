//! How fast the HTTP proxy is, beside others: `cargo xtask bench l7`. The method is in
//! bench/README.md. The proxies are processes of their own on the first CPU; clients and endpoints
//! are this thread on the second.

mod calm;
mod client;
mod config;
mod endpoint;
mod frames;
mod histogram;
mod memory;
mod peers;
mod report;
mod rig;
mod scenario;
mod tls;
mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use calm::Calm;
use memory::{Hosts, Idle};
use peers::{Builds, Kind, Peer, Plan};
use report::{Machine, Report};
use rig::Rig;
use scenario::{Sample, Scenario};

/// Ports of the endpoints, below those that the kernel gives to outgoing connections.
const ENDPOINTS: [u16; 2] = [19_001, 19_002];

/// The first port of the first proxy; each takes ten.
const PROXIES: u16 = 19_100;

/// The HTTP proxy beside others, on one core.
#[derive(Parser)]
struct Options {
    /// The proxies; the first is what the others are compared with. Default: all that are installed.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Kind>,
    /// What is measured. Default: everything.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Samples of each, interleaved.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// How long a sample takes, after a third of that for warming up.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Hosts in each proxy's configuration.
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    /// Hosts of the run with many; 0: leave it out.
    #[arg(long, default_value_t = 5000)]
    many: usize,
    /// Idle connections of the run with many, fewer where the limit of open files is low; 0: leave it out.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// The binary to measure [default: the one that cargo built].
    #[arg(long, default_value = env!("CARGO_BIN_EXE_sluice"))]
    sluice: PathBuf,
    /// Another sluice to compare with, in the same rounds.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Run this command during the samples of sluice; PID stands for its process.
    #[arg(long)]
    profile: Option<String>,
    /// Write bench/l7.json and bench/l7.md.
    #[arg(long)]
    write: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus < 2 {
        eprintln!("bench l7: the proxy and its load need a CPU each");
        std::process::exit(1);
    }
    let machine = Machine::here();
    first_in_line();
    calm::pin(1);
    let room = raise_open_files();
    let mut rig = Rig::new(&ENDPOINTS).expect("the endpoints' ports are free");
    let (certificate, key) = tls::certificate();
    let builds = Builds { sluice: options.sluice.clone(), before: options.before.clone() };
    let plan =
        |hosts| Plan { hosts, endpoints: ENDPOINTS, certificate: &certificate, key: &key, builds: &builds };
    let mut kinds = match options.peers.is_empty() {
        true => Kind::ALL.into_iter().filter(|kind| kind.program(&builds).is_some()).collect(),
        false => options.peers.clone(),
    };
    if options.before.is_some() && !kinds.contains(&Kind::Before) {
        kinds.push(Kind::Before);
    }
    let scenarios = match options.scenarios.is_empty() {
        true => Scenario::ALL.to_vec(),
        false => options.scenarios.clone(),
    };

    let samples = {
        let peers = start(&kinds, &plan(options.hosts), &mut rig);
        measure(&options, &peers, &scenarios, &mut rig)
    };
    let idle = Idle::measure(options.idle.min(room), &kinds, &plan(options.hosts), &mut rig);
    let hosts = Hosts::measure(options.many, &kinds, &plan, &mut rig);
    let versions = kinds.iter().map(|kind| (kind.name(), kind.version(&builds).unwrap_or_default()));
    let report = Report {
        machine,
        versions: versions.collect(),
        hosts: options.hosts,
        rounds: options.rounds,
        seconds: options.seconds,
        kinds,
        samples,
        idle,
        many: hosts,
    };
    print!("{}", report.table());
    if options.write {
        report.write();
    }
}

fn start(kinds: &[Kind], plan: &Plan<'_>, rig: &mut Rig) -> Vec<Peer> {
    let ports = (0..).map(|index| (PROXIES + index * 10, PROXIES + index * 10 + 1));
    kinds
        .iter()
        .zip(ports)
        .filter_map(|(kind, ports)| match Peer::start(*kind, plan, rig, ports) {
            Ok(peer) => Some(peer),
            Err(why) => {
                eprintln!("bench l7: left out: {why}");
                None
            }
        })
        .collect()
}

/// All samples by scenario and proxy.
fn measure(
    options: &Options,
    peers: &[Peer],
    scenarios: &[Scenario],
    rig: &mut Rig,
) -> BTreeMap<Scenario, BTreeMap<&'static str, Vec<Sample>>> {
    let mut calm = Calm::new();
    let mut all: BTreeMap<Scenario, BTreeMap<&'static str, Vec<Sample>>> = BTreeMap::new();
    let time = Duration::from_secs_f64(options.seconds);
    for scenario in scenarios {
        for _ in 0..options.rounds {
            for peer in peers {
                let profile = options.profile.as_deref().filter(|_| peer.kind == Kind::Sluice);
                calm.wait();
                match scenario.sample(peer, options.hosts, rig, time, profile) {
                    Ok(sample) => {
                        all.entry(*scenario).or_default().entry(peer.kind.name()).or_default().push(sample);
                    }
                    Err(error) => eprintln!("bench l7: {scenario:?}, {}: {error}", peer.kind.name()),
                }
            }
        }
        if let Some(samples) = all.get(scenario) {
            eprintln!("{}", report::line(*scenario, samples));
        }
    }
    if calm.disturbed > 0 {
        eprintln!("bench l7: waited {} times for the CPUs to be two cores", calm.disturbed);
    }
    all
}

/// Other work on the machine waits while this runs; proxies inherit it. Where sessions compete as
/// groups (sched(7), autogroup), it is the session's weight that counts.
fn first_in_line() {
    let me = std::process::id().to_string();
    let renice = std::process::Command::new("renice").args(["-n", "-19", "-p", &me]).output();
    if !renice.is_ok_and(|output| output.status.success()) {
        eprintln!("bench l7: not root: other work on this machine takes part in the figures");
    }
    // Absent where there are no such groups.
    let _ = std::fs::write("/proc/self/autogroup", "-19");
}

/// Raises the limit of open files, which proxies inherit, as far as may be. How many idle
/// connections it has room for: Sluice keeps a second file for each, and some for itself.
fn raise_open_files() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = 100_000;
    let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let raised = [wanted.max(most), most]
        .into_iter()
        .find(|limit| setrlimit(Resource::RLIMIT_NOFILE, *limit, *limit).is_ok());
    usize::try_from(raised.unwrap_or(0)).map_or(usize::MAX, |files| files.saturating_sub(1_000) / 2)
}
