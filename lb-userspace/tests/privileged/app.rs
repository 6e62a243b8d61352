//! The daemon and its command line on a node with XDP: handover, and what `maps purge` leaves.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xtask::lab::daemon::PATIENCE;
use xtask::lab::manifests::{endpoint_slices, ingress, service};
use xtask::lab::topology::{NODE_NIC, VIP_V4, VIP_V6};
use xtask::lab::{Backend, Daemon, ManifestDir, Place, Request, Topology, Traffic};

use crate::need_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// A node, a client, and one endpoint that `web.test` leads to.
struct Stage {
    topology: Topology,
    manifests: ManifestDir,
    _backend: Backend,
}

impl Stage {
    fn new(label: &str) -> Self {
        need_root();
        let topology = Topology::new(label, 1).expect("namespaces");
        let addresses = topology.endpoint_addresses(0, 8080);
        let backend = Backend::start(&topology.endpoint(0), "web", &addresses).expect("a backend");
        let manifests = ManifestDir::create(&topology.directory().join("m")).expect("a directory");
        let mut objects = vec![service("d", "web", 80, 8080), ingress("d", "web", "web.test", "/", "web")];
        objects.extend(endpoint_slices("d", "web", &addresses));
        manifests.write_objects("web.yaml", &objects).expect("a file");
        Self { topology, manifests, _backend: backend }
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (manifests, pins) = (self.manifests.path().display(), self.topology.pins().display());
        let text = format!(
            "--manifests {manifests} --interface {NODE_NIC} --pin-dir {pins} --vip {VIP_V4} --vip {VIP_V6}"
        );
        text.split(' ').chain(more.iter().copied()).map(str::to_owned).collect()
    }

    /// A daemon with a directory of its own for its socket, as each pod has one.
    fn daemon(&self, name: &str, more: &[&str]) -> Daemon {
        let directory = self.topology.directory().join(name);
        std::fs::create_dir(&directory).expect("a directory");
        Daemon::start(Path::new(SLUICE), &self.topology.node(), &directory, self.arguments(more))
            .expect("a daemon")
    }

    fn traffic(&self, to: IpAddr) -> Traffic {
        let request = Request::get(SocketAddr::new(to, 80), "web.test", "/");
        Traffic::start(&self.topology.client(), request, Duration::from_millis(2)).expect("traffic")
    }

    fn ask(&self, name: &str, words: &[&str]) -> (Option<i32>, String) {
        let socket = self.topology.directory().join(name).join("sluice.sock");
        run(&self.topology.node(), words, &socket)
    }
}

/// Exit status and standard output of the command line.
fn run(place: &Place, words: &[&str], socket: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(SLUICE);
    command.args(words).arg("--socket").arg(socket);
    let output = place.enter(|| command.output()).expect("the namespace").expect("the binary runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a DaemonSet does that surges: the new pod stands by, counts as ready, the old one is told
/// to end.
#[test]
fn a_newer_daemon_takes_over_without_a_failed_connection() {
    let stage = Stage::new("handover");
    let older = stage.daemon("older", &[]);
    let traffic = [VIP_V4, VIP_V6].map(|vip| stage.traffic(vip));
    let newer = std::thread::scope(|scope| {
        let newer = scope.spawn(|| stage.daemon("newer", &["--wait-for-lock", "120"]));
        until("it stands by", || stage.ask("newer", &["probe", "ready"]).1.contains("standing by"));
        assert_eq!(stage.ask("newer", &["status"]).0, Some(1), "standing by is not serving");
        assert_eq!(stage.ask("older", &["probe", "ready"]).0, Some(0));
        let status = older.process().terminate(PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{}", older.process().log_tail(20));
        newer.join().expect("the newer daemon becomes ready")
    });
    assert!(older.process().log_tail(20).contains("a newer daemon takes over"));
    let served = |status: &serde_json::Value| status["proxy"]["total"]["requests"].as_u64() > Some(20);
    newer.wait_for("the newer daemon serves", served).expect("it serves");
    for traffic in traffic {
        let tally = traffic.stop();
        assert!(tally.bad.is_empty() && tally.good > 20, "{} good, bad: {:?}", tally.good, tally.bad);
    }
    assert_eq!(stage.ask("newer", &["maps", "verify"]).0, Some(0));
}

#[test]
fn a_daemon_that_dies_is_succeeded_at_once_and_none_waits_for_ever() {
    let stage = Stage::new("succeed");
    let older = stage.daemon("older", &[]);
    let mut command = Command::new(SLUICE);
    command.arg("run").args(stage.arguments(&["--wait-for-lock", "1", "--socket"]));
    command.arg(stage.topology.directory().join("third.sock"));
    let output = stage.topology.node().enter(|| command.output()).expect("enter").expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("another sluice serves") && said.contains("after 1 s"), "{said}");
    std::thread::scope(|scope| {
        let newer = scope.spawn(|| stage.daemon("newer", &["--wait-for-lock", "120"]));
        until("it stands by", || stage.ask("newer", &["probe", "ready"]).1.contains("standing by"));
        older.process().kill();
        newer.join().expect("the newer daemon becomes ready");
    });
}

#[test]
fn purge_removes_what_a_daemon_left() {
    let stage = Stage::new("purge");
    let daemon = stage.daemon("one", &[]);
    let pins = stage.topology.pins().display().to_string();
    assert_eq!(stage.ask("one", &["maps", "purge", "--pin-dir", &pins]).0, Some(2), "a daemon runs");
    let table = stage.ask("one", &["maps", "dump"]).1;
    assert!(table.contains(&VIP_V4.to_string()) && table.contains("counted by server name"), "{table}");
    let status = daemon.process().terminate(PATIENCE);
    assert!(status.is_some_and(|status| status.success()), "{}", daemon.process().log_tail(20));
    assert!(stage.topology.pins().exists(), "the maps outlive the daemon");
    let (code, said) = stage.ask("one", &["maps", "purge", "--pin-dir", &pins]);
    assert!(code == Some(0) && said.contains("removed"), "{code:?} {said}");
    assert!(!stage.topology.pins().exists());
    let (code, said) = stage.ask("one", &["maps", "purge", "--pin-dir", &pins]);
    assert!(code == Some(0) && said.contains("nothing is pinned"), "{code:?} {said}");
}
