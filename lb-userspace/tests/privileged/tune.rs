//! `sluice tune` on a node with XDP: who is denied, allowed, or over the budget, and that it lasts.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::topology::{NODE_NIC, VIP_V4, VIP_V6};
use xtask::lab::{Daemon, ManifestDir, Topology};

use crate::need_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// What is dropped is not answered: so long is waited for that. TCP asks again only after a second.
const SILENCE: Duration = Duration::from_millis(700);

/// Only so that a broken test ends.
const DEADLINE: Duration = Duration::from_secs(20);

struct Rig {
    daemon: Daemon,
    _manifests: ManifestDir,
    topology: Topology,
}

impl Rig {
    fn new(label: &str) -> Self {
        Self::with(label, "")
    }

    /// With further arguments, each behind a space.
    fn with(label: &str, more: &str) -> Self {
        need_root();
        let topology = Topology::new(label, 0).expect("namespaces");
        let manifests = ManifestDir::create(&topology.directory().join("m")).expect("a directory");
        let (directory, pins) = (manifests.path().display(), topology.pins().display());
        let arguments = format!(
            "--manifests {directory} --interface {NODE_NIC} --pin-dir {pins} --vip {VIP_V4} --vip {VIP_V6}{more}"
        );
        let arguments = arguments.split(' ').map(str::to_owned).collect();
        let daemon = Daemon::start(Path::new(SLUICE), &topology.node(), topology.directory(), arguments);
        Self { daemon: daemon.expect("a daemon"), _manifests: manifests, topology }
    }

    /// `sluice tune` with these words; its JSON, or what it says on stderr.
    fn tune(&self, words: &[&str]) -> Result<Value, String> {
        let words = ["tune"].iter().chain(words).chain(&["-o", "json"]);
        let output = self.daemon.cli(words).expect("the command line runs");
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Whether the VIP answers a connection within `patience`.
    fn reaches(&self, vip: IpAddr, patience: Duration) -> bool {
        let to = SocketAddr::new(vip, 80);
        let connected = self.topology.client().enter(|| TcpStream::connect_timeout(&to, patience));
        match connected.expect("the client's namespace") {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::TimedOut => false,
            Err(error) => panic!("{to}: {error}"),
        }
    }

    fn counted(&self, reason: &str) -> u64 {
        self.daemon.status().expect("a status")["verdicts"][reason].as_u64().expect("a counter")
    }
}

#[test]
fn clients_are_denied_allowed_and_counted() {
    let mut rig = Rig::new("tune");
    for (vip, own, network) in
        [(VIP_V4, "192.0.2.2", "192.0.2.0/24"), (VIP_V6, "2001:db8:1::2", "2001:db8:1::/64")]
    {
        assert!(rig.reaches(vip, DEADLINE), "nothing is denied at first");
        rig.tune(&[&format!("deny+={network}")]).expect("set");
        let before = rig.counted("source_denied");
        assert!(!rig.reaches(vip, SILENCE), "{own} is denied");
        assert!(rig.counted("source_denied") > before);
        rig.tune(&[&format!("allow+={own}")]).expect("set");
        assert!(rig.reaches(vip, DEADLINE), "{own} is allowed");
        // The daemon goes, the rules stay, without it and with the next one.
        rig.tune(&[&format!("allow-={own}")]).expect("set");
        rig.daemon.process().kill();
        assert!(!rig.reaches(vip, SILENCE), "{own} is denied while no daemon runs");
        rig.daemon.launch().expect("started anew");
        rig.daemon.wait_ready().expect("ready again");
        assert_eq!(rig.tune(&[]).expect("shown")["deny"], serde_json::json!([network]));
        rig.tune(&["deny="]).expect("set");
        assert!(rig.reaches(vip, DEADLINE), "nothing is denied any more");
    }

    // One connection in 1000 s would be less than the least rate: with the least, the burst counts.
    rig.tune(&["connection-rate=1", "connection-burst=1000000"]).expect("set");
    assert!(rig.reaches(VIP_V4, DEADLINE));
    let bad = rig.tune(&["deny+=192.0.2.0/24", "connection-rate=many"]).expect_err("no number");
    assert!(bad.contains("from 0 to 10000"), "{bad}");
    assert_eq!(rig.tune(&[]).expect("shown")["deny"], serde_json::json!([]), "all changes or none");
}

#[test]
fn a_budget_of_connections_runs_out() {
    let rig = Rig::new("budget");
    rig.tune(&["connection-rate=1", "connection-burst=3"]).expect("set");
    for vip in [VIP_V4, VIP_V6] {
        // However slow this machine is: when the budget is used up, the next one is not answered.
        let start = std::time::Instant::now();
        while rig.reaches(vip, SILENCE) {
            assert!(start.elapsed() < DEADLINE, "{vip}: the budget never runs out");
        }
    }
    assert!(rig.counted("source_over_budget") >= 2);
    rig.tune(&["allow=192.0.2.2,2001:db8:1::/64"]).expect("set");
    for vip in [VIP_V4, VIP_V6] {
        assert!((0..10).all(|_| rig.reaches(vip, DEADLINE)), "who is allowed has no budget");
    }
}

#[test]
fn a_file_of_networks() {
    const NETWORKS: u32 = 20_000;
    let rig = Rig::new("list");
    let file = rig.topology.directory().join("deny.txt");
    let line = |n: u32| format!("{}.{}.{}.0/24 # number {n}\n", 20 + n / 65536, n / 256 % 256, n % 256);
    let text: String = ["# a list\n\n".to_owned()].into_iter().chain((0..NETWORKS).map(line)).collect();
    std::fs::write(&file, text).expect("a file");
    let set = rig.tune(&[&format!("deny=@{}", file.display())]).expect("set");
    assert_eq!(set["deny"].as_array().map(Vec::len), Some(NETWORKS as usize));
    assert_eq!(rig.daemon.status().expect("a status")["rules"]["denied"], NETWORKS);
    assert!(rig.reaches(VIP_V4, DEADLINE) && rig.reaches(VIP_V6, DEADLINE));
    assert_eq!(rig.tune(&["deny="]).expect("set")["deny"], serde_json::json!([]));
}

/// Who is caught by the proxy is dropped at XDP, until the ban ends by itself, somebody lifts it, or the
/// next daemon starts.
#[test]
fn who_misbehaves_is_dropped_for_a_time() {
    let more = " --ban-after 2 --ban-within 3600 --max-client-connections 1";
    let mut rig = Rig::with("ban", more);
    let bans = |rig: &Rig| rig.daemon.status().expect("a status")["bans"].clone();
    let offend = |rig: &Rig, vip: IpAddr| {
        let wait = |what: &str, holds: &dyn Fn() -> bool| {
            let start = std::time::Instant::now();
            while !holds() {
                assert!(start.elapsed() < DEADLINE, "{vip}: {what}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let active = || rig.daemon.status().expect("a status")["proxy"]["total"]["active"].clone();
        wait("nobody is there", &|| active() == 0);
        let before = bans(rig)["total"].as_u64().expect("a number");
        let connect = |patience| {
            let to = SocketAddr::new(vip, 80);
            rig.topology.client().enter(|| TcpStream::connect_timeout(&to, patience)).expect("the namespace")
        };
        let _held = connect(DEADLINE).expect("connected");
        wait("the first is there", &|| active() == 1);
        // Of them the second may be dropped already.
        let _more = [connect(DEADLINE), connect(SILENCE)];
        wait("it is banned", &|| bans(rig)["total"] == before + 1);
    };
    // The client's IPv6 network is the node's own, too: whoever is in it is spared.
    let crowded = || rig.daemon.status().expect("a status")["proxy"]["total"]["crowded"].as_u64();
    let six = SocketAddr::new(VIP_V6, 80);
    let all: Vec<_> = (0..4)
        .map(|_| rig.topology.client().enter(|| TcpStream::connect_timeout(&six, DEADLINE)).expect("enter"))
        .collect();
    let start = std::time::Instant::now();
    while crowded() < Some(3) {
        assert!(start.elapsed() < DEADLINE, "nobody counts connections");
    }
    drop(all);
    let (vip, source) = (VIP_V4, "192.0.2.2/32");
    rig.tune(&["ban-for=600"]).expect("set");
    offend(&rig, vip);
    assert!(bans(&rig)["banned"] == 1 && rig.reaches(VIP_V6, DEADLINE));
    let shown = rig.tune(&[]).expect("shown");
    assert_eq!(shown["banned"][0]["source"], source);
    assert_eq!(shown["deny"], serde_json::json!([]), "a ban is no rule that stays");
    let before = rig.counted("source_denied");
    assert!(!rig.reaches(vip, SILENCE), "{source} is banned");
    assert!(rig.counted("source_denied") > before, "by XDP");
    // Lifted by hand, by the list of those that are allowed, and by time.
    rig.tune(&[&format!("banned-={source}")]).expect("set");
    assert!(rig.reaches(vip, DEADLINE), "{source} is let in again");
    offend(&rig, vip);
    assert!(!rig.reaches(vip, SILENCE));
    rig.tune(&[&format!("allow+={source}")]).expect("set");
    assert!(rig.reaches(vip, DEADLINE) && bans(&rig)["banned"] == 0);
    rig.tune(&[&format!("allow-={source}"), "ban-for=2"]).expect("set");
    offend(&rig, vip);
    let start = std::time::Instant::now();
    while !rig.reaches(vip, SILENCE) {
        assert!(start.elapsed() < DEADLINE, "{source}: the ban never ends");
    }
    // It is taken from the map first.
    while bans(&rig)["banned"] != 0 {
        assert!(start.elapsed() < DEADLINE, "{source}: an ended ban is still shown");
    }
    rig.tune(&["ban-for=600"]).expect("set");
    offend(&rig, VIP_V4);
    rig.daemon.process().kill();
    assert!(!rig.reaches(VIP_V4, SILENCE), "the kernel has it while no daemon runs");
    rig.daemon.launch().expect("started anew");
    rig.daemon.wait_ready().expect("ready again");
    let start = std::time::Instant::now();
    while !rig.reaches(VIP_V4, SILENCE) {
        assert!(start.elapsed() < DEADLINE, "nobody is banned when a daemon starts");
    }
}
