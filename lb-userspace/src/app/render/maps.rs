//! `sluice maps`.

use std::fmt::Write as _;

use lb_common::maps::{CLASS_PASSTHROUGH, CLASS_POOLS, CLASS_TERMINATE};

use super::{lines, plural, table};
use crate::app::admin::views::{Maps, Verification};

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

#[cfg(test)]
mod tests {
    use super::*;

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
