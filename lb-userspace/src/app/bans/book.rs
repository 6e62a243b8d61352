//! Who has offended how often, and who is banned for it. Pure: the time is the caller's, in seconds.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use ipnet::IpNet;

use crate::model::BanRules;
use crate::proxy::Offence;

/// Sources whose offences are remembered. Above, the half that was quiet for longest is forgotten.
const MOST_SUSPECTS: usize = 10_000;

/// How many requests beyond a limit make one offence.
const MINOR: u32 = 10;

/// Offences that still count, and bans that last.
#[derive(Debug, Default)]
pub struct Book {
    rules: BanRules,
    suspects: HashMap<IpNet, Suspect>,
    bans: BTreeMap<IpNet, Ban>,
    /// The same by their ends.
    ends: BTreeSet<(u64, IpNet)>,
    total: u64,
}

#[derive(Debug, Default)]
struct Suspect {
    /// When it offended, oldest first; never more than a ban takes.
    times: VecDeque<u64>,
    /// Requests beyond a limit that are no offence yet.
    minor: u32,
    last: u64,
}

/// A source that is kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// When it ends.
    pub until: u64,
    /// What it was caught at last.
    pub why: Offence,
}

impl Book {
    /// The rules.
    pub fn rules(&self) -> &BanRules {
        &self.rules
    }

    /// Other rules from now on. Bans last as long as they were meant to, but no more are kept than may be;
    /// where nobody is to be banned, nobody stays so.
    pub fn set_rules(&mut self, rules: BanRules) {
        self.rules = rules;
        if rules.after == 0 {
            self.suspects.clear();
            self.lift(|_| true);
        }
        self.shorten();
    }

    /// A source was caught. True if that makes a ban, which it does not for those that are `spared`.
    pub fn offend(
        &mut self,
        source: IpNet,
        why: Offence,
        now: u64,
        spared: impl FnOnce(&IpNet) -> bool,
    ) -> bool {
        let after = self.rules.after as usize;
        if after == 0 || self.bans.contains_key(&source) {
            return false;
        }
        if !self.suspects.contains_key(&source) && self.suspects.len() >= MOST_SUSPECTS {
            self.forget(now);
        }
        let oldest = self.oldest(now);
        let suspect = self.suspects.entry(source).or_default();
        suspect.last = now;
        if why == Offence::Requests {
            suspect.minor += 1;
            if suspect.minor < MINOR {
                return false;
            }
            suspect.minor = 0;
        }
        suspect.times.push_back(now);
        while suspect.times.len() > after || suspect.times.front().is_some_and(|time| *time < oldest) {
            suspect.times.pop_front();
        }
        if suspect.times.len() < after {
            return false;
        }
        self.suspects.remove(&source);
        if spared(&source) {
            return false;
        }
        let until = now + u64::from(self.rules.lasts);
        self.bans.insert(source, Ban { until, why });
        self.ends.insert((until, source));
        self.total += 1;
        self.shorten();
        true
    }

    /// Ends the bans whose time is over, and forgets offences that no longer count. Says who is let in
    /// again.
    pub fn expire(&mut self, now: u64) -> Vec<IpNet> {
        let mut over = Vec::new();
        while let Some(&(until, source)) = self.ends.first().filter(|(until, _)| *until <= now) {
            self.ends.remove(&(until, source));
            self.bans.remove(&source);
            over.push(source);
        }
        let oldest = self.oldest(now);
        self.suspects.retain(|_, suspect| suspect.last >= oldest);
        over
    }

    /// Ends the bans of those sources; says how many.
    pub fn lift(&mut self, which: impl Fn(&IpNet) -> bool) -> usize {
        let before = self.bans.len();
        self.bans.retain(|source, _| !which(source));
        self.ends.retain(|(_, source)| !which(source));
        self.suspects.retain(|source, _| !which(source));
        before - self.bans.len()
    }

    /// Who is banned.
    pub fn bans(&self) -> &BTreeMap<IpNet, Ban> {
        &self.bans
    }

    /// How many bans there were.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The time from which on offences count.
    fn oldest(&self, now: u64) -> u64 {
        (now + 1).saturating_sub(self.rules.within.into())
    }

    fn shorten(&mut self) {
        while self.bans.len() > self.rules.most as usize {
            let Some((_, source)) = self.ends.pop_first() else { return };
            self.bans.remove(&source);
        }
    }

    fn forget(&mut self, now: u64) {
        let oldest = self.oldest(now);
        self.suspects.retain(|_, suspect| suspect.last >= oldest);
        if self.suspects.len() >= MOST_SUSPECTS {
            // Half of them at once: under an attack from everywhere, each offence would look through all.
            let mut order: Vec<_> =
                self.suspects.iter().map(|(source, suspect)| (suspect.last, *source)).collect();
            let half = order.len() / 2;
            order.select_nth_unstable(half);
            for (_, source) in &order[..half] {
                self.suspects.remove(source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::Entry;

    use super::*;

    fn book(after: u32, within: u32, lasts: u32, most: u32) -> Book {
        let mut book = Book::default();
        book.set_rules(BanRules { after, within, lasts, most });
        book
    }

    fn nobody(_: &IpNet) -> bool {
        false
    }

    fn source(n: u32) -> IpNet {
        IpNet::from(std::net::IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn offences_make_a_ban_while_they_count() {
        for (what, after, times, expect) in [
            ("off", 0, &[1, 1, 1, 1][..], None),
            ("the first", 1, &[5], Some(5)),
            ("in time", 3, &[1, 5, 10], Some(10)),
            ("one too old", 3, &[1, 5, 11], None),
            ("those that count", 3, &[1, 5, 11, 14], Some(14)),
            ("at once", 3, &[7, 7, 7], Some(7)),
        ] {
            let mut book = book(after, 10, 100, 9);
            let banned =
                times.iter().copied().find(|now| book.offend(source(1), Offence::Flood, *now, nobody));
            assert_eq!(banned, expect, "{what}");
            if let Some(now) = expect {
                assert_eq!(book.expire(now + 99), [], "{what}");
                assert_eq!(book.expire(now + 100), [source(1)], "{what}");
                assert!(book.bans().is_empty() && book.ends.is_empty());
            }
        }
    }

    #[test]
    fn requests_beyond_a_limit_weigh_less() {
        let mut book = book(2, 60, 600, 9);
        let asked = (1..100).find(|_| book.offend(source(1), Offence::Requests, 1, nobody));
        assert_eq!(asked, Some(2 * MINOR));
    }

    #[test]
    fn bans_are_bounded_and_can_be_lifted() {
        let mut book = book(1, 60, 600, 3);
        for n in 0..5 {
            assert!(book.offend(source(n), Offence::Name, n.into(), nobody));
        }
        let who = |book: &Book| book.bans().keys().copied().collect::<Vec<_>>();
        assert_eq!(who(&book), [source(2), source(3), source(4)], "the oldest are out");
        assert_eq!(book.lift(|one| *one == source(3)), 1);
        assert!(book.offend(source(3), Offence::Name, 9, nobody), "and can come back");
        book.set_rules(BanRules { most: 1, ..*book.rules() });
        assert_eq!(who(&book), [source(3)]);
        book.set_rules(BanRules { after: 0, ..*book.rules() });
        assert!(book.bans().is_empty() && book.ends.is_empty());
        assert_eq!(book.total(), 6);
    }

    #[test]
    fn suspects_are_bounded() {
        let mut book = book(2, 60, 600, 3);
        for n in 0..MOST_SUSPECTS as u32 + 500 {
            book.offend(source(n), Offence::Flood, u64::from(n / 1000), nobody);
        }
        assert_eq!(book.suspects.len(), MOST_SUSPECTS / 2 + 500);
        assert!(
            !book.offend(source(1), Offence::Flood, 20, nobody),
            "who was quiet for longest is forgotten"
        );
        assert!(book.offend(source(MOST_SUSPECTS as u32), Offence::Flood, 20, nobody));
        book.expire(1000);
        assert!(book.suspects.is_empty());
    }

    /// Whatever happens when: a ban has as many offences in its window as it takes, no window that has
    /// them is without one, and each ends when it should.
    #[test]
    fn a_ban_is_what_the_offences_say() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..200 {
            let (after, within, lasts) = (random.u32(1..6), random.u32(1..20), random.u32(1..30));
            let mut book = book(after, within, lasts, 100);
            // Of each source what counts towards the next ban, and until when it is out.
            let mut times: HashMap<u32, Vec<u64>> = HashMap::new();
            let mut out: HashMap<u32, u64> = HashMap::new();
            let mut now = 0;
            for _ in 0..300 {
                now += random.u64(0..4);
                book.expire(now);
                out.retain(|_, until| *until > now);
                let who = random.u32(0..4);
                let banned = book.offend(source(who), Offence::Flood, now, nobody);
                let mut expect = false;
                if let Entry::Vacant(place) = out.entry(who) {
                    let times = times.entry(who).or_default();
                    times.push(now);
                    let counted = times.iter().filter(|time| **time + u64::from(within) > now).count();
                    if counted >= after as usize {
                        expect = true;
                        times.clear();
                        place.insert(now + u64::from(lasts));
                    }
                }
                assert_eq!(banned, expect, "{after} in {within} s, at {now}");
                let have: BTreeSet<_> = book.bans().keys().copied().collect();
                assert_eq!(have, out.keys().map(|who| source(*who)).collect(), "at {now}");
                assert_eq!(book.ends.len(), have.len());
                assert!(book.suspects.values().all(|one| one.times.len() < after as usize));
            }
        }
    }
}
