//! When clients that misbehave are kept out for a time.

use serde::{Deserialize, Serialize};

use super::tuning::{BadTuning, number};

/// Most offences that can be asked for: each is remembered for as long as it counts.
pub const MAX_BAN_AFTER: u32 = 100;
/// Longest time for which offences count, in seconds.
pub const MAX_BAN_WITHIN: u32 = 3600;
/// Longest ban, in seconds.
pub const MAX_BAN_FOR: u32 = 7 * 24 * 3600;
/// Most bans at a time.
pub const MAX_BANS: u32 = 100_000;

/// The rules. By default nobody is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRules {
    /// How many offences make a ban, at most [`MAX_BAN_AFTER`]; 0: none do.
    #[serde(rename = "ban_after")]
    pub after: u32,
    /// Within how many seconds, 1 to [`MAX_BAN_WITHIN`].
    #[serde(rename = "ban_within")]
    pub within: u32,
    /// How many seconds a ban lasts, 1 to [`MAX_BAN_FOR`].
    #[serde(rename = "ban_for")]
    pub lasts: u32,
    /// How many bans there are at a time, 1 to [`MAX_BANS`]: above, the one that ends first goes.
    #[serde(rename = "ban_max")]
    pub most: u32,
}

impl Default for BanRules {
    fn default() -> Self {
        Self { after: 0, within: 60, lasts: 600, most: 10_000 }
    }
}

impl BanRules {
    /// Makes one change of the form `ban-after=20`; false if that is no setting of these.
    ///
    /// # Errors
    /// What is wrong with it; then nothing is changed.
    pub fn change(&mut self, text: &str) -> Result<bool, BadTuning> {
        let Some((key, value)) = text.split_once('=') else { return Ok(false) };
        let (key, is_list) = match key.strip_suffix(['+', '-']) {
            Some(short) => (short.trim(), true),
            None => (key.trim(), false),
        };
        let (place, least, most) = match key {
            "ban-after" => (&mut self.after, 0, MAX_BAN_AFTER),
            "ban-within" => (&mut self.within, 1, MAX_BAN_WITHIN),
            "ban-for" => (&mut self.lasts, 1, MAX_BAN_FOR),
            "ban-max" => (&mut self.most, 1, MAX_BANS),
            _ => return Ok(false),
        };
        if is_list {
            return Err(BadTuning::NoList(key.to_owned()));
        }
        number(key, value, least, most, place).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes() {
        let mut rules = BanRules::default();
        for (text, expect) in [
            ("ban-after=20", (20, 60, 600, 10_000)),
            ("ban-within= 10 ", (20, 10, 600, 10_000)),
            ("ban-for=604800", (20, 10, 604_800, 10_000)),
            ("ban-max=1", (20, 10, 604_800, 1)),
            ("ban-after=0", (0, 10, 604_800, 1)),
        ] {
            assert_eq!(rules.change(text), Ok(true), "{text}");
            assert_eq!((rules.after, rules.within, rules.lasts, rules.most), expect, "{text}");
        }
        for text in ["deny=192.0.2.1", "ban=1", "ban-after", "connection-rate=1", "banned="] {
            assert_eq!(rules.change(text), Ok(false), "{text}");
        }
        for (text, says) in [
            ("ban-after=101", "from 0 to 100"),
            ("ban-within=0", "from 1 to 3600"),
            ("ban-for=x", "from 1 to 604800"),
            ("ban-max=-1", "from 1 to 100000"),
            ("ban-after+=1", "set it with ="),
        ] {
            let error = rules.change(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
