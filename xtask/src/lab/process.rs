//! Child processes that never outlive the laboratory.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{LabError, Place, Result};

/// A running child; killed when dropped, and by the kernel when this process dies.
#[derive(Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
    log: PathBuf,
    release: Option<mpsc::Sender<()>>,
    keeper: Option<thread::JoinHandle<Option<()>>>,
}

impl Process {
    /// Starts `program` in `place`; what it writes is appended to `log`.
    pub fn spawn(place: &Place, program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(LabError::io(format!("open {}", log.display())))?;
        let mut command = deadly(program);
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        command.stdout(file.try_clone().map_err(LabError::io("clone the log's descriptor"))?).stderr(file);

        // The kernel sends the death signal when the *thread* that started the child ends,
        // so that thread stays until the child is let go.
        let (release, released) = mpsc::channel::<()>();
        let (started, child) = mpsc::channel();
        let keeper = place.spawn("keeper", move || {
            let _ = started.send(command.spawn());
            let _ = released.recv();
        })?;
        let failed = || LabError::io(format!("start {}", program.display()));
        let child = child.recv().map_err(|_| failed()(std::io::Error::other("its thread ended")))?;
        Ok(Self {
            child: Arc::new(Mutex::new(child.map_err(failed())?)),
            log: log.to_owned(),
            release: Some(release),
            keeper: Some(keeper),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// The exit status, once the process has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child();
        // It may have ended by itself: then there is nothing to do.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGTERM, and waits for the end at most `within`; `None` if it still runs then.
    pub fn terminate(&self, within: Duration) -> Option<ExitStatus> {
        if self.exited().is_none() {
            // Not reaped yet, so the id is still the child's own.
            let _ = kill(Pid::from_raw(self.id() as i32), Signal::SIGTERM);
        }
        let end = Instant::now() + within;
        loop {
            match self.exited() {
                None if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
                status => return status,
            }
        }
    }

    /// What it wrote so far: the last `lines`.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.release.take();
        if let Some(keeper) = self.keeper.take() {
            // The keeper only waits; it has nothing to report.
            let _ = keeper.join();
        }
    }
}

/// Kills a process that is no child of ours and waits until its id is free, two seconds at most.
pub(super) fn kill_and_wait(pid: i32) {
    let pid = Pid::from_raw(pid);
    for _ in 0..100 {
        if kill(pid, Signal::SIGKILL) == Err(Errno::ESRCH) || is_zombie(pid) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A dead process whose parent has not asked for its status holds no resources.
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, after)| after.trim_start().starts_with('Z')))
}

/// `setpriv` asks the kernel for a SIGKILL on the parent's death. Where it is missing, leftovers of
/// a killed run are found by [`super::sweep`] of the next.
fn deadly(program: &Path) -> Command {
    let setpriv = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).output();
    if setpriv.is_ok_and(|o| o.status.success()) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        return command;
    }
    Command::new(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_seen_ended_and_killed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        let sleeper = |script: &str| {
            let arguments = ["-c".to_owned(), script.to_owned()];
            Process::spawn(&Place::Host, Path::new("sh"), &arguments, &log).expect("sh starts")
        };
        let process = sleeper("echo hello; exec sleep 600");
        while process.log_tail(5).is_empty() {
            assert!(process.exited().is_none());
            thread::sleep(Duration::from_millis(5));
        }
        let status = process.terminate(Duration::from_secs(10)).expect("sleep obeys");
        assert!(!status.success());
        assert_eq!(process.log_tail(5), "hello");

        let process = sleeper("sleep 600");
        let pid = process.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "killed and reaped");
    }
}
