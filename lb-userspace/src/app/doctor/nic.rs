//! One NIC: its link, driver, offloads and queues, and what is attached already.

use std::collections::BTreeSet;
use std::path::Path;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures::TryStreamExt as _;

use super::Level::{Fail, Ok, Warn};
use super::{Finding, read};
use crate::dataplane::kernel::Occupant;

/// Above, a packet no longer fits one page, and native XDP takes a driver with multi-buffer
/// support. Sluice's programs take such packets; whether the driver does, only attaching tells.
const LINEAR_MTU: u32 = 3498;

/// NICs with a device behind them.
pub(super) fn physical() -> Vec<String> {
    let Result::Ok(entries) = std::fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

pub(super) async fn examine(name: &str) -> Vec<Finding> {
    let dir = format!("/sys/class/net/{name}");
    // A name with a slash would look elsewhere.
    if name.is_empty() || name.contains('/') || !Path::new(&dir).exists() {
        let have = have();
        return vec![Finding::new(
            name,
            "link",
            Fail,
            "there is no such NIC",
            &format!("this node has {have}"),
        )];
    }
    let mut findings = vec![link(name, read(&format!("{dir}/operstate")).as_deref())];
    let driver = std::fs::read_link(format!("{dir}/device/driver")).ok();
    let driver = driver.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    findings.push(Finding::new(name, "driver", Ok, driver.unwrap_or("virtual"), ""));
    findings.extend(read(&format!("{dir}/mtu")).and_then(|text| text.parse().ok()).map(|n| mtu(name, n)));
    let queues = std::fs::read_dir(format!("{dir}/queues")).map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count()
    });
    findings.push(receive_queues(name, queues, std::thread::available_parallelism().map_or(1, |n| n.get())));
    match features(name).await {
        Some(active) => findings.extend(offloads(name, &active)),
        None => findings.push(Finding::new(name, "offloads", Ok, "the driver tells none", "")),
    }
    findings.extend(kind(name, Path::new(&dir).join("bonding").exists(), &below(name)));
    findings.push(attached(name).await);
    findings
}

fn have() -> String {
    let Result::Ok(entries) = std::fs::read_dir("/sys/class/net") else { return "none".to_owned() };
    let names: BTreeSet<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn link(name: &str, state: Option<&str>) -> Finding {
    match state {
        Some("up") => Finding::new(name, "link", Ok, "up", ""),
        // lo and some virtual devices never tell.
        Some("unknown") => Finding::new(name, "link", Ok, "unknown", ""),
        other => {
            let remedy = format!("ip link set {name} up, and look at cable and switch port");
            Finding::new(name, "link", Warn, other.unwrap_or("unknown"), &remedy)
        }
    }
}

fn mtu(name: &str, mtu: u32) -> Finding {
    let found = if mtu > LINEAR_MTU {
        format!(
            "{mtu}; Sluice takes frames of several buffers, but a driver that does not refuses native XDP \
             above about {LINEAR_MTU}: then a smaller MTU, or --xdp-mode generic"
        )
    } else {
        mtu.to_string()
    };
    Finding::new(name, "MTU", Ok, found, "")
}

fn receive_queues(name: &str, queues: usize, cpus: usize) -> Finding {
    let level = if queues < cpus { Warn } else { Ok };
    let found = format!("{queues} for {cpus} CPUs");
    let remedy = format!(
        "ethtool -L {name} combined {cpus} if the NIC can; else CPUs without a queue get no connections"
    );
    Finding::new(name, "receive queues", level, found, &remedy)
}

fn offloads(name: &str, active: &BTreeSet<String>) -> Vec<Finding> {
    let row = |feature: &str, what: &str, good: bool, remedy: String| {
        let on = active.contains(feature);
        let level = if on == good { Ok } else { Warn };
        Finding::new(name, what, level, if on { "on" } else { "off" }, &remedy)
    };
    vec![
        row("rx-lro", "LRO", false, format!("ethtool -K {name} lro off: native XDP needs it off")),
        row(
            "rx-gro",
            "GRO",
            true,
            format!("ethtool -K {name} gro on: the stack takes fewer, larger packets"),
        ),
        row(
            "rx-vlan-hw-parse",
            "VLAN stripping",
            false,
            format!("with VLANs on this NIC, ethtool -K {name} rxvlan off: XDP must see the tags"),
        ),
    ]
}

/// Names of the features that are on; `None` when the kernel or the driver tells none.
async fn features(name: &str) -> Option<BTreeSet<String>> {
    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    let running = tokio::spawn(connection);
    let messages: Option<Vec<_>> = match handle.feature().get(Some(name)).execute().await {
        Result::Ok(answer) => answer.try_collect().await.ok(),
        Err(_) => None,
    };
    running.abort();
    let mut active = BTreeSet::new();
    for attribute in messages?.into_iter().flat_map(|message| message.payload.nlas) {
        if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
            active.extend(bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name));
        }
    }
    Some(active)
}

async fn attached(name: &str) -> Finding {
    match Occupant::of(name).await {
        None => Finding::new(name, "XDP", Ok, "nothing attached", ""),
        Some(occupant) => Finding::new(
            name,
            "XDP",
            Warn,
            format!("{occupant} is attached"),
            &format!(
                "fine if it is Sluice's (sluice status names its number); else {}",
                occupant.remedy(name)
            ),
        ),
    }
}

/// Where packets come in that a NIC only hands on: XDP on a bond or a VLAN is asked for there.
fn below(name: &str) -> Vec<String> {
    let Result::Ok(entries) = std::fs::read_dir(format!("/sys/class/net/{name}")) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut lower: Vec<_> = names.filter_map(|name| name.strip_prefix("lower_").map(str::to_owned)).collect();
    lower.sort();
    lower
}

fn kind(name: &str, bond: bool, lower: &[String]) -> Option<Finding> {
    let list = lower.join(", ");
    if bond {
        let found = format!(
            "a bond of {list}: XDP on it runs on all of them, with the modes balance-rr and active-backup and, \
             unless the hash is vlan+srcmac, balance-xor and 802.3ad; name the bond, not its parts"
        );
        return Some(Finding::new(name, "kind", Ok, found, ""));
    }
    if lower.is_empty() {
        return None;
    }
    let remedy = format!("name what it is made of instead, with --interface: {list}; Sluice reads VLAN tags");
    Some(Finding::new(name, "kind", Warn, format!("on top of {list}: no native XDP"), &remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings() {
        for (finding, level) in [
            (link("a", Some("up")), Ok),
            (link("a", Some("down")), Warn),
            (link("a", None), Warn),
            (mtu("a", 1500), Ok),
            (mtu("a", 9000), Ok),
            (receive_queues("a", 1, 4), Warn),
            (receive_queues("a", 8, 4), Ok),
        ] {
            assert_eq!(finding.level, level, "{finding:?}");
        }
        let parts = ["a".to_owned(), "b".to_owned()];
        assert_eq!(kind("x", true, &parts).map(|finding| finding.level), Some(Ok));
        assert_eq!(kind("x", false, &parts[..1]).map(|finding| finding.level), Some(Warn));
        assert_eq!(kind("x", false, &[]), None);
        let active = ["rx-lro", "rx-gro"].map(str::to_owned).into();
        let levels: Vec<_> = offloads("a", &active).into_iter().map(|f| f.level).collect();
        assert_eq!(levels, [Warn, Ok, Ok]);
    }

    #[tokio::test]
    async fn strange_names_are_no_nics() {
        for name in ["", "../etc", "no-such-nic"] {
            let findings = examine(name).await;
            assert_eq!((findings.len(), findings[0].level), (1, Fail), "{name}");
        }
    }
}
