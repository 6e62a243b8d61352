//! The body of a request on its way into a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use http_body::Body;

use crate::proxy::headers::may_be_trailer;
use crate::proxy::incoming_body::{BodyError, RequestBody};

/// A request's body. Takes what the endpoint has room for.
pub(super) struct Upload {
    body: RequestBody,
    data: Bytes,
    /// `body` is at its end.
    ended: bool,
    trailers: Option<HeaderMap>,
    /// The stream has the end of it.
    finished: bool,
    /// Rises whenever the client delivered or the endpoint took something.
    pub(super) progress: u64,
    /// The endpoint has no room.
    pub(super) is_blocked: bool,
}

/// Who broke the request.
#[derive(Debug)]
pub(super) enum UploadError {
    Client(BodyError),
    /// The endpoint wants no more.
    Upstream,
}

impl Upload {
    pub(super) fn new(body: RequestBody) -> Self {
        Self {
            ended: body.is_end_stream(),
            body,
            data: Bytes::new(),
            trailers: None,
            finished: false,
            progress: 0,
            is_blocked: false,
        }
    }

    /// Nothing: the request ends with its head.
    pub(super) fn is_empty(&self) -> bool {
        self.ended && self.data.is_empty() && self.trailers.is_none()
    }

    /// Begins anew; false if part of the body is gone.
    pub(super) fn rewind(&mut self) -> bool {
        if !self.body.rewind() {
            return false;
        }
        *self = Self::new(std::mem::replace(&mut self.body, RequestBody::None));
        true
    }

    /// It need not begin anew any more.
    pub(super) fn forget(&mut self) {
        self.body.forget();
    }

    /// Sends what can be sent now. Ready when the body is complete.
    pub(super) fn poll(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            self.is_blocked = false;
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            if !self.data.is_empty() {
                stream.reserve_capacity(self.data.len());
                while stream.capacity() == 0 {
                    match stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(_) => return Poll::Ready(Err(UploadError::Upstream)),
                        Poll::Pending => {
                            self.is_blocked = true;
                            return Poll::Pending;
                        }
                    }
                }
                let piece = self.data.split_to(stream.capacity().min(self.data.len()));
                let last = self.data.is_empty() && self.ended && self.trailers.is_none();
                self.progress += 1;
                self.finished = last;
                if stream.send_data(piece, last).is_err() {
                    return Poll::Ready(Err(UploadError::Upstream));
                }
            } else if self.ended {
                self.finished = true;
                let sent = match self.trailers.clone() {
                    Some(trailers) => stream.send_trailers(trailers),
                    None => stream.send_data(Bytes::new(), true),
                };
                if sent.is_err() {
                    return Poll::Ready(Err(UploadError::Upstream));
                }
            } else {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(None) => self.ended = true,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(UploadError::Client(error))),
                    Poll::Ready(Some(Ok(frame))) => {
                        self.progress += 1;
                        match frame.into_data() {
                            Ok(data) => self.take(data),
                            Err(frame) => self.end_with(frame.into_trailers().unwrap_or_default()),
                        }
                    }
                    Poll::Pending if stream.poll_reset(cx).is_ready() => {
                        return Poll::Ready(Err(UploadError::Upstream));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
    }

    fn take(&mut self, data: Bytes) {
        self.ended = self.body.is_end_stream();
        self.data = data;
    }

    fn end_with(&mut self, mut trailers: HeaderMap) {
        let unfit: Vec<_> = trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
        for name in unfit {
            trailers.remove(name);
        }
        self.ended = true;
        self.trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
    }
}
