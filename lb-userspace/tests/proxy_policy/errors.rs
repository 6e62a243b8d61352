//! Answers that another backend gives in the place of failures.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use sluice::model::{Backend, ErrorPages, Unavailable};

use crate::rig::{Draft, Rig, Running, Seen, backend, endpoint, free_port, read_head};
use crate::{request, several};

/// Answers with the status in `X-Code`, a header of its own, and what it was told.
fn error_backend() -> SocketAddr {
    endpoint(|stream| {
        while let Some(head) = read_head(stream) {
            let code =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("x-code: ").map(str::to_owned));
            let code = code.unwrap_or_else(|| "200".to_owned());
            let length = head.len();
            let begin = format!("HTTP/1.1 {code} Replaced\r\nX-Page: 1\r\nContent-Length: {length}\r\n\r\n");
            drop(stream.write_all(begin.as_bytes()));
            if !head.starts_with("HEAD") {
                drop(stream.write_all(head.as_bytes()));
            }
        }
    })
}

/// An endpoint that answers with the status that the path names.
fn status(stream: &mut std::net::TcpStream) {
    while let Some(head) = read_head(stream) {
        let status = head.split(['/', ' ', '?']).nth(2).unwrap_or("200").to_owned();
        let answer = format!("HTTP/1.1 {status} Own\r\nContent-Length: 3\r\n\r\nown");
        drop(stream.write_all(answer.as_bytes()));
    }
}

fn pages(statuses: &[u16], errors: &str) -> impl Fn(&mut Draft) {
    let pages = Arc::new(ErrorPages { statuses: statuses.to_vec(), backend: backend(errors) });
    move |draft| draft.policy.error_pages = Some(Arc::clone(&pages))
}

fn proxy(describe: impl FnOnce(&mut Rig)) -> Running {
    several(|rig| {
        let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        rig.cluster("errors", &[error_backend()]);
        rig.cluster("status", &[endpoint(status)]);
        rig.cluster("dead", &[dead]);
        rig.cluster("empty", &[]);
        describe(rig);
    })
}

fn is_page(seen: &Seen) -> bool {
    seen.has("x-page")
}

#[test]
fn which_answers_are_replaced() {
    let proxy = proxy(|rig| {
        rig.route_with("a.test", "/", "status", pages(&[404, 500, 502, 503], "errors"));
        rig.route_with("dead.test", "/", "dead", pages(&[502], "errors"));
        rig.route_with("other.test", "/", "dead", pages(&[404], "errors"));
        rig.route_with("worse.test", "/", "status", pages(&[404], "dead"));
        rig.route_with("denied.test", "/", "status", |draft| {
            pages(&[401, 403], "errors")(draft);
            draft.policy.access.allow = Some(crate::nets(&[]));
        });
    });
    for (host, path, status, replaced) in [
        ("a.test", "/200", 200, false),
        ("a.test", "/404", 404, true),
        ("a.test", "/500", 500, true),
        ("a.test", "/501", 501, false),
        ("dead.test", "/", 502, true),
        ("other.test", "/", 502, false),
        ("denied.test", "/", 403, true),
        // Nobody gives a page: the client gets what there is.
        ("worse.test", "/404", 404, false),
    ] {
        let seen = crate::raw(proxy.http, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((seen.status, is_page(&seen)), (status, replaced), "{host}{path}: {}", seen.text());
    }
}

#[test]
fn what_the_backend_is_told() {
    let proxy = proxy(|rig| rig.route_with("a.test", "/", "status", pages(&[404], "errors")));
    let headers = "Accept: text/html\r\nX-Request-ID: 7\r\nX-Code: 200\r\nContent-Length: 2\r\n\
        If-None-Match: x\r\nRange: bytes=0-1\r\n";
    let text = format!("POST /404?a=b HTTP/1.1\r\nHost: a.test\r\n{headers}\r\nhi");
    let seen = crate::raw(proxy.http, &text);
    assert_eq!((seen.status, is_page(&seen)), (404, true), "{}", seen.text());
    let told = String::from_utf8_lossy(&seen.body).to_lowercase();
    for line in [
        "get / http/1.1",
        "host: a.test",
        "x-code: 404",
        "x-format: text/html",
        "x-original-uri: /404?a=b",
        "x-namespace: test",
        "x-ingress-name: ingress",
        "x-service-name: status",
        "x-service-port: 80",
        "x-request-id: 7",
    ] {
        assert_eq!(told.lines().filter(|have| *have == line).count(), 1, "{line} in {told}");
    }
    for name in ["content-length", "if-none-match", "range"] {
        assert!(!told.contains(&format!("\n{name}:")), "{name} in {told}");
    }
}

#[test]
fn head_has_a_page_without_body() {
    let proxy = proxy(|rig| rig.route_with("a.test", "/", "status", pages(&[502, 404], "errors")));
    let seen = request(proxy.http, "HEAD", "/404", "");
    assert_eq!((seen.status, is_page(&seen)), (404, true), "{}", seen.text());
}

/// While the route has no endpoint, the requests themselves go to the other backend.
#[test]
fn standing_in() {
    let proxy = proxy(|rig| {
        rig.route_with("empty.test", "/", "empty", pages(&[], "errors"));
        rig.route_with("full.test", "/", "status", pages(&[], "errors"));
        rig.route_with("both.test", "/", "empty", pages(&[], "empty"));
        for (host, why) in [
            ("gone.test", Unavailable::ResourceBackend),
            ("closed.test", Unavailable::AccessControl("auth-type".into())),
        ] {
            rig.unavailable_with(host, Backend::Unavailable(why), pages(&[], "errors"));
        }
    });
    for (host, status, page) in [
        ("empty.test", 503, true),
        ("gone.test", 503, true),
        ("full.test", 200, false),
        ("both.test", 503, false),
        ("closed.test", 503, false),
    ] {
        let text = format!("PUT /200 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        let seen = crate::raw(proxy.http, &text);
        assert_eq!((seen.status, is_page(&seen)), (status, page), "{host}: {}", seen.text());
        if page {
            let told = seen.text();
            assert!(told.contains("PUT /200 HTTP/1.1") && told.contains("x-code: 503"), "{told}");
        }
    }
}
