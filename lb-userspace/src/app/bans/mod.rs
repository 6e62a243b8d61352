//! Clients that the proxy catches at abuse are kept out for a time, if somebody asked for that: at XDP,
//! and at the workers where there is none.
//!
//! Workers tell what they see; the daemon decides, and keeps the list. Nobody is banned who stands for
//! others or for us: trusted proxies are never told on, and whoever is on the list of allowed sources, or is
//! a node as far as nodes are known, this one in any case, is spared here.

mod book;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{BadTuning, BanRules};
use crate::proxy::{Caught, Offence};

pub use self::book::{Ban, Book};
use super::state::State;

/// How exact the end of a ban is.
const TICK: Duration = Duration::from_secs(1);

/// Offences that are judged together.
const MOST_AT_ONCE: usize = 256;

/// Who is kept out, and why.
#[derive(Debug)]
pub struct Bans {
    book: Book,
    /// As the daemon was started, and as the cluster's settings say.
    usual: BanRules,
    asked: Option<BanRules>,
    start: Instant,
    /// This node's own addresses.
    own: Vec<IpAddr>,
    /// Not all of it is in force yet.
    changed: bool,
}

/// A source that is kept out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banned {
    /// An address, or an IPv6 /64.
    pub source: IpNet,
    /// How many seconds are left.
    pub seconds_left: u64,
    /// What it was caught at last.
    pub caught_at: Offence,
}

/// Bans in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// By which rules.
    #[serde(flatten)]
    pub rules: BanRules,
    /// How many sources are kept out.
    pub banned: usize,
    /// How many bans there were since the start.
    pub total: u64,
}

impl Bans {
    /// Nobody is banned yet. `own`: addresses of this node.
    pub fn new(rules: BanRules, own: Vec<IpAddr>) -> Self {
        let mut book = Book::default();
        book.set_rules(rules);
        // What an earlier daemon left in the kernel goes.
        Self { book, usual: rules, asked: None, start: Instant::now(), own, changed: true }
    }

    /// The rules.
    pub fn rules(&self) -> &BanRules {
        self.book.rules()
    }

    /// In short.
    pub fn summary(&self) -> Summary {
        Summary { rules: *self.book.rules(), banned: self.book.bans().len(), total: self.book.total() }
    }

    /// Everybody who is kept out.
    pub fn banned(&self) -> Vec<Banned> {
        let now = self.now();
        let one = |(source, ban): (&IpNet, &Ban)| Banned {
            source: *source,
            seconds_left: ban.until.saturating_sub(now),
            caught_at: ban.why,
        };
        self.book.bans().iter().map(one).collect()
    }

    /// Goes by the cluster's settings, where they have changed; nothing: by those of the start.
    pub fn follow(&mut self, asked: Option<BanRules>) {
        if std::mem::replace(&mut self.asked, asked) != asked {
            self.book.set_rules(asked.unwrap_or(self.usual));
            self.changed = true;
        }
    }

    /// Makes changes that [`Changes::read`] has found good.
    pub fn change(&mut self, changes: Changes) {
        self.book.set_rules(changes.rules);
        let lifted = match &changes.lifted {
            Lifted::None => 0,
            Lifted::All => self.book.lift(|_| true),
            Lifted::Some(networks) => {
                self.book.lift(|source| networks.iter().any(|network| overlap(source, network)))
            }
        };
        if lifted > 0 {
            tracing::info!(lifted, "bans lifted");
        }
        self.changed = true;
    }

    /// Lets in whom the list of allowed sources has now.
    pub fn spare(&mut self, allowed: &BTreeSet<IpNet>) {
        let lifted = self.book.lift(|source| is_allowed(source, allowed));
        if lifted > 0 {
            tracing::info!(lifted, "bans lifted: the sources are allowed now");
        }
        self.changed = true;
    }

    /// `nodes`: further addresses that are spared.
    fn judge(&mut self, caught: impl Iterator<Item = Caught>, allowed: &BTreeSet<IpNet>, nodes: &[IpAddr]) {
        let now = self.now();
        for Caught { source, offence } in caught {
            let own = &self.own;
            let spared = |source: &IpNet| {
                own.iter().chain(nodes).any(|address| source.contains(address)) || is_allowed(source, allowed)
            };
            if !self.book.offend(source, offence, now, spared) {
                continue;
            }
            let seconds = self.book.rules().lasts;
            tracing::warn!(%source, seconds, caught_at = offence.words(), "banned");
            self.changed = true;
        }
        for source in self.book.expire(now) {
            tracing::info!(%source, "let in again: its ban is over");
            self.changed = true;
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_secs()
    }
}

fn is_allowed(source: &IpNet, allowed: &BTreeSet<IpNet>) -> bool {
    allowed.iter().any(|network| overlap(source, network))
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Changes of `sluice tune` that concern bans.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes {
    rules: BanRules,
    lifted: Lifted,
}

#[derive(Debug, PartialEq, Eq)]
enum Lifted {
    None,
    Some(Vec<IpNet>),
    All,
}

impl Changes {
    /// Takes out of these lines those that are about bans: the rest is the kernel's.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn read(rules: &BanRules, lines: &str) -> Result<(Option<Self>, String), BadTuning> {
        let mut changes = Self { rules: *rules, lifted: Lifted::None };
        let (mut any, mut rest) = (false, String::new());
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            if changes.take(line)? {
                any = true;
            } else {
                rest.push_str(line);
                rest.push('\n');
            }
        }
        Ok((any.then_some(changes), rest))
    }

    fn take(&mut self, line: &str) -> Result<bool, BadTuning> {
        match line.split_once('=') {
            Some((key, value)) if key.trim() == "banned" && value.trim().is_empty() => {
                self.lifted = Lifted::All;
                Ok(true)
            }
            Some((key, value)) if key.trim() == "banned-" => {
                let networks = crate::model::networks(value)?;
                match &mut self.lifted {
                    Lifted::Some(known) => known.extend(networks),
                    Lifted::None => self.lifted = Lifted::Some(networks.into_iter().collect()),
                    Lifted::All => {}
                }
                Ok(true)
            }
            Some((key, _)) if key.trim_end_matches('+').trim() == "banned" => Err(BadTuning::Banned),
            _ => self.rules.change(line),
        }
    }
}

/// Judges what is caught, for as long as the daemon runs.
pub async fn watch(state: Arc<State>) {
    let mut ticks = tokio::time::interval(TICK);
    let mut caught = loop {
        ticks.tick().await;
        if let Some(proxy) = state.proxy.get() {
            match proxy.caught() {
                Some(caught) => break caught,
                None => return,
            }
        }
    };
    let mut some = Vec::new();
    loop {
        tokio::select! {
            count = caught.recv_many(&mut some, MOST_AT_ONCE) => if count == 0 { return },
            _ = ticks.tick() => {}
        }
        state.judge(some.drain(..));
    }
}

impl State {
    fn judge(&self, caught: impl Iterator<Item = Caught>) {
        let nodes = self.snapshot.load().nodes.clone();
        let mut bans = self.bans();
        let mut steering = self.steering();
        let none = BTreeSet::new();
        let allowed = steering.as_ref().map_or(&none, |steering| &steering.tuning().allow);
        bans.judge(caught, allowed, &[&nodes.own[..], &nodes.peers].concat());
        self.enforce(&mut bans, steering.as_mut());
    }

    /// Has the workers and the kernel keep out who is banned. What fails is tried again with the next tick.
    pub fn enforce(&self, bans: &mut Bans, steering: Option<&mut super::steering::Steering>) {
        if !bans.changed {
            return;
        }
        let sources: BTreeSet<_> = bans.book.bans().keys().copied().collect();
        if let Some(proxy) = self.proxy.get() {
            proxy.ban(sources.iter().copied());
        }
        let written = steering.map_or(Ok(()), |steering| steering.ban(&sources));
        if let Err(error) = &written {
            tracing::warn!(%error, "the kernel does not keep out who is banned; the workers do");
        }
        bans.changed = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn rules(after: u32) -> BanRules {
        BanRules { after, ..BanRules::default() }
    }

    #[test]
    fn who_is_spared() {
        let own = vec!["192.0.2.1".parse().expect("an address"), "2001:db8::1".parse().expect("an address")];
        let nodes = vec!["192.0.2.3".parse().expect("an address")];
        let allowed = ["198.51.100.0/24", "2001:db8:1::7/128"].map(net).into();
        for (source, expect) in [
            ("192.0.2.1/32", false),
            ("192.0.2.2/32", true),
            ("192.0.2.3/32", false),
            ("198.51.100.7/32", false),
            ("2001:db8::/64", false),
            ("2001:db8:1::/64", false),
            ("2001:db8:2::/64", true),
        ] {
            let mut bans = Bans::new(rules(1), own.clone());
            let caught = Caught { source: net(source), offence: Offence::Flood };
            bans.judge(std::iter::once(caught), &allowed, &nodes);
            assert_eq!(bans.summary().banned == 1, expect, "{source}");
        }
        let mut bans = Bans::new(rules(1), own);
        let caught = ["203.0.113.1/32", "198.51.100.7/32"]
            .map(net)
            .map(|source| Caught { source, offence: Offence::Flood });
        bans.judge(caught.into_iter(), &BTreeSet::new(), &[]);
        bans.spare(&allowed);
        assert_eq!(bans.banned().iter().map(|one| one.source).collect::<Vec<_>>(), [net("203.0.113.1/32")]);
    }

    #[test]
    fn whose_rules_count() {
        let mut bans = Bans::new(rules(3), vec![]);
        let change = |bans: &mut Bans, line: &str| {
            let (changes, _) = Changes::read(bans.rules(), line).expect(line);
            bans.change(changes.expect("about bans"));
        };
        for (asked, line, expect) in [
            (None, None, 3),
            (Some(5), None, 5),
            (Some(5), Some("ban-after=7"), 7),
            // The cluster's settings have not changed, so what somebody set since holds.
            (Some(5), None, 7),
            (Some(6), None, 6),
            (None, None, 3),
        ] {
            bans.follow(asked.map(rules));
            if let Some(line) = line {
                change(&mut bans, line);
            }
            assert_eq!(bans.rules().after, expect, "{asked:?} {line:?}");
        }
    }

    #[test]
    fn changes() {
        for (lines, rest, left) in [
            ("ban-after=5\ndeny=192.0.2.1", "deny=192.0.2.1\n", 3),
            ("banned=", "", 0),
            ("banned-=192.0.2.1", "", 2),
            ("banned-=192.0.2.0/24\n\nconnection-rate=1", "connection-rate=1\n", 1),
            ("banned-=2001:db8::7", "", 2),
            ("banned-=2001:db8::/32,192.0.2.2", "", 1),
            ("banned-=203.0.113.1", "", 3),
            ("ban-after=0", "", 0),
            ("connection-rate=1", "connection-rate=1\n", 3),
        ] {
            let mut bans = Bans::new(rules(1), vec![]);
            let caught = ["192.0.2.1/32", "192.0.2.2/32", "2001:db8::/64"]
                .map(|source| Caught { source: net(source), offence: Offence::Name });
            bans.judge(caught.into_iter(), &BTreeSet::new(), &[]);
            let (changes, others) = Changes::read(bans.rules(), lines).expect(lines);
            if let Some(changes) = changes {
                bans.change(changes);
            }
            assert_eq!((others.as_str(), bans.summary().banned), (rest, left), "{lines}");
        }
        for (line, says) in [
            ("banned=192.0.2.1", "banned-="),
            ("banned+=192.0.2.1", "banned-="),
            ("banned-=x", "no network"),
            ("ban-after=1000", "from 0 to"),
        ] {
            let error = Changes::read(&rules(1), line).expect_err(line).to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
