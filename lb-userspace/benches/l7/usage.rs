//! What the kernel says of a process and those that it has started.

use std::fs;

/// The process and its children, and theirs.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for task in tasks(pid) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(family));
    }
    all
}

/// Time on a CPU of all their threads, in nanoseconds: the scheduler's own count, which knows
/// no ticks.
pub fn cpu_ns(pid: u32) -> u64 {
    let all = family(pid).into_iter();
    all.flat_map(|pid| tasks(pid).into_iter().map(move |task| format!("/proc/{pid}/task/{task}/schedstat")))
        .filter_map(|path| fs::read_to_string(path).ok()?.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Proportional resident memory of all of them in MB (10^6 bytes): what they share counts once.
pub fn memory_mb(pid: u32) -> f64 {
    let of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim_matches([' ', 'k', 'B']).parse::<f64>().ok()
    };
    family(pid).into_iter().filter_map(of).sum::<f64>() * 1024.0 / 1e6
}

/// For how long other machines had this one's CPUs while it wanted them, since it started: in the kernel's ticks of a
/// hundredth of a second (proc_stat(5), `steal`).
pub fn stolen() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = text.lines().next().and_then(|line| line.split_whitespace().nth(8));
    all.and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}

fn tasks(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
