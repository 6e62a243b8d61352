//! The table of lb_common::fixtures on the loaded program, by BPF_PROG_TEST_RUN.

use aya::Ebpf;
use aya::maps::{HashMap, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::fixtures::{self, NAME, SUFFIX};
use lb_common::maps::{NameKey, ReasonCounters, VipKey, VipValue};
use lb_common::reason::Reason;
use sluice::dataplane::kernel::load;

use crate::need_root;

const XDP_PASS: u32 = 2;

#[test]
fn the_loaded_program_judges_the_table() {
    need_root();
    let mut programs = load(None).expect("load");
    let mut vips: HashMap<_, VipKey, VipValue> =
        programs.take_map("VIPS").expect("map").try_into().expect("hash map");
    for (key, value) in fixtures::vips() {
        vips.insert(key, value, 0).expect("insert");
    }
    for (map, name, slot) in [("NAMES", NAME, 0), ("WILDCARDS", SUFFIX, 1)] {
        let mut names: HashMap<_, NameKey, u32> =
            programs.map_mut(map).expect("map").try_into().expect("hash map");
        names.insert(NameKey::new(name.as_bytes()).expect("fits"), slot, 0).expect("insert");
    }
    let program: &mut Xdp = programs.program_mut("sluice").expect("program").try_into().expect("XDP");
    program.load().expect("verifier");
    let verified = program.info().expect("info").verified_instruction_count().expect("kernel tells");
    println!("verified instructions: {verified}");
    // The verifier gives up at a million.
    assert!(verified < 200_000, "{verified} verified instructions leave no room to grow");

    for row in fixtures::table() {
        let before = reasons(&programs);
        let program: &mut Xdp = programs.program_mut("sluice").expect("program").try_into().expect("XDP");
        let mut out = vec![0; row.frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&row.frame);
        options.data_out = Some(&mut out);
        let result = program.test_run(options).expect("test run");
        let counted: Vec<_> = Reason::ALL
            .into_iter()
            .zip(before.iter().zip(reasons(&programs)))
            .flat_map(|(reason, (before, after))| (*before..after).map(move |_| reason))
            .collect();
        assert_eq!(counted, fixtures::expected(&row), "{}", fixtures::label(&row));
        assert_eq!(result.return_value, XDP_PASS, "{}", fixtures::label(&row));
        assert_eq!(out[..result.data_size_out as usize], row.frame, "{}", fixtures::label(&row));
    }
}

fn reasons(programs: &Ebpf) -> Vec<u64> {
    let map: PerCpuArray<_, ReasonCounters> =
        programs.map("REASONS").expect("map").try_into().expect("array");
    let cpus = map.get(&0, 0).expect("read");
    (0..Reason::ALL.len()).map(|at| cpus.iter().map(|cpu| cpu.0[at]).sum()).collect()
}
