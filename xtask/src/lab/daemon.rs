//! The daemon under test: `sluice run` as a child, and `sluice status` to look at it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::Process;
use super::{LabError, Place, Result};

/// Time for anything the daemon is to do; generous, since machines under test are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `sluice run` in a place.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    place: Place,
    arguments: Vec<String>,
    socket: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Daemon {
    /// Starts `binary run ARGUMENTS` in `place` and waits until it is ready. Its socket and log go
    /// to `directory`.
    pub fn start(binary: &Path, place: &Place, directory: &Path, arguments: Vec<String>) -> Result<Self> {
        let socket = directory.join("sluice.sock");
        let mut all = vec!["run".to_owned(), "--socket".to_owned(), socket.display().to_string()];
        all.extend(arguments);
        let mut daemon = Self {
            binary: binary.to_owned(),
            place: place.clone(),
            arguments: all,
            socket,
            log: directory.join("sluice.log"),
            process: None,
        };
        daemon.launch()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts the process (again) and does not wait.
    pub fn launch(&mut self) -> Result<()> {
        self.process = None;
        self.process = Some(Process::spawn(&self.place, &self.binary, &self.arguments, &self.log)?);
        Ok(())
    }

    /// The process; there always is one after [`Daemon::start`].
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("launched in start")
    }

    /// Waits until the status says ready.
    pub fn wait_ready(&self) -> Result<Value> {
        self.wait_for("sluice is ready", |status| status["ready"] == true)
    }

    /// Waits until `condition` holds for the status, and gives that status.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(status) = self.status()
                && condition(&status)
            {
                return Ok(status);
            }
            if let Some(status) = self.process().exited() {
                let log = self.process().log_tail(40);
                return Err(LabError::DaemonEnded { status: status.to_string(), log });
            }
            if Instant::now() > end {
                let log = self.process().log_tail(40);
                return Err(LabError::Timeout { what: what.to_owned(), within: PATIENCE, log });
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What `sluice status -o json` says; exit code 1 (not ready) is an answer too.
    pub fn status(&self) -> Result<Value> {
        let output = self.cli(["status", "-o", "json"])?;
        serde_json::from_slice(&output.stdout).map_err(|error| LabError::Command {
            command: "sluice status -o json".to_owned(),
            output: format!("{error}; {}", String::from_utf8_lossy(&output.stderr).trim()),
        })
    }

    /// Runs `sluice ARGUMENTS --socket …` in the daemon's place.
    pub fn cli(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--socket").arg(&self.socket);
        let output = self.place.enter(move || command.output())?;
        output.map_err(LabError::io(format!("run {}", self.binary.display())))
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A counter in a status: the `field` of the element of `list` whose `key` is `name`; 0 if there is none.
pub fn counter(status: &Value, list: &str, key: &str, name: &str, field: &str) -> u64 {
    let elements = status[list].as_array().into_iter().flatten();
    elements.filter(|element| element[key] == name).filter_map(|element| element[field].as_u64()).sum()
}
