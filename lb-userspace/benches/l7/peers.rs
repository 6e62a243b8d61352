//! The proxies under test: how each is started and ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Protocol;
use crate::config::Files;
use crate::rig::{Load, Rig};
use crate::usage;

/// The CPU of all proxies.
const CPU: &str = "0";

/// One kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Nginx,
    Sluice,
    /// Another build of Sluice, to compare with
    Before,
    Haproxy,
    Envoy,
    Traefik,
    Caddy,
    /// bench/pingora
    Pingora,
}

/// What all proxies are told.
pub struct Plan<'a> {
    pub hosts: usize,
    /// Ports of the endpoints.
    pub endpoints: [u16; 2],
    /// Certificate and key in PEM.
    pub certificate: &'a str,
    pub key: &'a str,
    pub builds: &'a Builds,
}

/// Where `sluice` is.
pub struct Builds {
    pub sluice: PathBuf,
    /// Another one to compare with.
    pub before: Option<PathBuf>,
}

/// A running proxy.
pub struct Peer {
    pub kind: Kind,
    pub http: u16,
    pub https: u16,
    /// From the start of the process to the first right answer for the last host.
    pub ready: Duration,
    child: Child,
    dir: tempfile::TempDir,
}

/// The name of a host.
pub fn host_name(host: usize) -> String {
    format!("h{host}.example.test")
}

impl Kind {
    /// All but what a run has to name: the first is what the others are compared with.
    pub const ALL: [Self; 7] =
        [Self::Nginx, Self::Sluice, Self::Haproxy, Self::Envoy, Self::Traefik, Self::Caddy, Self::Pingora];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Sluice => "sluice",
            Self::Before => "before",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Pingora => "pingora",
        }
    }

    /// The program, where it is installed.
    pub fn program(self, builds: &Builds) -> Option<PathBuf> {
        match self {
            Self::Sluice => return Some(builds.sluice.clone()).filter(|path| path.exists()),
            Self::Before => return builds.before.clone().filter(|path| path.exists()),
            _ => {}
        }
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin");
        [tools.as_path(), Path::new("/usr/sbin"), Path::new("/usr/bin")]
            .into_iter()
            .map(|directory| directory.join(self.name()))
            .find(|path| path.exists())
    }

    /// What it says of its version.
    pub fn version(self, builds: &Builds) -> Option<String> {
        let argument = match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Sluice | Self::Before | Self::Envoy | Self::Pingora => "--version",
            Self::Traefik | Self::Caddy => "version",
        };
        let output = Command::new(self.program(builds)?).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let words =
            text.split(|c: char| c.is_whitespace() || c == '/').map(|word| word.trim_start_matches('v'));
        let is_version =
            |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.matches('.').count() > 1;
        words.into_iter().find(is_version).map(str::to_owned)
    }
}

impl Peer {
    /// Writes its configuration, starts it on its CPU and waits until it serves.
    pub fn start(kind: Kind, plan: &Plan<'_>, rig: &mut Rig, ports: (u16, u16)) -> Result<Self, String> {
        let program = kind.program(plan.builds).ok_or_else(|| format!("{} is not installed", kind.name()))?;
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (http, https) = ports;
        let at = dir.path();
        let files = Files { plan, http, https, at };
        let arguments = files.write(kind).map_err(|error| error.to_string())?;
        let log = File::create(at.join("log")).map_err(|error| error.to_string())?;
        let began = Instant::now();
        let child = Command::new("taskset")
            .args(["-c", CPU])
            .arg(program)
            .args(arguments)
            .current_dir(at)
            .env("GOMAXPROCS", "1")
            .env("HOME", at)
            .env("XDG_DATA_HOME", at)
            .env("XDG_CONFIG_HOME", at)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut peer = Self { kind, http, https, ready: Duration::ZERO, child, dir };
        // The last host of all: whoever answers for it has read everything.
        let load = Load {
            port: http,
            tls: None,
            protocol: Protocol::Http1,
            size: 128,
            hosts: plan.hosts,
            connections: 1,
            fresh: false,
            rate: None,
        };
        while rig.open(&load, Duration::from_secs(1)).is_err() {
            let ended = peer.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > Duration::from_secs(60) {
                let log = fs::read_to_string(peer.dir.path().join("log")).unwrap_or_default();
                let tail = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
                return Err(format!("{} does not serve: {tail}", kind.name()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        peer.ready = began.elapsed();
        Ok(peer)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let all = usage::family(self.child.id());
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            for pid in &all {
                let _ = kill(Pid::from_raw(*pid as i32), signal);
            }
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end {
                if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
