//! The body of an endpoint's answer, read as the client takes it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::chunked::{Chunked, Piece};
use super::send::{SendError, Sender};
use crate::proxy::error::Error;
use crate::proxy::pipe::Pipe;
use crate::proxy::upstream::{Limits, Pool, Stream, Upstream};

/// How the end of a body is found.
pub(super) enum Source {
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
}

/// The body of an endpoint's answer. Nothing is read that the client has not room for. Gives its
/// connection back to the pool at the end; dropped before, it closes the connection.
pub(in crate::proxy) struct Body {
    /// `None` at the end.
    upstream: Option<Upstream>,
    /// The rest of the request, if the answer began before it was sent.
    sender: Option<Sender>,
    source: Source,
    keep: bool,
    /// The answer was complete, or had to be asked for the request's body, before that was sent.
    leaves_request: bool,
    /// The client broke the request off, and the endpoint is being told.
    ending: bool,
    pool: Rc<Pool>,
    limit: Duration,
    waiting: bool,
}

impl Body {
    pub(super) fn new(
        upstream: Upstream,
        sender: Option<Sender>,
        source: Source,
        keep: bool,
        pool: Rc<Pool>,
        limits: &Limits,
    ) -> Self {
        let is_complete = matches!(source, Source::Length(left) if left <= upstream.unread.len() as u64);
        let leaves_request = sender.as_ref().is_some_and(|sender| sender.held || is_complete);
        let (upstream, limit) = (Some(upstream), limits.read);
        let (ending, waiting) = (false, false);
        let mut body = Self { upstream, sender, source, keep, leaves_request, ending, pool, limit, waiting };
        if matches!(body.source, Source::Length(0)) {
            body.finish();
        }
        body
    }

    /// Nothing more will come.
    pub(in crate::proxy::upstream) fn is_end(&self) -> bool {
        self.upstream.is_none()
    }

    /// The rest of the request's body will be taken by nobody.
    pub(in crate::proxy::upstream) fn leaves_request(&self) -> bool {
        self.leaves_request
    }

    /// How much is still to come, if the endpoint said so.
    pub(in crate::proxy::upstream) fn exact_len(&self) -> Option<u64> {
        match (&self.upstream, &self.source) {
            (None, _) => Some(0),
            (Some(_), Source::Length(left)) => Some(*left),
            _ => None,
        }
    }

    /// The next piece.
    pub(in crate::proxy::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(None) };
        let address = upstream.address;
        if let Some(sender) = &mut self.sender {
            let before = sender.progress;
            let polled = sender.poll(&mut upstream.stream, cx);
            // An endpoint that still gets the request is not late with its answer.
            self.waiting &= sender.progress == before;
            match polled {
                Poll::Ready(Ok(())) => self.sender = None,
                // The endpoint may not want the rest, and a client that sends nonsense still gets
                // the answer; but the connection is not fit for another request.
                Poll::Ready(Err(error)) => {
                    (self.sender, self.keep) = (None, false);
                    self.ending = matches!(error, SendError::Client(_));
                }
                Poll::Pending => {}
            }
        }
        // An endpoint that waits for the rest of the request has to know that none will come.
        if self.ending && Pin::new(&mut upstream.stream).poll_shutdown(cx).is_ready() {
            self.ending = false;
        }
        loop {
            match next(&mut self.source, &mut upstream.unread) {
                Ok(Piece::Data(data)) => {
                    self.waiting = false;
                    if matches!(self.source, Source::Length(0)) {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::End(trailers)) => {
                    self.finish();
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::More) => {}
                Err(what) => return self.fail(Error::Protocol { address, what }).map(Some),
            }
            match self.pool.poll_read(upstream, cx) {
                Poll::Ready(Ok(0)) if matches!(self.source, Source::UntilClose) => {
                    self.upstream = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => {
                    return self.fail(ended(address)).map(Some);
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(source)) => return self.fail(Error::Closed { address, source }).map(Some),
                Poll::Pending => break,
            }
        }
        self.poll_late(cx).map(Some)
    }

    /// How much is left, where it goes on without a look at it: all that the socket has next.
    pub(in crate::proxy) fn plain_rest(&self) -> Option<u64> {
        let upstream = self.upstream.as_ref()?;
        match (&self.source, &upstream.stream) {
            (Source::Length(left), Stream::Plain(_))
                if upstream.unread.is_empty() && self.sender.is_none() =>
            {
                Some(*left)
            }
            _ => None,
        }
    }

    /// The next piece, into an empty pipe; how much it is. Only where there is a
    /// [`Body::plain_rest`], which it is a part of.
    pub(in crate::proxy) fn poll_splice(
        &mut self,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        let (Some(upstream), Source::Length(left)) = (&self.upstream, &mut self.source) else {
            return Poll::Ready(Ok(0));
        };
        let address = upstream.address;
        match pipe.poll_fill(upstream.stream.socket(), *left, cx) {
            Poll::Ready(Ok(0)) => self.fail(ended(address)),
            Poll::Ready(Ok(count)) => {
                self.waiting = false;
                *left -= count as u64;
                if *left == 0 {
                    self.finish();
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(source)) => self.fail(Error::Closed { address, source }),
            Poll::Pending => self.poll_late(cx),
        }
    }

    /// Waits for the endpoint, but not for ever.
    fn poll_late<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Pending };
        let address = upstream.address;
        let limit = self.limit;
        let mut timer = upstream.take_timer(limit);
        if !self.waiting {
            self.waiting = true;
            timer.restart(limit);
        }
        let polled = timer.poll(cx);
        upstream.timer = Some(timer);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => self.fail(Error::ReadTimeout(address)),
        }
    }

    fn fail<T>(&mut self, error: Error) -> Poll<Result<T, Error>> {
        self.upstream = None;
        Poll::Ready(Err(error))
    }

    /// The answer is complete. A request that is still being sent ends here: its endpoint has
    /// said all it will.
    fn finish(&mut self) {
        let sender = self.sender.take();
        let sent = sender.is_none();
        sender.into_iter().for_each(Sender::leave);
        if let Some(upstream) = self.upstream.take()
            && self.keep
            && sent
        {
            self.pool.put(upstream);
        }
    }
}

/// Closed before the body's end.
fn ended(address: SocketAddr) -> Error {
    Error::Closed { address, source: io::ErrorKind::UnexpectedEof.into() }
}

fn next(source: &mut Source, unread: &mut Bytes) -> Result<Piece, &'static str> {
    match source {
        Source::Chunked(chunked) => chunked.next(unread),
        Source::Length(0) => Ok(Piece::End(None)),
        _ if unread.is_empty() => Ok(Piece::More),
        Source::Length(left) => {
            let count = usize::try_from(*left).unwrap_or(usize::MAX).min(unread.len());
            *left -= count as u64;
            Ok(Piece::Data(unread.split_to(count)))
        }
        Source::UntilClose => Ok(Piece::Data(std::mem::take(unread))),
    }
}
