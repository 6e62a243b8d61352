//! The dataplane over real links and pins: each test in a network namespace of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::maps::{LAYOUT, LAYOUT_MAP, VipKey, VipValue};
use sluice::dataplane::diff::Op;
use sluice::dataplane::image::{MapImage, VipEntry};
use sluice::dataplane::kernel::{self, Dataplane, KernelError, Settings, WorkerSocket, XdpMode};
use sluice::model::{Transport, Vip};

use crate::need_root;

/// A network namespace with a veth pair in it and a pin directory. The current thread moves in.
struct Node {
    name: String,
    pin_dir: PathBuf,
}

impl Node {
    fn new() -> Self {
        need_root();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("slk{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pin_dir = Path::new("/sys/fs/bpf").join(&name);
        ip(&["netns", "add", &name]);
        let node = Self { name, pin_dir };
        let namespace = std::fs::File::open(format!("/run/netns/{}", node.name)).expect("namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "nic", "type", "veth", "peer", "name", "far"]);
        ip(&["link", "set", "nic", "up"]);
        ip(&["link", "set", "far", "up"]);
        node
    }

    fn settings(&self) -> Settings {
        Settings {
            interface: vec!["nic".into()],
            xdp_mode: XdpMode::Auto,
            pin_dir: self.pin_dir.clone(),
            log: false,
        }
    }

    fn open(&self) -> Result<Dataplane, KernelError> {
        Dataplane::open(self.settings())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The test may have failed with the pins in any state: what is left goes with them.
        let _ = kernel::remove(&self.pin_dir);
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip_output(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn routes(addresses: &[&str]) -> kernel::vip_routes::Changed {
    let addresses: Vec<_> = addresses.iter().map(|a| a.parse().expect("address")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(kernel::vip_routes::ensure(&addresses)).expect("routes")
}

fn vip(last: u8, port: u16) -> Vip {
    Vip { address: Ipv4Addr::new(198, 51, 100, last).into(), port, transport: Transport::Tcp }
}

fn image() -> MapImage {
    MapImage {
        vips: [(vip(1, 80), VipEntry::default()), (vip(1, 443), VipEntry { observe_sni: true })].into(),
        names: ["a.example.com".to_owned()].into(),
        wildcards: ["wild.example.com".to_owned()].into(),
    }
}

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
    assert_ne!(second.info().interfaces[0].program_id, program, "the program was exchanged");
    assert_eq!(second.verify(&image()).expect("verify"), vec![]);
    drop(second);
    kernel::remove(&node.pin_dir).expect("remove");
    assert!(!ip_output(&["link", "show", "nic"]).contains("prog/xdp"));
}

#[test]
fn what_somebody_else_changed_is_repaired() {
    let node = Node::new();
    let mut dataplane = node.open().expect("start");
    dataplane.apply(&image()).expect("apply");
    let data = MapData::from_pin(node.pin_dir.join("VIPS")).expect("pin");
    let map = Map::from_map_data(data).expect("map");
    let mut vips: HashMap<_, VipKey, VipValue> = map.try_into().expect("hash map");
    let key = vips.keys().next().expect("a VIP").expect("readable");
    vips.remove(&key).expect("remove");
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
fn errors_name_the_remedy() {
    let node = Node::new();
    let first = node.open().expect("start");
    let text = |result: Result<Dataplane, KernelError>| result.err().expect("an error").to_string();
    assert!(text(node.open()).contains("another sluice runs"));

    let mut settings = node.settings();
    settings.pin_dir = node.pin_dir.with_extension("").join("../").join(format!("{}b", node.name));
    let occupied = text(Dataplane::open(settings.clone()));
    kernel::remove(&settings.pin_dir).expect("remove");
    assert!(occupied.contains("nic has an XDP program already"), "{occupied}");

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
fn connections_reach_the_worker_without_a_bound_socket() {
    let node = Node::new();
    let mut dataplane = node.open().expect("start");
    routes(&["198.51.100.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(false).expect("blocking");
    dataplane.set_workers(&[WorkerSocket { cpu: 0, v4: listener.as_fd(), v6: None }]).expect("workers");
    dataplane.apply(&image()).expect("apply");
    let client = std::net::TcpStream::connect("198.51.100.1:80").expect("steered");
    let (server, _) = listener.accept().expect("accept");
    assert_eq!(server.local_addr().expect("address").to_string(), "198.51.100.1:80");
    drop(client);
    assert_eq!(dataplane.counters().expect("counters").verdicts["steered"], 1);
    assert!(std::net::TcpStream::connect("198.51.100.1:81").is_err(), "no VIP, no listener");
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
