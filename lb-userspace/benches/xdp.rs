//! Nanoseconds per packet of the XDP program, by BPF_PROG_TEST_RUN: `cargo bench --bench xdp`,
//! as root; `--json FILE` writes the numbers too, `--log` measures with the debug log on,
//! `--forward` the forwarder alone. The method is in bench/README.md.

mod xdp_forward;

use std::error::Error;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::fixtures::{NAME, SUFFIX, client_hello, segment, vips};
use lb_common::maps::{NameKey, ReasonCounters};
use lb_common::reason::Reason;
use serde::Serialize;
use sluice::dataplane::kernel::{VipTable, load};

/// Rounds over all cases; each gives one number per case, of which the median and the least are
/// shown. Many short ones: the least is then a round in which nothing else ran.
const ROUNDS: usize = 101;
/// Packets of one measurement: some milliseconds.
const PACKETS: u32 = 40_000;

struct Case {
    name: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    nanoseconds: Vec<f64>,
}

#[derive(Serialize)]
struct Line {
    case: &'static str,
    median: f64,
    median_ratio_to_empty: f64,
    least: f64,
    least_over_empty: f64,
    least_ratio_to_empty: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().position(|a| a == "--json").and_then(|at| arguments.get(at + 1));
    if !nix::unistd::geteuid().is_root() {
        return Err("BPF_PROG_TEST_RUN takes root".into());
    }
    if arguments.iter().any(|a| a == "--forward") {
        return xdp_forward::run();
    }
    let log = arguments.iter().any(|a| a == "--log");
    let mut programs = load(None, log)?;
    let mut cases = cases();
    for case in &cases {
        let program: &mut Xdp = programs.program_mut(case.program).ok_or("no such program")?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
    }
    fill(&mut programs)?;
    for _ in 0..ROUNDS {
        // Interleaved, so that a slow moment of the machine hits every case alike.
        for case in &mut cases {
            let program: &mut Xdp =
                programs.program_mut(case.program).ok_or("no such program")?.try_into()?;
            let mut options = TestRunOptions::new();
            options.data_in = Some(&case.frame);
            options.repeat = PACKETS;
            case.nanoseconds.push(program.test_run(options)?.duration.as_nanos() as f64);
        }
    }
    check_hellos(&programs)?;
    let lines = lines(&mut cases);
    println!("| case | median | ratio | least | over empty | ratio |\n| --- | --- | --- | --- | --- | --- |");
    for line in &lines {
        println!(
            "| {} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} |",
            line.case,
            line.median,
            line.median_ratio_to_empty,
            line.least,
            line.least_over_empty,
            line.least_ratio_to_empty
        );
    }
    for (name, program) in programs.programs_mut() {
        let Ok(program) = <&mut Xdp>::try_from(program) else { continue };
        if program.fd().is_err() {
            continue;
        }
        let info = program.info()?;
        let (bytes, jited) = (info.size_translated().unwrap_or(0), info.size_jitted());
        println!("{name}: {} instructions, {jited} bytes of machine code", bytes / 8);
    }
    drop(programs);
    xdp_forward::run()?;
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&lines)?)?;
    }
    Ok(())
}

/// Every hello of the forgetful program has to have been counted, or the cases measured a shorter
/// way than their names say.
fn check_hellos(programs: &Ebpf) -> Result<(), Box<dyn Error>> {
    let map: PerCpuArray<_, ReasonCounters> = programs.map("REASONS").ok_or("no map REASONS")?.try_into()?;
    let cpus = map.get(&0, 0)?;
    for reason in [Reason::HelloExact, Reason::HelloWildcard, Reason::HelloUnknown] {
        let counted: u64 = cpus.iter().map(|cpu| cpu.0[reason as usize]).sum();
        // The exact name has one more, from the first look of "seen before".
        if counted < ROUNDS as u64 * u64::from(PACKETS) {
            return Err(format!("{} counted {counted} times: the case did not run", reason.name()).into());
        }
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let case = |name, program, frame| Case { name, program, frame, nanoseconds: Vec::new() };
    let hello = |port, name: &str| segment(false, port, 443, false, &client_hello(Some(name), 40));
    let data = [b'x'; 1000];
    // The forgetful program's flow is one that the other never remembers: both share the table,
    // and a connection that is in it ends the work before the name is looked at.
    vec![
        case("empty program", "empty", segment(false, 7, 80, false, &data)),
        case("ten calls of a trivial helper", "calls", segment(false, 7, 80, false, &data)),
        case("no VIP", "sluice", segment(false, 7, 81, false, &data)),
        case("no VIP, IPv6", "sluice", segment(true, 7, 81, false, &data)),
        case("VIP, data", "sluice", segment(false, 7, 80, false, &data)),
        case("VIP, data, IPv6", "sluice", segment(true, 7, 80, false, &data)),
        case("TLS VIP, data of a connection", "sluice", segment(false, 7, 443, false, &data)),
        case("TLS VIP, bare ACK", "sluice", segment(false, 7, 443, false, b"")),
        case("TLS VIP, SYN", "sluice", segment(false, 7, 443, true, b"")),
        case("ClientHello seen before", "sluice", hello(7, NAME)),
        case("ClientHello, exact name", "forgetful", hello(8, NAME)),
        case("ClientHello, wildcard", "forgetful", hello(8, "any.wild.example.com")),
        case("ClientHello, unknown name", "forgetful", hello(8, "nobody.test.example")),
    ]
}

fn lines(cases: &mut [Case]) -> Vec<Line> {
    let numbers: Vec<_> = cases
        .iter_mut()
        .map(|case| {
            case.nanoseconds.sort_by(f64::total_cmp);
            (case.name, case.nanoseconds[ROUNDS / 2], case.nanoseconds[0])
        })
        .collect();
    let (_, empty_median, empty_least) = numbers[0];
    numbers
        .iter()
        .map(|&(case, median, least)| Line {
            case,
            median,
            median_ratio_to_empty: median / empty_median.max(1.0),
            least,
            least_over_empty: least - empty_least,
            least_ratio_to_empty: least / empty_least.max(1.0),
        })
        .collect()
}

/// The fixtures' VIPs among 1,000 names.
fn fill(programs: &mut Ebpf) -> Result<(), Box<dyn Error>> {
    let mut table = VipTable::take(programs)?;
    for (key, value) in vips() {
        table.insert(&key, value)?;
    }
    for (map, name) in [("NAMES", NAME), ("WILDCARDS", SUFFIX)] {
        let mut names: HashMap<&mut MapData, NameKey, u32> =
            programs.map_mut(map).ok_or("no such map")?.try_into()?;
        names.insert(NameKey::new(name.as_bytes()).ok_or("too long")?, 0, 0)?;
        for other in 1..1000 {
            let other_name = format!("host{other}.example.org");
            names.insert(NameKey::new(other_name.as_bytes()).ok_or("too long")?, other, 0)?;
        }
    }
    Ok(())
}
