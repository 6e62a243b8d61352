//! One request and the head of its answer.

use std::cell::RefMut;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};

use super::Body;
use super::body::Source;
use super::head::{BodyLength, Framing, take_head};
use super::send::{Blocked, SendError, Sender};
use crate::proxy::error::Error;
use crate::proxy::incoming_body::RequestBody;
use crate::proxy::stream::Gate;
use crate::proxy::upstream::message::{MAX_INTERIM, ResponseHead, UpstreamBody};
use crate::proxy::upstream::receipt::Receipt;
use crate::proxy::upstream::{Answer, Failure, Limits, Pool, Request, Upstream};

/// How long an endpoint may think about `Expect: 100-continue` before the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A request on its way, possibly for the second time.
pub(in crate::proxy) struct Exchange {
    /// As it was, to begin anew.
    head: Bytes,
    /// The body waits for the endpoint's 100.
    held: bool,
    method: Method,
    wants_upgrade: bool,
    takes_lines: bool,
    early: Option<Arc<Gate>>,
    sender: Sender,
    /// An answer's body goes on sending.
    handed_on: bool,
}

impl Exchange {
    pub(in crate::proxy) fn new(request: Request) -> Self {
        let Request { head, method, body, chunked, expects_continue, wants_upgrade, takes_lines, early } =
            request;
        let held = expects_continue && !matches!(body, RequestBody::None);
        let sender = Sender::new(head.clone(), body, chunked, held);
        Self { head, held, method, wants_upgrade, takes_lines, early, sender, handed_on: false }
    }

    /// Whether more than a head is to be sent, which may not be there a second time.
    pub(in crate::proxy) fn has_body(&self) -> bool {
        self.sender.has_body()
    }

    /// Gets ready to send the request again, from the begin; false if part of it is gone.
    pub(in crate::proxy) fn rewind(&mut self) -> bool {
        !self.handed_on && self.sender.rewind(&self.head, self.held)
    }

    /// Sends the request and waits for the head of the answer, which may come before the body is
    /// sent completely: then the answer's body goes on sending.
    pub(in crate::proxy) async fn run(
        &mut self,
        mut upstream: Upstream,
        pool: &Rc<Pool>,
        limits: &Limits,
    ) -> Result<Answer, Failure> {
        let address = upstream.address;
        let sender = &mut self.sender;
        let mut interim = Interim { count: 0, taker: self.early.as_deref() };
        // Whoever may be asked twice on a connection that may be old is asked twice: nothing to find out.
        let must_know = !self.method.is_idempotent() || !upstream.reused;
        let receipt = must_know.then(|| Receipt::before(upstream.stream.socket())).flatten();
        let mut sent = false;
        let mut send_broken = false;
        let mut answered = false;
        // What the timer runs for; anything else makes it start anew.
        let mut waits_for = None;
        let mut timer = upstream.take_timer(limits.read);

        let outcome = poll_fn(|cx| {
            loop {
                if !sent {
                    match sender.poll(&mut upstream.stream, cx) {
                        Poll::Ready(Ok(())) => sent = true,
                        Poll::Ready(Err(SendError::Client(why))) => return Poll::Ready(Err(why.into())),
                        // It may have answered before it closed its ear: read on.
                        Poll::Ready(Err(SendError::Upstream)) => {
                            (sent, send_broken) = (true, true);
                        }
                        Poll::Pending => {}
                    }
                }
                match pool.poll_read(&mut upstream, cx) {
                    Poll::Ready(Ok(0)) => {
                        let source = io::ErrorKind::UnexpectedEof.into();
                        return Poll::Ready(Err(Error::Closed { address, source }));
                    }
                    Poll::Ready(Err(source)) => return Poll::Ready(Err(Error::Closed { address, source })),
                    Poll::Ready(Ok(_)) => {
                        answered = true;
                        waits_for = None;
                        let taker = self.takes_lines.then(|| pool.lines());
                        let before = interim.count;
                        let next = next_head(
                            &mut upstream.unread,
                            &self.method,
                            taker,
                            limits,
                            &mut sender.held,
                            &mut interim,
                        );
                        if interim.count > before {
                            // The client's connection is polled by the same task, and writes what it finds.
                            cx.waker().wake_by_ref();
                        }
                        match next {
                            Ok(Some(head)) => return Poll::Ready(Ok(head)),
                            Ok(None) => continue,
                            Err(what) => return Poll::Ready(Err(Error::Protocol { address, what })),
                        }
                    }
                    Poll::Pending => {}
                }
                let (limit, error) = match (sent, sender.held, sender.blocked) {
                    (false, true, _) => (CONTINUE_WAIT, Error::SendTimeout(address)),
                    (false, _, Blocked::Client) => (limits.client, Error::ClientTimeout),
                    (false, _, Blocked::Upstream) => (limits.send, Error::SendTimeout(address)),
                    (true, ..) => (limits.read, Error::ReadTimeout(address)),
                };
                let wait = Some((sent, sender.held, sender.blocked, sender.progress));
                if waits_for != wait {
                    waits_for = wait;
                    timer.restart(limit);
                }
                match timer.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if sender.held && !sent => {
                        sender.held = false;
                    }
                    Poll::Ready(()) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await;
        upstream.timer = Some(timer);

        let failure = |error| Failure { error, unseen: false, stale: false };
        match outcome {
            Ok((head, _)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                if self.wants_upgrade && head.upgrade.is_some() {
                    return Ok(Answer::Switched(head, upstream));
                }
                Err(failure(Error::Protocol { address, what: "101 that nobody asked for" }))
            }
            Ok((head, framing)) => {
                let source = match framing.length {
                    BodyLength::Known(left) => Source::Length(left),
                    BodyLength::Chunked => Source::Chunked(Box::default()),
                    BodyLength::UntilClose => Source::UntilClose,
                };
                let keep = framing.keep_alive && !send_broken;
                let sender = (!sent).then(|| {
                    self.handed_on = true;
                    self.sender.forget();
                    if !(head.status.is_client_error() || head.status.is_server_error()) {
                        self.sender.hurry();
                    }
                    std::mem::replace(
                        &mut self.sender,
                        Sender::new(Bytes::new(), RequestBody::None, false, false),
                    )
                });
                let body = Body::new(upstream, sender, source, keep, Rc::clone(pool), limits);
                Ok(Answer::Response(head, Box::new(UpstreamBody::Http1(body))))
            }
            Err(error) => {
                // A kept connection that ended without a byte of an answer was most likely closed
                // before the request came, but nobody can tell once something was written.
                let stale = upstream.reused && !answered && matches!(error, Error::Closed { .. });
                let has_ended = matches!(&error, Error::Closed { source, .. }
                    if source.kind() == io::ErrorKind::UnexpectedEof);
                let untaken = has_ended
                    && !answered
                    && receipt.is_some_and(|receipt| receipt.is_blank(upstream.stream.socket()));
                Err(Failure { unseen: untaken || !sender.has_written(), stale, ..failure(error) })
            }
        }
    }
}

/// Answers before the final one.
struct Interim<'a> {
    count: usize,
    taker: Option<&'a Gate>,
}

/// The next head that is final or switches protocols. 100 lets the body go, which makes hyper
/// send the client its own 100; of others (103) the client gets the links.
fn next_head(
    unread: &mut Bytes,
    method: &Method,
    mut lines: Option<RefMut<'_, BytesMut>>,
    limits: &Limits,
    held: &mut bool,
    interim: &mut Interim<'_>,
) -> Result<Option<(ResponseHead, Framing)>, &'static str> {
    while !unread.is_empty() {
        let Some((head, framing)) = take_head(unread, method, lines.as_deref_mut(), limits.head)? else {
            return Ok(None);
        };
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some((head, framing)));
        }
        interim.count += 1;
        if interim.count > MAX_INTERIM {
            return Err("too many interim answers");
        }
        if head.status == StatusCode::CONTINUE {
            *held = false;
        } else if let Some(taker) = interim.taker {
            taker.send_early(&head.early_hints());
        }
    }
    Ok(None)
}
