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
/// Without `xdp` only at what ordinary sockets need.
pub async fn examine(interfaces: &[String], xdp: bool) -> Vec<Finding> {
    if !xdp {
        return system::examine();
    }
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

/// What is wrong, a line each, and a verdict. The worst comes last: a pod's status keeps the end of
/// its init container's log, 2 KiB of it.
pub fn brief(findings: &[Finding]) -> String {
    let mut wrong: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
    wrong.sort_by_key(|finding| finding.level);
    let mut text = String::new();
    for finding in &wrong {
        let level = if finding.level == Level::Fail { "FAIL" } else { "warn" };
        let Finding { area, what, found, remedy, .. } = finding;
        text.push_str(&format!("{level} {area} {what}: {found}; {remedy}\n"));
    }
    let failures = wrong.iter().filter(|finding| finding.level == Level::Fail).count();
    let verdict = match failures {
        0 => "this node is fit".to_owned(),
        1 => "this node is NOT fit: 1 failure".to_owned(),
        n => format!("this node is NOT fit: {n} failures"),
    };
    text + &verdict + "\n"
}

/// A file's text without the newline at its end.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_answer_ends_with_the_worst() {
        let finding = |what: &str, level| Finding::new("kernel", what, level, "is so", "do this");
        let all = [finding("a", Level::Fail), finding("b", Level::Ok), finding("c", Level::Warn)];
        for (findings, expect) in [
            (
                &all[..],
                "warn kernel c: is so; do this\nFAIL kernel a: is so; do this\nthis node is NOT fit: 1 failure\n",
            ),
            (&all[1..], "warn kernel c: is so; do this\nthis node is fit\n"),
            (&all[1..2], "this node is fit\n"),
        ] {
            assert_eq!(brief(findings), expect);
        }
    }

    #[tokio::test]
    async fn without_xdp_neither_kernel_nor_nic_matters() {
        let findings = examine(&["no-such-nic".to_owned()], false).await;
        assert!(
            findings.iter().all(|finding| ["limits", "sysctl"].contains(&finding.area.as_str())),
            "{findings:?}"
        );
    }
}
