//! The head of an endpoint's answer, and how long its body is.

use std::mem::MaybeUninit;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::proxy::headers::Connection;
use crate::proxy::upstream::message::{Lines, ResponseHead};

const MAX_HEADERS: usize = 100;

/// How an HTTP/1 answer goes on after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) length: BodyLength,
    /// The endpoint keeps the connection open.
    pub(super) keep_alive: bool,
}

/// Where the body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    Known(u64),
    Chunked,
    UntilClose,
}

/// Takes a head of at most `limit` bytes from `input`; `None` if it is not complete yet. With
/// `lines`, the head is written there and given as [`Lines`], without a map.
pub(super) fn take_head(
    input: &mut Bytes,
    method: &Method,
    lines: Option<&mut BytesMut>,
    limit: usize,
) -> Result<Option<(ResponseHead, Framing)>, &'static str> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        input,
        &mut space,
    );
    let end = match parsed {
        Ok(httparse::Status::Complete(end)) if end <= limit => end,
        Ok(httparse::Status::Partial) if input.len() <= limit => return Ok(None),
        Ok(_) => return Err("the head is too long"),
        Err(_) => return Err("the head can't be parsed"),
    };
    let (Some(version), Some(code)) = (response.version, response.code) else {
        return Err("the status line is not complete");
    };
    let status = StatusCode::from_u16(code).map_err(|_| "the status is out of range")?;
    let connection = Connection::parse(
        response
            .headers
            .iter()
            .filter(|line| line.name.eq_ignore_ascii_case("connection"))
            .map(|line| line.value),
    );
    let mut length = Length::default();
    let head = match lines {
        Some(out) => {
            // There it would say something of another answer's body.
            let lengthless = status == StatusCode::NO_CONTENT
                || (status == StatusCode::NOT_MODIFIED && *method != Method::HEAD);
            write_lines(status, response.headers, &connection, &mut length, lengthless, out)?
        }
        None => map(status, response.headers, &connection, &mut length, input)?,
    };
    if length.chunked && (length.told.is_some() || version == 0) {
        return Err("Transfer-Encoding where it must not be");
    }
    let bodyless = *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let length = match (bodyless, length.chunked, length.told) {
        (true, ..) => BodyLength::Known(0),
        (_, true, _) => BodyLength::Chunked,
        (_, false, Some(length)) => BodyLength::Known(length),
        (_, false, None) => BodyLength::UntilClose,
    };
    let keep_alive = version == 1 && !connection.close && length != BodyLength::UntilClose;
    let _ = input.split_to(end);
    Ok(Some((head, Framing { length, keep_alive })))
}

/// What headers say of the body's length.
#[derive(Default)]
struct Length {
    told: Option<u64>,
    chunked: bool,
}

impl Length {
    fn tell(&mut self, value: &[u8]) -> Result<(), &'static str> {
        let length = decimal(value).ok_or("Content-Length is not a number")?;
        match self.told.replace(length) {
            Some(before) if before != length => Err("two Content-Length disagree"),
            _ => Ok(()),
        }
    }

    fn code(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err("Transfer-Encoding is something else than chunked");
        }
        self.chunked = true;
        Ok(())
    }
}

/// The head with its headers as a map, whose values are slices of `input`.
fn map(
    status: StatusCode,
    lines: &[httparse::Header<'_>],
    connection: &Connection,
    length: &mut Length,
    input: &Bytes,
) -> Result<ResponseHead, &'static str> {
    let mut headers = HeaderMap::with_capacity(lines.len() + 2);
    let mut upgrade = None;
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| "a header's name is bad")?;
        let value = HeaderValue::from_maybe_shared(input.slice_ref(line.value))
            .map_err(|_| "a header's value is bad")?;
        match name {
            header::CONTENT_LENGTH => {
                length.tell(line.value)?;
                headers.insert(name, value);
            }
            header::TRANSFER_ENCODING => length.code(line.value)?,
            header::UPGRADE => upgrade = Some(value),
            // Announces trailers, which are passed on.
            header::TRAILER => drop(headers.append(name, value)),
            _ if connection.drops(&name) => {}
            _ => drop(headers.append(name, value)),
        }
    }
    Ok(ResponseHead { status, headers, lines: None, upgrade })
}

/// The head as lines, written one after the other into `out`; without Content-Length if `lengthless`.
fn write_lines(
    status: StatusCode,
    lines: &[httparse::Header<'_>],
    connection: &Connection,
    length: &mut Length,
    lengthless: bool,
    out: &mut BytesMut,
) -> Result<ResponseHead, &'static str> {
    out.clear();
    let bytes: usize = lines.iter().map(|line| line.name.len() + line.value.len() + 4).sum();
    out.reserve(bytes + 64);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    let (mut has_date, mut has_server, mut has_hsts) = (false, false, false);
    let mut upgrade = None;
    for line in lines {
        let name = line.name.as_bytes();
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            4 => has_date |= is("date"),
            6 => has_server |= is("server"),
            14 if is("content-length") => {
                let again = length.told.is_some();
                length.tell(line.value)?;
                if again || lengthless {
                    continue;
                }
            }
            17 if is("transfer-encoding") => {
                length.code(line.value)?;
                continue;
            }
            7 if is("upgrade") => {
                upgrade = HeaderValue::from_bytes(line.value).ok();
                continue;
            }
            25 => has_hsts |= is("strict-transport-security"),
            _ => {}
        }
        if connection.drops_written(name) {
            continue;
        }
        let at = out.len();
        out.put_slice(name);
        out[at..].make_ascii_lowercase();
        out.put_slice(b": ");
        out.put_slice(line.value);
        out.put_slice(b"\r\n");
    }
    let lines = Lines { text: out.split().freeze(), has_date, has_server, has_hsts };
    Ok(ResponseHead { status, headers: HeaderMap::new(), lines: Some(lines), upgrade })
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads() {
        use BodyLength::{Chunked, Known, UntilClose};
        let get = Method::GET;
        for (method, text, expect) in [
            (&get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((200, Known(5), true))),
            (
                &get,
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
                Ok((200, Known(5), false)),
            ),
            (&get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok((200, Chunked, true))),
            (&get, "HTTP/1.1 200 OK\r\n\r\n", Ok((200, UntilClose, false))),
            (&get, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((200, Known(5), false))),
            (&get, "HTTP/1.1 204 No Content\r\n\r\n", Ok((204, Known(0), true))),
            (&get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Ok((304, Known(0), true))),
            (&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((200, Known(0), true))),
            (&get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Err(())),
            (&get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Err(())),
            (&get, "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", Err(())),
            (&get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(())),
            (&get, "HTTP/1.1 200 OK\r\nX : y\r\n\r\n", Err(())),
            (&get, "HTTP/1.1 99 OK\r\n\r\n", Err(())),
            (&get, "hello\r\n\r\n", Err(())),
            (&get, &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(100)), Err(())),
        ] {
            let mut input = Bytes::copy_from_slice(text.as_bytes());
            let mut same = input.clone();
            let mut out = BytesMut::new();
            let as_lines = take_head(&mut same, method, Some(&mut out), 100)
                .map(|head| head.expect("complete"))
                .map(|(head, framing)| (head.status.as_u16(), framing.length, framing.keep_alive))
                .map_err(|_| ());
            assert_eq!(as_lines, expect, "{text:?} as lines");
            let got = take_head(&mut input, method, None, 100)
                .map(|head| head.expect("complete"))
                .map(|(head, framing)| (head.status.as_u16(), framing.length, framing.keep_alive))
                .map_err(|_| ());
            assert_eq!(got, expect, "{text:?}");
            if got.is_ok() {
                for end in 0..text.len() {
                    let mut part = Bytes::copy_from_slice(&text.as_bytes()[..end]);
                    assert!(
                        matches!(take_head(&mut part, method, None, 100), Ok(None)),
                        "{text:?} cut at {end}"
                    );
                }
            }
        }
    }

    proptest! {
        /// A head means the same in either form, whatever it is.
        #[test]
        fn any_head(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "HTTP/1.1 200 OK\r\n", "HTTP/1.0 304 \r\n", "HTTP/1.1 100\r\n", "Content-Length: 5\r\n",
                    "Content-Length: 05\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close, x\r\n", "X: y\r\n",
                    "Upgrade: z\r\n", "\r\n", "\n", " ", ":", "é",
                ]),
                0..8,
            ),
            is_head: bool,
        ) {
            let method = if is_head { Method::HEAD } else { Method::GET };
            let text = parts.concat();
            let (mut one, mut other) = (Bytes::from(text.clone()), Bytes::from(text));
            let map = take_head(&mut one, &method, None, 1000);
            let lines = take_head(&mut other, &method, Some(&mut BytesMut::new()), 1000);
            match (map, lines) {
                (Ok(Some((map, framing))), Ok(Some((lines, same)))) => {
                    prop_assert_eq!((map.status, framing), (lines.status, same));
                    prop_assert_eq!(map.upgrade, lines.upgrade);
                    prop_assert_eq!(one, other);
                }
                (map, lines) => prop_assert_eq!(map.map(|_| ()), lines.map(|_| ())),
            }
        }
    }

    #[test]
    fn lines() {
        let text = "HTTP/1.0 404 Nope\r\nDate: now\r\nX-A: 1\r\nContent-Length: 2\r\nKeep-Alive: 5\r\n\
                    content-length: 2\r\nX-B: 2\r\nConnection: x-b\r\nx-a: 3\r\nTrailer: t\r\n\r\nok";
        let mut input = Bytes::from_static(text.as_bytes());
        let mut out = BytesMut::new();
        let taken = take_head(&mut input, &Method::GET, Some(&mut out), 1000);
        let (head, framing) = taken.expect("valid").expect("complete");
        let lines = head.lines.expect("asked for");
        let expect = "HTTP/1.1 404 Not Found\r\ndate: now\r\nx-a: 1\r\ncontent-length: 2\r\nx-a: 3\r\n";
        assert_eq!(lines.text, expect);
        assert!(lines.has_date && !lines.has_server && !framing.keep_alive);
        assert_eq!((framing.length, &input[..]), (BodyLength::Known(2), &b"ok"[..]));
    }
}
