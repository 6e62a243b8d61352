//! The proxy under clients and endpoints that are slow, greedy, gone or hostile.

#[path = "support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rig::{Rig, echo, endpoint, eventually, free_port, host, read_response, send};
use sluice::proxy::Settings;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const SHORT: Duration = Duration::from_millis(300);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// One endpoint behind `a.test`, one worker.
fn single(
    serve: impl Fn(&mut TcpStream) + Send + Sync + 'static,
    change: impl FnOnce(&mut Settings),
) -> rig::Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(serve)]);
    rig.route("a.test", "/", "web");
    rig.start(|settings| {
        settings.workers = 1;
        change(settings);
    })
}

/// Everything until the end of the stream; a reset is an end, too.
fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection did not end: {error}"),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn what_takes_too_long() {
    let silent = |stream: &mut TcpStream| drop(stream.read_to_end(&mut Vec::new()));
    let half = |stream: &mut TcpStream| {
        rig::read_head(stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"));
        drop(stream.read_to_end(&mut Vec::new()));
    };
    let full = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.cluster("silent", &[endpoint(silent)]);
    rig.cluster("half", &[endpoint(half)]);
    // An address that no host answers for: the SYN gets lost.
    rig.cluster("lost", &[lost(&full)]);
    for name in ["web", "silent", "half", "lost"] {
        rig.route(&host(name), "/", name);
    }
    let proxy = rig.start(|settings| {
        let timeouts = &mut settings.timeouts;
        (timeouts.header, timeouts.client, timeouts.connect) = (SHORT, SHORT, SHORT);
        (timeouts.read, timeouts.send) = (SHORT, SHORT);
    });
    for (sent, starts) in [
        // Nothing at all: no answer is owed.
        ("", ""),
        ("GET / HT", "HTTP/1.1 408 "),
        ("GET / HTTP/1.1\r\nHost: web.test\r\nX: ", "HTTP/1.1 408 "),
        ("POST / HTTP/1.1\r\nHost: silent.test\r\nContent-Length: 5\r\n\r\nab", "HTTP/1.1 408 "),
        ("GET / HTTP/1.1\r\nHost: silent.test\r\nConnection: close\r\n\r\n", "HTTP/1.1 504 "),
        ("GET / HTTP/1.1\r\nHost: lost.test\r\nConnection: close\r\n\r\n", "HTTP/1.1 504 "),
        // What has begun can only be broken off.
        ("GET / HTTP/1.1\r\nHost: half.test\r\n\r\n", "HTTP/1.1 200 "),
    ] {
        let mut stream = rig::connect(proxy.http);
        stream.write_all(sent.as_bytes()).expect("sent");
        let text = rest(&mut stream);
        assert!(text.starts_with(starts) && text.is_empty() == starts.is_empty(), "{sent:?}: {text:?}");
        assert_eq!(text.matches("HTTP/1.1").count(), usize::from(!starts.is_empty()), "{sent:?}: {text:?}");
    }
    assert!(proxy.proxy.stats().total.responses_4xx >= 3, "{:?}", proxy.proxy.stats().total);
}

/// A listener whose queue is full, so that further connections wait for ever.
fn lost(listener: &TcpListener) -> SocketAddr {
    let address = listener.local_addr().expect("an address");
    nix::sys::socket::listen(listener, nix::sys::socket::Backlog::new(0).expect("a backlog"))
        .expect("listening");
    for _ in 0..8 {
        let one = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        std::mem::forget(one);
    }
    address
}

#[test]
fn idle_connections_end_later_than_slow_heads() {
    let proxy = single(echo, |settings| {
        (settings.timeouts.header, settings.timeouts.idle) = (Duration::from_secs(15), SHORT);
    });
    let mut stream = rig::connect(proxy.http);
    // The first head may take its time, however short the idle time is.
    std::thread::sleep(SHORT * 2);
    stream.write_all(GET.as_bytes()).expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
    assert_eq!(rest(&mut stream), "", "an idle connection ends without a word");
}

#[test]
fn heads_that_are_too_large() {
    let proxy = single(echo, |_| ());
    let long = "a".repeat(20_000);
    let many = "X: a\r\n".repeat(200);
    let lines = format!("X: {}\r\n", "a".repeat(8_000)).repeat(9);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a.test\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a.test\r\n{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {long}\r\n\r\n"), 200),
    ] {
        let mut stream = rig::connect(proxy.http);
        // The request before is answered first.
        stream.write_all(format!("{GET}{request}").as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream, false).expect("an answer").status, 200);
        let seen = read_response(&mut stream, false).expect("an answer");
        assert_eq!(seen.status, status, "{} bytes: {}", request.len(), seen.head);
        assert!(seen.has("date") && seen.has("server"), "{}", seen.head);
        assert_eq!(seen.header("connection") == Some("close"), status != 200);
    }
    eventually(|| proxy.proxy.stats().total.responses_4xx == 3);
}

#[test]
fn a_request_after_a_declined_upgrade_is_checked() {
    let proxy = single(echo, |_| ());
    let smuggle =
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for head in [
        "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
    ] {
        for name in ["a.test", "unknown.test"] {
            let mut stream = rig::connect(proxy.http);
            let first = format!("GET / HTTP/1.1\r\nHost: {name}\r\n{head}\r\n");
            stream.write_all(format!("{first}{smuggle}").as_bytes()).expect("sent");
            let one = read_response(&mut stream, false).expect("an answer");
            assert_eq!(one.status, if name == "a.test" { 200 } else { 404 }, "{head:?}");
            let two = read_response(&mut stream, false).expect("an answer");
            assert_eq!(two.status, 400, "{head:?} {name}: {}", two.text());
        }
    }
}

#[test]
fn another_protocol_than_websocket() {
    let proxy = single(
        |stream| {
            let Some(head) = rig::read_head(stream) else { return };
            assert!(head.contains("upgrade: sluice-test/1\r\n"), "{head}");
            // Nothing that the client sends early may come before the 101.
            stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
            let early = stream.read(&mut [0; 16]);
            assert!(early.is_err(), "{early:?}");
            stream.set_read_timeout(None).expect("no timeout");
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: sluice-test/1\r\n\r\nhi";
            stream.write_all(answer).expect("sent");
            let mut got = [0; 5];
            stream.read_exact(&mut got).expect("the client's bytes");
            stream.write_all(&got).expect("sent");
        },
        |_| (),
    );
    let mut stream = rig::connect(proxy.http);
    let ask =
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: sluice-test/1\r\n\r\n\0\n\r\nx";
    stream.write_all(ask.as_bytes()).expect("sent");
    let seen = read_response(&mut stream, false).expect("an answer");
    assert_eq!((seen.status, seen.header("upgrade")), (101, Some("sluice-test/1")), "{}", seen.head);
    assert_eq!(rest(&mut stream), "hi\0\n\r\nx");
    drop(stream);
    eventually(|| proxy.proxy.stats().total.tunnels_active == 0);
    assert_eq!(proxy.proxy.stats().total.tunnel_bytes, 12);
}

#[test]
fn tunnels_that_break_are_counted() {
    let proxy = single(
        |stream| {
            rig::read_head(stream);
            drop(stream.write_all(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n12345"));
            drop(stream.read_exact(&mut [0; 3]));
            socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).expect("a reset");
        },
        |_| (),
    );
    let mut stream = rig::connect(proxy.http);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nabc")
        .expect("sent");
    assert_eq!(read_response(&mut stream, false).expect("an answer").status, 101);
    rest(&mut stream);
    eventually(|| proxy.proxy.stats().total.tunnels_active == 0);
    assert_eq!(proxy.proxy.stats().total.tunnel_bytes, 8);
}

#[test]
fn refusing_endpoints_come_last() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let mut rig = Rig::new();
    rig.cluster("web", &[dead, endpoint(echo)]);
    rig.cluster("dead", &[dead]);
    rig.route("a.test", "/", "web");
    rig.route("dead.test", "/", "dead");
    let proxy = rig.start(|settings| settings.workers = 1);
    for _ in 0..50 {
        assert_eq!(send(proxy.http, GET).status, 200);
    }
    let failures = proxy.proxy.stats().total.upstream_failures;
    assert!((1..=10).contains(&failures), "{failures} of 25 requests met the dead endpoint");
    // The only endpoint is asked however often it failed, and while it was there lately, several times.
    for _ in 0..3 {
        assert_eq!(send(proxy.http, "GET / HTTP/1.1\r\nHost: dead.test\r\n\r\n").status, 502);
    }
    assert!(proxy.proxy.stats().total.upstream_failures >= failures + 3);
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let gone = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&gone);
    let proxy = single(
        move |stream| {
            rig::read_head(stream);
            // The end of the stream comes only if the proxy gives the request up.
            if matches!(stream.read(&mut [0]), Ok(0) | Err(_)) {
                seen.fetch_add(1, SeqCst);
            }
        },
        |_| (),
    );
    // What may become another protocol, too; what comes after it waits for the endpoint's word.
    let upgrade = GET.replace("\r\n\r\n", "\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    for (number, request) in [GET, &upgrade].into_iter().enumerate() {
        let mut stream = rig::connect(proxy.http);
        stream.write_all(request.as_bytes()).expect("sent");
        eventually(|| proxy.proxy.stats().total.upstream_connects == number as u64 + 1);
        drop(stream);
        let all = number + 1;
        eventually(|| gone.load(SeqCst) == all && proxy.proxy.stats().total.client_gone == all as u64);
        assert_eq!(proxy.proxy.stats().total.requests_active, 0);
    }
}

/// Sends a request over the connection that another one has left, to an endpoint that answers the first
/// request of a connection, and takes the second and leaves without an answer. Says the status and how many
/// requests came to the endpoint, or nothing if the proxy took another connection.
fn over_a_stale_connection(method: &str) -> Option<(u16, usize)> {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let proxy = single(
        move |stream| {
            if rig::read_head(stream).is_some() {
                count.fetch_add(1, SeqCst);
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
            }
            if rig::read_head(stream).is_some() {
                count.fetch_add(1, SeqCst);
            }
        },
        |_| (),
    );
    assert_eq!(send(proxy.http, GET).status, 200, "a fresh connection");
    // What can't be sent twice takes neither a connection that was just left, nor an old one.
    std::thread::sleep(Duration::from_millis(50));
    let seen = send(proxy.http, &GET.replace("GET", method));
    let reused = proxy.proxy.stats().total.upstream_reuses > 0;
    reused.then(|| (seen.status, served.load(SeqCst)))
}

#[test]
fn what_is_sent_again_on_a_stale_connection() {
    for (method, expect) in [("GET", (200, 3)), ("POST", (502, 2))] {
        let seen = (0..100).find_map(|_| over_a_stale_connection(method));
        assert_eq!(seen, Some(expect), "{method}");
    }
}

#[test]
fn connections_above_the_limit_wait() {
    let proxy = single(echo, |settings| settings.max_connections = 2);
    let mut held: Vec<_> = (0..2).map(|_| rig::connect(proxy.http)).collect();
    for stream in &mut held {
        stream.write_all(GET.as_bytes()).expect("sent");
        assert_eq!(read_response(stream, false).expect("an answer").status, 200);
    }
    let mut waiting = rig::connect(proxy.http);
    waiting.write_all(GET.as_bytes()).expect("sent");
    waiting.set_read_timeout(Some(SHORT)).expect("a timeout");
    assert!(waiting.read(&mut [0]).is_err(), "served above the limit");
    assert_eq!(proxy.proxy.stats().total.active, 2);
    held.pop();
    waiting.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    assert_eq!(read_response(&mut waiting, false).expect("an answer").status, 200);
}

#[test]
fn a_slow_reader_stops_the_endpoint() {
    const TOTAL: u64 = 256 << 20;
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let proxy = single(
        move |stream| {
            rig::read_head(stream);
            drop(stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n").as_bytes()));
            let piece = vec![0; 64 << 10];
            while stream.write_all(&piece).is_ok() {
                count.fetch_add(piece.len() as u64, SeqCst);
            }
        },
        |settings| settings.timeouts.client = Duration::from_secs(2),
    );
    let mut stream = rig::connect(proxy.http);
    stream.write_all(GET.as_bytes()).expect("sent");
    // It takes nothing; the endpoint gets no further than the sockets' buffers, and after a while
    // the connection ends.
    eventually(|| proxy.proxy.stats().total.requests_active == 1);
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
    let taken = written.load(SeqCst);
    assert!(taken < TOTAL / 4, "{taken} bytes were taken from the endpoint");
    assert!(proxy.proxy.stats().total.response_bytes < TOTAL / 4);
    eventually(|| proxy.proxy.stats().total.active == 0);
}

#[test]
fn http2_floods_leave_others_alone() {
    let proxy = single(
        |stream| {
            while let Some(head) = rig::read_head(stream) {
                if head.contains("/hang") {
                    drop(stream.read(&mut [0]));
                    return;
                }
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
            }
        },
        |_| (),
    );
    let mut other = rig::connect(proxy.http);
    let mut ask = || {
        other.write_all(GET.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut other, false).expect("an answer").status, 200);
    };
    ask();
    // Every stream is reset right after it was opened; the connection must not survive that.
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..20_000u32).step_by(2).map(u32::to_be_bytes) {
        // GET http://a.test/ in HPACK: three entries of the static table and a literal.
        let fields = b"\x82\x86\x84\x01\x06a.test";
        flood.extend_from_slice(&[0, 0, fields.len() as u8, 1, 5]);
        flood.extend_from_slice(&[&stream[..], fields, &[0, 0, 4, 3, 0], &stream, &[0, 0, 0, 8]].concat());
    }
    let mut flooder = rig::connect(proxy.http);
    let mut writer = flooder.try_clone().expect("a clone");
    let writing = std::thread::spawn(move || drop(writer.write_all(&flood)));
    rest(&mut flooder);
    drop(flooder);
    writing.join().expect("written");
    ask();
    runtime().block_on(async {
        // More streams than allowed: the rest waits at the client, and all are given up at its end.
        let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("h2");
        let connection = tokio::spawn(connection);
        let requests: Vec<_> = (0..500)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let request = http::Request::get("http://a.test/hang").body(Empty::<Bytes>::new());
                    drop(client.send_request(request.expect("a request")).await);
                })
            })
            .collect();
        while proxy.proxy.stats().total.requests_active < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(proxy.proxy.stats().total.requests_active <= 128);
        requests.iter().for_each(tokio::task::JoinHandle::abort);
        connection.abort();
    });
    ask();
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
}

#[test]
fn a_later_end_is_an_earlier_one() {
    let proxy = single(
        |stream| {
            rig::read_head(stream);
            drop(stream.read(&mut [0]));
        },
        |_| (),
    );
    let mut stream = rig::connect(proxy.http);
    stream.write_all(GET.as_bytes()).expect("sent");
    eventually(|| proxy.proxy.stats().total.upstream_connects == 1);
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let patient = proxy.proxy.shutdown(Duration::from_secs(3600));
            assert!(tokio::time::timeout(SHORT, patient).await.is_err(), "a request is being served");
        });
        drop(proxy);
        ended.send(()).expect("somebody waits");
    });
    end.recv_timeout(Duration::from_secs(20)).expect("dropping the proxy ends it at once");
}

/// Runs the proxy in a process of its own, this test once more, with a limit of open files.
#[test]
fn a_shortage_of_files_is_survived() {
    const CHILD: &str = "SLUICE_TEST_FILES";
    if let Ok(how) = std::env::var(CHILD) {
        return serve_with_few_files(&how);
    }
    let web = endpoint(echo);
    for known in [true, false] {
        let test = std::env::current_exe().expect("this program");
        let mut child = std::process::Command::new(test)
            .args(["--exact", "a_shortage_of_files_is_survived", "--nocapture"])
            .env(CHILD, format!("{known} {web}"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("its output")));
        let line = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("serving ").map(|(_, at)| at.to_owned()));
        let address: SocketAddr = line.expect("a line").parse().expect("an address");
        let mut clients: Vec<_> = (0..200).map(|_| rig::connect(address)).collect();
        for client in &mut clients {
            client.write_all(GET.as_bytes()).expect("sent");
        }
        let mut served = 0;
        for client in &mut clients {
            client.set_read_timeout(Some(SHORT / 10)).expect("a timeout");
            if let Some(seen) = read_response(client, false) {
                assert!(seen.status == 200 || !known, "{}", seen.text());
                served += 1;
            }
        }
        assert!((1..200).contains(&served), "{served} of 200 with files for fewer");
        drop(clients);
        eventually(|| send(address, GET).status == 200);
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
        // Its last words need a reader until then.
        drop(lines);
    }
}

/// Knows the limit at the start, or meets it later.
fn serve_with_few_files(how: &str) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (known, web) = how.split_once(' ').expect("two words");
    let limit = || {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, 80, hard).expect("a lower limit");
    };
    let mut rig = Rig::new();
    rig.cluster("web", &[web.parse().expect("an address")]);
    rig.route("a.test", "/", "web");
    if known == "true" {
        limit();
    }
    let proxy = rig.start(|settings| settings.workers = 1);
    limit();
    println!("serving {}", proxy.http);
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
}
