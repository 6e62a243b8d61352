//! HTTP/2 to endpoints, as gRPC uses it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use sluice::model::*;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::endpoints::server_config;
use crate::pki::Authority;
use crate::rig::{Rig, Running, free_port};

/// What endpoints have seen.
#[derive(Default)]
struct Log {
    connections: AtomicUsize,
    requests: AtomicUsize,
    resets: AtomicUsize,
}

/// An endpoint that speaks HTTP/2 in its own thread. Over TLS with `tls`.
fn endpoint(log: &Arc<Log>, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let number = log.connections.fetch_add(1, Relaxed);
                let (log, tls) = (Arc::clone(&log), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(log, number, stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(log, number, stream).await,
                            Err(error) => panic!("{error}"),
                        },
                    }
                });
            }
        });
    });
    address
}

async fn serve(log: Arc<Log>, number: usize, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let Ok(mut connection) = h2::server::Builder::new().max_concurrent_streams(4).handshake(stream).await
    else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let seen = log.requests.fetch_add(1, Relaxed);
        match request.uri().path() {
            // Not the first one.
            "/refuse" if seen == 0 => respond.send_reset(Reason::REFUSED_STREAM),
            "/refuse-late" if seen == 0 => drop(tokio::spawn(async move {
                let (mut body, mut count) = (request.into_body(), 0);
                while count < 100_000
                    && let Some(Ok(data)) = body.data().await
                {
                    drop(body.flow_control().release_capacity(data.len()));
                    count += data.len();
                }
                respond.send_reset(Reason::REFUSED_STREAM);
            })),
            "/broken" if seen == 0 => respond.send_reset(Reason::INTERNAL_ERROR),
            // The first connection answers this one and takes no more.
            "/leave" if number == 0 => {
                connection.graceful_shutdown();
                tokio::spawn(answer(Arc::clone(&log), request, respond));
            }
            // The first connection goes away without having seen it.
            "/gone" if number == 0 => connection.abrupt_shutdown(Reason::NO_ERROR),
            _ => drop(tokio::spawn(answer(Arc::clone(&log), request, respond))),
        }
    }
}

async fn answer(log: Arc<Log>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let about = format!(
        "{} {} {} te={:?} x={:?}",
        request.method(),
        request.uri(),
        request.headers().get("content-type").map_or("", |value| value.to_str().expect("text")),
        request.headers().get("te"),
        request.headers().get("x-custom"),
    );
    let mut body = request.into_body();
    let head = Response::builder().header("content-type", "application/grpc");
    match path.as_str() {
        // Trailers only.
        "/missing" => {
            let head = head.header("grpc-status", "5").body(()).expect("a head");
            drop(respond.send_response(head, true));
        }
        "/late" => {
            let _ = futures::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            log.resets.fetch_add(1, Relaxed);
        }
        "/hints" => {
            for (status, link) in [(100, "</no>"), (103, "</a>"), (103, "</b>")] {
                let hint = Response::builder().status(status).header("link", link).header("x-secret", "1");
                respond.send_informational(hint.body(()).expect("a head")).expect("sent");
            }
            drop(respond.send_response(head.body(()).expect("a head"), true));
        }
        "/switched" => {
            let head = Response::builder().status(101).body(()).expect("a head");
            respond.send_informational(head).expect("sent");
            drop(respond.send_response(Response::new(()), true));
        }
        // A part of an answer, and then nothing, or the end of it.
        "/part" | "/part-and-reset" | "/part-and-no-error" => {
            let length = if path == "/part-and-no-error" { "10" } else { "" };
            let mut head = head.body(()).expect("a head");
            if !length.is_empty() {
                head.headers_mut().insert("content-length", HeaderValue::from_static(length));
            }
            let mut send = respond.send_response(head, false).expect("sent");
            push(&mut send, Bytes::from_static(b"hello")).await;
            // What was said before is to arrive first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            match path.as_str() {
                "/part-and-reset" => send.send_reset(Reason::CANCEL),
                "/part-and-no-error" => send.send_reset(Reason::NO_ERROR),
                _ => _ = futures::future::poll_fn(|cx| send.poll_reset(cx)).await,
            }
        }
        // Each message comes back at once.
        "/talk" => {
            let mut send = respond.send_response(head.body(()).expect("a head"), false).expect("sent");
            while let Some(Ok(data)) = body.data().await {
                drop(body.flow_control().release_capacity(data.len()));
                if push(&mut send, data).await.is_none() {
                    log.resets.fetch_add(1, Relaxed);
                    return;
                }
            }
            drop(send.send_trailers(status("0")));
        }
        _ => {
            let mut read = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                drop(body.flow_control().release_capacity(data.len()));
                read.extend_from_slice(&data);
            }
            let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
            let head = head.header("x-about", about).body(()).expect("a head");
            let mut send = respond.send_response(head, false).expect("sent");
            push(&mut send, read.into()).await;
            let mut end = status("0");
            if let Some(theirs) = trailers.get("x-trailer") {
                end.insert("x-trailer", theirs.clone());
            }
            drop(send.send_trailers(end));
        }
    }
}

async fn push(send: &mut h2::SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = futures::future::poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
        let piece = data.split_to(room.min(data.len()));
        send.send_data(piece, false).ok()?;
    }
    Some(())
}

fn status(code: &'static str) -> HeaderMap {
    [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))].into_iter().collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// An HTTP/2 client of the proxy.
async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let (send, connection) = h2::client::handshake(stream).await.expect("a connection");
    tokio::spawn(async move { drop(connection.await) });
    send
}

fn post(name: &str, path: &str) -> Request<()> {
    Request::builder()
        .method("POST")
        .uri(format!("http://{name}.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-custom", "1")
        .body(())
        .expect("a request")
}

struct Seen {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Seen {
    /// gRPC's status, wherever it stands.
    fn code(&self) -> &str {
        let end = self.trailers.as_ref().unwrap_or(&self.headers);
        end.get("grpc-status").map_or("none", |code| code.to_str().expect("text"))
    }
}

async fn call(send: &mut SendRequest<Bytes>, request: Request<()>, body: Bytes) -> Result<Seen, h2::Error> {
    let (response, mut stream) = send.clone().ready().await?.send_request(request, false)?;
    push(&mut stream, body).await;
    let _ = stream.send_trailers(
        [(http::HeaderName::from_static("x-trailer"), HeaderValue::from_static("t"))].into_iter().collect(),
    );
    let (parts, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        drop(stream.flow_control().release_capacity(data.len()));
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    Ok(Seen { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}

fn rig(address: SocketAddr, protocol: UpstreamProtocol) -> Rig {
    let mut rig = Rig::new();
    rig.cluster("grpc", &[address]);
    rig.cluster("empty", &[]);
    rig.cluster("dead", &[([127, 0, 0, 1], free_port()).into()]);
    for name in ["grpc", "empty", "dead"] {
        rig.route_with(&format!("{name}.test"), "/", name, |draft| {
            draft.policy.upstream.protocol = Some(protocol);
            draft.policy.upstream.read_timeout = Some(Duration::from_millis(300));
        });
    }
    rig
}

fn start(log: &Arc<Log>) -> Running {
    rig(endpoint(log, None), UpstreamProtocol::Grpc).start(|settings| settings.workers = 1)
}

#[test]
fn calls() {
    let tls = TlsAcceptor::from(server_config(&Authority::root("root").sign("grpc.test"), &[b"h2"]));
    for (protocol, tls, scheme) in
        [(UpstreamProtocol::Grpc, None, "http"), (UpstreamProtocol::Grpcs, Some(tls), "https")]
    {
        let log = Arc::new(Log::default());
        let proxy = rig(endpoint(&log, tls), protocol).start(|settings| settings.workers = 1);
        runtime().block_on(async {
            let mut send = client(proxy.http).await;
            for (name, path, body, status, code, message) in [
                ("grpc", "/a.B/c?d", "hello", 200, "0", None),
                ("grpc", "/missing", "hello", 200, "5", None),
                ("grpc", "/late", "hello", 200, "4", Some("the endpoint did not answer in time")),
                ("empty", "/", "", 200, "14", Some("no endpoint can serve this request now")),
                ("dead", "/", "", 200, "14", Some("the endpoint gave no valid answer")),
                ("nobody", "/", "", 200, "12", Some("no route for this host and path")),
            ] {
                let seen = call(&mut send, post(name, path), Bytes::from(body)).await.expect("an answer");
                assert_eq!((seen.status, seen.code()), (status, code), "{protocol:?} {name}{path}");
                assert_eq!(seen.headers["content-type"], "application/grpc", "{name}{path}");
                let got = seen.headers.get("grpc-message").map(|text| text.to_str().expect("text"));
                assert_eq!(got, message, "{name}{path}");
                if path.starts_with("/a.B") {
                    assert_eq!(seen.body, b"hello");
                    let about = format!(
                        "POST {scheme}://grpc.test/a.B/c?d application/grpc te=Some(\"trailers\") x=Some(\"1\")"
                    );
                    assert_eq!(seen.headers["x-about"], about.as_str());
                    assert_eq!(seen.trailers.expect("trailers")["x-trailer"], "t");
                }
            }
        });
        crate::rig::eventually(|| log.resets.load(Relaxed) == 1);
    }
}

/// The annotation of an Ingress, and what the Service says of its port, from the manifest to the wire.
#[test]
fn what_manifests_say() {
    const GRPC: &str = r#"{"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"}"#;
    const GRPCS: &str = r#"{"nginx.ingress.kubernetes.io/backend-protocol": "GRPCS"}"#;
    let tls = TlsAcceptor::from(server_config(&Authority::root("root").sign("grpc.test"), &[b"h2"]));
    for (annotations, app_protocol, over_tls) in [
        (GRPC, "", false),
        (GRPCS, "", true),
        ("{}", "grpc", false),
        ("{}", "grpcs", true),
        // What the Ingress says goes before what the Service says.
        (GRPCS, "http", true),
        (GRPC, "grpcs", false),
    ] {
        let log = Arc::new(Log::default());
        let mut rig = Rig::new();
        let address = endpoint(&log, over_tls.then(|| tls.clone()));
        rig.annotated("grpc", annotations, app_protocol, address);
        let proxy = rig.start(|settings| settings.workers = 1);
        let seen = runtime().block_on(async {
            let mut send = client(proxy.http).await;
            call(&mut send, post("grpc", "/a.B/c"), Bytes::from("hello")).await.expect("an answer")
        });
        let what = format!("{annotations} {app_protocol}");
        assert_eq!((seen.status, seen.code(), &seen.body[..]), (200, "0", &b"hello"[..]), "{what}");
        let scheme = if over_tls { "https" } else { "http" };
        let about = seen.headers["x-about"].to_str().expect("text");
        assert!(about.starts_with(&format!("POST {scheme}://grpc.test/a.B/c ")), "{what}: {about}");
    }
}

#[test]
fn deadlines() {
    let log = Arc::new(Log::default());
    let mut rig = rig(endpoint(&log, None), UpstreamProtocol::Grpc);
    rig.route_with("slow.test", "/", "grpc", |draft| {
        draft.policy.upstream.protocol = Some(UpstreamProtocol::Grpc)
    });
    let proxy = rig.start(|_| ());
    runtime().block_on(async {
        let mut send = client(proxy.http).await;
        // A client's haste is no failure of the endpoint, which keeps its connection and its good name.
        for path in ["/late", "/late", "/late", "/late", "/late", "/a.B/c"] {
            let mut request = post("slow", path);
            if path == "/late" {
                request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("100m"));
            }
            let seen = call(&mut send, request, Bytes::new()).await.expect("an answer");
            let code = if path == "/late" { "4" } else { "0" };
            assert_eq!((seen.status, seen.code()), (200, code), "{path}");
        }
    });
    assert_eq!(log.connections.load(Relaxed), 1);
    assert_eq!(proxy.proxy.stats().total.upstream_failures, 0);
    let health = proxy.proxy.health();
    assert!(health.values().flat_map(|one| &one.endpoints).all(|one| one.failures == 0), "{health:?}");
}

/// What came goes on to the client, and then a status that it understands.
#[test]
fn answers_that_break_off() {
    let log = Arc::new(Log::default());
    let mut rig = rig(endpoint(&log, None), UpstreamProtocol::Grpc);
    // The same over HTTP/1.1, and without a word.
    rig.cluster(
        "cut",
        &[crate::rig::endpoint(|stream| {
            crate::rig::read_head(stream);
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
            drop(stream.write_all(format!("{head}5\r\nhello\r\n").as_bytes()));
        })],
    );
    rig.route("cut.test", "/", "cut");
    let proxy = rig.start(|settings| settings.workers = 1);
    runtime().block_on(async {
        let mut send = client(proxy.http).await;
        for (name, path, code, message) in [
            ("grpc", "/part", "4", "the endpoint did not answer in time"),
            ("grpc", "/part-and-reset", "14", "the endpoint gave no valid answer"),
            ("cut", "/", "14", "the endpoint gave no valid answer"),
        ] {
            let seen = call(&mut send, post(name, path), Bytes::new()).await.expect("an end");
            assert_eq!(
                (seen.status, seen.code(), &seen.body[..]),
                (200, code, &b"hello"[..]),
                "{name}{path}"
            );
            assert_eq!(seen.trailers.expect("trailers")["grpc-message"], message, "{name}{path}");
        }
        // What is promised otherwise, and what is no gRPC, breaks off, so that nobody takes it for the whole.
        let mut other = post("grpc", "/part-and-reset");
        other.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
        for request in [post("grpc", "/part-and-no-error"), other] {
            let path = request.uri().path().to_owned();
            assert!(call(&mut send, request, Bytes::new()).await.is_err(), "{path}");
        }
    });
    for path in ["/part-and-no-error", "/part-and-reset"] {
        let get = format!("GET {path} HTTP/1.1\r\nHost: grpc.test\r\nContent-Type: application/grpc\r\n\r\n");
        let mut stream = crate::rig::connect(proxy.http);
        stream.write_all(get.as_bytes()).expect("sent");
        let mut all = String::new();
        drop(stream.read_to_string(&mut all));
        assert!(all.starts_with("HTTP/1.1 200 ") && all.contains("hello"), "{path}: {all}");
        assert!(!all.ends_with("0\r\n\r\n"), "{path}: {all}");
    }
    assert_eq!(proxy.proxy.stats().total.requests_active, 0);
}

#[test]
fn conversations_share_a_connection() {
    let log = Arc::new(Log::default());
    let proxy = start(&log);
    runtime().block_on(async {
        let mut send = client(proxy.http).await;
        let mut open = Vec::new();
        for _ in 0..4 {
            let ready = send.clone().ready().await.expect("room");
            let (response, stream) = { ready }.send_request(post("grpc", "/talk"), false).expect("sent");
            let body = response.await.expect("an answer before the request ends").into_body();
            open.push((stream, body));
        }
        for round in 0..3 {
            for (index, (stream, body)) in open.iter_mut().enumerate() {
                let message = Bytes::from(format!("{round} of {index}"));
                push(stream, message.clone()).await.expect("sent");
                let data = body.data().await.expect("a message").expect("a message");
                drop(body.flow_control().release_capacity(data.len()));
                assert_eq!(data, message);
            }
        }
        assert_eq!(log.connections.load(Relaxed), 1, "four requests fit on one");
        let seen = call(&mut send, post("grpc", "/"), Bytes::from("fifth")).await.expect("an answer");
        assert_eq!(seen.code(), "0");
        assert_eq!(log.connections.load(Relaxed), 2, "the fifth does not");
        for (mut stream, mut body) in open.drain(1..) {
            stream.send_data(Bytes::new(), true).expect("sent");
            assert!(body.data().await.is_none());
            assert_eq!(body.trailers().await.expect("trailers").expect("trailers")["grpc-status"], "0");
        }
        // The client gives up the last one; its endpoint hears of it.
        drop(open);
    });
    crate::rig::eventually(|| {
        log.resets.load(Relaxed) == 1 || proxy.proxy.stats().total.requests_active == 0
    });
}

#[test]
fn bodies_larger_than_windows() {
    let log = Arc::new(Log::default());
    let proxy = start(&log);
    let body: Bytes = (0..2_000_000u32).map(|index| (index % 251) as u8).collect();
    runtime().block_on(async {
        let mut send = client(proxy.http).await;
        let seen = call(&mut send, post("grpc", "/"), body.clone()).await.expect("an answer");
        assert!(seen.body == body, "{} bytes of {}", seen.body.len(), body.len());
        let (response, mut stream) = send
            .clone()
            .ready()
            .await
            .expect("room")
            .send_request(post("grpc", "/talk"), false)
            .expect("sent");
        // Both ways at once: what comes back needs room before the rest can go.
        let sending = async {
            push(&mut stream, body.clone()).await.expect("sent");
            stream.send_data(Bytes::new(), true).expect("sent");
        };
        let receiving = async {
            let mut answer = response.await.expect("an answer").into_body();
            let mut count = 0;
            while let Some(data) = answer.data().await {
                let data = data.expect("data");
                drop(answer.flow_control().release_capacity(data.len()));
                count += data.len();
            }
            count
        };
        let ((), count) = tokio::join!(sending, receiving);
        assert_eq!(count, body.len());
    });
}

#[test]
fn what_is_sent_again() {
    for (path, body, code, requests, connections) in [
        // Refused: the endpoint did nothing with it.
        ("/refuse", 100, "0", 2, 1),
        ("/refuse", 50_000, "0", 2, 1),
        // Too much to be remembered.
        ("/refuse-late", 1_000_000, "14", 1, 1),
        // It may have done something.
        ("/broken", 100, "14", 1, 1),
    ] {
        let log = Arc::new(Log::default());
        let proxy = start(&log);
        let seen = runtime().block_on(async {
            let mut send = client(proxy.http).await;
            call(&mut send, post("grpc", path), vec![1; body].into()).await.expect("an answer")
        });
        let counts = (log.requests.load(Relaxed), log.connections.load(Relaxed));
        assert_eq!((seen.code(), counts), (code, (requests, connections)), "{path} with {body} bytes");
    }
}

/// An endpoint whose first connection goes away without having looked at its request.
fn leaving(log: &Arc<Log>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let (mut first, _) = listener.accept().expect("a connection");
        log.connections.fetch_add(1, Relaxed);
        // SETTINGS; then, when something came, GOAWAY with 0 as the last stream.
        first.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("sent");
        let mut read = Vec::new();
        while !read.windows(4).any(|part| part == [1, 4, 0, 0]) {
            let mut bytes = [0; 1000];
            let count = first.read(&mut bytes).expect("a request");
            read.extend_from_slice(&bytes[..count]);
        }
        first.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).expect("sent");
        listener.set_nonblocking(true).expect("a socket");
        runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let number = log.connections.fetch_add(1, Relaxed);
                tokio::spawn(serve(Arc::clone(&log), number, stream));
            }
        });
    });
    address
}

#[test]
fn requests_that_were_not_looked_at() {
    let log = Arc::new(Log::default());
    let proxy = rig(leaving(&log), UpstreamProtocol::Grpc).start(|settings| settings.workers = 1);
    runtime().block_on(async {
        let mut send = client(proxy.http).await;
        let seen = call(&mut send, post("grpc", "/"), Bytes::from("x")).await.expect("an answer");
        assert_eq!((seen.code(), &seen.body[..]), ("0", &b"x"[..]));
    });
    assert_eq!(log.connections.load(Relaxed), 2);
}

#[test]
fn endpoints_that_leave() {
    for path in ["/leave", "/gone"] {
        let log = Arc::new(Log::default());
        let proxy = start(&log);
        runtime().block_on(async {
            let mut send = client(proxy.http).await;
            for round in 0..3 {
                let seen = call(&mut send, post("grpc", path), Bytes::from("x")).await.expect("an answer");
                if path == "/leave" || round > 0 {
                    assert_eq!((seen.status, seen.code()), (200, "0"), "{path} {round}");
                }
            }
        });
        assert_eq!(log.connections.load(Relaxed), 2, "{path}");
    }
}

/// Interim answers of an endpoint on HTTP/2 reach a client on HTTP/1.1, each once, its links alone.
#[test]
fn early_hints() {
    let log = Arc::new(Log::default());
    let proxy = start(&log);
    let mut stream = crate::rig::connect(proxy.http);
    for _ in 0..2 {
        stream.write_all(b"GET /hints HTTP/1.1\r\nHost: grpc.test\r\n\r\n").expect("sent");
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(status, _)| *status < 200) {
            let one = crate::rig::read_response(&mut stream, false).expect("an answer");
            assert!(!one.has("x-secret"), "{}", one.head);
            seen.push((one.status, one.header("link").map(str::to_owned)));
        }
        let hint = |link: &str| (103, Some(link.to_owned()));
        assert_eq!(seen, [hint("</a>"), hint("</b>"), (200, None)]);
    }
    // There is no other protocol to switch to, whether somebody asked for one or not.
    for asked in ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
        let get = format!("GET /switched HTTP/1.1\r\nHost: grpc.test\r\n{asked}\r\n");
        assert_eq!(crate::rig::send(proxy.http, &get).status, 502, "{asked:?}");
    }
    // Who speaks HTTP/2 gets the answer alone.
    runtime().block_on(async {
        let mut send = client(proxy.http).await;
        let seen = call(&mut send, post("grpc", "/hints"), Bytes::new()).await.expect("an answer");
        assert_eq!(seen.status, 200);
    });
}
