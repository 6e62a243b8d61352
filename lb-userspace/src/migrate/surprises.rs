//! What ingress-nginx does unasked, found where it does it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::nginx::{Answer, Asks, Location, Nginx, Rule, Server};
use super::report::{Changes, Example, Kind, Place, Surprise};
use super::sample::sample;
use super::{Outcome, PREFIX, Study};
use crate::model::{Backend, HostPattern, ObjectKey, RoutePolicy, Snapshot};
use crate::objects::{ANNOTATION_PREFIXES, excerpt};
use crate::route::RouteTable;

/// How many places one surprise lists; the others are counted.
const MOST_PLACES: usize = 50;

/// How many locations of a host are looked at for each kind: the model compares a request with all of
/// them, and an Ingress may have 10,000.
const MOST_LOCATIONS: usize = 200;

/// All surprises of all hosts, sorted by kind and host.
pub(super) fn find(study: &Study<'_>, nginx: &Nginx, tables: &[RouteTable; 2]) -> Vec<Surprise> {
    let look = Look { study, nginx, tables };
    let mut surprises: Vec<_> = nginx.servers().flat_map(|server| look.at(server)).collect();
    surprises.sort_by(|a, b| (a.kind, &a.host).cmp(&(b.kind, &b.host)));
    surprises
}

struct Look<'a> {
    study: &'a Study<'a>,
    nginx: &'a Nginx,
    /// With Kubernetes' defaults, with ingress-nginx's.
    tables: &'a [RouteTable; 2],
}

impl Look<'_> {
    fn at(&self, server: &Server) -> Vec<Surprise> {
        let paths = |kind, select: &dyn Fn(&Location) -> bool, show: &dyn Fn(&Location) -> Vec<String>| {
            let places = self.places(server, select, show);
            (!places.is_empty()).then(|| surprise(kind, server, places))
        };
        let asks = |asks| move |location: &Location| location.rule.asks == asks;
        let no_regex = !server.regex;
        let found = [
            paths(
                Kind::HostWideRegex,
                // `/` covers everything in either reading.
                &|l| server.regex && l.rule.asks.is_none() && l.text != "/",
                &|l| beyond(&l.text),
            ),
            paths(Kind::RegexPrefix, &asks(Some(Asks::UseRegex)), &|l| beyond_pattern(&l.text)),
            paths(Kind::RewriteImpliesRegex, &asks(Some(Asks::Rewrite)), &|l| beyond_pattern(&l.text)),
            self.trailing_slash(server),
            paths(Kind::Normalisation, &|l| elements(&l.text) > 1, &|l| escaped(&l.text)),
            paths(
                Kind::PrefixByLetters,
                &|l| no_regex && !matches!(&*l.rule.path_type, "Exact" | "Prefix") && !l.text.ends_with('/'),
                &|l| vec![format!("{}xyz", l.text)],
            ),
            self.fall_through(server),
            self.path_parameters(server),
            self.defaults(server),
        ];
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        found.extend(self.other_rules(server, &found));
        found
    }

    /// The selected locations' rules, once each. Those of which requests are known that would show it,
    /// but which change nothing anywhere, are still listed where nginx takes those requests: the path is
    /// relied on to do that.
    fn places(
        &self,
        server: &Server,
        select: &dyn Fn(&Location) -> bool,
        show: &dyn Fn(&Location) -> Vec<String>,
    ) -> Vec<Place> {
        let mut seen = BTreeSet::new();
        let selected = server.locations.iter().filter(|location| select(location));
        selected
            .take(MOST_LOCATIONS)
            .filter_map(|location| {
                let takes = |path: &String| self.taken_by(server, path, &location.rule);
                let examples: Vec<_> =
                    show(location).into_iter().filter(takes).map(|path| self.example(server, path)).collect();
                let changing = |example: &&Example| example.changes() != Changes::default();
                let example = examples.iter().find(changing).or(examples.first()).cloned();
                (example.is_some() || location.is_opaque())
                    .then(|| place(&location.rule, example))
                    .filter(|place| seen.insert((place.ingress.clone(), place.field.clone())))
            })
            .collect()
    }

    fn trailing_slash(&self, server: &Server) -> Option<Surprise> {
        let redirected = |location: &&Location| {
            let path = location.text.strip_suffix('/').unwrap_or_default();
            !path.is_empty()
                && matches!(self.nginx.find(Some(&host_for(&server.host)), path), Answer::SlashRedirect(_))
        };
        let mut seen = BTreeSet::new();
        let places: Vec<_> = server
            .locations
            .iter()
            .filter(redirected)
            .take(MOST_LOCATIONS)
            .filter(|location| seen.insert(location.text.clone()))
            .map(|location| {
                let path = location.text.trim_end_matches('/').to_owned();
                place(&location.rule, Some(self.example(server, path)))
            })
            .collect();
        (!places.is_empty()).then(|| surprise(Kind::TrailingSlash, server, places))
    }

    /// A request that no rule of the host takes, but a rule without a host (or of a wildcard) does here.
    fn fall_through(&self, server: &Server) -> Option<Surprise> {
        if server.host == HostPattern::Any {
            return None;
        }
        let host = host_for(&server.host);
        let covering = self.nginx.covering(&host).filter(|other| other.host != server.host);
        let locations = covering.flat_map(|other| &other.locations).take(MOST_LOCATIONS);
        let examples = locations.map(|location| {
            let path = sample(&location.text).unwrap_or_else(|| location.text.clone());
            (location, self.example(server, path))
        });
        let places: Vec<_> = examples
            .filter(|(_, example)| {
                let nobody = example.ingress_nginx == Outcome::NotFound;
                nobody && example.changes() != Changes::default()
            })
            .map(|(location, example)| place(&location.rule, Some(example)))
            .collect();
        (!places.is_empty()).then(|| surprise(Kind::HostFallThrough, server, places))
    }

    /// Requests that come near to a restricted path of Prefix or Exact and go to another Ingress: elements are
    /// compared whole, parameters and all, but many servers cut these off and serve the restricted path.
    fn path_parameters(&self, server: &Server) -> Option<Surprise> {
        let restricted = |key: &ObjectKey| {
            let ingress = self.study.objects.ingresses.get(key);
            ingress
                .is_some_and(|ingress| ingress.metadata.annotations.iter().any(|(name, _)| restricts(name)))
        };
        let mut seen = BTreeSet::new();
        let locations = server.locations.iter().filter(|location| {
            let Rule { path, path_type, ingress, .. } = &location.rule;
            elements(path) > 0 && matches!(&**path_type, "Exact" | "Prefix") && restricted(ingress)
        });
        let places: Vec<_> = locations
            .filter(|location| seen.insert((&location.rule.ingress, &location.rule.place)))
            .take(MOST_LOCATIONS)
            .filter_map(|location| {
                let Rule { ingress, path, .. } = &location.rule;
                let example = self.example(server, format!("{};x", path.trim_end_matches('/')));
                let own = ingress.to_string();
                let around =
                    |outcome: &Outcome| matches!(outcome, Outcome::Rule { ingress, .. } if *ingress != own);
                (around(&example.sluice_kubernetes) || around(&example.sluice_ingress_nginx))
                    .then(|| place(&location.rule, Some(example)))
            })
            .collect();
        (!places.is_empty()).then(|| surprise(Kind::PathParameters, server, places))
    }

    /// The plainest requests for each path, for whatever the other kinds don't explain.
    fn other_rules(&self, server: &Server, explained: &[Surprise]) -> Option<Surprise> {
        let mut seen: BTreeSet<_> = explained
            .iter()
            .flat_map(|surprise| &surprise.places)
            .filter_map(|place| place.example.as_ref().map(|example| example.path.clone()))
            .collect();
        let mut places = Vec::new();
        for location in server.locations.iter().take(MOST_LOCATIONS) {
            let Some(path) = sample(&location.text).filter(|path| path.starts_with('/')) else { continue };
            let below = format!("{}/x", path.trim_end_matches('/'));
            // What lies below a regular expression is the other kinds' business.
            let below = (!server.regex).then_some(below);
            let paths = [Some(path), below].into_iter().flatten();
            let examples = paths.filter(|path| seen.insert(path.clone()));
            let example = examples.map(|path| self.example(server, path)).find(|example| {
                let answered = !matches!(example.ingress_nginx, Outcome::NotFound | Outcome::SlashRedirect);
                answered && example.changes() != Changes::default()
            });
            places.extend(example.map(|example| place(&location.rule, Some(example))));
        }
        (!places.is_empty()).then(|| surprise(Kind::OtherRule, server, places))
    }

    /// What ingress-nginx's defaults add to the policies of a host's routes.
    fn defaults(&self, server: &Server) -> Option<Surprise> {
        let mut settings = BTreeSet::new();
        let mut places = Vec::new();
        for (plain, nginx) in pairs(self.study.kubernetes, self.study.ingress_nginx, &server.host) {
            let differing = differing(plain.1, nginx);
            if differing.is_empty() {
                continue;
            }
            settings.extend(differing);
            let (ingress, rule) = plain.0;
            let found = server.locations.iter().find(|location| {
                location.rule.ingress.to_string() == ingress && *location.rule.place == *rule
            });
            places.extend(found.map(|location| place(&location.rule, None)));
        }
        if settings.is_empty() {
            return None;
        }
        let mut surprise = surprise(Kind::Defaults, server, places);
        surprise.changes.kubernetes = true;
        let list = settings.into_iter().collect::<Vec<_>>().join(", ");
        surprise.ingress_nginx = format!("{} Here: {list}.", surprise.ingress_nginx);
        Some(surprise)
    }

    fn taken_by(&self, server: &Server, path: &str, rule: &Rule) -> bool {
        match self.nginx.find(Some(&host_for(&server.host)), path) {
            Answer::Rule(taken) => taken.ingress == rule.ingress && taken.place == rule.place,
            _ => false,
        }
    }

    fn example(&self, server: &Server, path: String) -> Example {
        let host = host_for(&server.host);
        let sluice = |table| Outcome::of_sluice(table, Some(&host), &path);
        Example {
            ingress_nginx: Outcome::of_nginx(&self.nginx.find(Some(&host), &path)),
            sluice_kubernetes: sluice(&self.tables[0]),
            sluice_ingress_nginx: sluice(&self.tables[1]),
            path,
        }
    }
}

/// Whether an annotation keeps somebody out.
fn restricts(name: &str) -> bool {
    let name = ANNOTATION_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or_default();
    ["auth-url", "auth-type", "auth-tls-secret"].contains(&name) || name.ends_with("list-source-range")
}

/// A host that the pattern covers and, most likely, no other does.
fn host_for(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Wildcard(suffix) => format!("sluice-check.{suffix}"),
        HostPattern::Any => "sluice-check.invalid".to_owned(),
    }
}

/// Requests that a literal path covers only as a case-insensitive regular expression without an end.
fn beyond(path: &str) -> Vec<String> {
    let stem = path.trim_end_matches('/');
    let mut requests = beyond_pattern(path);
    requests.push(format!("{stem}xyz"));
    requests
}

fn beyond_pattern(pattern: &str) -> Vec<String> {
    let Some(text) = sample(pattern) else { return Vec::new() };
    let requests = [format!("{}xyz", flip_case(&text)), flip_case(&text), format!("{text}xyz")];
    requests.into_iter().filter(|request| *request != text && request.starts_with('/')).collect()
}

fn flip_case(text: &str) -> String {
    let flip = |c: char| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    text.chars().map(flip).collect()
}

fn elements(path: &str) -> usize {
    path.split('/').filter(|element| !element.is_empty()).count()
}

/// The path with its last inner slash escaped.
fn escaped(path: &str) -> Vec<String> {
    let text = sample(path).filter(|text| text.starts_with('/')).unwrap_or_else(|| path.to_owned());
    let inner = text.trim_end_matches('/');
    match inner.rsplit_once('/') {
        Some((before, last)) if !before.is_empty() => {
            vec![format!("{before}%2F{last}{}", &text[inner.len()..])]
        }
        _ => Vec::new(),
    }
}

fn place(rule: &Rule, example: Option<Example>) -> Place {
    Place {
        ingress: rule.ingress.to_string(),
        field: format!("spec.{}.path", rule.place),
        path: excerpt(&rule.path).into_owned(),
        path_type: rule.path_type.to_string(),
        example,
    }
}

fn surprise(kind: Kind, server: &Server, mut places: Vec<Place>) -> Surprise {
    let changes = places.iter().filter_map(|place| place.example.as_ref()).map(Example::changes);
    let changes = changes.fold(Changes::default(), |all, one| Changes {
        kubernetes: all.kubernetes | one.kubernetes,
        ingress_nginx: all.ingress_nginx | one.ingress_nginx,
    });
    let more = places.len().saturating_sub(MOST_PLACES);
    // What changes comes first, so that the limit hides the least.
    places.sort_by_key(|place| {
        !place.example.as_ref().is_some_and(|example| example.changes() != Changes::default())
    });
    places.truncate(MOST_PLACES);
    let causes = if kind == Kind::HostWideRegex { causes(server) } else { Vec::new() };
    let [ingress_nginx, sluice_kubernetes, mut sluice_ingress_nginx, remedy] = words(kind);
    if sluice_ingress_nginx == SAME && changes.ingress_nginx {
        sluice_ingress_nginx = NEARLY;
    }
    let [ingress_nginx, sluice_kubernetes, sluice_ingress_nginx, remedy] =
        [ingress_nginx, sluice_kubernetes, sluice_ingress_nginx, remedy].map(str::to_owned);
    Surprise {
        kind,
        host: server.host.to_string(),
        causes,
        changes,
        ingress_nginx,
        sluice_kubernetes,
        sluice_ingress_nginx,
        remedy,
        places,
        more,
    }
}

/// The Ingresses that make the host's paths regular expressions.
fn causes(server: &Server) -> Vec<String> {
    let causes: BTreeSet<_> = server
        .locations
        .iter()
        .filter_map(|location| {
            let annotation = match location.rule.asks? {
                Asks::UseRegex => "use-regex",
                Asks::Rewrite => "rewrite-target",
            };
            Some(format!("Ingress {} metadata.annotations[{PREFIX}{annotation}]", location.rule.ingress))
        })
        .collect();
    causes.into_iter().collect()
}

/// The rule of a route, and its policy.
type Policy<'a> = ((String, &'a str), &'a RoutePolicy);

/// The policies of the same rule in both snapshots.
fn pairs<'a>(
    plain: &'a Snapshot,
    nginx: &'a Snapshot,
    host: &HostPattern,
) -> Vec<(Policy<'a>, &'a RoutePolicy)> {
    let routes = |snapshot: &'a Snapshot| {
        let at = snapshot.routing.hosts.binary_search_by(|one| one.host.cmp(host));
        let host = at.ok().map(|at| &snapshot.routing.hosts[at]);
        let all = host.into_iter().flat_map(|host| host.all_routes());
        // A redirect to the slash has its rule's name, but is a surprise of its own.
        all.filter(|route| route.backend != Backend::Answered)
    };
    let key = |route: &'a crate::model::Route| (route.ingress.to_string(), &*route.rule);
    let nginx: std::collections::BTreeMap<_, _> =
        routes(nginx).map(|route| (key(route), &*route.policy)).collect();
    routes(plain).filter_map(|route| Some(((key(route), &*route.policy), *nginx.get(&key(route))?))).collect()
}

/// The names of the settings in which two policies differ. How a path is rewritten is no default: it
/// follows from how it is matched.
fn differing(a: &RoutePolicy, b: &RoutePolicy) -> BTreeSet<String> {
    if a == b {
        return BTreeSet::new();
    }
    let fields = |policy: &RoutePolicy| match serde_json::to_value(policy) {
        Ok(Value::Object(fields)) => fields,
        _ => Default::default(),
    };
    let (a, b) = (fields(a), fields(b));
    let names = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name) && *name != "rewrite");
    names.map(|name| setting(name)).collect()
}

/// What a setting is called by those who ask for it.
fn setting(field: &str) -> String {
    match field {
        "https_redirect" => "plain requests are sent to https (ssl-redirect)",
        "hsts" => "Strict-Transport-Security in answers over https",
        "body" => "bodies of requests are limited (proxy-body-size)",
        "upstream" => "time limits and retries (proxy-*-timeout, proxy-next-upstream)",
        "limits" => "request rates",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

const SAME: &str = "The same as ingress-nginx.";
const NEARLY: &str = "The same as ingress-nginx, but for the requests below that show otherwise.";

/// What ingress-nginx does, what Sluice does with either default, what to do.
fn words(kind: Kind) -> [&'static str; 4] {
    match kind {
        Kind::HostWideRegex => [
            "Every path of the host is a regular expression, whatever its pathType says, because one Ingress \
             asks for that: Exact and Prefix paths of other Ingresses match what begins like them, in \
             upper and lower case.",
            "Each path is what its own Ingress says.",
            SAME,
            "Clients that use these spellings need ingress-nginx's defaults, or paths of their own. Else give \
             the Ingress with the regular expressions a host of its own.",
        ],
        Kind::RegexPrefix => [
            "The expression has to match only the begin of the path, and upper and lower case are the same.",
            "Only paths of type ImplementationSpecific are expressions; these match in the same way.",
            SAME,
            "End the expression with $ if longer paths should not match. What clients ask for, `sluice check \
             --replay` shows.",
        ],
        Kind::RewriteImpliesRegex => [
            "rewrite-target makes the path a regular expression without being asked to: whatever begins like \
             it, in upper and lower case, is taken and rewritten.",
            "Only paths of type ImplementationSpecific become expressions. Exact and Prefix stay what they are, \
             and what they cover is rewritten.",
            SAME,
            "Where only whole elements are meant, use Prefix and Kubernetes' defaults. Where the pattern is \
             wanted, say use-regex: \"true\" and pathType: ImplementationSpecific.",
        ],
        Kind::TrailingSlash => [
            "The path without its slash at the end is answered with 301 to the path with it.",
            "A Prefix path with a slash covers the path without it, which goes to the backend; an Exact path \
             doesn't.",
            SAME,
            "Applications that make relative links count on the redirect: let them redirect, or keep \
             ingress-nginx's defaults.",
        ],
        Kind::Normalisation => [
            "The path is decoded, %2F too, its dots are resolved and slashes merged before it is compared; \
             the endpoint gets it as the client wrote it.",
            "Dots and slashes are treated alike, but %2F stays what it is and never separates elements; the \
             endpoint gets the very path that was compared.",
            "The same as with Kubernetes' defaults: what is compared must be what is forwarded.",
            "Clients that escape slashes need a rule that covers the path in front of them. Applications \
             that count on doubled slashes or dots in what they get have to take them from the query.",
        ],
        Kind::PrefixByLetters => [
            "The path covers whatever begins with its letters: /foo covers /foobar.",
            "ImplementationSpecific is Prefix, element by element: /foo does not cover /foobar.",
            "As its row says; element by element unless the path is a regular expression.",
            "Add the longer paths that clients use as rules of their own, or use use-regex.",
        ],
        Kind::HostFallThrough => [
            "A request that no path of its host takes gets 404 or the default backend.",
            "It goes on to rules of a wildcard host or without a host that cover it, as the API says.",
            "The same as with Kubernetes' defaults.",
            "Give the host a rule for / if it should not.",
        ],
        Kind::PathParameters => [
            "A Prefix or Exact path /admin does not cover /admin;x, which goes to whatever rule covers the rest. \
             Servers that cut path parameters off (Tomcat, Jetty and others) serve /admin for it, and nobody has \
             asked what the Ingress of /admin asks for.",
            "Elements are compared whole, parameters and all: /admin does not cover /admin;x.",
            "Elements are compared whole unless the host's paths are regular expressions, which cover what begins \
             like them.",
            "Restrict access on the Ingress of the rule that takes these requests, too, or have the application \
             ask for itself.",
        ],
        Kind::OtherRule => [
            "One rule takes the request.",
            "Another one does, or none.",
            "As the requests below show.",
            "Look at the paths: give the request a rule of its own, or change the type of the one that should \
             take it.",
        ],
        Kind::Defaults => [
            "Settings apply that nobody asked for.",
            "Only what annotations ask for applies.",
            SAME,
            "Write down as annotations what should stay, or keep ingress-nginx's defaults.",
        ],
    }
}
