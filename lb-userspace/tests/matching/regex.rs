//! Paths that are regular expressions, and rewrites with their captures.

use super::{check, check_nginx, check_strict, check_with, class, issues, like_nginx, serving, snapshot};
use serde_json::json;
use sluice::translate::Settings;

/// As ingress-nginx documents it: prefix-anchored, whatever the case of letters.
#[test]
fn anchored_at_the_begin_whatever_the_case() {
    check(
        &["three: a.com|I|/[A-Z]{3} nginx.use-regex=true"],
        &[
            ("a.com", "/ABC", "three"),
            ("a.com", "/uuid", "three"),
            ("a.com", "/abc/def", "three"),
            ("a.com", "/ab", "404"),
            ("a.com", "/ab/c", "404"),
            ("a.com", "/1/abc", "404"),
        ],
    );
    check(
        &["end: a.com|I|/only/this$ nginx.use-regex=true"],
        &[("a.com", "/only/this", "end"), ("a.com", "/only/this/", "404"), ("a.com", "/Only/This", "end")],
    );
    check(
        &[r"escaped: a.com|I|/v1\.0/.*\.json nginx.use-regex=true"],
        &[("a.com", "/v1.0/x.json", "escaped"), ("a.com", "/v1x0/x.json", "404")],
    );
}

/// One Ingress makes every path of the host a regular expression, other Ingresses' paths and Exact
/// ones too.
#[test]
fn one_ingress_decides_for_its_hosts() {
    check_nginx(
        &[
            "regex: a.com|I|/v[0-9]+/.* nginx.use-regex=true",
            "plain: a.com|P|/headers ns=other",
            "exact: a.com|E|/Header age=2020",
            "other: b.com|P|/headers",
        ],
        &[
            ("a.com", "/v1/x", "regex"),
            ("a.com", "/V1/x", "regex"),
            ("a.com", "/headersXY", "plain"),
            ("a.com", "/HEADERS", "plain"),
            ("a.com", "/header", "exact"),
            ("a.com", "/header/x", "exact"),
            ("b.com", "/headersXY", "404"),
            ("b.com", "/HEADERS", "404"),
        ],
    );
    // A rewrite does the same.
    check_nginx(
        &["rewrites: a.com|P|/app nginx.rewrite-target=/", "plain: a.com|E|/uuid"],
        &[
            ("a.com", "/app/x?q=1", "rewrites → /?q=1"),
            ("a.com", "/application", "rewrites → /"),
            ("a.com", "/UUID/x", "plain"),
        ],
    );
    // Unless it rewrites to the path itself, which is no rewrite.
    check_nginx(
        &["same: a.com|P|/app nginx.rewrite-target=/app", "plain: a.com|E|/uuid"],
        &[("a.com", "/app/x", "same"), ("a.com", "/application", "404"), ("a.com", "/uuid/x", "404")],
    );
    // A canary's annotations are not for the host.
    check_nginx(
        &["main: a.com|P|/app", "side: a.com|P|/app nginx.canary=true nginx.use-regex=true"],
        &[("a.com", "/app", "main+side"), ("a.com", "/application", "404")],
    );
}

/// In Kubernetes' own behaviour nobody's annotation changes another path.
#[test]
fn strict_behaviour_is_of_the_path_alone() {
    check_strict(
        &[
            "regex: a.com|I|/v[0-9]+/.* a.com|P|/prefix a.com|E|/exact nginx.use-regex=true",
            "plain: a.com|P|/headers",
            "implementation: a.com|I|/impl",
        ],
        &[
            ("a.com", "/v1/x", "regex"),
            ("a.com", "/prefix/x", "regex"),
            ("a.com", "/prefixed", "404"),
            ("a.com", "/PREFIX", "404"),
            ("a.com", "/exact", "regex"),
            ("a.com", "/exact/x", "404"),
            ("a.com", "/headersXY", "404"),
            ("a.com", "/implied", "404"),
        ],
    );
    check_strict(
        &["legacy: a.com|I|/testpath nginx.rewrite-target=/"],
        &[("a.com", "/testpath/x", "legacy → /"), ("a.com", "/testpaths", "404")],
    );
    check_strict(
        &["captures: a.com|I|/app(/|$)(.*) nginx.rewrite-target=/$2", "rest: a.com|P|/"],
        &[
            ("a.com", "/app/x", "captures → /x"),
            ("a.com", "/apps", "rest"),
            ("a.com", "/APP/", "captures → /"),
        ],
    );
}

/// ingress-nginx sorts locations by the length of their paths, then from z to a.
#[test]
fn the_longest_pattern_goes_first() {
    check_nginx(
        &[
            "short: a.com|I|/api.* nginx.use-regex=true",
            "long: a.com|I|/(api|app)/v1",
            "root: a.com|P|/",
            "b: a.com|I|/api/[b]",
            "a: a.com|I|/api/[a-c]x age=2020",
            "c: a.com|I|/api/(c)x? age=2020",
        ],
        &[
            ("a.com", "/api/v1/x", "long"),
            ("a.com", "/api/v2", "short"),
            ("a.com", "/bpi", "root"),
            ("a.com", "/api/b", "b"),
            ("a.com", "/api/bx", "a"),
            // As long as the other: `[` is greater than `(`.
            ("a.com", "/api/cx", "a"),
            ("a.com", "/api/c", "c"),
        ],
    );
    // Beside an Exact path the Prefix one gets a slash, and goes first where both match.
    check_nginx(
        &["regex: a.com|I|/x.* nginx.use-regex=true", "prefix: a.com|P|/foo", "exact: a.com|E|/foo"],
        &[("a.com", "/foo/bar", "prefix"), ("a.com", "/foo", "exact"), ("a.com", "/foobar", "exact")],
    );
    // The older Ingress has the pattern.
    check_nginx(
        &["younger: a.com|I|/x.* nginx.use-regex=true age=2025", "older: a.com|I|/x.* age=2024"],
        &[("a.com", "/xy", "older")],
    );
}

#[test]
fn rewrites_with_captures() {
    check_nginx(
        &["app: a.com|I|/something(/|$)(.*) nginx.rewrite-target=/$2", "root: a.com|P|/"],
        &[
            ("a.com", "/something", "app → /"),
            ("a.com", "/something/", "app → /"),
            ("a.com", "/something/new?a=b", "app → /new?a=b"),
            ("a.com", "/Something/New", "app → /New"),
            ("a.com", "/something/a%2Fb/../c", "app → /c"),
            ("a.com", "/somethingelse", "root"),
        ],
    );
    check_nginx(
        &["query: a.com|I|/user/([^/]+)/?(.*) nginx.rewrite-target=/find?name=$1&rest=$2"],
        &[
            ("a.com", "/user/ann/posts?page=2", "query → /find?name=ann&rest=posts&page=2"),
            ("a.com", "/user/a&b=c", "query → /find?name=a%26b=c&rest="),
        ],
    );
    check_nginx(
        &["away: a.com|I|/old/(.*) nginx.rewrite-target=https://new.example.com/$1"],
        &[("a.com", "/old/x?y=z", "away → 302 https://new.example.com/x?y=z")],
    );
    // Dots that only the rewrite brings together don't leave the root either.
    check_nginx(
        &["dots: a.com|I|/d(.)/(.*) nginx.rewrite-target=/a/$1$1/$2"],
        &[("a.com", "/d./secret", "dots → /secret"), ("a.com", "/dx/secret", "dots → /a/xx/secret")],
    );
}

/// What can't be matched in linear time and little memory is said, and costs nobody else anything.
#[test]
fn patterns_that_are_refused() {
    let long = format!("/{}", "(a{1,90}b)".repeat(40));
    for (path, why) in [
        ("/(?!admin).*", "uses look-around"),
        (r"/(a)\1", "uses a back-reference"),
        ("/(a", "is no regular expression"),
        ("/[z-a]", "is no regular expression"),
        ("/caf\u{e9}.*", "holds characters beyond ASCII"),
        ("/say\"(.*)", r#"asks for "\"", which requests' paths only have as %22"#),
        (r"/a\{(.*)\}", r#"asks for "{", which requests' paths only have as %7B"#),
        ("/a//b", r#"asks for "//", which requests' paths only have as /"#),
        (long.as_str(), "needs more than 64 KiB"),
    ] {
        let line = format!("bad: a.com|I|{path} nginx.use-regex=true");
        let good = ["good: a.com|I|/good.* nginx.use-regex=true", "root: a.com|P|/"];
        let all = [line.as_str(), good[0], good[1]];
        for settings in [serving(), like_nginx()] {
            check_with(&all, &[], &settings, &[("a.com", "/goods", "good"), ("a.com", "/caf", "root")]);
            let told = issues(&snapshot(&all, &[], &settings), "Ingress default/bad");
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(
                told[0].starts_with("spec.rules[0].http.paths[0].path: ") && told[0].contains(why),
                "{told:?}"
            );
            assert!(told[0].contains("this path is not served. Write one"), "{told:?}");
            assert!(told[0].len() < 600, "{told:?}");
        }
    }
}

#[test]
fn captures_that_are_not_there_are_said() {
    let all = ["web: a.com|P|/app nginx.rewrite-target=/$2"];
    check_nginx(&all, &[("a.com", "/app/x", "web → /")]);
    let told = issues(&snapshot(&all, &[], &like_nginx()), "Ingress default/web");
    assert!(told.iter().any(|issue| issue.contains("uses $2, for which")), "{told:?}");
}

/// Classes of either behaviour on one host: the one's annotations say nothing about the other's paths.
#[test]
fn behaviours_side_by_side() {
    let ours =
        |name, compat| class(name, "sluice.dev/ingress-controller", json!({ "sluice.dev/compat": compat }));
    check_with(
        &[
            "nginx: a.com|I|/n.* class=nginx-like nginx.use-regex=true",
            "also: a.com|P|/also class=nginx-like",
            "strict: a.com|P|/strict class=strict",
        ],
        &[ours("nginx-like", "ingress-nginx"), ours("strict", "kubernetes")],
        &Settings::default(),
        &[
            ("a.com", "/nx", "nginx"),
            ("a.com", "/alsoX", "also"),
            ("a.com", "/strict/x", "strict"),
            ("a.com", "/strictly", "404"),
        ],
    );
}
