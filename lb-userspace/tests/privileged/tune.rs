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
        need_root();
        let topology = Topology::new(label, 0).expect("namespaces");
        let manifests = ManifestDir::create(&topology.directory().join("m")).expect("a directory");
        let (directory, pins) = (manifests.path().display(), topology.pins().display());
        let arguments = format!(
            "--manifests {directory} --interface {NODE_NIC} --pin-dir {pins} --vip {VIP_V4} --vip {VIP_V6}"
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
