//! The bodies of answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::Error;
use super::finish::Finish;
use super::grpc;
use super::policy::Throttled;
use super::read_ahead::ReadAhead;
use super::streams::{self, WaitsFor};
use super::upstream::UpstreamBody;
use super::worker::Worker;

/// The body of an answer, counted as the client takes it.
pub(super) struct ResponseBody {
    content: Content,
    finish: Option<Finish>,
    /// The client gets a failure as gRPC's status.
    is_grpc: bool,
}

pub(super) enum Content {
    Own(Bytes),
    Upstream(Box<UpstreamBody>),
    Ahead(ReadAhead),
    Throttled(Box<Throttled<ResponseBody>>),
}

impl Content {
    /// An endpoint's answer, read ahead of the client as far as the route has it.
    pub(super) fn of_upstream(body: Box<UpstreamBody>, ahead: Option<u64>, worker: &Worker) -> Self {
        match ahead {
            Some(limit) if limit > 0 && !body.is_end() => {
                Self::Ahead(ReadAhead::start(body, limit, &worker.bodies))
            }
            _ => Self::Upstream(body),
        }
    }
}

impl ResponseBody {
    pub(super) fn new(content: Content, finish: Finish) -> Self {
        Self { content, finish: Some(finish), is_grpc: false }
    }

    /// An answer to a gRPC client that takes trailers.
    pub(super) fn for_grpc(mut self) -> Self {
        // A length is a promise that trailers can't take back.
        self.is_grpc = self.size_hint().exact().is_none();
        self
    }

    /// A part of another body, which is the one that is counted.
    pub(super) fn uncounted(content: Content) -> Self {
        Self { content, finish: None, is_grpc: false }
    }

    /// No body, and nothing counted: the request goes on in another form.
    pub(super) fn empty() -> Self {
        Self { content: Content::Own(Bytes::new()), finish: None, is_grpc: false }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match &mut this.content {
            Content::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Upstream(body) => body.poll_frame(cx),
            Content::Ahead(body) => body.poll_frame(cx),
            Content::Throttled(body) => Pin::new(&mut **body).poll_frame(cx),
        };
        let Some(finish) = &mut this.finish else { return frame };
        streams::note(if frame.is_pending() { WaitsFor::Endpoint } else { WaitsFor::Client });
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                finish.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            Poll::Ready(Some(Err(error))) => {
                finish.client.worker.counters.upstream_failures.add(1);
                if let Some(entry) = &mut finish.entry {
                    entry.error = Some(error.to_string());
                }
            }
            _ => {}
        }
        match frame {
            Poll::Ready(Some(Err(error))) if this.is_grpc => {
                this.content = Content::Own(Bytes::new());
                Poll::Ready(Some(Ok(Frame::trailers(grpc::trailers(&error)))))
            }
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_empty(),
            Content::Upstream(body) => body.is_end(),
            Content::Ahead(body) => body.is_end(),
            Content::Throttled(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Ahead(body) => body.exact_len().map_or_else(SizeHint::default, SizeHint::with_exact),
            Content::Throttled(body) => body.size_hint(),
            Content::Upstream(body) => body.exact_len().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
