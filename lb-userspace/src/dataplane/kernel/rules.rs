//! The rules for sources in the kernel. They are kept there alone: the pinned maps outlive the daemon.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData};
use ipnet::IpNet;
use lb_common::maps::{
    self, SOURCE_ALLOW, SOURCE_BANNED, SOURCE_DENY, TUNE_ALL_COOKIES, TUNE_BUDGET, TUNE_COOKIES, TUNE_SOURCES,
};
use lb_common::verdict::words;

use super::{KernelError, take};
use crate::model::{SynCookies, Tuning};

const SECOND: u64 = 1_000_000_000;

/// IPv4 prefixes are those of mapped addresses.
const MAPPED_BITS: u8 = 96;

pub(super) struct Rules {
    sources: LpmTrie<MapData, [u32; 4], u32>,
    limits: Array<MapData, maps::Tuning>,
    /// What the kernel has.
    known: Tuning,
    /// Who is kept out for a time. Nobody who is in `known`.
    banned: BTreeSet<IpNet>,
}

impl Rules {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, KernelError> {
        let mut rules = Self {
            sources: take(programs, "SOURCES")?,
            limits: take(programs, "TUNING")?,
            known: Tuning::default(),
            banned: BTreeSet::new(),
        };
        (rules.known, rules.banned) = rules.read()?;
        // The daemon that wrote them would have known when they end.
        rules.ban(&BTreeSet::new())?;
        Ok(rules)
    }

    pub(super) fn known(&self) -> &Tuning {
        &self.known
    }

    /// Brings the kernel to these rules, from those that were written last. Where a write fails, what is
    /// there is read anew.
    pub(super) fn write(&mut self, want: &Tuning) -> Result<(), KernelError> {
        let written = self.try_write(want);
        match written {
            Ok(()) => {
                self.known = want.clone();
                self.banned.retain(|network| !want.deny.contains(network) && !want.allow.contains(network));
            }
            Err(_) => (self.known, self.banned) = self.read()?,
        }
        written
    }

    /// Keeps out whom these networks cover, and nobody else for a time. What is on a list stays as it is.
    pub(super) fn ban(&mut self, want: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        let listed =
            |network: &IpNet| self.known.deny.contains(network) || self.known.allow.contains(network);
        let want: BTreeSet<_> = want.iter().filter(|network| !listed(network)).copied().collect();
        let written = self.try_ban(&want);
        match written {
            Ok(()) => self.banned = want,
            Err(_) => (self.known, self.banned) = self.read()?,
        }
        written
    }

    fn try_ban(&mut self, want: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        let error = KernelError::map("SOURCES");
        for network in want.difference(&self.banned) {
            self.sources.insert(&key(network), SOURCE_BANNED, 0).map_err(&error)?;
        }
        self.limits.set(0, limits(&self.known, !want.is_empty()), 0).map_err(KernelError::map("TUNING"))?;
        for network in self.banned.difference(want) {
            KernelError::removal("SOURCES", self.sources.remove(&key(network)))?;
        }
        Ok(())
    }

    fn try_write(&mut self, want: &Tuning) -> Result<(), KernelError> {
        let error = KernelError::map("SOURCES");
        let have = &self.known;
        // What comes goes in before the switch, what goes leaves after it.
        for (list, before, says) in
            [(&want.allow, &have.allow, SOURCE_ALLOW), (&want.deny, &have.deny, SOURCE_DENY)]
        {
            for network in list.difference(before) {
                self.sources.insert(&key(network), says, 0).map_err(&error)?;
            }
        }
        let bans = !self.banned.is_empty();
        self.limits.set(0, limits(want, bans), 0).map_err(KernelError::map("TUNING"))?;
        let left = |network: &&IpNet| !want.deny.contains(network) && !want.allow.contains(network);
        for network in have.deny.union(&have.allow).filter(left) {
            KernelError::removal("SOURCES", self.sources.remove(&key(network)))?;
        }
        Ok(())
    }

    /// The rules, and who is kept out for a time.
    fn read(&self) -> Result<(Tuning, BTreeSet<IpNet>), KernelError> {
        let limits = self.limits.get(&0, 0).map_err(KernelError::map("TUNING"))?;
        let (mut deny, mut allow, mut banned) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for entry in self.sources.iter() {
            let (key, says) = entry.map_err(KernelError::map("SOURCES"))?;
            if let Some(network) = network(&key) {
                match says {
                    SOURCE_ALLOW => allow.insert(network),
                    SOURCE_BANNED => banned.insert(network),
                    _ => deny.insert(network),
                };
            }
        }
        let budget = limits.flags & TUNE_BUDGET != 0 && limits.interval > 0;
        let default = Tuning::default().connection_burst;
        let tuning = Tuning {
            deny,
            allow,
            connection_rate: if budget { (SECOND / limits.interval) as u32 } else { 0 },
            connection_burst: if limits.burst > 0 { limits.burst } else { default },
            syn_cookies: match limits.flags & (TUNE_COOKIES | TUNE_ALL_COOKIES) {
                0 => SynCookies::Off,
                TUNE_COOKIES => SynCookies::Auto,
                _ => SynCookies::Always,
            },
            syn_rate: if limits.syn_rate > 0 { limits.syn_rate } else { Tuning::default().syn_rate },
        };
        Ok((tuning, banned))
    }
}

fn limits(tuning: &Tuning, bans: bool) -> maps::Tuning {
    let listed = bans || !tuning.deny.is_empty() || !tuning.allow.is_empty();
    let flag = |on, flag| if on { flag } else { 0 };
    let rate = tuning.connection_rate;
    let cookies = match tuning.syn_cookies {
        SynCookies::Off => 0,
        SynCookies::Auto => TUNE_COOKIES,
        SynCookies::Always => TUNE_COOKIES | TUNE_ALL_COOKIES,
    };
    maps::Tuning {
        flags: flag(listed, TUNE_SOURCES) | flag(rate > 0, TUNE_BUDGET) | cookies,
        burst: tuning.connection_burst,
        interval: SECOND.checked_div(u64::from(rate)).unwrap_or_default(),
        syn_rate: tuning.syn_rate,
        zero: 0,
    }
}

/// A network as the programs' tables have it.
pub(super) fn key(network: &IpNet) -> Key<[u32; 4]> {
    let (address, length) = match network {
        IpNet::V4(v4) => (v4.addr().to_ipv6_mapped(), MAPPED_BITS + v4.prefix_len()),
        IpNet::V6(v6) => (v6.addr(), v6.prefix_len()),
    };
    Key::new(length.into(), words(address.octets()))
}

/// `None`: nothing that [`key`] makes.
pub(super) fn network(key: &Key<[u32; 4]>) -> Option<IpNet> {
    let mut octets = [0; 16];
    for (part, word) in octets.chunks_mut(4).zip(key.data()) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    let length = u8::try_from(key.prefix_len()).ok()?;
    match Ipv6Addr::from(octets).to_canonical() {
        IpAddr::V4(v4) => IpNet::new(v4.into(), length.checked_sub(MAPPED_BITS)?).ok(),
        v6 => IpNet::new(v6, length).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MAX_RATE;

    #[test]
    fn networks_and_rates_come_back() {
        for text in ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.1/32", "::/0", "2001:db8::/33", "2001:db8::1/128"]
        {
            let asked: IpNet = text.parse().expect("a network");
            assert_eq!(network(&key(&asked)), Some(asked), "{text}");
        }
        for rate in 1..=MAX_RATE {
            let tuning = Tuning { connection_rate: rate, ..Tuning::default() };
            let interval = limits(&tuning, false).interval;
            assert_eq!(SECOND / interval, u64::from(rate));
        }
        assert_eq!(limits(&Tuning::default(), false).flags, 0);
        assert_eq!(limits(&Tuning::default(), true).flags, TUNE_SOURCES);
    }
}
