//! The real binary, as a user runs it: without XDP, on loopback, from directories of manifests.

#[allow(dead_code, reason = "other tests use other parts")]
#[path = "support/daemon.rs"]
mod daemon;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use daemon::{DEADLINE, Daemon, command, endpoint, free_port, get, ingress, service, sluice, text, until};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn check_says_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let good =
        service("web", &["127.0.0.1:1".parse().expect("an address")]) + &ingress("web", "a.com", "/", "web");
    // Of two Ingresses with the same host and path one takes nothing.
    let warned = good.clone() + &ingress("rival", "a.com", "/", "web");
    let write = |sub: &str, files: &[(&str, &[u8])]| {
        let sub = dir.path().join(sub);
        std::fs::create_dir(&sub).expect("a directory");
        for (name, bytes) in files {
            std::fs::write(sub.join(name), bytes).expect("a file");
        }
    };
    write("empty", &[]);
    write("good", &[("a.yaml", good.as_bytes())]);
    write("warned", &[("a.yaml", warned.as_bytes())]);
    write("no-service", &[("a.yaml", ingress("web", "a.com", "/", "gone").as_bytes())]);
    write(
        "broken",
        &[("a.yaml", good.as_bytes()), ("b.yaml", b"kind: [Ingress"), ("c.yaml", b"\xff\xfe\x00bin")],
    );
    for (sub, more, code, expect) in [
        ("empty", &[][..], 0, "no Kubernetes objects"),
        ("good", &[], 0, "1 host, 1 route, 1 endpoint"),
        ("good", &["--strict"], 0, "0 errors"),
        ("warned", &[], 0, "which came first"),
        ("warned", &["--strict"], 1, "which came first"),
        ("no-service", &[], 1, "Service default/gone does not exist"),
        ("broken", &[], 1, "b.yaml"),
        ("broken", &[], 1, "c.yaml"),
        ("broken", &[], 1, "1 host, 1 route"),
    ] {
        let path = dir.path().join(sub);
        let mut args = vec!["check", path.to_str().expect("UTF-8")];
        args.extend(more);
        let out = sluice(&args);
        let said = text(&out.stdout);
        assert_eq!(out.status.code(), Some(code), "{sub} {more:?}: {said}{}", text(&out.stderr));
        assert!(said.contains(expect), "{sub}: {expect:?} in {said}");
        args.extend(["-o", "json"]);
        let json: Value = serde_json::from_slice(&sluice(&args).stdout).expect("json");
        assert!(json["errors"].is_u64() && json["issues"].is_array() && json["hosts"].is_array(), "{json}");
    }
}

#[test]
fn what_can_not_be_done_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    let (file, socket) = (file.to_str().expect("UTF-8"), dir.path().join("s"));
    let (socket, good) = (socket.to_str().expect("UTF-8"), dir.path().to_str().expect("UTF-8"));
    for (args, expect) in [
        (&["check", "/no/such/dir"][..], "/no/such/dir"),
        (&["check", file], file),
        (&["status", "--socket", socket], "sluice run"),
        (&["explain", "http://a/", "--socket", socket], socket),
        (&["maps", "verify", "--socket", socket], socket),
        (&["run", "--manifests", good], "--no-xdp"),
        (&["run", "--manifests", good, "--interface", "no-such-nic"], "no NIC no-such-nic"),
        (
            &[
                "run",
                "--manifests",
                "/no/such/dir",
                "--no-xdp",
                "--socket",
                socket,
                "--health",
                "127.0.0.1:0",
            ],
            "/no/such/dir",
        ),
        (&["run", "--manifests", good, "--no-xdp", "--socket", file], "is no socket"),
        (&["run", "--manifests", good, "--no-xdp", "--log", "a=b=c"], "--log"),
        (&["run", "--no-xdp"], "--manifests"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let out = sluice(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expect), "{args:?}: {expect:?} in {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn options_from_the_environment() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let here = dir.path().to_str().expect("UTF-8");
    let none = "/no/such/dir";
    for (environment, args, expect) in [
        (&[("SLUICE_INTERFACE", "no-such-nic")][..], &["--manifests", here][..], "no NIC no-such-nic"),
        (&[("SLUICE_INTERFACE", "")], &["--manifests", here], "no NIC named"),
        (&[("SLUICE_INTERFACE", "a,b")], &["--manifests", here], "no NIC a"),
        // The command line overrules.
        (&[("SLUICE_INTERFACE", "no-such-nic")], &["--manifests", none, "--no-xdp"], none),
        (&[("SLUICE_NO_XDP", "1")], &["--manifests", here, "--interface=no-such-nic"], "no NIC no-such-nic"),
        (&[("SLUICE_KUBERNETES", "yes")], &["--manifests", none, "--no-xdp"], none),
        (&[("SLUICE_NO_XDP", "true"), ("SLUICE_MANIFESTS", none)], &[], none),
        (&[("SLUICE_NO_XDP", "false"), ("SLUICE_MANIFESTS", here)], &[], "no NIC named"),
        (&[("SLUICE_NO_XDP", "perhaps"), ("SLUICE_MANIFESTS", here)], &[], "--no-xdp"),
        (&[("SLUICE_VIP", "127.0.0.1,224.0.0.1")], &["--manifests", here, "--no-xdp"], "--vip 224.0.0.1"),
        (&[("SLUICE_HTTP_PORT", "0")], &["--manifests", here, "--no-xdp"], "--http-port"),
        (&[("SLUICE_HTTP_PORT", "443")], &["--manifests", here, "--no-xdp"], "both 443"),
        (&[("SLUICE_COMPAT", "haproxy")], &["--manifests", here, "--no-xdp"], "ingress-nginx"),
        (&[("SLUICE_COMPAT", ""), ("SLUICE_LOG", "")], &["--manifests", none, "--no-xdp"], none),
    ] {
        let out = command()
            .arg("run")
            .args(args)
            .arg("--socket")
            .arg(&socket)
            .env("SLUICE_HEALTH", "127.0.0.1:0")
            .envs(environment.iter().copied())
            .output()
            .expect("the binary runs");
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{environment:?} {args:?}: {said}");
        assert!(said.contains(expect), "{environment:?} {args:?}: {expect:?} in {said}");
    }
    let doctor = command()
        .args(["doctor", "-o", "json"])
        .env("SLUICE_INTERFACE", "no-such-nic")
        .output()
        .expect("the binary runs");
    assert!(text(&doctor.stdout).contains("no-such-nic"), "{}", text(&doctor.stdout));
}

#[test]
fn a_missing_directory_is_all_that_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let socket = socket.to_str().expect("UTF-8");
    let out = sluice(&[
        "run",
        "--manifests",
        "/no/such/dir",
        "--no-xdp",
        "--socket",
        socket,
        "--health",
        "127.0.0.1:0",
    ]);
    assert_eq!(text(&out.stderr).lines().count(), 1, "{}", text(&out.stderr));
}

#[test]
fn help_and_version_are_fine() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["top", "--help"],
        &["trace", "-h"],
        &["maps", "purge", "--help"],
        &["check", "-h"],
    ] {
        let out = sluice(args);
        assert!(out.status.success() && !out.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn serves_and_follows_edits() {
    let red = endpoint("red", Duration::ZERO);
    let files = [
        ("a.yaml", service("red", &[red]) + &ingress("web", "red.test", "/", "red")),
        ("b.yaml", ingress("gone", "gone.test", "/", "gone")),
        ("c.yaml", "kind: [".to_owned()),
    ];
    let daemon = Daemon::start(&files, &[]);
    assert_eq!(daemon.get("red.test", "/a/../x"), (200, "red GET /x HTTP/1.1".to_owned()));
    assert_eq!(daemon.get("RED.test", "/").0, 200);
    assert_eq!(daemon.get("gone.test", "/").0, 503);
    assert_eq!(daemon.get("other.test", "/").0, 404);
    assert_eq!(daemon.get("red.test", "/%00").0, 400);

    let status = daemon.json(&["status"]);
    let before = status["generation"].as_u64().expect("a number");
    assert_eq!((&status["ready"], &status["xdp"]), (&Value::Bool(true), &Value::Null), "{status}");
    assert!(status["issues"].as_array().is_some_and(|all| all.len() >= 2), "{status}");
    assert!(status["proxy"]["total"]["requests"].as_u64().is_some_and(|n| n >= 4), "{status}");

    daemon.write("d.yaml", &ingress("blue", "blue.test", "/tea", "red"));
    until("the new host", || (daemon.get("blue.test", "/tea/x").0 == 200).then_some(()));
    assert!(daemon.json(&["status"])["generation"].as_u64().expect("a number") > before);
    // A file that breaks keeps what it last held.
    daemon.write("d.yaml", "kind: Ingress\nmetadata: {");
    until("the issue", || text(&daemon.ask(&["status"]).stdout).contains("d.yaml").then_some(()));
    assert_eq!(daemon.get("blue.test", "/tea").0, 200);
    std::fs::remove_file(daemon.dir.path().join("m/d.yaml")).expect("a file");
    until("the host goes", || (daemon.get("blue.test", "/tea").0 == 404).then_some(()));
    assert_eq!(daemon.get("red.test", "/").0, 200);
}

#[test]
fn explains_itself() {
    let red = endpoint("red", Duration::ZERO);
    let files = [(
        "a.yaml",
        service("red", &[red])
            + &ingress("web", "red.test", "/", "red")
            + &ingress("tea", "red.test", "/tea", "red"),
    )];
    let daemon = Daemon::start(&files, &[]);
    let table = text(&daemon.ask(&["explain", &format!("http://red.test:{}/tea/x?y", daemon.http)]).stdout);
    for expect in
        ["default/tea", "default/red:80", &red.to_string(), "a longer path wins", "XDP is off", "127.0.0.1"]
    {
        assert!(table.contains(expect), "{expect:?} in {table}");
    }
    assert!(table.lines().all(|line| line == line.trim_end()), "{table:?}");
    for (vip, listeners) in [("127.0.0.1", 1), ("127.0.0.2", 0)] {
        let json = daemon.json(&["explain", "http://red.test/tea", "--vip", vip]);
        assert_eq!(json["listeners"].as_array().map(Vec::len), Some(listeners), "{json}");
        assert_eq!(
            (&json["answer"]["status"], listeners == 0),
            (&Value::Null, json["upstream_target"].is_null()),
            "{json}"
        );
    }
    let json = daemon.json(&["explain", "https://red.test/tea"]);
    assert_eq!(json["route"]["ingress"], "default/tea", "{json}");
    assert_eq!(json["others"][0]["outcome"], "longer-path-wins", "{json}");
    assert_eq!(json["tls"]["certificate"], "self-signed", "{json}");
    let bad = daemon.ask(&["explain", "http://red.test/%00"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("400"), "{}", text(&bad.stderr));

    let routes = daemon.json(&["routes"]);
    assert_eq!(routes[0]["host"], "red.test", "{routes}");
    assert_eq!(routes[0]["routes"][0]["path"], "/tea", "{routes}");
    let backends = daemon.json(&["backends"]);
    assert_eq!(backends[0]["endpoints"][0]["address"], red.to_string(), "{backends}");
    let maps = daemon.ask(&["maps", "dump"]);
    assert_eq!(maps.status.code(), Some(2));
    assert!(text(&maps.stderr).contains("--no-xdp"), "{}", text(&maps.stderr));

    assert_eq!(get(daemon.health, "h", "/healthz").0, 200);
    assert_eq!(get(daemon.health, "h", "/readyz").0, 200);
    let (status, metrics) = get(daemon.health, "h", "/metrics");
    assert!(metrics.contains("sluice_proxy_requests_total{worker=\"1\"}"), "{metrics}");
    assert!(
        status == 200 && metrics.contains("\nsluice_ready 1\n") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );
}

#[test]
fn shows_what_happens_and_would_happen() {
    let red = endpoint("red", Duration::ZERO);
    let files = [("a.yaml", service("red", &[red]) + &ingress("web", "red.test", "/", "red"))];
    let daemon = Daemon::start(&files, &[]);
    let status = daemon.json(&["status"]);
    let listeners = status["listeners"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let https = listeners.filter_map(|listener| listener.strip_suffix("/tcp https")).next();
    let at = https.expect("a listener").to_owned();
    for (args, code, expect) in [
        (&["explain", "tcp", "192.0.2.1:1", &*at, "--sni", "red.test"][..], 0, "endpoint answers"),
        (&["explain", "tcp", "192.0.2.1:1", &*at, "--sni", "blue.test"], 0, "gets 404"),
        (&["explain", "tcp", "192.0.2.1:1", &*at], 0, "with --sni NAME"),
        (&["explain", "udp", "192.0.2.1:1", &*at], 0, "no VIP of Sluice"),
        (&["explain", "udp", "192.0.2.1:1", "[::1]:53"], 2, "different address families"),
        (&["explain", "tcp", "192.0.2.1:1"], 2, "a connection is tcp or udp"),
        (&["trace", "--count", "1"], 2, "--no-xdp"),
        (&["trace", "--reason", "vip", "--direction", "out"], 2, "such a direction"),
        (&["top", "--interval", "0.1"], 0, "Workers"),
        (&["top", "--interval", "0.1", "--once"], 0, "ready, generation"),
    ] {
        let out = daemon.ask(args);
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(expect), "{args:?}: {expect:?} in {said}");
        assert!(said.lines().all(|line| line == line.trim_end()), "{args:?}: {said:?}");
    }
    let flow = daemon.json(&["explain", "tcp", "192.0.2.1:1", &at, "--sni", "red.test"]);
    assert_eq!(
        (&flow["packets"], &flow["tls"]["certificate"]),
        (&Value::Array(vec![]), &"self-signed".into())
    );
    // What was asked for between two looks is shown, with its route.
    until("a request in between", || {
        std::thread::scope(|scope| {
            let shown = scope.spawn(|| daemon.json(&["top", "--once", "--interval", "1"]));
            while !shown.is_finished() {
                assert_eq!(daemon.get("red.test", "/").0, 200);
            }
            let top = shown.join().expect("shown");
            assert_eq!((&top["ready"], &top["frames"]), (&Value::Bool(true), &Value::Array(vec![])), "{top}");
            let route = &top["routes"][0];
            (route["ingress"] == "default/web" && route["p99_ms"].as_f64().is_some_and(|ms| ms > 0.0))
                .then_some(())
        })
    });
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_one_replaced() {
    let mut daemon = Daemon::start(&[], &[]);
    let (socket, dir) = (daemon.socket(), daemon.dir.path().join("m"));
    let (socket, dir) = (socket.to_str().expect("UTF-8"), dir.to_str().expect("UTF-8"));
    let out = sluice(&["run", "--no-xdp", "--manifests", dir, "--socket", socket]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("another sluice"), "{}", text(&out.stderr));
    assert!(daemon.is_ready());
    // With a socket of its own it would take every other client of the first one's.
    let (own, port) = (format!("{socket}2"), daemon.http.to_string());
    let others = ["--http-port", &port, "--https-port", &free_port().to_string(), "--health", "127.0.0.1:0"];
    let run = ["run", "--no-xdp", "--vip", "127.0.0.1", "--manifests", dir, "--socket", &own];
    let out = sluice(&[&run[..], &others[..]].concat());
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("something else listens there"), "{}", text(&out.stderr));
    let purge = daemon.ask(&["maps", "purge", "--pin-dir", "/no/such/dir"]);
    assert_eq!(purge.status.code(), Some(2), "a running daemon's maps stay");
    // kill -9 leaves the socket's file behind; the next daemon takes its place.
    daemon.child.kill().expect("a child");
    daemon.wait();
    assert!(Path::new(socket).exists());
    let again = command()
        .args(["run", "--no-xdp", "--vip", "127.0.0.1", "--manifests", dir, "--socket", socket])
        .args(["--http-port", &free_port().to_string(), "--https-port", &free_port().to_string()])
        .args(["--health", "127.0.0.1:0"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    daemon.child = again;
    until("the second daemon", || daemon.is_ready().then_some(()));
}

#[test]
fn sigterm_drains() {
    let slow = endpoint("slow", Duration::from_secs(2));
    let files = [("a.yaml", service("slow", &[slow]) + &ingress("web", "slow.test", "/", "slow"))];
    let mut daemon = Daemon::start(&files, &[]);
    let port = daemon.http;
    let request = std::thread::spawn(move || get(port, "slow.test", "/slow"));
    until("the request is under way", || {
        (daemon.json(&["status"])["proxy"]["total"]["requests_active"] == 1).then_some(())
    });
    daemon.signal(Signal::SIGHUP);
    until("SIGHUP is heard", || daemon.log().contains("nothing to reload").then_some(()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(request.join().expect("a thread"), (200, "slow GET /slow HTTP/1.1".to_owned()));
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
    assert!(!daemon.socket().exists());
}

/// A daemon with a request that its endpoint won't answer while the test lasts.
fn with_a_request_under_way(drain_timeout: &str) -> Daemon {
    let slow = endpoint("slow", Duration::from_secs(300));
    let files = [("a.yaml", service("slow", &[slow]) + &ingress("web", "slow.test", "/", "slow"))];
    let daemon = Daemon::start(&files, &["--drain-timeout", drain_timeout]);
    let port = daemon.http;
    std::thread::spawn(move || get(port, "slow.test", "/slow"));
    until("the request is under way", || {
        (daemon.json(&["status"])["proxy"]["total"]["requests_active"] == 1).then_some(())
    });
    daemon
}

#[test]
fn what_a_drain_cuts_is_counted() {
    let mut daemon = with_a_request_under_way("1");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("cut=1"), "{}", daemon.log());
}

#[test]
fn what_a_drain_leaves_is_counted() {
    let daemon = with_a_request_under_way("1");
    let output = daemon.ask(&["drain", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).contains("1 connection left after 1 s"), "{output:?}");
    assert_eq!(daemon.json(&["status"])["proxy"]["total"]["requests_active"], 1, "nothing is cut");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut daemon = with_a_request_under_way("300");
    daemon.signal(Signal::SIGINT);
    until("it drains", || daemon.log().contains("draining").then_some(()));
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
}

/// What somebody does before they take a node away, and when they have thought better of it.
#[test]
fn others_take_over_and_no_longer() {
    use std::io::{Read, Write};
    let red = endpoint("red", Duration::ZERO);
    let files = [("a.yaml", service("red", &[red]) + &ingress("web", "red.test", "/", "red"))];
    let daemon = Daemon::start(&files, &[]);
    let open = |daemon: &Daemon| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", daemon.http)).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: red.test\r\n\r\n").expect("sent");
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).expect("an answer");
        assert_eq!(&begin, b"HTTP/1.1 200");
        stream
    };
    let mut idle = open(&daemon);
    assert_eq!(daemon.ask(&["probe", "ready"]).status.code(), Some(0));
    let mut waiting = command();
    waiting.args(["drain", "--timeout", "60", "--socket"]).arg(daemon.socket());
    let waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    // What is idle ends, who comes gets one answer.
    drop(idle.read_to_end(&mut Vec::new()));
    let mut late = open(&daemon);
    let mut rest = String::new();
    late.read_to_string(&mut rest).expect("the end");
    assert!(rest.to_lowercase().contains("connection: close"), "{rest}");
    let status = daemon.json(&["status"]);
    assert!(status["drained_for"].is_u64() && status["ready"] == false, "{status}");
    let asked = daemon.ask(&["probe", "ready"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(text(&asked.stdout).starts_with("not ready: drained"), "{}", text(&asked.stdout));
    let output = waiting.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("no connection is left"), "{output:?}");
    assert_eq!(daemon.ask(&["drain", "--undo"]).status.code(), Some(0));
    assert_eq!(daemon.ask(&["probe", "ready"]).status.code(), Some(0));
    let mut stays = open(&daemon);
    stays.write_all(b"GET / HTTP/1.1\r\nHost: red.test\r\nConnection: close\r\n\r\n").expect("sent");
    let mut both = String::new();
    stays.read_to_string(&mut both).expect("the end");
    assert_eq!(both.matches("HTTP/1.1 200").count(), 1, "the second answer on the same connection: {both}");
}

/// Without XDP the daemon itself keeps out who is banned; `tune` shows it and lets in again.
#[test]
fn who_misbehaves_is_kept_out_for_a_time() {
    use std::io::{Read, Write};
    let red = endpoint("red", Duration::ZERO);
    let files = [("a.yaml", service("red", &[red]) + &ingress("web", "red.test", "/", "red"))];
    let more = ["--ban-after", "2", "--ban-within", "3600", "--max-client-connections", "1"];
    let daemon = Daemon::start(&files, &[&more[..], &["--config-map", "default/settings"]].concat());
    // Not this node's own address, which is never banned.
    let from = |address: [u8; 4]| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((address, 0)).into()).expect("bound");
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], daemon.http)).into()).expect("connected");
        let stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    };
    let served = |address: [u8; 4]| {
        let mut stream = from(address);
        drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: red.test\r\nConnection: close\r\n\r\n"));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        answer.starts_with(b"HTTP/1.1 200")
    };
    let offend = |address: [u8; 4]| {
        let mut held = from(address);
        held.write_all(b"GET / HTTP/1.1\r\nHost: red.test\r\n\r\n").expect("sent");
        held.read_exact(&mut [0]).expect("an answer");
        for _ in 0..2 {
            assert_eq!(from(address).read(&mut [0]).unwrap_or(0), 0, "one too many");
        }
    };
    let (bad, good, own) = ([127, 0, 0, 7], [127, 0, 0, 8], [127, 0, 0, 1]);
    offend(bad);
    until("it is banned", || (daemon.json(&["status"])["bans"]["banned"] == 1).then_some(()));
    assert!(!served(bad) && served(good));
    let tuned = daemon.json(&["tune"]);
    assert_eq!(
        (&tuned["banned"][0]["source"], &tuned["banned"][0]["caught_at"]),
        (&"127.0.0.7/32".into(), &"connections".into())
    );
    assert!(tuned.get("deny").is_none(), "{tuned}");
    let shown = text(&daemon.ask(&["tune"]).stdout);
    assert!(shown.contains("127.0.0.7/32 for ") && shown.contains("ban-after"), "{shown}");
    assert!(text(&daemon.ask(&["status"]).stdout).contains("1 now, 1 since the start"));
    daemon.json(&["tune", "banned-=127.0.0.7"]);
    assert!(served(bad));
    offend(own);
    // Judged in turn: when this one is banned, the other was looked at.
    offend(bad);
    until("it is banned again", || (daemon.json(&["status"])["bans"]["banned"] == 1).then_some(()));
    assert!(served(own), "the node's own address is spared");
    // A ban ends by itself, by the rules of its time.
    daemon.json(&["tune", "banned=", "ban-for=1"]);
    offend(bad);
    until("it is banned", || (daemon.json(&["status"])["bans"]["total"] == 3).then_some(()));
    until("it is let in again", || served(bad).then_some(()));
    // The cluster's settings go before the arguments.
    let settings = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: settings, namespace: default}\n";
    daemon.write("settings.yaml", &format!("{settings}data: {{ban-after: '7'}}\n"));
    until("they are read", || (daemon.json(&["tune"])["ban_after"] == 7).then_some(()));
    for (setting, says) in [
        ("deny=192.0.2.1", "--no-xdp"),
        ("deny=nonsense", "nonsense"),
        ("bann-after=3", "bann-after"),
        ("ban-after=200", "from 0 to 100"),
        ("banned=1.2.3.4", "banned-="),
    ] {
        let output = daemon.ask(&["tune", setting]);
        assert!(!output.status.success() && text(&output.stderr).contains(says), "{setting}: {output:?}");
    }
}

#[test]
fn five_thousand_ingresses() {
    let red = endpoint("red", Duration::ZERO);
    let mut all = service("red", &[red]);
    for n in 0..5000 {
        all += &ingress(&format!("i{n}"), &format!("h{n}.test"), "/", "red");
    }
    let daemon = Daemon::start(&[("all.yaml", all)], &[]);
    assert_eq!(daemon.get("h4999.test", "/").0, 200);
    assert_eq!(daemon.get("h5000.test", "/").0, 404);
    assert_eq!(daemon.json(&["routes"]).as_array().map(Vec::len), Some(5000));
    let explained = daemon.json(&["explain", "http://h17.test/"]);
    assert_eq!(
        (&explained["route"]["ingress"], &explained["others_elsewhere"]),
        (&"default/i17".into(), &4999.into())
    );
    daemon.write("more.yaml", &ingress("more", "more.test", "/", "red"));
    until("the new host", || (daemon.get("more.test", "/").0 == 200).then_some(()));
    let out = sluice(&["check", daemon.dir.path().join("m").to_str().expect("UTF-8")]);
    assert!(out.status.success() && text(&out.stdout).contains("5001 hosts"), "{}", text(&out.stdout));
}
