//! Clients: requests at a constant rate over HTTP/1.1 and HTTP/2, and WebSockets that stay open.
//! Every answer is checked; whatever is not as it should be is a failure.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::cluster::Kind;

/// Connections of each protocol. The endpoints of either kind are asked over both.
const HTTP1: u32 = 32;
const HTTP2: u32 = 8;
const WEBSOCKETS: u32 = 16;

/// Those that come over TLS, with a connection for a few requests each.
const SECURE: u32 = 4;

/// Nothing takes as long; a request that does has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// And nothing takes as long at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(15);

/// How often a client that waits looks whether it still should.
const LOOK: Duration = Duration::from_secs(1);

/// Requests at the same time on a connection of HTTP/2. A machine that is busy with something else
/// gets fewer requests a second, not a queue that grows.
const STREAMS: usize = 16;

/// Failures that are shown.
const SHOWN: u64 = 30;

/// What happened so far.
pub struct Tally {
    wanted: u64,
    begun: AtomicU64,
    answered: AtomicU64,
    messages: AtomicU64,
    stop: AtomicBool,
    over: OnceLock<Instant>,
    /// Requests and messages that went wrong.
    pub failed: AtomicU64,
    since: Instant,
}

impl Tally {
    /// For so many requests.
    pub fn new(wanted: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            wanted,
            begun: zero(),
            answered: zero(),
            messages: zero(),
            stop: AtomicBool::new(false),
            over: OnceLock::new(),
            failed: zero(),
            since: Instant::now(),
        }
    }

    /// In words.
    pub fn line(&self) -> String {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (answered, messages, failed) = (of(&self.answered), of(&self.messages), of(&self.failed));
        format!("{answered} requests and {messages} WebSocket messages answered, {failed} failed")
    }

    /// Whether one more request is to be sent.
    fn begin(&self) -> bool {
        self.begun.fetch_add(1, Ordering::Relaxed) < self.wanted && !self.is_over()
    }

    /// No more requests.
    pub fn end(&self) {
        self.over.get_or_init(Instant::now);
    }

    /// Whether there are no more requests.
    pub fn is_over(&self) -> bool {
        self.over.get().is_some()
    }

    /// How long ago that was.
    pub fn since_end(&self) -> Option<Duration> {
        self.over.get().map(Instant::elapsed)
    }

    /// What somebody waits for; `None` if it takes too long.
    async fn patiently<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let mut what = pin!(what);
        loop {
            match tokio::time::timeout(LOOK, what.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if began.elapsed() >= PATIENCE => return None,
                Err(_) if self.since_end().is_some_and(|late| late >= LAST_PATIENCE) => return None,
                Err(_) => {}
            }
        }
    }

    /// Something was not as it should be.
    pub fn fail(&self, who: &str, what: String) {
        if self.failed.fetch_add(1, Ordering::Relaxed) < SHOWN {
            eprintln!("{:.3} s: {who}: {}", self.since.elapsed().as_secs_f64(), what.trim_end());
        }
    }
}

/// How the daemon is reached.
pub struct Ways {
    /// Port for plain HTTP.
    pub http: u16,
    /// Port for HTTPS.
    pub https: u16,
    /// A client that trusts the daemon's certificate.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Starts them, and guests beside them. The thread ends with the last request.
pub fn start(tally: Arc<Tally>, ways: Ways, rate: u32, guests: bool) -> JoinHandle<()> {
    let port = ways.http;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // A client of HTTP/2 sends four times as much as one of HTTP/1.1.
            let pause = Duration::from_secs(1) * (HTTP1 + 4 * HTTP2) / rate;
            let mut clients = tokio::task::JoinSet::new();
            if guests {
                crate::guests::start(&tally, ways.http, ways.https);
                for number in 0..SECURE {
                    clients.spawn(secure(tally.clone(), ways.https, ways.tls.clone(), number, pause));
                }
            }
            for number in 0..HTTP1 {
                clients.spawn(client(tally.clone(), port, Protocol::Http1, number, pause));
            }
            for number in 0..HTTP2 {
                clients.spawn(client(tally.clone(), port, Protocol::Http2, number, pause / 4));
            }
            let mut sockets = tokio::task::JoinSet::new();
            for number in 0..WEBSOCKETS {
                sockets.spawn(websocket(tally.clone(), port, number));
            }
            while clients.join_next().await.is_some() {}
            tally.stop.store(true, Ordering::Relaxed);
            while sockets.join_next().await.is_some() {}
        });
    })
}

/// Requests over TLS, a few on each connection.
async fn secure(
    tally: Arc<Tally>,
    port: u16,
    config: Arc<rustls::ClientConfig>,
    number: u32,
    pause: Duration,
) {
    let who = format!("TLS client {number}");
    let name = rustls::pki_types::ServerName::try_from(Kind::Http1.host()).expect("a name");
    while tally.begin() {
        let opened = async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let stream =
                tokio_rustls::TlsConnector::from(config.clone()).connect(name.clone(), stream).await?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
            tokio::spawn(connection);
            Ok::<_, std::io::Error>(sender)
        };
        let mut sender = match tally.patiently(opened).await {
            Some(Ok(sender)) => sender,
            other => {
                tally.fail(&who, format!("no connection: {:?}", other.and_then(Result::err)));
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        for _ in 0..fastrand::u8(1..10) {
            if tally.is_over() {
                break;
            }
            let question = Question { kind: Kind::Http1, ..Question::any() };
            judge(&tally, &who, &question, sender.send_request(question.request(Protocol::Http1))).await;
            tokio::time::sleep(pause).await;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

type Body = BoxBody<Bytes, hyper::Error>;

enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

async fn client(tally: Arc<Tally>, port: u16, protocol: Protocol, number: u32, pause: Duration) {
    let mut connection = None;
    let mut due = tokio::time::Instant::now() + pause * number / HTTP1;
    let mut streams = tokio::task::JoinSet::new();
    while tally.begin() {
        tokio::time::sleep_until(due).await;
        // What could not be sent in time is not sent all at once later.
        due = (due + pause).max(tokio::time::Instant::now() - Duration::from_secs(1));
        let question = Question::any();
        let who = format!("{protocol:?} client {number}, {question}");
        let usable = match &mut connection {
            Some(Connection::Http1(sender)) => {
                tally.patiently(sender.ready()).await.is_some_and(|r| r.is_ok())
            }
            Some(Connection::Http2(sender)) => {
                !sender.is_closed() && tally.patiently(sender.ready()).await.is_some_and(|r| r.is_ok())
            }
            None => false,
        };
        if !usable {
            connection = match tally.patiently(Connection::open(port, protocol)).await {
                Some(Ok(opened)) => Some(opened),
                other => {
                    tally.fail(&who, format!("no connection: {:?}", other.and_then(Result::err)));
                    continue;
                }
            };
        }
        match &mut connection {
            Some(Connection::Http1(sender)) => {
                let answer = sender.send_request(question.request(protocol));
                judge(&tally, &who, &question, answer).await;
            }
            Some(Connection::Http2(sender)) => {
                let mut sender = sender.clone();
                let tally = tally.clone();
                // On a connection that others use at the same time.
                streams.spawn(async move {
                    let answer = sender.send_request(question.request(protocol));
                    judge(&tally, &who, &question, answer).await;
                });
            }
            None => {}
        }
        while streams.try_join_next().is_some() {}
        if streams.len() >= STREAMS {
            streams.join_next().await;
        }
    }
    while streams.join_next().await.is_some() {}
}

impl Connection {
    async fn open(port: u16, protocol: Protocol) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let io = TokioIo::new(stream);
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), io).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        })
    }
}

/// Waits for an answer and looks whether it is the right one.
async fn judge(
    tally: &Tally,
    who: &str,
    question: &Question,
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
) {
    let whole = async {
        let (head, body) = answer.await?.into_parts();
        Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
    };
    match tally.patiently(whole).await {
        None => tally.fail(who, "no answer".to_owned()),
        Some(Err(error)) => tally.fail(who, format!("{error:?}")),
        Some(Ok((head, body))) => {
            let pod = head.headers.get("x-pod").and_then(|pod| pod.to_str().ok()).unwrap_or("nobody");
            if head.status != 200 {
                tally.fail(who, format!("{} of {pod}: {}", head.status, String::from_utf8_lossy(&body)));
            } else if body != question.answer() {
                tally.fail(who, format!("another body of {pod}: {} bytes", body.len()));
            } else {
                tally.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A request and, as pods send back what they get, its answer.
struct Question {
    kind: Kind,
    path: String,
    body: Vec<u8>,
    /// In pieces of unknown number.
    chunked: bool,
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let method = if self.body.is_empty() { "GET" } else { "POST" };
        let chunked = if self.chunked { ", chunked" } else { "" };
        write!(f, "{method} {} ({} bytes{chunked})", self.kind.name(), self.body.len())
    }
}

impl Question {
    fn any() -> Self {
        let kind = if fastrand::u8(..4) == 0 { Kind::Http2 } else { Kind::Http1 };
        let size = match fastrand::u8(..20) {
            0..12 => 0,
            12..19 => fastrand::usize(1..4096),
            _ => fastrand::usize(4096..100_000),
        };
        let body = vec![fastrand::alphanumeric() as u8; size];
        Self {
            kind,
            path: format!("/item/{}", fastrand::u32(..)),
            body,
            chunked: size > 0 && fastrand::bool(),
        }
    }

    fn request(&self, protocol: Protocol) -> Request<Body> {
        let method = if self.body.is_empty() { Method::GET } else { Method::POST };
        let host = self.kind.host();
        let request = match protocol {
            Protocol::Http1 => Request::builder().uri(&self.path).header("host", host),
            Protocol::Http2 => Request::builder().uri(format!("http://{host}{}", self.path)),
        };
        let body = Bytes::from(self.body.clone());
        let body = if self.chunked {
            let half = body.len() / 2;
            let pieces = [body.slice(..half), body.slice(half..)].map(|piece| Ok(Frame::data(piece)));
            BoxBody::new(StreamBody::new(futures::stream::iter(pieces)))
        } else {
            Full::new(body).map_err(|never| match never {}).boxed()
        };
        request.method(method).body(body).expect("a plain request")
    }

    fn answer(&self) -> &[u8] {
        if self.body.is_empty() { self.path.as_bytes() } else { &self.body }
    }
}

/// A WebSocket that says something every second, and is opened again when its pod says goodbye.
async fn websocket(tally: Arc<Tally>, port: u16, number: u32) {
    let who = format!("WebSocket {number}");
    let done = || tally.stop.load(Ordering::Relaxed);
    while !done() {
        let opened = async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
            let url = format!("ws://{}/{number}", Kind::WebSocket.host());
            let request = url.into_client_request().map_err(|error| error.to_string())?;
            tokio_tungstenite::client_async(request, stream).await.map_err(|error| error.to_string())
        };
        let mut socket = match tally.patiently(opened).await {
            Some(Ok((socket, _))) => socket,
            other => {
                tally.fail(&who, format!("not opened: {:?}", other.and_then(Result::err)));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        for message in 0_u64.. {
            let text = format!("{number} {message}");
            // A pod that ends meanwhile says so before it hangs up.
            let exchange = async {
                let sent = socket.send(Message::text(text.clone())).await;
                (sent, socket.next().await)
            };
            match tally.patiently(exchange).await {
                Some((Ok(()), Some(Ok(Message::Text(back))))) if back.as_str() == text => {
                    tally.messages.fetch_add(1, Ordering::Relaxed);
                }
                Some((_, Some(Ok(Message::Close(_))))) => {
                    let rest = async { while let Some(Ok(_)) = socket.next().await {} };
                    if tally.patiently(rest).await.is_none() {
                        tally.fail(&who, "no end behind goodbye".to_owned());
                    }
                    break;
                }
                other => {
                    tally.fail(&who, format!("message {message}: {other:?}"));
                    break;
                }
            }
            if done() {
                tally.patiently(socket.close(None)).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(900 + fastrand::u64(..200))).await;
        }
    }
}
