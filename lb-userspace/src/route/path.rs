//! Rules' paths against requests' paths.

use regex::{Regex, RegexBuilder};

use crate::model::PathMatch;

use super::target::normalise_rule;

/// A rule's path, ready to be compared with normalised request paths.
#[derive(Clone, Debug)]
pub(super) enum RulePath {
    /// The same bytes.
    Exact(String),
    /// These elements first. `/foo/` and `/foo` have the same ones, so the trailing slash is apart.
    Prefix {
        /// Without the trailing slash; `/` is empty.
        elements: String,
        /// Whether the rule was written with one (never for `/`).
        slash: bool,
    },
    /// What the begin of the path has to match.
    Regex(Regex),
}

impl RulePath {
    pub(super) fn new(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact(path) => Self::Exact(normalise_rule(path)),
            PathMatch::Prefix(path) => {
                let mut elements = normalise_rule(path);
                let slash = elements.len() > 1 && elements.ends_with('/');
                if elements.ends_with('/') {
                    elements.pop();
                }
                Self::Prefix { elements, slash }
            }
            PathMatch::Regex(pattern) => Self::Regex(compile(pattern).unwrap_or_else(never)),
        }
    }

    /// Whether the rule covers the request's path.
    pub(super) fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix { elements, .. } => path
                .strip_prefix(elements.as_str())
                .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !elements.is_empty())),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// Orders rules that cover the same path, best last: an Exact path, then the longest prefix.
    /// Of `/foo` and `/foo/` the one written like the request wins `/foo`, and `/foo/` all below.
    pub(super) fn rank(&self, path: &str) -> (bool, usize, bool) {
        match self {
            Self::Exact(exact) => (true, exact.len(), false),
            Self::Prefix { elements, slash } => {
                let below = path.len() > elements.len();
                (false, elements.len(), *slash == below)
            }
            Self::Regex(regex) => (false, regex.as_str().len(), false),
        }
    }
}

/// A rule's regular expression, anchored at the path's begin, whatever the case of letters.
///
/// # Errors
/// Where it is none, or would need more than [`REGEX_BYTES`] when compiled.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{pattern})")).case_insensitive(true).size_limit(REGEX_BYTES).build()
}

/// How much memory one rule's regular expression may need.
const REGEX_BYTES: usize = 1 << 20;

/// Rules are compiled before they come into a snapshot. One that isn't must not open anything.
fn never(_: regex::Error) -> Regex {
    Regex::new(r"[^\s\S]").expect("an empty class is valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the Ingress page's table, and those it leaves out.
    #[test]
    fn paths() {
        let exact = |text: &str| PathMatch::Exact(text.into());
        let prefix = |text: &str| PathMatch::Prefix(text.into());
        for (rule, path, expect) in [
            (exact("/foo"), "/foo", true),
            (exact("/foo"), "/bar", false),
            (exact("/foo"), "/foo/", false),
            (exact("/foo"), "/FOO", false),
            (exact("/foo/"), "/foo", false),
            (exact("/foo/"), "/foo/", true),
            (exact("/"), "/", true),
            (exact("/"), "/a", false),
            (prefix("/"), "/", true),
            (prefix("/"), "/anything", true),
            (prefix("/foo"), "/foo", true),
            (prefix("/foo"), "/foo/", true),
            (prefix("/foo/"), "/foo", true),
            (prefix("/foo/"), "/foo/", true),
            (prefix("/foo"), "/FOO", false),
            (prefix("/foo"), "/foobar", false),
            (prefix("/aaa/bb"), "/aaa/bbb", false),
            (prefix("/aaa/bbb"), "/aaa/bbb", true),
            (prefix("/aaa/bbb/"), "/aaa/bbb", true),
            (prefix("/aaa/bbb"), "/aaa/bbb/", true),
            (prefix("/aaa/bbb"), "/aaa/bbb/ccc", true),
            (prefix("/aaa/bbb"), "/aaa/bbbxyz", false),
            (prefix("/aaa/bbb"), "/aaa", false),
            (prefix("/foo/bar"), "/foo/barbaz", false),
            (prefix("/a%2Db"), "/a-b/c", true),
            (prefix("/a/b"), "/a%2Fb", false),
            (prefix("/"), "*", false),
            (prefix("foo"), "/foo", false),
        ] {
            assert_eq!(RulePath::new(&rule).covers(path), expect, "{rule:?} vs {path}");
        }
    }
}
