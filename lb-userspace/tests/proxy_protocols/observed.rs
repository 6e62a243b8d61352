//! What is known of requests afterwards: counters by route, lines of the log, traces.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};

use sluice::model::*;
use sluice::proxy::{AccessLog, Measurement, Tracing};

use crate::rig::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// How requests of a path to a service ended.
fn ends(all: &[Measurement], path: &str, service: &str) -> Vec<(&'static str, u64)> {
    let is_it = |one: &&Measurement| match &one.of {
        Some(of) => of.path == path && of.service == service,
        None => path.is_empty(),
    };
    let Some(one) = all.iter().find(is_it) else { return Vec::new() };
    let timed: u64 = one.buckets.iter().map(|(_, n)| n).sum();
    let ended: u64 = one.ends.iter().map(|(_, n)| n).sum();
    assert!(timed <= ended, "{one:?}");
    one.ends.iter().filter(|(_, n)| *n > 0).copied().collect()
}

#[test]
fn each_route_has_numbers_of_its_own() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
    rig.cluster("new", &[endpoint(|stream| say(stream, "hello"))]);
    rig.cluster("none", &[]);
    rig.route("a.test", "/", "web");
    rig.route("a.test", "/none", "none");
    rig.route_with("a.test", "/new", "web", |draft| {
        let canary = Canary {
            ingress: ObjectKey::new("test", "canary"),
            backend: backend("new"),
            header: None,
            cookie: None,
            weight: 100,
            weight_total: 100,
        };
        draft.canary = Some(canary);
    });
    let mut proxy = rig.start(|settings| settings.workers = 2);
    for path in ["/", "/x", "/none", "/new", "/y"] {
        send(proxy.http, &GET.replace("/ H", &format!("{path} H")));
    }
    send(proxy.http, &GET.replace("a.test", "b.test"));
    send(proxy.http, "nonsense\r\n\r\n");
    let read = |proxy: &Running| proxy.proxy.measurements();
    let all = |proxy: &Running| read(proxy).iter().flat_map(|one| &one.ends).map(|(_, n)| n).sum::<u64>();
    eventually(|| all(&proxy) == 7);
    let seen = read(&proxy);
    for (path, service, expect) in [
        ("/", "test/web:80", vec![("2xx", 3)]),
        ("/none", "test/none:80", vec![("5xx", 1)]),
        ("/new", "test/new:80", vec![("2xx", 1)]),
        ("/new", "test/web:80", vec![]),
        ("", "", vec![("4xx", 2)]),
    ] {
        assert_eq!(ends(&seen, path, service), expect, "{path} {service}: {seen:?}");
    }
    // An edit leaves the numbers of the other routes alone; a route that is gone has none.
    proxy.change(|rig| {
        rig.replace_routes();
        rig.route("a.test", "/", "web");
    });
    send(proxy.http, GET);
    eventually(|| ends(&read(&proxy), "/", "test/web:80") == [("2xx", 4)]);
    // A worker holds what it had until it has another request.
    eventually(|| {
        send(proxy.http, GET);
        ends(&read(&proxy), "/none", "test/none:80").is_empty()
    });
}

/// The log goes to standard output, so a process of its own writes it: this test, run again.
#[test]
fn lines_as_the_template_says() {
    const CHILD: &str = "SLUICE_TEST_LOG_FORMAT";
    const MARK: &str = "LINE ";
    if std::env::var_os(CHILD).is_some() {
        let mut rig = Rig::new();
        rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
        rig.route("a.test", "/", "web");
        let format = "LINE $remote_addr \"$request\" $status $body_bytes_sent \"$http_user_agent\" \
                      $proxy_upstream_name $ingress $trace_id $req_id";
        let proxy = rig.start(|settings| {
            settings.access_log = AccessLog::Stdout;
            settings.log_format = format.parse().expect("a format");
            settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")];
        });
        let lines = "User-Agent: \"x\"\r\nX-Forwarded-For: 203.0.113.7\r\nX-Request-ID: mine\r\n\
                     traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
        send(proxy.http, &GET.replace("\r\n\r\n", &format!("\r\n{lines}")));
        eventually(|| proxy.proxy.stats().total.requests_active == 0);
        return;
    }
    let test = std::env::current_exe().expect("this program");
    let output = Command::new(test)
        .args(["--exact", "observed::lines_as_the_template_says", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().find_map(|line| Some(&line[line.find(MARK)?..]));
    let expect = "LINE 203.0.113.7 \"GET / HTTP/1.1\" 200 5 \"\\x22x\\x22\" test/web:80 test/ingress \
                  0af7651916cd43dd8448eb211c80319c mine";
    assert_eq!(line, Some(expect), "{text}");
}

#[test]
fn traces_go_on_or_begin_anew() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (lines, goes_on) in [
        (format!("traceparent: {good}\r\ntracestate: a=1\r\n"), true),
        (format!("traceparent: {good}\r\ntracestate: a=1\r\ntraceparent: {good}\r\n"), false),
        ("traceparent: 00-xyz-01\r\ntracestate: a=1\r\n".to_owned(), false),
        ("tracestate: a=1\r\n".to_owned(), false),
    ] {
        let text = send(proxy.http, &GET.replace("\r\n\r\n", &format!("\r\n{lines}\r\n"))).text();
        assert_eq!(text.contains(&format!("traceparent: {good}\r\n")), goes_on, "{lines}: {text}");
        assert_eq!(text.contains("tracestate: a=1\r\n"), goes_on, "{lines}: {text}");
    }
}

/// A collector that keeps what it is sent, and answers with `status`.
fn collector(status: &'static str) -> (std::net::SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&kept);
    let address = endpoint(move |stream| {
        let Some(head) = read_head(stream) else { return };
        let length = head.to_ascii_lowercase();
        let length =
            length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        stream.read_exact(&mut body).expect("a body");
        all.lock().expect("whole").extend([head.as_bytes(), &body].concat());
        drop(stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()));
    });
    (address, kept)
}

#[test]
fn spans_go_to_the_collector() {
    let (address, kept) = collector("200 OK");
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/shop", "web");
    let endpoint = format!("http://{address}/v1/traces").parse().expect("a URL");
    let proxy = rig.start(|settings| settings.tracing = Some(Tracing { endpoint, sample: 0.0 }));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0";
    for (path, lines) in [
        ("/shop/1", format!("traceparent: {parent}1\r\ntracestate: a=1\r\n")),
        ("/shop/2", format!("traceparent: {parent}0\r\n")),
        ("/shop/3", "traceparent: nonsense\r\ntracestate: a=1\r\n".to_owned()),
        ("/lost", format!("traceparent: {parent}1\r\n")),
    ] {
        let get = GET.replace("/ H", &format!("{path} H")).replace("\r\n\r\n", &format!("\r\n{lines}\r\n"));
        let text = send(proxy.http, &get).text();
        if path == "/shop/1" {
            assert!(text.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-"), "{text}");
            assert!(!text.contains("b7ad6b7169203331") && text.contains("tracestate: a=1\r\n"), "{text}");
        }
        assert_eq!(text.contains("tracestate"), path == "/shop/1", "{text}");
    }
    eventually(|| proxy.proxy.stats().spans_delivered == 2);
    let kept = kept.lock().expect("whole").clone();
    let text = String::from_utf8_lossy(&kept);
    for says in [
        "POST /v1/traces HTTP/1.1",
        "application/x-protobuf",
        "service.name",
        "/shop/1",
        "GET /shop",
        "test/ingress",
        "/lost",
    ] {
        assert!(text.contains(says), "{says} in {text:?}");
    }
    assert!(!text.contains("/shop/2") && !text.contains("/shop/3"), "{text:?}");
    let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    assert!(kept.windows(16).any(|window| window == trace), "the trace's id");
    assert_eq!(proxy.proxy.stats().spans_lost, 0);
}

/// Requests are served as if nothing were wrong.
#[test]
fn a_collector_that_is_not_there() {
    let (refusing, _) = collector("503 Service Unavailable");
    let dead = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    for address in [refusing, dead] {
        let mut rig = Rig::new();
        rig.cluster("web", &[endpoint(echo)]);
        rig.route("a.test", "/", "web");
        let endpoint = format!("http://{address}/v1/traces").parse().expect("a URL");
        let proxy = rig.start(|settings| settings.tracing = Some(Tracing { endpoint, sample: 1.0 }));
        for _ in 0..3 {
            assert_eq!(send(proxy.http, GET).status, 200);
        }
        eventually(|| proxy.proxy.stats().spans_lost == 3);
        assert_eq!(proxy.proxy.stats().spans_delivered, 0);
    }
}
