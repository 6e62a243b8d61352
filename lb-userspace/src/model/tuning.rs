//! Rules of a node for clients by their address and for floods, set while it runs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::cookie::SYN_RATE;
use lb_common::maps::MAX_SOURCES;
use serde::{Deserialize, Serialize};

/// Most connections a second that a source's budget can be set to.
pub const MAX_RATE: u32 = 10_000;
/// Most connections at once.
pub const MAX_BURST: u32 = 1_000_000;
/// What a source may open at once where only a rate is set.
pub const DEFAULT_BURST: u32 = 100;
/// Most SYNs a second on one CPU that can be called no flood.
pub const MAX_SYN_RATE: u32 = 10_000_000;

/// The rules. They hold for VIPs alone, and the longest prefix that covers a client counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Clients whose packets are dropped. No prefix is also in `allow`.
    pub deny: BTreeSet<IpNet>,
    /// Clients that are let in where a shorter prefix denies them, and have no budget.
    pub allow: BTreeSet<IpNet>,
    /// New connections a second for each IPv4 address and each IPv6 /64, at most [`MAX_RATE`]; 0: any
    /// number.
    pub connection_rate: u32,
    /// How many of them at once, 1 to [`MAX_BURST`].
    pub connection_burst: u32,
    /// When XDP answers SYNs to VIPs in proxy mode with cookies.
    #[serde(default)]
    pub syn_cookies: SynCookies,
    /// How many SYNs a second on one CPU are a flood, 1 to [`MAX_SYN_RATE`].
    #[serde(default = "syn_rate")]
    pub syn_rate: u32,
}

/// When SYNs are answered with cookies. VIPs that steer by name always do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SynCookies {
    /// Never.
    #[default]
    Off,
    /// While SYNs come faster than `syn_rate`.
    Auto,
    /// Always.
    Always,
}

impl SynCookies {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

const fn syn_rate() -> u32 {
    SYN_RATE
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            deny: BTreeSet::new(),
            allow: BTreeSet::new(),
            connection_rate: 0,
            connection_burst: DEFAULT_BURST,
            syn_cookies: SynCookies::Off,
            syn_rate: SYN_RATE,
        }
    }
}

/// Why a setting can't be changed so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTuning {
    /// Not of the form `KEY=VALUE`.
    #[error("{0:?} is no setting: say KEY=VALUE, or KEY+=VALUE and KEY-=VALUE for lists")]
    Form(String),
    /// No such setting.
    #[error(
        "there is no setting {0:?}: there are deny, allow, connection-rate, connection-burst, syn-cookies, \
             syn-rate, banned, ban-after, ban-within, ban-for and ban-max"
    )]
    Unknown(String),
    /// No such word.
    #[error("syn-cookies={0} is none of off, auto and always")]
    Word(String),
    /// Nobody is banned by hand.
    #[error(
        "who is banned is not set: let somebody in with banned-=ADDRESS, all with banned=, and keep out with deny"
    )]
    Banned,
    /// A number has no parts to add or take away.
    #[error("{0} is no list: set it with =")]
    NoList(String),
    /// Not a number in the range.
    #[error("{key}={value} is no number from {least} to {most}")]
    Number {
        /// The setting.
        key: String,
        /// As given.
        value: String,
        /// Smallest.
        least: u32,
        /// Largest.
        most: u32,
    },
    /// Not a prefix.
    #[error("{0:?} is no network: say 192.0.2.0/24, 2001:db8::/32, or an address")]
    Network(String),
    /// Which network is meant is not clear.
    #[error("{0} has bits beyond its prefix: say {1}, or {2}")]
    HostBits(IpNet, IpNet, IpAddr),
    /// More than the kernel's list holds.
    #[error("{0} networks are more than the list holds, {MAX_SOURCES}: leave some out, or join them")]
    TooMany(usize),
}

impl Tuning {
    /// Makes one change: `deny=192.0.2.0/24,198.51.100.7` replaces a list, `+=` adds to it, `-=` takes
    /// from it; `connection-rate=50` sets a number. A network that comes on one list leaves the other.
    ///
    /// # Errors
    /// What is wrong with it; then nothing is changed.
    pub fn change(&mut self, text: &str) -> Result<(), BadTuning> {
        let form = || BadTuning::Form(text.to_owned());
        let (key, value) = text.split_once('=').ok_or_else(form)?;
        let (key, how) = match key.strip_suffix(['+', '-']) {
            Some(short) => (short, key.chars().next_back()),
            None => (key, None),
        };
        match (key.trim(), how) {
            (key @ ("deny" | "allow"), how) => {
                let networks = networks(value)?;
                let (list, other) = match key {
                    "deny" => (&mut self.deny, &mut self.allow),
                    _ => (&mut self.allow, &mut self.deny),
                };
                match how {
                    Some('-') => list.retain(|network| !networks.contains(network)),
                    _ => {
                        let kept = if how.is_none() { BTreeSet::new() } else { list.clone() };
                        let wanted: BTreeSet<_> = kept.union(&networks).copied().collect();
                        let all = wanted.len() + other.difference(&wanted).count();
                        if all > MAX_SOURCES as usize {
                            return Err(BadTuning::TooMany(all));
                        }
                        other.retain(|network| !wanted.contains(network));
                        *list = wanted;
                    }
                }
                Ok(())
            }
            (key @ ("connection-rate" | "connection-burst" | "syn-cookies" | "syn-rate"), Some(_)) => {
                Err(BadTuning::NoList(key.to_owned()))
            }
            ("connection-rate", None) => {
                number("connection-rate", value, 0, MAX_RATE, &mut self.connection_rate)
            }
            ("connection-burst", None) => {
                number("connection-burst", value, 1, MAX_BURST, &mut self.connection_burst)
            }
            ("syn-rate", None) => number("syn-rate", value, 1, MAX_SYN_RATE, &mut self.syn_rate),
            ("syn-cookies", None) => {
                let all = [SynCookies::Off, SynCookies::Auto, SynCookies::Always];
                let word = value.trim();
                let known = all.into_iter().find(|one| one.name() == word);
                self.syn_cookies = known.ok_or_else(|| BadTuning::Word(word.to_owned()))?;
                Ok(())
            }
            (other, _) => Err(BadTuning::Unknown(other.to_owned())),
        }
    }
}

pub(super) fn number(
    key: &str,
    value: &str,
    least: u32,
    most: u32,
    place: &mut u32,
) -> Result<(), BadTuning> {
    match value.trim().parse() {
        Ok(number) if (least..=most).contains(&number) => {
            *place = number;
            Ok(())
        }
        _ => Err(BadTuning::Number { key: key.to_owned(), value: value.to_owned(), least, most }),
    }
}

/// Networks between commas and white space.
pub(crate) fn networks(text: &str) -> Result<BTreeSet<IpNet>, BadTuning> {
    let words = text.split([',', ' ', '\t', '\n', '\r']).filter(|word| !word.is_empty());
    words.map(network).collect()
}

fn network(word: &str) -> Result<IpNet, BadTuning> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network: IpNet = word.parse().map_err(|_| BadTuning::Network(word.to_owned()))?;
    if network.trunc() != network {
        return Err(BadTuning::HostBits(network, network.trunc(), network.addr()));
    }
    match network {
        // The kernel's list has IPv4 among these.
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(BadTuning::Network(word.to_owned())),
        network => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes() {
        let mut tuning = Tuning::default();
        for (text, deny, allow, rate, burst) in [
            ("deny=192.0.2.0/24, 2001:db8::/32", "192.0.2.0/24 2001:db8::/32", "", 0, 100),
            ("deny+=198.51.100.7", "192.0.2.0/24 198.51.100.7/32 2001:db8::/32", "", 0, 100),
            ("allow=198.51.100.7", "192.0.2.0/24 2001:db8::/32", "198.51.100.7/32", 0, 100),
            ("deny-=2001:db8::/32,203.0.113.0/24", "192.0.2.0/24", "198.51.100.7/32", 0, 100),
            ("deny=10.0.0.0/8\n11.0.0.0/8\n", "10.0.0.0/8 11.0.0.0/8", "198.51.100.7/32", 0, 100),
            ("deny=", "", "198.51.100.7/32", 0, 100),
            ("connection-rate=50", "", "198.51.100.7/32", 50, 100),
            ("connection-burst=7", "", "198.51.100.7/32", 50, 7),
            ("allow=0.0.0.0/0,::/0", "", "0.0.0.0/0 ::/0", 50, 7),
            ("allow=::ffff:192.0.2.1", "", "192.0.2.1/32", 50, 7),
        ] {
            tuning.change(text).expect(text);
            let list =
                |list: &BTreeSet<IpNet>| list.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
            let got =
                (list(&tuning.deny), list(&tuning.allow), tuning.connection_rate, tuning.connection_burst);
            assert_eq!(got, (deny.to_owned(), allow.to_owned(), rate, burst), "{text}");
        }
        for (text, cookies, rate) in [
            ("syn-cookies=auto", SynCookies::Auto, SYN_RATE),
            ("syn-rate=70", SynCookies::Auto, 70),
            ("syn-cookies=always", SynCookies::Always, 70),
            ("syn-cookies=off", SynCookies::Off, 70),
        ] {
            tuning.change(text).expect(text);
            assert_eq!((tuning.syn_cookies, tuning.syn_rate), (cookies, rate), "{text}");
        }
        let before = tuning.clone();
        for (text, names) in [
            ("deny", "KEY=VALUE"),
            ("denied=1.2.3.4", "there are deny"),
            ("deny=1.2.3.4/33", "no network"),
            ("deny=10.0.0.1/8", "say 10.0.0.0/8, or 10.0.0.1"),
            ("deny=::ffff:0:0/96", "no network"),
            ("deny=1.2.3.4,x", "no network"),
            ("connection-rate=x", "from 0 to 10000"),
            ("connection-rate=10001", "from 0 to 10000"),
            ("connection-rate+=1", "set it with ="),
            ("connection-burst=0", "from 1 to"),
            ("syn-cookies=yes", "off, auto and always"),
            ("syn-cookies+=auto", "set it with ="),
            ("syn-rate=0", "from 1 to 10000000"),
        ] {
            let error = tuning.change(text).expect_err(text).to_string();
            assert!(error.contains(names), "{text}: {error}");
            assert_eq!(tuning, before, "{text}");
        }
    }
}
