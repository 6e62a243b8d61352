//! The forwarder's table of lb_common on the loaded program, by BPF_PROG_TEST_RUN, with a real FIB
//! and real neighbours in a namespace of its own.

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::direct_fixtures::{DISTANT4, DISTANT6};
use lb_common::forward_fixtures::{
    self as fixtures, BACKENDS4, BACKENDS6, CLIENT4, CLIENT6, NODE_MAC, NODE4, NODE6, PEER_MAC, Step,
};
use lb_common::maps::{BackendValue, PROGRAM_RARE, PROGRAM_TUNNEL, PROGRAM_UNUSUAL, RingChunk, ServiceValue};
use lb_common::quic::ServerKey;
use lb_common::ranges::RangeKey;
use lb_common::unusual_fixtures::tagged_steps;
use lb_common::verdict::Action;
use nix::net::if_::if_nametoindex;
use sluice::dataplane::kernel::{VipTable, load};
use std::net::IpAddr;

use crate::kernel_fixtures::add_next;
use crate::kernel_node::{Node, ip};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// The network of the fixtures: endpoints and clients behind `nic`, one endpoint behind `near`.
fn network() {
    for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        std::fs::write(format!("/proc/sys/net/{key}"), value).expect("sysctl");
    }
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    ip(&["link", "add", "near", "type", "veth", "peer", "name", "pod"]);
    for nic in ["nic", "near"] {
        ip(&["link", "set", nic, "address", &mac(NODE_MAC), "up"]);
    }
    ip(&["link", "set", "pod", "up"]);
    for (nic, four, six) in [("nic", NODE4, NODE6), ("near", [10, 9, 9, 1], BACKENDS6[2])] {
        ip(&["addr", "add", &format!("{}/24", IpAddr::from(four)), "dev", nic]);
        let mut six = six;
        six[15] = 1;
        ip(&["addr", "add", &format!("{}/64", IpAddr::from(six)), "dev", nic, "nodad"]);
    }
    let near = [IpAddr::from(BACKENDS4[2]), BACKENDS6[2].into()];
    let ends = [CLIENT4.into(), BACKENDS4[0].into(), BACKENDS4[1].into()];
    let ends6 = [CLIENT6.into(), BACKENDS6[0].into(), BACKENDS6[1].into()];
    for address in ends.into_iter().chain(ends6).chain(near) {
        let nic = if near.contains(&address) { "near" } else { "nic" };
        let lladdr = mac(PEER_MAC);
        ip(&["neigh", "add", &address.to_string(), "lladdr", &lladdr, "dev", nic, "nud", "permanent"]);
    }
    for (distant, router) in
        [(IpAddr::from(DISTANT4), IpAddr::from(BACKENDS4[0])), (DISTANT6.into(), BACKENDS6[0].into())]
    {
        ip(&["route", "add", &distant.to_string(), "via", &router.to_string(), "dev", "nic"]);
    }
}

/// The program with the fixtures' tables, loaded but not attached.
fn loaded() -> Ebpf {
    let mut programs = load(None, false).expect("load");
    program(&mut programs).load().expect("verifier");
    println!("verified for rare frames: {}", add_next(&mut programs, "rare", PROGRAM_RARE));
    println!("for packets in packets: {}", add_next(&mut programs, "tunnel", PROGRAM_TUNNEL));
    println!("for unusual ones: {}", add_next(&mut programs, "unusual", PROGRAM_UNUSUAL));
    let mut uplinks: HashMap<_, u32, u32> =
        programs.take_map("UPLINKS").expect("map").try_into().expect("hash map");
    uplinks.insert(if_nametoindex("nic").expect("nic"), 1, 0).expect("insert");
    let content = fixtures::content();
    let mut vips = VipTable::take(&mut programs).expect("table");
    for (key, value) in content.vips {
        vips.insert(&key, value).expect("insert");
    }
    let mut services: Array<_, ServiceValue> =
        programs.take_map("L4_SERVICES").expect("map").try_into().expect("array");
    for (slot, service) in content.services {
        services.set(slot, service, 0).expect("set");
    }
    let mut rings: Array<_, RingChunk> =
        programs.take_map("L4_RINGS").expect("map").try_into().expect("array");
    for (at, chunk) in (0..).zip(content.chunks) {
        rings.set(at, chunk, 0).expect("set");
    }
    let map = programs.take_map("L4_RANGES").expect("map");
    let mut ranges: LpmTrie<_, RangeKey, u32> = map.try_into().expect("trie");
    for (bits, key) in content.ranges {
        ranges.insert(&Key::new(bits, key), 1, 0).expect("insert");
    }
    let mut nodes: HashMap<_, [u32; 4], u32> =
        programs.take_map("L4_NODES").expect("map").try_into().expect("hash map");
    for (address, role) in content.nodes {
        nodes.insert(address, role, 0).expect("insert");
    }
    let map = programs.take_map("L4_SERVERS").expect("map");
    let mut servers: HashMap<_, ServerKey, u32> = map.try_into().expect("hash map");
    for (key, slot) in content.servers {
        servers.insert(key, slot, 0).expect("insert");
    }
    let mut backends: Array<_, BackendValue> =
        programs.take_map("L4_BACKENDS").expect("map").try_into().expect("array");
    for (at, backend) in (0..).zip(content.backends) {
        backends.set(at, backend, 0).expect("set");
    }
    programs
}

fn program(programs: &mut Ebpf) -> &mut Xdp {
    programs.program_mut("sluice").expect("program").try_into().expect("XDP")
}

#[test]
fn the_loaded_program_takes_every_step() {
    let _node = Node::new();
    network();
    take(fixtures::all_steps(), "");
}

#[test]
fn the_loaded_program_takes_every_step_behind_tags() {
    let _node = Node::new();
    network();
    take(tagged_steps(1), "behind a tag");
    take(tagged_steps(2), "behind two tags");
}

fn take(steps: impl Iterator<Item = Step>, how: &str) {
    let mut programs = loaded();
    let info = program(&mut programs).info().expect("info");
    let verified = info.verified_instruction_count().expect("kernel tells");
    println!("verified instructions: {verified}");
    for step in steps {
        let mut out = vec![0; step.frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&step.frame);
        options.data_out = Some(&mut out);
        let result = program(&mut programs).test_run(options).expect("test run");
        let expect = match step.verdict.action {
            Action::Pass | Action::Admit | Action::Look | Action::Rare | Action::Unwrap => XDP_PASS,
            Action::Drop | Action::Unusual => XDP_DROP,
            Action::Send => XDP_TX,
            Action::Redirect => XDP_REDIRECT,
        };
        assert_eq!(result.return_value, expect, "{} {how}", step.description);
        out.truncate(result.data_size_out as usize);
        if step.verdict.action != Action::Drop {
            assert_eq!(out, step.becomes.unwrap_or(step.frame), "{} {how}", step.description);
        }
    }
}
