//! nginx's lists of `allow` and `deny`, of which the first that fits counts.

use ipnet::IpNet;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Allow(IpNet),
    Deny(IpNet),
    AllowAll,
    DenyAll,
}

/// The same as networks that may come (all, if `None`) and that may not, of which the latter count
/// more. Sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Networks {
    pub(super) allow: Option<Vec<IpNet>>,
    pub(super) deny: Vec<IpNet>,
}

/// `None` where an order matters that [`Networks`] can't tell: a network that is allowed within one
/// that is not, before it.
pub(super) fn networks(rules: &[Rule]) -> Option<Networks> {
    let (mut allowed, mut denied) = (Vec::new(), Vec::new());
    let mut closed = false;
    for rule in rules {
        match *rule {
            Rule::AllowAll => break,
            Rule::DenyAll => {
                closed = true;
                break;
            }
            Rule::Allow(network) => allowed.push(network),
            Rule::Deny(network) => {
                if allowed.iter().any(|allowed| overlap(allowed, &network)) {
                    return None;
                }
                denied.push(network);
            }
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    denied.sort_unstable();
    denied.dedup();
    Some(Networks { allow: closed.then_some(allowed), deny: denied })
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        let rule = |text: &str| {
            let network = || text[1..].parse().expect("a network");
            match text {
                "+" => Rule::AllowAll,
                "-" => Rule::DenyAll,
                _ if text.starts_with('+') => Rule::Allow(network()),
                _ => Rule::Deny(network()),
            }
        };
        for (rules, expect) in [
            ("+10.0.0.0/8 -", Some("only 10.0.0.0/8 without ")),
            ("-10.0.0.0/8", Some("all without 10.0.0.0/8")),
            ("-10.0.0.0/8 +", Some("all without 10.0.0.0/8")),
            ("-10.1.0.0/16 +10.0.0.0/8 -", Some("only 10.0.0.0/8 without 10.1.0.0/16")),
            ("+192.0.2.0/24 -10.0.0.0/8", Some("all without 10.0.0.0/8")),
            ("-", Some("only  without ")),
            ("+", Some("all without ")),
            ("+ -", Some("all without ")),
            ("- +10.0.0.0/8", Some("only  without ")),
            ("+10.1.0.0/16 -10.0.0.0/8", None),
            ("+10.0.0.0/8 -10.1.0.0/16 -", None),
        ] {
            let rules: Vec<_> = rules.split(' ').map(rule).collect();
            let text = |list: Vec<IpNet>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let shown = networks(&rules).map(|found| match found.allow {
                Some(allow) => format!("only {} without {}", text(allow), text(found.deny)),
                None => format!("all without {}", text(found.deny)),
            });
            assert_eq!(shown.as_deref(), expect, "{rules:?}");
        }
    }
}
