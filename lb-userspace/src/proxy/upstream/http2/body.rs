//! The body of an endpoint's answer, and the rest of the request.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::Frame;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::connections::Lease;
use super::upload::Upload;
use crate::proxy::error::Error;
use crate::proxy::headers::may_be_trailer;
use crate::proxy::upstream::Limits;

/// The body of an endpoint's answer. Dropped before its end, it resets its stream.
pub(in crate::proxy) struct Body {
    /// `None` at the end.
    open: Option<Open>,
    /// Still to come, by the endpoint's word.
    left: Option<u64>,
    in_trailers: bool,
    /// The answer was complete before the request.
    leaves_request: bool,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The rest of the request when the timer was started.
    waiting: Option<u64>,
}

struct Open {
    stream: RecvStream,
    rest: Option<Rest>,
    address: SocketAddr,
    /// Held to the end: the stream counts until then.
    lease: Lease,
}

/// The rest of a request whose answer has begun. A task sends it: the client may have to say more
/// before it wants to hear more.
pub(super) struct Rest {
    progress: Rc<Cell<u64>>,
    task: AbortHandle,
}

impl Rest {
    pub(super) fn send(mut upload: Upload, mut stream: SendStream<Bytes>) -> Self {
        let progress = Rc::new(Cell::new(upload.progress));
        let count = Rc::clone(&progress);
        let task = tokio::task::spawn_local(async move {
            let sent = poll_fn(|cx| {
                let polled = upload.poll(&mut stream, cx);
                count.set(upload.progress);
                polled
            });
            if sent.await.is_err() {
                stream.send_reset(Reason::CANCEL);
            }
        });
        Self { progress, task: task.abort_handle() }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Body {
    pub(super) fn new(
        stream: RecvStream,
        rest: Option<Rest>,
        length: Option<u64>,
        lease: Lease,
        address: SocketAddr,
        limits: &Limits,
    ) -> Self {
        let leaves_request = stream.is_end_stream() && rest.is_some();
        let open = (!stream.is_end_stream()).then_some(Open { stream, rest, address, lease });
        let (left, limit) = (length, limits.read);
        Self { open, left, in_trailers: false, leaves_request, limit, timer: None, waiting: None }
    }

    /// Nothing follows the head. `leaves_request`: nor the request's.
    pub(super) fn none(leaves_request: bool) -> Self {
        let limit = Duration::ZERO;
        Self { open: None, left: None, in_trailers: false, leaves_request, limit, timer: None, waiting: None }
    }

    /// The rest of the request's body will be taken by nobody.
    pub(in crate::proxy::upstream) fn leaves_request(&self) -> bool {
        self.leaves_request
    }

    /// Nothing more will come.
    pub(in crate::proxy::upstream) fn is_end(&self) -> bool {
        self.open.is_none()
    }

    /// How much is still to come, if the endpoint said so.
    pub(in crate::proxy::upstream) fn exact_len(&self) -> Option<u64> {
        if self.is_end() { Some(0) } else { self.left }
    }

    /// The next piece.
    pub(in crate::proxy::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        if !self.in_trailers {
            match open.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.waiting = None;
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // The client has room for it, or would not have asked.
                    let _ = open.stream.flow_control().release_capacity(data.len());
                    if open.stream.is_end_stream() {
                        self.open = None;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => return self.fail(error),
                Poll::Ready(None) => self.in_trailers = true,
                Poll::Pending => return self.poll_patience(cx),
            }
        }
        match open.stream.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => {
                self.open = None;
                let Some(mut trailers) = trailers else { return Poll::Ready(None) };
                let unfit: Vec<_> = trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
                for name in unfit {
                    trailers.remove(name);
                }
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Poll::Ready(Err(error)) => self.fail(error),
            Poll::Pending => self.poll_patience(cx),
        }
    }

    /// An endpoint that still gets the request is not late with its answer.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(open) = &self.open else { return Poll::Ready(None) };
        let progress = open.rest.as_ref().map_or(0, |rest| rest.progress.get());
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if self.waiting.replace(progress) != Some(progress) {
            timer.as_mut().reset(Instant::now() + limit);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let address = open.address;
        open.lease.retire();
        self.open = None;
        Poll::Ready(Some(Err(Error::ReadTimeout(address))))
    }

    fn fail(&mut self, error: h2::Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(open) = self.open.take() else { return Poll::Ready(None) };
        // A request that was still being sent when the answer was complete may be told to stop.
        let is_short = self.left.is_some_and(|left| left > 0);
        if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) && !is_short {
            return Poll::Ready(None);
        }
        if !error.is_reset() {
            open.lease.retire();
        }
        Poll::Ready(Some(Err(Error::Closed { address: open.address, source: io::Error::other(error) })))
    }
}
