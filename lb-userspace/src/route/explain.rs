//! Why a request takes the route it takes: every candidate with its outcome.

use std::fmt;

use serde::Serialize;

use crate::model::{HostPattern, Route};

use super::RouteTable;
use super::path::RulePath;

/// Why a candidate won or lost. The order is that of interest: winner first, nearest losers next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Takes the request.
    Wins,
    /// Same path and type, but an older Ingress has them.
    OlderIngressWins,
    /// Covers the path, but an Exact rule of this host does too.
    ExactWins,
    /// Covers the path, but a longer path of this host does too. Of `/foo` and `/foo/`, the one
    /// that is nearer to what was asked counts as the longer.
    LongerPathWins,
    /// Covers the path, but another regular expression does too, is as long and goes before it.
    EarlierPatternWins,
    /// Covers host and path, but a more specific host does too.
    LessSpecificHost,
    /// A default backend, and a rule or the default backend of a more specific host wins.
    OnlyDefault,
    /// The host is covered, the path is not.
    PathDiffers,
    /// The host is not covered.
    HostDiffers,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wins => "wins",
            Self::OlderIngressWins => "an older Ingress has the same host and path",
            Self::ExactWins => "an Exact path wins over this one",
            Self::LongerPathWins => "a longer path wins",
            Self::EarlierPatternWins => "a regular expression of the same length goes before it",
            Self::LessSpecificHost => "a more specific host wins",
            Self::OnlyDefault => "a default backend, and something better matches",
            Self::PathDiffers => "the path is not covered",
            Self::HostDiffers => "the host is not covered",
        })
    }
}

/// One route that could have taken a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate<'a> {
    /// The host pattern it belongs to.
    pub host: &'a HostPattern,
    /// The route.
    pub route: &'a Route,
    /// It takes what no rule matches.
    pub fallback: bool,
    /// Why it won or lost.
    pub outcome: Outcome,
}

impl RouteTable {
    /// Every route of the table with its outcome for a request, winner first. Host and path are
    /// those of [`RouteTable::find`]. Costs time and memory in the number of routes: for people,
    /// not for requests.
    pub fn explain(&self, host: Option<&str>, path: &str) -> Vec<Candidate<'_>> {
        let winner = self.find(host, path);
        let wins = |route: &Route| winner.is_some_and(|found| std::ptr::eq(found.route, route));
        let winning_rule = winner.map(|found| RulePath::new(&found.route.path));
        let mut all = Vec::new();
        for rules in self.hosts().iter().map(|host| &host.rules) {
            let here = match host {
                Some(host) => rules.host.matches(host),
                None => rules.host == HostPattern::Any,
            };
            let same_host = winner.is_some_and(|found| *found.host == rules.host);
            let outcome = |route: &Route, shadowed: bool| match () {
                () if !here => Outcome::HostDiffers,
                () if wins(route) => Outcome::Wins,
                () if !RulePath::new(&route.path).covers(path) => Outcome::PathDiffers,
                () if shadowed => Outcome::OlderIngressWins,
                () if !same_host => Outcome::LessSpecificHost,
                () if matches!(winning_rule, Some(RulePath::Exact(_))) => Outcome::ExactWins,
                () if winning_rule.as_ref().is_some_and(|rule| rule.same_length(&route.path)) => {
                    Outcome::EarlierPatternWins
                }
                () => Outcome::LongerPathWins,
            };
            let candidate =
                |route, fallback, outcome| Candidate { host: &rules.host, route, fallback, outcome };
            all.extend(rules.routes.iter().map(|route| candidate(route, false, outcome(route, false))));
            all.extend(rules.shadowed.iter().map(|route| candidate(route, false, outcome(route, true))));
            all.extend(rules.fallback.as_deref().into_iter().map(|route| {
                let outcome = match () {
                    () if !here => Outcome::HostDiffers,
                    () if wins(route) => Outcome::Wins,
                    () => Outcome::OnlyDefault,
                };
                candidate(route, true, outcome)
            }));
        }
        all.sort_by(|a, b| {
            let rank = |c: &Candidate<'_>| RulePath::new(&c.route.path).rank(path);
            a.outcome
                .cmp(&b.outcome)
                .then_with(|| a.host.cmp(b.host))
                // Between hosts that differ anyway the manifest's order says more than path length.
                .then_with(|| match a.outcome {
                    Outcome::HostDiffers => std::cmp::Ordering::Equal,
                    _ => rank(b).cmp(&rank(a)),
                })
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::route::table::tests::{route, routing};

    #[test]
    fn every_candidate_says_why() {
        let mut routing = routing(&[
            ("foo.com", "Prefix /a", "long"),
            ("foo.com", "Prefix /", "root"),
            ("foo.com", "Exact /a", "exact"),
            ("foo.com", "Prefix /b", "b"),
            ("*.com", "Prefix /a", "wild"),
            ("", "Prefix /", "any"),
            ("", "fallback", "default"),
            ("bar.com", "Prefix /a", "bar"),
        ]);
        let foo = routing.hosts.iter_mut().find(|h| h.host.to_string() == "foo.com").expect("foo.com");
        Arc::get_mut(foo).expect("not shared yet").shadowed.push(route("Exact /a", "younger"));
        let table = RouteTable::build(&routing);
        let check = |host, path, expect: &[(&str, Outcome)]| {
            let got = table.explain(host, path);
            let got: Vec<_> = got.iter().map(|c| (&*c.route.ingress.name, c.outcome)).collect();
            assert_eq!(got, expect, "{host:?} {path}");
        };
        use Outcome::*;
        check(
            Some("foo.com"),
            "/a",
            &[
                ("exact", Wins),
                ("younger", OlderIngressWins),
                ("long", ExactWins),
                ("root", ExactWins),
                ("wild", LessSpecificHost),
                ("any", LessSpecificHost),
                ("default", OnlyDefault),
                ("b", PathDiffers),
                ("bar", HostDiffers),
            ],
        );
        check(
            Some("foo.com"),
            "/a/x",
            &[
                ("long", Wins),
                ("root", LongerPathWins),
                ("wild", LessSpecificHost),
                ("any", LessSpecificHost),
                ("default", OnlyDefault),
                ("exact", PathDiffers),
                ("younger", PathDiffers),
                ("b", PathDiffers),
                ("bar", HostDiffers),
            ],
        );
        check(
            None,
            "*",
            &[
                ("default", Wins),
                ("any", PathDiffers),
                ("bar", HostDiffers),
                ("exact", HostDiffers),
                ("long", HostDiffers),
                ("b", HostDiffers),
                ("root", HostDiffers),
                ("younger", HostDiffers),
                ("wild", HostDiffers),
            ],
        );
    }
}
