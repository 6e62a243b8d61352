//! Rules' regular expressions: what nginx writes as `~* "^PATTERN"`.
//!
//! They are matched in time linear in the path, whoever wrote them, and need little memory: no
//! tables are built while requests are served. What PCRE has beyond regular languages (look-around,
//! back-references) can't be had that way and is refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use regex_automata::meta;
use regex_automata::util::{captures, syntax};
use regex_automata::{Anchored, Input};
use regex_syntax::ast::ErrorKind;
use regex_syntax::hir::{Hir, HirKind, Look};
use smallvec::SmallVec;

/// How much memory the compiled form of one pattern may need, each of its two automata.
const AUTOMATON_BYTES: usize = 64 * 1024;

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// `(?=…)`, `(?!…)`, `(?<=…)`, `(?<!…)`.
    #[error("uses look-around, which can't be matched in bounded time")]
    LookAround,
    /// `\1`.
    #[error("uses a back-reference, which can't be matched in bounded time")]
    BackReference,
    /// Requests' paths are compared in their escaped form, which is ASCII.
    #[error("holds characters beyond ASCII, which requests' paths only have percent-encoded")]
    NotAscii,
    /// Counted repetitions of long expressions.
    #[error("needs more than 64 KiB when compiled")]
    TooLarge,
    /// It is no regular expression.
    #[error("is no regular expression: {0}")]
    Syntax(String),
}

/// A regular expression for the begin of normalised paths, whatever the case of letters.
pub struct Pattern {
    text: Arc<str>,
    regex: meta::Regex,
    /// What every path that matches begins with, whatever the case.
    literal: Box<[u8]>,
}

impl Pattern {
    /// The compiled form of `text`. The same text is compiled once, for as long as anybody has it.
    ///
    /// # Errors
    /// Where it can't be matched in linear time and little memory.
    pub fn new(text: &str) -> Result<Arc<Self>, BadPattern> {
        static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(text)
    }

    fn compile(text: &str) -> Result<Self, BadPattern> {
        if !text.is_ascii() {
            return Err(BadPattern::NotAscii);
        }
        // By itself first: `a)(b` is no pattern, even though it is one between parentheses.
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        let parsed = syntax::parse_with(text, &syntax).map_err(|error| why(&error))?;
        let config = meta::Config::new()
            .hybrid(false)
            .dfa(false)
            .nfa_size_limit(Some(AUTOMATON_BYTES))
            .onepass_size_limit(Some(AUTOMATON_BYTES));
        let regex = meta::Regex::builder()
            .syntax(syntax.case_insensitive(true))
            .configure(config)
            .build(&format!("^(?:{text})"))
            .map_err(|error| error.syntax_error().map_or(BadPattern::TooLarge, why))?;
        let literal = literal_begin(&parsed).to_ascii_lowercase().into();
        Ok(Self { text: text.into(), regex, literal })
    }

    /// Matches nothing.
    pub(super) fn never() -> Arc<Self> {
        static NEVER: LazyLock<Arc<Pattern>> =
            LazyLock::new(|| Pattern::new(r"[^\s\S]").expect("an empty class is a pattern"));
        Arc::clone(&NEVER)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the path begins with a match.
    pub fn is_match(&self, path: &str) -> bool {
        let begin = path.as_bytes().get(..self.literal.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(&self.literal))
            && self.regex.is_match(Input::new(path).anchored(Anchored::Yes))
    }

    /// What its groups match in the path.
    pub fn captures<'p>(&self, path: &'p str) -> Captures<'p> {
        let mut found = captures::Captures::all(self.regex.group_info().clone());
        self.regex.search_captures(&Input::new(path).anchored(Anchored::Yes), &mut found);
        let group = |n| found.get_group(n).and_then(|span| path.get(span.range())).unwrap_or_default();
        Captures((1..found.group_len().max(1)).take(9).map(group).collect())
    }

    /// How many groups it has.
    pub fn groups(&self) -> usize {
        self.regex.captures_len() - 1
    }

    /// The memory that it needs, in bytes.
    pub fn bytes(&self) -> usize {
        self.regex.memory_usage() + self.text.len() + self.literal.len()
    }

    /// What every path that matches begins with, in lower case.
    pub(super) fn literal(&self) -> &[u8] {
        &self.literal
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// `$1` to `$9` of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures<'p>(SmallVec<[&'p str; 9]>);

impl<'p> Captures<'p> {
    /// The text of a group, counted from 1; empty where it took no part or is not there.
    pub fn get(&self, group: u8) -> &'p str {
        self.0.get(usize::from(group).wrapping_sub(1)).copied().unwrap_or_default()
    }
}

/// Patterns that somebody has. Thousands of Ingresses use a handful of patterns, and every snapshot
/// brings most of them again.
#[derive(Default)]
struct Known {
    patterns: HashMap<Arc<str>, Weak<Pattern>>,
    /// How many there were when those that nobody has any more were last removed.
    swept: usize,
}

impl Known {
    fn get(&mut self, text: &str) -> Result<Arc<Pattern>, BadPattern> {
        if let Some(known) = self.patterns.get(text).and_then(Weak::upgrade) {
            return Ok(known);
        }
        if self.patterns.len() > 2 * self.swept + 64 {
            self.patterns.retain(|_, pattern| pattern.strong_count() > 0);
            self.swept = self.patterns.len();
        }
        let pattern = Arc::new(Pattern::compile(text)?);
        self.patterns.insert(Arc::clone(&pattern.text), Arc::downgrade(&pattern));
        Ok(pattern)
    }
}

fn literal_begin(parsed: &Hir) -> &[u8] {
    let parts = match parsed.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(parsed),
    };
    let mut parts = parts.iter().skip_while(|part| matches!(part.kind(), HirKind::Look(Look::Start)));
    match parts.next().map(Hir::kind) {
        Some(HirKind::Literal(literal)) => &literal.0,
        _ => &[],
    }
}

fn why(error: &regex_syntax::Error) -> BadPattern {
    match error {
        regex_syntax::Error::Parse(error) => match error.kind() {
            ErrorKind::UnsupportedLookAround => BadPattern::LookAround,
            ErrorKind::UnsupportedBackreference => BadPattern::BackReference,
            kind => BadPattern::Syntax(kind.to_string()),
        },
        regex_syntax::Error::Translate(error) => BadPattern::Syntax(error.kind().to_string()),
        _ => BadPattern::Syntax("it can't be read".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches() {
        for (pattern, path, expect) in [
            ("/", "/", true),
            ("/", "/any", true),
            ("/foo", "/foobar", true),
            ("/foo", "/FOO/x", true),
            ("/foo", "/fo", false),
            ("/foo", "/x/foo", false),
            ("^/foo", "/foo", true),
            ("/foo$", "/foo/", false),
            ("/[A-Z]{3}", "/uuid", true),
            ("/foo(/|$)(.*)", "/foo", true),
            ("/foo(/|$)(.*)", "/foo/bar", true),
            ("/foo(/|$)(.*)", "/foobar", false),
            ("/a|/b", "/b", true),
            ("/a|/b", "/x/b", false),
            ("/foo?", "/fo", true),
            ("/(?i)foo", "/FOO", true),
            (r"/v\d+\.\w", "/v12.x", true),
            (".*", "*", true),
            (r"[^\s\S]", "/", false),
            ("", "/", true),
        ] {
            let compiled = Pattern::new(pattern).expect(pattern);
            assert_eq!(compiled.is_match(path), expect, "{pattern} {path}");
        }
    }

    #[test]
    fn refused() {
        let syntax = |text: &str| matches!(Pattern::new(text), Err(BadPattern::Syntax(_)));
        assert!(syntax("/foo(") && syntax("/a)(b") && syntax("/[z-a]") && syntax("/*{"));
        for (pattern, expect) in [
            ("/(?!admin).*", BadPattern::LookAround),
            ("/(?<=x)y", BadPattern::LookAround),
            (r"/(a)\1", BadPattern::BackReference),
            ("/caf\u{e9}", BadPattern::NotAscii),
            ("/(a{1,100}){1,100}", BadPattern::TooLarge),
            ("/(((.{99}){99}){99}){99}", BadPattern::TooLarge),
        ] {
            assert_eq!(Pattern::new(pattern), Err(expect), "{pattern}");
        }
    }

    #[test]
    fn groups() {
        for (pattern, path, expect) in [
            ("/foo(/|$)(.*)", "/foo/bar/x", ["/", "bar/x", ""]),
            ("/foo(/|$)(.*)", "/foo", ["", "", ""]),
            ("/(a)|(b)", "/b", ["", "", ""]),
            ("/([^/]+)/(?P<name>x?)/(.*)", "/A/x/", ["A", "x", ""]),
            ("/plain", "/plain", ["", "", ""]),
        ] {
            let captures = Pattern::new(pattern).expect(pattern).captures(path);
            assert_eq!([1, 2, 3].map(|n| captures.get(n)), expect, "{pattern} {path}");
        }
        assert_eq!(Pattern::new("/(a)(b)").expect("fine").groups(), 2);
        assert_eq!(Captures::default().get(0), "");
    }

    #[test]
    fn what_all_matches_begin_with() {
        for (pattern, expect) in [
            ("/Foo/bar(/|$)(.*)", "/foo/bar"),
            ("/foo*", "/fo"),
            ("^/foo", "/foo"),
            ("/fo+", "/f"),
            ("/foo|/fab", ""),
            ("/foo|x", ""),
            ("(/foo)", ""),
            ("/a.b", "/a"),
            (r"/a\.b", "/a.b"),
        ] {
            let compiled = Pattern::new(pattern).expect(pattern);
            assert_eq!(String::from_utf8_lossy(compiled.literal()), expect, "{pattern}");
        }
    }

    #[test]
    fn compiled_once_and_small() {
        let first = Pattern::new("/compiled(/|$)(.*)").expect("fine");
        let second = Pattern::new("/compiled(/|$)(.*)").expect("fine");
        assert!(Arc::ptr_eq(&first, &second));
        assert!(first.bytes() < 32 * 1024, "{}", first.bytes());
        let mut known = Known::default();
        for n in 0..1_000 {
            known.get(&format!("/{n}")).expect("fine");
        }
        assert!(known.patterns.len() < 200, "{} are kept that nobody has", known.patterns.len());
    }
}
