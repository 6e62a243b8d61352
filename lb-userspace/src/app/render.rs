//! Text for people. Pure: everything here is made of what `-o json` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use ipnet::IpNet;
use lb_common::maps::{CLASS_PASSTHROUGH, CLASS_POOLS, CLASS_TERMINATE};
use serde_json::Value;

use super::admin::health_words::{endpoint_state, requests_of, unwell};
use super::admin::views::{
    Backend, Host, Issue, Maps, RouteView, Rules, Status, Steering, Tuned, Verification, word,
};
use super::check::Report as CheckReport;
use super::doctor::{Finding, Level};
use super::explain::{Explanation, Match};
use super::flow;
use crate::model::{SynCookies, Tuning};
use crate::status::Report;

/// So many networks are shown of a list.
const LISTED: usize = 20;

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

/// What `sluice tune` says.
pub fn tuning(tuned: &Tuned) -> String {
    let mut facts = table(&[]);
    match &tuned.rules {
        Some(tuning) => add_rules(&mut facts, tuning),
        None => drop(facts.add_row(["deny, allow, …", "not here: that takes XDP, which is off"])),
    }
    let ban = &tuned.ban;
    let after = match ban.after {
        0 => "0 (nobody is banned)".to_owned(),
        after => format!("{after} offences"),
    };
    facts.add_row(["ban-after".to_owned(), after]);
    facts.add_row(["ban-within".to_owned(), format!("{} s", ban.within)]);
    facts.add_row(["ban-for".to_owned(), format!("{} s", ban.lasts)]);
    facts.add_row(["ban-max".to_owned(), ban.most.to_string()]);
    let banned = tuned.banned.iter().take(LISTED);
    let mut banned: Vec<_> = banned
        .map(|one| format!("{} for {} s: {}", one.source, one.seconds_left, one.caught_at.words()))
        .collect();
    if tuned.banned.len() > LISTED {
        banned.push(format!("and {} more (-o json lists all)", tuned.banned.len() - LISTED));
    }
    let banned = if banned.is_empty() { "nobody".to_owned() } else { banned.join("\n") };
    facts.add_row(["banned".to_owned(), banned]);
    lines(&facts)
}

fn add_rules(facts: &mut Table, tuning: &Tuning) {
    let mut list = |name: &str, networks: &BTreeSet<IpNet>| {
        let mut shown: Vec<_> = networks.iter().take(LISTED).map(IpNet::to_string).collect();
        if networks.len() > LISTED {
            shown.push(format!("and {} more (-o json lists all)", networks.len() - LISTED));
        }
        let value = if shown.is_empty() { "nobody".to_owned() } else { shown.join("\n") };
        facts.add_row([name.to_owned(), value]);
    };
    list("deny", &tuning.deny);
    list("allow", &tuning.allow);
    let rate = match tuning.connection_rate {
        0 => "0 (any number)".to_owned(),
        rate => format!("{rate} a second for each client"),
    };
    facts.add_row(["connection-rate".to_owned(), rate]);
    facts.add_row(["connection-burst".to_owned(), tuning.connection_burst.to_string()]);
    facts.add_row(["syn-cookies".to_owned(), tuning.syn_cookies.name().to_owned()]);
    facts.add_row(["syn-rate".to_owned(), format!("{} a second on one CPU", tuning.syn_rate)]);
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
                "{} Ingress statuses{}, {} taken back; {} Events{}, {} refused",
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

/// `sluice routes`.
pub fn routes(hosts: &[Host]) -> String {
    if hosts.is_empty() {
        return "no routes: no Ingress is served; `sluice status` shows the source and what is wrong\n"
            .to_owned();
    }
    let mut rows = table(&["HOST", "PATH", "TYPE", "BACKEND", "ENDPOINTS", "INGRESS", "POLICY"]);
    for host in hosts {
        for (at, route) in host.routes.iter().enumerate() {
            let mut policy = route.policy.clone();
            if route.shadowed {
                policy.push("loses to an older Ingress".to_owned());
            }
            rows.add_row([
                if at == 0 { host.host.clone() } else { String::new() },
                route.path.clone(),
                route.path_type.clone(),
                route.backend.clone(),
                route.endpoints.to_string(),
                route.ingress.clone(),
                policy.join(", "),
            ]);
        }
    }
    lines(&rows)
}

/// `sluice backends`.
pub fn backends(backends: &[Backend]) -> String {
    if backends.is_empty() {
        return "no clusters: no served Ingress names a Service, and no Service is forwarded\n".to_owned();
    }
    let mut rows = table(&["CLUSTER", "PROTOCOL", "ENDPOINT", "ZONE", "STATE", "REQUESTS"]);
    for cluster in backends {
        if cluster.endpoints.is_empty() {
            let requests = requests_of(cluster);
            let becomes = if cluster.requests.is_some() { "503" } else { "packets are dropped" };
            rows.add_row([&*cluster.cluster, &*cluster.protocol, "none ready", "", becomes, &*requests]);
        }
        for (at, endpoint) in cluster.endpoints.iter().enumerate() {
            let first = |text: &str| if at == 0 { text.to_owned() } else { String::new() };
            rows.add_row([
                first(&cluster.cluster),
                first(&cluster.protocol),
                endpoint.address.clone(),
                endpoint.zone.clone().unwrap_or_default(),
                endpoint_state(endpoint),
                first(&requests_of(cluster)),
            ]);
        }
    }
    lines(&rows)
}

/// `sluice explain` of a connection.
pub fn flow(explanation: &flow::Explanation) -> String {
    let mut facts = table(&[]);
    let mut fact = |name: &str, value: String| {
        facts.add_row([name.to_owned(), value]);
    };
    let flow::Question { transport, from, to, .. } = &explanation.question;
    fact("Connection", format!("{} {from} > {to}", word(transport)));
    if explanation.packets.is_empty() {
        fact("XDP", "off".to_owned());
    }
    for flow::Judged { packet, verdict, reason, meaning, becomes } in &explanation.packets {
        let becomes = becomes.as_ref().map_or_else(String::new, |ends| format!("; becomes {ends}"));
        fact("XDP", format!("{packet}: {verdict} ({reason}: {meaning}){becomes}"));
    }
    for (name, value) in [("Service", &explanation.service), ("Listener", &explanation.listener)] {
        if let Some(value) = value {
            fact(name, value.clone());
        }
    }
    if let Some(endpoint) = explanation.endpoint {
        fact("Endpoint", endpoint.to_string());
    }
    if let Some(tls) = &explanation.tls {
        fact("Certificate", format!("{}, chosen for {}", tls.certificate, tls.chosen_for));
    }
    fact("Next", explanation.next.clone());
    let note = match explanation.packets.is_empty() {
        true => "",
        false => "\nJudged by the kernel as if it came now. Nothing was counted or remembered.\n",
    };
    lines(&facts) + note
}

/// `sluice explain`.
pub fn explanation(explanation: &Explanation) -> String {
    let mut facts = table(&[]);
    let mut fact = |name: &str, value: String| {
        facts.add_row([name.to_owned(), value]);
    };
    fact("Request", format!("host {}, target {}", explanation.host, explanation.target));
    if explanation.listeners.is_empty() {
        fact("Listener", "none".to_owned());
    }
    for (at, listener) in explanation.listeners.iter().enumerate() {
        // All listeners do the same in the kernel: said once.
        let same = at > 0 && explanation.listeners[at - 1].kernel == listener.kernel;
        let kernel = if same { String::new() } else { format!(": {}", listener.kernel) };
        fact("Listener", format!("{} ({}){kernel}", listener.vip, listener.protocol));
    }
    if let Some(tls) = &explanation.tls {
        let sni = tls.sni.as_deref().unwrap_or("no server name");
        let fit = if tls.covers_host { "" } else { ", which does not cover the host" };
        let names = if tls.names.is_empty() { String::new() } else { format!(" [{}]", tls.names.join(", ")) };
        fact(
            "Certificate",
            format!("{sni} → {}{names}, chosen for {}{fit}", tls.certificate, tls.chosen_for),
        );
    }
    match &explanation.route {
        Some(found) => fact("Rule", rule(found)),
        None => fact("Rule", "none".to_owned()),
    }
    if let Some(found) = &explanation.route {
        fact("Cluster", found.route.backend.clone());
    }
    if let Some(target) = &explanation.upstream_target {
        let rewritten = if *target == explanation.target { "" } else { " (rewritten)" };
        fact("Upstream path", format!("{target}{rewritten}"));
    }
    for endpoint in &explanation.endpoints {
        let state = match endpoint_state(endpoint) {
            state if state == "ready" => String::new(),
            state => format!(" ({state})"),
        };
        fact("Endpoint", format!("{}{state}", endpoint.address));
    }
    let status = match explanation.answer.status {
        None => String::new(),
        Some(status) => format!("{status}: "),
    };
    fact("Answer", format!("{status}{}", explanation.answer.text));
    let mut text = lines(&facts);
    if !explanation.others.is_empty() {
        let mut rows = table(&["OTHER RULES", "PATH", "INGRESS", "BACKEND", "WHY NOT"]);
        for other in &explanation.others {
            let RouteView { path, path_type, ingress, backend, .. } = &other.route;
            rows.add_row([&other.host, &format!("{path} {path_type}"), ingress, backend, &other.why]);
        }
        let _ = write!(text, "\n{}", lines(&rows));
    }
    if explanation.others_elsewhere > 0 {
        let _ = writeln!(
            text,
            "\n{} of other hosts not shown (--all shows them)",
            plural(explanation.others_elsewhere, "rule")
        );
    }
    text
}

fn rule(found: &Match) -> String {
    let RouteView { path, path_type, ingress, rule, policy, .. } = &found.route;
    let policy = if policy.is_empty() { String::new() } else { format!(" [{}]", policy.join(", ")) };
    format!("{} {path} ({path_type}) of Ingress {ingress}, {rule}{policy}", found.host)
}

/// `sluice maps dump`.
pub fn maps(maps: &Maps) -> String {
    let mut vips = table(&["VIP", "CLIENTHELLOS"]);
    for (vip, entry) in &maps.vips {
        vips.add_row([
            vip.as_str(),
            match (entry.observe_sni, entry.filter_sni, entry.steer_sni) {
                (true, true, false) => "counted by server name, refused without one of these",
                (true, false, false) => "counted by server name",
                (true, true, true) => "steered by server name, refused without one of these",
                (true, false, true) => "steered by server name",
                (false, ..) => "not looked at",
            },
        ]);
    }
    let mut text = match maps.vips.is_empty() {
        true => "no VIPs: every packet goes to the node as if Sluice were not there\n".to_owned(),
        false => lines(&vips),
    };
    let wildcards = maps.wildcards.iter().map(|(suffix, class)| (format!("*.{suffix}"), *class));
    let names = maps.names.iter().map(|(name, class)| (name.clone(), *class));
    let mut names: Vec<_> = names.chain(wildcards).collect();
    names.sort();
    if !names.is_empty() {
        let mut rows = table(&["SERVER NAME", "CLASS"]);
        for (name, class) in names {
            let class = match u32::from(class) {
                CLASS_TERMINATE => "terminate".to_owned(),
                CLASS_PASSTHROUGH => "passthrough".to_owned(),
                pool => format!("pool {}", pool - CLASS_POOLS + 1),
            };
            rows.add_row([name, class]);
        }
        let _ = write!(text, "\n{}", lines(&rows));
    }
    text
}

/// `sluice maps verify`.
pub fn verification(verification: &Verification) -> String {
    match verification.differences.as_slice() {
        [] => format!("the kernel's maps are those of generation {}\n", verification.generation),
        differences => {
            let list: String = differences.iter().map(|one| format!("  {one}\n")).collect();
            let n = plural(differences.len(), "difference");
            format!("{n} to generation {}:\n{list}", verification.generation)
        }
    }
}

/// `sluice doctor`.
pub fn findings(findings: &[Finding]) -> String {
    let mut rows = table(&["", "AREA", "WHAT", "FOUND", "WHAT TO DO"]);
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        rows.add_row([level, &finding.area, &finding.what, &finding.found, &finding.remedy]);
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let end = match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("fit, with {}", plural(warnings, "warning")),
        (failures, _) => format!("not fit for XDP: {}", plural(failures, "failure")),
    };
    format!("{}\n{end}\n", lines(&rows))
}

/// `sluice check`.
pub fn report(report: &CheckReport) -> String {
    let mut text = String::new();
    if !report.issues.is_empty() {
        let _ = writeln!(text, "{}", issues(&report.issues));
    }
    let serving = &report.serving;
    if report.objects == 0 && report.issues.is_empty() {
        let _ = writeln!(
            text,
            "{}: no Kubernetes objects in it; Sluice would serve nothing yet",
            report.directory
        );
        return text;
    }
    let _ = writeln!(
        text,
        "{}: {} → {}, {}, {}, {}",
        report.directory,
        plural(report.objects, "object"),
        plural(serving.hosts, "host"),
        plural(serving.routes, "route"),
        plural(serving.endpoints, "endpoint"),
        plural(serving.certificates, "certificate")
    );
    let _ = writeln!(
        text,
        "{}, {}, {}",
        plural(report.errors, "error"),
        plural(report.warnings, "warning"),
        plural(report.notes, "note")
    );
    text
}

/// Issues under the object that they are about, by which they come sorted. What is wrong in the
/// same way in many places of an object (a Service of many paths that isn't there) is said once.
fn issues(issues: &[Issue]) -> String {
    let mut text = String::new();
    for object in issues.chunk_by(|a, b| a.object == b.object) {
        let _ = writeln!(text, "{}", object[0].object);
        let same = |a: &Issue, b: &Issue| (&a.reason, &a.message) == (&b.reason, &b.message);
        for (at, issue) in object.iter().enumerate() {
            if object[..at].iter().any(|earlier| same(earlier, issue)) {
                continue;
            }
            let more = object[at + 1..].iter().filter(|later| same(later, issue)).count();
            let more =
                if more == 0 { String::new() } else { format!(" and {}", plural(more, "other place")) };
            let field =
                if issue.field.is_empty() { String::new() } else { format!("{}{more}: ", issue.field) };
            let _ = writeln!(text, "  {:<7} {:<22} {field}{}", issue.severity, issue.reason, issue.message);
        }
    }
    text
}

/// `1 route`, `2 routes`, `2 Ingresses`.
pub(in crate::app) fn plural(n: usize, word: &str) -> String {
    let end = match word {
        _ if n == 1 => "",
        word if word.ends_with('s') => "es",
        _ => "s",
    };
    format!("{n} {word}{end}")
}

/// The table's text, without the blanks around it: who pipes it on wants none.
fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(object: &str, field: &str, message: &str) -> Issue {
        Issue {
            severity: "error".to_owned(),
            object: object.to_owned(),
            reason: "missing-service".to_owned(),
            field: field.to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_same_issue_in_many_places_is_said_once() {
        let text = issues(&[
            issue("Ingress d/a", "p[0]", "x is not there"),
            issue("Ingress d/a", "p[1]", "y is not there"),
            issue("Ingress d/a", "p[2]", "x is not there"),
            issue("Ingress d/a", "p[3]", "x is not there"),
            issue("Ingress d/b", "p[0]", "x is not there"),
        ]);
        let expect = [
            "Ingress d/a",
            "  error   missing-service        p[0] and 2 other places: x is not there",
            "  error   missing-service        p[1]: y is not there",
            "Ingress d/b",
            "  error   missing-service        p[0]: x is not there",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expect);
    }

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
            Written: 3 Ingress statuses (2 waiting), 0 taken back; 1 Events, 0 refused\n";
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

    #[test]
    fn maps_are_tables_without_blanks_at_the_end() {
        let vips = [("192.0.2.1:80/tcp".to_owned(), false), ("[2001:db8::1]:443/tcp".to_owned(), true)];
        let text = maps(&Maps {
            vips: vips
                .map(|(vip, observe_sni)| {
                    (
                        vip,
                        crate::app::admin::views::VipEntry {
                            observe_sni,
                            filter_sni: false,
                            steer_sni: false,
                        },
                    )
                })
                .into(),
            names: [("a.test".to_owned(), 0)].into(),
            wildcards: [("wild.test".to_owned(), 2)].into(),
        });
        for word in
            ["192.0.2.1:80/tcp", "not looked at", "counted by server name", "*.wild.test", "a.test", "pool 1"]
        {
            assert!(text.contains(word), "{word:?} in\n{text}");
        }
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
    }
}
