//! The model of ingress-nginx against rows of requests, and where surprises are found.

use serde_json::{Value, json};

use super::*;
use crate::model::{Compat, Snapshot};
use crate::objects::parse;
use crate::translate::annotations::{CATALOGUE, Support};
use crate::translate::{Settings, UnknownClass, translate};

/// An Ingress: name, host, `Type /path` rows, annotations. The index makes it older than the next.
type Row<'a> = (&'a str, &'a str, &'a [&'a str], &'a [(&'a str, &'a str)]);

const REGEX: (&str, &str) = ("use-regex", "true");

fn ingress(at: usize, (name, host, paths, annotations): &Row<'_>) -> Value {
    let paths: Vec<_> = paths
        .iter()
        .map(|row| {
            let (path_type, path) = row.split_once(' ').expect("`Type /path`");
            let path_type = if path_type == "Impl" { "ImplementationSpecific" } else { path_type };
            json!({ "path": path, "pathType": path_type,
                    "backend": { "service": { "name": name, "port": { "number": 80 } } } })
        })
        .collect();
    let annotations: serde_json::Map<_, _> =
        annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value))).collect();
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": { "name": name, "namespace": "d", "annotations": annotations,
                          "creationTimestamp": format!("2024-01-01T00:00:{at:02}Z") },
            "spec": { "rules": [{ "host": host, "http": { "paths": paths } }] } })
}

fn objects(documents: impl IntoIterator<Item = Value>) -> Objects {
    let mut objects = Objects::default();
    for document in documents {
        let parsed = parse(document, "test");
        assert!(parsed.issues.is_empty(), "{:?}", parsed.issues);
        for object in parsed.objects {
            objects.insert(object);
        }
    }
    objects
}

fn of_rows(rows: &[Row<'_>]) -> Objects {
    objects(rows.iter().enumerate().map(|(at, row)| ingress(at, row)))
}

fn study(objects: &Objects) -> Migration {
    let snapshot = |compat| {
        let settings = Settings {
            compat,
            serve_classless: true,
            unknown_class: UnknownClass::Serve,
            ..Settings::default()
        };
        translate(objects, &settings, &[], 0, &Snapshot::empty())
    };
    let (kubernetes, ingress_nginx) = (snapshot(Compat::Kubernetes), snapshot(Compat::IngressNginx));
    let study = Study {
        objects,
        catalogue: CATALOGUE,
        kubernetes: &kubernetes,
        ingress_nginx: &ingress_nginx,
        adopt: &[],
    };
    study.report()
}

/// Requests as `host /path` and what takes them: `ingress n` (its nth path), `301`, `404`, `400`.
#[track_caller]
fn check(rows: &[Row<'_>], requests: &[(&str, &str)]) {
    let nginx = Nginx::of(&of_rows(rows), &[]);
    for (request, expect) in requests {
        let (host, path) = request.split_once(' ').expect("`host /path`");
        let got = match nginx.find(Some(host), path) {
            Answer::Rule(rule) => {
                let nth = rule.place.rsplit_once('[').map_or("default", |(_, nth)| nth.trim_end_matches(']'));
                format!("{} {nth}", rule.ingress.name)
            }
            Answer::SlashRedirect(_) => "301".into(),
            Answer::NotFound => "404".into(),
            Answer::BadRequest => "400".into(),
        };
        assert_eq!(got, *expect, "{request} of {rows:?}");
    }
}

#[test]
fn nginx_s_locations() {
    check(
        &[("a", "h.test", &["Prefix /foo", "Exact /bar", "Impl /baz", "Prefix /"], &[])],
        &[
            ("h.test /foo", "a 0"),
            ("h.test /foo/x", "a 0"),
            ("h.test /foobar", "a 3"),
            ("h.test /FOO", "a 3"),
            ("h.test /bar", "a 1"),
            ("h.test /bar/", "a 3"),
            ("h.test /baz", "a 2"),
            ("h.test /bazinga", "a 2"),
            ("h.test //foo/./x/..", "a 0"),
            ("h.test /foo%2Fx", "a 0"),
            ("h.test /%zz", "400"),
            ("other.test /foo", "404"),
        ],
    );
    // The redirect is nginx's own, for locations that end in a slash.
    check(
        &[(
            "a",
            "h.test",
            &["Prefix /foo/", "Exact /bar/", "Impl /baz/", "Prefix /both/", "Exact /both"],
            &[],
        )],
        &[
            ("h.test /foo", "301"),
            ("h.test /foo/", "a 0"),
            ("h.test /foo/x", "a 0"),
            ("h.test /bar", "301"),
            ("h.test /bar/x", "404"),
            ("h.test /baz", "301"),
            ("h.test /both", "a 4"),
            ("h.test /fo", "404"),
        ],
    );
}

#[test]
fn nginx_s_regular_expressions() {
    check(
        &[
            ("plain", "h.test", &["Exact /Foo", "Prefix /bar"], &[]),
            ("regex", "h.test", &["Impl /v[0-9]+"], &[REGEX]),
            ("else", "other.test", &["Exact /Foo"], &[]),
        ],
        &[
            ("h.test /foobar", "plain 0"),
            ("h.test /BARxyz", "plain 1"),
            ("h.test /V1/x", "regex 0"),
            ("h.test /v", "404"),
            ("other.test /foobar", "404"),
            ("other.test /Foo", "else 0"),
        ],
    );
    // The longest text goes first, whatever it matches.
    check(
        &[("a", "h.test", &["Impl /.*", "Impl /foo", "Impl /foo/bar"], &[REGEX])],
        &[("h.test /foo", "a 1"), ("h.test /foo/bar/x", "a 2"), ("h.test /x", "a 0")],
    );
    // rewrite-target implies a regular expression, but not where it changes nothing.
    check(
        &[("a", "h.test", &["Prefix /app"], &[("rewrite-target", "/")]), ("b", "h.test", &["Exact /X"], &[])],
        &[("h.test /APPLE", "a 0"), ("h.test /xyz", "b 0")],
    );
    check(
        &[("a", "h.test", &["Prefix /"], &[("rewrite-target", "/")]), ("b", "h.test", &["Exact /X"], &[])],
        &[("h.test /x", "a 0"), ("h.test /X", "b 0")],
    );
}

#[test]
fn nginx_s_servers() {
    check(
        &[
            ("older", "h.test", &["Prefix /a"], &[("server-alias", "alias.test, h.test")]),
            ("younger", "h.test", &["Prefix /a", "Exact /a"], &[]),
            ("wild", "*.test", &["Prefix /"], &[]),
            ("canary", "c.test", &["Prefix /"], &[("canary", "true")]),
            ("any", "", &["Prefix /any"], &[]),
        ],
        &[
            ("h.test /a", "younger 1"),
            ("h.test /a/b", "older 0"),
            ("alias.test /a/b", "older 0"),
            ("x.test /any", "wild 0"),
            ("c.test /any", "wild 0"),
            // A host's own server never leads to another one.
            ("h.test /any", "404"),
            ("x.y.test /any", "any 0"),
        ],
    );
}

/// `kind host path example` of each place, of the kinds that don't depend on how Sluice is set.
#[track_caller]
fn surprised(rows: &[Row<'_>], expect: &[&str]) -> Migration {
    let migration = study(&of_rows(rows));
    let got: Vec<_> = migration
        .surprises
        .iter()
        .filter(|surprise| !matches!(surprise.kind, Kind::Defaults | Kind::OtherRule))
        .flat_map(|surprise| {
            surprise.places.iter().map(|place| {
                let kind = serde_json::to_value(surprise.kind).expect("a word");
                let example = place.example.as_ref().map_or("-", |example| example.path.as_str());
                format!("{} {} {} {example}", kind.as_str().expect("a word"), surprise.host, place.path)
            })
        })
        .collect();
    assert_eq!(got, expect, "{rows:?}");
    migration
}

#[test]
fn surprises_name_the_paths_that_they_hit() {
    surprised(&[("a", "h.test", &["Prefix /", "Prefix /foo", "Exact /bar"], &[])], &[]);
    let migration = surprised(
        &[
            ("plain", "h.test", &["Prefix /", "Exact /Foo"], &[]),
            ("regex", "h.test", &["Impl /v[0-9]"], &[REGEX]),
            ("else", "other.test", &["Exact /Foo"], &[]),
        ],
        &["host-wide-regex h.test /Foo /fOOxyz", "regex-prefix h.test /v[0-9] /V0xyz"],
    );
    assert_eq!(
        migration.surprises[0].causes,
        ["Ingress d/regex metadata.annotations[nginx.ingress.kubernetes.io/use-regex]"]
    );
    surprised(
        &[("a", "h.test", &["Impl /app(/|$)(.*)"], &[("rewrite-target", "/$2")])],
        &[
            "rewrite-implies-regex h.test /app(/|$)(.*) /APP/Axyz",
            "normalisation h.test /app(/|$)(.*) /app%2Fa",
        ],
    );
    surprised(
        &[("a", "h.test", &["Prefix /foo/", "Exact /bar/", "Exact /bar"], &[])],
        &["trailing-slash h.test /foo/ /foo"],
    );
    surprised(&[("a", "h.test", &["Prefix /a/b"], &[])], &["normalisation h.test /a/b /a%2Fb"]);
    surprised(&[("a", "h.test", &["Impl /foo"], &[])], &["prefix-by-letters h.test /foo /fooxyz"]);
    surprised(
        &[("a", "h.test", &["Prefix /a"], &[]), ("any", "", &["Exact /b"], &[])],
        &["host-fall-through h.test /b /b"],
    );
    let auth = ("auth-url", "http://auth.test/");
    let allow = ("whitelist-source-range", "10.0.0.0/8");
    let open = ("shop", "h.test", &["Prefix /"][..], &[][..]);
    surprised(
        &[("admin", "h.test", &["Prefix /admin/", "Exact /top", "Prefix /"], &[auth]), open],
        &["trailing-slash h.test /admin/ /admin"],
    );
    surprised(
        &[("admin", "h.test", &["Prefix /admin", "Exact /top"], &[auth]), open],
        &["path-parameters h.test /admin /admin;x", "path-parameters h.test /top /top;x"],
    );
    surprised(&[("admin", "h.test", &["Prefix /admin"], &[allow])], &[]);
    surprised(&[("plain", "h.test", &["Prefix /admin"], &[]), open], &[]);
}

#[test]
fn classes_of_others_are_left_out() {
    let class = |name: &str, controller: &str| {
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": name },
                "spec": { "controller": controller } })
    };
    let of_class = |at: usize, class: &str| {
        let mut document = ingress(at, &(class, "h.test", &["Exact /a"], &[("bogus", "1")]));
        document["spec"]["ingressClassName"] = class.into();
        document
    };
    let objects = objects([
        class("nginx", "k8s.io/ingress-nginx"),
        class("mesh", "example.com/mesh"),
        of_class(0, "nginx"),
        of_class(1, "mesh"),
        of_class(2, "undefined"),
    ]);
    assert_eq!(classes(&objects), ["nginx"]);
    let names = |adopt: &[String]| -> Vec<String> {
        Nginx::of(&objects, adopt).ingresses().map(|(key, _)| key.name.to_string()).collect()
    };
    assert_eq!(names(&[]), ["nginx", "undefined"]);
    assert_eq!(names(&["mesh".to_owned()]), ["nginx", "mesh", "undefined"]);
}

/// The catalogue's own words are its business; here it is one of three entries.
#[test]
fn annotations_have_verdicts() {
    const ENTRIES: &[Entry] = &[
        Entry { name: "differs", support: Support::Differs("In this.") },
        Entry { name: "full", support: Support::Full },
        Entry { name: "ignored", support: Support::Ignored("Not needed.") },
        Entry { name: "refused", support: Support::Refused("Do that.") },
    ];
    let annotations = [("differs", "1"), ("full", "1"), ("ignored", "1"), ("refused", "1"), ("typo", "1")];
    let objects = of_rows(&[("a", "h.test", &["Prefix /"], &annotations)]);
    let empty = Snapshot::empty();
    let study = Study {
        objects: &objects,
        catalogue: ENTRIES,
        kubernetes: &empty,
        ingress_nginx: &empty,
        adopt: &[],
    };
    let got: Vec<_> =
        study.report().annotations.into_iter().map(|one| (one.annotation, one.verdict, one.note)).collect();
    let expect = [
        ("differs", Verdict::Differs, "In this."),
        ("full", Verdict::Supported, ""),
        ("ignored", Verdict::Ignored, "Not needed."),
        ("refused", Verdict::Refused, "Do that."),
        ("typo", Verdict::Unknown, "ingress-nginx has no such annotation; correct its name or remove it."),
    ];
    assert_eq!(got, expect.map(|(name, verdict, note)| (name.to_owned(), verdict, note.to_owned())));
}

/// A hostile Ingress costs bounded time and says how much it left out.
#[test]
fn ten_thousand_paths() {
    let paths: Vec<String> = (0..10_000).map(|n| format!("Impl /a/path{n}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let mut objects = of_rows(&[("a", "h.test", &paths, &[])]);
    let plain = study(&objects);
    assert!(plain.surprises.iter().all(|one| one.places.len() <= 50), "places are bounded");
    assert!(plain.surprises.iter().any(|one| one.more > 100), "and the others counted");
    let mut regex = ingress(0, &("b", "h.test", &["Impl /b[0-9]"], &[REGEX]));
    regex["metadata"]["name"] = "b".into();
    for object in parse(regex, "test").objects {
        objects.insert(object);
    }
    assert!(study(&objects).surprises.iter().any(|one| one.kind == Kind::HostWideRegex));
}
