//! The rights that the DaemonSet grants are enough, and each is needed: the daemon runs with exactly
//! those, as a container without `privileged` has them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::manifests::{endpoint_slices, ingress, service};
use xtask::lab::topology::{NODE_NIC, VIP_V4};
use xtask::lab::{Backend, Daemon, LabError, ManifestDir, Request, Topology, Traffic};

use crate::need_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// What `deploy/base` adds after it dropped all.
fn granted() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/daemonset.yaml");
    let text = std::fs::read_to_string(path).expect("the DaemonSet");
    let daemonset: Value = serde_saphyr::from_str(&text).expect("YAML");
    let capabilities =
        &daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
    let add = capabilities["add"].as_array().expect("a list").iter();
    add.map(|name| name.as_str().expect("a name").to_lowercase()).collect()
}

/// A program that runs sluice as user 0 with these capabilities and no way to get others. It becomes
/// sluice, so that signals reach that.
fn confined(directory: &Path, capabilities: &BTreeSet<String>) -> PathBuf {
    let script = directory.join(format!("sluice-{}", capabilities.len()));
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let setpriv =
        format!("setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all{set}");
    std::fs::write(&script, format!("#!/bin/sh\nexec {setpriv} -- {SLUICE} \"$@\"\n")).expect("a file");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    script
}

fn arguments(topology: &Topology, manifests: &ManifestDir) -> Vec<String> {
    let (manifests, pins) = (manifests.path().display(), topology.pins().display());
    format!("--manifests {manifests} --interface {NODE_NIC} --pin-dir {pins} --vip {VIP_V4}")
        .split(' ')
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_daemonset_s_capabilities_are_enough_and_needed() {
    need_root();
    let topology = Topology::new("rights", 1).expect("namespaces");
    let addresses = topology.endpoint_addresses(0, 8080);
    let _backend = Backend::start(&topology.endpoint(0), "web", &addresses).expect("a backend");
    let manifests = ManifestDir::create(&topology.directory().join("m")).expect("a directory");
    let mut objects = vec![service("d", "web", 80, 8080), ingress("d", "web", "web.test", "/", "web")];
    objects.extend(endpoint_slices("d", "web", &addresses));
    manifests.write_objects("web.yaml", &objects).expect("a file");
    let granted = granted();

    for missing in &granted {
        let mut fewer = granted.clone();
        fewer.remove(missing);
        let program = confined(topology.directory(), &fewer);
        let mut doctor = Command::new(&program);
        doctor.args(["doctor", "--brief", "--interface", NODE_NIC]);
        let output = topology.node().enter(|| doctor.output()).expect("enter").expect("runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let names_it = |line: &str| line.starts_with("FAIL rights") && line.to_lowercase().contains(missing);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.lines().any(names_it), "{missing}: {said}");
        let started =
            Daemon::start(&program, &topology.node(), topology.directory(), arguments(&topology, &manifests));
        assert!(matches!(started, Err(LabError::DaemonEnded { .. })), "{missing} is not needed: {started:?}");
    }

    let program = confined(topology.directory(), &granted);
    // Twice: the second one takes over what the first one pinned.
    for _ in 0..2 {
        let daemon =
            Daemon::start(&program, &topology.node(), topology.directory(), arguments(&topology, &manifests))
                .expect("a daemon with the DaemonSet's capabilities");
        let request = Request::get(SocketAddr::new(VIP_V4, 80), "web.test", "/");
        let traffic = Traffic::start(&topology.client(), request, Duration::from_millis(2)).expect("traffic");
        let served = |status: &Value| status["proxy"]["total"]["requests"].as_u64() > Some(20);
        let status = daemon.wait_for("requests come through", served).expect("they do");
        assert_eq!(status["trouble"], Value::Null, "{status}");
        assert!(status["vips"][0]["packets"].as_u64() > Some(0), "the kernel counts: {status}");
        let tally = traffic.stop();
        assert!(tally.bad.is_empty(), "{:?}", tally.bad);
        daemon.process().terminate(Duration::from_secs(60)).expect("it ends");
    }
}
