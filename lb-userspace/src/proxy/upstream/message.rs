//! Requests to endpoints and what comes back, whatever protocol is spoken.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use http_body::Frame;

use super::{Upstream, http1, http2};
use crate::proxy::error::Error;
use crate::proxy::headers::write_line;
use crate::proxy::incoming_body::RequestBody;
use crate::proxy::stream::Gate;

/// Interim answers that an endpoint may send before the final one.
pub(super) const MAX_INTERIM: usize = 16;

/// One request, ready to be sent.
pub(in crate::proxy) struct Request {
    /// As HTTP/1 has it; HTTP/2 takes it apart again. So only one place decides what is in it.
    pub(in crate::proxy) head: Bytes,
    pub(in crate::proxy) method: Method,
    pub(in crate::proxy) body: RequestBody,
    pub(in crate::proxy) chunked: bool,
    pub(in crate::proxy) expects_continue: bool,
    pub(in crate::proxy) wants_upgrade: bool,
    /// Whom interim answers go to: a client of HTTP/1.1.
    pub(in crate::proxy) early: Option<Arc<Gate>>,
    /// Whoever asks takes the answer's head as [`Lines`]. Only HTTP/1.1 has them.
    pub(in crate::proxy) takes_lines: bool,
}

/// What came back.
pub(in crate::proxy) enum Answer {
    /// A response; its connection is used again by itself.
    Response(ResponseHead, Box<UpstreamBody>),
    /// 101: the connection now speaks something else.
    Switched(ResponseHead, Upstream),
}

/// Status and headers as the client gets them: what concerns only this connection is left out.
#[derive(Debug)]
pub(in crate::proxy) struct ResponseHead {
    pub(in crate::proxy) status: StatusCode,
    /// Empty if there are lines.
    pub(in crate::proxy) headers: HeaderMap,
    /// The same in another form, for those who have asked for it.
    pub(in crate::proxy) lines: Option<Lines>,
    /// For 101: what is spoken from here on.
    pub(in crate::proxy) upgrade: Option<HeaderValue>,
}

impl ResponseHead {
    /// An interim answer as an HTTP/1.1 client gets it. What a route's policy does with headers it does
    /// with those of the final answer, so that only links, which interim answers are for (RFC 8297), are
    /// passed on.
    pub(super) fn early_hints(&self) -> Vec<u8> {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let mut out = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_str()).into_bytes();
        for link in self.headers.get_all(header::LINK) {
            write_line(&mut out, "link", link.as_bytes());
        }
        if let Some(lines) = &self.lines {
            let is_link = |line: &&[u8]| line.starts_with(b"link: ");
            for line in lines.text.split_inclusive(|byte| *byte == b'\n').filter(is_link) {
                out.extend_from_slice(line);
            }
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// The head of an answer as an HTTP/1.1 client gets it, as far as it comes from the endpoint: the
/// status line and headers, without the empty line.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Lines {
    pub(in crate::proxy) text: Bytes,
    pub(in crate::proxy) has_date: bool,
    pub(in crate::proxy) has_server: bool,
    /// `Strict-Transport-Security`.
    pub(in crate::proxy) has_hsts: bool,
}

impl Lines {
    /// The text without the lines of a header, whose name is in lower case.
    pub(in crate::proxy) fn without(&self, name: &str) -> Bytes {
        let is_kept = |line: &&[u8]| {
            let rest = line.strip_prefix(name.as_bytes());
            !rest.is_some_and(|rest| rest.starts_with(b": "))
        };
        let lines = self.text.split_inclusive(|byte| *byte == b'\n');
        lines.filter(is_kept).flatten().copied().collect()
    }
}

/// Why nothing came back.
#[derive(Debug)]
pub(in crate::proxy) struct Failure {
    pub(in crate::proxy) error: Error,
    /// The endpoint has certainly not acted on the request.
    pub(in crate::proxy) unseen: bool,
    /// The connection had served others, and may have ended before the request came.
    pub(in crate::proxy) stale: bool,
}

/// The body of an endpoint's answer. Nothing is read that the client has no room for.
#[expect(clippy::large_enum_variant, reason = "always in a box of its own")]
pub(in crate::proxy) enum UpstreamBody {
    Http1(http1::Body),
    Http2(http2::Body),
}

impl UpstreamBody {
    /// Nothing more will come.
    pub(in crate::proxy) fn is_end(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end(),
            Self::Http2(body) => body.is_end(),
        }
    }

    /// The answer's head came, and nobody will take the rest of the request's body.
    pub(in crate::proxy) fn leaves_request(&self) -> bool {
        match self {
            Self::Http1(body) => body.leaves_request(),
            Self::Http2(body) => body.leaves_request(),
        }
    }

    /// How much is still to come, if the endpoint said so.
    pub(in crate::proxy) fn exact_len(&self) -> Option<u64> {
        match self {
            Self::Http1(body) => body.exact_len(),
            Self::Http2(body) => body.exact_len(),
        }
    }

    /// The body, if at least `most_copied` bytes of it are left that can go on without a look at them.
    pub(in crate::proxy) fn spliced(&mut self, most_copied: u64) -> Option<&mut http1::Body> {
        match self {
            Self::Http1(body) if body.plain_rest()? >= most_copied => Some(body),
            _ => None,
        }
    }

    /// The next piece.
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }
}
