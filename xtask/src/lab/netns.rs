//! Network namespaces and the veths between them.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::owner::Owner;
use super::process::kill_and_wait;
use super::{LabError, Result};

/// A network namespace that is removed, with the processes in it, when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new namespace with its loopback up. Needs root.
    pub fn create(label: &str) -> Result<Self> {
        let name = Owner::me().name(label);
        run("ip", &["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        // Replies of a VIP leave by another road than a strict reverse-path check expects.
        for (key, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        Ok(namespace)
    }

    /// The name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n NAME …`; `arguments` are split at spaces.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        run("ip", &all).map(drop)
    }

    /// Writes `/proc/sys/net/KEY` in this namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| std::fs::write(&path, value))?.map_err(LabError::io(format!("write {path}")))
    }

    /// Runs `work` on a thread that is in this namespace.
    ///
    /// Not `ip netns exec`: that makes a mount namespace too, with a fresh /sys in which bpffs and
    /// all pins are hidden.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                Ok(work())
            });
            match inside.join() {
                Ok(result) => result.map_err(LabError::io(format!("enter namespace {}", self.name))),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The namespace's file, for threads of one's own to enter by.
    pub fn open(&self) -> Result<File> {
        let path = Path::new("/run/netns").join(&self.name);
        File::open(&path).map_err(LabError::io(format!("open {}", path.display())))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("namespace {} stays behind: {error}", self.name);
        }
    }
}

/// One end of a veth: where it is and its addresses with prefix lengths.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The interface's name, at most 15 bytes.
    pub interface: &'a str,
    /// `192.0.2.1/24`, `2001:db8::1/64`.
    pub addresses: &'a [String],
}

/// Joins two namespaces by a veth pair, up and addressed.
pub fn join(a: End<'_>, b: End<'_>) -> Result<()> {
    a.namespace.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        a.interface, b.interface, b.namespace.name
    ))?;
    for end in [a, b] {
        for address in end.addresses {
            // Duplicate address detection would keep a v6 address unusable for a second.
            let nodad = if address.contains(':') { "nodad" } else { "" };
            end.namespace.ip(&format!("address add {address} dev {} {nodad}", end.interface))?;
        }
        end.namespace.ip(&format!("link set {} up", end.interface))?;
    }
    Ok(())
}

/// Ends all processes in the namespace `name`, then removes it.
pub(super) fn remove(name: &str) -> Result<()> {
    for pid in run("ip", &["netns", "pids", name])?.split_whitespace() {
        // A thread of this very process may be inside: then the process is listed too.
        if let Ok(pid) = pid.parse()
            && pid != std::process::id() as i32
        {
            kill_and_wait(pid);
        }
    }
    run("ip", &["netns", "delete", name]).map(drop)
}

/// Runs a command to its end and gives what it wrote.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let command = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(LabError::io(command()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stderr, output.stdout].concat();
    Err(LabError::Command { command: command(), output: String::from_utf8_lossy(&text).trim().to_owned() })
}
