//! The route table: a hash index over a snapshot's routing.
//!
//! A lookup costs one hash for the host (two with wildcards), one for the path, and one for each
//! element of the path up to the longest prefix that the host has. Neither the number of hosts nor
//! that of a host's paths matters. Hosts with regular expressions pay for those that begin like the
//! path.
//!
//! Which rule wins: candidates are the rules of *all* host patterns that cover the host, the exact
//! host's before the wildcard's before those without a host; then the longest path; then Exact
//! before Prefix. So a host whose own rules leave a path open falls through to a rule without a
//! host, as the API's "no host: all inbound traffic" says. Only when no rule matches at all do the
//! default backends come, in the same order of hosts.

use std::sync::Arc;

use crate::model::{HostPattern, Route, Routing};

use super::index::Index;
use super::pattern::Pattern;
use super::virtual_host::Host;

/// The route of a request.
#[derive(Debug, PartialEq)]
pub struct Found<'a, T = ()> {
    /// The route.
    pub route: &'a Route,
    /// The pattern that covered the request's host.
    pub host: &'a HostPattern,
    /// What [`RouteTable::build_with`] made for the route.
    pub served: &'a T,
    /// The route's regular expression, if it was found by one.
    pub(super) pattern: Option<&'a Pattern>,
}

impl<T> Clone for Found<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Found<'_, T> {}

/// An index over the routes of a [`Routing`], built once for each and read by every request.
/// With each route it holds a `T`: what the reader needs to serve it.
#[derive(Debug)]
pub struct RouteTable<T = ()> {
    hosts: Vec<Arc<Host<T>>>,
    exact: Index<Arc<Host<T>>>,
    /// By the suffix after `*.`.
    wildcard: Index<Arc<Host<T>>>,
    any: Option<Arc<Host<T>>>,
}

impl RouteTable {
    /// Builds the index alone.
    pub fn build(routing: &Routing) -> Self {
        Self::build_with(routing, None, |_| ())
    }
}

impl<T> RouteTable<T> {
    /// Builds the index and makes a `T` for each route. Hosts that `previous` has as the same `Arc`
    /// are taken over as they are.
    pub fn build_with(
        routing: &Routing,
        previous: Option<&Self>,
        mut serve: impl FnMut(&Route) -> T,
    ) -> Self {
        let mut table = Self {
            hosts: Vec::with_capacity(routing.hosts.len()),
            exact: Index::default(),
            wildcard: Index::default(),
            any: None,
        };
        table.exact.reserve(routing.hosts.len());
        for rules in &routing.hosts {
            let known = previous.and_then(|table| table.host(&rules.host));
            let host = match known.filter(|known| Arc::ptr_eq(&known.rules, rules)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Host::new(Arc::clone(rules), &mut serve)),
            };
            table.hosts.push(Arc::clone(&host));
            match &rules.host {
                HostPattern::Exact(name) => _ = table.exact.entry(name, || host),
                HostPattern::Wildcard(suffix) => _ = table.wildcard.entry(suffix, || host),
                HostPattern::Any => {
                    table.any.get_or_insert(host);
                }
            }
        }
        table
    }

    /// The route of a request for `path` (a [`super::Target`]'s) on `host`
    /// (from [`super::normalise_host`]; `None` when the request has none). `None`: 404.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<Found<'_, T>> {
        let hosts = self.covering(host);
        for host in hosts.into_iter().flatten() {
            if let Some(found) = host.find(path) {
                return Some(found);
            }
        }
        hosts.into_iter().flatten().find_map(Host::fallback)
    }

    /// The virtual host of exactly this pattern.
    fn host(&self, pattern: &HostPattern) -> Option<&Arc<Host<T>>> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// All virtual hosts, in the snapshot's order.
    pub(super) fn hosts(&self) -> &[Arc<Host<T>>] {
        &self.hosts
    }

    /// The virtual hosts that cover a host: the exact one, the wildcard, the one for all.
    fn covering(&self, host: Option<&str>) -> [Option<&Host<T>>; 3] {
        let exact = host.and_then(|host| self.exact.get(host));
        let wildcard = match host.and_then(|host| host.split_once('.')) {
            Some((label, suffix)) if !label.is_empty() => self.wildcard.get(suffix),
            _ => None,
        };
        [exact, wildcard, self.any.as_ref()].map(|host| host.map(|host| &**host))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Backend, ObjectKey, PathMatch, VirtualHost};
    use crate::route::normalise_host;
    use crate::route::path::RulePath;

    /// A table of one route that all hosts have.
    pub fn table_of(route: Route) -> RouteTable {
        let host =
            VirtualHost { host: HostPattern::Any, routes: vec![route], fallback: None, shadowed: vec![] };
        RouteTable::build(&Routing { hosts: vec![Arc::new(host)] })
    }

    /// A route that its Ingress's name tells apart; `Exact /foo`, `Prefix /foo`, `Regex /foo` or
    /// `fallback`.
    pub fn route(rule: &str, name: &str) -> Route {
        let path = match rule.split_once(' ') {
            Some(("Exact", path)) => PathMatch::Exact(path.into()),
            Some(("Prefix", path)) => PathMatch::Prefix(path.into()),
            Some(("Regex", path)) => PathMatch::Regex(path.into()),
            _ => PathMatch::Prefix("/".into()),
        };
        Route {
            ingress: ObjectKey::new("default", name),
            rule: rule.into(),
            path,
            backend: Backend::Answered,
            canary: None,
            policy: Arc::default(),
        }
    }

    /// Rows of host, rule and name, in the order of preference that translate keeps.
    pub fn routing(rows: &[(&str, &str, &str)]) -> Routing {
        let mut hosts: Vec<VirtualHost> = Vec::new();
        for (host, rule, name) in rows {
            let host = HostPattern::parse(host).expect("a host pattern");
            let at = hosts.iter().position(|h| h.host == host).unwrap_or_else(|| {
                hosts.push(VirtualHost { host, routes: vec![], fallback: None, shadowed: vec![] });
                hosts.len() - 1
            });
            match *rule {
                "fallback" => hosts[at].fallback = Some(Box::new(route(rule, name))),
                _ => hosts[at].routes.push(route(rule, name)),
            }
        }
        for host in &mut hosts {
            host.routes.sort_by_key(|r| {
                (std::cmp::Reverse(r.path.text().len()), !matches!(r.path, PathMatch::Exact(_)))
            });
        }
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        Routing { hosts: hosts.into_iter().map(Arc::new).collect() }
    }

    fn check(rows: &[(&str, &str, &str)], requests: &[(&str, &str, Option<&str>)]) {
        let table = RouteTable::build(&routing(rows));
        for (host, path, expect) in requests {
            let normal = (!host.is_empty()).then(|| normalise_host(host).expect("a host"));
            let found = table.find(normal.as_deref(), path);
            assert_eq!(found.map(|f| &*f.route.ingress.name), *expect, "{host} {path} of {rows:?}");
        }
    }

    #[test]
    fn paths_of_one_host() {
        check(
            &[("", "Prefix /", "root"), ("", "Prefix /aaa", "aaa"), ("", "Prefix /aaa/bbb", "bbb")],
            &[
                ("h", "/aaa/bbb", Some("bbb")),
                ("h", "/aaa/bbb/", Some("bbb")),
                ("h", "/aaa/bbb/x/y", Some("bbb")),
                ("h", "/aaa/bbbx", Some("aaa")),
                ("h", "/aaa/ccc", Some("aaa")),
                ("h", "/aaa/", Some("aaa")),
                ("h", "/ccc", Some("root")),
                ("h", "/", Some("root")),
                ("h", "/AAA", Some("root")),
            ],
        );
        check(
            &[("", "Prefix /foo", "prefix"), ("", "Exact /foo", "exact")],
            &[
                ("h", "/foo", Some("exact")),
                ("h", "/foo/", Some("prefix")),
                ("h", "/foo/bar", Some("prefix")),
                ("h", "/foobar", None),
                ("h", "/", None),
            ],
        );
        check(
            &[("", "Prefix /foo", "plain"), ("", "Prefix /foo/", "slash")],
            &[
                ("h", "/foo", Some("plain")),
                ("h", "/foo/", Some("slash")),
                ("h", "/foo/bar", Some("slash")),
                ("h", "/foo%2Fbar", None),
            ],
        );
        check(
            &[
                ("", "Prefix /foo/", "prefix"),
                ("", "Exact /foo", "exact"),
                ("", "Exact /foo/", "exact-slash"),
            ],
            &[
                ("h", "/foo", Some("exact")),
                ("h", "/foo/", Some("exact-slash")),
                ("h", "/foo/x", Some("prefix")),
            ],
        );
        check(
            &[("", "Prefix /%61%2fb", "escaped"), ("", "Exact /caf\u{e9}", "utf8")],
            &[("h", "/a%2Fb/c", Some("escaped")), ("h", "/a/b", None), ("h", "/caf%C3%A9", Some("utf8"))],
        );
    }

    #[test]
    fn hosts() {
        check(
            &[
                ("foo.com", "Prefix /", "foo"),
                ("*.foo.com", "Prefix /", "wild"),
                ("a.foo.com", "Prefix /x", "exact"),
                ("", "Prefix /any", "any"),
                ("", "fallback", "default"),
            ],
            &[
                ("foo.com", "/", Some("foo")),
                ("FOO.com.:8080", "/", Some("foo")),
                ("bar.foo.com", "/", Some("wild")),
                ("BAR.foo.com", "/any", Some("wild")),
                ("baz.bar.foo.com", "/", Some("default")),
                ("baz.bar.foo.com", "/any", Some("any")),
                ("a.foo.com", "/x", Some("exact")),
                // The exact host leaves the path open: the wildcard's rule takes it.
                ("a.foo.com", "/y", Some("wild")),
                ("other.org", "/any/x", Some("any")),
                ("other.org", "/", Some("default")),
                ("", "/any", Some("any")),
                ("", "/", Some("default")),
                ("192.0.2.1", "/any", Some("any")),
                ("[2001:db8::1]:80", "/any", Some("any")),
            ],
        );
    }

    #[test]
    fn defaults_come_after_all_rules() {
        check(
            &[
                ("foo.com", "Prefix /a", "a"),
                ("foo.com", "fallback", "foo-default"),
                ("*.com", "fallback", "wild-default"),
                ("", "Prefix /b", "any-b"),
                ("", "fallback", "any-default"),
            ],
            &[
                ("foo.com", "/a", Some("a")),
                ("foo.com", "/b", Some("any-b")),
                ("foo.com", "/c", Some("foo-default")),
                ("bar.com", "/c", Some("wild-default")),
                ("bar.org", "/c", Some("any-default")),
            ],
        );
        check(&[], &[("foo.com", "/", None), ("", "*", None)]);
        check(&[("foo.com", "Prefix /a", "a")], &[("foo.com", "/b", None), ("bar.com", "/a", None)]);
    }

    #[test]
    fn regular_expressions() {
        check(
            &[
                ("", "Regex /a", "a"),
                ("", "Regex /a/[0-9]+", "number"),
                ("", "Regex /a/[a-z]+/x", "word"),
                ("", "Exact /a/7", "exact"),
                ("", "Prefix /b/c", "prefix"),
                ("", "Regex /b(.*)", "b"),
                ("", "Regex /b/c/d.*", "longer"),
                ("foo.com", "Prefix /own", "own"),
            ],
            &[
                ("h", "/A/x", Some("a")),
                ("h", "/abc", Some("a")),
                ("h", "/a/8", Some("number")),
                ("h", "/a/7", Some("exact")),
                ("h", "/a/q/x", Some("word")),
                ("h", "/b/c", Some("b")),
                ("h", "/b/c/d", Some("longer")),
                ("h", "/bx", Some("b")),
                ("h", "/", None),
                ("h", "/x/a", None),
                ("foo.com", "/own/a", Some("own")),
                ("foo.com", "/a/8", Some("number")),
            ],
        );
    }

    fn rows() -> impl Strategy<Value = Vec<(String, String)>> {
        let host = prop::sample::select(vec!["", "a.x", "b.x", "*.x", "x", "*.a.x"]);
        let element = prop::sample::select(vec!["a", "b", "ab", "%41"]);
        let path = (prop::collection::vec(element, 0..4), any::<bool>()).prop_map(|(elements, slash)| {
            let path = format!("/{}", elements.join("/"));
            if slash && path.len() > 1 { path + "/" } else { path }
        });
        let rule = prop_oneof![
            path.clone().prop_map(|p| format!("Exact {p}")),
            path.clone().prop_map(|p| format!("Prefix {p}")),
            path.prop_map(|p| format!("Regex {}", p.replace("b", "b+").replace("%41", "(A|c)"))),
            Just("fallback".to_owned()),
        ];
        prop::collection::vec((host, rule).prop_map(|(h, r)| (h.to_owned(), r)), 0..24)
    }

    proptest! {
        /// The index answers as a reading of every rule would.
        #[test]
        fn index_is_the_slow_reading(
            rows in rows(),
            host in prop::sample::select(vec!["a.x", "b.x", "x", "c.x", "b.a.x", "y"]),
            path in "(/(a|b|ab|A|c)){0,5}/?",
        ) {
            let path = if path.is_empty() { "/" } else { &path };
            let named: Vec<_> = rows.iter().enumerate().map(|(i, (h, r))| (h, r, i.to_string())).collect();
            let mut seen = std::collections::HashSet::new();
            let rows: Vec<_> = named
                .iter()
                .filter(|(h, r, _)| seen.insert((h.as_str(), r.replace("%41", "A"))))
                .map(|(h, r, n)| (h.as_str(), r.as_str(), n.as_str()))
                .collect();
            let routing = routing(&rows);
            let covering: Vec<_> = routing.hosts.iter().filter(|h| h.host.matches(host)).collect();
            let rule = covering.iter().find_map(|h| {
                let covers = |(_, path_of): &(usize, RulePath)| path_of.covers(path);
                let all = h.routes.iter().map(|r| RulePath::new(&r.path)).enumerate().filter(covers);
                let (patterns, plain): (Vec<_>, Vec<_>) = all.partition(|(_, p)| matches!(p, RulePath::Regex(_)));
                let best = plain.into_iter().max_by_key(|(_, p)| p.rank(path));
                let first = patterns.into_iter().next();
                let at = match (best, first) {
                    (Some((_, RulePath::Exact(exact))), _) => h.routes.iter().position(|r| {
                        matches!(RulePath::new(&r.path), RulePath::Exact(other) if other == exact)
                    }),
                    (Some((prefix, _)), Some((pattern, _))) => Some(prefix.min(pattern)),
                    (best, first) => best.or(first).map(|(at, _)| at),
                };
                at.map(|at| &h.routes[at])
            });
            let expect = rule.or_else(|| covering.iter().find_map(|h| h.fallback.as_deref()));
            let table = RouteTable::build(&routing);
            let found = table.find(Some(host), path).map(|f| f.route);
            prop_assert_eq!(found, expect);
            let explained = table.explain(Some(host), path);
            let all: usize = routing.hosts.iter().map(|h| h.routes.len() + usize::from(h.fallback.is_some())).sum();
            prop_assert_eq!(explained.len(), all);
            let winner = explained.first().filter(|c| c.outcome == crate::route::Outcome::Wins);
            prop_assert_eq!(winner.map(|c| c.route), expect);
        }
    }
}
