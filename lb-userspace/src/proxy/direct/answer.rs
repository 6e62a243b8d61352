//! What the client gets.

use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;

use bytes::Bytes;
use http::HeaderValue;
use http::header::STRICT_TRANSPORT_SECURITY;
use smallvec::SmallVec;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::proxy::error::Error;
use crate::proxy::headers::write_line;
use crate::proxy::respond;
use crate::proxy::stream::{ClientStream, Wire};
use crate::proxy::upstream::{Lines, ResponseHead};
use crate::proxy::worker::Worker;

/// Writes one answer.
pub(super) struct Writer<'a, S> {
    stream: &'a mut ClientStream<S>,
    worker: &'a Worker,
    is_head: bool,
    /// No request follows.
    closes: bool,
    chunked: bool,
    hsts: Option<&'a HeaderValue>,
    /// The head as far as it came from the endpoint, until it is written.
    lines: Bytes,
    /// What follows it.
    tail: SmallVec<[u8; 128]>,
    begun: bool,
}

impl<'a, S: Wire> Writer<'a, S> {
    pub(super) fn new(
        stream: &'a mut ClientStream<S>,
        worker: &'a Worker,
        is_head: bool,
        closes: bool,
        hsts: Option<&'a HeaderValue>,
    ) -> Self {
        let (lines, tail) = (Bytes::new(), SmallVec::new());
        Self { stream, worker, is_head, closes, chunked: false, hsts, lines, tail, begun: false }
    }

    pub(super) fn stream(&mut self) -> &mut ClientStream<S> {
        self.stream
    }

    /// The request was for the head only.
    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }

    /// Something was written.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Gets the head ready. `body` is there if a body follows, with its length where that is known.
    pub(super) fn begin(&mut self, head: &ResponseHead, body: Option<Option<u64>>) {
        let none = Lines::default();
        let lines = head.lines.as_ref().unwrap_or(&none);
        self.lines = match lines.has_hsts && self.hsts.is_some() {
            true => lines.without(STRICT_TRANSPORT_SECURITY.as_str()),
            false => lines.text.clone(),
        };
        self.chunked = body == Some(None);
        if self.chunked {
            self.tail.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        if !lines.has_server {
            self.line("server", respond::SERVER_NAME.as_bytes());
        }
        self.end_head(!lines.has_date);
    }

    fn line(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.tail.extend_from_slice(part);
        }
    }

    fn end_head(&mut self, needs_date: bool) {
        if needs_date {
            self.tail.extend_from_slice(b"date: ");
            self.worker.date.write(&mut self.tail);
            self.tail.extend_from_slice(b"\r\n");
        }
        if let Some(hsts) = self.hsts {
            self.line(STRICT_TRANSPORT_SECURITY.as_str(), hsts.as_bytes());
        }
        if self.closes {
            self.tail.extend_from_slice(b"connection: close\r\n");
        }
        self.tail.extend_from_slice(b"\r\n");
    }

    /// The answer to a request that failed; counts the bytes of its body.
    pub(super) async fn own(&mut self, error: &Error, bytes: &mut u64) -> io::Result<()> {
        let response = respond::failure(error);
        let (status, body) = (response.status(), response.body());
        let reason = status.canonical_reason().unwrap_or_default();
        let mut lines =
            format!("HTTP/1.1 {} {reason}\r\ncontent-length: {}\r\n", status.as_str(), body.len())
                .into_bytes();
        for (name, value) in response.headers() {
            write_line(&mut lines, name.as_str(), value.as_bytes());
        }
        self.lines = lines.into();
        self.end_head(true);
        if self.is_head {
            return self.write(&[], true).await;
        }
        *bytes += body.len() as u64;
        self.write(body, true).await
    }

    /// Writes what is there of the head and a piece of the body; with `last`, its end.
    pub(super) async fn write(&mut self, data: &[u8], last: bool) -> io::Result<()> {
        self.begun = true;
        let mut size = [0; 18];
        let mut before: &[u8] = &[];
        let mut after: &[u8] = &[];
        if self.chunked {
            if !data.is_empty() {
                let mut rest = &mut size[..];
                write!(rest, "{:x}\r\n", data.len())?;
                let left = rest.len();
                before = &size[..size.len() - left];
                after = b"\r\n";
            }
            if last {
                after = if data.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
            }
        }
        let mut parts: [&[u8]; 5] = [&self.lines, &self.tail, before, data, after];
        let stream = &mut *self.stream;
        while parts.iter().any(|part| !part.is_empty()) {
            let slices = parts.map(IoSlice::new);
            let mut count = poll_fn(|cx| Pin::new(&mut *stream).poll_write_vectored(cx, &slices)).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            for part in &mut parts {
                let taken = count.min(part.len());
                *part = &part[taken..];
                count -= taken;
            }
        }
        // TLS says that it wrote what it only holds.
        stream.flush().await?;
        self.lines = Bytes::new();
        self.tail.clear();
        Ok(())
    }
}
