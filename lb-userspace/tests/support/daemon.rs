//! The real binary as a user runs it, a daemon of it for each test, and endpoints behind it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Nothing here takes as long on any machine; it only keeps a broken build from hanging.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the binary to its end.
pub fn sluice(args: &[&str]) -> Output {
    command().args(args).output().expect("the binary runs")
}

/// The binary, without the options that the environment may hold.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `probe` says something.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that nobody listens on. Below those that the kernel takes for outgoing connections, so
/// that no connection of another test has it before it is listened on.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let n =
            (std::process::id() as u16).wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + n % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An endpoint that answers with its name and the request line; `/slow` after `slow` time.
pub fn endpoint(name: &'static str, slow: Duration) -> SocketAddr {
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

pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
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

pub fn ingress(name: &str, host: &str, path: &str, service: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  rules:\n  - host: {host}\n    http:\n      paths:\n      - path: {path}\n        pathType: Prefix\n        \
         backend: {{service: {{name: {service}, port: {{number: 80}}}}}}\n---\n"
    )
}

/// A daemon of one test, with a directory of its own; ended with the test.
pub struct Daemon {
    pub child: Child,
    pub dir: tempfile::TempDir,
    pub http: u16,
    pub https: u16,
    pub health: u16,
}

impl Daemon {
    /// A daemon over a directory of its own with these files; ready when this returns.
    pub fn start(files: &[(&str, String)], more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let manifests = dir.path().join("m");
        std::fs::create_dir(&manifests).expect("a directory");
        for (name, text) in files {
            std::fs::write(manifests.join(name), text).expect("a file");
        }
        let source = ["--manifests", manifests.to_str().expect("UTF-8")];
        Self::launch(dir, &[&source, more].concat(), &[], Self::is_ready)
    }

    /// A daemon without a source yet; returns when `up` holds. `dir` ends with it.
    pub fn launch(
        mut dir: tempfile::TempDir,
        arguments: &[&str],
        environment: &[(&str, &str)],
        up: impl Fn(&Self) -> bool,
    ) -> Self {
        // Another process may take a free port before the daemon does: try again with others.
        for _ in 0..5 {
            let (http, https, health) = (free_port(), free_port(), free_port());
            let child = command()
                .args(["run", "--no-xdp", "--vip", "127.0.0.1", "--workers", "2", "--socket"])
                .arg(dir.path().join("s"))
                .args(["--http-port", &http.to_string(), "--https-port", &https.to_string()])
                .args(["--health", &format!("127.0.0.1:{health}")])
                .args(arguments)
                .envs(environment.iter().copied())
                .stderr(Stdio::from(std::fs::File::create(dir.path().join("log")).expect("a file")))
                .spawn()
                .expect("the binary runs");
            let mut daemon = Self { child, dir, http, https, health };
            let alive = until("the daemon is up", || match daemon.child.try_wait().expect("a child") {
                Some(_) => Some(false),
                None => up(&daemon).then_some(true),
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

    pub fn is_ready(&self) -> bool {
        self.ask(&["status"]).status.code() == Some(0)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("m").join(name), text).expect("a file");
    }

    pub fn ask(&self, args: &[&str]) -> Output {
        let socket = self.socket();
        let mut all = args.to_vec();
        all.extend(["--socket", socket.to_str().expect("UTF-8")]);
        sluice(&all)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let out = self.ask(&all);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", text(&out.stderr)))
    }

    /// Status and body of one request.
    pub fn get(&self, host: &str, path: &str) -> (u16, String) {
        get(self.http, host, path)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a child of ours");
    }

    pub fn wait(&mut self) -> Option<i32> {
        until("the daemon ends", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn get(port: u16, host: &str, path: &str) -> (u16, String) {
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
