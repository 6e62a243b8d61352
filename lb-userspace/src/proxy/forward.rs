//! Gets a request to an endpoint that takes it.

use std::io;
use std::net::SocketAddr;

use super::balance::Choice;
use super::cluster::ClusterSlot;
use super::connection::Client;
use super::error::{Error, Fault};
use super::proxy_header;
use super::upstream::{Alpn, Answer, Call, Exchange, Failure, Limits, Request, Retries, Transport, Upstream};
use super::worker::Worker;
use crate::model::{RoutePolicy, UpstreamProtocol};

/// Sends the request to an endpoint, and to another as the route's policy has it. `host` is the
/// one that the endpoint is told.
pub(super) async fn forward(
    client: &Client,
    choice: &mut Choice<'_>,
    policy: &RoutePolicy,
    host: &str,
    request: Request,
) -> Result<(Answer, SocketAddr), Error> {
    let worker = &*client.worker;
    let counters = &worker.counters;
    let limits = Limits::new(&worker.settings.timeouts, &policy.upstream, &policy.body);
    let slot = choice.slot();
    let mut address = choice.first(limits.connect()).await?;
    let mut retries = Retries::new(&policy.upstream.retry, &worker.retries, &request.method);
    let theirs = slot.endpoints().cluster.protocol;
    let (transport, message) = message(client, theirs, policy, host, request)?;
    let mut was_stale = false;
    let mut sending = Sending { worker, slot, transport, limits, message };
    loop {
        let next = match sending.to(address, &retries).await {
            Ok(answer) => {
                let status = match &answer {
                    Answer::Response(head, _) => head.status,
                    Answer::Switched(head, _) => head.status,
                };
                match retries.is_failure(status) {
                    true => slot.failed_with(address, status),
                    false => slot.answered(address),
                }
                let again = retries.follow_answer(status) && sending.rewind();
                match again.then(|| choice.retry()).flatten() {
                    Some(next) => next,
                    None => return Ok((answer, address)),
                }
            }
            Err(failure) if !was_stale && sending.is_stale(&failure, &retries) => {
                was_stale = true;
                counters.upstream_failures.add(1);
                // Who says goodbye may end, and not be there for another connection.
                choice.next().unwrap_or(address)
            }
            Err(failure) => {
                note(worker, slot, address, &failure, &retries);
                let again = retries.follow_failure(&failure) && sending.rewind();
                match again.then(|| choice.retry()).flatten() {
                    Some(next) => next,
                    None if again => match Box::pin(anew(choice, &mut retries, &failure)).await {
                        Some(next) => next,
                        None => return Err(failure.error),
                    },
                    None => return Err(failure.error),
                }
            }
        };
        address = next;
        counters.upstream_retries.add(1);
    }
}

/// Somebody to ask when all endpoints are gone that there were. Endpoints that have been gone for a
/// while stay so, and nobody waits for them.
async fn anew(choice: &mut Choice<'_>, retries: &mut Retries<'_>, failure: &Failure) -> Option<SocketAddr> {
    if choice.slot().was_there_lately() && retries.wait(failure).await {
        choice.begin_anew();
        return choice.retry();
    }
    None
}

/// How the endpoints of the request's cluster are spoken with, and the request in that form.
fn message(
    client: &Client,
    theirs: UpstreamProtocol,
    policy: &RoutePolicy,
    host: &str,
    request: Request,
) -> Result<(Transport, Message), Error> {
    let rules = &policy.upstream;
    let protocol = rules.protocol.unwrap_or(theirs);
    let tls = |alpn| client.worker.transports.tls(rules.tls.as_ref(), alpn, host);
    let transport = match protocol {
        UpstreamProtocol::Http | UpstreamProtocol::Grpc => Transport::Plain,
        UpstreamProtocol::Auto if !client.tls => Transport::Plain,
        UpstreamProtocol::Auto | UpstreamProtocol::Https => tls(Alpn::Http1),
        UpstreamProtocol::Grpcs => tls(Alpn::Http2),
    };
    let transport = match rules.proxy_protocol {
        None => transport,
        Some(version) => transport.behind(proxy_header::write(version, client.ends())),
    };
    let message = match protocol {
        UpstreamProtocol::Grpc | UpstreamProtocol::Grpcs => {
            Message::Http2(Box::new(Call::new(request, &transport)?))
        }
        _ => Message::Http1(Exchange::new(request)),
    };
    Ok((transport, message))
}

/// A request, and how it is sent.
struct Sending<'a> {
    worker: &'a Worker,
    slot: &'a ClusterSlot,
    transport: Transport,
    limits: Limits,
    message: Message,
}

#[expect(
    clippy::large_enum_variant,
    reason = "HTTP/1.1 is what nearly all requests take: no allocation for it"
)]
enum Message {
    Http1(Exchange),
    Http2(Box<Call>),
}

impl Sending<'_> {
    /// Sends the request to one endpoint. A connection of HTTP/1 that turns out to be closed costs one
    /// more try there.
    async fn to(&mut self, address: SocketAddr, retries: &Retries<'_>) -> Result<Answer, Failure> {
        let Self { worker, slot, transport, limits, message } = self;
        let counters = &worker.counters;
        match message {
            Message::Http1(exchange) => {
                let carefully = exchange.has_body();
                if let Some(kept) = worker.pool.take(address, transport, retries.is_repeatable(), carefully) {
                    counters.upstream_reuses.add(1);
                    match exchange.run(kept, &worker.pool, limits).await {
                        Err(failure)
                            if failure.stale && retries.is_harmless(&failure) && exchange.rewind() => {}
                        outcome => return outcome,
                    }
                    counters.upstream_failures.add(1);
                    counters.upstream_retries.add(1);
                }
                // In boxes, as all that most requests do without.
                let mut upstream = Box::pin(Upstream::connect(address, transport, limits))
                    .await
                    .map_err(|error| Failure { error, unseen: true, stale: false })?;
                counters.upstream_connects.add(1);
                // An endpoint that ends closes connections that it has just taken: nothing was sent yet.
                if !retries.is_repeatable() && !upstream.stream.is_open() {
                    let error = Error::Closed { address, source: io::ErrorKind::UnexpectedEof.into() };
                    return Err(Failure { error, unseen: true, stale: false });
                }
                slot.reached(address);
                Box::pin(exchange.run(upstream, &worker.pool, limits)).await
            }
            Message::Http2(call) => Box::pin(call.run(&worker.connections, address, transport, limits)).await,
        }
    }

    /// Whether a connection of HTTP/2 ended for reasons of its own, and the request can be sent again.
    fn is_stale(&mut self, failure: &Failure, retries: &Retries<'_>) -> bool {
        matches!(self.message, Message::Http2(_))
            && failure.stale
            && retries.is_harmless(failure)
            && self.rewind()
    }

    /// Gets ready to send the request again, from the begin; false if part of it is gone.
    fn rewind(&mut self) -> bool {
        match &mut self.message {
            Message::Http1(exchange) => exchange.rewind(),
            Message::Http2(call) => call.rewind(),
        }
    }
}

/// Counts a failure and remembers what it says about the endpoint.
fn note(worker: &Worker, slot: &ClusterSlot, address: SocketAddr, failure: &Failure, retries: &Retries<'_>) {
    let error = &failure.error;
    if error.fault() != Fault::Upstream {
        return;
    }
    worker.counters.upstream_failures.add(1);
    // A connection that was kept too long says nothing about its endpoint.
    let counts = !failure.stale && retries.counts(error);
    let is_first = slot.failed(address, error, counts);
    match error {
        // Nothing that goes away by itself, as a rule: said once, until the endpoint is fine again.
        Error::Tls { .. } => {
            worker.counters.upstream_tls_failures.add(1);
            if is_first {
                tracing::warn!("{error}");
            }
        }
        _ => tracing::debug!("{error}"),
    }
}
