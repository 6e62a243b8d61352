//! `sluice doctor`: is this node fit? Looks, changes nothing.

mod kernel;
mod nic;
mod system;

use serde::Serialize;

/// How a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but something is worth changing.
    Warn,
    /// Sluice can't work like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `kernel`, `rights`, `limits`, `sysctl`, or the NIC.
    pub area: String,
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing.
    pub remedy: String,
}

impl Finding {
    fn new(area: &str, what: &str, level: Level, found: impl Into<String>, remedy: &str) -> Self {
        let remedy = if level == Level::Ok { String::new() } else { remedy.to_owned() };
        Self { area: area.to_owned(), what: what.to_owned(), level, found: found.into(), remedy }
    }
}

/// Looks at everything. `interfaces`: the NICs to look at; empty for all that are not virtual.
pub async fn examine(interfaces: &[String]) -> Vec<Finding> {
    let mut findings = kernel::examine();
    findings.extend(system::examine());
    let chosen = if interfaces.is_empty() { nic::physical() } else { interfaces.to_vec() };
    if chosen.is_empty() {
        findings.push(Finding::new(
            "nic",
            "NIC",
            Level::Warn,
            "no physical NIC on this node",
            "name the NIC to look at with --interface",
        ));
    }
    for name in &chosen {
        findings.extend(nic::examine(name).await);
    }
    findings
}

/// A file's text without the newline at its end.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}
