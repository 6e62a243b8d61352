//! `sluice tune`.

use std::collections::BTreeSet;

use comfy_table::Table;
use ipnet::IpNet;

use super::{lines, table};
use crate::app::admin::views::Tuned;
use crate::model::Tuning;

/// So many networks are shown of a list.
const LISTED: usize = 20;

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
