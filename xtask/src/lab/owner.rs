//! Who made a namespace, a pin directory or a temporary directory: written into its name.
//!
//! A process id alone would not do: ids are reused. With the start time it names one process of
//! this boot, so a later run can tell its dead predecessors' leftovers from a living neighbour's things.

use std::fmt;
use std::fs;
use std::process;

/// All names start with this.
const PREFIX: &str = "sluicelab";

/// One process: its id and when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    /// Clock ticks since boot, as `/proc/PID/stat` tells.
    started: u64,
}

impl Owner {
    /// This process.
    pub fn me() -> Self {
        let pid = process::id();
        Self { pid, started: started(pid).unwrap_or(0) }
    }

    /// The owner in a `name` that [`Owner::name`] made; `None` for all other names.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
        let (pid, started) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().map(|_| Self { pid, started })
    }

    /// A name for something of this owner's; `label` tells its things apart.
    pub fn name(&self, label: &str) -> String {
        format!("{self}-{label}")
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}", self.pid, self.started)
    }
}

/// The 22nd field of `/proc/PID/stat`. The second, the command's name, may hold spaces and
/// brackets, so counting starts after its closing bracket.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let me = Owner::me();
        assert!(me.is_alive());
        assert_eq!(Owner::parse(&me.name("node")), Some(me));
        assert!(!Owner { started: me.started + 1, ..me }.is_alive(), "another process with a reused id");
        for other in ["sluice", "sluicelab-", "sluicelab-12", "sluicelab-12-34", "sluicelab-a-b-c", "x-1-2-3"]
        {
            assert_eq!(Owner::parse(other), None, "{other}");
        }
    }
}
