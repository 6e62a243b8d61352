//! The programs, loaded over tables of their own and run by BPF_PROG_TEST_RUN.

use std::error::Error;

use aya::Ebpf;
use aya::maps::{PerCpuArray, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::maps::{PROGRAM_ADMIT, PROGRAM_LOOK, ReasonCounters};
use lb_common::reason::Reason;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An XDP program, loaded into the kernel.
pub fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp =
        programs.program_mut(name).ok_or_else(|| format!("no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

/// Nanoseconds for a packet, over so many of them.
pub fn run(programs: &mut Ebpf, name: &str, frame: &[u8], packets: u32) -> Result<f64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = packets;
    Ok(program(programs, name)?.test_run(options)?.duration.as_nanos() as f64)
}

/// Puts the programs in place that `sluice` goes on to where VIPs steer by name. Dropping what it gives
/// empties the table.
pub fn link(programs: &mut Ebpf) -> Result<ProgramArray<aya::maps::MapData>> {
    let mut next: ProgramArray<_> = programs.take_map("PROGRAMS").ok_or("no map PROGRAMS")?.try_into()?;
    for (name, place) in [("look", PROGRAM_LOOK), ("admit", PROGRAM_ADMIT)] {
        next.set(place, program(programs, name)?.fd()?, 0)?;
    }
    Ok(next)
}

/// How often each reason was counted.
pub fn reasons(programs: &Ebpf) -> Result<Vec<(Reason, u64)>> {
    let map: PerCpuArray<_, ReasonCounters> = programs.map("REASONS").ok_or("no map REASONS")?.try_into()?;
    let cpus = map.get(&0, 0)?;
    let sum = |reason: Reason| cpus.iter().map(|cpu| cpu.0[reason as usize]).sum();
    Ok(Reason::ALL.into_iter().map(|reason| (reason, sum(reason))).filter(|(_, count)| *count > 0).collect())
}
