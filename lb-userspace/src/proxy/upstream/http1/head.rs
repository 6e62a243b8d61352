//! The head of an endpoint's answer, and how long its body is.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::proxy::headers::Connection;
use crate::proxy::upstream::message::ResponseHead;

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

/// Takes a head of at most `limit` bytes from `input`; `None` if it is not complete yet.
pub(super) fn take_head(
    input: &mut Bytes,
    method: &Method,
    limit: usize,
) -> Result<Option<(ResponseHead, Framing)>, &'static str> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut lines);
    let end = match response.parse(input) {
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
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 2);
    let mut content_length: Option<u64> = None;
    let mut chunked = None;
    let mut upgrade = None;
    for line in response.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| "a header's name is bad")?;
        let value = HeaderValue::from_maybe_shared(input.slice_ref(line.value))
            .map_err(|_| "a header's value is bad")?;
        match name {
            header::CONTENT_LENGTH => {
                let length = decimal(line.value).ok_or("Content-Length is not a number")?;
                if content_length.replace(length).is_some_and(|before| before != length) {
                    return Err("two Content-Length disagree");
                }
                headers.insert(name, value);
            }
            header::TRANSFER_ENCODING => {
                let is_chunked = line.value.eq_ignore_ascii_case(b"chunked");
                if chunked.replace(is_chunked).is_some() || !is_chunked {
                    return Err("Transfer-Encoding is something else than chunked");
                }
            }
            header::UPGRADE => upgrade = Some(value),
            // Announces trailers, which are passed on.
            header::TRAILER => drop(headers.append(name, value)),
            _ if connection.drops(&name) => {}
            _ => drop(headers.append(name, value)),
        }
    }
    if chunked.is_some() && (content_length.is_some() || version == 0) {
        return Err("Transfer-Encoding where it must not be");
    }

    let bodyless = *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let length = match (bodyless, chunked, content_length) {
        (true, ..) => BodyLength::Known(0),
        (_, Some(_), _) => BodyLength::Chunked,
        (_, None, Some(length)) => BodyLength::Known(length),
        (_, None, None) => BodyLength::UntilClose,
    };
    let keep_alive = version == 1 && !connection.close && length != BodyLength::UntilClose;
    let _ = input.split_to(end);
    Ok(Some((ResponseHead { status, headers, upgrade }, Framing { length, keep_alive })))
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
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
            let got = take_head(&mut input, method, 100)
                .map(|head| head.expect("complete"))
                .map(|(head, framing)| (head.status.as_u16(), framing.length, framing.keep_alive))
                .map_err(|_| ());
            assert_eq!(got, expect, "{text:?}");
            if got.is_ok() {
                for end in 0..text.len() {
                    let mut part = Bytes::copy_from_slice(&text.as_bytes()[..end]);
                    assert!(matches!(take_head(&mut part, method, 100), Ok(None)), "{text:?} cut at {end}");
                }
            }
        }
    }
}
