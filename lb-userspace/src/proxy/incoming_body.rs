//! The bodies of requests: passed on as the client delivers them, or read to their end first.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::buffers::{Budget, Reserved};
use super::copy::{BodyCopy, CopyWriter, copy};
use super::error::Error;
use super::grpc;
use super::replay::Replay;
use super::worker::Worker;
use crate::model::{RoutePolicy, UpstreamProtocol};

/// Largest body that is read to its end before an endpoint sees the request. Larger ones are read
/// so far and then passed on as they come: they cost no more memory, and no disk.
const MAX_BUFFERED: usize = 1024 * 1024;

/// How long a client may send over HTTP/2 what nobody wants before it is told to stop. Some take a reset while
/// they send for a failure, whatever answer came before it (curl 7.88), and stop by themselves if the answer is one
/// of 400 and above. Behind others they would wait for ever.
const LINGER: Duration = Duration::from_secs(1);

/// Leaves an HTTP/2 client that got its answer some time to see it, and then resets the stream.
pub(super) fn linger(rest: Incoming) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(LINGER).await;
        drop(rest);
    });
}

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// There is none.
    None,
    /// As the client delivers it. What was taken is gone, but for the begin.
    Streaming(Streaming),
    /// Complete, to be sent as often as it takes.
    Buffered(Buffered),
}

/// A body as the client delivers it, up to a limit.
#[derive(Debug)]
pub(super) struct Streaming {
    /// Read ahead and not taken yet.
    ahead: Bytes,
    /// For `ahead`.
    reserved: Option<Reserved>,
    incoming: Incoming,
    limit: Limit,
    /// Who gets a copy.
    copy: Option<CopyWriter>,
    /// What was taken. `None`: nothing yet, or too much.
    replay: Option<Box<Replay>>,
    /// For `replay`.
    budget: Rc<Budget>,
    taken: bool,
    /// The client has some time to see that nobody takes the rest.
    lingers: bool,
}

/// A complete body.
#[derive(Debug)]
pub(super) struct Buffered {
    data: Bytes,
    trailers: Option<HeaderMap>,
    next: Next,
    reserved: Rc<Reserved>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Data,
    Trailers,
    Nothing,
}

/// Why a body does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    /// The client left, or sent what is no body.
    #[error("the client went away before its request was complete")]
    ClientGone,
    /// It is longer than the route takes.
    #[error("the request's body is longer than {0} bytes")]
    TooLarge(u64),
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::ClientGone => Self::ClientGone,
            BodyError::TooLarge(limit) => Self::BodyTooLarge(limit),
        }
    }
}

impl RequestBody {
    /// The body of a request as its route's policy has it: refused, and left where it is, if it says that
    /// it is too long; read to its end if the endpoint is to wait for it. Then nobody is left to answer
    /// `Expect`, which is taken out.
    ///
    /// # Errors
    /// If the body is too long, or the client does not deliver what is waited for.
    pub(super) async fn receive(
        worker: &Worker,
        parts: &mut Parts,
        untaken: &mut Option<Incoming>,
        policy: &RoutePolicy,
    ) -> Result<Self, Error> {
        let limit = Limit::new(policy.body.max_request);
        let announced = untaken.as_ref().map_or(0, |incoming| incoming.size_hint().lower());
        limit.check(announced)?;
        let Some(incoming) = untaken.take().filter(|incoming| !incoming.is_end_stream()) else {
            return Ok(Self::None);
        };
        let streaming = Streaming {
            ahead: Bytes::new(),
            reserved: None,
            incoming,
            limit,
            copy: None,
            replay: None,
            budget: Rc::clone(&worker.bodies),
            taken: false,
            lingers: parts.version == Version::HTTP_2,
        };
        // HTTP/1.0 knows no chunks: its endpoints have to be told the length.
        let waits = (policy.body.buffer_request || policy.upstream.http10)
            && announced <= MAX_BUFFERED as u64
            && !is_conversation(parts, policy);
        if !waits {
            return Ok(Self::Streaming(streaming));
        }
        let body = Box::pin(streaming.read_ahead(worker)).await?;
        parts.headers.remove(EXPECT);
        Ok(body)
    }

    /// A copy, which is written while the body is taken if it is not there yet. Trailers are left out.
    pub(super) fn copy(&mut self, budget: &Rc<Budget>) -> BodyCopy {
        let hint = self.size_hint();
        match self {
            Self::None => BodyCopy::none(),
            Self::Buffered(body) => {
                BodyCopy::Whole { data: body.data.clone(), _reserved: Some(Rc::clone(&body.reserved)) }
            }
            Self::Streaming(body) => {
                let (writer, reader) = copy(budget.open(), hint);
                body.copy = Some(writer);
                reader
            }
        }
    }

    /// Begins anew; false if part of the body is gone.
    pub(super) fn rewind(&mut self) -> bool {
        match self {
            Self::None => true,
            Self::Streaming(body) => match &mut body.replay {
                Some(replay) => {
                    replay.rewind();
                    true
                }
                None => !body.taken,
            },
            Self::Buffered(body) => {
                body.next = Next::Data;
                true
            }
        }
    }

    /// The answer is no failure: whoever goes on to send has to be stopped at once.
    pub(super) fn hurry(&mut self) {
        if let Self::Streaming(body) = self {
            body.lingers = false;
        }
    }

    /// Nobody takes the rest: the answer is complete.
    pub(super) fn leave(self) {
        if let Self::Streaming(body) = self
            && body.lingers
            && !body.incoming.is_end_stream()
        {
            linger(body.incoming);
        }
    }

    /// It need not begin anew any more: what was taken is let go.
    pub(super) fn forget(&mut self) {
        if let Self::Streaming(body) = self
            && body.replay.as_ref().is_none_or(|replay| replay.is_through())
        {
            (body.taken, body.replay) = (true, None);
        }
    }
}

impl Streaming {
    /// Reads the body to its end, or as far as there is memory for it.
    async fn read_ahead(mut self, worker: &Worker) -> Result<RequestBody, Error> {
        let mut reserved = worker.bodies.open();
        let mut data = BytesMut::new();
        let mut trailers = None;
        // The client's other piece, for which there was no room.
        let mut rest = Bytes::new();
        while !self.incoming.is_end_stream() {
            let frame = tokio::time::timeout(worker.settings.timeouts.client, self.incoming.frame()).await;
            let Some(frame) = frame.map_err(|_| Error::ClientTimeout)? else { break };
            match frame.map_err(|_| Error::ClientGone)?.into_data() {
                Ok(piece) => {
                    self.limit.take(piece.len())?;
                    let length = data.len() + piece.len();
                    let space = length.next_power_of_two();
                    if length > MAX_BUFFERED || !reserved.grow_to(space) {
                        rest = piece;
                        break;
                    }
                    // Copied: the pieces are slices of what the connection reads into, and a few
                    // bytes would hold all of it.
                    if space > data.capacity() {
                        data.reserve(space - data.len());
                    }
                    data.extend_from_slice(&piece);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if rest.is_empty() {
            let data = data.freeze();
            return Ok(RequestBody::Buffered(Buffered {
                data,
                trailers,
                next: Next::Data,
                reserved: Rc::new(reserved),
            }));
        }
        data.extend_from_slice(&rest);
        (self.ahead, self.reserved) = (data.freeze(), Some(reserved));
        Ok(RequestBody::Streaming(self))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::None => Poll::Ready(None),
            Self::Streaming(body) => body.poll_frame(cx),
            Self::Buffered(body) => Poll::Ready(body.next_frame().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Streaming(body) => {
                body.replay.as_ref().is_none_or(|replay| replay.is_through())
                    && body.ahead.is_empty()
                    && body.incoming.is_end_stream()
            }
            Self::Buffered(body) => match body.next {
                Next::Data => body.data.is_empty() && body.trailers.is_none(),
                Next::Trailers => body.trailers.is_none(),
                Next::Nothing => true,
            },
        }
    }

    /// Exact where the body's length is known and nothing follows it: then it needs no chunks.
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Streaming(body) => {
                let again = body.replay.as_ref().map_or(0, |replay| replay.left());
                let (ahead, incoming) = ((again + body.ahead.len()) as u64, body.incoming.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(ahead + incoming.lower());
                if let Some(upper) = incoming.upper() {
                    hint.set_upper(ahead + upper);
                }
                hint
            }
            Self::Buffered(body) if body.trailers.is_some() => SizeHint::new(),
            Self::Buffered(body) => match body.next {
                Next::Data => SizeHint::with_exact(body.data.len() as u64),
                Next::Trailers | Next::Nothing => SizeHint::with_exact(0),
            },
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.replay.as_mut().and_then(|replay| replay.next()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if !self.ahead.is_empty() {
            // Once it is taken, it is the endpoint's connection that bounds it.
            self.reserved = None;
            let data = std::mem::take(&mut self.ahead);
            self.write_copy(Some(&data));
            let frame = Frame::data(data);
            self.remember(&frame);
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                // A chunked body does not know its end before it is asked for more.
                if let Some(copy) = &self.copy {
                    copy.finish();
                }
                return Poll::Ready(None);
            }
            Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::ClientGone))),
            Some(Ok(frame)) => frame,
        };
        self.remember(&frame);
        if let Err(error) = self.limit.take(frame.data_ref().map_or(0, Bytes::len)) {
            return Poll::Ready(Some(Err(error)));
        }
        self.write_copy(frame.data_ref());
        Poll::Ready(Some(Ok(frame)))
    }

    /// Takes note of what was taken, from the begin on or not at all.
    fn remember(&mut self, frame: &Frame<Bytes>) {
        if !self.taken {
            self.taken = true;
            self.replay = Some(Box::new(Replay::new(&self.budget)));
        }
        if !self.replay.as_mut().is_some_and(|replay| replay.take(frame)) {
            self.replay = None;
        }
    }

    /// Hands on what was taken, and the end as soon as it is known: nobody need ask for more then.
    fn write_copy(&mut self, data: Option<&Bytes>) {
        let Some(copy) = &self.copy else { return };
        if !data.is_none_or(|data| copy.write(data)) {
            self.copy = None;
        } else if self.incoming.is_end_stream() {
            copy.finish();
        }
    }
}

impl Buffered {
    fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        if self.next == Next::Data {
            self.next = Next::Trailers;
            if !self.data.is_empty() {
                return Some(Frame::data(self.data.clone()));
            }
        }
        if self.next == Next::Trailers {
            self.next = Next::Nothing;
            return self.trailers.clone().map(Frame::trailers);
        }
        None
    }
}

/// How many bytes a body may still have.
#[derive(Clone, Copy, Debug)]
struct Limit {
    max: u64,
    left: u64,
}

impl Limit {
    /// Nothing and 0 are no limit.
    fn new(max: Option<u64>) -> Self {
        let max = max.filter(|max| *max > 0).unwrap_or(u64::MAX);
        Self { max, left: max }
    }

    fn check(&self, bytes: u64) -> Result<(), BodyError> {
        if bytes <= self.left { Ok(()) } else { Err(BodyError::TooLarge(self.max)) }
    }

    fn take(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.check(bytes as u64)?;
        self.left -= bytes as u64;
        Ok(())
    }
}

/// gRPC is a conversation: a client may wait for the first answer before it sends its second message.
fn is_conversation(parts: &Parts, policy: &RoutePolicy) -> bool {
    matches!(policy.upstream.protocol, Some(UpstreamProtocol::Grpc | UpstreamProtocol::Grpcs))
        || grpc::is_call(&parts.headers)
}
