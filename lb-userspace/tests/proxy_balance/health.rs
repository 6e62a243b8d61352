//! Who fails, who is unwell, who has enough, who is far away, who is new.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use sluice::model::*;
use sluice::proxy::{EndpointHealth, EndpointState};

use crate::rig::{
    Draft, Rig, Running, connect, endpoint, eventually, free_port, host, read_head, read_response, say, send,
    tls_config,
};
use crate::{count, get, named, word};

/// `a.test` over these endpoints.
fn running(
    addresses: &[SocketAddr],
    describe: impl FnOnce(&mut Care),
    route: impl FnOnce(&mut Draft),
) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", addresses);
    rig.care("web", describe);
    rig.route_with("a.test", "/", "web", route);
    rig.start(|settings| settings.workers = 2)
}

fn health(proxy: &Running, address: SocketAddr) -> Option<EndpointHealth> {
    let mut all = proxy.proxy.health();
    let cluster = all.remove("test/web:80")?;
    cluster.endpoints.into_iter().find(|one| one.address == address)
}

fn state(proxy: &Running, address: SocketAddr) -> EndpointState {
    health(proxy, address).map_or(EndpointState::Ready, |one| one.state)
}

/// Answers with a status that can be changed; 0: takes the request and hangs up. Counts requests.
fn switch(status: u16) -> (SocketAddr, Arc<AtomicU16>, Arc<AtomicUsize>) {
    let (status, seen) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
    let (now, count) = (Arc::clone(&status), Arc::clone(&seen));
    let address = endpoint(move |stream| {
        while read_head(stream).is_some() {
            count.fetch_add(1, SeqCst);
            let status = now.load(SeqCst);
            if status == 0 {
                return;
            }
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nbad");
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    (address, status, seen)
}

#[test]
fn failures_in_a_row_eject_for_all_routes_and_workers() {
    let (bad, status, seen) = switch(0);
    let mut rig = Rig::new();
    rig.cluster("web", &[bad, named("good")]);
    rig.care("web", |care| {
        care.ejection = Ejection { after: 3, time: Duration::from_secs(600), max_percent: 50 }
    });
    for name in ["one", "two"] {
        rig.route(&host(name), "/", "web");
    }
    let proxy = rig.start(|settings| settings.workers = 2);
    let ask = |name: &str| {
        let seen =
            send(proxy.http, &format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(name)));
        assert_eq!(seen.status, 200, "another endpoint answers: {}", seen.text());
    };
    while state(&proxy, bad) != EndpointState::Ejected {
        ask("one");
    }
    let before = seen.load(SeqCst);
    status.store(200, SeqCst);
    (0..40).for_each(|_| ask("two"));
    assert_eq!((before, seen.load(SeqCst)), (3, 3), "it is left alone");
    let one = health(&proxy, bad).expect("known");
    assert!(one.ejections == 1 && one.rests_ms > 500_000, "{one:?}");
    assert!(one.last_error.expect("why").contains("closed the connection"));
    assert_eq!(proxy.proxy.stats().health["test/web:80"].cluster.ejections, 1);
}

#[test]
fn ejections_end_with_a_request_that_is_answered() {
    let (bad, status, _) = switch(0);
    let ejection = Ejection { after: 1, time: Duration::from_millis(200), max_percent: 50 };
    let proxy = running(&[bad, named("good")], |care| care.ejection = ejection, |_| ());
    while health(&proxy, bad).is_none_or(|one| one.ejections == 0) {
        word(proxy.http, "/", "");
    }
    status.store(200, SeqCst);
    eventually(|| count((0..10).map(|_| word(proxy.http, "/", ""))).len() == 2);
    assert_eq!(state(&proxy, bad), EndpointState::Ready);
}

#[test]
fn what_the_route_takes_for_a_failure_counts() {
    for (statuses, ejected) in [(vec![RetryOn::Status(503)], true), (vec![RetryOn::Error], false)] {
        let (bad, ..) = switch(503);
        let ejection = Ejection { after: 2, time: Duration::from_secs(600), max_percent: 50 };
        let proxy = running(
            &[bad, named("good")],
            |care| care.ejection = ejection,
            |draft| {
                draft.policy.upstream.retry.on = statuses.clone();
            },
        );
        for _ in 0..20 {
            get(proxy.http, "/", "");
        }
        assert_eq!(state(&proxy, bad) == EndpointState::Ejected, ejected, "{statuses:?}");
    }
}

#[test]
fn somebody_is_left_whatever_fails() {
    let bad: Vec<_> = (0..4).map(|_| switch(0).0).collect();
    let ejection = Ejection { after: 1, time: Duration::from_secs(600), max_percent: 50 };
    let proxy = running(&bad, |care| care.ejection = ejection, |_| ());
    for _ in 0..10 {
        assert_eq!(get(proxy.http, "/", "").status, 502);
    }
    let states: Vec<_> = bad.iter().map(|one| state(&proxy, *one)).collect();
    assert_eq!(states.iter().filter(|state| **state == EndpointState::Ejected).count(), 2, "{states:?}");
}

fn check(probe: Probe) -> Arc<HealthCheck> {
    Arc::new(HealthCheck {
        probe,
        port: None,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
        healthy_after: 1,
        unhealthy_after: 2,
    })
}

fn over_http(path: &str) -> Probe {
    Probe::Http { tls: false, path: path.into(), host: Some("up.test".into()), statuses: vec![(200, 299)] }
}

/// Answers `GET /up` of the right host with a status that can be changed, all else with its name.
fn checked(name: &'static str) -> (SocketAddr, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&status);
    let address = endpoint(move |stream| {
        while let Some(head) = read_head(stream) {
            let head = head.to_ascii_lowercase();
            let (status, body) =
                match head.starts_with("get /up?deep=1 ") && head.contains("\r\nhost: up.test\r\n") {
                    true => (now.load(SeqCst), ""),
                    false => (200, name),
                };
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    (address, status)
}

#[test]
fn checks_take_endpoints_out_and_back_in() {
    let ((one, status), (other, _)) = (checked("one"), checked("other"));
    let mut proxy = running(&[one, other], |care| care.check = Some(check(over_http("/up?deep=1"))), |_| ());
    let http = proxy.http;
    let who = || count((0..10).map(|_| word(http, "/", ""))).into_keys().collect::<Vec<_>>();
    eventually(|| health(&proxy, one).is_some_and(|one| one.check.is_some_and(|check| check.passing)));
    assert_eq!(who(), ["one", "other"]);
    status.store(500, SeqCst);
    eventually(|| state(&proxy, one) == EndpointState::Unhealthy);
    assert_eq!(who(), ["other"]);
    let said = health(&proxy, one).and_then(|one| one.check).expect("checked");
    assert!(said.last_error.expect("why").contains("500"));
    status.store(204, SeqCst);
    eventually(|| state(&proxy, one) == EndpointState::Ready);
    assert_eq!(who(), ["one", "other"]);

    // Unwell again, and then nobody asks any more.
    status.store(500, SeqCst);
    eventually(|| state(&proxy, one) == EndpointState::Unhealthy);
    proxy.change(|rig| rig.care("web", |care| care.check = None));
    eventually(|| state(&proxy, one) == EndpointState::Ready);
    assert_eq!(who(), ["one", "other"]);
    // And somebody asks again, about one that came meanwhile, too.
    let (third, its_status) = checked("third");
    its_status.store(500, SeqCst);
    proxy.change(|rig| {
        rig.cluster("web", &[one, other, third]);
        rig.care("web", |care| care.check = Some(check(over_http("/up?deep=1"))));
    });
    eventually(|| [one, third].iter().all(|bad| state(&proxy, *bad) == EndpointState::Unhealthy));
    assert_eq!(who(), ["other"]);
    // Where all are unwell, all are asked.
    proxy.change(|rig| rig.cluster("web", &[one, third]));
    assert_eq!(who(), ["one", "third"]);
}

#[test]
fn every_kind_of_check() {
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mute = endpoint(|stream| drop(stream.read_to_end(&mut Vec::new())));
    let plain = named("plain");
    let secure = secure();
    let https = Probe::Http { tls: true, path: "/".into(), host: None, statuses: vec![(200, 200)] };
    for (probe, address, port, well) in [
        (Probe::Tcp, plain, None, true),
        (Probe::Tcp, mute, None, true),
        (Probe::Tcp, gone, None, false),
        (Probe::Tcp, plain, Some(gone.port()), false),
        (over_http("/"), plain, None, true),
        (over_http("/"), gone, Some(plain.port()), true),
        (over_http("/"), mute, None, false),
        (over_http("/"), secure, None, false),
        (https.clone(), secure, None, true),
        (https, plain, None, false),
    ] {
        let mut check = HealthCheck::clone(&check(probe.clone()));
        check.port = port;
        if address == mute {
            check.timeout = Duration::from_millis(200);
        }
        let proxy = running(&[address, named("other")], |care| care.check = Some(Arc::new(check)), |_| ());
        eventually(|| {
            let checks = health(&proxy, address).and_then(|one| one.check);
            checks.is_some_and(|check| check.checks >= 3)
        });
        assert_eq!(state(&proxy, address) == EndpointState::Ready, well, "{probe:?} {port:?}");
    }
}

/// An endpoint that speaks TLS.
fn secure() -> SocketAddr {
    let key = rcgen::KeyPair::generate().expect("a key");
    let made =
        rcgen::CertificateParams::new(vec!["a.test".to_owned()]).and_then(|params| params.self_signed(&key));
    let chain = vec![made.expect("a certificate").der().clone()];
    let provider = tls_config(&[], |_| true).crypto_provider().clone();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key.serialize_der().try_into().expect("a key"))
        .expect("a pair");
    let config = Arc::new(config);
    endpoint(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a server");
        let mut stream = rustls::StreamOwned::new(connection, stream);
        while read_head(&mut stream).is_some() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        }
    })
}

/// Takes requests and answers each when it is let go.
struct Gate {
    address: SocketAddr,
    open: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
}

fn gate() -> Gate {
    let (open, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (go, count) = (Arc::clone(&open), Arc::clone(&taken));
    let address = endpoint(move |stream| {
        while read_head(stream).is_some() {
            count.fetch_add(1, SeqCst);
            while !go.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"));
        }
    });
    Gate { address, open, taken }
}

fn begin(proxy: SocketAddr) -> TcpStream {
    let mut stream = connect(proxy);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").expect("sent");
    stream
}

#[test]
fn limits_of_a_cluster() {
    let gate = gate();
    let limits = CircuitLimits { connections: Some(2), pending: 1, ..CircuitLimits::default() };
    let proxy = running(&[gate.address], |care| care.limits = limits, |_| ());
    let known = || proxy.proxy.health().remove("test/web:80").unwrap_or_default();
    let mut first: Vec<_> = (0..2).map(|_| begin(proxy.http)).collect();
    eventually(|| gate.taken.load(SeqCst) == 2);
    // One waits, the next does not.
    let mut waiting = begin(proxy.http);
    eventually(|| known().pending == 1);
    let refused = get(proxy.http, "/", "");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("too many requests"), "{}", refused.text());
    assert_eq!((known().connections, known().overflows), (2, 1));
    gate.open.store(true, SeqCst);
    for stream in first.iter_mut().chain([&mut waiting]) {
        assert_eq!(read_response(stream, false).expect("an answer").status, 200);
    }
    eventually(|| (known().connections, known().pending) == (0, 0));
    assert_eq!(word(proxy.http, "/", ""), "done");
}

/// Another endpoint, or another limit, is of use to those who wait already.
#[test]
fn who_waits_sees_what_changes() {
    let next = named("next");
    for by_limit in [false, true] {
        let gate = gate();
        let most =
            |most| CircuitLimits { endpoint_connections: Some(most), pending: 9, ..CircuitLimits::default() };
        let mut proxy = running(
            &[gate.address],
            |care| care.limits = most(1),
            |draft| draft.policy.upstream.connect_timeout = Some(Duration::from_secs(19)),
        );
        let mut first = begin(proxy.http);
        eventually(|| gate.taken.load(SeqCst) == 1);
        let mut waiting = begin(proxy.http);
        eventually(|| proxy.proxy.health()["test/web:80"].pending == 1);
        proxy.change(|rig| match by_limit {
            true => rig.care("web", |care| care.limits = most(2)),
            false => rig.cluster("web", &[gate.address, next]),
        });
        if by_limit {
            eventually(|| gate.taken.load(SeqCst) == 2);
        } else {
            assert_eq!(read_response(&mut waiting, false).expect("an answer").body, b"next");
        }
        gate.open.store(true, SeqCst);
        assert_eq!(read_response(&mut first, false).expect("an answer").status, 200);
    }
}

#[test]
fn who_waits_too_long_gets_503() {
    let gate = gate();
    let limits = CircuitLimits { connections: Some(1), pending: 9, ..CircuitLimits::default() };
    let proxy = running(
        &[gate.address],
        |care| care.limits = limits,
        |draft| {
            draft.policy.upstream.connect_timeout = Some(Duration::from_millis(200));
        },
    );
    let mut first = begin(proxy.http);
    eventually(|| gate.taken.load(SeqCst) == 1);
    assert_eq!(get(proxy.http, "/", "").status, 503);
    gate.open.store(true, SeqCst);
    assert_eq!(read_response(&mut first, false).expect("an answer").status, 200);
}

#[test]
fn limits_of_endpoints() {
    let (busy, free) = (gate(), gate());
    free.open.store(true, SeqCst);
    let limits = CircuitLimits { endpoint_connections: Some(1), ..CircuitLimits::default() };
    let proxy = running(&[busy.address, free.address], |care| care.limits = limits, |_| ());
    let mut held: Vec<_> = Vec::new();
    while busy.taken.load(SeqCst) == 0 {
        held.push(begin(proxy.http));
        eventually(|| {
            let served = busy.taken.load(SeqCst) + free.taken.load(SeqCst);
            served == held.len()
        });
        // The other endpoint has room again.
        eventually(|| health(&proxy, free.address).is_some_and(|one| one.connections == 0));
    }
    for _ in 0..10 {
        assert_eq!(word(proxy.http, "/", ""), "done");
        eventually(|| health(&proxy, free.address).is_some_and(|one| one.connections == 0));
    }
    assert_eq!(busy.taken.load(SeqCst), 1, "it has as much as it may");
    free.open.store(false, SeqCst);
    let mut last = begin(proxy.http);
    eventually(|| health(&proxy, free.address).is_some_and(|one| one.connections == 1));
    assert_eq!(get(proxy.http, "/", "").status, 503, "nobody is free");
    free.open.store(true, SeqCst);
    busy.open.store(true, SeqCst);
    assert_eq!(read_response(&mut last, false).expect("an answer").status, 200);
}

#[test]
fn retries_at_a_time_are_limited() {
    let bad = [switch(0).0, switch(0).0];
    for (retries, expect) in [(None, 2), (Some(1), 2)] {
        let care = |care: &mut Care| {
            care.ejection.after = 0;
            care.limits.retries = retries;
        };
        let proxy = running(&bad, care, |_| ());
        assert_eq!(get(proxy.http, "/", "").status, 502);
        assert_eq!(proxy.proxy.stats().total.upstream_failures, expect, "{retries:?}: one at a time");
    }
}

#[test]
fn tunnels_count() {
    let address = endpoint(crate::rig::websocket_echo);
    let limits = CircuitLimits { connections: Some(1), ..CircuitLimits::default() };
    let proxy = running(&[address], |care| care.limits = limits, |_| ());
    let request = "ws://a.test/";
    let (mut socket, _) =
        tokio_tungstenite::tungstenite::client(request, connect(proxy.http)).expect("a WebSocket");
    socket.send("hello".into()).expect("sent");
    assert_eq!(socket.read().expect("back").to_text().expect("text"), "hello");
    assert_eq!(get(proxy.http, "/", "").status, 503, "the tunnel has the only place");
    drop(socket);
    eventually(|| proxy.proxy.health()["test/web:80"].connections == 0);
}

#[test]
fn the_nodes_zone_goes_first_while_half_of_it_can_serve() {
    let near = [switch(200), switch(200), switch(200), switch(200)];
    let far = named("far");
    let addresses: Vec<_> = near.iter().map(|(address, ..)| *address).chain([far]).collect();
    for balance in [
        Balance::RoundRobin,
        Balance::LeastRequest,
        Balance::Ewma,
        Balance::Hash { key: Template::parse("$arg_user").expect("a template"), subset: 0 },
        Balance::Hash { key: Template::parse("$arg_user").expect("a template"), subset: 2 },
    ] {
        let mut rig = Rig::new();
        rig.cluster("web", &addresses);
        rig.distant("web", &[far]);
        rig.care("web", |care| {
            care.ejection = Ejection { after: 1, time: Duration::from_secs(600), max_percent: 100 };
        });
        rig.route_with("a.test", "/", "web", |draft| draft.policy.balance = balance.clone());
        let proxy = rig.start(|settings| settings.workers = 1);
        let reaches_far = || (0..60).any(|user| word(proxy.http, &format!("/?user={user}"), "") == "far");
        assert!(!reaches_far(), "{balance:?}");
        let fail = |which: usize| {
            near[which].1.store(0, SeqCst);
            let mut user = 0;
            while state(&proxy, near[which].0) != EndpointState::Ejected {
                word(proxy.http, &format!("/?user={user}"), "");
                user += 1;
            }
        };
        fail(0);
        fail(1);
        assert!(!reaches_far(), "{balance:?}: two of four are enough");
        fail(2);
        // An endpoint that was slow once is preferred again only when that is forgotten.
        eventually(reaches_far);
        near.iter().for_each(|(_, status, _)| status.store(200, SeqCst));
    }
}

#[test]
fn new_endpoints_begin_with_little() {
    let old = [named("old"), named("old"), named("old")];
    for (slow_start, balance, most) in [
        (None, Balance::RoundRobin, 200),
        (Some(Duration::from_secs(3600)), Balance::RoundRobin, 60),
        (Some(Duration::from_secs(3600)), Balance::LeastRequest, 80),
        (Some(Duration::from_secs(3600)), Balance::Ewma, 200),
    ] {
        let mut proxy = running(
            &old,
            |care| care.slow_start = slow_start,
            |draft| {
                draft.policy.balance = balance.clone();
            },
        );
        assert_eq!(word(proxy.http, "/", ""), "old");
        let new = named("new");
        proxy.change(|rig| rig.cluster("web", &[old[0], old[1], old[2], new]));
        let counts = count((0..400).map(|_| word(proxy.http, "/", "")));
        let got = counts.get("new").copied().unwrap_or_default();
        assert!(got <= most, "{slow_start:?} {balance:?}: {counts:?}");
        assert!(got > 0 || balance == Balance::Ewma, "{slow_start:?} {balance:?}: {counts:?}");
        if slow_start.is_some() {
            assert_eq!(state(&proxy, new), EndpointState::SlowStart);
            // Where all are new, all are used.
            proxy.change(|rig| rig.cluster("web", &[new]));
            assert_eq!(word(proxy.http, "/", ""), "new");
        }
    }
}

/// Who ends gets no more requests, and keeps those that it has.
#[test]
fn who_leaves_finishes_what_it_has() {
    let gate = gate();
    let sockets = endpoint(crate::rig::websocket_echo);
    let mut proxy = running(&[gate.address], |_| (), |_| ());
    let mut begun = begin(proxy.http);
    eventually(|| gate.taken.load(SeqCst) == 1);
    proxy.change(|rig| rig.cluster("web", &[named("other")]));
    (0..10).for_each(|_| assert_eq!(word(proxy.http, "/", ""), "other"));
    gate.open.store(true, SeqCst);
    assert_eq!(read_response(&mut begun, false).expect("an answer").body, b"done");
    assert_eq!(gate.taken.load(SeqCst), 1);

    proxy.change(|rig| rig.cluster("web", &[sockets]));
    let (mut socket, _) =
        tokio_tungstenite::tungstenite::client("ws://a.test/", connect(proxy.http)).expect("a WebSocket");
    proxy.change(|rig| rig.cluster("web", &[named("other")]));
    assert_eq!(word(proxy.http, "/", ""), "other");
    socket.send("still there".into()).expect("sent");
    assert_eq!(socket.read().expect("back").to_text().expect("text"), "still there");
}

#[test]
fn refused_connections_are_no_tries() {
    let gone: Vec<SocketAddr> = (0..10).map(|_| ([127, 0, 0, 1], free_port()).into()).collect();
    let proxy = running(&[&gone[..], &[named("left")]].concat(), |_| (), |_| ());
    for _ in 0..20 {
        let seen = send(
            proxy.http,
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
        assert_eq!((seen.status, seen.body), (200, b"left".to_vec()));
    }
    assert_eq!(gone.iter().filter(|one| state(&proxy, **one) == EndpointState::Unreachable).count(), 10);
}

#[test]
fn nothing_is_known_where_nothing_went_wrong() {
    let address = endpoint(|stream| say(stream, "well"));
    let proxy = running(&[address], |_| (), |_| ());
    (0..10).for_each(|_| assert_eq!(word(proxy.http, "/", ""), "well"));
    assert!(proxy.proxy.health().is_empty());
}
