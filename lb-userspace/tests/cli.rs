//! The real binary, as a user runs it: without XDP, on loopback, from directories of manifests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Nothing here takes as long on any machine; it only keeps a broken build from hanging.
const DEADLINE: Duration = Duration::from_secs(60);

fn sluice(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `probe` says something.
fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// An endpoint that answers with its name and the request line; `/slow` after `slow` time.
fn endpoint(name: &'static str, slow: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        if reader.read_until(b'\n', &mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let line = text(&head).lines().next().unwrap_or_default().to_owned();
                    if line.contains("/slow") {
                        std::thread::sleep(slow);
                    }
                    let body = format!("{name} {line}");
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    if (&stream).write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    let port = endpoints.first().map_or(80, SocketAddr::port);
    let list: String = endpoints
        .iter()
        .map(|a| format!("\n- {{addresses: [\"{}\"], conditions: {{ready: true}}}}", a.ip()))
        .collect();
    let list = if list.is_empty() { " []".to_owned() } else { list };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         ports: [{{port: {port}}}]\nendpoints:{list}\n---\n"
    )
}

fn ingress(name: &str, host: &str, path: &str, service: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  rules:\n  - host: {host}\n    http:\n      paths:\n      - path: {path}\n        pathType: Prefix\n        \
         backend: {{service: {{name: {service}, port: {{number: 80}}}}}}\n---\n"
    )
}

/// A daemon of one test, with a directory of its own; ended with the test.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    http: u16,
    health: u16,
}

impl Daemon {
    fn start(files: &[(&str, String)], more: &[&str]) -> Self {
        let mut dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("m")).expect("a directory");
        for (name, text) in files {
            std::fs::write(dir.path().join("m").join(name), text).expect("a file");
        }
        // Another process may take a free port before the daemon does: try again with others.
        for _ in 0..5 {
            let (http, https, health) = (free_port(), free_port(), free_port());
            let child = Command::new(env!("CARGO_BIN_EXE_sluice"))
                .args(["run", "--no-xdp", "--vip", "127.0.0.1", "--workers", "2", "--manifests"])
                .arg(dir.path().join("m"))
                .arg("--socket")
                .arg(dir.path().join("s"))
                .args(["--http-port", &http.to_string(), "--https-port", &https.to_string()])
                .args(["--health", &format!("127.0.0.1:{health}")])
                .args(more)
                .stderr(Stdio::from(std::fs::File::create(dir.path().join("log")).expect("a file")))
                .spawn()
                .expect("the binary runs");
            let mut daemon = Self { child, dir, http, health };
            let alive = until("the daemon is ready", || match daemon.child.try_wait().expect("a child") {
                Some(_) => Some(false),
                None => daemon.is_ready().then_some(true),
            });
            if alive {
                return daemon;
            }
            let log = daemon.log();
            assert!(log.contains("something else listens") || log.contains("in use"), "{log}");
            dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().expect("a directory"));
        }
        panic!("no free ports");
    }

    fn is_ready(&self) -> bool {
        self.ask(&["status"]).status.code() == Some(0)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("m").join(name), text).expect("a file");
    }

    fn ask(&self, args: &[&str]) -> Output {
        let socket = self.socket();
        let mut all = args.to_vec();
        all.extend(["--socket", socket.to_str().expect("UTF-8")]);
        sluice(&all)
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let out = self.ask(&all);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", text(&out.stderr)))
    }

    /// Status and body of one request.
    fn get(&self, host: &str, path: &str) -> (u16, String) {
        get(self.http, host, path)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a child of ours");
    }

    fn wait(&mut self) -> Option<i32> {
        until("the daemon ends", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(port: u16, host: &str, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return (0, String::new()) };
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)).is_err() {
        return (0, String::new());
    }
    let answer = text(&answer);
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[test]
fn check_says_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let good =
        service("web", &["127.0.0.1:1".parse().expect("an address")]) + &ingress("web", "a.com", "/", "web");
    let warned = ingress("web", "a.com", "/", "web").replace(
        "name: web, namespace: default",
        "name: web, namespace: default, annotations: {nginx.ingress.kubernetes.io/mirror-target: x}",
    );
    let warned = service("web", &["127.0.0.1:1".parse().expect("an address")]) + &warned;
    let write = |sub: &str, files: &[(&str, &[u8])]| {
        let sub = dir.path().join(sub);
        std::fs::create_dir(&sub).expect("a directory");
        for (name, bytes) in files {
            std::fs::write(sub.join(name), bytes).expect("a file");
        }
    };
    write("empty", &[]);
    write("good", &[("a.yaml", good.as_bytes())]);
    write("warned", &[("a.yaml", warned.as_bytes())]);
    write("no-service", &[("a.yaml", ingress("web", "a.com", "/", "gone").as_bytes())]);
    write(
        "broken",
        &[("a.yaml", good.as_bytes()), ("b.yaml", b"kind: [Ingress"), ("c.yaml", b"\xff\xfe\x00bin")],
    );
    for (sub, more, code, expect) in [
        ("empty", &[][..], 0, "no Kubernetes objects"),
        ("good", &[], 0, "1 host, 1 route, 1 endpoint"),
        ("good", &["--strict"], 0, "0 errors"),
        ("warned", &[], 0, "mirror-target"),
        ("warned", &["--strict"], 1, "mirror-target"),
        ("no-service", &[], 1, "Service default/gone does not exist"),
        ("broken", &[], 1, "b.yaml"),
        ("broken", &[], 1, "c.yaml"),
        ("broken", &[], 1, "1 host, 1 route"),
    ] {
        let path = dir.path().join(sub);
        let mut args = vec!["check", path.to_str().expect("UTF-8")];
        args.extend(more);
        let out = sluice(&args);
        let said = text(&out.stdout);
        assert_eq!(out.status.code(), Some(code), "{sub} {more:?}: {said}{}", text(&out.stderr));
        assert!(said.contains(expect), "{sub}: {expect:?} in {said}");
        args.extend(["-o", "json"]);
        let json: Value = serde_json::from_slice(&sluice(&args).stdout).expect("json");
        assert!(json["errors"].is_u64() && json["issues"].is_array() && json["hosts"].is_array(), "{json}");
    }
}

#[test]
fn what_can_not_be_done_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    let (file, socket) = (file.to_str().expect("UTF-8"), dir.path().join("s"));
    let (socket, good) = (socket.to_str().expect("UTF-8"), dir.path().to_str().expect("UTF-8"));
    for (args, expect) in [
        (&["check", "/no/such/dir"][..], "/no/such/dir"),
        (&["check", file], file),
        (&["status", "--socket", socket], "sluice run"),
        (&["explain", "http://a/", "--socket", socket], socket),
        (&["maps", "verify", "--socket", socket], socket),
        (&["run", "--manifests", good], "--no-xdp"),
        (&["run", "--manifests", good, "--interface", "no-such-nic"], "no NIC no-such-nic"),
        (
            &[
                "run",
                "--manifests",
                "/no/such/dir",
                "--no-xdp",
                "--socket",
                socket,
                "--health",
                "127.0.0.1:0",
            ],
            "/no/such/dir",
        ),
        (&["run", "--manifests", good, "--no-xdp", "--socket", file], "is no socket"),
        (&["run", "--manifests", good, "--no-xdp", "--log", "a=b=c"], "--log"),
        (&["run", "--no-xdp"], "--manifests"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let out = sluice(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expect), "{args:?}: {expect:?} in {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn help_and_version_are_fine() {
    for args in
        [&["--help"][..], &["--version"], &["run", "--help"], &["maps", "purge", "--help"], &["check", "-h"]]
    {
        let out = sluice(args);
        assert!(out.status.success() && !out.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn serves_and_follows_edits() {
    let red = endpoint("red", Duration::ZERO);
    let files = [
        ("a.yaml", service("red", &[red]) + &ingress("web", "red.test", "/", "red")),
        ("b.yaml", ingress("gone", "gone.test", "/", "gone")),
        ("c.yaml", "kind: [".to_owned()),
    ];
    let daemon = Daemon::start(&files, &[]);
    assert_eq!(daemon.get("red.test", "/a/../x"), (200, "red GET /x HTTP/1.1".to_owned()));
    assert_eq!(daemon.get("RED.test", "/").0, 200);
    assert_eq!(daemon.get("gone.test", "/").0, 503);
    assert_eq!(daemon.get("other.test", "/").0, 404);
    assert_eq!(daemon.get("red.test", "/%00").0, 400);

    let status = daemon.json(&["status"]);
    let before = status["generation"].as_u64().expect("a number");
    assert_eq!((&status["ready"], &status["xdp"]), (&Value::Bool(true), &Value::Null), "{status}");
    assert!(status["issues"].as_array().is_some_and(|all| all.len() >= 2), "{status}");
    assert!(status["proxy"]["total"]["requests"].as_u64().is_some_and(|n| n >= 4), "{status}");

    daemon.write("d.yaml", &ingress("blue", "blue.test", "/tea", "red"));
    until("the new host", || (daemon.get("blue.test", "/tea/x").0 == 200).then_some(()));
    assert!(daemon.json(&["status"])["generation"].as_u64().expect("a number") > before);
    // A file that breaks keeps what it last held.
    daemon.write("d.yaml", "kind: Ingress\nmetadata: {");
    until("the issue", || text(&daemon.ask(&["status"]).stdout).contains("d.yaml").then_some(()));
    assert_eq!(daemon.get("blue.test", "/tea").0, 200);
    std::fs::remove_file(daemon.dir.path().join("m/d.yaml")).expect("a file");
    until("the host goes", || (daemon.get("blue.test", "/tea").0 == 404).then_some(()));
    assert_eq!(daemon.get("red.test", "/").0, 200);
}

#[test]
fn explains_itself() {
    let red = endpoint("red", Duration::ZERO);
    let files = [(
        "a.yaml",
        service("red", &[red])
            + &ingress("web", "red.test", "/", "red")
            + &ingress("tea", "red.test", "/tea", "red"),
    )];
    let daemon = Daemon::start(&files, &[]);
    let table = text(&daemon.ask(&["explain", &format!("http://red.test:{}/tea/x?y", daemon.http)]).stdout);
    for expect in
        ["default/tea", "default/red:80", &red.to_string(), "a longer path wins", "XDP is off", "127.0.0.1"]
    {
        assert!(table.contains(expect), "{expect:?} in {table}");
    }
    let json = daemon.json(&["explain", "https://red.test/tea"]);
    assert_eq!(json["route"]["ingress"], "default/tea", "{json}");
    assert_eq!(json["others"][0]["outcome"], "longer-path-wins", "{json}");
    assert_eq!(json["tls"]["certificate"], "self-signed", "{json}");
    let bad = daemon.ask(&["explain", "http://red.test/%00"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("400"), "{}", text(&bad.stderr));

    let routes = daemon.json(&["routes"]);
    assert_eq!(routes[0]["host"], "red.test", "{routes}");
    assert_eq!(routes[0]["routes"][0]["path"], "/tea", "{routes}");
    let backends = daemon.json(&["backends"]);
    assert_eq!(backends[0]["endpoints"][0]["address"], red.to_string(), "{backends}");
    let maps = daemon.ask(&["maps", "dump"]);
    assert_eq!(maps.status.code(), Some(2));
    assert!(text(&maps.stderr).contains("--no-xdp"), "{}", text(&maps.stderr));

    assert_eq!(get(daemon.health, "h", "/healthz").0, 200);
    assert_eq!(get(daemon.health, "h", "/readyz").0, 200);
    let (status, metrics) = get(daemon.health, "h", "/metrics");
    assert!(status == 200 && metrics.contains("sluice_ready 1") && metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_one_replaced() {
    let mut daemon = Daemon::start(&[], &[]);
    let (socket, dir) = (daemon.socket(), daemon.dir.path().join("m"));
    let (socket, dir) = (socket.to_str().expect("UTF-8"), dir.to_str().expect("UTF-8"));
    let out = sluice(&["run", "--no-xdp", "--manifests", dir, "--socket", socket]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("another sluice"), "{}", text(&out.stderr));
    assert!(daemon.is_ready());
    let purge = daemon.ask(&["maps", "purge", "--pin-dir", "/no/such/dir"]);
    assert_eq!(purge.status.code(), Some(2), "a running daemon's maps stay");
    // kill -9 leaves the socket's file behind; the next daemon takes its place.
    daemon.child.kill().expect("a child");
    daemon.wait();
    assert!(Path::new(socket).exists());
    let again = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["run", "--no-xdp", "--vip", "127.0.0.1", "--manifests", dir, "--socket", socket])
        .args(["--http-port", &free_port().to_string(), "--https-port", &free_port().to_string()])
        .args(["--health", "127.0.0.1:0"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    daemon.child = again;
    until("the second daemon", || daemon.is_ready().then_some(()));
}

#[test]
fn sigterm_drains() {
    let slow = endpoint("slow", Duration::from_secs(2));
    let files = [("a.yaml", service("slow", &[slow]) + &ingress("web", "slow.test", "/", "slow"))];
    let mut daemon = Daemon::start(&files, &[]);
    let port = daemon.http;
    let request = std::thread::spawn(move || get(port, "slow.test", "/slow"));
    until("the request is under way", || {
        (daemon.json(&["status"])["proxy"]["total"]["requests_active"] == 1).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(request.join().expect("a thread"), (200, "slow GET /slow HTTP/1.1".to_owned()));
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
    assert!(!daemon.socket().exists());
}

#[test]
fn a_second_signal_ends_at_once() {
    let slow = endpoint("slow", Duration::from_secs(300));
    let files = [("a.yaml", service("slow", &[slow]) + &ingress("web", "slow.test", "/", "slow"))];
    let mut daemon = Daemon::start(&files, &["--drain-timeout", "300"]);
    let port = daemon.http;
    std::thread::spawn(move || get(port, "slow.test", "/slow"));
    until("the request is under way", || {
        (daemon.json(&["status"])["proxy"]["total"]["requests_active"] == 1).then_some(())
    });
    daemon.signal(Signal::SIGINT);
    until("it drains", || daemon.log().contains("draining").then_some(()));
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
}

#[test]
fn five_thousand_ingresses() {
    let red = endpoint("red", Duration::ZERO);
    let mut all = service("red", &[red]);
    for n in 0..5000 {
        all += &ingress(&format!("i{n}"), &format!("h{n}.test"), "/", "red");
    }
    let daemon = Daemon::start(&[("all.yaml", all)], &[]);
    assert_eq!(daemon.get("h4999.test", "/").0, 200);
    assert_eq!(daemon.get("h5000.test", "/").0, 404);
    assert_eq!(daemon.json(&["routes"]).as_array().map(Vec::len), Some(5000));
    let explained = daemon.json(&["explain", "http://h17.test/"]);
    assert_eq!(
        (&explained["route"]["ingress"], &explained["others_elsewhere"]),
        (&"default/i17".into(), &4999.into())
    );
    daemon.write("more.yaml", &ingress("more", "more.test", "/", "red"));
    until("the new host", || (daemon.get("more.test", "/").0 == 200).then_some(()));
    let out = sluice(&["check", daemon.dir.path().join("m").to_str().expect("UTF-8")]);
    assert!(out.status.success() && text(&out.stdout).contains("5001 hosts"), "{}", text(&out.stdout));
}
