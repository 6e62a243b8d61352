//! Edits of header sections on both ways.

use std::io::Write;

use sluice::model::{HeaderEdit, Hsts, RoutePolicy};

use crate::rig::{Rig, certificate, endpoint, read_head, read_response, tls};
use crate::{get, single, template};

fn set(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Set { name: name.into(), value: template(value), statuses: vec![] }
}

fn add(name: &str, value: &str, statuses: &[u16]) -> HeaderEdit {
    HeaderEdit::Add { name: name.into(), value: template(value), statuses: statuses.to_vec() }
}

fn remove(name: &str) -> HeaderEdit {
    HeaderEdit::Remove { name: name.into() }
}

/// All values of a header in what the endpoint saw, or the client.
fn values(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn requests() {
    let sent = "X-A: 1\r\nX-A: 2\r\nCookie: c=d; e=f\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 10.0.0.7\r\n";
    for (edits, name, expect) in [
        (vec![set("x-a", "new")], "x-a", vec!["new"]),
        (vec![set("x-a", "")], "x-a", vec![]),
        (vec![set("x-a", "$http_nothing")], "x-a", vec![]),
        (vec![add("x-a", "3", &[])], "x-a", vec!["1", "2", "3"]),
        (vec![add("x-a", "$http_nothing", &[])], "x-a", vec!["1", "2"]),
        (vec![remove("x-a")], "x-a", vec![]),
        (vec![remove("x-a"), add("x-a", "3", &[])], "x-a", vec!["3"]),
        (vec![set("x-a", "$cookie_e-$remote_addr-$scheme")], "x-a", vec!["f-10.0.0.7-https"]),
        (vec![set("x-a", "$http_x_a")], "x-a", vec!["1"]),
        (vec![set("cookie", "only=this")], "cookie", vec!["only=this"]),
        (vec![remove("cookie")], "cookie", vec![]),
        (vec![set("x-forwarded-proto", "http")], "x-forwarded-proto", vec!["http"]),
        (vec![remove("x-real-ip")], "x-real-ip", vec![]),
        (vec![set("x-forwarded-prefix", "/app")], "x-forwarded-prefix", vec!["/app"]),
        (vec![set("host", "other.test")], "host", vec!["other.test"]),
        (vec![set("host", "other.test")], "x-forwarded-host", vec!["a.test"]),
        // What frames the request is nobody's to write.
        (vec![set("content-length", "5")], "content-length", vec![]),
        (vec![set("transfer-encoding", "chunked")], "transfer-encoding", vec![]),
        (vec![set("connection", "x-a")], "connection", vec![]),
        (vec![set("x-a", "a\r\nX-B: c")], "x-b", vec![]),
        (vec![set("bad name", "x")], "x-a", vec!["1", "2"]),
    ] {
        let described = format!("{edits:?}");
        let proxy = single(|policy| policy.request_headers = edits);
        let seen = get(proxy.http, "/", sent);
        assert_eq!(seen.status, 200);
        assert_eq!(values(&String::from_utf8_lossy(&seen.body), name), expect, "{described}");
    }
}

#[test]
fn the_endpoints_host() {
    let proxy = single(|policy| policy.upstream.host = Some(template("inner.$namespace")));
    let seen = String::from_utf8_lossy(&get(proxy.http, "/", "").body).into_owned();
    assert_eq!(values(&seen, "host"), ["inner.test"]);
    assert_eq!(values(&seen, "x-forwarded-host"), ["a.test"]);
}

#[test]
fn answers() {
    for (edits, status, name, expect) in [
        (vec![set("x-end", "new")], 200, "x-end", vec!["new"]),
        (vec![set("x-end", "")], 200, "x-end", vec![]),
        (vec![remove("x-end")], 200, "x-end", vec![]),
        (vec![add("x-end", "more", &[])], 200, "x-end", vec!["1", "more"]),
        (vec![add("x-end", "more", &[200, 204])], 200, "x-end", vec!["1", "more"]),
        (vec![add("x-end", "more", &[200, 204])], 404, "x-end", vec!["1"]),
        (vec![set("server", "mine")], 200, "server", vec!["mine"]),
        (vec![set("x-path", "$uri $request_id")], 200, "x-path", vec!["/200 7"]),
        (vec![set("content-length", "1")], 200, "content-length", vec!["2"]),
        (vec![set("x-end", "a\nb")], 200, "x-end", vec![]),
    ] {
        let described = format!("{edits:?}");
        let proxy = answering(|policy| policy.response_headers = edits);
        let seen = get(proxy.http, &format!("/{status}"), "X-Request-ID: 7\r\n");
        assert_eq!(seen.status, status, "{described}");
        assert_eq!(values(&seen.head, name), expect, "{described} on {status}");
    }
}

/// Answers of our own get the headers, too.
#[test]
fn refusals_are_dressed() {
    let proxy = single(|policy| {
        policy.response_headers = vec![set("x-frame-options", "DENY"), add("x-ok", "1", &[200])];
        policy.access.allow = Some(crate::nets(&[]));
    });
    let seen = get(proxy.http, "/", "");
    assert_eq!((seen.status, seen.header("x-frame-options"), seen.has("x-ok")), (403, Some("DENY"), false));
}

#[test]
fn strict_transport_security() {
    let of = |max_age, include_subdomains, preload| Some(Hsts { max_age, include_subdomains, preload });
    for (rules, expect) in [
        (of(31536000, true, false), "max-age=31536000; includeSubDomains"),
        (of(0, false, false), "max-age=0"),
        (of(60, true, true), "max-age=60; includeSubDomains; preload"),
    ] {
        let mut rig = Rig::new();
        rig.cluster("web", &[endpoint(crate::echo)]);
        rig.route_with("a.test", "/", "web", |draft| {
            draft.policy.hsts = rules;
            draft.policy.https_redirect = Some(308);
        });
        rig.certificate("a.test", certificate("a.test"));
        let proxy = rig.start(|_| ());
        assert!(!get(proxy.http, "/", "").has("strict-transport-security"), "not over http");
        let mut secure = tls(proxy.https, "a.test", &[]);
        secure.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
        let seen = read_response(&mut secure, false).expect("an answer");
        assert_eq!((seen.status, seen.header("strict-transport-security")), (200, Some(expect)));
    }
}

/// `a.test` before an endpoint that answers with the status that its path names.
fn answering(describe: impl FnOnce(&mut RoutePolicy)) -> crate::Running {
    crate::several(|rig| {
        let status = endpoint(|stream| {
            while let Some(head) = read_head(stream) {
                let status = head.split(['/', ' ']).nth(2).unwrap_or("200").to_owned();
                let answer = format!("HTTP/1.1 {status} OK\r\nContent-Length: 2\r\nX-End: 1\r\n\r\nok");
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        rig.cluster("status", &[status]);
        rig.route_with("a.test", "/", "status", |draft| describe(&mut draft.policy));
    })
}
