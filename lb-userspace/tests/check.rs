//! `sluice check` on the real binary: what a move from ingress-nginx changes, and replayed requests.

#[allow(dead_code, reason = "other tests use other parts")]
#[path = "support/daemon.rs"]
mod daemon;

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use daemon::{command, ingress, service, text};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with one file `m/all.yaml`, and a place for requests beside it.
fn directory(manifests: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("m")).expect("a directory");
    std::fs::write(dir.path().join("m/all.yaml"), manifests).expect("a file");
    dir
}

/// `sluice check m ARGS` in the directory.
fn check(dir: &Path, args: &[&str]) -> Output {
    command().args(["check", "m"]).args(args).current_dir(dir).output().expect("the binary runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)))
}

/// An Ingress with annotations, written `name: value, …`.
fn annotated(name: &str, host: &str, path: &str, annotations: &str) -> String {
    let with: String = annotations
        .split(", ")
        .filter(|one| !one.is_empty())
        .map(|one| format!("nginx.ingress.kubernetes.io/{one}, "))
        .collect();
    ingress(name, host, path, "web").replace(
        "namespace: default}\nspec:\n  rules",
        &format!("namespace: default, annotations: {{{with}}}}}\nspec:\n  rules"),
    )
}

fn web() -> String {
    service("web", &["127.0.0.1:1".parse().expect("an address")])
}

#[test]
fn what_refuses_a_migration() {
    for (manifests, args, code, expect) in [
        (ingress("web", "a.test", "/", "web"), &[][..], 0, "0 errors"),
        (
            annotated("web", "a.test", "/", "ssl-redirect: \"true\""),
            &[],
            0,
            "0 refused, 0 differ, 1 the same",
        ),
        (annotated("web", "a.test", "/", "no-such-thing: x"), &[], 0, "unknown"),
        (annotated("web", "a.test", "/", "no-such-thing: x"), &["--strict"], 1, "unknown"),
        (annotated("web", "a.test", "/foo/", "ssl-redirect: \"true\""), &[], 0, "slash at the end"),
        (annotated("web", "a.test", "/foo/", "ssl-redirect: \"true\""), &["--strict"], 1, "slash at the end"),
        (ingress("web", "a.test", "/foo/", "web"), &["--from", "ingress-nginx"], 0, "slash at the end"),
        (annotated("web", "a.test", "/", "enable-modsecurity: \"true\""), &[], 1, "REFUSED"),
        (annotated("web", "a.test", "/", "auth-type: digest"), &[], 1, "REFUSED (503)"),
    ] {
        let dir = directory(&(web() + &manifests));
        let output = check(dir.path(), args);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{args:?} {manifests}: {said}{}", text(&output.stderr));
        assert!(said.contains(expect), "{args:?}: {expect:?} in {said}");
        assert!(said.lines().all(|line| line == line.trim_end()), "{said:?}");
    }
    let dir = directory(&(web() + &annotated("web", "a.test", "/foo/", "no-such-thing: x")));
    let none = check(dir.path(), &["--from", "none"]);
    assert!(!text(&none.stdout).contains("ingress-nginx"), "{}", text(&none.stdout));
    assert_eq!(json(&check(dir.path(), &["--from", "none", "-o", "json"])).get("migration"), None);
}

/// Where Services may have addresses is said by the settings of the cluster, else by the option.
#[test]
fn addresses_that_services_may_not_have() {
    let balancer = "apiVersion: v1\nkind: Service\nmetadata: {name: game, namespace: default, \
                    annotations: {sluice.dev/vips: 192.0.2.1}}\nspec: {type: LoadBalancer, \
                    loadBalancerClass: sluice.dev/xdp, ports: [{port: 80}]}\n---\n";
    let map = |networks: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings, namespace: sluice}}\n\
             data: {{service-vips: \"{networks}\"}}\n---\n"
        )
    };
    for (networks, option, errors) in [
        (None, None, 0),
        (None, Some("192.0.2.0/24"), 0),
        (None, Some("198.51.100.0/24,2001:db8::/32"), 1),
        (Some("198.51.100.0/24"), None, 1),
        (Some("192.0.2.0/24"), Some("198.51.100.0/24"), 0),
        (Some("192.0.2.0/33"), Some("192.0.2.0/24"), 2),
    ] {
        let dir = directory(&(balancer.to_owned() + &networks.map(map).unwrap_or_default()));
        let named = networks.map_or(&[][..], |_| &["--config-map", "sluice/settings"]);
        let option: Vec<_> = option.into_iter().flat_map(|networks| ["--service-vips", networks]).collect();
        let output = check(dir.path(), &[named, &option].concat());
        let said = text(&output.stdout);
        assert!(said.contains(&format!("{errors} error")), "{networks:?} {option:?}: {said}");
        assert_eq!(said.contains("setting service-vips"), errors > 0, "{networks:?} {option:?}: {said}");
        assert_eq!(output.status.code(), Some(i32::from(errors > 0)), "{said}");
    }
}

/// The settings are a ConfigMap among the files. Their word on `compat` is the default of the option's.
#[test]
fn settings_of_the_cluster() {
    let map = |entries: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings, namespace: sluice}}\ndata: {{{entries}}}\n---\n"
        )
    };
    let named = ["--config-map", "sluice/settings"];
    for (entries, more, compat, said) in [
        ("", &[][..], "kubernetes", None),
        ("compat: ingress-nginx", &[], "ingress-nginx", None),
        ("compat: ingress-nginx", &["--compat", "kubernetes"], "kubernetes", None),
        ("compat: nginx", &[], "kubernetes", Some("data[compat]")),
        (
            "proxy-body-size: 8x",
            &["--compat", "ingress-nginx"],
            "ingress-nginx",
            Some("data[proxy-body-size]"),
        ),
    ] {
        let dir = directory(&(map(entries) + &web() + &ingress("web", "a.test", "/", "web")));
        let output = check(dir.path(), &[&named, more, &["-o", "json"]].concat());
        let report = json(&output);
        assert_eq!(report["compat"], compat, "{entries} {more:?}");
        let fields: Vec<_> =
            report["issues"].as_array().expect("a list").iter().map(|i| &i["field"]).collect();
        let about_settings = |field: &&&Value| field.as_str().is_some_and(|field| field.starts_with("data["));
        assert_eq!(fields.iter().find(about_settings).and_then(|f| f.as_str()), said, "{entries}: {report}");
    }
    let dir = directory(&(web() + &ingress("web", "a.test", "/", "web")));
    for (args, code, expect) in
        [(&named[..], 0, "does not exist"), (&["--config-map", "settings"], 2, "write namespace/name")]
    {
        let output = check(dir.path(), args);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{all}");
        assert!(all.contains(expect), "{all}");
    }
}

#[test]
fn a_report_is_read_by_scripts() {
    let class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: nginx}\n\
                 spec: {controller: k8s.io/ingress-nginx}\n---\n";
    let of_class = annotated("web", "a.test", "/foo/", "use-port-in-redirects: \"true\"")
        .replace("spec:\n  rules", "spec:\n  ingressClassName: nginx\n  rules");
    let dir = directory(&(class.to_owned() + &web() + &of_class));
    let report = json(&check(dir.path(), &["-o", "json"]));
    assert_eq!(report["adopted"], serde_json::json!(["nginx"]), "{report}");
    assert_eq!(report["serving"]["routes"], 1, "an adopted class is served: {report}");
    let migration = &report["migration"];
    let annotation = &migration["annotations"][0];
    assert_eq!(
        (&annotation["ingress"], &annotation["annotation"], &annotation["value"]),
        (&"default/web".into(), &"use-port-in-redirects".into(), &"true".into()),
        "{migration}"
    );
    let surprise = &migration["surprises"][0];
    assert_eq!((&surprise["kind"], &surprise["host"]), (&"trailing-slash".into(), &"a.test".into()));
    assert_eq!(surprise["changes"]["kubernetes"], true, "{surprise}");
    let place = &surprise["places"][0];
    assert_eq!(place["field"], "spec.rules[0].http.paths[0].path", "{place}");
    assert_eq!(place["example"]["path"], "/foo", "{place}");
    assert_eq!(place["example"]["ingress_nginx"], serde_json::json!({"outcome": "slash-redirect"}));
}

/// What is said about a cluster as people have it. `tests/migrate` holds its manifests and requests;
/// look at what changes in the recorded answers before you take it.
#[test]
fn golden() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate");
    let run = |args: &[&str]| {
        let output = command().arg("check").arg("shop").args(args).current_dir(&root).output();
        let output = output.expect("the binary runs");
        assert_eq!(text(&output.stderr), "", "{args:?}");
        (output.status.code(), text(&output.stdout))
    };
    let (code, report) = run(&[]);
    assert_eq!(code, Some(1), "what is refused blocks");
    let (_, json) = run(&["--compat", "ingress-nginx", "-o", "json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let (_, replay) = run(&["--replay", "requests.jsonl"]);
    let (_, both) = run(&["--replay", "requests.jsonl", "--compat", "both"]);
    insta::with_settings!({
        snapshot_path => &root,
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("report", report);
        insta::assert_yaml_snapshot!("surprises", json["migration"]["surprises"]);
        insta::assert_snapshot!("replay", replay);
        insta::assert_snapshot!("replay-both", both);
    });
}

/// Two hosts, one of them with TLS.
fn two_hosts() -> TempDir {
    let tls = ingress("tls", "tls.test", "/", "web")
        .replace("spec:\n", "spec:\n  tls: [{hosts: [tls.test], secretName: gone}]\n");
    let dir = directory(&(web() + &ingress("web", "a.test", "/foo", "web") + &tls));
    let lines = [
        r#"{"host": "a.test", "path": "/foo/x?y=1", "method": "POST"}"#,
        "# a comment, and an empty line",
        "",
        r#"192.0.2.1 - - [10/Oct/2026:13:55:36 +0000] "GET /foo HTTP/1.1" 200 12 "-" "curl/8""#,
        r#"a.test 192.0.2.1 - - [10/Oct/2026:13:55:36 +0000] "GET /foobar HTTP/1.1" 200 12 "-" "curl/8""#,
        r#"{"host": "tls.test", "path": "/", "tls": false}"#,
        r#"{"host": "tls.test", "path": "/"}"#,
        r#"{"host": "a.test", "path": "/%00"}"#,
        "junk",
        r#"{"host": "a.test", "path": "/foo", "proxy_upstream_name": "default-web-80"}"#,
        r#"{"host": "a.test", "path": "/foo", "proxy_upstream_name": "default-other-80"}"#,
    ];
    std::fs::write(dir.path().join("requests"), lines.join("\n")).expect("a file");
    dir
}

/// `line status-or-backend` of each answer, `line: why` of bad lines, and the summary.
fn replay(dir: &Path, args: &[&str]) -> (Vec<String>, Value) {
    let output = check(dir, &[&["--replay", "requests", "-o", "json"], args].concat());
    let mut rows = Vec::new();
    let mut summary = Value::Null;
    for line in text(&output.stdout).lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(summary.is_null(), "the summary comes last");
        if let Some(request) = value.get("request") {
            let answers = request["answers"].as_array().expect("answers").iter();
            let answers: Vec<_> = answers
                .map(|answer| match answer["status"].as_u64() {
                    Some(status) => status.to_string(),
                    None => answer["backend"].as_str().expect("a backend").to_owned(),
                })
                .collect();
            rows.push(format!("{} {}", request["line"], answers.join(" ")));
        } else if let Some(bad) = value.get("bad_line") {
            rows.push(format!("{}: bad", bad["line"]));
        } else {
            summary = value["summary"].clone();
        }
    }
    (rows, summary)
}

#[test]
fn each_request_has_its_route() {
    let dir = two_hosts();
    let (rows, summary) = replay(dir.path(), &["--replay-host", "A.test:443"]);
    let web = "default/web:80";
    let expect = [
        format!("1 {web}"),
        format!("4 {web}"),
        "5 404".into(),
        format!("6 {web}"),
        format!("7 {web}"),
        "8 400".into(),
        "9: bad".into(),
        format!("10 {web}"),
        format!("11 {web}"),
    ];
    assert_eq!(rows, expect);
    let counts = [&summary["lines"], &summary["requests"], &summary["bad_lines"], &summary["elsewhere"]];
    assert_eq!(counts.map(|count| count.as_u64()), [11, 8, 1, 1].map(Some), "{summary}");
    assert_eq!(summary["routes"]["kubernetes"]["default/web rules[0].http.paths[0]"], 4, "{summary}");
    assert_eq!(summary["routes"]["kubernetes"]["404"], 1, "{summary}");

    // Without a host for those that name none.
    let (rows, summary) = replay(dir.path(), &[]);
    assert!(rows.contains(&"4: bad".to_owned()), "{rows:?}");
    assert_eq!(summary["bad_lines"], 2, "{summary}");
}

#[test]
fn only_what_differs_between_the_defaults() {
    let dir = two_hosts();
    let (rows, summary) = replay(dir.path(), &["--compat", "both", "--replay-host", "a.test"]);
    let web = "default/web:80";
    // Plain requests to a TLS host are redirected by one only; 11 went elsewhere before.
    assert_eq!(rows, [format!("6 {web} 308"), "9: bad".into(), format!("11 {web} {web}")]);
    assert_eq!((&summary["differing"], &summary["requests"]), (&1.into(), &8.into()), "{summary}");
}

#[test]
fn replays_end_with_a_status() {
    let dir = two_hosts();
    let requests = |text: &str| std::fs::write(dir.path().join("some"), text).expect("a file");
    let good = "{\"host\": \"a.test\", \"path\": \"/foo\"}\n";
    for (lines, args, code, expect) in [
        (good, &[][..], 0, "1 requests in 1 lines, 0 not replayed"),
        ("", &[], 0, "0 requests in 0 lines"),
        ("junk\n", &[], 0, "1  not replayed: neither"),
        ("junk\n", &["--strict"], 1, "1 not replayed"),
        (good, &["--strict", "--compat", "both"], 0, "0 differ"),
    ] {
        requests(lines);
        let output = check(dir.path(), &[&["--replay", "some"], args].concat());
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{lines:?} {args:?}: {said}{}", text(&output.stderr));
        assert!(said.contains(expect), "{lines:?} {args:?}: {said}");
    }
    let gone = check(dir.path(), &["--replay", "no-such-file"]);
    assert_eq!(gone.status.code(), Some(2));
    assert!(text(&gone.stderr).contains("no-such-file"), "{}", text(&gone.stderr));

    let mut child = command()
        .args(["check", "m", "--replay", "-"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(good.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(text(&output.stdout).contains("default/web:80"), "{}", text(&output.stdout));
}

/// More than fits any buffer, with lines that are no lines.
#[test]
fn a_long_file_is_a_stream() {
    let dir = two_hosts();
    let mut file = std::fs::File::create(dir.path().join("requests")).expect("a file");
    let line = "{\"host\": \"a.test\", \"path\": \"/foo\"}\n".repeat(1000);
    for _ in 0..100 {
        file.write_all(line.as_bytes()).expect("disk");
        file.write_all(&vec![b'x'; 200_000]).expect("disk");
        file.write_all(b"\n\xff\xfe\n").expect("disk");
    }
    let (_, summary) = replay(dir.path(), &[]);
    assert_eq!((&summary["requests"], &summary["bad_lines"]), (&100_000.into(), &200.into()), "{summary}");
}
