//! The table of lb_common::fixtures on the loaded program, by BPF_PROG_TEST_RUN.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::fixtures::{self, Host, NAME, SUFFIX};
use lb_common::maps::{NameKey, PROGRAM_RARE, PROGRAM_TUNNEL, PROGRAM_UNUSUAL, ReasonCounters, Tuning};
use lb_common::reason::Reason;
use lb_common::verdict::Action;
use sluice::dataplane::kernel::{VipTable, load};

use crate::need_root;

const fn code(action: Action) -> u32 {
    match action {
        Action::Drop | Action::Unusual => 1,
        Action::Pass | Action::Admit | Action::Look | Action::Rare | Action::Unwrap => 2,
        Action::Send => 3,
        Action::Redirect => 4,
    }
}

/// The program with the fixtures' tables, loaded but not attached.
fn loaded() -> Ebpf {
    need_root();
    let mut programs = load(None, false).expect("load");
    fill_vips(&mut programs);
    let map = programs.map_mut("SOURCES").expect("map");
    let mut sources: LpmTrie<_, [u32; 4], u32> = map.try_into().expect("trie");
    for (length, address, says) in fixtures::sources() {
        sources.insert(&Key::new(length, address), says, 0).expect("insert");
    }
    let map = programs.map_mut("TUNING").expect("map");
    let mut tuning: Array<_, Tuning> = map.try_into().expect("array");
    tuning.set(0, fixtures::TUNING, 0).expect("set");
    for (map, name, slot) in [("NAMES", NAME, 0), ("WILDCARDS", SUFFIX, 1)] {
        let mut names: HashMap<_, NameKey, u32> =
            programs.map_mut(map).expect("map").try_into().expect("hash map");
        names.insert(NameKey::new(name.as_bytes()).expect("fits"), slot, 0).expect("insert");
    }
    programs
}

/// Puts a program in place that `sluice` goes on to. Gives the number of its verified instructions.
pub fn add_next(programs: &mut Ebpf, name: &str, place: u32) -> u32 {
    let program: &mut Xdp = programs.program_mut(name).expect("program").try_into().expect("XDP");
    program.load().expect("verifier");
    let verified = program.info().expect("info").verified_instruction_count().expect("kernel tells");
    let fd = program.fd().expect("loaded").try_clone().expect("a descriptor");
    let map = programs.map_mut("PROGRAMS").expect("map");
    let mut next = ProgramArray::try_from(map).expect("program array");
    next.set(place, &fd, 0).expect("set");
    verified
}

/// The table lives on in the kernel: the programs hold it.
fn fill_vips(programs: &mut Ebpf) {
    program(programs).load().expect("verifier");
    for (name, place) in [("rare", PROGRAM_RARE), ("tunnel", PROGRAM_TUNNEL), ("unusual", PROGRAM_UNUSUAL)] {
        let verified = add_next(programs, name, place);
        assert!(verified < 400_000, "{name}: {verified} verified instructions leave no room to grow");
    }
    let mut table = VipTable::take(programs).expect("table");
    for (key, value) in fixtures::vips() {
        table.insert(&key, value).expect("insert");
    }
}

fn program(programs: &mut Ebpf) -> &mut Xdp {
    programs.program_mut("sluice").expect("program").try_into().expect("XDP")
}

/// Runs the program on a frame. Gives the reasons counted, sorted, and the frame that came out.
fn judge(programs: &mut Ebpf, frame: &[u8]) -> (Vec<Reason>, u32, Vec<u8>) {
    let before = reasons(programs);
    let mut out = vec![0; frame.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let result = program(programs).test_run(options).expect("test run");
    let length = result.data_size_out as usize;
    out.truncate(length);
    let counted = Reason::ALL
        .into_iter()
        .zip(before.iter().zip(reasons(programs)))
        .flat_map(|(reason, (before, after))| (*before..after).map(move |_| reason))
        .collect();
    (counted, result.return_value, out)
}

#[test]
fn the_loaded_program_judges_the_table() {
    let mut programs = loaded();
    let info = program(&mut programs).info().expect("info");
    let verified = info.verified_instruction_count().expect("kernel tells");
    println!("verified instructions: {verified}");
    // The verifier gives up at a million: a kernel that prunes less well must take it, too.
    assert!(verified < 250_000, "{verified} verified instructions leave no room to grow");

    for row in fixtures::table() {
        let (counted, action, out) = judge(&mut programs, &row.frame);
        assert_eq!(counted, fixtures::expected(&row), "{}", fixtures::label(&row));
        assert_eq!(action, code(row.verdict.action), "{}", fixtures::label(&row));
        assert_eq!(out, *row.becomes.as_ref().unwrap_or(&row.frame), "{}", fixtures::label(&row));
    }
}

#[test]
fn the_loaded_program_and_the_host_agree_on_damaged_frames() {
    const FRAMES: usize = 2_000;
    // The kernel takes no frame without a whole Ethernet header.
    const SHORTEST: usize = 14;
    let mut programs = loaded();
    let mut host = Host::new();
    let rows = fixtures::table();
    let mut state = 1u64;
    let mut below = |end: usize| (splitmix(&mut state) % end as u64) as usize;
    let mut seen = BTreeSet::new();
    for number in 0..FRAMES {
        let mut frame = rows[below(rows.len())].frame.clone();
        for _ in 0..below(4) {
            // Headers are where the decisions fall; the rest gets its share.
            let end = if below(2) == 0 { frame.len().min(96) } else { frame.len() };
            frame[below(end)] = below(256) as u8;
        }
        if below(4) == 0 {
            frame.truncate(SHORTEST.max(below(frame.len() + 1)));
        }
        host.frame = frame.clone().into();
        host.counted.borrow_mut().clear();
        let verdict = fixtures::judge(&host);
        let mut expect = host.counted.borrow().clone();
        expect.sort();
        let (counted, action, out) = judge(&mut programs, &frame);
        assert_eq!(counted, expect, "frame {number}: {frame:02x?}");
        assert_eq!(action, code(verdict.action), "frame {number}: {frame:02x?}");
        assert_eq!(out, *host.frame.borrow(), "frame {number}: {frame:02x?}");
        seen.extend(counted);
    }
    // Or the frames were all alike, and their agreement says little.
    assert!(seen.len() > 12, "{seen:?}");
}

/// SplitMix64: the same frames in every run.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn reasons(programs: &Ebpf) -> Vec<u64> {
    let map: PerCpuArray<_, ReasonCounters> =
        programs.map("REASONS").expect("map").try_into().expect("array");
    let cpus = map.get(&0, 0).expect("read");
    (0..Reason::ALL.len()).map(|at| cpus.iter().map(|cpu| cpu.0[at]).sum()).collect()
}
