//! What people do: a real kubectl writes to the API server, and the daemon serves what it wrote.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::daemon::{Daemon, endpoint, text, until};
use crate::{api_server, follow, ingress, publish, until_served_by};

/// A kubectl of the version that `cargo xtask setup` installs.
struct Kubectl {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn new(server: &ApiServer) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/kubectl");
        assert!(program.exists(), "{} is missing: `cargo xtask test` installs it", program.display());
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("config"), server.kubeconfig()).expect("a file");
        Self { program, home }
    }

    /// What it prints; it has to succeed. `input` is an object for its standard input.
    #[track_caller]
    fn run(&self, arguments: &str, input: &Value) -> String {
        let mut child = Command::new(&self.program)
            .args(["--namespace=d", "--request-timeout=60s"])
            .args(arguments.split(' '))
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child.stdin.take().expect("piped").write_all(input.to_string().as_bytes()).expect("sent");
        let output = child.wait_with_output().expect("kubectl ends");
        assert!(output.status.success(), "kubectl {arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

#[test]
fn what_kubectl_writes_is_served() {
    let server = api_server();
    publish(&server, endpoint("red", Duration::ZERO));
    let daemon = follow(&server, &[], Daemon::is_ready);
    let kubectl = Kubectl::new(&server);
    let nothing = Value::Null;
    let apply = "apply --validate=false -f -";

    let mut object = ingress("shop", "sluice", "shop.test");
    assert_eq!(kubectl.run(apply, &object), "ingress.networking.k8s.io/shop created\n");
    until_served_by(&daemon, "shop.test", "red");
    kubectl
        .run("wait ingress/shop --timeout=60s --for=jsonpath={.status.loadBalancer.ingress[0].ip}", &nothing);

    // The status that the daemon wrote is no part of what is applied.
    object["spec"]["rules"][0]["host"] = "moved.test".into();
    assert_eq!(kubectl.run(apply, &object), "ingress.networking.k8s.io/shop configured\n");
    until_served_by(&daemon, "moved.test", "red");
    until("the old host goes", || (daemon.get("shop.test", "/").0 == 404).then_some(()));
    assert_eq!(kubectl.run(apply, &object), "ingress.networking.k8s.io/shop unchanged\n");
    let address = kubectl.run("get ingress shop -o jsonpath={.status.loadBalancer.ingress[0].ip}", &nothing);
    assert!(address.parse::<std::net::IpAddr>().is_ok(), "{address:?}");

    let patch = json!({"metadata": {"annotations": {"nginx.ingress.kubernetes.io/permanent-redirect": "http://new.test/"}}});
    kubectl.run(&format!("patch ingress shop --type=merge -p {patch}"), &nothing);
    until("the redirect", || (daemon.get("moved.test", "/").0 == 301).then_some(()));
    kubectl.run("annotate ingress shop nginx.ingress.kubernetes.io/permanent-redirect-", &nothing);
    until_served_by(&daemon, "moved.test", "red");

    kubectl.run("delete ingress shop", &nothing);
    until("the host goes", || (daemon.get("moved.test", "/").0 == 404).then_some(()));
}
