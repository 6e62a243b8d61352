//! Another server decides.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use sluice::model::{ExternalAuth, RoutePolicy};

use crate::rig::{Running, certificate, endpoint, free_port, read_head};
use crate::{from, get, request, several, single, template};

/// Rules for a server at this address.
fn ask(server: SocketAddr) -> ExternalAuth {
    ExternalAuth {
        url: template(&format!("http://{server}/check")),
        method: None,
        signin: None,
        signin_redirect_param: "rd".into(),
        response_headers: vec![],
        request_redirect: None,
        request_headers: vec![],
        always_set_cookie: false,
        cache: None,
    }
}

fn asking(rules: ExternalAuth) -> Running {
    single(|policy| policy.access.external = Some(Arc::new(rules)))
}

/// A server that gives every question this answer, and how often it was asked.
fn answering(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = endpoint(move |stream| {
        while read_head(stream).is_some() {
            count.fetch_add(1, SeqCst);
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (server, asked)
}

/// A server that lets everybody in and says in `X-Question` what it was asked.
fn telling() -> SocketAddr {
    endpoint(|stream| {
        while let Some(head) = read_head(stream) {
            let question = head.replace("\r\n", "|");
            drop(stream.write_all(
                format!("HTTP/1.1 200 OK\r\nX-Question: {question}\r\nContent-Length: 0\r\n\r\n").as_bytes(),
            ));
        }
    })
}

#[test]
fn what_its_answers_mean() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    for (answer, status, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, None),
        ("HTTP/1.1 204 No Content\r\n\r\n", 200, None),
        ("HTTP/1.1 202 OK\r\nContent-Length: 5\r\n\r\nhello", 200, None),
        (
            "HTTP/1.1 401 No\r\nContent-Length: 6\r\nWWW-Authenticate: Bearer\r\n\r\nlog in",
            401,
            Some("log in"),
        ),
        ("HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 403, Some("no")),
        ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 500, None),
        ("HTTP/1.1 302 Go\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 500, None),
        ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", 500, None),
        ("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 500, None),
        ("what?\r\n\r\n", 500, None),
    ] {
        let proxy = asking(ask(answering(answer).0));
        for _ in 0..2 {
            let seen = get(proxy.http, "/", "");
            assert_eq!(seen.status, status, "{answer:?}: {}", seen.text());
            if let Some(body) = body {
                assert_eq!(String::from_utf8_lossy(&seen.body), body);
            }
            assert_eq!(seen.has("www-authenticate"), status == 401);
        }
    }
    assert_eq!(get(asking(ask(dead)).http, "/", "").status, 500, "it can't be reached");
    for url in ["ftp://a/", "http:///", "nonsense", "http://nowhere.invalid/", "http://u@127.0.0.1/", ""] {
        let proxy = asking(ExternalAuth { url: template(url), ..ask(dead) });
        assert_eq!(get(proxy.http, "/", "").status, 500, "{url:?}");
    }
}

#[test]
fn what_it_is_asked() {
    let mut rules = ask(telling());
    rules.url = template(&format!("{}?who=$cookie_who&m=$request_method", rules.url));
    rules.response_headers = vec!["x-question".into()];
    rules.request_headers = vec![("x-extra".into(), template("$namespace"))];
    let proxy = asking(rules);
    let headers = format!(
        "{}Cookie: who=a&b\r\nX-Mine: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Original-URL: forged\r\n\
         X_Original_URI: /forged\r\nX-Original_Method: forged\r\nX_Extra: forged\r\n\
         X-Forwarded-Host: forged\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n",
        from("10.0.0.1")
    );
    let text = format!("POST /a?b=c HTTP/1.1\r\nHost: a.test\r\n{headers}\r\nhi");
    let seen = crate::raw(proxy.http, &text);
    assert_eq!(seen.status, 200, "{}", seen.text());
    let head = String::from_utf8_lossy(&seen.body).into_owned();
    let question = head.lines().find_map(|line| line.strip_prefix("x-question: ")).expect("a question");
    let lines: Vec<_> = question.split('|').filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "GET /check?who=a%26b&m=POST HTTP/1.1");
    for line in [
        "x-original-url: http://a.test/a?b=c",
        "x-original-uri: /a?b=c",
        "x-original-method: POST",
        "x-auth-request-redirect: /a?b=c",
        "x-sent-from: sluice",
        "x-real-ip: 10.0.0.1",
        "x-forwarded-for: 10.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: a.test",
        "x-mine: 1",
        "x-extra: test",
        "cookie: who=a&b",
    ] {
        assert_eq!(lines.iter().filter(|have| **have == line).count(), 1, "{line} in {lines:#?}");
    }
    assert!(!question.contains("forged"), "{lines:#?}");
    for name in ["x-hop", "content-length", "content-type", "transfer-encoding"] {
        assert!(!lines.iter().any(|line| line.starts_with(&format!("{name}:"))), "{name} in {lines:#?}");
    }
    assert!(lines.iter().any(|line| line.starts_with("host: 127.0.0.1:")), "{lines:#?}");
}

/// What the server vouches for can't come from the client, whether the server says it or not.
#[test]
fn headers_for_the_endpoint() {
    for (answer, expect) in [
        (
            "HTTP/1.1 200 OK\r\nX-User: alice\r\nX-Other: 1\r\nContent-Length: 0\r\n\r\n",
            vec!["x-user: alice"],
        ),
        (
            "HTTP/1.1 200 OK\r\nX-User: a\r\nX-User: b\r\nContent-Length: 0\r\n\r\n",
            vec!["x-user: a", "x-user: b"],
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", vec![]),
    ] {
        let rules = ExternalAuth {
            response_headers: vec!["x-user".into(), "x-groups".into()],
            ..ask(answering(answer).0)
        };
        let proxy = asking(rules.clone());
        let seen = get(proxy.http, "/", "X-User: mallory\r\nX-Groups: admin\r\n");
        let head = String::from_utf8_lossy(&seen.body).into_owned();
        let told: Vec<_> = head
            .lines()
            .filter(|line| {
                line.starts_with("x-user") || line.starts_with("x-groups") || line.starts_with("x-other")
            })
            .collect();
        assert_eq!(told, expect, "{answer:?}");
        // Nor where another check let the request in and nobody was asked.
        let proxy = single(|policy| {
            policy.access.external = Some(Arc::new(rules));
            policy.access.allow = Some(crate::nets(&["0.0.0.0/0"]));
            policy.access.satisfy = sluice::model::Satisfy::Any;
        });
        let seen = get(proxy.http, "/", "X-User: mallory\r\n");
        assert!(seen.status == 200 && !seen.text().contains("mallory"), "{}", seen.text());
    }
}

#[test]
fn where_to_sign_in() {
    let no = "HTTP/1.1 401 No\r\nSet-Cookie: state=1\r\nContent-Length: 0\r\n\r\n";
    let forbidden = "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n";
    for (answer, signin, expect) in [
        (no, "https://in.test/", (302, Some("https://in.test/?rd=http://a.test%2Fx%3Fy%3Dz%26w"))),
        (no, "https://in.test/?a=b", (302, Some("https://in.test/?a=b&rd=http://a.test%2Fx%3Fy%3Dz%26w"))),
        (no, "https://in.test/?rd=$escaped_request_uri", (302, Some("https://in.test/?rd=%2Fx%3Fy%3Dz%26w"))),
        (
            no,
            "https://in.test/?ord=1",
            (302, Some("https://in.test/?ord=1&rd=http://a.test%2Fx%3Fy%3Dz%26w")),
        ),
        (no, "https://$host/in", (302, Some("https://a.test/in?rd=http://a.test%2Fx%3Fy%3Dz%26w"))),
        (forbidden, "https://in.test/", (403, None)),
    ] {
        let rules = ExternalAuth { signin: Some(template(signin)), ..ask(answering(answer).0) };
        let seen = get(asking(rules).http, "/x?y=z&w", "");
        assert_eq!((seen.status, seen.header("location")), expect, "{signin}");
        assert_eq!(seen.header("set-cookie"), (seen.status == 302).then_some("state=1"));
    }
}

/// Cookies of a server that lets a request in go to the client: as nginx's `add_header`, not with
/// every status.
#[test]
fn cookies() {
    let yes = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n";
    for (always, path, count) in [(false, "/200", 3), (false, "/404", 1), (true, "/404", 3)] {
        let proxy = several(|rig| {
            let own = endpoint(|stream| {
                while let Some(head) = read_head(stream) {
                    let status = head.split(['/', ' ']).nth(2).unwrap_or("200").to_owned();
                    let answer =
                        format!("HTTP/1.1 {status} OK\r\nSet-Cookie: own=1\r\nContent-Length: 0\r\n\r\n");
                    drop(stream.write_all(answer.as_bytes()));
                }
            });
            rig.cluster("own", &[own]);
            rig.route_with("a.test", "/", "own", |draft| {
                let rules = ExternalAuth { always_set_cookie: always, ..ask(answering(yes).0) };
                draft.policy.access.external = Some(Arc::new(rules));
            });
        });
        let seen = get(proxy.http, path, "");
        let cookies = seen.head.lines().filter(|line| line.starts_with("set-cookie")).count();
        assert_eq!(cookies, count, "{always} {path}: {}", seen.head);
    }
}

#[test]
fn what_is_remembered() {
    let minute = Duration::from_secs(60);
    for (answer, times, questions) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", vec![(200, minute)], 2),
        ("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", vec![(0, minute)], 2),
        ("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", vec![(200, minute)], 6),
        ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", vec![(200, minute), (401, minute)], 6),
        ("HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", vec![(200, minute)], 6),
    ] {
        let (server, asked) = answering(answer);
        let proxy = asking(ExternalAuth { cache: Some((template("$cookie_session"), times)), ..ask(server) });
        for session in ["one", "one", "two", "one", "two", "two"] {
            get(proxy.http, "/", &format!("Cookie: session={session}\r\n"));
        }
        assert_eq!(asked.load(SeqCst), questions, "{answer:?}");
    }
}

/// An authentication URL that leads to a route that asks the same: the question is not asked again.
#[test]
fn loops_end() {
    let mut rig = crate::Rig::new();
    let ourselves = rig.http;
    rig.cluster("web", &[endpoint(crate::echo)]);
    let loops = move |policy: &mut RoutePolicy| {
        let rules = ExternalAuth { url: template(&format!("http://{ourselves}/check")), ..ask(ourselves) };
        policy.access.external = Some(Arc::new(rules));
    };
    rig.route_with("", "/", "web", |draft| loops(&mut draft.policy));
    let proxy = rig.start(|settings| settings.workers = 1);
    assert_eq!(get(proxy.http, "/", "").status, 500);
    assert!(proxy.proxy.stats().total.requests < 5, "asked over and over");
}

#[test]
fn by_name_and_over_tls() {
    let named = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").0.port();
    // A server with a certificate that nobody can verify: another proxy of ours.
    let mut rig = crate::Rig::new();
    rig.cluster("yes", &[answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").0]);
    rig.route("localhost", "/", "yes");
    rig.certificate("localhost", certificate("localhost"));
    let secure = rig.start(|_| ());
    for url in
        [format!("http://localhost:{named}/"), format!("https://localhost:{}/check", secure.https.port())]
    {
        let proxy = asking(ExternalAuth { url: template(&url), ..ask(secure.http) });
        for _ in 0..3 {
            assert_eq!(get(proxy.http, "/", "").status, 200, "{url}");
        }
    }
}

/// Each worker asks over few connections, again and again.
#[test]
fn connections_are_kept() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let server = endpoint(move |stream| {
        count.fetch_add(1, SeqCst);
        while read_head(stream).is_some() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        }
    });
    let proxy = asking(ask(server));
    for _ in 0..20 {
        assert_eq!(get(proxy.http, "/", "").status, 200);
    }
    assert!(opened.load(SeqCst) <= 2, "{opened:?} connections by two workers");

    // One that was closed meanwhile costs nobody an answer.
    let fickle = endpoint(|stream| {
        drop(read_head(stream));
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    });
    let proxy = asking(ask(fickle));
    for _ in 0..20 {
        assert_eq!(get(proxy.http, "/", "").status, 200);
    }
}

#[test]
fn other_methods_and_requests_with_bodies() {
    let proxy = asking(ExternalAuth {
        method: Some("POST".into()),
        response_headers: vec!["x-question".into()],
        ..ask(telling())
    });
    let seen = request(proxy.http, "GET", "/", "");
    assert!(seen.text().contains("x-question: POST /check"), "{}", seen.text());
    let long = "x".repeat(100_000);
    let text = format!("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    assert_eq!(crate::raw(proxy.http, &text).status, 200, "the body waits for the answer");
}
