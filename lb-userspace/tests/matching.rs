//! From manifests to the route of a request: what `translate`, [`RouteTable::build`] and
//! [`RouteTable::find`] answer together, for every rule of the Ingress API on hosts and paths.
//!
//! A case is a handful of one-line Ingresses (see [`ingress`]) and rows of `host path → answer`.
//! Answers are `NAME` (the Ingress whose path took it), `NAME/default` (its default backend),
//! `404`, `503 NAME`, `308 NAME`. Hosts and paths go through the same normalisation as a request's.

use serde_json::{Value, json};
use sluice::model::{Backend, ClusterKey, Compat, ObjectKey, PortRef, Snapshot};
use sluice::objects::{Objects, parse};
use sluice::route::{RouteTable, Target, normalise_host};
use sluice::translate::{Settings, UnknownClass, translate};

/// `NAME: WORD…`, in which a word is one of
/// - `HOST|TYPE|PATH`: a path of a rule; the host may be empty; TYPE is `P`, `E` or `I`;
/// - `HOST|-`: a rule without `http`;
/// - `default`: has a default backend;
/// - `tls=HOST`, `class=NAME`, `age=YEAR` (of creation), `ns=NAMESPACE`, `to=SERVICE:PORT`;
/// - `NAME=VALUE` with a dot in the name: an annotation, `nginx.` short for ingress-nginx's prefix.
fn ingress(line: &str) -> Value {
    let (name, words) = line.split_once(": ").expect("`NAME: WORD…`");
    let backend = |text: &str| {
        let (service, port) = text.split_once(':').expect("SERVICE:PORT");
        let port = match port.parse::<u16>() {
            Ok(number) => json!({ "number": number }),
            Err(_) => json!({ "name": port }),
        };
        json!({ "service": { "name": service, "port": port } })
    };
    let mut object = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": name, "annotations": {} }, "spec": { "rules": [], "tls": [] } });
    let to =
        words.split(' ').find_map(|word| word.strip_prefix("to=")).map_or_else(|| backend("web:80"), backend);
    for word in words.split(' ') {
        if word == "default" {
            object["spec"]["defaultBackend"] = to.clone();
        } else if let Some((host, rest)) = word.split_once('|') {
            let mut rule = json!({});
            if !host.is_empty() {
                rule["host"] = host.into();
            }
            if let Some((kind, path)) = rest.split_once('|') {
                let kind = match kind {
                    "P" => "Prefix",
                    "E" => "Exact",
                    "I" => "ImplementationSpecific",
                    other => other,
                };
                rule["http"] = json!({ "paths": [{ "path": path, "pathType": kind, "backend": to }] });
            }
            object["spec"]["rules"].as_array_mut().expect("a list").push(rule);
        } else {
            let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{word} is no word"));
            match key {
                "to" => {}
                "tls" => {
                    object["spec"]["tls"].as_array_mut().expect("a list").push(json!({ "hosts": [value] }))
                }
                "class" => object["spec"]["ingressClassName"] = value.into(),
                "age" => object["metadata"]["creationTimestamp"] = format!("{value}-01-01T00:00:00Z").into(),
                "ns" => object["metadata"]["namespace"] = value.into(),
                name => {
                    let name = name.replace("nginx.", "nginx.ingress.kubernetes.io/");
                    object["metadata"]["annotations"][name] = value.replace('_', " ").into();
                }
            }
        }
    }
    object
}

fn class(name: &str, controller: &str, annotations: Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": { "name": name, "annotations": annotations }, "spec": { "controller": controller } })
}

/// Services of the namespaces `default` and `other`: `web` with ports 80 (http) and UDP 53, `empty`
/// without endpoints, `far`, which is an ExternalName.
fn services() -> Vec<Value> {
    let mut all = Vec::new();
    for namespace in ["default", "other"] {
        let service = |name: &str, spec: Value| {
            json!({ "apiVersion": "v1", "kind": "Service",
                    "metadata": { "name": name, "namespace": namespace }, "spec": spec })
        };
        let ports = json!([{ "name": "http", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" },
                           { "name": "sctp", "port": 54, "protocol": "SCTP" }]);
        all.push(service("web", json!({ "ports": ports })));
        all.push(service("empty", json!({ "ports": ports })));
        all.push(service("headless", json!({ "clusterIP": "None", "ports": ports })));
        all.push(service(
            "far",
            json!({ "type": "ExternalName", "externalName": "example.com", "ports": ports }),
        ));
        for name in ["web", "headless"] {
            all.push(
                json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": format!("{name}-1"), "namespace": namespace,
                              "labels": { "kubernetes.io/service-name": name } },
                "ports": [{ "name": "http", "port": 8080 }, { "name": "dns", "port": 53, "protocol": "UDP" }],
                "endpoints": [{ "addresses": ["10.0.0.1"] }] }),
            );
        }
    }
    all
}

fn serving() -> Settings {
    Settings { unknown_class: UnknownClass::Serve, serve_classless: true, ..Settings::default() }
}

fn snapshot(ingresses: &[&str], more: &[Value], settings: &Settings) -> Snapshot {
    let (mut objects, mut issues) = (Objects::default(), Vec::new());
    for document in ingresses.iter().map(|line| ingress(line)).chain(services()).chain(more.iter().cloned()) {
        let parsed = parse(document, "matching.rs");
        issues.extend(parsed.issues);
        for object in parsed.objects {
            objects.insert(object);
        }
    }
    translate(&objects, settings, &issues, 1_780_272_000, &Snapshot::empty())
}

fn answer(snapshot: &Snapshot, table: &RouteTable, host: &str, path: &str) -> String {
    let host = (!host.is_empty()).then(|| normalise_host(host).expect("a host"));
    let target = Target::parse(path).expect("a target");
    let Some(found) = table.find(host.as_deref(), target.path()) else { return "404".into() };
    let route = found.route;
    let name = &route.ingress.name;
    match &route.backend {
        Backend::Unavailable(_) => return format!("503 {name}"),
        Backend::Cluster(key) if snapshot.clusters[&**key].endpoints.is_empty() => {
            return format!("503 {name}");
        }
        Backend::Cluster(_) | Backend::Answered => {}
    }
    match route.policy.https_redirect {
        Some(status) => format!("{status} {name}"),
        None if &*route.rule == "defaultBackend" => format!("{name}/default"),
        None => name.to_string(),
    }
}

#[track_caller]
fn check_with(ingresses: &[&str], more: &[Value], settings: &Settings, rows: &[(&str, &str, &str)]) {
    let snapshot = snapshot(ingresses, more, settings);
    let table = RouteTable::build(&snapshot.routing);
    for (host, path, expect) in rows {
        let got = answer(&snapshot, &table, host, path);
        assert_eq!(got, *expect, "{host:?} {path} of {ingresses:#?}\n{:#?}", snapshot.issues);
    }
    // The order of manifests decides nothing.
    let mut reversed = ingresses.to_vec();
    reversed.reverse();
    assert_eq!(self::snapshot(&reversed, more, settings).routing, snapshot.routing);
}

#[track_caller]
fn check(ingresses: &[&str], rows: &[(&str, &str, &str)]) {
    check_with(ingresses, &[], &serving(), rows);
}

#[test]
fn exact_paths() {
    check(
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
            check(&[&line], &[("a.com", path, if expect { "web" } else { "404" })]);
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

#[test]
fn classes() {
    let sluice = |annotations| class("sluice", "sluice.dev/ingress-controller", annotations);
    let nginx = class("nginx", "k8s.io/ingress-nginx", json!({}));
    let ingresses = [
        "own: own.com|P|/ class=sluice",
        "foreign: foreign.com|P|/ class=nginx",
        "unknown: unknown.com|P|/ class=nobody",
        "classless: classless.com|P|/",
        "legacy: legacy.com|P|/ kubernetes.io/ingress.class=sluice",
        "legacy-foreign: legacy-foreign.com|P|/ kubernetes.io/ingress.class=nginx",
    ];
    let strict = Settings::default();
    let rows = |foreign, unknown, classless| {
        [
            ("own.com", "/", "own"),
            ("legacy.com", "/", "legacy"),
            ("foreign.com", "/", if foreign { "foreign" } else { "404" }),
            ("legacy-foreign.com", "/", if foreign { "legacy-foreign" } else { "404" }),
            ("unknown.com", "/", if unknown { "unknown" } else { "404" }),
            ("classless.com", "/", if classless { "classless" } else { "404" }),
        ]
    };
    let plain = [sluice(json!({})), nginx.clone()];
    check_with(&ingresses, &plain, &strict, &rows(false, false, false));
    check_with(&ingresses, &plain, &serving(), &rows(false, true, true));
    let adopting = Settings { adopt: vec!["nginx".into()], ..Settings::default() };
    check_with(&ingresses, &plain, &adopting, &rows(true, false, false));
    let default = [sluice(json!({ "ingressclass.kubernetes.io/is-default-class": "true" })), nginx];
    check_with(&ingresses, &default, &strict, &rows(false, false, true));
}

#[test]
fn compat_is_of_the_class() {
    let sluice = |name, annotations| class(name, "sluice.dev/ingress-controller", annotations);
    let classes = [
        sluice("silent", json!({})),
        sluice("strict", json!({ "sluice.dev/compat": "kubernetes" })),
        sluice(
            "like-nginx",
            json!({ "sluice.dev/compat": "ingress-nginx",
                                     "ingressclass.kubernetes.io/is-default-class": "true" }),
        ),
        sluice("wrong", json!({ "sluice.dev/compat": "apache" })),
        class("nginx", "k8s.io/ingress-nginx", json!({ "sluice.dev/compat": "ingress-nginx" })),
    ];
    let ingresses = [
        "silent: silent.com|P|/ tls=silent.com class=silent",
        "strict: strict.com|P|/ tls=strict.com class=strict",
        "like-nginx: like-nginx.com|P|/ tls=like-nginx.com class=like-nginx",
        "plain: plain.com|P|/ class=like-nginx",
        "off: off.com|P|/ tls=off.com class=like-nginx nginx.ssl-redirect=false",
        "wrong: wrong.com|P|/ tls=wrong.com class=wrong",
        "adopted: adopted.com|P|/ tls=adopted.com class=nginx",
        "classless: classless.com|P|/ tls=classless.com",
        "forced: forced.com|P|/ class=strict nginx.force-ssl-redirect=true",
    ];
    for (node, silent) in [(Compat::Kubernetes, "silent"), (Compat::IngressNginx, "308 silent")] {
        let settings = Settings { compat: node, adopt: vec!["nginx".into()], ..Settings::default() };
        let wrong = silent.replace("silent", "wrong");
        check_with(
            &ingresses,
            &classes,
            &settings,
            &[
                ("silent.com", "/", silent),
                ("strict.com", "/", "strict"),
                ("like-nginx.com", "/", "308 like-nginx"),
                ("plain.com", "/", "plain"),
                ("off.com", "/", "off"),
                ("wrong.com", "/", &wrong),
                ("adopted.com", "/", "308 adopted"),
                ("classless.com", "/", "308 classless"),
                ("forced.com", "/", "308 forced"),
            ],
        );
    }
}

/// What closes a path must go on closing it, however it is written.
#[test]
fn restricted_access_is_never_opened() {
    let auth = "nginx.auth-url=http://auth.example.com";
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
        let snapshot = snapshot(&[&line, open], &[], &serving());
        let table = RouteTable::build(&snapshot.routing);
        for (path, expect) in rows {
            let got = answer(&snapshot, &table, "a.com", path);
            assert_eq!(got.split(' ').next(), Some(expect), "{path} of {closed}\n{:#?}", snapshot.issues);
        }
    }
    // Read as a regular expression, an Exact path closes what is below it too.
    check(
        &[&format!("closed: a.com|E|/admin nginx.use-regex=true {auth}"), open],
        &[("a.com", "/admin/x", "503 closed"), ("a.com", "/x", "open")],
    );
    check(
        &["closed: a.com|P|/admin nginx.configuration-snippet=deny_all;", open],
        &[("a.com", "/admin", "503 closed"), ("a.com", "/x", "open")],
    );
    check(
        &["loud: a.com|P|/admin nginx.configuration-snippet=more_set_headers_X:1;", open],
        &[("a.com", "/admin", "loud")],
    );
    // ingress-nginx applies these to the server block: other Ingresses of the namespace count on them.
    for whole in ["nginx.server-snippet=deny_all;", "nginx.auth-tls-secret=default/ca"] {
        let closed = format!("closed: a.com|P|/admin {whole}");
        check(
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
