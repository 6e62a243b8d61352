//! By turns, by load, by hash.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice::model::{Balance, ErrorPages, HostPattern, Passthrough, Template, UpstreamProtocol};

use crate::rig::{self, Rig, Running, endpoint, eventually, free_port, host, read_head};
use crate::{count, get, named, word};

/// `a.test` over these endpoints, one worker.
fn balanced(balance: Balance, addresses: &[SocketAddr]) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", addresses);
    rig.route_with("a.test", "/", "web", |draft| draft.policy.balance = balance);
    rig.start(|settings| settings.workers = 1)
}

fn by(key: &str, subset: u32) -> Balance {
    Balance::Hash { key: Template::parse(key).expect("a template"), subset }
}

#[test]
fn everybody_gets_requests() {
    let addresses = [named("a"), named("b"), named("c"), named("d")];
    for (balance, least, most) in [
        (Balance::RoundRobin, 25, 25),
        (Balance::LeastRequest, 5, 60),
        // By response times that are alike, but not the same.
        (Balance::Ewma, 0, 100),
        (by("$arg_user", 0), 1, 60),
        // Without a key there is nothing to keep together.
        (by("$arg_nobody", 0), 25, 25),
    ] {
        let proxy = balanced(balance.clone(), &addresses);
        let counts = count((0..100).map(|user| word(proxy.http, &format!("/?user={user}"), "")));
        assert_eq!(counts.values().sum::<usize>(), 100);
        assert!(least == 0 || counts.len() == 4, "{balance:?}: {counts:?}");
        assert!(counts.values().all(|one| (least..=most).contains(one)), "{balance:?}: {counts:?}");
    }
}

#[test]
fn slow_endpoints_get_little() {
    let slow = endpoint(|stream| {
        while read_head(stream).is_some() {
            std::thread::sleep(Duration::from_millis(100));
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"));
        }
    });
    let proxy = balanced(Balance::Ewma, &[slow, named("fast")]);
    let counts = count((0..100).map(|_| word(proxy.http, "/", "")));
    assert!(counts["fast"] > 90, "{counts:?}");
}

/// Answers `/begin` with half a body, `/wait` with nothing, `/break` with the end.
fn stubborn(name: &'static str) -> SocketAddr {
    endpoint(move |stream| {
        while let Some(head) = read_head(stream) {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let answer = match path {
                "/begin" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_owned(),
                "/wait" => String::new(),
                "/break" => return,
                _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()),
            };
            drop(stream.write_all(answer.as_bytes()));
        }
    })
}

#[test]
fn busy_endpoints_are_spared_until_their_requests_end() {
    let proxy = balanced(Balance::LeastRequest, &[stubborn("a"), stubborn("b")]);
    let words = |requests: usize| count((0..requests).map(|_| word(proxy.http, "/", "")));
    for path in ["/begin", "/wait"] {
        let mut busy = rig::connect(proxy.http);
        busy.write_all(
            format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n").as_bytes(),
        )
        .expect("sent");
        eventually(|| words(4).len() == 1);
        assert_eq!(words(40).len(), 1, "{path}: the other one has nothing to do");
        drop(busy);
        eventually(|| words(20).len() == 2);
    }
    for _ in 0..4 {
        let seen = get(proxy.http, "/break", "");
        assert_eq!(seen.status, 502, "{}", seen.text());
    }
    eventually(|| words(20).len() == 2);
}

#[test]
fn keys_keep_their_endpoint() {
    let names = ["a", "b", "c", "d", "e"];
    let addresses = names.map(named);
    for (key, request) in [
        ("$arg_user", ("/?user=N", "")),
        ("$request_uri", ("/item/N", "")),
        ("$http_x_user", ("/", "X-User: N\r\n")),
        ("$cookie_user", ("/", "Cookie: a=b; user=N\r\n")),
        ("$host$request_uri", ("/item/N", "")),
    ] {
        let mut proxy = balanced(by(key, 0), &addresses);
        let http = proxy.http;
        let (path, headers) = request;
        let ask = |user: usize| {
            let user = user.to_string();
            word(http, &path.replace('N', &user), &headers.replace('N', &user))
        };
        let before: BTreeMap<usize, String> = (0..60).map(|user| (user, ask(user))).collect();
        for (user, name) in &before {
            assert_eq!(ask(*user), *name, "{key}: {user}");
        }
        assert!(names.iter().all(|name| before.values().any(|one| one == name)), "{key}: {before:?}");
        // One is gone: its keys move, no others.
        proxy.change(|rig| rig.cluster("web", &addresses[1..]));
        for (user, name) in &before {
            let now = ask(*user);
            assert!(if name == "a" { now != "a" } else { now == *name }, "{key}: {user} {name} {now}");
        }
        // It is back, and so are they.
        proxy.change(|rig| rig.cluster("web", &addresses));
        for (user, name) in &before {
            assert_eq!(ask(*user), *name, "{key}: {user}");
        }
    }
    // One client is one key.
    let proxy = balanced(by("$remote_addr", 0), &addresses);
    assert_eq!(count((0..20).map(|_| word(proxy.http, "/", ""))).len(), 1);
}

#[test]
fn keys_keep_their_group() {
    let addresses = ["a", "b", "c", "d", "e"].map(named);
    let proxy = balanced(by("$arg_user", 2), &addresses);
    let mut groups = std::collections::BTreeSet::new();
    for user in 0..30 {
        let counts = count((0..10).map(|_| word(proxy.http, &format!("/?user={user}"), "")));
        assert_eq!(
            counts.values().copied().collect::<Vec<_>>(),
            [5, 5],
            "in turn within the group: {counts:?}"
        );
        groups.insert(counts.into_keys().collect::<Vec<_>>());
    }
    assert!(groups.len() > 3, "{groups:?}");
}

#[test]
fn who_fails_is_left_out_whatever_is_asked() {
    let gone: Vec<SocketAddr> = (0..2).map(|_| ([127, 0, 0, 1], free_port()).into()).collect();
    for balance in
        [Balance::RoundRobin, Balance::Ewma, Balance::LeastRequest, by("$arg_user", 0), by("$arg_user", 3)]
    {
        let mut proxy = balanced(balance.clone(), &[gone[0], named("a"), gone[1], named("b")]);
        let http = proxy.http;
        let counts = count((0..40).map(|user| word(http, &format!("/?user={user}"), "")));
        assert_eq!(counts.len(), 2, "{balance:?}: {counts:?}");
        let failures = proxy.proxy.stats().total.upstream_failures;
        assert!(failures <= 6, "they rest: {failures} failures with {balance:?}");
        // Where nobody else is, they are tried.
        proxy.change(|rig| rig.cluster("web", &gone));
        assert_eq!(get(http, "/?user=1", "").status, 502, "{balance:?}");
        proxy.change(|rig| rig.cluster("web", &[]));
        assert_eq!(get(http, "/?user=1", "").status, 503, "{balance:?}");
    }
}

#[test]
fn routes_of_one_cluster_choose_on_their_own() {
    let addresses = ["a", "b", "c"].map(named);
    let mut rig = Rig::new();
    rig.cluster("web", &addresses);
    rig.route_with(&host("hash"), "/", "web", |draft| draft.policy.balance = by("$remote_addr", 0));
    rig.route(&host("turns"), "/", "web");
    let proxy = rig.start(|settings| settings.workers = 1);
    let ask = |name: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(name));
        String::from_utf8(rig::send(proxy.http, &text).body).expect("text")
    };
    assert_eq!(count((0..30).map(|_| ask("hash"))).len(), 1);
    assert_eq!(count((0..30).map(|_| ask("turns"))).into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

/// An endpoint that is the proxy itself: another route of it may take the request, the same one for ever
/// may not.
#[test]
fn requests_that_come_back() {
    for (routes_on, status, requests) in [(true, 200, 2), (false, 508, 9)] {
        let mut rig = Rig::new();
        let ourselves = rig.http;
        rig.cluster("back", &[ourselves]);
        rig.cluster("web", &[named("web")]);
        rig.route_with("a.test", "/", "back", |draft| {
            draft.policy.upstream.host = routes_on.then(|| Template::literal("b.test"));
        });
        rig.route("b.test", "/", "web");
        let proxy = rig.start(|settings| settings.workers = 1);
        let seen = get(proxy.http, "/", "X-Sluice-Hops: no\r\n");
        assert_eq!(seen.status, status, "{}", seen.text());
        assert_eq!(proxy.proxy.stats().total.requests, requests);
    }
}

/// Two nodes that each take the other for an endpoint, as they do where a Service names what is before them.
#[test]
fn requests_that_go_round() {
    for protocol in [UpstreamProtocol::Http, UpstreamProtocol::Grpc] {
        let (mut one, mut other) = (Rig::new(), Rig::new());
        let (first, second) = (one.http, other.http);
        for (rig, next) in [(&mut one, second), (&mut other, first)] {
            rig.cluster("next", &[next]);
            rig.protocol("next", protocol);
            rig.route("a.test", "/", "next");
        }
        let (one, other) = (one.start(|_| ()), other.start(|_| ()));
        let requests = || one.proxy.stats().total.requests + other.proxy.stats().total.requests;
        // Who counts high spoils only his own way, and nobody can count anew.
        for (said, expect) in [
            ("", 9),
            ("X-Sluice-Hops: 0\r\n", 9),
            ("Connection: x-sluice-hops\r\nX-Sluice-Hops: 3\r\n", 6),
            ("X-Sluice-Hops: 8\r\n", 1),
        ] {
            let before = requests();
            let seen = get(first, "/", said);
            assert_eq!(seen.status, 508, "{protocol:?} {said}: {}", seen.text());
            assert_eq!(requests() - before, expect, "{protocol:?} {said}");
        }
    }
}

/// The same with a backend for failures that fails itself.
#[test]
fn pages_that_come_back() {
    let mut rig = Rig::new();
    let ourselves = rig.http;
    rig.cluster("back", &[ourselves]);
    rig.cluster("dead", &[([127, 0, 0, 1], free_port()).into()]);
    rig.route_with("a.test", "/", "dead", |draft| {
        let backend = rig::backend("back");
        draft.policy.error_pages = Some(Arc::new(ErrorPages { statuses: vec![502], backend }));
    });
    let proxy = rig.start(|settings| settings.workers = 1);
    assert_eq!(get(proxy.http, "/", "").status, 508);
    assert_eq!(proxy.proxy.stats().total.requests, 9);
}

/// The same with connections that are passed through: there is nothing to count in.
#[test]
fn connections_that_would_come_back() {
    let mut rig = Rig::new();
    let ourselves = rig.https;
    rig.cluster("back", &[ourselves]);
    rig.own("back", ourselves);
    let to = Passthrough { cluster: Arc::new(rig::key("back")), proxy_protocol: None };
    rig.tls.passthrough.push((HostPattern::Exact("a.test".into()), Some(to)));
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut client = rig::tls(proxy.https, "a.test", &[]);
    assert!(client.conn.complete_io(&mut client.sock).is_err());
    assert_eq!(proxy.proxy.stats().total.upstream_connects, 0);
}
