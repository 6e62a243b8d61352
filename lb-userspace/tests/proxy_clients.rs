//! What each kind of client and neighbour gets: TLS and HTTP/2, trailers, trusted proxies in
//! front, steered sockets, the access log.

#[path = "support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rig::{Rig, echo, endpoint, eventually, read_response, send};
use rustls::pki_types::ServerName;
use sluice::proxy::{AccessLog, Bind};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Answers with chunks and trailers, and with the trailers of the request as a header.
fn with_trailers(stream: &mut TcpStream) {
    while let Some(head) = rig::read_head(stream) {
        let mut body = String::new();
        if head.contains("chunked") {
            body = rig::read_head(stream).expect("chunks and trailers");
        }
        let got: Vec<&str> = body.lines().filter(|line| line.contains(':')).collect();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nX-Got: {}\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Sum: 6\r\nContent-Length: 9\r\nGrpc-Status: 0\r\n\r\n",
            got.join("|")
        );
        drop(stream.write_all(answer.as_bytes()));
    }
}

#[test]
fn trailers_both_ways() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(with_trailers)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let mut stream = rig::connect(proxy.http);
    let request = "POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   2\r\nhi\r\n0\r\nX-Check: 7\r\nAuthorization: no\r\nContent-Length: 1\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let text = text.to_ascii_lowercase();
    assert!(text.contains("x-got: x-check: 7\r\n"), "only what may be a trailer arrives: {text}");
    assert!(text.contains("3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n"), "{text}");
}

#[test]
fn http2_over_tls_with_trailers() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.cluster("trailers", &[endpoint(with_trailers)]);
    rig.route("a.test", "/", "web");
    rig.route("b.test", "/", "trailers");
    rig.certificate("*.test", rig::certificate("*.test"));
    let proxy = rig.start(|_| ());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.https).await.expect("connected");
        let connector = tokio_rustls::TlsConnector::from(rig::tls_config(&[b"h2"], |_| true));
        let name = ServerName::try_from("a.test").expect("a name");
        let stream = connector.connect(name, stream).await.expect("TLS");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("h2");
        tokio::spawn(connection);
        let mut ask = async |uri: &str| {
            let request = http::Request::get(uri).body(Empty::<Bytes>::new()).expect("a request");
            let response = client.send_request(request).await.expect("an answer");
            assert_eq!(response.status(), 200, "{uri}");
            response.into_body().collect().await.expect("a body")
        };
        let body = ask("https://a.test/p?q").await.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        for says in ["GET /p?q HTTP/1.1\r\nhost: a.test\r\n", "x-forwarded-proto: https\r\n"] {
            assert!(text.contains(says), "{says:?} in {text}");
        }
        let body = ask("https://b.test/").await;
        let trailers = body.trailers().expect("trailers").clone();
        assert_eq!(trailers.get("grpc-status").map(|value| value.as_bytes()), Some(&b"0"[..]));
        assert!(!trailers.contains_key("content-length"), "{trailers:?}");
    });
}

#[test]
fn the_key_that_the_client_can_check() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let rsa = rig::certificate_of("a.test", &rcgen::PKCS_RSA_SHA256);
    let ecdsa = rig::certificate_of("a.test", &rcgen::PKCS_ECDSA_P256_SHA256);
    rig.certificates("a.test", vec![rsa.clone(), ecdsa.clone()]);
    let proxy = rig.start(|_| ());
    for (family, expect) in [("", &ecdsa), ("RSA", &rsa), ("ECDSA", &ecdsa)] {
        let config = rig::tls_config(&[b"http/1.1"], |scheme| format!("{scheme:?}").contains(family));
        let name = ServerName::try_from("a.test").expect("a name");
        let connection = rustls::ClientConnection::new(config, name).expect("a client");
        let mut tls = rustls::StreamOwned::new(connection, rig::connect(proxy.https));
        tls.write_all(GET.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut tls, false).expect("an answer").status, 200);
        assert!(rig::fingerprint(&tls) == expect.chain[0], "a client for {family:?} got the other key");
    }
}

#[test]
fn what_a_trusted_proxy_says_is_believed() {
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.7, 127.0.0.9\r\n\
                   X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Request-ID: mine\r\n\r\n";
    for (trusted, says, status) in [
        (
            vec!["127.0.0.0/8"],
            "x-real-ip: 203.0.113.7\r\nx-forwarded-for: 203.0.113.7, 127.0.0.9, 127.0.0.1\r\nx-forwarded-proto: https\r\n",
            200,
        ),
        (
            vec!["192.0.2.0/24"],
            "x-real-ip: 127.0.0.1\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n",
            308,
        ),
    ] {
        let mut rig = Rig::new();
        rig.cluster("web", &[endpoint(echo)]);
        rig.route("a.test", "/", "web");
        rig.route_with("secure.test", "/", "web", |policy| policy.redirect(308));
        let proxy = rig.start(|settings| {
            settings.trusted_proxies = trusted.iter().map(|net| net.parse().expect("a net")).collect();
        });
        let text = send(proxy.http, request).text();
        assert!(text.contains(says), "{trusted:?}: {text}");
        assert_eq!(text.contains("x-request-id: mine"), status == 200, "{trusted:?}: {text}");
        assert_eq!(send(proxy.http, &request.replace("a.test", "secure.test")).status, status, "{trusted:?}");
    }
}

#[test]
fn steered_sockets_serve_the_address_a_connection_came_to() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let mut proxy = rig.start(|settings| settings.bind = Bind::Steered);
    let address = |socket: &OwnedFd| {
        let socket = TcpListener::from(socket.try_clone().expect("a copy"));
        socket.local_addr().expect("an address")
    };
    let sockets = proxy.proxy.sockets();
    assert_eq!(sockets.iter().map(|one| one.worker).collect::<Vec<_>>(), [0, 1]);
    let addresses: Vec<SocketAddr> =
        sockets.iter().flat_map(|one| [Some(&one.v4), one.v6.as_ref()]).flatten().map(address).collect();
    for at in addresses {
        // No listener has this address: nobody knows what to speak.
        let mut stranger = rig::connect(at);
        drop(stranger.write_all(GET.as_bytes()));
        assert!(read_response(&mut stranger, false).is_none(), "{at}");
        let any: SocketAddr = match at {
            SocketAddr::V4(_) => ([0; 4], at.port()).into(),
            SocketAddr::V6(_) => ([0u16; 8], at.port()).into(),
        };
        for listener in [at, any] {
            proxy.change(|rig| rig.http = listener);
            let text = send(at, GET).text();
            assert!(text.contains(&format!("x-forwarded-port: {}", at.port())), "{listener}: {text}");
        }
        proxy.change(|rig| {
            rig.http = ([192, 0, 2, 1], 80).into();
            rig.https = any;
        });
        assert_eq!(rig::alpn(&mut rig::tls(at, "a.test", &[b"h2"])), b"h2", "{at}");
        proxy.change(|rig| rig.https = ([192, 0, 2, 1], 443).into());
    }
}

/// The log goes to standard output, so a process of its own writes it: this test, run again.
#[test]
fn the_access_log_has_a_line_for_each_request() {
    const CHILD: &str = "SLUICE_TEST_ACCESS_LOG";
    if std::env::var_os(CHILD).is_some() {
        return write_a_log();
    }
    let test = std::env::current_exe().expect("this program");
    let output = Command::new(test)
        .args(["--exact", "the_access_log_has_a_line_for_each_request", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(&line[line.find('{')?..]).ok()).collect();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line["path"].as_str().unwrap_or_default(), line["status"].as_u64().unwrap_or_default()))
        .collect();
    assert_eq!(seen, [("/one?x=1", 200), ("/", 404), ("", 400), ("/hang", 499), ("/dead", 502)], "{text}");
    assert!(lines[4]["error"].as_str().is_some_and(|text| text.contains("can't be reached")), "{text}");
    let upstream = lines[4]["upstream"].as_str().unwrap_or_default();
    assert!(upstream.starts_with("127.0.0.1:"), "who failed: {text}");
    let one = &lines[0];
    for (name, value) in
        [("method", "GET"), ("host", "a.test"), ("route", "test/ingress"), ("cluster", "test/web:80")]
    {
        assert_eq!(one[name], value, "{one}");
    }
    assert!(
        one["bytes"].as_u64() > Some(0) && one["error"].is_null() && !lines[2]["error"].is_null(),
        "{text}"
    );
}

fn write_a_log() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.cluster("hang", &[endpoint(|stream| drop(stream.read_to_end(&mut Vec::new())))]);
    rig.route("a.test", "/", "web");
    rig.route("hang.test", "/", "hang");
    rig.cluster("dead", &[([127, 0, 0, 1], rig::free_port()).into()]);
    rig.route("dead.test", "/", "dead");
    let proxy = rig.start(|settings| {
        settings.workers = 1;
        settings.access_log = AccessLog::Stdout;
    });
    assert_eq!(send(proxy.http, &GET.replace("/ H", "/a/../one?x=1 H")).status, 200);
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
    assert_eq!(send(proxy.http, &GET.replace("a.test", "b.test")).status, 404);
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
    assert_eq!(send(proxy.http, "GET /\n\n").status, 400);
    eventually(|| proxy.proxy.stats().total.responses_4xx == 2);
    let mut stream = rig::connect(proxy.http);
    stream.write_all(b"GET /hang HTTP/1.1\r\nHost: hang.test\r\n\r\n").expect("sent");
    eventually(|| proxy.proxy.stats().total.upstream_connects == 2);
    drop(stream);
    eventually(|| proxy.proxy.stats().total.client_gone == 1);
    assert_eq!(send(proxy.http, "GET /dead HTTP/1.1\r\nHost: dead.test\r\n\r\n").status, 502);
    eventually(|| proxy.proxy.stats().total.requests_active == 0);
}
