//! One virtual host with the index over its paths.

use std::sync::Arc;

use super::index::Index;
use super::path::RulePath;
use super::pattern::Pattern;
use super::patterns::Patterns;
use super::table::Found;
use crate::model::{Route, VirtualHost};

/// One virtual host with the index over its paths; numbers are positions in `rules.routes`.
#[derive(Debug)]
pub(super) struct Host<T> {
    pub(super) rules: Arc<VirtualHost>,
    /// One for each of `rules.routes`.
    served: Box<[T]>,
    /// In a box: few hosts have one.
    fallback: Option<Box<T>>,
    exact: Index<u32>,
    prefix: Index<Spellings>,
    longest_prefix: u32,
    patterns: Option<Box<Patterns>>,
}

/// `/foo` and `/foo/`: the same elements, two rules.
#[derive(Debug, Default)]
struct Spellings {
    plain: Option<u32>,
    slash: Option<u32>,
}

impl<T> Host<T> {
    /// Builds the index and makes a `T` for each route.
    pub(super) fn new(rules: Arc<VirtualHost>, serve: &mut impl FnMut(&Route) -> T) -> Self {
        let mut host = Self {
            served: rules.routes.iter().map(&mut *serve).collect(),
            fallback: rules.fallback.as_deref().map(serve).map(Box::new),
            rules,
            exact: Index::default(),
            prefix: Index::default(),
            longest_prefix: 0,
            patterns: None,
        };
        let mut patterns = Vec::new();
        for (at, route) in (0..).zip(&host.rules.routes) {
            match RulePath::new(&route.path) {
                RulePath::Exact(path) => _ = host.exact.entry(&path, || at),
                RulePath::Prefix { elements, slash } => {
                    let length = u32::try_from(elements.len()).unwrap_or(u32::MAX);
                    host.longest_prefix = host.longest_prefix.max(length);
                    let spellings = host.prefix.entry(&elements, Spellings::default);
                    let spelling = if slash { &mut spellings.slash } else { &mut spellings.plain };
                    spelling.get_or_insert(at);
                }
                RulePath::Regex(pattern) => patterns.push((at as usize, pattern)),
            }
        }
        host.patterns = (!patterns.is_empty()).then(|| Box::new(Patterns::new(patterns)));
        host
    }

    /// The route that takes `path`. Routes are in order of preference, so of a prefix and a regular
    /// expression the one that comes first wins.
    pub(super) fn find(&self, path: &str) -> Option<Found<'_, T>> {
        if let Some(exact) = self.exact.get(path) {
            return Some(self.found(*exact as usize, None));
        }
        let prefix = self.find_prefix(path).map(|at| at as usize);
        let matched = self.patterns.as_ref().and_then(|all| all.find(path, prefix.unwrap_or(usize::MAX)));
        match matched {
            Some((at, pattern)) => Some(self.found(at, Some(pattern))),
            None => prefix.map(|at| self.found(at, None)),
        }
    }

    /// The route that takes what no path does.
    pub(super) fn fallback(&self) -> Option<Found<'_, T>> {
        let (route, served) = (self.rules.fallback.as_deref()?, self.fallback.as_deref()?);
        Some(Found { route, host: &self.rules.host, served, pattern: None })
    }

    fn found<'a>(&'a self, at: usize, pattern: Option<&'a Pattern>) -> Found<'a, T> {
        Found { route: &self.rules.routes[at], host: &self.rules.host, served: &self.served[at], pattern }
    }

    /// Tries the path's elements, then all but the last, and so on. Starts at the longest prefix
    /// there is, so that a client can't make the lookup long with a long path.
    fn find_prefix(&self, path: &str) -> Option<u32> {
        if !path.starts_with('/') || self.prefix.is_empty() {
            return None;
        }
        let longest = self.longest_prefix as usize;
        let mut end = path.strip_suffix('/').unwrap_or(path).len();
        loop {
            if end <= longest
                && let Some(Spellings { plain, slash }) = self.prefix.get(&path[..end])
            {
                let below = path.len() > end;
                return if below { slash.or(*plain) } else { plain.or(*slash) };
            }
            // Elements end where a slash starts the next one.
            let cut = end.min(longest + 1);
            end = memchr::memrchr(b'/', &path.as_bytes()[..cut])?;
        }
    }
}
