//! What the Ingress API documents: paths, hosts, default backends, and who wins.

use sluice::model::{ClusterKey, ObjectKey, PortRef};
use sluice::translate::Settings;

use super::{check, check_strict, check_with, serving};

#[test]
fn exact_paths() {
    check_strict(
        &["exact: a.com|E|/foo", "slash: b.com|E|/foo/", "root: c.com|E|/"],
        &[
            ("a.com", "/foo", "exact"),
            ("a.com", "/foo?q=/x", "exact"),
            ("a.com", "/foo/", "404"),
            ("a.com", "/FOO", "404"),
            ("a.com", "/foo/bar", "404"),
            ("a.com", "/fo", "404"),
            ("a.com", "/x/../foo", "exact"),
            ("a.com", "/%66oo", "exact"),
            ("b.com", "/foo/", "slash"),
            ("b.com", "/foo", "404"),
            ("c.com", "/", "root"),
            ("c.com", "/a", "404"),
        ],
    );
}

#[test]
fn prefix_paths() {
    for kind in ["P", "I"] {
        for (rule, path, expect) in [
            ("/", "/", true),
            ("/", "/any/thing", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/", true),
            ("/foo", "/foo/bar", true),
            ("/foo", "/FOO", false),
            ("/foo", "/foobar", false),
            ("/foo", "/", false),
            ("/foo/", "/foo", true),
            ("/foo/", "/foo/", true),
            ("/foo/", "/foo/bar", true),
            ("/foo/bar", "/foo/barbaz", false),
            ("/aaa/bb", "/aaa/bbb", false),
            ("/aaa/bbb", "/aaa/bbb", true),
            ("/aaa/bbb/", "/aaa/bbb", true),
            ("/aaa/bbb", "/aaa/bbb/", true),
            ("/aaa/bbb", "/aaa/bbb/ccc", true),
            ("/aaa/bbb", "/aaa/bbbxyz", false),
            ("/a%2Fb", "/a/b", false),
        ] {
            let line = format!("web: a.com|{kind}|{rule}");
            // `%2F` is no separator: refused in Prefix paths, and only itself elsewhere.
            check_strict(&[&line], &[("a.com", path, if expect { "web" } else { "404" })]);
        }
    }
}

#[test]
fn the_longest_path_wins_then_exact() {
    check(
        &["root: a.com|P|/", "aaa: a.com|P|/aaa", "bbb: a.com|P|/aaa/bbb"],
        &[
            ("a.com", "/aaa/bbb", "bbb"),
            ("a.com", "/aaa/bbb/x", "bbb"),
            ("a.com", "/aaa/ccc", "aaa"),
            ("a.com", "/aaab", "root"),
            ("a.com", "/ccc", "root"),
        ],
    );
    check(
        &["prefix: a.com|P|/foo age=2020", "exact: a.com|E|/foo age=2025"],
        &[("a.com", "/foo", "exact"), ("a.com", "/foo/", "prefix"), ("a.com", "/foo/x", "prefix")],
    );
    check(
        &["plain: a.com|P|/foo", "slash: a.com|P|/foo/"],
        &[("a.com", "/foo", "plain"), ("a.com", "/foo/", "slash"), ("a.com", "/foo/x", "slash")],
    );
    check(
        &["exact: a.com|E|/foo", "slash: a.com|P|/foo/", "upper: a.com|E|/FOO"],
        &[
            ("a.com", "/foo", "exact"),
            ("a.com", "/foo/", "slash"),
            ("a.com", "/FOO", "upper"),
            ("a.com", "/Foo", "404"),
        ],
    );
}

#[test]
fn hosts() {
    check(
        &[
            "exact: foo.com|P|/ long.foo.com|P|/x",
            "wild: *.foo.com|P|/",
            "upper: BAR.com.|P|/",
            "any: |P|/any",
        ],
        &[
            ("foo.com", "/", "exact"),
            ("FOO.com", "/", "exact"),
            ("foo.com:8080", "/", "exact"),
            ("foo.com.", "/", "exact"),
            ("Foo.Com.:80", "/any", "exact"),
            ("bar.com", "/", "upper"),
            ("bar.foo.com", "/", "wild"),
            ("BAR.foo.com:443", "/", "wild"),
            ("bar.foo.com", "/any", "wild"),
            ("baz.bar.foo.com", "/", "404"),
            ("baz.bar.foo.com", "/any", "any"),
            ("xfoo.com", "/", "404"),
            ("long.foo.com", "/x", "exact"),
            ("long.foo.com", "/y", "wild"),
            ("other.org", "/any/x", "any"),
            ("", "/any", "any"),
            ("", "/", "404"),
            ("192.0.2.1", "/any", "any"),
            ("[2001:db8::1]:80", "/any", "any"),
        ],
    );
    // The host decides before the path: a longer path of a rule without host does not win.
    check(
        &["host: a.com|P|/", "wild: *.b.com|P|/", "any: |E|/long/path"],
        &[("a.com", "/long/path", "host"), ("x.b.com", "/long/path", "wild"), ("c.com", "/long/path", "any")],
    );
    // A host that leaves the path open: rules without host take all inbound traffic.
    check(&["host: a.com|P|/a", "any: |P|/"], &[("a.com", "/a", "host"), ("a.com", "/b", "any")]);
}

#[test]
fn default_backends() {
    check(&[], &[("a.com", "/", "404"), ("", "/", "404")]);
    check(
        &["rest: default", "rules: a.com|P|/a"],
        &[
            ("a.com", "/a", "rules"),
            ("a.com", "/b", "rest/default"),
            ("b.com", "/", "rest/default"),
            ("", "/", "rest/default"),
        ],
    );
    check(
        &["own: default a.com|P|/a *.b.com|P|/b"],
        &[
            ("a.com", "/a", "own"),
            ("a.com", "/x", "own/default"),
            ("x.b.com", "/x", "own/default"),
            ("c.com", "/", "404"),
        ],
    );
    check(
        &["all: default a.com|-", "any: |P|/any"],
        &[("a.com", "/", "all"), ("a.com", "/any", "all"), ("b.com", "/any", "any"), ("b.com", "/", "404")],
    );
    check(&["nowhere: a.com|-"], &[("a.com", "/", "404")]);
    check(&["younger: default age=2025", "older: default age=2024"], &[("a.com", "/", "older/default")]);

    let service = ObjectKey::new("other", "web");
    let key = ClusterKey::new(service, PortRef::Number(80));
    let controller = Settings { default_backend: Some(key), ..serving() };
    check_with(
        &["own: default a.com|P|/a", "rules: b.com|P|/b", "open: c.com|-"],
        &[],
        &controller,
        &[
            ("a.com", "/x", "own/default"),
            ("b.com", "/b", "rules"),
            ("b.com", "/x", "controller/default"),
            ("c.com", "/x", "open"),
            ("d.com", "/", "controller/default"),
            ("", "/", "controller/default"),
        ],
    );
}

#[test]
fn the_older_ingress_wins() {
    check(
        &["younger: a.com|P|/ age=2025", "older: a.com|P|/ age=2024", "ageless: a.com|P|/"],
        &[("a.com", "/", "older")],
    );
    check(&["b: a.com|P|/ age=2024", "a: a.com|P|/ age=2024"], &[("a.com", "/", "a")]);
    check(&["a: a.com|P|/ ns=other", "b: a.com|P|/"], &[("a.com", "/", "b")]);
    check(&["younger: A.com.|P|/ age=2025", "older: a.com|P|/ age=2024"], &[("a.com", "/", "older")]);
    // Another spelling of the same path takes nothing away.
    check(
        &["younger: a.com|P|/%61%62 age=2025", "older: a.com|P|/ab age=2024"],
        &[("a.com", "/ab", "older")],
    );
    check(&["younger: a.com|E|/%61 age=2025", "older: a.com|E|/a age=2024"], &[("a.com", "/a", "older")]);
    // A younger Ingress may add what the older one leaves open.
    check(
        &["older: a.com|P|/ age=2024", "younger: a.com|P|/x age=2025"],
        &[("a.com", "/x", "younger"), ("a.com", "/", "older")],
    );
}

#[test]
fn backends_that_cannot_serve() {
    for (to, expect) in [
        ("web:80", "web"),
        ("web:http", "web"),
        ("headless:http", "web"),
        ("gone:80", "503 web"),
        ("empty:80", "503 web"),
        ("web:81", "503 web"),
        ("web:nope", "503 web"),
        ("web:53", "503 web"),
        ("web:dns", "503 web"),
        ("web:54", "503 web"),
        ("far:80", "503 web"),
    ] {
        // It answers 503 itself, the shorter path does not step in.
        let line = format!("web: a.com|P|/a to={to}");
        check(&[&line, "root: a.com|P|/"], &[("a.com", "/a/b", expect), ("a.com", "/b", "root")]);
    }
    // Backends are of the Ingress's own namespace.
    check(&["web: a.com|P|/ ns=elsewhere"], &[("a.com", "/", "503 web")]);
}
