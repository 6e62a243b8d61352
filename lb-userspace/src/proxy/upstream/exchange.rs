//! One request and the head of its answer.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::body::{Source, UpstreamBody};
use super::head::{BodyLength, ResponseHead};
use super::send::{Blocked, SendError, Sender};
use super::{Pool, Upstream};
use crate::proxy::error::Error;
use crate::proxy::incoming_body::RequestBody;
use crate::proxy::settings::Timeouts;

/// How long an endpoint may think about `Expect: 100-continue` before the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Interim answers that an endpoint may send before the final one.
const MAX_INTERIM: usize = 16;

/// One request, ready to be sent.
pub(in crate::proxy) struct Request {
    pub(in crate::proxy) head: Bytes,
    pub(in crate::proxy) method: Method,
    pub(in crate::proxy) body: RequestBody,
    pub(in crate::proxy) chunked: bool,
    pub(in crate::proxy) expects_continue: bool,
    pub(in crate::proxy) wants_upgrade: bool,
}

/// A request on its way, possibly for the second time.
pub(in crate::proxy) struct Exchange {
    /// As it was, to begin anew.
    head: Bytes,
    /// The body waits for the endpoint's 100.
    held: bool,
    method: Method,
    wants_upgrade: bool,
    sender: Sender,
}

/// What came back.
pub(in crate::proxy) enum Answer {
    /// A response; its connection goes back to the pool by itself.
    Response(ResponseHead, Box<UpstreamBody>),
    /// 101: the connection now speaks something else.
    Switched(ResponseHead, Upstream),
}

/// Why nothing came back.
pub(in crate::proxy) struct Failure {
    pub(in crate::proxy) error: Error,
    /// The request, ready to be sent again; `None` where that could do harm, or part of it is gone.
    pub(in crate::proxy) again: Option<Exchange>,
}

impl Exchange {
    pub(in crate::proxy) fn new(request: Request) -> Self {
        let Request { head, method, body, chunked, expects_continue, wants_upgrade } = request;
        let held = expects_continue && !matches!(body, RequestBody::None);
        let sender = Sender::new(head.clone(), body, chunked, held);
        Self { head, held, method, wants_upgrade, sender }
    }

    /// Sends the request and waits for the head of the answer, which may come before the body is
    /// sent completely: then the answer's body goes on sending.
    pub(in crate::proxy) async fn run(
        mut self,
        mut upstream: Upstream,
        pool: &Rc<Pool>,
        timeouts: &Timeouts,
    ) -> Result<Answer, Failure> {
        let address = upstream.address;
        let sender = &mut self.sender;
        let mut interim = 0;
        let mut sent = false;
        let mut send_broken = false;
        let mut answered = false;
        // What the timer runs for; anything else makes it start anew.
        let mut waits_for = None;
        let mut timer = pin!(tokio::time::sleep(timeouts.read));

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
                        match next_head(&mut upstream.unread, &self.method, &mut sender.held, &mut interim) {
                            Ok(Some(head)) => return Poll::Ready(Ok(head)),
                            Ok(None) => continue,
                            Err(what) => return Poll::Ready(Err(Error::Protocol { address, what })),
                        }
                    }
                    Poll::Pending => {}
                }
                let (limit, error) = match (sent, sender.held, sender.blocked) {
                    (false, true, _) => (CONTINUE_WAIT, Error::SendTimeout(address)),
                    (false, _, Blocked::Client) => (timeouts.client, Error::ClientTimeout),
                    (false, _, Blocked::Upstream) => (timeouts.send, Error::SendTimeout(address)),
                    (true, ..) => (timeouts.read, Error::ReadTimeout(address)),
                };
                let wait = Some((sent, sender.held, sender.blocked, sender.progress));
                if waits_for != wait {
                    waits_for = wait;
                    timer.as_mut().reset(Instant::now() + limit);
                }
                match timer.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if sender.held && !sent => {
                        sender.held = false;
                    }
                    Poll::Ready(()) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await;

        match outcome {
            Ok(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                if self.wants_upgrade && head.upgrade.is_some() {
                    return Ok(Answer::Switched(head, upstream));
                }
                let error = Error::Protocol { address, what: "101 that nobody asked for" };
                Err(Failure { error, again: None })
            }
            Ok(head) => {
                let source = match head.length {
                    BodyLength::Known(left) => Source::Length(left),
                    BodyLength::Chunked => Source::Chunked(Box::default()),
                    BodyLength::UntilClose => Source::UntilClose,
                };
                let keep = head.keep_alive && !send_broken;
                let sender = (!sent).then_some(self.sender);
                let body = UpstreamBody::new(upstream, sender, source, keep, Rc::clone(pool), *timeouts);
                Ok(Answer::Response(head, Box::new(body)))
            }
            Err(error) => {
                let stale = upstream.reused && !answered && matches!(error, Error::Closed { .. });
                // A kept connection that ended without a byte of an answer was most likely closed
                // before the request came, but nobody can tell once something was written. So
                // only what may be done twice is (RFC 9110 section 9.2.2).
                let safe = stale && (self.method.is_idempotent() || !self.sender.has_written());
                let again = safe && self.sender.rewind(&self.head, self.held);
                Err(Failure { error, again: again.then_some(self) })
            }
        }
    }
}

/// The next head that is final or switches protocols. 100 lets the body go, which makes hyper
/// send the client its own 100; other interim answers (103) are not passed on.
fn next_head(
    unread: &mut Bytes,
    method: &Method,
    held: &mut bool,
    interim: &mut usize,
) -> Result<Option<ResponseHead>, &'static str> {
    while !unread.is_empty() {
        let Some(head) = ResponseHead::take(unread, method)? else { return Ok(None) };
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(head));
        }
        *interim += 1;
        if *interim > MAX_INTERIM {
            return Err("too many interim answers");
        }
        if head.status == StatusCode::CONTINUE {
            *held = false;
        }
    }
    Ok(None)
}
