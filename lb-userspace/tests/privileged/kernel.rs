//! Pins and links of the dataplane: each test in a network namespace of its own.

use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode as AyaMode;
use lb_common::maps::{LAYOUT, LAYOUT_MAP};
use lb_common::vips::{CHUNKS, TAKEN, VipChunk, VipPlace};
use sluice::dataplane::diff::Op;
use sluice::dataplane::image::MapImage;
use sluice::dataplane::kernel::{self, Dataplane, KernelError, Settings, XdpMode};

use crate::kernel_node::{Node, image, ip, ip_output, routes};

#[test]
fn a_restart_takes_everything_over() {
    let node = Node::new();
    let mut first = node.open().expect("first start");
    assert!(!first.info().reused);
    assert_eq!(first.info().interfaces[0].mode, XdpMode::Native);
    first.apply(&image()).expect("apply");
    assert_eq!(first.read().expect("read"), image());
    let program = first.info().interfaces[0].program_id;
    drop(first);
    assert!(ip_output(&["link", "show", "nic"]).contains("xdp"), "dropping it must not detach");

    let second = node.open().expect("second start");
    assert!(second.info().reused);
    assert_eq!(second.info().interfaces[0].program_id, program, "the same program runs on");
    assert_eq!(second.verify(&image()).expect("verify"), vec![]);
    drop(second);
    kernel::remove(&node.pin_dir).expect("remove");
    // The kernel lets go of an unpinned link a moment later.
    let start = Instant::now();
    while ip_output(&["link", "show", "nic"]).contains("prog/xdp") {
        assert!(start.elapsed() < Duration::from_secs(20), "the program is still attached");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_somebody_else_changed_is_repaired() {
    let node = Node::new();
    let mut dataplane = node.open().expect("start");
    dataplane.apply(&image()).expect("apply");
    let data = MapData::from_pin(node.pin_dir.join("VIPS")).expect("pin");
    let map = Map::from_map_data(data).expect("map");
    let mut vips: Array<_, VipChunk> = map.try_into().expect("array");
    let taken =
        |index: &u32| vips.get(index, 0).expect("readable").0.iter().any(|place| place.state == TAKEN);
    let index = (0..CHUNKS).find(taken).expect("a VIP");
    let mut chunk = vips.get(&index, 0).expect("readable");
    let place = chunk.0.iter_mut().find(|place| place.state == TAKEN).expect("a VIP");
    *place = VipPlace::default();
    vips.set(index, chunk, 0).expect("set");
    let differences = dataplane.verify(&image()).expect("verify");
    assert!(matches!(differences[..], [ref d] if matches!(d.repair, Op::SetVip(..))), "{differences:?}");
    assert_eq!(dataplane.apply(&image()).expect("apply").set, 1);
    assert_eq!(dataplane.verify(&image()).expect("verify"), vec![]);
}

#[test]
fn another_layout_is_replaced() {
    let node = Node::new();
    let mut dataplane = node.open().expect("start");
    dataplane.apply(&image()).expect("apply");
    drop(dataplane);
    let data = MapData::from_pin(node.pin_dir.join(LAYOUT_MAP)).expect("pin");
    let mut layout: Array<_, u64> = Map::from_map_data(data).expect("map").try_into().expect("array");
    layout.set(0, LAYOUT + 1, 0).expect("set");
    let again = node.open().expect("start over another layout");
    assert!(!again.info().reused);
    assert_eq!(again.read().expect("read"), MapImage::default());
}

#[test]
fn another_size_is_replaced_and_the_same_is_not() {
    let node = Node::new();
    let settings = |flows| Settings { flows, ..node.settings() };
    let mut dataplane = Dataplane::open(settings(100_000)).expect("start");
    dataplane.apply(&image()).expect("apply");
    drop(dataplane);
    let entries = |name: &str| MapInfo::from_pin(node.pin_dir.join(name)).expect("pin").max_entries();
    // Two for each flow, of the power of two above.
    assert_eq!((entries("L4_FLOWS"), entries("L4_MARKS")), (1 << 18, 1 << 15));
    for (flows, reused) in [(131_072, true), (131_073, false), (200_000, true), (2000, false)] {
        let dataplane = Dataplane::open(settings(flows)).expect("start again");
        assert_eq!(dataplane.info().reused, reused, "{flows}");
        assert_eq!(dataplane.read().expect("read") == image(), flows == 131_072, "{flows}");
        assert_eq!(entries("L4_FLOWS"), 2 * flows.next_power_of_two());
    }
}

#[test]
fn errors_name_the_remedy() {
    let node = Node::new();
    let first = node.open().expect("start");
    let text = |result: Result<Dataplane, KernelError>| result.err().expect("an error").to_string();
    assert!(text(node.open()).contains("another sluice runs"));

    let mut settings = node.settings();
    settings.pin_dir = node.pin_dir.with_extension("").join("../").join(format!("{}b", node.name));
    let occupied = text(Dataplane::open(settings.clone()));
    kernel::remove(&settings.pin_dir).expect("remove");
    let program = first.info().interfaces[0].program_id;
    let owner = format!("nic has an XDP program already: program {program} (sluice, native)");
    assert!(occupied.contains(&owner) && occupied.contains("sluice maps purge"), "{occupied}");

    drop(first);
    settings.interface = vec!["nosuch0".into()];
    let missing = text(Dataplane::open(settings.clone()));
    kernel::remove(&settings.pin_dir).expect("remove");
    assert!(missing.contains("no network interface \"nosuch0\""), "{missing}");

    settings.pin_dir = std::env::temp_dir().join(&node.name);
    let elsewhere = text(Dataplane::open(settings.clone()));
    std::fs::remove_dir(&settings.pin_dir).expect("made by open");
    assert!(elsewhere.contains("not on bpffs"), "{elsewhere}");
}

#[test]
fn another_owner_of_the_hook_is_named() {
    let node = Node::new();
    let mut programs = kernel::load(None, false).expect("load");
    for (mode, shown) in [(AyaMode::Driver, "native"), (AyaMode::Skb, "generic")] {
        let program: &mut Xdp = programs.program_mut("empty").expect("program").try_into().expect("XDP");
        if program.fd().is_err() {
            program.load().expect("verifier");
        }
        let link = program.attach("nic", mode).expect("attach");
        let id = program.info().expect("info").id();
        let refused = node.open().err().expect("an error").to_string();
        let owner = format!("nic has an XDP program already: program {id} (empty, {shown})");
        assert!(refused.contains(&owner) && refused.contains("ip link set dev nic xdp off"), "{refused}");
        program.detach(link).expect("detach");
    }
    node.open().expect("nobody has it now");
}

#[test]
fn routes_are_added_once_and_only_ours_removed() {
    let _node = Node::new();
    ip(&["addr", "add", "198.51.100.9/24", "dev", "nic"]);
    ip(&["route", "add", "local", "198.51.100.7/32", "dev", "lo"]);
    let all = ["198.51.100.1", "198.51.100.7", "198.51.100.9", "127.0.0.5", "2001:db8::1"];
    let first = routes(&all);
    assert_eq!(
        first.added.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["198.51.100.1", "2001:db8::1"]
    );
    assert_eq!(routes(&all), Default::default(), "nothing to do the second time");
    assert_eq!(routes(&["2001:db8::1"]).removed.len(), 1);
    assert_eq!(routes(&[]).removed.len(), 1);
    let left = ip_output(&["route", "show", "table", "local"]);
    assert!(left.contains("198.51.100.7") && !left.contains("198.51.100.1 "), "{left}");
}
