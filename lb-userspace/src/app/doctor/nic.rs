//! One NIC: its link, driver, offloads and queues, and what is attached already.

use std::collections::BTreeSet;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

use super::Level::{Fail, Ok, Warn};
use super::{Finding, read};

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
    if name.is_empty() || name.contains('/') || !std::path::Path::new(&dir).exists() {
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
    findings.extend(attached(name).await);
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

async fn attached(name: &str) -> Option<Finding> {
    let (connection, handle, _) = rtnetlink::new_connection().ok()?;
    let running = tokio::spawn(connection);
    let link = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    running.abort();
    let xdp = link.ok().flatten()?.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    })?;
    let mut mode = "";
    let mut program = None;
    for attribute in xdp {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver) => mode = " in native mode",
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = " in generic mode",
            LinkXdp::ProgId(id) => program = Some(id),
            _ => {}
        }
    }
    Some(match program {
        None => Finding::new(name, "XDP", Ok, "nothing attached", ""),
        Some(id) => Finding::new(
            name,
            "XDP",
            Warn,
            format!("program {id} is attached{mode}"),
            "fine if it is Sluice's (sluice status names its number); another's must be detached first",
        ),
    })
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
