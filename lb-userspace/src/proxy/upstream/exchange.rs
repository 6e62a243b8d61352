//! One request and the head of its answer.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::{Source, UpstreamBody};
use super::head::{BodyLength, ResponseHead};
use super::send::{Blocked, SendError, Sender};
use super::{Pool, Upstream};
use crate::proxy::error::Error;
use crate::proxy::settings::Timeouts;

/// How long an endpoint may think about `Expect: 100-continue` before the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// One request, ready to be sent.
pub(in crate::proxy) struct Exchange {
    pub(in crate::proxy) head: Bytes,
    pub(in crate::proxy) method: Method,
    pub(in crate::proxy) body: Option<Incoming>,
    pub(in crate::proxy) chunked: bool,
    pub(in crate::proxy) expects_continue: bool,
    pub(in crate::proxy) wants_upgrade: bool,
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
    /// The request's body, untouched; `None` if part of it is gone.
    pub(in crate::proxy) untouched: Option<Option<Incoming>>,
    /// A kept connection ended without a byte of an answer: most likely the endpoint had closed
    /// it before the request came.
    pub(in crate::proxy) stale: bool,
}

impl Exchange {
    /// Sends the request and waits for the head of the answer, which may come before the body is
    /// sent completely: then the answer's body goes on sending.
    pub(in crate::proxy) async fn run(
        self,
        mut upstream: Upstream,
        pool: &Rc<Pool>,
        timeouts: &Timeouts,
    ) -> Result<Answer, Failure> {
        let address = upstream.address;
        let held = self.expects_continue && self.body.is_some();
        let mut sender = Sender::new(self.head, self.body, self.chunked, held);
        let mut sent = false;
        let mut send_broken = false;
        let mut answered = false;
        let mut armed = false;
        let mut timer = pin!(tokio::time::sleep(timeouts.read));

        let outcome = poll_fn(|cx| {
            loop {
                if !sent {
                    match sender.poll(&mut upstream.stream, cx) {
                        Poll::Ready(Ok(())) => (sent, armed) = (true, false),
                        Poll::Ready(Err(SendError::Client)) => return Poll::Ready(Err(Error::ClientGone)),
                        // It may have answered before it closed its ear: read on.
                        Poll::Ready(Err(SendError::Upstream)) => {
                            (sent, send_broken, armed) = (true, true, false);
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
                        armed = false;
                        match next_head(&mut upstream.unread, &self.method, &mut sender.held) {
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
                if !armed {
                    timer.as_mut().reset(Instant::now() + limit);
                    // While the body flows every wake is progress, so the time starts anew.
                    armed = sent || sender.held;
                }
                match timer.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if sender.held && !sent => {
                        sender.held = false;
                        armed = false;
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
                Err(Failure { error, untouched: None, stale: false })
            }
            Ok(head) => {
                let source = match head.length {
                    BodyLength::Known(left) => Source::Length(left),
                    BodyLength::Chunked => Source::Chunked(Box::default()),
                    BodyLength::UntilClose => Source::UntilClose,
                };
                let keep = head.keep_alive && !send_broken;
                let sender = (!sent).then_some(sender);
                let body = UpstreamBody::new(upstream, sender, source, keep, Rc::clone(pool), *timeouts);
                Ok(Answer::Response(head, Box::new(body)))
            }
            Err(error) => {
                let stale = upstream.reused && !answered && matches!(error, Error::Closed { .. });
                let untouched = (!sender.body_taken).then(|| sender.into_body());
                Err(Failure { error, untouched, stale })
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
) -> Result<Option<ResponseHead>, &'static str> {
    while !unread.is_empty() {
        let Some(head) = ResponseHead::take(unread, method)? else { return Ok(None) };
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(head));
        }
        if head.status == StatusCode::CONTINUE {
            *held = false;
        }
    }
    Ok(None)
}
