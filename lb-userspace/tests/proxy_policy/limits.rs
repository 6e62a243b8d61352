//! How often, how much at once, and how fast.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use sluice::model::RateLimits;

use crate::rig::{connect, endpoint, eventually, read_head, read_response, say};
use crate::{from, get, nets, several};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n";

fn limited(limits: RateLimits) -> crate::Running {
    several(|rig| {
        rig.cluster("word", &[endpoint(|stream| say(stream, "in"))]);
        rig.route_with("a.test", "/", "word", |draft| draft.policy.limits = limits);
        rig.route("open.test", "/", "word");
    })
}

/// The limit is the node's, whichever worker a connection comes to, and each client's own.
#[test]
fn how_often() {
    for (limits, most) in [
        (RateLimits { per_minute: Some(3), burst: 1, ..Default::default() }, 4),
        (RateLimits { per_minute: Some(3), burst: 5, ..Default::default() }, 16),
        (RateLimits { per_minute: Some(3), burst: 0, ..Default::default() }, 4),
        (RateLimits { per_second: Some(1000), per_minute: Some(2), burst: 2, ..Default::default() }, 5),
    ] {
        let proxy = limited(limits.clone());
        for client in ["10.0.0.1", "2001:db8::1"] {
            let statuses: Vec<_> = (0..30).map(|_| get(proxy.http, "/", &from(client)).status).collect();
            let (served, refused) = statuses.split_at(most);
            assert!(served.iter().all(|status| *status == 200), "{limits:?}: {statuses:?}");
            assert!(refused.iter().all(|status| *status == 503), "{limits:?}: {statuses:?}");
        }
        assert_eq!(get(proxy.http, "/", &from("2001:db8::ffff")).status, 503, "the same subscriber");
        let open = crate::raw(proxy.http, "GET / HTTP/1.1\r\nHost: open.test\r\nX-Real-IP: 10.0.0.1\r\n\r\n");
        assert_eq!(open.status, 200, "another route");
    }
}

#[test]
fn statuses_and_exempt_networks() {
    let exempt = Some(nets(&["10.9.0.0/16"]));
    for (status, expect) in [(429, 429), (0, 503)] {
        let proxy = limited(RateLimits {
            per_minute: Some(1),
            connections: Some(1),
            exempt: exempt.clone(),
            status,
            ..Default::default()
        });
        for _ in 0..10 {
            assert_eq!(get(proxy.http, "/", &from("10.9.1.1")).status, 200);
        }
        let statuses: Vec<_> = (0..5).map(|_| get(proxy.http, "/", &from("10.8.1.1")).status).collect();
        assert_eq!(statuses, [200, 200, expect, expect, expect]);
    }
}

/// A new configuration does not give anybody a new burst.
#[test]
fn changes_forget_nothing() {
    let limits = RateLimits { per_minute: Some(1), ..Default::default() };
    let mut proxy = limited(limits.clone());
    let statuses = |proxy: &crate::Running| [(); 3].map(|()| get(proxy.http, "/", &from("10.0.0.1")).status);
    assert_eq!(statuses(&proxy), [200, 200, 503]);
    proxy.change(|rig| {
        rig.replace_routes();
        rig.route_with("a.test", "/", "word", |draft| draft.policy.limits = limits);
        rig.route("new.test", "/", "word");
    });
    assert_eq!(statuses(&proxy), [503, 503, 503]);
    proxy.change(|rig| {
        rig.replace_routes();
        rig.route("a.test", "/", "word");
    });
    assert_eq!(statuses(&proxy), [200, 200, 200], "no limit any more");
}

/// Counted until the answer's last byte, and given back however the request ends.
#[test]
fn how_much_at_once() {
    let proxy = several(|rig| {
        let slow = endpoint(|stream| {
            while read_head(stream).is_some() {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"));
                // The end comes when the client has gone, or never.
                drop(stream.read(&mut [0]));
            }
        });
        rig.cluster("slow", &[slow]);
        rig.route_with("a.test", "/", "slow", |draft| draft.policy.limits.connections = Some(3));
    });
    let begin = |client: &str| {
        let mut stream = connect(proxy.http);
        stream.write_all(format!("{REQUEST}{}\r\n", from(client)).as_bytes()).expect("sent");
        let head = read_head(&mut stream).expect("a head");
        (stream, head.contains(" 200 "))
    };
    let mut held: Vec<_> = (0..3).map(|_| begin("10.0.0.1")).collect();
    assert!(held.iter().all(|(_, served)| *served));
    assert!(!begin("10.0.0.1").1, "a fourth");
    assert!(begin("10.0.0.2").1, "another client");
    held.pop();
    eventually(|| begin("10.0.0.1").1);
}

/// Sent in pieces as the rate allows, whole, and the first bytes at once.
#[test]
fn how_fast() {
    let body = "0123456789".repeat(6_000);
    let proxy = several(|rig| {
        let body = body.clone();
        let long = endpoint(move |stream| say(stream, &body));
        rig.cluster("long", &[long]);
        for (host, rate, free) in [("slow.test", 40_000, 20_000), ("fast.test", 1 << 40, 0)] {
            rig.route_with(host, "/", "long", |draft| {
                draft.policy.limits.bytes_per_second = Some(rate);
                draft.policy.limits.bytes_free = free;
            });
        }
    });
    for (host, least) in [("slow.test", Duration::from_millis(850)), ("fast.test", Duration::ZERO)] {
        let started = Instant::now();
        let mut stream = connect(proxy.http);
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).expect("sent");
        let seen = read_response(&mut stream, false).expect("an answer");
        assert!(seen.body == body.as_bytes(), "{host}: {} bytes", seen.body.len());
        assert!(started.elapsed() >= least, "{host}: {:?}", started.elapsed());
    }
}
