use std::sync::Arc;

use super::*;
use crate::app::cli::vip_address;
use crate::model::{
    self, Backend, BasicAuth, Canary, Cluster, ClusterKey, Endpoint, ErrorPages, HostPattern, Listener,
    ObjectKey, PathMatch, PortRef, Redirect, RewriteTarget, Route, RoutePolicy, Routing, SniMode, Template,
    Transport, Vip, VirtualHost,
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
        regex("/captures(/|$)(.*)", Route { canary: Some(Arc::new(canary)), ..route("/", "one", captures) }),
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
    let expect =
        [("/", "longer-path-wins"), ("/captures(/|$)(.*)", "path-differs"), ("/away/(.*)", "path-differs")];
    assert_eq!(others, expect);
    assert_eq!(got.route.expect("found").route.path_type, "Regex");
}

#[test]
fn passthrough_is_explained() {
    let mut snapshot = snapshot();
    let key = Arc::new(ClusterKey::new(ObjectKey::new("d", "one"), PortRef::Number(80)));
    let to = model::Passthrough { cluster: key, proxy_protocol: None };
    let passthrough = vec![(HostPattern::Wildcard("example.com".into()), Some(to))];
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
    for (vip, listeners) in
        [("192.0.2.1", 1), ("192.0.2.1:443", 1), ("192.0.2.1:80", 0), ("192.0.2.9", 0), ("2001:db8::1", 0)]
    {
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
    for (url, like) in [
        ("ws://blue.example.com/tea", "http://blue.example.com/tea"),
        ("WSS://red.example.com/x", "https://red.example.com/x"),
    ] {
        let got = explain(&ask(url), &snapshot, &table).expect(url);
        let same = explain(&ask(like), &snapshot, &table).expect(like);
        assert_eq!(got, Explanation { url: url.into(), ..same });
    }
    for url in [
        "ftp://a/",
        "http://u:p@a/",
        "http://u@a/",
        "http://",
        "http:///x",
        "http://a b/",
        "http://a/%00",
        "http://a:99999/",
    ] {
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
