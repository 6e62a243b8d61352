//! `sluice status`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::report::issues;
use super::{lines, plural, table};
use crate::app::admin::health_words::unwell;
use crate::app::admin::views::{Rules, Status, Steering};
use crate::model::SynCookies;
use crate::status::Report;

/// `sluice status`.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let serving = &status.serving;
    let mut facts = table(&[]);
    let ready = match (status.ready, status.standby) {
        (true, _) => "ready",
        (false, true) => "standing by to take over from the daemon before",
        (false, false) => "not ready",
    };
    let mut fact = |name: &str, value: String| {
        facts.add_row([name.to_owned(), value]);
    };
    fact("Sluice", format!("{}, {ready}, generation {}", status.version, status.generation));
    let source = match &status.source.directory {
        Some(directory) => format!("{} {directory}", status.source.kind),
        None => status.source.kind.clone(),
    };
    fact("Source", format!("{source}: {}", status.source.health));
    fact(
        "Serving",
        [
            plural(serving.hosts, "host"),
            plural(serving.routes, "route"),
            plural(serving.clusters, "cluster"),
            plural(serving.endpoints, "endpoint"),
            plural(serving.certificates, "certificate"),
        ]
        .join(", "),
    );
    fact("Listening", status.listeners.join(", "));
    match &status.xdp {
        Some(xdp) => {
            for nic in &xdp.interfaces {
                fact("XDP", format!("{} {} (program {})", nic.name, nic.mode, nic.program_id));
            }
            match &xdp.steering {
                Some(Steering::By { version }) => fact("Steering", format!("by server name, {version}")),
                Some(Steering::Off { why }) => fact("Steering", format!("OFF: {why}")),
                None => {}
            }
        }
        None => fact("XDP", "off".to_owned()),
    }
    if serving.forwarded > 0 {
        let vips = plural(serving.forwarded, "VIP");
        let how = if status.xdp.is_some() { "" } else { ", but not here: that takes XDP, which is off" };
        fact("Forwarding", format!("{vips} for Services of type LoadBalancer{how}"));
    }
    let left_out = status.issues.iter().filter(|issue| issue.reason == "NoRoom").count();
    if left_out > 0 {
        let vips = plural(left_out, "VIP");
        fact("Not forwarded", format!("{vips}: the kernel's tables have no room, see the issues"));
    }
    if let Some(publishing) = &status.publishing {
        for (name, value) in publishing_facts(publishing) {
            fact(name, value);
        }
    }
    if let Some(seconds) = status.drained_for {
        fact("Drained", format!("for {seconds} s: others are to take over; `sluice drain --undo` ends that"));
    }
    if let Some(error) = &status.trouble {
        fact("Trouble", error.clone());
    }
    let total = |name: &str| status.proxy.get("total").and_then(|t| t.get(name)).and_then(|n| n.as_u64());
    if let (Some(requests), Some(active)) = (total("requests"), total("active")) {
        let errors = total("responses_5xx").unwrap_or_default();
        fact("Proxy", format!("{requests} requests, {errors} answered 5xx, {active} connections open"));
    }
    if let Some(workers) = workers_text(&status.proxy) {
        fact("Workers", workers);
    }
    if let Some(unwell) = unwell(&status.proxy) {
        fact("Unwell", unwell);
    }
    if let Some(rules) = status.rules.as_ref().filter(|rules| rules.any()) {
        if rules.syn_cookies != SynCookies::Off {
            let given = status.verdicts.get("syn_cookie").copied().unwrap_or_default();
            let when = match rules.syn_cookies {
                SynCookies::Auto => format!("above {} SYNs/s on a CPU", rules.syn_rate),
                other => other.name().to_owned(),
            };
            fact("SYN cookies", format!("{when}, {given} given so far"));
        }
        fact("Sources", rules_text(rules));
    }
    if let Some(bans) = &status.bans {
        let rules = match bans.rules.after {
            0 => "off".to_owned(),
            after => {
                format!("{after} offences within {} s keep out for {} s", bans.rules.within, bans.rules.lasts)
            }
        };
        fact("Bans", format!("{} now, {} since the start; {rules}", bans.banned, bans.total));
    }
    text.push_str(&lines(&facts));
    if !status.vips.is_empty() {
        let mut vips = table(&["VIP", "PACKETS", "BYTES", "CONNECTIONS"]);
        for vip in &status.vips {
            vips.add_row([
                vip.vip.clone(),
                vip.packets.to_string(),
                vip.bytes.to_string(),
                vip.connections.to_string(),
            ]);
        }
        let _ = write!(text, "\n{}", lines(&vips));
    }
    if status.sni.iter().any(|sni| sni.connections > 0) {
        let mut names = table(&["SERVER NAME", "CLIENTHELLOS"]);
        for sni in status.sni.iter().filter(|sni| sni.connections > 0) {
            names.add_row([sni.name.clone(), sni.connections.to_string()]);
        }
        let _ = write!(text, "\n{}", lines(&names));
    }
    if status.verdicts.values().any(|n| *n > 0) {
        let mut verdicts = table(&["XDP VERDICT", "PACKETS"]);
        for (reason, n) in status.verdicts.iter().filter(|(_, n)| **n > 0) {
            verdicts.add_row([reason.clone(), n.to_string()]);
        }
        let _ = write!(text, "\n{}", lines(&verdicts));
    }
    if !status.issues.is_empty() {
        let _ = write!(text, "\n{}", issues(&status.issues));
    }
    text
}

/// General workers and pools, where there are any of the latter.
fn workers_text(proxy: &Value) -> Option<String> {
    let mut pools: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for worker in proxy.get("workers")?.as_array()? {
        let of = |name| worker.get(name).and_then(Value::as_u64).unwrap_or_default();
        let pool = worker.get("pool").and_then(Value::as_str).unwrap_or_default();
        let (workers, requests) = pools.entry(pool).or_default();
        *workers += 1;
        *requests += of("requests");
    }
    let shown = pools.iter().map(|(pool, (workers, requests))| match *pool {
        "" => format!("{workers} general ({requests} requests)"),
        pool => format!("{workers} of pool {pool} ({requests} requests)"),
    });
    (pools.len() > 1).then(|| shown.collect::<Vec<_>>().join(", "))
}

fn rules_text(rules: &Rules) -> String {
    let budget = match rules.connection_rate {
        0 => "no budget".to_owned(),
        rate => format!("{rate} new connections/s each, {} at once", rules.connection_burst),
    };
    format!("{} denied, {} allowed, {budget}", rules.denied, rules.allowed)
}

/// Who writes Ingress status, and how that is getting on.
fn publishing_facts(report: &Report) -> Vec<(&'static str, String)> {
    let leader = match &report.leader {
        _ if report.is_leader => format!("this daemon ({})", report.identity),
        Some(leader) => leader.clone(),
        None => "nobody yet".to_owned(),
    };
    let mut facts = vec![("Leader", leader)];
    if report.is_leader {
        let addresses = match report.addresses.as_slice() {
            [] => "no address known: give --publish-address".to_owned(),
            addresses => addresses.join(", "),
        };
        let waiting = |n: u64| if n == 0 { String::new() } else { format!(" ({n} waiting)") };
        facts.push(("Publishing", addresses));
        facts.push((
            "Written",
            format!(
                "{} statuses{}, {} taken back; {} Events{}, {} refused",
                report.writes,
                waiting(report.writes_waiting),
                report.taken_back,
                report.events,
                waiting(report.events_waiting),
                report.events_dropped
            ),
        ));
    }
    if let Some(error) = &report.last_error {
        facts.push(("API trouble", format!("{} so far, the last: {error}", report.failures)));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_status_is_told() {
        let mut report = Report { identity: "a-1".to_owned(), ..Report::default() };
        let text = |report: &Report| {
            publishing_facts(report)
                .iter()
                .map(|(name, value)| format!("{name}: {value}\n"))
                .collect::<String>()
        };
        assert_eq!(text(&report), "Leader: nobody yet\n");
        report.leader = Some("b-2".to_owned());
        assert_eq!(text(&report), "Leader: b-2\n");
        report.is_leader = true;
        (report.writes, report.writes_waiting, report.events) = (3, 2, 1);
        let expect = "Leader: this daemon (a-1)\nPublishing: no address known: give --publish-address\n\
            Written: 3 statuses (2 waiting), 0 taken back; 1 Events, 0 refused\n";
        assert_eq!(text(&report), expect);
        report.addresses = vec!["192.0.2.1".to_owned(), "lb.example".to_owned()];
        (report.failures, report.last_error) = (4, Some("500".to_owned()));
        let got = text(&report);
        assert!(got.contains("Publishing: 192.0.2.1, lb.example\n"), "{got}");
        assert!(got.ends_with("API trouble: 4 so far, the last: 500\n"), "{got}");
    }
    #[test]
    fn workers_are_told_by_pool() {
        let worker = |pool: Option<&str>, requests: u64| match pool {
            Some(pool) => serde_json::json!({ "worker": 0, "pool": pool, "requests": requests }),
            None => serde_json::json!({ "worker": 0, "requests": requests }),
        };
        for (workers, expect) in [
            (vec![], None),
            (vec![worker(None, 3)], None),
            (
                vec![worker(None, 3), worker(None, 4), worker(Some("tenant"), 5), worker(Some("a"), 0)],
                Some("2 general (7 requests), 1 of pool a (0 requests), 1 of pool tenant (5 requests)"),
            ),
        ] {
            let stats = serde_json::json!({ "workers": workers });
            assert_eq!(workers_text(&stats).as_deref(), expect);
        }
        assert_eq!(workers_text(&Value::Null), None);
    }
}
