//! A request's head as its endpoint gets it.

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{self, HeaderValue};
use http::request::Parts;
use hyper::body::Body;

use super::connection::Client;
use super::forwarded;
use super::headers::{Connection, is_unsafe, write_line};
use super::hops;
use super::incoming_body::RequestBody;
use super::policy::Edits;
use super::trace;
use crate::model::RoutePolicy;
use crate::route::Target;

/// How the request's body is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    pub(super) fn of(parts: &Parts, body: &RequestBody) -> Self {
        match body.size_hint().exact() {
            Some(0) if !parts.headers.contains_key(header::CONTENT_LENGTH) => Self::None,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }
}

/// The request's head as the endpoint gets it.
#[expect(
    clippy::too_many_arguments,
    reason = "each is one fact of the request; a struct would only rename them"
)]
pub(super) fn write_head(
    client: &Client,
    parts: &Parts,
    host: &str,
    target: &Target,
    policy: &RoutePolicy,
    request_id: &[u8; 32],
    framing: &Framing,
    upgrading: bool,
    edits: &Edits,
) -> Bytes {
    let worker = &client.worker;
    let mut scratch = worker.heads.borrow_mut();
    scratch.clear();
    scratch.reserve(1024);
    let out: &mut BytesMut = &mut scratch;
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(target.path_and_query().as_bytes());
    let upstream = &policy.upstream;
    out.extend_from_slice(if upstream.http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    write_line(out, "host", edits.host().map_or(host.as_bytes(), HeaderValue::as_bytes));

    let connections = parts.headers.get_all(header::CONNECTION);
    let connection = Connection::parse(connections.iter().map(HeaderValue::as_bytes));
    let mut cookies = 0;
    for (name, value) in &parts.headers {
        match *name {
            header::HOST | header::CONTENT_LENGTH => {}
            _ if name.as_str() == hops::NAME => {}
            header::EXPECT if parts.version == Version::HTTP_2 => {}
            _ if edits.drops(name.as_str()) => {}
            // Crumbs are joined below (RFC 9113 section 8.2.3).
            header::COOKIE => cookies += 1,
            header::TE if has_trailers_token(value) => out.extend_from_slice(b"te: trailers\r\n"),
            _ if trace::is_about_traces(name) && !trace::is_valid(&parts.headers) => {}
            _ if connection.drops(name) || forwarded::is_ours(name) || is_unsafe(name) => {}
            _ => write_line(out, name.as_str(), value.as_bytes()),
        }
    }
    if cookies > 0 {
        let crumbs: Vec<&[u8]> =
            parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        write_line(out, "cookie", &crumbs.join(&b"; "[..]));
    }
    let about = forwarded::Client {
        ip: &client.ip,
        scheme: if client.tls { "https" } else { "http" },
        port: client.local.port(),
        host,
        request_id: std::str::from_utf8(request_id).unwrap_or_default(),
        trusted: client.trusted,
        forwarded: worker.settings.forwarded,
    };
    // Who stands before whom only matters where the peer's word counts.
    let config = client.trusted.then(|| worker.config());
    let trusted = config.as_ref().map_or(&[][..], |config| config.trusted_proxies(&worker.settings));
    about.write(&parts.headers, trusted, edits, out);
    for (name, value) in edits.lines() {
        write_line(out, name.as_str(), value.as_bytes());
    }
    if let Some(hops) = hops::next(&parts.headers) {
        write_line(out, hops::NAME, hops.as_bytes());
    }
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            let mut digits = itoa::Buffer::new();
            write_line(out, "content-length", digits.format(*length).as_bytes());
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    match &upstream.connection {
        Some(value) => write_line(out, "connection", value.as_bytes()),
        None if upgrading => out.extend_from_slice(b"connection: upgrade\r\n"),
        None if upstream.http10 => out.extend_from_slice(b"connection: close\r\n"),
        None => {}
    }
    if let Some(protocol) = parts.headers.get(header::UPGRADE).filter(|_| upgrading) {
        write_line(out, "upgrade", protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    scratch.split().freeze()
}

fn has_trailers_token(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}
