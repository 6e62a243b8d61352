//! One request and the head of its answer.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use h2::{Reason, RecvStream};
use http::uri::Scheme;
use http::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::body::{Body, Rest};
use super::connections::{Connections, Lease};
use super::head;
use super::upload::{Upload, UploadError};
use crate::proxy::error::Error;
use crate::proxy::incoming_body::RequestBody;
use crate::proxy::stream::Gate;
use crate::proxy::upstream::message::{MAX_INTERIM, ResponseHead, UpstreamBody};
use crate::proxy::upstream::{Answer, Failure, Limits, Request, Transport};

/// A request on its way, possibly for the second time.
pub(in crate::proxy) struct Call {
    head: http::Request<()>,
    /// When the client gives up, by its own word.
    deadline: Option<Instant>,
    upload: Upload,
    /// Whom interim answers go to.
    early: Option<Arc<Gate>>,
    /// A task of its own goes on sending.
    handed_on: bool,
}

impl Call {
    /// # Errors
    /// If the request's head can't be sent over HTTP/2.
    pub(in crate::proxy) fn new(request: Request, transport: &Transport) -> Result<Self, Error> {
        let scheme = if transport.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        let head = head::request(&request.head, request.method, scheme)?;
        let deadline = head::grpc_timeout(head.headers()).and_then(|time| Instant::now().checked_add(time));
        Ok(Self { head, deadline, upload: Upload::new(request.body), early: request.early, handed_on: false })
    }

    /// Gets ready to send the request again, from the begin; false if part of it is gone.
    pub(in crate::proxy) fn rewind(&mut self) -> bool {
        !self.handed_on && self.upload.rewind()
    }

    /// Sends the request and waits for the head of the answer, which may come before the body is
    /// sent completely: then the rest is sent by a task of its own.
    pub(in crate::proxy) async fn run(
        &mut self,
        connections: &Rc<Connections>,
        address: SocketAddr,
        transport: &Transport,
        limits: &Limits,
    ) -> Result<Answer, Failure> {
        let lease = connections.lease(address, transport, limits.connect).await.map_err(|error| Failure {
            error,
            unseen: true,
            stale: false,
        })?;
        let begun = lease.sender().send_request(self.head.clone(), self.upload.is_empty());
        let (mut response, mut stream) = begun.map_err(|error| {
            // The connection had ended before.
            let unsent = error.is_io() || error.is_go_away();
            let failure = failure(error, address, &lease);
            Failure { unseen: failure.unseen || unsent, ..failure }
        })?;
        let upload = &mut self.upload;
        let mut sent = upload.is_empty();
        let early = self.early.as_deref();
        let mut interim = 0;
        let mut waits_for = None;
        let mut timer = pin!(tokio::time::sleep(limits.read));
        let outcome = poll_fn(|cx| {
            if !sent {
                match upload.poll(&mut stream, cx) {
                    // It may answer although it wants no more.
                    Poll::Ready(Ok(()) | Err(UploadError::Upstream)) => sent = true,
                    Poll::Ready(Err(UploadError::Client(why))) => {
                        return Poll::Ready(Err(Broken::Ours(why.into())));
                    }
                    Poll::Pending => {}
                }
            }
            while let Poll::Ready(Some(Ok(answer))) = response.poll_informational(cx) {
                interim += 1;
                let wrong = match answer.status() {
                    // Not there in HTTP/2 (RFC 9113 section 8.6). To a client on HTTP/1.1 it would be the end of HTTP.
                    StatusCode::SWITCHING_PROTOCOLS => Some("101 over HTTP/2"),
                    _ => (interim > MAX_INTERIM).then_some("too many interim answers"),
                };
                if let Some(what) = wrong {
                    return Poll::Ready(Err(Broken::Ours(Error::Protocol { address, what })));
                }
                if let Some(early) = early.filter(|_| answer.status() != StatusCode::CONTINUE) {
                    early.send_early(&head_of(answer).early_hints());
                }
            }
            match Pin::new(&mut response).poll(cx) {
                Poll::Ready(answer) => return Poll::Ready(answer.map_err(Broken::Theirs)),
                Poll::Pending => {}
            }
            let (limit, error): (Duration, fn(SocketAddr) -> Error) = match (sent, upload.is_blocked) {
                (false, false) => (limits.client, |_| Error::ClientTimeout),
                (false, true) => (limits.send, Error::SendTimeout),
                (true, _) => (limits.read, Error::ReadTimeout),
            };
            // The client's own limit says nothing about the endpoint.
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let (limit, error) = match left {
                Some(left) if left < limit => (left, (|_| Error::Deadline) as fn(SocketAddr) -> Error),
                _ => (limit, error),
            };
            let wait = Some((sent, upload.is_blocked, upload.progress));
            if waits_for != wait {
                waits_for = wait;
                timer.as_mut().reset(Instant::now() + limit);
            }
            timer.as_mut().poll(cx).map(|()| Err(Broken::Ours(error(address))))
        })
        .await;
        match outcome {
            Ok(answer) => {
                let rest = (!sent).then(|| {
                    self.handed_on = true;
                    let mut upload = std::mem::replace(&mut self.upload, Upload::new(RequestBody::None));
                    upload.forget();
                    Rest::send(upload, stream)
                });
                answer_of(answer, rest, self.head.method(), lease, address, limits)
            }
            Err(Broken::Theirs(error)) => Err(failure(error, address, &lease)),
            Err(Broken::Ours(error)) => {
                if matches!(error, Error::SendTimeout(_) | Error::ReadTimeout(_)) {
                    // Maybe nobody is there any more; others must not find out one by one.
                    lease.retire();
                }
                Err(Failure { error, unseen: false, stale: false })
            }
        }
    }
}

/// Who ended the request before there was an answer.
enum Broken {
    Ours(Error),
    Theirs(h2::Error),
}

fn answer_of(
    answer: Response<RecvStream>,
    rest: Option<Rest>,
    method: &Method,
    lease: Lease,
    address: SocketAddr,
    limits: &Limits,
) -> Result<Answer, Failure> {
    let (parts, stream) = answer.into_parts();
    let (status, mut headers) = (parts.status, parts.headers);
    if head::size(&headers) > limits.head {
        let error = Error::Protocol { address, what: "the head is too long" };
        return Err(Failure { error, unseen: false, stale: false });
    }
    head::clean(&mut headers);
    let bodyless =
        *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length =
        headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = match bodyless {
        true => Body::none(rest.is_some()),
        false => Body::new(stream, rest, length, lease, address, limits),
    };
    let head = ResponseHead { status, headers, lines: None, upgrade: None };
    Ok(Answer::Response(head, Box::new(UpstreamBody::Http2(body))))
}

fn head_of(answer: Response<()>) -> ResponseHead {
    let (parts, ()) = answer.into_parts();
    ResponseHead { status: parts.status, headers: parts.headers, lines: None, upgrade: None }
}

/// What an error of a stream says about the request (RFC 9113 sections 6.8 and 8.7).
fn failure(error: h2::Error, address: SocketAddr, lease: &Lease) -> Failure {
    let is_refused = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    // Only streams that the endpoint's GOAWAY leaves out end with it.
    let is_gone = error.is_go_away() && error.is_remote();
    // Nobody began to serve the connection: it waited in the queue of a listener that was closed.
    let is_mute = error.is_io() && !lease.has_heard();
    let unseen = is_refused || is_gone || is_mute;
    if !error.is_reset() {
        lease.retire();
    }
    let stale = is_refused || is_gone || (lease.reused && error.is_io());
    let error = if error.is_library() {
        Error::Protocol { address, what: "broken HTTP/2" }
    } else {
        Error::Closed { address, source: io::Error::other(error) }
    };
    Failure { error, unseen, stale }
}
