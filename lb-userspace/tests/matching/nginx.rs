//! What ingress-nginx adds to routing besides regular expressions: redirects to the trailing slash,
//! canaries, error pages, ClusterIPs, HSTS, passthrough.

use sluice::model::{Backend, HostPattern, Snapshot};

use super::{check_nginx, check_strict, issues, like_nginx, serving, snapshot};

#[test]
fn redirects_to_the_trailing_slash() {
    check_nginx(
        &["prefix: a.com|P|/foo/", "exact: b.com|E|/foo/", "impl: c.com|I|/a/b/", "root: d.com|P|/"],
        &[
            ("a.com", "/foo", "301 prefix → /foo/${is_args}${args}"),
            ("a.com", "/foo/", "prefix"),
            ("a.com", "/foo/x", "prefix"),
            ("a.com", "/fo", "404"),
            ("b.com", "/foo", "301 exact → /foo/${is_args}${args}"),
            ("b.com", "/foo/", "exact"),
            ("c.com", "/a/b", "301 impl → /a/b/${is_args}${args}"),
            ("d.com", "/x", "root"),
        ],
    );
    // Whoever has the path without a slash has it.
    check_nginx(
        &[
            "slash: a.com|P|/foo/ age=2020",
            "plain: a.com|P|/foo",
            "slash2: b.com|P|/foo/",
            "exact: b.com|E|/foo",
        ],
        &[("a.com", "/foo", "plain"), ("b.com", "/foo", "exact"), ("b.com", "/foo/x", "slash2")],
    );
    // With TLS to https first. Regular expressions have none.
    check_nginx(&["tls: a.com|P|/foo/ tls=a.com"], &[("a.com", "/foo", "308 tls")]);
    check_nginx(
        &["regex: a.com|P|/foo/ a.com|I|/x.* nginx.use-regex=true"],
        &[("a.com", "/foo", "404"), ("a.com", "/FOO/x", "regex")],
    );
    // The API's own words: both cover both.
    check_strict(&["prefix: a.com|P|/foo/"], &[("a.com", "/foo", "prefix"), ("a.com", "/foo/", "prefix")]);
}

#[test]
fn canaries() {
    let canary = "nginx.canary=true nginx.canary-weight=10";
    check_nginx(
        &["main: a.com|P|/app a.com|P|/alone", &format!("side: a.com|P|/app {canary}")],
        &[("a.com", "/app/x", "main+side"), ("a.com", "/alone", "main")],
    );
    for (side, why) in [
        // Another type, path or host is another route, which a canary never takes by itself.
        ("a.com|E|/app", "no other Ingress has this path"),
        ("a.com|P|/apps", "no other Ingress has this path"),
        ("b.com|P|/app", "no other Ingress has this path"),
        ("a.com|P|/app ns=other", "is in another namespace"),
        ("a.com|P|/app to=gone:80", "Service default/gone does not exist"),
    ] {
        let all = ["main: a.com|P|/app age=2025", &format!("side: {side} age=2020 {canary}")];
        for settings in [serving(), like_nginx()] {
            super::check_with(
                &all,
                &[],
                &settings,
                &[("a.com", "/app", "main"), ("a.com", "/apps", "404"), ("b.com", "/app", "404")],
            );
            let namespace = if side.contains("ns=") { "other" } else { "default" };
            let told = issues(&snapshot(&all, &[], &settings), &format!("Ingress {namespace}/side"));
            assert!(told.iter().any(|issue| issue.contains(why)), "{side}: {told:?}");
        }
    }
    // One for each route: the first by age, then by name.
    let all = [
        "main: a.com|P|/app",
        &format!("younger: a.com|P|/app age=2025 {canary}"),
        &format!("older: a.com|P|/app age=2024 {canary}"),
    ];
    check_nginx(&all, &[("a.com", "/app", "main+older")]);
    let told = issues(&snapshot(&all, &[], &like_nginx()), "Ingress default/younger");
    assert!(told.iter().any(|issue| issue.contains("Ingress default/older is a canary")), "{told:?}");
    // By the path as it is written, also where it is a regular expression.
    check_nginx(
        &[
            "main: a.com|I|/app(/|$)(.*) nginx.rewrite-target=/$2",
            &format!("side: a.com|I|/app(/|$)(.*) {canary}"),
        ],
        &[("a.com", "/app/x", "main+side → /x")],
    );
    check_nginx(
        &["main: default a.com|P|/x", &format!("side: default a.com|P|/y {canary}")],
        &[("a.com", "/z", "main/default+side"), ("a.com", "/y", "main/default+side")],
    );
}

/// The policy of the route that takes a request, as JSON.
fn policy(snapshot: &Snapshot, host: &str) -> serde_json::Value {
    let pattern = HostPattern::parse(host).expect("a host");
    let host = snapshot.routing.hosts.iter().find(|one| one.host == pattern).expect("the host is there");
    serde_json::to_value(&*host.routes[0].policy).expect("serialises")
}

#[test]
fn error_pages_and_default_backends() {
    for (words, backend, statuses) in [
        (
            "nginx.custom-http-errors=404,503 nginx.default-backend=headless",
            "default/headless:80",
            vec![404, 503],
        ),
        ("nginx.default-backend=headless", "default/headless:80", vec![]),
        ("nginx.custom-http-errors=404", "", vec![]),
        ("nginx.custom-http-errors=404 nginx.default-backend=gone", "", vec![]),
    ] {
        let got = snapshot(&[&format!("web: a.com|P|/ {words}")], &[], &serving());
        let pages = &policy(&got, "a.com")["error_pages"];
        assert_eq!(
            pages["backend"]["cluster"].as_str().unwrap_or_default(),
            backend,
            "{words}: {:?}",
            got.issues
        );
        let found: Vec<_> = pages["statuses"].as_array().into_iter().flatten().collect();
        assert_eq!(found, statuses.iter().collect::<Vec<_>>(), "{words}");
        let told = issues(&got, "Ingress default/web");
        assert_eq!(told.is_empty(), !backend.is_empty(), "{words}: {told:?}");
        if !backend.is_empty() {
            assert!(got.clusters.keys().any(|key| key.to_string() == backend), "{words}");
        }
    }
}

#[test]
fn service_upstream() {
    let got = snapshot(&["web: a.com|P|/ nginx.service-upstream=true"], &[], &serving());
    let route = &got.routing.hosts[0].routes[0];
    let Backend::Cluster(key) = &route.backend else { panic!("{route:?}") };
    assert_eq!(key.to_string(), "default/web:80 (ClusterIP)");
    assert!(got.clusters.contains_key(&**key));
}

#[test]
fn hsts_needs_tls() {
    let all = ["plain: plain.com|P|/", "tls: tls.com|P|/ tls=tls.com", "wild: x.wild.com|P|/ tls=*.wild.com"];
    let got = snapshot(&all, &[], &like_nginx());
    for (host, expect) in [("plain.com", false), ("tls.com", true), ("x.wild.com", true)] {
        assert_eq!(policy(&got, host)["hsts"].is_object(), expect, "{host}");
    }
    let got = snapshot(&all, &[], &serving());
    assert!(!policy(&got, "tls.com")["hsts"].is_object());
}

#[test]
fn passthrough() {
    let all = [
        "root: a.com|P|/x a.com|P|/ nginx.ssl-passthrough=true",
        "first: b.com|P|/x nginx.ssl-passthrough=true to=headless:80",
        "none: |P|/ nginx.ssl-passthrough=true",
        "dangling: c.com|P|/ nginx.ssl-passthrough=true to=gone:80",
        "lost: a.com|P|/ nginx.ssl-passthrough=true to=headless:80",
        "closed: d.com|P|/ nginx.ssl-passthrough=true nginx.auth-url=$nonsense",
    ];
    let got = snapshot(&all, &[], &like_nginx());
    let found: Vec<_> = got
        .tls
        .passthrough
        .iter()
        .filter_map(|(host, to)| Some(format!("{host} {}", to.as_ref()?.cluster)))
        .collect();
    assert_eq!(found, ["a.com default/headless:80", "b.com default/headless:80"], "{:#?}", got.issues);
    for name in ["none", "dangling", "closed"] {
        let told = issues(&got, &format!("Ingress default/{name}"));
        assert!(told.iter().any(|issue| issue.contains("ssl-passthrough")), "{name}: {told:?}");
    }
    // Plain requests are routed as ever.
    check_nginx(&all[..2], &[("a.com", "/x", "root"), ("b.com", "/x", "first"), ("b.com", "/", "404")]);
}
