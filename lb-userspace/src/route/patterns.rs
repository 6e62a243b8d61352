//! The regular expressions of one host.

use std::sync::Arc;

use ahash::AHashMap;
use smallvec::SmallVec;

use super::pattern::Pattern;

/// The regular expressions of one host, in order of preference.
///
/// nginx tries one after the other. So does this, but only those whose literal begin the path has:
/// a lookup costs one hash for each length that such begins have, however many patterns there are.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// With the position of their route. Rising.
    all: Vec<(usize, Arc<Pattern>)>,
    /// Literal begin → positions in `all`, rising.
    by_literal: AHashMap<Box<[u8]>, Vec<u32>>,
    /// The lengths of the keys of `by_literal`, rising.
    lengths: Vec<usize>,
}

/// So few are tried one after the other.
const FEW: usize = 8;

impl Patterns {
    /// Of patterns with the positions of their routes, rising.
    pub(super) fn new(all: Vec<(usize, Arc<Pattern>)>) -> Self {
        let mut patterns = Self { all, ..Self::default() };
        if patterns.all.len() > FEW {
            for (n, (_, pattern)) in (0..).zip(&patterns.all) {
                patterns.by_literal.entry(pattern.literal().into()).or_default().push(n);
            }
            patterns.lengths = patterns.by_literal.keys().map(|literal| literal.len()).collect();
            patterns.lengths.sort_unstable();
            patterns.lengths.dedup();
        }
        patterns
    }

    /// The first pattern that matches the path, with the position of its route, if that is below
    /// `before`.
    pub(super) fn find(&self, path: &str, before: usize) -> Option<(usize, &Arc<Pattern>)> {
        let matched = |(at, pattern): &&(usize, Arc<Pattern>)| *at < before && pattern.is_match(path);
        let found = if self.all.len() <= FEW {
            self.all.iter().find(matched)
        } else {
            self.candidates(path).into_iter().map(|n| &self.all[n as usize]).find(matched)
        };
        found.map(|(at, pattern)| (*at, pattern))
    }

    /// Those whose literal begin the path has, rising.
    fn candidates(&self, path: &str) -> SmallVec<[u32; 16]> {
        let longest = self.lengths.last().copied().unwrap_or_default();
        let mut begin: SmallVec<[u8; 256]> = path.bytes().take(longest).collect();
        begin.make_ascii_lowercase();
        let mut found = SmallVec::new();
        for length in self.lengths.iter().take_while(|length| **length <= begin.len()) {
            found.extend(self.by_literal.get(&begin[..*length]).into_iter().flatten().copied());
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index answers as trying one after the other does.
    #[test]
    fn index_is_the_slow_reading() {
        let texts = [
            "/api/v1/users(/|$)(.*)",
            "/api/v1/(users|groups)",
            "/API/v2",
            "/api/v[0-9]+",
            "/api",
            "/(a|b)/c",
            "/a+/b",
            "/x?/y",
            "/x",
            "/static/.*\\.css$",
            "/static",
            "/s",
            ".*\\.php$",
            "/",
        ];
        let all = |texts: &[&str]| -> Vec<_> {
            let compiled = texts.iter().map(|text| Pattern::new(text).expect(text));
            compiled.enumerate().map(|(n, pattern)| (n * 3, pattern)).collect()
        };
        assert!(texts.len() > FEW);
        for used in [&texts[..], &texts[..13], &texts[..5]] {
            let patterns = Patterns::new(all(used));
            for path in [
                "/",
                "*",
                "/api",
                "/Api/v1/users/7",
                "/api/v1/groups",
                "/api/v2x",
                "/API/V3",
                "/a/c",
                "/aaa/b",
                "/y",
                "/x/y",
                "/xylophone",
                "/static/a.css",
                "/STATIC/a.js",
                "/q.php",
                "/q",
                "/sx",
            ] {
                for before in [0, 7, 40] {
                    let slow = all(used).into_iter().find(|(at, one)| *at < before && one.is_match(path));
                    let found = patterns.find(path, before).map(|(at, one)| (at, Arc::clone(one)));
                    assert_eq!(found, slow, "{path} of {used:?} before {before}");
                }
            }
        }
    }
}
