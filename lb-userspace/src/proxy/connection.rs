//! One client connection: TLS or plain, HTTP/1.1 or HTTP/2, until it ends or the worker drains.

use std::cell::Cell;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Sleep, timeout_at};
use tokio_rustls::server::TlsStream;

use super::config::Config;
use super::crowd::Admitted;
use super::direct::{self, Rewound};
use super::error::Error;
use super::finish::Finish;
use super::forwarded;
use super::guard::{MAX_HEAD, MAX_HEADERS};
use super::offences::Offence;
use super::passthrough::{self, Way};
use super::peek::peek_more;
use super::proxy_header::{self, Ends};
use super::refusal;
use super::request;
use super::stream::{ClientStream, Gate, Wire};
use super::streams::Streams;
use super::tls::ClientTls;
use super::worker::{Held, Worker};
use crate::model::Protocol;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What hyper buffers at most for an HTTP/1.1 client in each direction. More than a head may have,
/// so that the guard is the one who says no.
const BUFFER: usize = MAX_HEAD + 16 * 1024;

/// How long a refused client may take to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How many requests a client may give up on one HTTP/2 connection before it matters whether it
/// takes the answers of at least as many.
const MAX_GIVEN_UP: u32 = 100;
/// A request that is given up later costs its client a stream for as long. As Envoy's
/// `premature_reset_min_stream_lifetime_seconds`.
const PATIENT: Duration = Duration::from_secs(1);

/// How long a connection that is ended for that may take to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What all requests of a connection share.
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    /// Where the client connected to: the VIP, or what the load balancer before us says.
    pub(super) local: SocketAddr,
    pub(super) peer: IpAddr,
    port: u16,
    /// `peer` as text.
    pub(super) ip: String,
    pub(super) tls: bool,
    /// What its TLS handshake said; `None` without TLS.
    pub(super) handshake: Option<ClientTls>,
    /// The peer is a proxy whose word counts.
    pub(super) trusted: bool,
    /// Others were to take over already when it came.
    pub(super) came_late: bool,
    /// The peer is the client itself, who answers for what it does.
    accountable: bool,
    pub(super) h2: Cell<bool>,
    /// What the connection's stream has to know of its requests.
    pub(super) gate: Arc<Gate>,
    /// Requests being served.
    pub(super) requests: Cell<u32>,
    pub(super) last_active: Cell<Instant>,
    /// Requests since the begin, and those that the client soon gave up, before there was an answer.
    all: Cell<u32>,
    gone: Cell<u32>,
    /// The client gave up too many.
    resetting: Notify,
    /// Counts for the client as long as the connection lives.
    _admitted: Option<Admitted>,
    /// The connection has had as many requests as it may.
    enough: Notify,
}

impl Client {
    /// Whether the request came over https, to us or to the trusted proxy before us.
    pub(super) fn is_https(&self, headers: &HeaderMap) -> bool {
        self.tls
            || (self.trusted
                && headers
                    .get("x-forwarded-proto")
                    .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https")))
    }

    /// Both ends of the connection, as far as they are known.
    pub(super) fn ends(&self) -> Ends {
        Ends { source: (self.peer, self.port).into(), destination: self.local }
    }

    pub(super) fn is_h2(&self) -> bool {
        self.h2.get()
    }

    /// The client was caught at something.
    pub(super) fn offend(&self, offence: Offence) {
        if self.accountable {
            self.worker.offences.tell(self.peer, offence);
        }
    }

    /// A request begins.
    pub(super) fn begin_request(&self) {
        self.all.set(self.all.get().saturating_add(1));
        if self.is_last() {
            self.enough.notify_one();
        }
    }

    /// Whether the connection has had as many requests as it may.
    pub(super) fn is_last(&self) -> bool {
        let most = self.worker.settings.max_requests;
        self.came_late || (most > 0 && self.all.get() >= most)
    }

    /// The client gave a request up after so long, before there was an answer. On HTTP/2 that is cheap for
    /// it and not for us: at a pace that no limit on open streams notices, it is an attack ("rapid reset").
    /// Whoever waits first, as gRPC's deadlines and long polls have it, is slowed by that limit.
    pub(super) fn given_up(&self, after: Duration) {
        if after >= PATIENT {
            return;
        }
        self.gone.set(self.gone.get().saturating_add(1));
        if self.h2.get() && self.gone.get() >= MAX_GIVEN_UP && self.gone.get() > self.all.get() / 2 {
            self.resetting.notify_one();
        }
    }

    /// Whether the connection can't be used after this error: on HTTP/1.1, what follows a request
    /// that is not valid may not be what it seems.
    pub(super) fn closes_after(&self, error: &Error) -> bool {
        !self.h2.get() && error.fault() == super::error::Fault::Client
    }
}

/// Serves a connection to its end. `local` is where it came to, if that is known.
///
/// A connection is as large as the largest of its states for as long as it lives, and most of its
/// time it waits for a request. So what is rare or soon over is in a box of its own.
pub(super) async fn serve(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    local: Option<SocketAddr>,
) {
    let Some(local) = local.or_else(|| stream.local_addr().ok()) else { return };
    let own = Ends { source: canonical(peer), destination: canonical(local) };
    if worker.banned.holds(own.source.ip()) {
        worker.counters.banned.add(1);
        return;
    }
    let config = worker.config();
    let Some(protocol) = config.protocol(own.destination) else {
        tracing::debug!(local = %own.destination, "no listener for this address any more");
        return;
    };
    let source = own.source;
    let Some(ends) = ends(&worker, &config, &mut stream, own).await else { return };
    let Some(arrival) = Arrival::admit(&worker, &config, ends, source) else { return };
    match protocol {
        Protocol::Http => {
            // A connection must not keep the configuration that it began with.
            drop(config);
            let mut timer = None;
            let Ok((prefix, is_h2)) = read_preface(&worker, &mut stream, &mut timer).await else { return };
            let (client, stream) = arrival.plain(worker, stream, prefix, is_h2, timer);
            run(client, stream).await;
        }
        Protocol::Https => {
            let Some((client, stream)) = Box::pin(secure(worker, config, stream, arrival, false)).await
            else {
                return;
            };
            run(client, stream).await;
        }
    }
}

/// Serves a TLS connection that another worker accepted and handed over.
pub(super) async fn take_over(worker: Rc<Worker>, stream: TcpStream, ends: Ends) {
    worker.counters.taken_over.add(1);
    let config = worker.config();
    let Ok(source) = stream.peer_addr().map(canonical) else { return };
    let Some(arrival) = Arrival::admit(&worker, &config, ends, source) else { return };
    if let Some((client, stream)) = Box::pin(secure(worker, config, stream, arrival, true)).await {
        run(client, stream).await;
    }
}

/// A connection that may stay, before anything is known of what it carries.
struct Arrival {
    ends: Ends,
    trusted: bool,
    accountable: bool,
    admitted: Option<Admitted>,
}

impl Arrival {
    /// `source` is the other end of the socket. `None`: the client has as many connections as it may.
    fn admit(worker: &Worker, config: &Config, ends: Ends, source: SocketAddr) -> Option<Self> {
        let peer = ends.source.ip();
        let trusted = forwarded::is_trusted(peer, config.trusted_proxies(&worker.settings));
        let admitted = if trusted { Ok(None) } else { worker.crowd.admit(peer) };
        // What a load balancer tells with a PROXY header, its own address even, is nothing to go by.
        let behind_header = forwarded::is_trusted(source.ip(), &config.proxy_protocol(&worker.settings).from);
        let accountable = !trusted && !behind_header && source == ends.source;
        let Ok(admitted) = admitted else {
            worker.counters.crowded.add(1);
            if accountable {
                worker.offences.tell(peer, Offence::Connections);
            }
            return None;
        };
        Some(Self { ends, trusted, accountable, admitted })
    }

    fn offend(&self, worker: &Worker, offence: Offence) {
        if self.accountable {
            worker.offences.tell(self.ends.source.ip(), offence);
        }
    }

    fn plain(
        self,
        worker: Rc<Worker>,
        stream: TcpStream,
        prefix: Bytes,
        is_h2: bool,
        timer: Option<Pin<Box<Sleep>>>,
    ) -> (Rc<Client>, Box<ClientStream<TcpStream>>) {
        let timeouts = worker.settings.timeouts;
        let client = self.client(worker, None, is_h2);
        let gate = Arc::clone(&client.gate);
        (client, Box::new(ClientStream::new(stream, prefix, !is_h2, gate, timeouts).with_timer(timer)))
    }

    fn secured(
        self,
        worker: Rc<Worker>,
        stream: TlsStream<TcpStream>,
        handshake: ClientTls,
    ) -> (Rc<Client>, Box<ClientStream<TlsStream<TcpStream>>>) {
        let timeouts = worker.settings.timeouts;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let client = self.client(worker, Some(handshake), is_h2);
        let gate = Arc::clone(&client.gate);
        (client, Box::new(ClientStream::new(stream, Bytes::new(), !is_h2, gate, timeouts)))
    }

    fn client(self, worker: Rc<Worker>, handshake: Option<ClientTls>, is_h2: bool) -> Rc<Client> {
        let Ends { source: peer, destination: local } = self.ends;
        Rc::new(Client {
            local,
            peer: peer.ip(),
            port: peer.port(),
            ip: peer.ip().to_string(),
            tls: handshake.is_some(),
            handshake,
            trusted: self.trusted,
            accountable: self.accountable,
            came_late: worker.drain.is_resting(),
            h2: Cell::new(is_h2),
            gate: Gate::new(),
            requests: Cell::new(0),
            last_active: Cell::new(Instant::now()),
            all: Cell::new(0),
            gone: Cell::new(0),
            resetting: Notify::new(),
            enough: Notify::new(),
            worker,
            _admitted: self.admitted,
        })
    }
}

/// A client's connection and its bytes, once TLS is established. `None`: it is not, or they are not
/// for us, and all is done.
async fn secure(
    worker: Rc<Worker>,
    config: Rc<Held>,
    stream: TcpStream,
    arrival: Arrival,
    taken_over: bool,
) -> Option<(Rc<Client>, Box<ClientStream<TlsStream<TcpStream>>>)> {
    let end = tokio::time::Instant::now() + worker.settings.timeouts.handshake;
    // Who says nothing at all may keep a connection at hand, as browsers do. Who begins has to come to an end.
    // Looked at, not only waited for: the event loop may say that a socket is readable which is not.
    if !matches!(timeout_at(end, peek_more(&stream, &mut [0], 0)).await, Ok(Ok(1..))) {
        worker.counters.tls_failures.add(1);
        return None;
    }
    let refuses = config.refuses_names(arrival.ends.destination);
    if refuses || config.tls.has_passthrough() || !worker.pools.is_empty() {
        let finding = passthrough::find(&stream, &config, &worker, refuses, taken_over);
        match timeout_at(end, finding).await {
            Ok(Ok(Way::Ours)) => {}
            Ok(Ok(Way::On(passage))) => {
                let Arrival { ends, admitted, .. } = arrival;
                tokio::task::spawn_local(passage.serve(worker, stream, ends, admitted));
                return None;
            }
            Ok(Ok(Way::Over(way))) => {
                let Arrival { ends, admitted, .. } = arrival;
                // Admitted there once more.
                drop(admitted);
                if let Err(error) = worker.pools.hand_over(way, worker.index, stream, ends) {
                    tracing::debug!(%error, "a connection can't be handed over to its pool");
                }
                return None;
            }
            Ok(Ok(Way::Nowhere)) => {
                worker.counters.tls_refused.add(1);
                arrival.offend(&worker, Offence::Name);
                // The client may have gone, which is as good.
                let _ = tokio::time::timeout(LINGER, refusal::refuse(stream)).await;
                return None;
            }
            failed => {
                worker.counters.tls_failures.add(1);
                if failed.is_err() {
                    arrival.offend(&worker, Offence::Slow);
                }
                return None;
            }
        }
    }
    let tls = Arc::clone(&config.tls);
    drop(config);
    let (stream, handshake) = match timeout_at(end, tls.accept(stream)).await {
        Ok(Ok(established)) => established,
        outcome => {
            worker.counters.tls_failures.add(1);
            if outcome.is_err() {
                arrival.offend(&worker, Offence::Slow);
            }
            return None;
        }
    };
    worker.counters.tls_handshakes.add(1);
    Some(arrival.secured(worker, stream, handshake))
}

/// Whom the connection is with and where it went to: by the header that the peer has to send, if it
/// is one of those who do. `None`: it sent none that is any good.
async fn ends(worker: &Worker, config: &Held, stream: &mut TcpStream, own: Ends) -> Option<Ends> {
    let rules = config.proxy_protocol(&worker.settings);
    if !forwarded::is_trusted(own.source.ip(), &rules.from) {
        return Some(own);
    }
    let read = Box::pin(tokio::time::timeout(rules.header_timeout, proxy_header::read(stream))).await;
    let why = match read {
        Ok(Ok(told)) => {
            let told = told.unwrap_or(own);
            return Some(Ends { source: canonical(told.source), destination: canonical(told.destination) });
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not come in time".to_owned(),
    };
    worker.counters.proxy_header_failures.add(1);
    tracing::debug!(peer = %own.source, why, "no PROXY header");
    None
}

/// Reads until it is clear whether the client starts HTTP/2 with prior knowledge. `timer` is set
/// where the client has to be waited for.
async fn read_preface(
    worker: &Worker,
    stream: &mut TcpStream,
    timer: &mut Option<Pin<Box<Sleep>>>,
) -> io::Result<(Bytes, bool)> {
    let mut read = Bytes::new();
    poll_fn(|cx| {
        loop {
            let mut space = worker.reads.borrow_mut();
            let mut buffer = ReadBuf::new(&mut space);
            if Pin::new(&mut *stream).poll_read(cx, &mut buffer)?.is_pending() {
                let limit = worker.settings.timeouts.header;
                let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                return timer.as_mut().poll(cx).map(|()| match read.is_empty() {
                    true => Err(io::ErrorKind::TimedOut.into()),
                    // The begin of something else, whose time is over.
                    false => Ok((std::mem::take(&mut read), false)),
                });
            }
            let new = buffer.filled();
            let is_end = new.is_empty();
            read = match read.is_empty() {
                true => Bytes::copy_from_slice(new),
                false => [&read, new].concat().into(),
            };
            if is_end || read.len() >= H2_PREFACE.len() || !H2_PREFACE.starts_with(&read) {
                let is_h2 = read.starts_with(H2_PREFACE);
                return Poll::Ready(Ok((std::mem::take(&mut read), is_h2)));
            }
        }
    })
    .await
}

async fn run<S>(client: Rc<Client>, stream: Box<ClientStream<S>>)
where
    S: Wire + Send + 'static,
{
    if client.is_h2() {
        run_http2(Rc::clone(&client), stream).await;
        if client.gate.floods() {
            client.worker.counters.flooding.add(1);
            client.offend(Offence::Flood);
            tracing::debug!(client = %client.ip, "sent hardly anything but frames that carry nothing");
        }
        return;
    }
    if let Some(stream) = direct::serve(&client, stream).await {
        run_http1(Rc::clone(&client), stream).await;
    }
    if let Some(status) = client.gate.refused() {
        if status == StatusCode::REQUEST_TIMEOUT.as_u16() {
            client.offend(Offence::Slow);
        }
        note_refusal(&client, status, "the request's head was refused");
    }
}

type Running = Pin<Box<dyn Future<Output = ()>>>;

fn run_http2<S: Wire + Send + 'static>(client: Rc<Client>, stream: Box<ClientStream<S>>) -> Running {
    let timeouts = client.worker.settings.timeouts;
    let service_client = Rc::clone(&client);
    let service = service_fn(move |request| request::serve(Rc::clone(&service_client), request));
    let connection = http2::Builder::new(Streams::new(&client.gate, timeouts.client))
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(128)
        .max_header_list_size(MAX_HEAD as u32)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(1024)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(timeouts.client)
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(stream), service);
    let idle = Some(timeouts.idle);
    Box::pin(drive(client, connection, |connection| connection.graceful_shutdown(), idle))
}

fn run_http1<S: Wire + Send + 'static>(client: Rc<Client>, stream: Rewound<S>) -> Running {
    let service_client = Rc::clone(&client);
    let service = service_fn(move |request| request::serve(Rc::clone(&service_client), request));
    let connection = http1::Builder::new()
        // A client that closes its half has gone, as far as anybody can tell before the answer
        // is written: its request must not keep an endpoint busy. nginx sees it so, too.
        .half_close(false)
        .max_buf_size(BUFFER)
        .max_headers(MAX_HEADERS + 1)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    Box::pin(drive(client, connection, |connection| connection.graceful_shutdown(), None))
}

/// Counts and logs an answer that no request stands behind.
fn note_refusal(client: &Rc<Client>, status: u16, why: &str) {
    let mut finish = Finish::new(client);
    finish.status = Some(status);
    if let Some(entry) = &mut finish.entry {
        entry.error = Some(why.to_owned());
    }
}

/// Polls a connection to its end; asks it to end when the worker drains or it was idle too long.
async fn drive<C>(client: Rc<Client>, connection: C, shut_down: impl Fn(Pin<&mut C>), idle: Option<Duration>)
where
    C: Future<Output = hyper::Result<()>>,
{
    let drain = &client.worker.drain;
    let mut connection = pin!(connection);
    let mut asked = false;
    let mut end = None;
    loop {
        let draining = pin!(drain.started(client.came_late));
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(client = %client.ip, %error, "connection ended");
                    if is_flood(&error) && !client.gate.floods() {
                        client.offend(Offence::Flood);
                    }
                    if error.is_parse() && !client.h2.get() {
                        // hyper has answered 400, or 431 where the head was too large even for it.
                        let status = if error.is_parse_too_large() { 431 } else { 400 };
                        note_refusal(&client, status, &error.to_string());
                    }
                }
                return;
            }
            () = draining, if !asked => {
                asked = true;
                shut_down(connection.as_mut());
            }
            () = client.enough.notified(), if !asked && client.h2.get() => {
                asked = true;
                shut_down(connection.as_mut());
            }
            () = client.resetting.notified(), if end.is_none() => {
                client.worker.counters.resetting.add(1);
                client.offend(Offence::Resets);
                tracing::debug!(client = %client.ip, "gave up most of its requests");
                asked = true;
                end = Some(tokio::time::Instant::now() + LAST_WORDS);
                shut_down(connection.as_mut());
            }
            () = tokio::time::sleep_until(end.unwrap_or_else(tokio::time::Instant::now)), if end.is_some() => {
                return;
            }
            () = idle_for(&client, idle.unwrap_or_default()), if idle.is_some() && !asked => {
                asked = true;
                shut_down(connection.as_mut());
            }
        }
    }
}

/// Whether h2 has had enough of a client (RFC 9113 section 7, ENHANCE_YOUR_CALM).
fn is_flood(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_library() && cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// Ends when the connection had no request for `limit`.
async fn idle_for(client: &Client, limit: Duration) {
    loop {
        let idle =
            if client.requests.get() > 0 { Duration::ZERO } else { client.last_active.get().elapsed() };
        match limit.checked_sub(idle) {
            Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
            _ => return,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What every open connection has for as long as it is open, whatever it does. Something large
    /// in a function that all of them are in would show here.
    #[test]
    fn idle_connections_are_small() {
        for (what, size, most) in [
            ("the task", size(serve), 768),
            ("what requests share", size_of::<Client>(), 384),
            ("the stream", size_of::<ClientStream<TcpStream>>(), 512),
        ] {
            assert!(size <= most, "{what}: {size} bytes");
        }
    }
}
