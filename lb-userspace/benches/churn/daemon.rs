//! The daemon under test as a process of its own, and what the kernel says of it.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::client::Client;

/// A running `sluice run`.
pub struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    /// The port for plain HTTP.
    pub http: u16,
    /// The port for HTTPS.
    pub https: u16,
    health: u16,
    /// From the start of the process to the first good answer of `/readyz`.
    pub ready: Duration,
}

/// What the kernel says of the process.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// `VmRSS` in MB (10^6 bytes).
    pub rss_mb: f64,
    /// `RssAnon` in MB: what is left without the mapped program file.
    pub anonymous_mb: f64,
    /// `VmHWM` in MB.
    pub peak_mb: f64,
    /// User and system time since the start, in seconds.
    pub cpu_s: f64,
}

impl Daemon {
    /// Starts it with this filter of log lines, and waits until it is ready.
    pub fn start(kubeconfig: &str, log: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("kubeconfig");
        fs::write(&file, kubeconfig).expect("a file");
        let (http, https, health) = (free_port(), free_port(), free_port());
        let file_of_log = fs::File::create(dir.path().join("log")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command
            .args(["run", "--no-xdp", "--vip", "127.0.0.1", "--kubernetes", "--kubeconfig"])
            .arg(&file)
            .arg("--socket")
            .arg(dir.path().join("s"))
            .args(["--http-port", &http.to_string(), "--https-port", &https.to_string()])
            .args(["--health", &format!("127.0.0.1:{health}")])
            .stdout(Stdio::null())
            .args(["--log", log])
            .stderr(file_of_log);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_"))
        {
            command.env_remove(name);
        }
        let began = Instant::now();
        let child = command.spawn().expect("the binary runs");
        let mut daemon = Self { child, dir, http, https, health, ready: Duration::ZERO };
        loop {
            if let Ok(answer) = Client::new(health).get("h", "/readyz")
                && answer.status == 200
            {
                daemon.ready = began.elapsed();
                return daemon;
            }
            let ended = daemon.child.try_wait().expect("a child");
            assert!(ended.is_none() && began.elapsed().as_secs() < 60, "not ready: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the kernel says of it now.
    pub fn usage(&self) -> Usage {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<f64>().ok());
            kib.unwrap_or(f64::NAN) * 1024.0 / 1e6
        };
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        // Fields after the name in parentheses; utime and stime are the 14th and 15th of all (proc(5)).
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(f64::NAN);
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        let per_second = per_second.ok().flatten().unwrap_or(100) as f64;
        Usage {
            rss_mb: megabytes("VmRSS"),
            anonymous_mb: megabytes("RssAnon"),
            peak_mb: megabytes("VmHWM"),
            cpu_s: (ticks(11) + ticks(12)) / per_second,
        }
    }

    /// What it counts.
    pub fn metrics(&self) -> String {
        Client::new(self.health).text("h", "/metrics").unwrap_or_default()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}
