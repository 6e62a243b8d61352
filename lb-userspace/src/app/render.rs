//! Text for people. Pure: everything here is made of what `-o json` prints.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::admin::views::{Backend, Host, Issue, RouteView, Status, Verification};
use super::check::Report;
use super::doctor::{Finding, Level};
use super::explain::{Explanation, Match};

/// `sluice status`.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let serving = &status.serving;
    let mut facts = table(&[]);
    let ready = if status.ready { "ready" } else { "not ready" };
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
        }
        None => fact("XDP", "off".to_owned()),
    }
    if let Some(error) = &status.trouble {
        fact("Trouble", error.clone());
    }
    let total = |name: &str| status.proxy.get("total").and_then(|t| t.get(name)).and_then(|n| n.as_u64());
    if let (Some(requests), Some(active)) = (total("requests"), total("active")) {
        let errors = total("responses_5xx").unwrap_or_default();
        fact("Proxy", format!("{requests} requests, {errors} answered 5xx, {active} connections open"));
    }
    let _ = writeln!(text, "{facts}");
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
        let _ = writeln!(text, "\n{vips}");
    }
    if status.sni.iter().any(|sni| sni.connections > 0) {
        let mut names = table(&["SERVER NAME", "CLIENTHELLOS"]);
        for sni in status.sni.iter().filter(|sni| sni.connections > 0) {
            names.add_row([sni.name.clone(), sni.connections.to_string()]);
        }
        let _ = writeln!(text, "\n{names}");
    }
    if status.verdicts.values().any(|n| *n > 0) {
        let mut verdicts = table(&["XDP VERDICT", "PACKETS"]);
        for (reason, n) in status.verdicts.iter().filter(|(_, n)| **n > 0) {
            verdicts.add_row([reason.clone(), n.to_string()]);
        }
        let _ = writeln!(text, "\n{verdicts}");
    }
    if !status.issues.is_empty() {
        let _ = write!(text, "\n{}", issues(&status.issues));
    }
    text
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
    format!("{rows}\n")
}

/// `sluice backends`.
pub fn backends(backends: &[Backend]) -> String {
    if backends.is_empty() {
        return "no clusters: no served Ingress names a Service\n".to_owned();
    }
    let mut rows = table(&["CLUSTER", "PROTOCOL", "ENDPOINT", "ZONE", "STATE", "REQUESTS"]);
    for cluster in backends {
        if cluster.endpoints.is_empty() {
            let requests = cluster.requests.to_string();
            rows.add_row([&*cluster.cluster, &*cluster.protocol, "none ready", "", "503", &*requests]);
        }
        for (at, endpoint) in cluster.endpoints.iter().enumerate() {
            let first = |text: &str| if at == 0 { text.to_owned() } else { String::new() };
            rows.add_row([
                first(&cluster.cluster),
                first(&cluster.protocol),
                endpoint.address.clone(),
                endpoint.zone.clone().unwrap_or_default(),
                if endpoint.terminating { "terminating" } else { "ready" }.to_owned(),
                first(&cluster.requests.to_string()),
            ]);
        }
    }
    format!("{rows}\n")
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
        let state = if endpoint.terminating { " (terminating)" } else { "" };
        fact("Endpoint", format!("{}{state}", endpoint.address));
    }
    let status = match explanation.answer.status {
        Some(0) | None => String::new(),
        Some(status) => format!("{status}: "),
    };
    fact("Answer", format!("{status}{}", explanation.answer.text));
    let mut text = format!("{facts}\n");
    if !explanation.others.is_empty() {
        let mut rows = table(&["OTHER RULES", "PATH", "INGRESS", "BACKEND", "WHY NOT"]);
        for other in &explanation.others {
            let RouteView { path, path_type, ingress, backend, .. } = &other.route;
            rows.add_row([&other.host, &format!("{path} {path_type}"), ingress, backend, &other.why]);
        }
        let _ = write!(text, "\n{rows}\n");
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
    format!("{rows}\n\n{end}\n")
}

/// `sluice check`.
pub fn report(report: &Report) -> String {
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

/// Issues under the object that they are about. They come sorted by object.
fn issues(issues: &[Issue]) -> String {
    let mut text = String::new();
    let mut last = None;
    for issue in issues {
        if last != Some(&issue.object) {
            let _ = writeln!(text, "{}", issue.object);
            last = Some(&issue.object);
        }
        let field = if issue.field.is_empty() { String::new() } else { format!("{}: ", issue.field) };
        let _ = writeln!(text, "  {:<7} {:<22} {field}{}", issue.severity, issue.reason, issue.message);
    }
    text
}

fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}
