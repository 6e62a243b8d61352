//! ingress-nginx as a model: the server blocks and locations that it writes for Ingresses, and which
//! location takes a request.
//!
//! Made after the controller's documentation (v1.11) and nginx's own (`location`, `server_name`,
//! `merge_slashes`): each host is a server by itself; a path of type Prefix becomes two locations, the
//! exact path and all below it; one path that is a regular expression, or is rewritten, makes all
//! locations of its server `~* "^path"`, longest path first.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::{PREFIX, uri};
use crate::model::{HostPattern, ObjectKey};
use crate::objects::{Ingress, Objects};
use crate::translate::CONTROLLER;

/// `spec.controller` of ingress-nginx's classes.
pub const NGINX_CONTROLLER: &str = "k8s.io/ingress-nginx";

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// No path in use is as large when compiled; a limit keeps hostile ones from filling the memory.
const REGEX_SIZE: usize = 1 << 20;

/// All servers of a cluster's ingress-nginx.
pub struct Nginx {
    servers: BTreeMap<HostPattern, Server>,
    /// Names that `server-alias` adds, and whose server they share.
    aliases: BTreeMap<HostPattern, HostPattern>,
    /// The Ingresses that it serves, in the order in which they win.
    ingresses: Vec<(ObjectKey, Arc<Ingress>)>,
}

/// One host.
pub struct Server {
    /// Whose requests it takes.
    pub host: HostPattern,
    /// In the order in which they are written.
    pub locations: Vec<Location>,
    /// All locations are regular expressions.
    pub regex: bool,
    /// Takes what no location takes.
    pub fallback: Option<Rule>,
    /// The types and paths that locations were made of.
    taken: BTreeSet<(String, String)>,
}

/// Why a path is a regular expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    /// `use-regex`.
    UseRegex,
    /// `rewrite-target` to something else than the path.
    Rewrite,
}

/// A path of an Ingress.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whose.
    pub ingress: ObjectKey,
    /// `rules[0].http.paths[1]`, `defaultBackend`.
    pub place: Arc<str>,
    /// As written, `/` for none.
    pub path: Arc<str>,
    /// As written.
    pub path_type: Arc<str>,
    /// Whether its own Ingress makes it a regular expression.
    pub asks: Option<Asks>,
}

/// A location of a server.
pub struct Location {
    /// Where it comes from.
    pub rule: Rule,
    /// What is compared with the decoded path, without the modifier.
    pub text: String,
    matches: Match,
}

enum Match {
    /// `location = text`.
    Exact,
    /// `location text`: whatever begins with these letters.
    Prefix,
    /// `location ~* "^text"`; `None` when it does not compile here.
    Regex(Option<Regex>),
}

/// What becomes of a request.
pub enum Answer<'a> {
    /// The rule takes it.
    Rule(&'a Rule),
    /// 301 to the same path with a slash, for this location's sake.
    SlashRedirect(&'a Rule),
    /// 404, or the controller's own default backend.
    NotFound,
    /// 400.
    BadRequest,
}

impl Nginx {
    /// The configuration for all Ingresses that are ingress-nginx's, Sluice's already, of a class in
    /// `adopt`, or of no class that anybody defines.
    pub fn of(objects: &Objects, adopt: &[String]) -> Self {
        let mut ingresses: Vec<_> = objects
            .ingresses
            .iter()
            .filter(|(_, ingress)| serves(objects, ingress, adopt))
            .map(|(key, ingress)| (key.clone(), Arc::clone(ingress)))
            .collect();
        ingresses.sort_by_key(|(_, ingress)| ingress.metadata.created.unwrap_or(i64::MAX));
        let mut nginx = Self { servers: BTreeMap::new(), aliases: BTreeMap::new(), ingresses };
        for at in 0..nginx.ingresses.len() {
            let (key, ingress) = nginx.ingresses[at].clone();
            if annotation(&ingress, "canary") != Some("true") {
                nginx.add(&key, &ingress);
            }
        }
        nginx.aliases.retain(|alias, _| !nginx.servers.contains_key(alias));
        nginx.servers.values_mut().for_each(Server::finish);
        nginx
    }

    /// The Ingresses that it serves.
    pub fn ingresses(&self) -> impl Iterator<Item = (&ObjectKey, &Ingress)> {
        self.ingresses.iter().map(|(key, ingress)| (key, &**ingress))
    }

    /// All servers, exact names first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// The servers of a wildcard, and of no name, that cover a host.
    pub fn covering(&self, host: &str) -> impl Iterator<Item = &Server> {
        let wildcard = host.split_once('.').map(|(_, suffix)| HostPattern::Wildcard(suffix.into()));
        [wildcard, Some(HostPattern::Any)]
            .into_iter()
            .flatten()
            .filter_map(|pattern| self.servers.get(&pattern))
    }

    /// What becomes of a request for `target` on `host` (in its normal form).
    pub fn find(&self, host: Option<&str>, target: &str) -> Answer<'_> {
        let Some(path) = uri::decode(target) else { return Answer::BadRequest };
        match self.server(host) {
            Some(server) => server.find(&path),
            None => Answer::NotFound,
        }
    }

    /// nginx takes one server for a request and stays there.
    fn server(&self, host: Option<&str>) -> Option<&Server> {
        let named = |host: &str| {
            let exact = HostPattern::Exact(host.into());
            let wildcard = host.split_once('.').map(|(_, suffix)| HostPattern::Wildcard(suffix.into()));
            [Some(exact), wildcard].into_iter().flatten().find_map(|pattern| {
                let pattern = self.aliases.get(&pattern).unwrap_or(&pattern);
                self.servers.get(pattern)
            })
        };
        host.and_then(named).or_else(|| self.servers.get(&HostPattern::Any))
    }

    fn add(&mut self, key: &ObjectKey, ingress: &Ingress) {
        let spec = &ingress.spec;
        let fallback = spec.default_backend.as_ref().map(|_| Rule {
            ingress: key.clone(),
            place: "defaultBackend".into(),
            path: "/".into(),
            path_type: "Prefix".into(),
            asks: None,
        });
        let rules = &spec.rules;
        if let (true, Some(fallback)) = (rules.is_empty(), &fallback) {
            self.host(HostPattern::Any).fallback.get_or_insert_with(|| fallback.clone());
        }
        let target = annotation(ingress, "rewrite-target").unwrap_or_default();
        let use_regex = annotation(ingress, "use-regex") == Some("true");
        for (r, rule) in rules.iter().enumerate() {
            let Ok(host) = HostPattern::parse(&rule.host) else { continue };
            for alias in annotation(ingress, "server-alias").unwrap_or_default().split(',') {
                if let Ok(alias @ (HostPattern::Exact(_) | HostPattern::Wildcard(_))) =
                    HostPattern::parse(alias.trim())
                {
                    self.aliases.entry(alias).or_insert_with(|| host.clone());
                }
            }
            let server = self.host(host);
            if let Some(fallback) = &fallback {
                server.fallback.get_or_insert_with(|| fallback.clone());
            }
            for (p, path) in rule.paths.iter().flatten().enumerate() {
                let text = if path.path.is_empty() { "/" } else { &*path.path };
                // The older Ingress keeps a path that two have.
                if !server.taken.insert((path.path_type.to_string(), text.to_owned())) {
                    continue;
                }
                let asks = match () {
                    () if use_regex => Some(Asks::UseRegex),
                    () if !target.is_empty() && target != text => Some(Asks::Rewrite),
                    () => None,
                };
                let rule = Rule {
                    ingress: key.clone(),
                    place: format!("rules[{r}].http.paths[{p}]").into(),
                    path: text.into(),
                    path_type: (*path.path_type).into(),
                    asks,
                };
                server.locations.push(Location { text: text.to_owned(), rule, matches: Match::Prefix });
            }
        }
    }

    fn host(&mut self, host: HostPattern) -> &mut Server {
        let empty = |host: &HostPattern| Server {
            host: host.clone(),
            locations: Vec::new(),
            regex: false,
            fallback: None,
            taken: BTreeSet::new(),
        };
        self.servers.entry(host).or_insert_with_key(empty)
    }
}

impl Server {
    /// From the Ingresses' paths to nginx's locations.
    fn finish(&mut self) {
        let written = std::mem::take(&mut self.locations);
        let exact: BTreeSet<Arc<str>> = written
            .iter()
            .filter(|location| &*location.rule.path_type == "Exact")
            .map(|location| location.rule.path.clone())
            .collect();
        self.regex = written.iter().any(|location| location.rule.asks.is_some());
        for Location { rule, text, .. } in written {
            let as_prefix = &*rule.path_type == "Prefix" && text != "/" && rule.asks.is_none();
            if !as_prefix {
                let matches = if &*rule.path_type == "Exact" { Match::Exact } else { Match::Prefix };
                self.locations.push(Location { rule, text, matches });
                continue;
            }
            if !exact.contains(&rule.path) {
                self.locations.push(Location {
                    rule: rule.clone(),
                    text: text.clone(),
                    matches: Match::Exact,
                });
            }
            let text = if text.ends_with('/') { text } else { text + "/" };
            self.locations.push(Location { rule, text, matches: Match::Prefix });
        }
        if self.regex {
            self.locations.sort_by_key(|location| std::cmp::Reverse(location.text.len()));
            for location in &mut self.locations {
                let regex = RegexBuilder::new(&format!("^{}", location.text))
                    .case_insensitive(true)
                    // As nginx has it: letters of other scripts have no case.
                    .unicode(false)
                    .size_limit(REGEX_SIZE)
                    .build();
                location.matches = Match::Regex(regex.ok());
            }
        }
    }

    fn find(&self, path: &str) -> Answer<'_> {
        match self.location(path) {
            Found::Location(location) => Answer::Rule(&location.rule),
            Found::Redirect(location) => Answer::SlashRedirect(&location.rule),
            Found::Nothing => self.fallback.as_ref().map_or(Answer::NotFound, Answer::Rule),
        }
    }

    fn location(&self, path: &str) -> Found<'_> {
        let first = |matches: &dyn Fn(&Location) -> bool| self.locations.iter().find(|l| matches(l));
        if self.regex {
            let found = first(
                &|l| matches!(&l.matches, Match::Regex(Some(regex)) if regex.is_match(path.as_bytes())),
            );
            return found.map_or(Found::Nothing, Found::Location);
        }
        if let Some(exact) = first(&|l| matches!(l.matches, Match::Exact) && l.text == path) {
            return Found::Location(exact);
        }
        let longest = self
            .locations
            .iter()
            .filter(|l| matches!(l.matches, Match::Prefix) && path.starts_with(&*l.text))
            .max_by_key(|l| l.text.len());
        // `location /foo/` with proxy_pass redirects `/foo`, unless that is a location itself.
        let slash = |l: &Location| l.text.strip_suffix('/') == Some(path);
        match (longest, first(&slash)) {
            (Some(longest), _) if longest.text == path => Found::Location(longest),
            (_, Some(slash)) => Found::Redirect(slash),
            (Some(longest), None) => Found::Location(longest),
            (None, None) => Found::Nothing,
        }
    }
}

enum Found<'a> {
    Location(&'a Location),
    Redirect(&'a Location),
    Nothing,
}

impl Location {
    /// The pattern does not compile here, so nothing can be said about it.
    pub fn is_opaque(&self) -> bool {
        matches!(self.matches, Match::Regex(None))
    }
}

/// Whether ingress-nginx serves the Ingress today, or Sluice is meant to.
fn serves(objects: &Objects, ingress: &Ingress, adopt: &[String]) -> bool {
    let legacy = ingress.metadata.annotations.get(CLASS_ANNOTATION).filter(|name| !name.is_empty());
    let named = ingress.spec.class.as_deref();
    let Some(name) = legacy.or(named).filter(|name| !name.is_empty()) else {
        return true;
    };
    let class = objects.classes.get(&ObjectKey::new("", name));
    let controller = class.and_then(|class| class.spec.as_ref()?.controller.as_deref());
    match class {
        None => true,
        Some(_) => {
            matches!(controller, Some(NGINX_CONTROLLER | CONTROLLER))
                || adopt.iter().any(|adopted| adopted == name)
        }
    }
}

fn annotation<'a>(ingress: &'a Ingress, name: &str) -> Option<&'a str> {
    let full: Cow<'_, str> = format!("{PREFIX}{name}").into();
    ingress.metadata.annotations.get(&full).map(str::trim)
}
