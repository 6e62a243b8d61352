//! Cross-origin requests.

use std::sync::Arc;

use sluice::model::{Cors, Origin, RoutePolicy};

use crate::rig::{endpoint, read_head};
use crate::{request, several};

fn cors(origins: &[Origin]) -> impl FnOnce(&mut RoutePolicy) {
    let rules = Cors {
        origins: origins.to_vec(),
        methods: "GET, PUT".into(),
        headers: "X-Mine,Authorization".into(),
        expose: Some("X-Count".into()),
        credentials: true,
        max_age: 600,
    };
    move |policy| policy.cors = Some(Arc::new(rules))
}

/// The cross-origin headers of an answer, in one line.
fn told(seen: &crate::Seen) -> String {
    let mut lines: Vec<_> = seen
        .head
        .lines()
        .filter(|line| line.starts_with("access-control-") || line.starts_with("vary"))
        .map(|line| line.strip_prefix("access-control-").unwrap_or(line))
        .collect();
    lines.sort_unstable();
    lines.join(" | ")
}

#[test]
fn who_is_told_what() {
    let known = [
        Origin::Exact("https://app.example.com".into()),
        Origin::Between("https://".into(), ".example.org".into()),
    ];
    let about = "allow-credentials: true | allow-headers: X-Mine,Authorization | allow-methods: GET, PUT";
    let actual = |origin: &str| format!("{about} | allow-origin: {origin} | expose-headers: X-Count");
    let preflight = |origin: &str| format!("{} | max-age: 600", actual(origin));
    let (endpoints, vary) = ("allow-origin: https://endpoint.test", " | vary: origin");
    for (origins, method, origin, status, expect) in [
        (&known[..], "GET", "https://app.example.com", 200, actual("https://app.example.com") + vary),
        (&known, "GET", "HTTPS://APP.example.com", 200, actual("HTTPS://APP.example.com") + vary),
        (&known, "PUT", "https://a.b.example.org", 200, actual("https://a.b.example.org") + vary),
        (&known, "OPTIONS", "https://app.example.com", 204, preflight("https://app.example.com") + vary),
        (&known, "OPTIONS", "https://evil.test", 200, endpoints.to_owned() + vary),
        (&known, "GET", "https://evil.test", 200, endpoints.to_owned() + vary),
        (&known, "GET", "", 200, endpoints.to_owned() + vary),
        (&known, "OPTIONS", "", 200, endpoints.to_owned() + vary),
        (&[Origin::Any], "GET", "https://evil.test", 200, actual("*")),
        (&[Origin::Any], "OPTIONS", "https://evil.test", 204, preflight("*")),
        (&[], "OPTIONS", "https://app.example.com", 200, endpoints.to_owned() + vary),
    ] {
        let proxy = several(|rig| {
            let own = endpoint(|stream| {
                while read_head(stream).is_some() {
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\
                        Access-Control-Allow-Origin: https://endpoint.test\r\n\r\n";
                    drop(std::io::Write::write_all(stream, answer.as_bytes()));
                }
            });
            rig.cluster("own", &[own]);
            rig.route_with("a.test", "/", "own", |draft| cors(origins)(&mut draft.policy));
        });
        let header = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
        let seen = request(proxy.http, method, "/", &header);
        assert_eq!(seen.status, status, "{method} {origin}: {}", seen.text());
        assert_eq!(told(&seen), expect, "{method} {origin} with {origins:?}");
    }
}

/// Browsers send no passwords with a preflight, and scripts may read why a request was refused.
#[test]
fn preflights_need_no_password_and_refusals_are_readable() {
    let proxy = crate::single(|policy| {
        cors(&[Origin::Any])(policy);
        policy.access.allow = Some(crate::nets(&["10.0.0.0/8"]));
    });
    for (method, status) in [("OPTIONS", 204), ("GET", 403)] {
        let seen = request(proxy.http, method, "/", "Origin: https://x.test\r\n");
        assert_eq!(seen.status, status, "{}", seen.text());
        assert_eq!(seen.header("access-control-allow-origin"), Some("*"));
    }
}
