//! What happens with a request for a URL: from XDP to the endpoint, and why other rules lost. Pure.

use serde::{Deserialize, Serialize};

use crate::model::{
    self, Backend, HostPattern, Listener, Protocol, Snapshot, SniMode, Template, TemplatePart, Variable,
};
use crate::route::{self, Candidate, Found, Outcome, Rewritten, RouteTable, Target};

use super::admin::policy_words::access_words;
use super::admin::views::{EndpointView, RouteView, word};
use super::cli::VipAddress;

/// Why a text can't be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Neither http nor https.
    #[error("{0:?} is no http or https URL, like https://blue.example.com/x")]
    Scheme(String),
    /// The host can't be one.
    #[error("{url:?} has no usable host: {why}")]
    Host {
        /// As given.
        url: String,
        /// What is wrong.
        why: route::BadHost,
    },
    /// The proxy answers 400.
    #[error("the proxy answers 400 to {url:?}: {why}")]
    Target {
        /// As given.
        url: String,
        /// What is wrong.
        why: route::BadTarget,
    },
}

/// The whole way of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// As asked.
    pub url: String,
    /// The snapshot it is explained by.
    pub generation: u64,
    /// The host as it is matched.
    pub host: String,
    /// Path and query as they are matched.
    pub target: String,
    /// What each listener that could take the connection does with it.
    pub listeners: Vec<ListenerView>,
    /// Which certificate the client sees; `None` for http.
    pub tls: Option<Tls>,
    /// The rule that takes the request.
    pub route: Option<Match>,
    /// What the client gets.
    pub answer: Answer,
    /// Path and query as the endpoint sees them; `None` when no endpoint is asked.
    pub upstream_target: Option<String>,
    /// Endpoints that may be asked.
    pub endpoints: Vec<EndpointView>,
    /// The other rules of this host, nearest first.
    pub others: Vec<Match>,
    /// How many rules of other hosts are not listed.
    pub others_elsewhere: usize,
}

/// A listener and what the kernel does there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    /// Address, port and protocol.
    pub vip: String,
    /// `http` or `https`.
    pub protocol: String,
    /// `pass`, or `none` without XDP.
    pub xdp: String,
    /// What XDP and `sk_lookup` do, in words.
    pub kernel: String,
}

/// The certificate that the client sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The server name that the client sends; none for addresses.
    pub sni: Option<String>,
    /// The Secret, or `self-signed`.
    pub certificate: String,
    /// For which pattern it was chosen; `default` if for none.
    pub chosen_for: String,
    /// The names in it.
    pub names: Vec<String>,
    /// Whether one of them covers the host; clients refuse it otherwise.
    pub covers_host: bool,
}

/// A rule and why it won or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The host pattern.
    pub host: String,
    /// The rule.
    #[serde(flatten)]
    pub route: RouteView,
    /// The outcome, stable for scripts.
    pub outcome: String,
    /// The outcome in words.
    pub why: String,
}

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The status that the proxy itself answers; `None`: the endpoint's, or nobody listens.
    pub status: Option<u16>,
    /// In words.
    pub text: String,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The URL.
    pub url: &'a str,
    /// Only connections to this address.
    pub vip: Option<VipAddress>,
    /// Also list the rules of other hosts.
    pub all: bool,
    /// Whether XDP is attached.
    pub xdp: bool,
}

/// Explains a URL by a snapshot.
pub fn explain(
    question: &Question<'_>,
    snapshot: &Snapshot,
    table: &RouteTable,
) -> Result<Explanation, BadUrl> {
    let Question { url, vip, all, xdp } = *question;
    let asked = Asked::parse(url)?;
    let host = asked.host.as_str();
    let candidates = table.explain(Some(host), asked.target.path());
    let found = candidates.first().filter(|first| first.outcome == Outcome::Wins);
    let listeners: Vec<_> = snapshot
        .listeners
        .iter()
        .filter(|one| asked.reaches(one) && vip.is_none_or(|vip| takes(one, vip)))
        .collect();
    let routed = table.find(Some(host), asked.target.path());
    let (answer, endpoints, upstream_target) = match passed_through(&asked, snapshot) {
        Some(passed) if !listeners.is_empty() => passed,
        _ => answer(&asked, routed.as_ref(), snapshot, listeners.is_empty()),
    };
    let here = |c: &&Candidate<'_>| c.outcome != Outcome::Wins && (all || c.outcome != Outcome::HostDiffers);
    let others: Vec<_> = candidates.iter().filter(here).map(|c| matched(c, snapshot)).collect();
    Ok(Explanation {
        url: url.to_owned(),
        generation: snapshot.generation,
        host: asked.host.clone(),
        target: asked.target.path_and_query().to_owned(),
        listeners: listeners
            .into_iter()
            .map(|listener| listener_view(listener, &asked, snapshot, xdp))
            .collect(),
        tls: (asked.protocol == Protocol::Https).then(|| tls(&asked, snapshot)),
        route: found.map(|c| matched(c, snapshot)),
        others_elsewhere: candidates.len() - others.len() - usize::from(found.is_some()),
        answer,
        upstream_target,
        endpoints,
        others,
    })
}

/// A URL taken apart.
struct Asked {
    protocol: Protocol,
    host: String,
    port: Option<u16>,
    target: Target,
}

impl Asked {
    fn parse(url: &str) -> Result<Self, BadUrl> {
        let (protocol, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Protocol::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Protocol::Https, rest),
            Some(_) => return Err(BadUrl::Scheme(url.to_owned())),
            None => (Protocol::Http, url),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host =
            route::normalise_host(authority).map_err(|why| BadUrl::Host { url: url.to_owned(), why })?;
        // A client never sends the fragment, so it is not the proxy's to refuse.
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let target = Target::parse(&path).map_err(|why| BadUrl::Target { url: url.to_owned(), why })?;
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches(']').parse().ok());
        let port = port.filter(|_| !authority.ends_with(']'));
        Ok(Self { protocol, host: host.into_owned(), port, target })
    }

    /// Whether a client that follows the URL can get to the listener: the port fits, and the
    /// address too if the host is one. Without a port in the URL, every listener of the protocol.
    fn reaches(&self, listener: &Listener) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        let vip = listener.vip.address;
        listener.protocol == self.protocol
            && self.port.is_none_or(|port| port == listener.vip.port)
            && address.map_or(true, |a| a == vip || (vip.is_unspecified() && vip.is_ipv4() == a.is_ipv4()))
    }

    /// What a URL tells of a request; other variables by their names.
    fn value(&self, variable: &Variable) -> String {
        match variable {
            Variable::Scheme => word(&self.protocol),
            Variable::Host => self.host.clone(),
            Variable::RequestUri => self.target.path_and_query().to_owned(),
            Variable::Path => self.target.path().to_owned(),
            Variable::Query => self.target.query().unwrap_or_default().to_owned(),
            Variable::IsArgs => {
                if self.target.query().unwrap_or_default().is_empty() { "" } else { "?" }.to_owned()
            }
            other => format!("${{{other}}}"),
        }
    }

    fn fill(&self, template: &Template) -> String {
        let parts = template.0.iter().map(|part| match part {
            TemplatePart::Text(text) => text.to_string(),
            TemplatePart::Variable(variable) => self.value(variable),
        });
        parts.collect()
    }

    /// Addresses are never sent as a server name (RFC 6066, section 3).
    fn sni(&self) -> Option<&str> {
        let is_address = self.host.starts_with('[') || self.host.parse::<std::net::IpAddr>().is_ok();
        (!is_address).then_some(self.host.as_str())
    }
}

/// Whether a connection to the address comes to the listener.
fn takes(listener: &Listener, to: VipAddress) -> bool {
    let vip = listener.vip;
    let same = vip.address == to.address
        || (vip.address.is_unspecified() && vip.address.is_ipv4() == to.address.is_ipv4());
    same && to.port.is_none_or(|port| port == vip.port)
}

/// The answer, the endpoints that may be asked, and what for.
type Answered = (Answer, Vec<EndpointView>, Option<String>);

fn answer(asked: &Asked, found: Option<&Found<'_>>, snapshot: &Snapshot, unreachable: bool) -> Answered {
    let own = |status, text: String| (Answer { status: Some(status), text }, Vec::new(), None);
    if unreachable {
        let port = asked.port.map_or_else(String::new, |port| format!(" on port {port}"));
        let text = format!("nothing: no listener speaks {}{port} there", word(&asked.protocol));
        return (Answer { status: None, text }, Vec::new(), None);
    }
    let Some(found) = found else {
        return own(404, "no rule covers this host and path, and there is no default backend".to_owned());
    };
    let policy = &found.route.policy;
    if let (Protocol::Http, Some(status)) = (asked.protocol, policy.https_redirect) {
        return own(status, format!("redirect to https://{}{}", asked.host, asked.target.path_and_query()));
    }
    if let Some(redirect) = &policy.redirect {
        let to = asked.fill(&redirect.to);
        let text = if (300..400).contains(&redirect.status) { format!("redirect to {to}") } else { to };
        return own(redirect.status, text);
    }
    if let Some(root) = policy.app_root.as_ref().filter(|_| asked.target.path() == "/") {
        return own(302, format!("redirect to {root}"));
    }
    let target = match found.rewrite(&asked.target, |variable, text| text.push_str(&asked.value(variable))) {
        Ok(Rewritten::Target(target)) => target.path_and_query().to_owned(),
        Ok(Rewritten::Redirect(url)) => return own(302, format!("redirect to {url}")),
        Err(bad) => return own(400, format!("the rewritten target can't be sent on: {bad}")),
    };
    let pages = policy.error_pages.as_deref().map(|pages| &pages.backend);
    let has_endpoint = |backend: &Backend| match backend {
        Backend::Cluster(key) => snapshot.clusters.get(&**key).is_some_and(|c| !c.endpoints.is_empty()),
        _ => false,
    };
    let stands_in = pages.filter(|pages| !has_endpoint(&found.route.backend) && has_endpoint(pages));
    let key = match stands_in.unwrap_or(&found.route.backend) {
        Backend::Unavailable(why) => return own(503, why.to_string()),
        Backend::Answered => return own(404, "the route's policy answers nothing".to_owned()),
        Backend::Cluster(key) => key,
    };
    let Some(cluster) = snapshot.clusters.get(&**key) else {
        return own(503, "the cluster is not there".to_owned());
    };
    if cluster.endpoints.is_empty() {
        return own(503, format!("no endpoint of {} is ready", cluster.key));
    }
    let mut text = what_one_answers(cluster);
    if stands_in.is_some() {
        text.push_str(", in place of a backend without endpoints");
    }
    let needs = access_words(&policy.access);
    if !needs.is_empty() {
        text.push_str(&format!("; to get in: {}", needs.join("; ")));
    }
    if let Some(canary) = found.route.canary.as_deref().filter(|_| stands_in.is_none()) {
        text.push_str(&format!("; or the {}", super::admin::policy_words::canary(canary)));
    }
    (Answer { status: None, text }, cluster.endpoints.iter().map(EndpointView::from).collect(), Some(target))
}

/// For TLS connections that go on as they are.
fn passed_through(asked: &Asked, snapshot: &Snapshot) -> Option<Answered> {
    let sni = asked.sni().filter(|_| asked.protocol == Protocol::Https)?;
    let covering = snapshot.tls.passthrough.iter().filter(|(pattern, _)| pattern.matches(sni));
    let (_, to) = covering.min_by(|a, b| a.0.cmp(&b.0))?;
    let key = &to.cluster;
    let cluster = snapshot.clusters.get(&**key).filter(|cluster| !cluster.endpoints.is_empty());
    let Some(cluster) = cluster else {
        let text = format!("nothing: TLS is passed through to {key}, which has no endpoint");
        return Some((Answer { status: None, text }, Vec::new(), None));
    };
    let text = format!("{}; TLS is passed through, rules mean nothing", what_one_answers(cluster));
    let endpoints = cluster.endpoints.iter().map(EndpointView::from).collect();
    Some((Answer { status: None, text }, endpoints, Some(asked.target.path_and_query().to_owned())))
}

fn what_one_answers(cluster: &model::Cluster) -> String {
    let n = cluster.endpoints.len();
    format!("what one of {}'s {n} endpoint{} answers", cluster.key, if n == 1 { "" } else { "s" })
}

fn matched(candidate: &Candidate<'_>, snapshot: &Snapshot) -> Match {
    let shadowed = candidate.outcome == Outcome::OlderIngressWins;
    Match {
        host: candidate.host.to_string(),
        route: RouteView::new(snapshot, candidate.route, candidate.fallback, shadowed),
        outcome: word(&candidate.outcome),
        why: candidate.outcome.to_string(),
    }
}

fn tls(asked: &Asked, snapshot: &Snapshot) -> Tls {
    let sni = asked.sni();
    let by_name = sni.and_then(|sni| {
        let covering = snapshot.tls.by_host.iter().filter(|(pattern, _)| pattern.matches(sni));
        covering.min_by(|a, b| a.0.cmp(&b.0))
    });
    let (certificate, chosen_for) = match by_name {
        Some((pattern, certificates)) => (certificates.first(), pattern.to_string()),
        None => (snapshot.tls.default.as_ref(), "default".to_owned()),
    };
    let names = certificate.map(|c| c.names.clone()).unwrap_or_default();
    let covers_host = names.iter().any(|name| {
        HostPattern::parse(name).is_ok_and(|pattern| sni.is_some_and(|sni| pattern.matches(sni)))
    });
    Tls {
        sni: sni.map(str::to_owned),
        certificate: certificate.map_or_else(|| "self-signed".to_owned(), |c| c.secret.to_string()),
        chosen_for,
        names,
        covers_host,
    }
}

fn listener_view(listener: &Listener, asked: &Asked, snapshot: &Snapshot, xdp: bool) -> ListenerView {
    let kernel = if xdp {
        let mut text = if listener.sni.steers() {
            let class = class_of(asked, snapshot);
            format!("XDP does the TCP handshake; the ClientHello's name brings the connection to {class}")
        } else {
            "XDP passes it on as a VIP in proxy mode; sk_lookup gives the connection to the worker \
                        of the CPU it arrives on"
                .to_owned()
        };
        if listener.sni != SniMode::Off {
            text.push_str(&match counted_as(asked, snapshot) {
                Some(name) => format!("; the ClientHello is counted as {name}"),
                None if is_refused(listener, asked, snapshot) => {
                    "; the ClientHello's name is none that Sluice knows: a TLS alert is the answer".to_owned()
                }
                None => "; the ClientHello's name is none that Sluice knows".to_owned(),
            });
        }
        text
    } else {
        let mut text = "XDP is off: an ordinary socket takes the connection".to_owned();
        if is_refused(listener, asked, snapshot) {
            text.push_str(", and the proxy answers a TLS alert: it knows no such name");
        }
        text
    };
    ListenerView {
        vip: listener.vip.to_string(),
        protocol: word(&listener.protocol),
        xdp: if xdp { "pass" } else { "none" }.to_owned(),
        kernel,
    }
}

/// Whose connection it is.
fn class_of(asked: &Asked, snapshot: &Snapshot) -> String {
    let sni = asked.sni();
    let covers = |pattern: &HostPattern| sni.is_some_and(|sni| pattern.matches(sni));
    let pools = snapshot.tls.pools.iter().filter(|(pattern, _)| covers(pattern));
    match pools.min_by(|a, b| a.0.cmp(&b.0)) {
        Some((_, pool)) => format!("the worker pool {pool}"),
        None if snapshot.tls.passthrough.iter().any(|(pattern, _)| covers(pattern)) => {
            "the workers for passthrough".to_owned()
        }
        None => "the general workers".to_owned(),
    }
}

/// Whether the listener refuses connections that ask for this name.
fn is_refused(listener: &Listener, asked: &Asked, snapshot: &Snapshot) -> bool {
    let refuses = |sni: &str| !snapshot.named_hosts().any(|pattern| pattern.matches(sni));
    listener.sni.refuses() && asked.sni().is_some_and(refuses)
}

/// The most specific known pattern that covers the server name, as XDP counts it.
fn counted_as<'a>(asked: &Asked, snapshot: &'a Snapshot) -> Option<&'a HostPattern> {
    let sni = asked.sni()?;
    snapshot.named_hosts().filter(|p| **p != HostPattern::Any && p.matches(sni)).min()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::app::cli::vip_address;
    use crate::model::{
        BasicAuth, Canary, Cluster, ClusterKey, Endpoint, ErrorPages, ObjectKey, PathMatch, PortRef,
        Redirect, RewriteTarget, Route, RoutePolicy, Routing, Transport, Vip, VirtualHost,
    };

    fn snapshot() -> Snapshot {
        let key = |name: &str| ClusterKey::new(ObjectKey::new("d", name), PortRef::Number(80));
        let cluster = |name: &str, endpoints: &[&str]| {
            let endpoint = |address: &&str| Endpoint::new(address.parse().expect("an address"));
            let endpoints = endpoints.iter().map(endpoint).collect();
            let key = Arc::new(key(name));
            (
                Arc::clone(&key),
                Arc::new(Cluster { key, protocol: Default::default(), endpoints, care: Default::default() }),
            )
        };
        let route = |path: &str, cluster: &str, policy: RoutePolicy| Route {
            ingress: ObjectKey::new("d", "web"),
            rule: "rules[0]".into(),
            path: PathMatch::Prefix(path.into()),
            backend: Backend::Cluster(Arc::new(key(cluster))),
            canary: None,
            policy: Arc::new(policy),
        };
        let rewrite = RoutePolicy { rewrite: Some(RewriteTarget::Replace("/".into())), ..Default::default() };
        let redirect = RoutePolicy { https_redirect: Some(308), ..Default::default() };
        let host = |host: &str, routes| {
            Arc::new(VirtualHost {
                host: HostPattern::parse(host).expect("a host"),
                routes,
                fallback: None,
                shadowed: vec![],
            })
        };
        let listener = |port, protocol| Listener {
            vip: Vip { address: "192.0.2.1".parse().expect("ip"), port, transport: Transport::Tcp },
            protocol,
            sni: if protocol == Protocol::Https { SniMode::Observe } else { SniMode::Off },
        };
        Snapshot {
            generation: 7,
            listeners: [listener(80, Protocol::Http), listener(443, Protocol::Https)].into(),
            routing: Arc::new(Routing {
                hosts: vec![
                    host(
                        "blue.example.com",
                        vec![route("/tea", "one", rewrite), route("/", "two", RoutePolicy::default())],
                    ),
                    host("nginx.example.com", nginx_routes(&route)),
                    host("red.example.com", vec![route("/", "one", redirect)]),
                ],
            }),
            clusters: [cluster("one", &["10.0.0.1:80", "10.0.0.2:80"]), cluster("two", &[])]
                .into_iter()
                .collect(),
            ..Snapshot::empty()
        }
    }

    /// Regular expressions, redirects, a canary, somebody who stands in.
    fn nginx_routes(route: &dyn Fn(&str, &str, RoutePolicy) -> Route) -> Vec<Route> {
        let template = |text: &str| Template::parse(text).expect("known variables");
        let to = |key: &str| {
            Backend::Cluster(Arc::new(ClusterKey::new(ObjectKey::new("d", key), PortRef::Number(80))))
        };
        let captures = RoutePolicy {
            rewrite: Some(RewriteTarget::Captures(template("/$2"))),
            access: model::Access {
                basic: Some(Arc::new(BasicAuth { realm: "ops".into(), users: Arc::new([]) })),
                ..Default::default()
            },
            ..Default::default()
        };
        let away = RoutePolicy {
            rewrite: Some(RewriteTarget::Captures(template("https://x.example.com/$1"))),
            ..Default::default()
        };
        let gone = RoutePolicy {
            redirect: Some(Redirect { status: 301, to: template("$scheme://y.example.com$request_uri") }),
            ..Default::default()
        };
        let stands_in = RoutePolicy {
            error_pages: Some(Arc::new(ErrorPages { statuses: vec![], backend: to("one") })),
            app_root: Some("/app".into()),
            ..Default::default()
        };
        let canary = Canary {
            ingress: ObjectKey::new("d", "side"),
            backend: to("two"),
            header: None,
            cookie: None,
            weight: 20,
            weight_total: 100,
        };
        let regex = |path: &str, route: Route| Route { path: PathMatch::Regex(path.into()), ..route };
        vec![
            regex(
                "/captures(/|$)(.*)",
                Route { canary: Some(Arc::new(canary)), ..route("/", "one", captures) },
            ),
            regex("/away/(.*)", route("/", "one", away)),
            regex("/gone", route("/", "one", gone)),
            regex("/", route("/", "two", stands_in)),
        ]
    }

    #[test]
    fn policies_are_explained() {
        let snapshot = snapshot();
        let table = RouteTable::build(&snapshot.routing);
        for (path, status, upstream, text) in [
            ("/CAPTURES/x?y", None, Some("/x?y"), "to get in: password for \"ops\" (0 users), else 401"),
            ("/captures", None, Some("/"), "or the canary d/side to d/two:80: 20 of 100 others"),
            ("/away/a?b", Some(302), None, "redirect to https://x.example.com/a?b"),
            ("/gone/a?b", Some(301), None, "redirect to http://y.example.com/gone/a?b"),
            ("/", Some(302), None, "redirect to /app"),
            ("/other", None, Some("/other"), "in place of a backend without endpoints"),
        ] {
            let url = format!("http://nginx.example.com{path}");
            let got = explain(&ask(&url), &snapshot, &table).expect("fine");
            assert_eq!(
                (got.answer.status, got.upstream_target.as_deref()),
                (status, upstream),
                "{url}: {got:#?}"
            );
            assert!(got.answer.text.contains(text), "{url}: {}", got.answer.text);
        }
        let got = explain(&ask("http://nginx.example.com/gone"), &snapshot, &table).expect("fine");
        let others: Vec<_> = got.others.iter().map(|m| (m.route.path.as_str(), m.outcome.as_str())).collect();
        let expect = [
            ("/", "longer-path-wins"),
            ("/captures(/|$)(.*)", "path-differs"),
            ("/away/(.*)", "path-differs"),
        ];
        assert_eq!(others, expect);
        assert_eq!(got.route.expect("found").route.path_type, "Regex");
    }

    #[test]
    fn passthrough_is_explained() {
        let mut snapshot = snapshot();
        let key = Arc::new(ClusterKey::new(ObjectKey::new("d", "one"), PortRef::Number(80)));
        let to = model::Passthrough { cluster: key, proxy_protocol: None };
        let passthrough = vec![(HostPattern::Wildcard("example.com".into()), to)];
        snapshot.tls = Arc::new(model::TlsConfig { passthrough, ..Default::default() });
        let table = RouteTable::build(&snapshot.routing);
        let got = explain(&ask("https://red.example.com/x"), &snapshot, &table).expect("fine");
        assert!(got.answer.text.contains("TLS is passed through"), "{:?}", got.answer);
        let got = explain(&ask("http://red.example.com/x"), &snapshot, &table).expect("fine");
        assert_eq!(got.answer.status, Some(308));
    }

    fn ask(url: &str) -> Question<'_> {
        Question { url, vip: None, all: false, xdp: true }
    }

    #[test]
    fn vips() {
        let snapshot = snapshot();
        let table = RouteTable::build(&snapshot.routing);
        for (vip, listeners) in [
            ("192.0.2.1", 1),
            ("192.0.2.1:443", 1),
            ("192.0.2.1:80", 0),
            ("192.0.2.9", 0),
            ("2001:db8::1", 0),
        ] {
            let question = Question { vip: vip_address(vip).ok(), ..ask("https://blue.example.com/tea") };
            let got = explain(&question, &snapshot, &table).expect(vip);
            assert_eq!((got.listeners.len(), got.endpoints.is_empty()), (listeners, listeners == 0), "{vip}");
            assert_eq!(got.answer.status, None, "{vip}");
        }
    }

    #[test]
    fn answers() {
        let snapshot = snapshot();
        let table = RouteTable::build(&snapshot.routing);
        for (url, status, upstream, certificate) in [
            ("http://blue.example.com/tea/x?y=1", None, Some("/?y=1"), None),
            ("BLUE.example.com:80/tea", None, Some("/"), None),
            ("https://blue.example.com/tea", None, Some("/"), Some("self-signed")),
            ("http://blue.example.com/a/../tea#top", None, Some("/"), None),
            ("http://blue.example.com", Some(503), None, None),
            ("http://red.example.com/x", Some(308), None, None),
            ("https://red.example.com/x", None, Some("/x"), Some("self-signed")),
            ("http://green.example.com/", Some(404), None, None),
            ("http://192.0.2.1/", Some(404), None, None),
            ("http://192.0.2.9/", None, None, None),
            ("http://blue.example.com:8080/tea", None, None, None),
        ] {
            let got = explain(&ask(url), &snapshot, &table).expect(url);
            assert_eq!(got.answer.status, status, "{url}: {}", got.answer.text);
            assert_eq!(got.upstream_target.as_deref(), upstream, "{url}");
            assert_eq!(got.tls.as_ref().map(|tls| tls.certificate.as_str()), certificate, "{url}");
            assert_eq!(got.endpoints.is_empty(), upstream.is_none(), "{url}");
            let back: Explanation =
                serde_json::from_value(serde_json::to_value(&got).expect("json")).expect("json");
            assert_eq!(back, got, "{url}");
        }
        for url in ["ftp://a/", "http://", "http:///x", "http://a b/", "http://a/%00", "http://a:99999/"] {
            assert!(explain(&ask(url), &snapshot, &table).is_err(), "{url}");
        }
    }

    #[test]
    fn losers_say_why() {
        let snapshot = snapshot();
        let table = RouteTable::build(&snapshot.routing);
        let got = explain(&ask("https://blue.example.com/tea"), &snapshot, &table).expect("fine");
        let others: Vec<_> = got.others.iter().map(|m| (m.route.path.as_str(), m.outcome.as_str())).collect();
        assert_eq!((others, got.others_elsewhere), (vec![("/", "longer-path-wins")], 5));
        assert!(got.listeners[0].kernel.contains("counted as blue.example.com"), "{:?}", got.listeners);
        let all = explain(
            &Question { all: true, xdp: false, ..ask("https://blue.example.com/tea") },
            &snapshot,
            &table,
        )
        .expect("fine");
        assert_eq!((all.others.len(), all.others_elsewhere), (6, 0));
        assert_eq!(all.listeners[0].xdp, "none");
    }
}
