//! Removes what killed runs left behind.

use std::fs;
use std::path::Path;

use super::netns::{self, run};
use super::owner::Owner;
use super::{LabError, Result};

/// Where the kernel keeps pinned maps and links.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Removes the namespaces (with the processes in them), pin directories and temporary directories
/// of owners that no longer run, and says which. Things of living owners are not touched.
pub fn sweep() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    // Processes first: a daemon that still runs would write its pins anew.
    for name in orphans(Path::new("/run/netns")) {
        netns::remove(&name)?;
        removed.push(format!("namespace {name}"));
    }
    for root in [Path::new(BPFFS), &std::env::temp_dir()] {
        for name in orphans(root) {
            let path = root.join(name);
            fs::remove_dir_all(&path).map_err(LabError::io(format!("remove {}", path.display())))?;
            removed.push(path.display().to_string());
        }
    }
    Ok(removed)
}

/// Mounts bpffs where the kernel's tools expect it, unless it is there. Needs root.
pub fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(LabError::io("read /proc/self/mounts"))?;
    let mounted = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    };
    if mounts.lines().any(mounted) {
        return Ok(());
    }
    run("mount", &["-t", "bpf", "bpf", BPFFS]).map(drop)
}

fn orphans(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| Owner::parse(name).is_some_and(|owner| !owner.is_alive())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_orphans() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mine = Owner::me().name("mine");
        // No process ever started at the last tick of the counter.
        let dead = format!("sluicelab-1-{}-node", u64::MAX);
        for name in [&mine, &dead, "someone-elses"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        assert_eq!(orphans(root.path()), [dead]);
        assert!(orphans(&root.path().join("absent")).is_empty());
    }
}
