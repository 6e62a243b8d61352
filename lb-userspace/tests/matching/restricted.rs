//! What closes a path must go on closing it, however the path is written.

use sluice::route::RouteTable;

use super::{answer, check_nginx, check_strict, like_nginx, serving, snapshot};

#[test]
fn restricted_access_is_never_opened() {
    let auth = "nginx.auth-url=$nonsense";
    let open = "open: a.com|P|/ age=2020";
    for (closed, rows) in [
        ("a.com|P|/admin", [("/admin", true), ("/x", false)]),
        ("a.com|E|/admin", [("/admin", true), ("/admin/x", false)]),
        ("a.com|P|admin", [("/admin/x", true), ("/x", false)]),
        ("a.com|P|//admin", [("/admin/x", true), ("/x", false)]),
        ("a.com|E|/a/../admin", [("/admin", true), ("/x", false)]),
        ("a.com|Regex|/admin", [("/admin/x", true), ("/x", false)]),
        ("a.com|I|/admin(/|$)(.*)", [("/admin/x", true), ("/x", false)]),
        ("a.com|I|/admin/.*", [("/admin/x", true), ("/x", false)]),
        ("a.com|I|/api/v[12]/x", [("/api/v1/x", true), ("/x", false)]),
        ("a.com|I|/(admin|ops)/.*", [("/ops/x", true), ("/admin", true)]),
        ("a.com|I|^/adm.+", [("/admin", true), ("/adm", true)]),
        ("a.com|-", [("/admin", false), ("/", false)]),
        // No request has this path in any spelling: nothing to close.
        ("a.com|P|/%zz", [("/admin", false), ("/", false)]),
    ] {
        let line = format!("closed: {closed} {auth}");
        let rows = rows.map(|(path, is_closed)| {
            // Of the whole host or by a path of its own: 503 is what counts.
            (path, if is_closed { "503" } else { "open" })
        });
        for settings in [serving(), like_nginx()] {
            let snapshot = snapshot(&[&line, open], &[], &settings);
            let table = RouteTable::build(&snapshot.routing);
            for (path, expect) in rows {
                let got = answer(&snapshot, &table, "a.com", path);
                assert_eq!(got.split(' ').next(), Some(expect), "{path} of {closed}\n{:#?}", snapshot.issues);
            }
        }
    }
    // Read as a regular expression, an Exact path closes what is below it too.
    check_strict(
        &[&format!("closed: a.com|E|/admin nginx.use-regex=true {auth}"), open],
        &[("a.com", "/admin/x", "503 closed"), ("a.com", "/x", "open")],
    );
    check_strict(
        &["closed: a.com|P|/admin nginx.configuration-snippet=internal;", open],
        &[("a.com", "/admin", "503 closed"), ("a.com", "/x", "open")],
    );
    check_strict(
        &["loud: a.com|P|/admin nginx.configuration-snippet=more_set_headers_X:1;", open],
        &[("a.com", "/admin", "loud")],
    );
    // ingress-nginx applies these to the server block: other Ingresses of the namespace count on them.
    for whole in ["nginx.server-snippet=internal;", "nginx.auth-tls-secret=default/gone"] {
        let closed = format!("closed: a.com|P|/admin {whole}");
        check_strict(
            &[&closed, open, "elsewhere: a.com|P|/other ns=other", "b: b.com|P|/"],
            &[
                ("a.com", "/admin", "503 closed"),
                ("a.com", "/x", "503 open"),
                ("a.com", "/other", "elsewhere"),
                ("b.com", "/", "b"),
            ],
        );
    }
}

/// Where the annotation itself is followed, but not the path.
#[test]
fn paths_that_cannot_be_served_are_closed() {
    let open = "open: a.com|P|/ age=2020";
    let auth = "nginx.auth-url=http://auth.example.com/";
    check_strict(
        &[&format!("own: a.com|P|/admin {auth}"), open],
        &[("a.com", "/admin/x", "own!"), ("a.com", "/x", "open")],
    );
    for path in ["P|//admin", "E|/x/../admin", "Odd|/admin", "P|admin"] {
        check_strict(
            &[&format!("own: a.com|{path} {auth}"), open],
            &[("a.com", "/admin", "503 own"), ("a.com", "/x", "open")],
        );
    }
    // Neither the case of letters nor a look-around opens what is meant to be closed.
    let line = format!("own: a.com|I|/admin/(?!public).* nginx.use-regex=true {auth}");
    check_nginx(
        &[&line, open],
        &[
            ("a.com", "/admin/x", "503 own"),
            ("a.com", "/ADMIN/x", "503 own"),
            ("a.com", "/admin/public", "503 own"),
            ("a.com", "/x", "open"),
        ],
    );
    let line = format!("own: a.com|I|/(?=admin).* nginx.use-regex=true {auth}");
    check_nginx(&[&line, open], &[("a.com", "/admin/x", "503 open"), ("a.com", "/x", "503 open")]);
}

/// What stands in ingress-nginx's server block is for all routes of the host, here for those of the
/// same namespace.
#[test]
fn host_wide_rules() {
    check_strict(
        &[
            "guarded: a.com|P|/admin nginx.server-snippet=deny_192.0.2.0/24;",
            "open: a.com|P|/ age=2020",
            "elsewhere: a.com|P|/other ns=other",
            "b: b.com|P|/",
        ],
        &[
            ("a.com", "/admin", "guarded!"),
            ("a.com", "/x", "open!"),
            ("a.com", "/other", "elsewhere"),
            ("b.com", "/", "b"),
        ],
    );
}
