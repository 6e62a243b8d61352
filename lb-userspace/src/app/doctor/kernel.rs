//! The kernel and this process's rights in it.

use super::Level::{Fail, Ok, Warn};
use super::{Finding, read};
use crate::dataplane::kernel::{HandshakeVersion, handshakes_supported};

/// `bpf_xdp_load_bytes` and multi-buffer programs came with it.
const OLDEST: (u32, u32) = (5, 18);

/// What the loaded programs need, by number in include/uapi/linux/capability.h. Without CAP_PERFMON
/// the verifier takes every program for one that might leak pointers, and refuses ours.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
const CAP_SYS_ADMIN: u32 = 21;

pub(super) fn examine() -> Vec<Finding> {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let status = read("/proc/self/status").unwrap_or_default();
    let mounts = read("/proc/self/mounts").unwrap_or_default();
    vec![
        version(&release),
        btf(std::path::Path::new("/sys/kernel/btf/vmlinux").exists()),
        jit(read("/proc/sys/net/core/bpf_jit_enable").as_deref()),
        capabilities(&status),
        bpffs(&mounts),
        handshakes(handshakes_supported(None)),
    ]
}

fn version(release: &str) -> Finding {
    let number = |text: Option<&str>| -> u32 {
        let digits: String = text.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    };
    let mut parts = release.split('.');
    let have = (number(parts.next()), number(parts.next()));
    let level = if have >= OLDEST { Ok } else { Fail };
    Finding::new(
        "kernel",
        "version",
        level,
        release,
        "XDP steering needs Linux 5.18 or newer; --no-xdp works on any",
    )
}

fn btf(there: bool) -> Finding {
    let (level, found) = if there { (Ok, "/sys/kernel/btf/vmlinux") } else { (Warn, "none") };
    Finding::new("kernel", "BTF", level, found, "use a kernel built with CONFIG_DEBUG_INFO_BTF")
}

fn jit(value: Option<&str>) -> Finding {
    let remedy = "sysctl -w net.core.bpf_jit_enable=1, or every packet pays for an interpreter";
    match value {
        Some("0") => Finding::new("kernel", "BPF JIT", Warn, "off", remedy),
        Some(_) => Finding::new("kernel", "BPF JIT", Ok, "on", remedy),
        // The file is absent where the JIT can't be turned off, and in namespaces without it.
        None => Finding::new("kernel", "BPF JIT", Ok, "always on", remedy),
    }
}

fn capabilities(status: &str) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective >> bit & 1 == 1;
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| !has(*bit) && !has(CAP_SYS_ADMIN))
        .map(|(_, name)| *name)
        .collect();
    let remedy =
        "run as root, or give the process CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; --no-xdp needs none";
    let (level, found) = if missing.is_empty() {
        (Ok, "may load and attach BPF programs".to_owned())
    } else {
        (Fail, format!("without {}", missing.join(" and ")))
    };
    Finding::new("rights", "capabilities", level, found, remedy)
}

/// Only some settings need them.
fn handshakes(supported: Result<HandshakeVersion, String>) -> Finding {
    let (level, found) = match supported {
        Result::Ok(version) => (Ok, format!("possible, {version}")),
        Err(why) => (Warn, why),
    };
    let remedy = "put that right for --sni steer and syn-cookies; without them it doesn't matter";
    Finding::new("kernel", "TCP handshakes by XDP", level, found, remedy)
}

fn bpffs(mounts: &str) -> Finding {
    let mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some("/sys/fs/bpf") && words.next() == Some("bpf")
    });
    let (level, found) =
        if mounted { (Ok, "mounted at /sys/fs/bpf") } else { (Fail, "not mounted at /sys/fs/bpf") };
    Finding::new("kernel", "bpffs", level, found, "mount -t bpf bpf /sys/fs/bpf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings() {
        for (finding, level) in [
            (version("6.18.44-fc"), Ok),
            (version("5.18.0-generic"), Ok),
            (version("5.4.0"), Fail),
            (version(""), Fail),
            (btf(false), Warn),
            (jit(Some("0")), Warn),
            (jit(Some("1")), Ok),
            (jit(None), Ok),
            (capabilities("CapEff:\t000001ffffffffff\n"), Ok),
            (capabilities("CapEff:\t0000008000001000\n"), Fail),
            (capabilities("CapEff:\t000000c000001000\n"), Ok),
            (capabilities("CapEff:\t0000000000001000\n"), Fail),
            (capabilities(""), Fail),
            (handshakes(Result::Ok(HandshakeVersion::V1)), Ok),
            (handshakes(Err("no function".to_owned())), Warn),
            (bpffs("none /sys/fs/bpf bpf rw 0 0"), Ok),
            (bpffs("tmpfs /sys/fs/bpf tmpfs rw 0 0"), Fail),
        ] {
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.remedy.is_empty(), level == Ok, "{finding:?}");
        }
    }
}
