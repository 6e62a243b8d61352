//! Limits and sysctls.

use super::Level::{Fail, Ok, Warn};
use super::{Finding, read};

pub(super) fn examine() -> Vec<Finding> {
    let sysctl = |name: &str| read(&format!("/proc/sys/{}", name.replace('.', "/")));
    let number = |name: &str| sysctl(name).and_then(|text| text.parse::<i64>().ok());
    let mut findings = vec![open_files(soft_limit(&read("/proc/self/limits").unwrap_or_default()))];
    findings.extend(backlog(number("net.core.somaxconn")));
    findings.extend(syn_cookies(number("net.ipv4.tcp_syncookies")));
    findings.extend(reverse_path(number("net.ipv4.conf.all.rp_filter")));
    findings.extend(forwarding(number("net.ipv4.ip_forward")));
    findings
}

/// The soft limit of open files; the file pads its columns with spaces.
fn soft_limit(limits: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => u64::MAX,
        Some(number) => number.parse().unwrap_or(0),
        None => 0,
    }
}

fn open_files(soft: u64) -> Finding {
    let level = match soft {
        0..1024 => Fail,
        1024..65_536 => Warn,
        _ => Ok,
    };
    let remedy =
        "raise it (LimitNOFILE=1048576 in a unit, ulimit -n in a shell): each request holds two sockets";
    Finding::new("limits", "open files", level, soft.to_string(), remedy)
}

fn backlog(value: Option<i64>) -> Option<Finding> {
    let value = value?;
    let level = if value >= 4096 { Ok } else { Warn };
    let remedy = "sysctl -w net.core.somaxconn=4096, or bursts of connections are refused";
    Some(Finding::new("sysctl", "net.core.somaxconn", level, value.to_string(), remedy))
}

fn syn_cookies(value: Option<i64>) -> Option<Finding> {
    let value = value?;
    let level = if value == 0 { Warn } else { Ok };
    let remedy = "sysctl -w net.ipv4.tcp_syncookies=1, or a SYN flood keeps everybody out";
    Some(Finding::new("sysctl", "net.ipv4.tcp_syncookies", level, value.to_string(), remedy))
}

/// Strict reverse path filtering drops what comes in on one NIC and is answered by another.
fn reverse_path(value: Option<i64>) -> Option<Finding> {
    let value = value?;
    let level = if value == 1 { Warn } else { Ok };
    let remedy = "with more than one NIC, or VLANs, sysctl -w net.ipv4.conf.all.rp_filter=2 (loose)";
    Some(Finding::new("sysctl", "net.ipv4.conf.all.rp_filter", level, value.to_string(), remedy))
}

/// Proxying needs none; a Kubernetes node has it on for its pods.
fn forwarding(value: Option<i64>) -> Option<Finding> {
    Some(Finding::new("sysctl", "net.ipv4.ip_forward", Ok, value?.to_string(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings() {
        for (finding, level) in [
            (Some(open_files(256)), Fail),
            (Some(open_files(1024)), Warn),
            (Some(open_files(1 << 20)), Ok),
            (backlog(Some(128)), Warn),
            (backlog(Some(4096)), Ok),
            (syn_cookies(Some(0)), Warn),
            (syn_cookies(Some(2)), Ok),
            (reverse_path(Some(1)), Warn),
            (reverse_path(Some(2)), Ok),
        ] {
            assert_eq!(finding.as_ref().map(|f| f.level), Some(level), "{finding:?}");
        }
        assert_eq!(backlog(None), None);
        assert_eq!(soft_limit("Limit  Soft\nMax open files            1024   4096   files\n"), 1024);
    }
}
