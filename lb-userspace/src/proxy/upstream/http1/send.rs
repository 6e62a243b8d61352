//! Sends a request: its head, then its body as the client delivers it.

use std::io::{IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::proxy::headers;
use crate::proxy::incoming_body::{BodyError, RequestBody};
use crate::proxy::upstream::Stream;

/// A request on its way to an endpoint. Holds at most one piece of the body.
pub(super) struct Sender {
    head: Bytes,
    /// The size line of a chunk.
    line: Line,
    data: Bytes,
    end: Bytes,
    body: RequestBody,
    /// The body's last piece was taken.
    complete: bool,
    chunked: bool,
    /// The body waits until the endpoint asks for it (`Expect: 100-continue`).
    pub(super) held: bool,
    /// Something was written.
    wrote: bool,
    /// Rises whenever the client delivered or the endpoint took something.
    pub(super) progress: u64,
    /// Who is waited for.
    pub(super) blocked: Blocked,
}

/// Who a sender waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    Client,
    Upstream,
}

/// Who broke the request.
#[derive(Debug)]
pub(super) enum SendError {
    Client(BodyError),
    Upstream,
}

impl Sender {
    pub(super) fn new(head: Bytes, body: RequestBody, chunked: bool, held: bool) -> Self {
        Self {
            head,
            line: Line::default(),
            data: Bytes::new(),
            end: Bytes::new(),
            complete: matches!(body, RequestBody::None),
            body,
            chunked,
            held,
            wrote: false,
            progress: 0,
            blocked: Blocked::Upstream,
        }
    }

    /// Whether more than a head is to be sent.
    pub(super) fn has_body(&self) -> bool {
        !matches!(self.body, RequestBody::None)
    }

    /// Whether an endpoint may have seen something of the request.
    pub(super) fn has_written(&self) -> bool {
        self.wrote
    }

    /// Gets ready to send the request to somebody else, from the begin; false if part of it is
    /// gone. `head` is what the sender began with.
    pub(super) fn rewind(&mut self, head: &Bytes, held: bool) -> bool {
        if !self.wrote {
            return true;
        }
        if !self.body.rewind() {
            return false;
        }
        self.complete = matches!(self.body, RequestBody::None);
        (self.line, self.data, self.end) = (Line::default(), Bytes::new(), Bytes::new());
        (self.head, self.held, self.wrote) = (head.clone(), held, false);
        true
    }

    /// The answer is no failure.
    pub(super) fn hurry(&mut self) {
        self.body.hurry();
    }

    /// Nobody takes the rest.
    pub(super) fn leave(self) {
        self.body.leave();
    }

    /// It need not begin anew any more.
    pub(super) fn forget(&mut self) {
        self.body.forget();
    }

    /// Sends what can be sent now. Ready when the request is complete.
    pub(super) fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            let mut waits_for_client = false;
            if self.data.is_empty() && self.end.is_empty() && self.line.rest().is_empty() {
                match self.poll_body(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => waits_for_client = true,
                }
            }
            let parts = [&self.head[..], self.line.rest(), &self.data[..], &self.end[..]];
            if parts.iter().all(|part| part.is_empty()) {
                if !waits_for_client && !self.complete {
                    // An empty piece of body.
                    continue;
                }
                // TLS says that it wrote what it only holds.
                let flushed = Pin::new(&mut *stream).poll_flush(cx);
                self.blocked = match &flushed {
                    Poll::Pending => Blocked::Upstream,
                    Poll::Ready(_) => Blocked::Client,
                };
                return match flushed {
                    Poll::Ready(Err(_)) => Poll::Ready(Err(SendError::Upstream)),
                    Poll::Ready(Ok(())) if self.complete => Poll::Ready(Ok(())),
                    _ => Poll::Pending,
                };
            }
            let slices = parts.map(IoSlice::new);
            match Pin::new(&mut *stream).poll_write_vectored(cx, &slices) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(SendError::Upstream));
                }
                Poll::Ready(Ok(count)) => self.advance(count),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(SendError::Upstream)),
                Poll::Pending => {
                    self.blocked = Blocked::Upstream;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes the next piece of the body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.complete {
            return Poll::Ready(Ok(()));
        }
        if self.held {
            return Poll::Pending;
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {
                self.finish(None);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Some(Err(why))) => return Poll::Ready(Err(SendError::Client(why))),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        self.progress += 1;
        match frame.into_data() {
            Ok(data) => {
                let last = self.body.is_end_stream();
                if self.chunked && !data.is_empty() {
                    self.line = Line::size(data.len());
                    self.end = Bytes::from_static(b"\r\n");
                }
                self.data = data;
                if last {
                    self.finish(None);
                }
            }
            Err(frame) => self.finish(frame.into_trailers().ok()),
        }
        Poll::Ready(Ok(()))
    }

    /// The body is complete.
    fn finish(&mut self, trailers: Option<http::HeaderMap>) {
        self.complete = true;
        if !self.chunked {
            return;
        }
        let mut end = self.end.to_vec();
        end.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().flatten() {
            if headers::may_be_trailer(name) {
                headers::write_line(&mut end, name.as_str(), value.as_bytes());
            }
        }
        end.extend_from_slice(b"\r\n");
        self.end = end.into();
    }

    fn advance(&mut self, mut count: usize) {
        self.wrote = true;
        self.progress += 1;
        let mut take = |len: usize| {
            let taken = count.min(len);
            count -= taken;
            taken
        };
        let head = take(self.head.len());
        let line = take(self.line.rest().len());
        let data = take(self.data.len());
        let end = take(self.end.len());
        self.head.advance(head);
        self.line.start += line;
        self.data.advance(data);
        self.end.advance(end);
    }
}

/// `1a2b\r\n`, at most 16 digits.
#[derive(Default)]
struct Line {
    bytes: [u8; 18],
    start: usize,
    len: usize,
}

impl Line {
    fn size(size: usize) -> Self {
        let mut line = Self::default();
        let mut rest = &mut line.bytes[..];
        write!(rest, "{size:x}\r\n").expect("16 digits and a line end fit in 18 bytes");
        line.len = 18 - rest.len();
        line
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.len]
    }
}
