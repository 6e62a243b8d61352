//! Hosts that stand in for others: aliases, and `www.` beside the bare name.

use sluice::route::RouteTable;

use super::{answer, check, check_with, issues, like_nginx, serving, snapshot};

#[test]
fn aliases() {
    check(
        &["web: a.com|P|/ nginx.server-alias=b.com,*.c.com", "more: a.com|P|/more"],
        &[
            ("a.com", "/", "web"),
            ("b.com", "/", "web"),
            ("B.com", "/more/x", "more"),
            ("x.c.com", "/more", "more"),
            ("c.com", "/", "404"),
        ],
    );
    // Rules of another Ingress go before an alias, whoever is older.
    let all = ["web: a.com|P|/ nginx.server-alias=b.com age=2020", "own: b.com|P|/own"];
    check(&all, &[("b.com", "/own", "own"), ("b.com", "/", "404")]);
    let told = issues(&snapshot(&all, &[], &serving()), "Ingress default/web");
    assert!(told.iter().any(|issue| issue.contains("b.com has rules of its own")), "{told:?}");
    // Of two with the same alias the older has it.
    let all = [
        "younger: a.com|P|/ nginx.server-alias=c.com age=2025",
        "older: b.com|P|/ nginx.server-alias=c.com age=2024",
    ];
    check(&all, &[("c.com", "/", "older")]);
    let told = issues(&snapshot(&all, &[], &serving()), "Ingress default/younger");
    assert!(told.iter().any(|issue| issue.contains("alias of b.com already")), "{told:?}");
    // Aliases of each other are no circle: both have rules.
    check(
        &["a: a.com|P|/ nginx.server-alias=b.com", "b: b.com|P|/ nginx.server-alias=a.com"],
        &[("a.com", "/", "a"), ("b.com", "/", "b")],
    );
    // Redirects to https are as on the host itself.
    check_with(
        &["web: a.com|P|/ tls=a.com nginx.server-alias=b.com"],
        &[],
        &like_nginx(),
        &[("b.com", "/", "308 web")],
    );
}

#[test]
fn www_redirects() {
    let to = |host: &str| format!("308 web → ${{scheme}}://{host}${{request_uri}}");
    check(
        &["web: a.com|P|/app nginx.from-to-www-redirect=true"],
        &[("a.com", "/app", "web"), ("a.com", "/", "404"), ("www.a.com", "/any", &to("a.com"))],
    );
    check(
        &["web: www.a.com|P|/ nginx.from-to-www-redirect=true"],
        &[("www.a.com", "/", "web"), ("a.com", "/x", &to("www.a.com"))],
    );
    // Hosts with rules of their own send nobody away; wildcards and hosts without a name have no www.
    check(
        &["web: a.com|P|/ nginx.from-to-www-redirect=true", "own: www.a.com|P|/own"],
        &[("www.a.com", "/own", "own"), ("www.a.com", "/", "404")],
    );
    check(
        &[
            "web: *.a.com|P|/ |P|/any nginx.from-to-www-redirect=true",
            "com: www.com|P|/ nginx.from-to-www-redirect=true",
        ],
        &[("www.a.com", "/", "web"), ("www.com", "/", "com"), ("com", "/any", "web"), ("com", "/", "404")],
    );
}

/// Many aliases of a host with many paths would be more routes than anybody has memory for.
#[test]
fn aliases_are_bounded() {
    let paths: Vec<_> = (0..300).map(|n| format!("a.com|P|/{n}")).collect();
    let names: Vec<_> = (0..200).map(|n| format!("alias{n:04}.com")).collect();
    let line = format!("web: {} nginx.server-alias={}", paths.join(" "), names.join(","));
    let got = snapshot(&[&line], &[], &serving());
    let routes: usize = got.routing.hosts.iter().map(|host| host.routes.len()).sum();
    assert!(
        got.routing.hosts.len() > 100 && routes < 60_000,
        "{} hosts, {routes} routes",
        got.routing.hosts.len()
    );
    let told = issues(&got, "Ingress default/web");
    assert!(told.iter().any(|issue| issue.contains("aliases are ignored")), "{told:?}");
    let table = RouteTable::build(&got.routing);
    assert_eq!(answer(&got, &table, "alias0000.com", "/7"), "web");
    assert_eq!(answer(&got, &table, "alias0199.com", "/7"), "404");
}
