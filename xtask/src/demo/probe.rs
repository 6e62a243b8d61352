//! What the daemon's counters say before and after something.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use xtask::lab::daemon::counter;

/// Two statuses and what lies between.
pub struct Probe<'a> {
    /// Before.
    pub before: &'a Value,
    /// After.
    pub after: &'a Value,
}

impl Probe<'_> {
    /// How much the counters of a VIP grew: packets and new connections.
    pub fn vip(&self, vip: SocketAddr) -> (u64, u64) {
        let name = format!("{vip}/tcp");
        let grown = |field| {
            let of = |status| counter(status, "vips", "vip", &name, field);
            of(self.after).saturating_sub(of(self.before))
        };
        (grown("packets"), grown("connections"))
    }

    /// How often the server name was seen in a ClientHello.
    pub fn sni(&self, name: &str) -> u64 {
        let of = |status| counter(status, "sni", "name", name, "connections");
        of(self.after).saturating_sub(of(self.before))
    }

    /// The verdicts that were given in between, with how often.
    pub fn verdicts(&self) -> BTreeMap<String, u64> {
        let of = |status: &Value, reason: &str| status["verdicts"][reason].as_u64().unwrap_or(0);
        let reasons = self.after["verdicts"].as_object().into_iter().flatten().map(|(reason, _)| reason);
        let grown = reasons.map(|r| (r.clone(), of(self.after, r).saturating_sub(of(self.before, r))));
        grown.filter(|(_, count)| *count > 0).collect()
    }

    /// The road in words, and whether XDP and sk_lookup saw what they must: packets of the VIP, a new
    /// connection given to a worker, and the server name if there is one.
    pub fn path(&self, vip: SocketAddr, sni: Option<&str>) -> (String, bool) {
        let (packets, connections) = self.vip(vip);
        let verdicts = self.verdicts();
        let steered = verdicts.get("steered").copied().unwrap_or(0);
        let mut good = packets > 0 && connections > 0 && steered > 0;
        let mut text = format!("VIP +{packets} packets, +{connections} connections");
        if let Some(name) = sni {
            let seen = self.sni(name);
            good &= seen > 0;
            text.push_str(&format!("; SNI {name} +{seen}"));
        }
        let verdicts: Vec<_> = verdicts.iter().map(|(r, count)| format!("{r} +{count}")).collect();
        text.push_str(&format!("; {}", verdicts.join(", ")));
        (text, good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_needs_every_counter() {
        let status = |packets, connections, sni, steered| {
            json!({
                "verdicts": {"vip": packets, "not_vip": 7, "steered": steered},
                "vips": [{"vip": "[2001:db8::1]:443/tcp", "packets": packets, "connections": connections}],
                "sni": [{"name": "a.b", "connections": sni}],
            })
        };
        let vip = "[2001:db8::1]:443".parse().expect("an address");
        let before = status(1, 1, 1, 1);
        for (after, good) in [
            (status(5, 2, 2, 2), true),
            (status(5, 2, 2, 1), false),
            (status(5, 2, 1, 2), false),
            (status(5, 1, 2, 2), false),
            (status(1, 1, 1, 1), false),
        ] {
            let probe = Probe { before: &before, after: &after };
            let (text, found) = probe.path(vip, Some("a.b"));
            assert_eq!(found, good, "{text}");
            assert!(!text.contains("not_vip"), "only what grew: {text}");
        }
    }
}
