//! Rules' paths against requests' paths.

use std::sync::Arc;

use super::pattern::Pattern;
use super::target::normalise_rule;
use crate::model::PathMatch;

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
    Regex(Arc<Pattern>),
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
            PathMatch::Regex(pattern) => {
                // Rules are compiled before they come into a snapshot. One that can't be must not
                // open anything.
                Self::Regex(Pattern::new(pattern).unwrap_or_else(|_| Pattern::never()))
            }
        }
    }

    /// Whether the rule covers the request's path.
    pub(super) fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix { elements, .. } => path
                .strip_prefix(elements.as_str())
                .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !elements.is_empty())),
            Self::Regex(pattern) => pattern.is_match(path),
        }
    }

    /// Whether both are regular expressions of the same length, so that their order decides.
    pub(super) fn same_length(&self, other: &PathMatch) -> bool {
        match (self, other) {
            (Self::Regex(pattern), PathMatch::Regex(other)) => pattern.text().len() == other.len(),
            _ => false,
        }
    }

    /// Orders rules that cover the same path, best last: an Exact path, then the longest.
    /// Of `/foo` and `/foo/` the one written like the request wins `/foo`, and `/foo/` all below.
    pub(super) fn rank(&self, path: &str) -> (bool, usize, bool) {
        match self {
            Self::Exact(exact) => (true, exact.len(), false),
            Self::Prefix { elements, slash } => {
                let below = path.len() > elements.len();
                (false, elements.len(), *slash == below)
            }
            Self::Regex(pattern) => (false, pattern.text().len(), false),
        }
    }
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
