//! What is known of requests afterwards: counters by route, lines of the log, traces.

use std::process::Command;

use sluice::model::*;
use sluice::proxy::{AccessLog, Measurement};

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
