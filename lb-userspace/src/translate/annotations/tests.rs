//! What annotations come to, each family as a table.

use serde_json::{Value, json};

use super::*;
use crate::model::{Compat, Severity};
use crate::objects::Objects;

const NGINX: &str = "nginx.ingress.kubernetes.io/";

fn read_with(defaults: &Defaults, annotations: &[(&str, &str)]) -> (Annotations, Vec<Issue>) {
    let full = |name: &str| if name.contains('/') { name.to_owned() } else { format!("{NGINX}{name}") };
    let annotations = annotations.iter().map(|(name, value)| (full(name), (*value).to_owned())).collect();
    let mut issues = Vec::new();
    let key = ObjectKey::new("default", "web");
    let read = Annotations::read(&key, &annotations, defaults, &mut issues);
    (read, issues)
}

fn read(annotations: &[(&str, &str)]) -> (Annotations, Vec<Issue>) {
    read_with(&Defaults::new(Compat::Kubernetes), annotations)
}

fn policy(read: &Annotations, issues: &mut Vec<Issue>) -> Value {
    let key = ObjectKey::new("default", "web");
    match read.policy(&key, &Objects::default(), issues) {
        Ok(policy) => serde_json::to_value(policy).expect("serialises"),
        Err(annotation) => json!(format!("closed by {annotation}")),
    }
}

/// The policy that annotations make in strict Kubernetes behaviour, where nothing else is in it; and
/// how many of them something is said of.
#[track_caller]
fn check(annotations: &[(&str, &str)], said: usize, expect: Value) {
    let (read, mut issues) = read(annotations);
    let policy = policy(&read, &mut issues);
    assert_eq!(policy, expect, "{annotations:?}");
    assert_eq!(issues.len(), said, "{annotations:?}: {issues:#?}");
    assert_eq!(read.closed_by, None, "{annotations:?}");
}

#[test]
fn every_annotation_is_read_or_said() {
    for Entry { name, support } in CATALOGUE {
        let (_, issues) = read(&[(name, "\u{1}")]);
        let field = format!("metadata.annotations[{NGINX}{name}]");
        assert!(issues.iter().any(|issue| issue.field == field), "{name} is read by nobody");
        let severity = issues.iter().map(|issue| issue.severity).max();
        let expect: &[Severity] = match support {
            Support::Ignored(_) => &[Severity::Note],
            Support::Refused(_) => &[Severity::Warning],
            _ => &[Severity::Warning, Severity::Error],
        };
        assert!(severity.is_some_and(|severity| expect.contains(&severity)), "{name}: {issues:?}");
    }
}

#[test]
fn empty_values_are_none() {
    for Entry { name, support } in CATALOGUE {
        let (read, issues) = read(&[(name, "")]);
        let refused_list = name.ends_with("list-source-range");
        let listed = matches!(support, Support::Ignored(_) | Support::Refused(_)) || refused_list;
        assert_eq!(issues.len(), usize::from(listed), "{name}: {issues:?}");
        assert_eq!(read.closed_by.is_some(), refused_list, "{name}");
    }
}

#[test]
fn defaults_of_ingress_nginx() {
    let defaults = Defaults::new(Compat::IngressNginx);
    let (read, mut issues) = read_with(&defaults, &[]);
    let seconds = |secs: u64| json!({ "secs": secs, "nanos": 0 });
    let expect = json!({
        "body": { "max_request": 1_048_576, "buffer_request": true },
        "upstream": { "connect_timeout": seconds(5), "send_timeout": seconds(60), "read_timeout": seconds(60) },
        "hsts": { "max_age": 31_536_000, "include_subdomains": true, "preload": false },
    });
    assert_eq!(policy(&read, &mut issues), expect);
    assert_eq!((read.redirect, read.trailing_slash_redirect), (Redirect::WithTls, true));
    assert_eq!(issues, vec![]);
    let (strict, mut issues) = read_with(&Defaults::new(Compat::Kubernetes), &[]);
    assert_eq!(policy(&strict, &mut issues), json!({}));
    assert_eq!((strict.redirect, strict.trailing_slash_redirect), (Redirect::Never, false));
}

#[test]
fn names() {
    for (annotations, most, said) in [
        (vec![("proxy-body-size", "1k")], Some(1024), 0),
        (vec![("sluice.dev/proxy-body-size", "2k")], Some(2048), 0),
        (vec![("proxy-body-size", "1k"), ("sluice.dev/proxy-body-size", "2k")], Some(2048), 0),
        (vec![("haproxy.org/proxy-body-size", "1k")], None, 0),
        (vec![("proxy-bodysize", "1k")], None, 1),
    ] {
        let (read, issues) = read(&annotations);
        assert_eq!((read.policy.body.max_request, issues.len()), (most, said), "{annotations:?}");
    }
    let (_, issues) = read(&[("proxy-bodysize", "1k")]);
    assert!(issues[0].message.contains("Did you mean proxy-body-size?"), "{issues:?}");
}

#[test]
fn redirects_to_https() {
    use Redirect::{Always, Never, WithTls};
    for (compat, annotations, expect) in [
        (Compat::Kubernetes, vec![("ssl-redirect", "true")], WithTls),
        (Compat::Kubernetes, vec![("ssl-redirect", "false")], Never),
        (Compat::Kubernetes, vec![("force-ssl-redirect", "true")], Always),
        (Compat::IngressNginx, vec![("ssl-redirect", "false")], Never),
        (Compat::IngressNginx, vec![("ssl-redirect", "false"), ("force-ssl-redirect", "true")], Always),
        (Compat::IngressNginx, vec![("force-ssl-redirect", "false")], WithTls),
        (Compat::IngressNginx, vec![("ssl-redirect", "yes")], WithTls),
    ] {
        let (read, _) = read_with(&Defaults::new(compat), &annotations);
        assert_eq!(read.redirect, expect, "{annotations:?}");
    }
}

#[test]
fn rules_and_paths() {
    for (annotations, regex, rewrite, said) in [
        (vec![("use-regex", "true")], true, json!(null), 0),
        (vec![("use-regex", "false")], false, json!(null), 0),
        (vec![("use-regex", "maybe")], true, json!(null), 1),
        (vec![("rewrite-target", "/")], true, json!({ "replace": "/" }), 0),
        (vec![("rewrite-target", "/$1/x$2")], true, json!({ "captures": "/${1}/x${2}" }), 0),
        (vec![("rewrite-target", "$1")], true, json!({ "captures": "${1}" }), 0),
        (vec![("rewrite-target", "/a?b=$1")], true, json!({ "captures": "/a?b=${1}" }), 0),
        (
            vec![("rewrite-target", "https://x.example/$1")],
            true,
            json!({ "captures": "https://x.example/${1}" }),
            0,
        ),
        (vec![("rewrite-target", "https://x$1/")], true, json!(null), 1),
        (vec![("rewrite-target", "index.html")], true, json!(null), 1),
        (vec![("rewrite-target", "x$1")], true, json!(null), 1),
        (vec![("rewrite-target", "/$nope")], true, json!(null), 1),
        (vec![("rewrite-target", "/a b")], true, json!(null), 1),
        (vec![("rewrite-target", "/a#b")], true, json!(null), 1),
    ] {
        let (read, mut issues) = read(&annotations);
        let policy = policy(&read, &mut issues);
        assert_eq!(policy.get("rewrite").cloned().unwrap_or_default(), rewrite, "{annotations:?}");
        assert_eq!((read.regex, issues.len()), (regex, said), "{annotations:?}: {issues:?}");
    }
    let (read, issues) =
        read(&[("server-alias", r"b.example, *.c.example,~^a\.example$,~x, *,b.example,~.+\.d\.example$")]);
    let said = |what: &str| issues.iter().any(|issue| issue.message.contains(what));
    assert!(said("\"~x\" is a regular expression"), "{issues:?}");
    assert!(said("or *.d.example, which takes one label"), "{issues:?}");
    let shown: Vec<_> = read.aliases.iter().map(ToString::to_string).collect();
    assert_eq!(
        (shown, issues.len()),
        (vec!["a.example".into(), "b.example".into(), "*.c.example".into()], 3)
    );
}

#[test]
fn redirects() {
    let to = |status: u16, to: &str| json!({ "redirect": { "status": status, "to": to } });
    check(&[("permanent-redirect", "https://a.example")], 0, to(301, "https://a.example"));
    check(
        &[("permanent-redirect", "https://a.example"), ("permanent-redirect-code", "308")],
        0,
        to(308, "https://a.example"),
    );
    check(
        &[("permanent-redirect", "https://a.example"), ("permanent-redirect-code", "200")],
        1,
        to(301, "https://a.example"),
    );
    check(
        &[
            ("permanent-redirect", "https://a.example"),
            ("temporal-redirect", "https://b.example$request_uri"),
        ],
        0,
        to(302, "https://b.example${request_uri}"),
    );
    check(
        &[("temporal-redirect", "https://b.example"), ("temporal-redirect-code", "307")],
        0,
        to(307, "https://b.example"),
    );
    check(&[("permanent-redirect", "/path")], 1, json!({}));
    check(&[("temporal-redirect", "javascript:alert(1)")], 1, json!({}));
    check(&[("app-root", "/app?x=1")], 0, json!({ "app_root": "/app?x=1" }));
    for bad in ["app", "/", "/a\r\nx", "//\\x"] {
        check(&[("app-root", bad)], 1, json!({}));
    }
}

#[test]
fn networks() {
    check(
        &[("whitelist-source-range", "10.0.0.1/8, 192.0.2.1"), ("satisfy", "any")],
        0,
        json!({ "access": { "allow": ["10.0.0.0/8", "192.0.2.1/32"], "satisfy": "any" } }),
    );
    check(
        &[("allowlist-source-range", "10.0.0.0/8"), ("whitelist-source-range", "192.0.2.1")],
        1,
        json!({ "access": { "allow": ["10.0.0.0/8"] } }),
    );
    check(
        &[("allowlist-source-range", ""), ("whitelist-source-range", "192.0.2.1")],
        0,
        json!({ "access": { "allow": ["192.0.2.1/32"] } }),
    );
    check(&[("denylist-source-range", "10.0.0.0/8")], 0, json!({ "access": { "deny": ["10.0.0.0/8"] } }));
    check(&[("satisfy", "some")], 1, json!({}));
}

#[test]
fn limits() {
    check(
        &[("limit-rps", "10"), ("limit-rpm", "300"), ("limit-connections", "5")],
        0,
        json!({ "limits": { "per_second": 10, "per_minute": 300, "burst": 5, "connections": 5 } }),
    );
    check(
        &[("limit-rps", "10"), ("limit-burst-multiplier", "3"), ("limit-whitelist", "10.0.0.0/8")],
        0,
        json!({ "limits": { "per_second": 10, "burst": 3, "exempt": ["10.0.0.0/8"] } }),
    );
    check(
        &[("limit-rate", "100"), ("limit-rate-after", "2")],
        0,
        json!({ "limits": { "bytes_per_second": 102_400, "bytes_free": 2048 } }),
    );
    check(&[("limit-rps", "0"), ("limit-whitelist", "10.0.0.0/8")], 0, json!({}));
    check(&[("limit-rps", "-1"), ("limit-connections", "many")], 2, json!({}));
}

#[test]
fn cross_origin() {
    let standard = json!({
        "origins": ["any"],
        "methods": "GET, PUT, POST, DELETE, PATCH, OPTIONS",
        "headers": "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
        "credentials": true,
        "max_age": 1_728_000,
    });
    check(&[("enable-cors", "true")], 0, json!({ "cors": standard }));
    check(&[("cors-allow-origin", "https://a.example")], 0, json!({}));
    check(
        &[
            ("enable-cors", "true"),
            ("cors-allow-origin", "https://a.example, https://*.b.example, nonsense"),
            ("cors-allow-methods", "GET, POST"),
            ("cors-allow-headers", "X-A,X-B"),
            ("cors-expose-headers", "*, X-C"),
            ("cors-allow-credentials", "false"),
            ("cors-max-age", "600"),
        ],
        1,
        json!({ "cors": {
            "origins": [{ "between": ["https://", ".b.example"] }, { "exact": "https://a.example" }],
            "methods": "GET, POST", "headers": "X-A,X-B", "expose": "*, X-C", "credentials": false, "max_age": 600,
        } }),
    );
    check(&[("enable-cors", "true"), ("cors-allow-origin", "nonsense")], 1, json!({}));
    check(
        &[("enable-cors", "true"), ("cors-allow-methods", "GET; x"), ("cors-allow-headers", "X-A\r\nX: y")],
        2,
        json!({ "cors": standard }),
    );
}

#[test]
fn bodies() {
    check(&[("proxy-body-size", "8m")], 0, json!({ "body": { "max_request": 8_388_608 } }));
    check(&[("proxy-body-size", "0")], 0, json!({}));
    check(&[("proxy-body-size", "8x")], 1, json!({}));
    check(&[("proxy-request-buffering", "on")], 0, json!({ "body": { "buffer_request": true } }));
    check(&[("proxy-buffering", "on")], 0, json!({ "body": { "buffer_response": 16_384 } }));
    check(
        &[("proxy-buffering", "on"), ("proxy-buffer-size", "16k"), ("proxy-buffers-number", "8")],
        0,
        json!({ "body": { "buffer_response": 131_072, "max_response_head": 16_384 } }),
    );
    check(&[("proxy-buffer-size", "1b")], 1, json!({}));
    let (read, _) = read_with(
        &Defaults::new(Compat::IngressNginx),
        &[("proxy-body-size", "0"), ("proxy-request-buffering", "off")],
    );
    assert_eq!(read.policy.body, crate::model::BodyLimits::default());
}

#[test]
fn endpoints() {
    let upstream = |value: Value| json!({ "upstream": value });
    let seconds = |secs: u64| json!({ "secs": secs, "nanos": 0 });
    for (text, expect) in [("HTTPS", "https"), ("grpc", "grpc"), ("GRPCS", "grpcs"), ("AUTO_HTTP", "auto")] {
        check(&[("backend-protocol", text)], 0, upstream(json!({ "protocol": expect })));
    }
    check(&[("backend-protocol", "FCGI")], 1, json!({}));
    check(
        &[("proxy-connect-timeout", "10"), ("proxy-send-timeout", "120s"), ("proxy-read-timeout", "1m30s")],
        0,
        upstream(json!({
            "connect_timeout": seconds(10), "send_timeout": seconds(120), "read_timeout": seconds(90),
        })),
    );
    check(&[("proxy-read-timeout", "0"), ("proxy-send-timeout", "-1")], 2, json!({}));
    check(
        &[
            ("proxy-next-upstream", "error http_502"),
            ("proxy-next-upstream-tries", "0"),
            ("proxy-next-upstream-timeout", "7"),
        ],
        0,
        upstream(
            json!({ "retry": { "on": ["error", { "status": 502 }], "tries": 0, "timeout": seconds(7) } }),
        ),
    );
    check(
        &[
            ("proxy-http-version", "1.0"),
            ("upstream-vhost", "in.example"),
            ("connection-proxy-header", "close"),
        ],
        0,
        upstream(json!({ "http10": true, "host": "in.example", "connection": "close" })),
    );
    check(
        &[("x-forwarded-prefix", "/app")],
        0,
        json!({ "request_headers": [{ "set": { "name": "x-forwarded-prefix", "value": "/app" } }] }),
    );
    check(
        &[
            ("proxy-redirect-from", "http://in.example/"),
            ("proxy-redirect-to", "$scheme://$host/"),
            ("proxy-cookie-domain", "in.example example.com"),
            ("proxy-cookie-path", "/in /"),
        ],
        0,
        upstream(json!({ "response": {
            "location": [{ "from": "http://in.example/", "to": "${scheme}://${host}/" }],
            "cookie_domain": [{ "from": "in.example", "to": "example.com" }],
            "cookie_path": [{ "from": "/in", "to": "/" }],
        } })),
    );
    check(&[("proxy-redirect-from", "off"), ("proxy-cookie-domain", "off")], 0, json!({}));
    check(&[("proxy-redirect-from", "http://in.example/")], 1, json!({}));
    check(
        &[
            ("proxy-redirect-from", "~^http://([a-z]+)/"),
            ("proxy-redirect-to", "https://$1.$host/"),
            ("proxy-cookie-domain", "~*\\.in\\.example$ $host"),
            ("proxy-cookie-path", "~^/(a|b) /$1"),
        ],
        0,
        upstream(json!({ "response": {
            "location": [{ "from": { "regex": "^http://([a-z]+)/" }, "to": "https://${1}.${host}/" }],
            "cookie_domain": [{ "from": { "regex": "(?i)\\.in\\.example$" }, "to": "${host}" }],
            "cookie_path": [{ "from": { "regex": "^/(a|b)" }, "to": "/${1}" }],
        } })),
    );
    // Look-around, a capture without a group, without a regular expression, what would end a cookie.
    for (from, to) in [("~(?=x)", "/"), ("~^/x", "/$1"), ("/x", "/$1")] {
        let (read, mut issues) = read(&[("proxy-redirect-from", from), ("proxy-redirect-to", to)]);
        assert_eq!(policy(&read, &mut issues), json!({}), "{from} {to}");
        assert!(!issues.is_empty(), "{from} {to}");
    }
    for pair in ["~(?=x) /", "~^/x /$1", "/x /$1", "/x /;Domain=y", "~^/x", "a b c", "$host /"] {
        check(&[("proxy-cookie-path", pair)], 1, json!({}));
    }
    check(
        &[("proxy-ssl-name", "in.example"), ("proxy-ssl-server-name", "on"), ("proxy-ssl-verify", "off")],
        0,
        upstream(json!({ "tls": { "verify": false, "depth": 1, "name": "in.example", "send_name": true } })),
    );
    check(&[("proxy-ssl-verify", "on")], 1, json!({}));
    check(&[("proxy-ssl-secret", "ca")], 1, json!("closed by nginx.ingress.kubernetes.io/proxy-ssl-secret"));
    check(&[("enable-access-log", "false")], 0, json!({ "unlogged": true }));
    let (read, _) = read_with(&Defaults::new(Compat::IngressNginx), &[("backend-protocol", "GRPC")]);
    assert!(!read.policy.body.buffer_request, "calls send while they receive");
}

#[test]
fn balance() {
    for (text, expect) in [("ewma", json!("ewma")), ("least_request", json!("least-request"))] {
        check(&[("load-balance", text)], 0, json!({ "balance": expect }));
    }
    let hash = |key: &str, subset: u32| json!({ "balance": { "hash": { "key": key, "subset": subset } } });
    check(&[("load-balance", "round_robin")], 0, json!({}));
    check(&[("load-balance", "ip_hash")], 0, hash("${remote_addr}", 0));
    check(&[("load-balance", "best")], 1, json!({}));
    check(
        &[("upstream-hash-by", "$binary_remote_addr"), ("load-balance", "ewma")],
        0,
        hash("${remote_addr}", 0),
    );
    check(
        &[("upstream-hash-by", "$request_uri$host"), ("upstream-hash-by-subset", "true")],
        0,
        hash("${request_uri}${host}", 3),
    );
    check(&[("upstream-hash-by", "same")], 1, json!({}));
    check(&[("upstream-hash-by", "$upstream_addr")], 1, json!({}));
    let cookie = |extra: Value| {
        let mut base = json!({
            "name": "INGRESSCOOKIE", "conditional_none": false, "change_on_failure": false, "persistent": false,
            "canary": "sticky",
        });
        for (name, value) in extra.as_object().expect("an object") {
            base[name] = value.clone();
        }
        json!({ "affinity": base })
    };
    check(&[("affinity", "cookie")], 0, cookie(json!({})));
    check(&[("session-cookie-name", "sid")], 0, json!({}));
    check(&[("affinity", "ip")], 1, json!({}));
    check(
        &[
            ("affinity", "cookie"),
            ("affinity-mode", "persistent"),
            ("affinity-canary-behavior", "legacy"),
            ("session-cookie-name", "sid"),
            ("session-cookie-path", "/app"),
            ("session-cookie-domain", "example.com"),
            ("session-cookie-max-age", "3600"),
            ("session-cookie-expires", "7200"),
            ("session-cookie-secure", "true"),
            ("session-cookie-samesite", "None"),
            ("session-cookie-conditional-samesite-none", "true"),
            ("session-cookie-change-on-failure", "true"),
        ],
        0,
        cookie(json!({
            "name": "sid", "path": "/app", "domain": "example.com", "max_age": 3600, "expires": 7200,
            "secure": true, "same_site": "none", "conditional_none": true, "change_on_failure": true,
            "persistent": true, "canary": "legacy",
        })),
    );
    check(
        &[("affinity", "cookie"), ("session-cookie-name", "a;b"), ("session-cookie-path", "/; Domain=x")],
        2,
        cookie(json!({})),
    );
}

#[test]
fn canaries() {
    for (annotations, said, expect) in [
        (vec![("canary-weight", "10")], 0, None),
        (vec![("canary", "true")], 0, Some("header none, cookie none, 0 of 100")),
        (vec![("canary", "true"), ("canary-weight", "10")], 0, Some("header none, cookie none, 10 of 100")),
        (
            vec![("canary", "true"), ("canary-weight", "10"), ("canary-weight-total", "1000")],
            0,
            Some("header none, cookie none, 10 of 1000"),
        ),
        (vec![("canary", "true"), ("canary-weight", "101")], 1, Some("header none, cookie none, 0 of 100")),
        (
            vec![("canary", "true"), ("canary-by-header", "X-Canary"), ("canary-by-cookie", "canary")],
            0,
            Some("header x-canary AlwaysOrNever, cookie canary, 0 of 100"),
        ),
        (
            vec![("canary", "true"), ("canary-by-header", "X-C"), ("canary-by-header-value", "yes")],
            0,
            Some("header x-c Exact(\"yes\"), cookie none, 0 of 100"),
        ),
        (
            vec![
                ("canary", "true"),
                ("canary-by-header", "X-C"),
                ("canary-by-header-value", "yes"),
                ("canary-by-header-pattern", "^y"),
            ],
            0,
            Some("header x-c Exact(\"yes\"), cookie none, 0 of 100"),
        ),
        (
            vec![("canary", "true"), ("canary-by-header", "X-C"), ("canary-by-header-pattern", "^y")],
            0,
            Some("header x-c Pattern(\"^y\"), cookie none, 0 of 100"),
        ),
        (
            vec![("canary", "true"), ("canary-by-header", "X-C"), ("canary-by-header-pattern", "(?=y)")],
            1,
            Some("header none, cookie none, 0 of 100"),
        ),
    ] {
        let (read, issues) = read(&annotations);
        let shown = read.canary.map(|rule| {
            let header = rule.header.map(|header| format!("{} {:?}", header.name, header.value));
            format!(
                "header {}, cookie {}, {} of {}",
                header.as_deref().unwrap_or("none"),
                rule.cookie.as_deref().unwrap_or("none"),
                rule.weight,
                rule.weight_total
            )
        });
        assert_eq!((shown.as_deref(), issues.len()), (expect, said), "{annotations:?}: {issues:?}");
    }
}

#[test]
fn errors_and_mirrors() {
    for (annotations, statuses, backend, said) in [
        (vec![("custom-http-errors", "503, 404,404")], vec![404, 503], None, 0),
        (vec![("custom-http-errors", "503"), ("default-backend", "errors")], vec![503], Some("errors"), 0),
        (vec![("custom-http-errors", "503"), ("disable-proxy-intercept-errors", "true")], vec![], None, 0),
        (vec![("custom-http-errors", "99")], vec![], None, 1),
        (vec![("default-backend", "other/errors")], vec![], None, 1),
    ] {
        let (read, issues) = read(&annotations);
        let found = (read.error_statuses, read.default_backend.as_deref(), issues.len());
        assert_eq!(found, (statuses, backend, said), "{annotations:?}");
    }
    check(
        &[("mirror-target", "https://m.example$request_uri"), ("mirror-host", "H.example")],
        0,
        json!({ "mirror": { "target": "https://m.example${request_uri}", "host": "h.example", "body": true } }),
    );
    check(
        &[("mirror-target", "https://m.example"), ("mirror-request-body", "off")],
        0,
        json!({ "mirror": { "target": "https://m.example", "body": false } }),
    );
    check(&[("mirror-target", "https://$http_host_x/")], 1, json!({}));
    check(&[("mirror-host", "a b")], 1, json!({}));
}

#[test]
fn external_authentication() {
    let (read, mut issues) = read(&[
        ("auth-url", "https://auth.example/check"),
        ("auth-method", "POST"),
        ("auth-signin", "https://auth.example/start?rd=$escaped_request_uri"),
        ("auth-signin-redirect-param", "next"),
        ("auth-response-headers", "X-User, X-Email"),
        ("auth-request-redirect", "https://$host/"),
        ("auth-always-set-cookie", "true"),
        ("auth-cache-key", "$remote_user$http_authorization"),
        ("auth-cache-duration", "200 1m"),
        ("auth-snippet", "proxy_set_header X-Realm \"a $host\"; # more\n"),
    ]);
    let external = policy(&read, &mut issues)["access"]["external"].clone();
    assert_eq!((issues, read.closed_by), (vec![], None));
    let expect = json!({
        "url": "https://auth.example/check",
        "method": "POST",
        "signin": "https://auth.example/start?rd=${escaped_request_uri}",
        "signin_redirect_param": "next",
        "response_headers": ["x-user", "x-email"],
        "request_redirect": "https://${host}/",
        "request_headers": [["x-realm", "a ${host}"]],
        "always_set_cookie": true,
        "cache": ["${remote_user}${http_authorization}", [[200, { "secs": 60, "nanos": 0 }]]],
    });
    assert_eq!(external, expect);
    check(
        &[("auth-url", "https://auth.example/"), ("auth-cache-key", "same")],
        1,
        json!({ "access": { "external": {
            "url": "https://auth.example/", "signin_redirect_param": "rd", "always_set_cookie": false,
        } } }),
    );
}

#[test]
fn global_authentication() {
    let mut defaults = Defaults::new(Compat::Kubernetes);
    let (global, _) = read(&[("auth-url", "https://global.example/")]);
    defaults.external_auth = global.policy.access.external.clone();
    for (annotations, expect) in [
        (vec![], Some("https://global.example/")),
        (vec![("app-root", "/a")], Some("https://global.example/")),
        (vec![("enable-global-auth", "false")], None),
        (vec![("auth-url", "https://own.example/")], Some("https://own.example/")),
    ] {
        let (read, _) = read_with(&defaults, &annotations);
        let url = read.policy.access.external.as_ref().map(|external| external.url.to_string());
        assert_eq!(url.as_deref(), expect, "{annotations:?}");
    }
}

#[test]
fn client_certificates() {
    for (annotations, asked, request) in [
        (vec![("auth-tls-secret", "default/ca")], Some((1, false)), Some((true, None))),
        (
            vec![("auth-tls-secret", "ca"), ("auth-tls-verify-depth", "3"), ("auth-tls-match-cn", "CN=a.*")],
            Some((3, false)),
            Some((true, Some("^(?:a.*)"))),
        ),
        (
            vec![("auth-tls-secret", "ca"), ("auth-tls-verify-client", "optional")],
            Some((1, false)),
            Some((false, None)),
        ),
        (
            vec![("auth-tls-secret", "ca"), ("auth-tls-verify-client", "optional_no_ca")],
            Some((1, true)),
            Some((false, None)),
        ),
        (vec![("auth-tls-secret", "ca"), ("auth-tls-verify-client", "off")], None, None),
        (vec![("auth-tls-verify-client", "off")], None, None),
        (vec![("auth-tls-pass-certificate-to-upstream", "true")], None, None),
    ] {
        let (read, issues) = read(&annotations);
        assert_eq!((issues, read.closed_by), (vec![], None), "{annotations:?}");
        assert_eq!(read.client_auth.map(|auth| (auth.depth, auth.any_authority)), asked, "{annotations:?}");
        let certificate = read.policy.access.certificate.as_ref();
        let found = certificate.map(|one| (one.required, one.common_name.as_deref()));
        assert_eq!(found, request, "{annotations:?}");
    }
}

#[test]
fn what_closes() {
    for (annotations, hosts) in [
        (vec![("whitelist-source-range", "10.0.0.0/33")], false),
        (vec![("allowlist-source-range", "example.com")], false),
        (vec![("denylist-source-range", ",")], false),
        (vec![("auth-type", "digest"), ("auth-secret", "users")], false),
        (vec![("auth-type", "basic")], false),
        (vec![("auth-secret", "users")], false),
        (vec![("auth-type", "basic"), ("auth-secret", "other/users")], false),
        (vec![("auth-type", "basic"), ("auth-secret", "users"), ("auth-secret-type", "auth-table")], false),
        (vec![("auth-url", "/check")], false),
        (vec![("auth-url", "https://$http_x/")], false),
        (vec![("auth-url", "https://a.example/"), ("auth-response-headers", "X User")], false),
        (vec![("auth-url", "https://a.example/"), ("auth-proxy-set-headers", "other/headers")], false),
        (vec![("auth-url", "https://a.example/"), ("auth-snippet", "proxy_pass http://b;")], false),
        (vec![("auth-url", "https://a.example/"), ("auth-snippet", "proxy_set_header A")], false),
        (vec![("auth-sercet", "users")], false),
        (vec![("auth-tls-secret", "other/ca")], true),
        (vec![("auth-tls-verify-client", "on")], true),
        (vec![("auth-tls-verify-client", "maybe"), ("auth-tls-secret", "ca")], true),
        (vec![("auth-tls-match-cn", "alice"), ("auth-tls-secret", "ca")], true),
        (vec![("auth-tls-match-cn", "CN=("), ("auth-tls-secret", "ca")], true),
        (vec![("proxy-ssl-secret", "other/ca")], false),
        (vec![("configuration-snippet", "if ($http_x != 1) { return 403; }")], false),
        (vec![("server-snippet", "location /x { deny all; }")], true),
        (vec![("modsecurity-snippet", "SecRuleEngine  On")], false),
    ] {
        let (read, issues) = read(&annotations);
        assert!(read.closed_by.is_some(), "{annotations:?}");
        assert_eq!(read.closes_hosts.is_some(), hosts, "{annotations:?}");
        assert!(issues.iter().any(|issue| issue.severity == Severity::Error), "{annotations:?}: {issues:?}");
    }
}

#[test]
fn other_namespaces_where_the_settings_say_so() {
    let defaults = Defaults { cross_namespace: true, ..Defaults::new(Compat::Kubernetes) };
    let (read, issues) = read_with(&defaults, &[("auth-tls-secret", "other/ca")]);
    assert_eq!((issues, read.closed_by), (vec![], None));
    assert_eq!(read.client_auth.map(|auth| auth.secret.to_string()).as_deref(), Some("other/ca"));
}

#[test]
fn a_megabyte_of_anything_is_no_trouble() {
    for text in ["a".repeat(1 << 20), "$".repeat(1 << 20), "{".repeat(1 << 20), "1,".repeat(1 << 19)] {
        for Entry { name, .. } in CATALOGUE {
            let (_, issues) = read(&[(name, &text)]);
            let said: usize = issues.iter().map(|issue| issue.message.len()).sum();
            assert!(said < 10_000, "{name}: {said} bytes of issues");
        }
    }
}
