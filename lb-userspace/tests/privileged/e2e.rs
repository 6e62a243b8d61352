//! End to end: the daemon in a laboratory of namespaces, with XDP on the node's interface.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::daemon::counter;
use xtask::lab::manifests::{endpoint_slices, ingress, service};
use xtask::lab::topology::{NODE_NIC, VIP_V4, VIP_V6};
use xtask::lab::{Backend, Daemon, ManifestDir, Request, Topology, Traffic};

use crate::need_root;

const BINARY: &str = env!("CARGO_BIN_EXE_sluice");
const VIPS: [IpAddr; 2] = [VIP_V4, VIP_V6];

/// A node that serves `web.example.com` from one backend, on a VIP of each family.
struct Rig {
    daemon: Daemon,
    manifests: ManifestDir,
    _backend: Backend,
    topology: Topology,
}

impl Rig {
    fn new(label: &str) -> Self {
        need_root();
        let topology = Topology::new(label, 1).expect("a laboratory");
        let addresses = topology.endpoint_addresses(0, 8080);
        let backend = Backend::start(&topology.endpoint(0), "web-1", &addresses).expect("a backend");
        let manifests = ManifestDir::create(&topology.directory().join("manifests")).expect("a directory");
        let mut objects =
            vec![service("demo", "web", 80, 8080), ingress("demo", "web", "web.example.com", "/", "web")];
        objects.extend(endpoint_slices("demo", "web", &addresses));
        manifests.write_objects("web.yaml", &objects).expect("manifests");
        let arguments = arguments(&topology, manifests.path(), &VIPS);
        let daemon = Daemon::start(Path::new(BINARY), &topology.node(), topology.directory(), arguments);
        Self { daemon: daemon.expect("a ready daemon"), manifests, _backend: backend, topology }
    }

    fn request(&self, vip: IpAddr) -> Request {
        Request::get(SocketAddr::new(vip, 80), "web.example.com", "/")
    }

    fn serves(&self, vip: IpAddr) {
        let answer = self.request(vip).send_from(&self.topology.client()).expect("an answer");
        assert_eq!((answer.status, answer.endpoint().as_deref()), (200, Some("web-1")), "{vip}");
    }

    fn status(&self) -> Value {
        self.daemon.status().expect("a status")
    }

    /// The id of the kernel's link that holds the XDP program the daemon speaks of.
    fn xdp_link(&self) -> u32 {
        let program = self.status()["xdp"]["interfaces"][0]["program_id"].as_u64().expect("a program");
        let links = aya::programs::loaded_links().filter_map(Result::ok);
        let mut ids = links.filter(|l| u64::from(l.program_id()) == program).map(|l| l.id());
        ids.next().expect("the program is in a link")
    }

    /// `sluice maps verify` finds kernel and desired state the same.
    fn maps_are_right(&self) {
        let output = self.daemon.cli(["maps", "verify"]).expect("the CLI runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// How many packets came for the TLS port of the VIP in IPv4.
fn tls_packets(status: &Value) -> u64 {
    counter(status, "vips", "vip", &format!("{VIP_V4}:443/tcp"), "packets")
}

fn arguments(topology: &Topology, manifests: &Path, vips: &[IpAddr]) -> Vec<String> {
    let mut arguments = vec!["--manifests".to_owned(), manifests.display().to_string()];
    arguments.extend(["--interface".to_owned(), NODE_NIC.to_owned()]);
    arguments.extend(["--pin-dir".to_owned(), topology.pins().display().to_string()]);
    for vip in vips {
        arguments.extend(["--vip".to_owned(), vip.to_string()]);
    }
    arguments
}

#[test]
fn requests_go_through_xdp_and_sk_lookup() {
    let rig = Rig::new("through");
    let before = rig.status();
    assert_eq!(before["xdp"]["interfaces"][0]["mode"], "native", "{before}");
    for vip in VIPS {
        rig.serves(vip);
    }
    let after = rig.status();
    for vip in VIPS {
        let name = format!("{}/tcp", SocketAddr::new(vip, 80));
        let grown = |field| {
            counter(&after, "vips", "vip", &name, field) - counter(&before, "vips", "vip", &name, field)
        };
        assert_eq!(grown("connections"), 1, "{name}");
        assert!(grown("packets") >= 4, "{name}: handshake, request and end");
    }
    let steered = |status: &Value| status["verdicts"]["steered"].as_u64().expect("a counter");
    assert_eq!(steered(&after) - steered(&before), 2);
    rig.maps_are_right();
}

#[test]
fn a_killed_daemon_comes_back_to_the_same_link_and_counters() {
    let mut rig = Rig::new("killed");
    let link = rig.xdp_link();
    let client = rig.topology.client();
    let traffic: Vec<_> = VIPS
        .map(|vip| Traffic::start(&client, rig.request(vip), Duration::from_millis(5)).expect("traffic"))
        .into();
    std::thread::sleep(Duration::from_millis(300));
    let mut last = rig.status();
    for _ in 0..2 {
        rig.daemon.process().kill();
        // Nobody answers now, but XDP still looks at what comes in and counts it.
        // The traffic keeps off this port.
        let counted = tls_packets(&last);
        let lost = Request::get(SocketAddr::new(VIP_V4, 443), "web.example.com", "/").send_from(&client);
        assert!(lost.is_err(), "{lost:?}");
        rig.daemon.launch().expect("started anew");
        rig.daemon.wait_ready().expect("ready again");
        assert_eq!(rig.xdp_link(), link, "the link stays, whatever program is exchanged in it");
        rig.maps_are_right();
        last = rig.status();
        assert!(tls_packets(&last) > counted, "maps and program outlive the daemon: {last}");
        VIPS.into_iter().for_each(|vip| rig.serves(vip));
    }
    for traffic in traffic {
        let tally = traffic.stop();
        assert!(tally.good > 0, "{tally:?}");
    }
}

#[test]
fn bad_manifests_are_named_and_the_rest_is_served() {
    let rig = Rig::new("bad");
    // File, content, and what an issue must name.
    let bad = [
        ("not-yaml.yaml", "a: [b".to_owned(), "not-yaml.yaml"),
        ("no-object.yaml", "just text".to_owned(), "no-object.yaml"),
        ("no-service.yaml", ingress("demo", "orphan", "orphan.example.com", "/", "absent").to_string(), "absent"),
        ("bad-host.yaml", ingress("demo", "bad-host", "a..b", "/", "web").to_string(), "bad-host"),
        ("bad-path.yaml", ingress("demo", "bad-path", "path.example.com", "relative", "web").to_string(), "bad-path"),
        (
            "bad-secret.yaml",
            r#"{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/tls","metadata":{"namespace":"demo","name":"torn"},"data":{"tls.crt":"AAAA","tls.key":"AAAA"}}
---
{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"namespace":"demo","name":"torn-tls"},"spec":{"tls":[{"hosts":["torn.example.com"],"secretName":"torn"}]}}"#
                .to_owned(),
            "torn",
        ),
    ];
    for (file, text, names) in bad {
        rig.manifests.write(file, &text).expect("a file");
        let named = |status: &Value| status["issues"].to_string().contains(names);
        rig.daemon.wait_for(&format!("an issue names {names}"), named).expect(file);
        VIPS.into_iter().for_each(|vip| rig.serves(vip));
        rig.maps_are_right();
    }
    // What was good once and is broken now stays as it was.
    rig.manifests.write("web.yaml", "{").expect("a file");
    let named = |status: &Value| status["issues"].to_string().contains("web.yaml");
    rig.daemon.wait_for("an issue names web.yaml", named).expect("web.yaml");
    VIPS.into_iter().for_each(|vip| rig.serves(vip));
}

#[test]
fn a_second_daemon_is_refused() {
    let rig = Rig::new("second");
    let mut arguments = arguments(&rig.topology, rig.manifests.path(), &VIPS);
    let health = ["--health", "127.0.0.1:10255"].map(str::to_owned);
    arguments.extend(health);
    // A socket of its own, so that only pins and programs can be what it is refused for.
    let other = rig.topology.directory().join("second");
    std::fs::create_dir(&other).expect("a directory");
    let second = Daemon::start(Path::new(BINARY), &rig.topology.node(), &other, arguments);
    let refusal = second.map(drop).expect_err("one daemon for one pin directory").to_string();
    assert!(refusal.contains("sluice ended"), "{refusal}");
    VIPS.into_iter().for_each(|vip| rig.serves(vip));
    rig.maps_are_right();
}

#[test]
fn a_vip_that_is_taken_away_is_no_longer_answered() {
    let mut rig = Rig::new("vip");
    VIPS.into_iter().for_each(|vip| rig.serves(vip));
    let status = rig.daemon.process().terminate(Duration::from_secs(60)).expect("it ends");
    assert!(status.success(), "{status}");

    let arguments = arguments(&rig.topology, rig.manifests.path(), &[VIP_V6]);
    let (node, directory) = (rig.topology.node(), rig.topology.directory());
    rig.daemon = Daemon::start(Path::new(BINARY), &node, directory, arguments).expect("ready");
    rig.serves(VIP_V6);
    rig.maps_are_right();
    let status = rig.status();
    let vips = status["vips"].to_string();
    assert!(!vips.contains(&VIP_V4.to_string()) && vips.contains(&VIP_V6.to_string()), "{vips}");
    let gone = rig.request(VIP_V4).send_from(&rig.topology.client());
    assert!(gone.is_err(), "{gone:?}");
}
