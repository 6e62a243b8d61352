//! `sluice explain`.

use std::fmt::Write as _;

use super::{lines, plural, table};
use crate::app::admin::health_words::endpoint_state;
use crate::app::admin::views::{RouteView, word};
use crate::app::explain::{Explanation, Match};
use crate::app::flow;

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
