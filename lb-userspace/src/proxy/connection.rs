//! One client connection: TLS or plain, HTTP/1.1 or HTTP/2, until it ends or the worker drains.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::HeaderMap;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::direct;
use super::error::Error;
use super::finish::Finish;
use super::forwarded;
use super::guard::{MAX_HEAD, MAX_HEADERS};
use super::passthrough::{self, Way};
use super::proxy_header::{self, Ends};
use super::refusal;
use super::request;
use super::stream::{ClientStream, Gate};
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
    pub(super) h2: Cell<bool>,
    /// What the connection's stream has to know of its requests.
    pub(super) gate: Arc<Gate>,
    /// Requests being served.
    pub(super) requests: Cell<u32>,
    pub(super) last_active: Cell<Instant>,
    /// Requests since the begin, and those that the client gave up before there was an answer.
    all: Cell<u32>,
    gone: Cell<u32>,
    /// The client gave up too many.
    resetting: Notify,
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

    /// A request begins.
    pub(super) fn begin_request(&self) {
        self.all.set(self.all.get().saturating_add(1));
    }

    /// The client gave a request up before there was an answer. On HTTP/2 that is cheap for it and
    /// not for us: at a pace that no limit on open streams notices, it is an attack ("rapid reset").
    pub(super) fn given_up(&self) {
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

/// Serves a connection that was accepted here to its end.
pub(super) async fn serve(worker: Rc<Worker>, mut stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let (local, peer) = (canonical(local), canonical(peer));
    let config = worker.config();
    let Some(protocol) = config.protocol(local) else {
        tracing::debug!(%local, "no listener for this address any more");
        return;
    };
    let own = Ends { source: peer, destination: local };
    let Some(ends) = ends(&worker, &config, &mut stream, own).await else { return };
    converse(worker, stream, ends, protocol, false).await;
}

/// Serves a TLS connection that another worker accepted and handed over.
pub(super) async fn take_over(worker: Rc<Worker>, stream: TcpStream, ends: Ends) {
    worker.counters.taken_over.add(1);
    converse(worker, stream, ends, Protocol::Https, true).await;
}

async fn converse(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    ends: Ends,
    protocol: Protocol,
    taken_over: bool,
) {
    let Ends { source: peer, destination: local } = ends;
    let config = worker.config();
    let trusted = forwarded::is_trusted(peer.ip(), config.trusted_proxies(&worker.settings));
    let admitted = if trusted { Ok(None) } else { worker.crowd.admit(peer.ip()) };
    let Ok(admitted) = admitted else {
        worker.counters.crowded.add(1);
        return;
    };
    let client = |handshake: Option<ClientTls>| Client {
        local,
        peer: peer.ip(),
        port: peer.port(),
        ip: peer.ip().to_string(),
        tls: protocol == Protocol::Https,
        handshake,
        trusted,
        h2: Cell::new(false),
        gate: Gate::new(),
        requests: Cell::new(0),
        last_active: Cell::new(Instant::now()),
        all: Cell::new(0),
        gone: Cell::new(0),
        resetting: Notify::new(),
        worker: Rc::clone(&worker),
    };
    let timeouts = worker.settings.timeouts;
    match protocol {
        Protocol::Http => {
            let Ok(Ok((prefix, is_h2))) =
                tokio::time::timeout(timeouts.header, read_preface(&mut stream)).await
            else {
                return;
            };
            let client = client(None);
            let gate = Arc::clone(&client.gate);
            // A connection must not keep the configuration that it began with.
            drop(config);
            let stream = ClientStream::new(stream, prefix.freeze(), !is_h2, gate, timeouts);
            run(Rc::new(client), Box::new(stream), is_h2).await;
        }
        Protocol::Https => {
            let refuses = config.refuses_names(local);
            if refuses || config.tls.has_passthrough() || !worker.pools.is_empty() {
                let finding = passthrough::find(&stream, &config, &worker, refuses, taken_over);
                let found = Box::pin(tokio::time::timeout(timeouts.handshake, finding)).await;
                match found {
                    Ok(Ok(Way::Ours)) => {}
                    Ok(Ok(Way::On(passage))) => {
                        tokio::task::spawn_local(passage.serve(
                            Rc::clone(&worker),
                            stream,
                            Ends { source: peer, destination: local },
                            admitted,
                        ));
                        return;
                    }
                    Ok(Ok(Way::Over(way))) => {
                        // Admitted there once more.
                        drop(admitted);
                        if let Err(error) = worker.pools.hand_over(way, worker.index, stream, ends) {
                            tracing::debug!(%error, "a connection can't be handed over to its pool");
                        }
                        return;
                    }
                    Ok(Ok(Way::Nowhere)) => {
                        worker.counters.tls_refused.add(1);
                        // The client may have gone, which is as good.
                        let _ = Box::pin(tokio::time::timeout(LINGER, refusal::refuse(stream))).await;
                        return;
                    }
                    Ok(Err(_)) | Err(_) => {
                        worker.counters.tls_failures.add(1);
                        return;
                    }
                }
            }
            let tls = Arc::clone(&config.tls);
            drop(config);
            // In a box, as all that does not last: an idle connection is as large as the largest of
            // its states.
            let accepting = Box::pin(tokio::time::timeout(timeouts.handshake, tls.accept(stream)));
            let accepted = accepting.await;
            let Ok(Ok((stream, handshake))) = accepted else {
                worker.counters.tls_failures.add(1);
                return;
            };
            worker.counters.tls_handshakes.add(1);
            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            drop(tls);
            let client = client(Some(handshake));
            let gate = Arc::clone(&client.gate);
            let stream = ClientStream::new(stream, bytes::Bytes::new(), !is_h2, gate, timeouts);
            run(Rc::new(client), Box::new(stream), is_h2).await;
        }
    }
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

/// Reads until it is clear whether the client starts HTTP/2 with prior knowledge.
async fn read_preface(stream: &mut TcpStream) -> io::Result<(BytesMut, bool)> {
    let mut read = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok((read, false));
        }
        if read.len() >= H2_PREFACE.len() {
            let is_h2 = read.starts_with(H2_PREFACE);
            return Ok((read, is_h2));
        }
        if !H2_PREFACE.starts_with(&read) {
            return Ok((read, false));
        }
    }
}

async fn run<S>(client: Rc<Client>, stream: Box<ClientStream<S>>, is_h2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    client.h2.set(is_h2);
    let timeouts = client.worker.settings.timeouts;
    let service_client = Rc::clone(&client);
    let service = service_fn(move |request| request::serve(Rc::clone(&service_client), request));
    if is_h2 {
        let io = TokioIo::new(stream);
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
            .serve_connection(io, service);
        let idle = Some(timeouts.idle);
        Box::pin(drive(&client, connection, |connection| connection.graceful_shutdown(), idle)).await;
        return;
    }
    if let Some(stream) = direct::serve(&client, stream).await {
        let io = TokioIo::new(stream);
        let connection = http1::Builder::new()
            // A client that closes its half has gone, as far as anybody can tell before the answer
            // is written: its request must not keep an endpoint busy. nginx sees it so, too.
            .half_close(false)
            .max_buf_size(BUFFER)
            .max_headers(MAX_HEADERS + 1)
            .serve_connection(io, service)
            .with_upgrades();
        Box::pin(drive(&client, connection, |connection| connection.graceful_shutdown(), None)).await;
    }
    if let Some(status) = client.gate.refused() {
        note_refusal(&client, status, "the request's head was refused");
    }
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
async fn drive<C>(client: &Rc<Client>, connection: C, shut_down: impl Fn(Pin<&mut C>), idle: Option<Duration>)
where
    C: Future<Output = hyper::Result<()>>,
{
    let drain = &client.worker.drain;
    let mut connection = pin!(connection);
    let mut asked = false;
    let mut end = None;
    loop {
        let draining = pin!(drain.started());
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(client = %client.ip, %error, "connection ended");
                    if error.is_parse() && !client.h2.get() {
                        // hyper has answered 400, or 431 where the head was too large even for it.
                        let status = if error.is_parse_too_large() { 431 } else { 400 };
                        note_refusal(client, status, &error.to_string());
                    }
                }
                return;
            }
            () = draining, if !asked => {
                asked = true;
                shut_down(connection.as_mut());
            }
            () = client.resetting.notified(), if end.is_none() => {
                client.worker.counters.resetting.add(1);
                tracing::debug!(client = %client.ip, "gave up most of its requests");
                asked = true;
                end = Some(tokio::time::Instant::now() + LAST_WORDS);
                shut_down(connection.as_mut());
            }
            () = tokio::time::sleep_until(end.unwrap_or_else(tokio::time::Instant::now)), if end.is_some() => {
                return;
            }
            () = idle_for(client, idle.unwrap_or_default()), if idle.is_some() && !asked => {
                asked = true;
                shut_down(connection.as_mut());
            }
        }
    }
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
