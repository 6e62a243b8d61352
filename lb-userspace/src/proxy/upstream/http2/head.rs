//! Heads of requests and answers in HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

use crate::proxy::error::Error;
use crate::proxy::headers::Connection;

/// More lines than a request has, ours included.
const MAX_LINES: usize = 256;

/// Takes an HTTP/1 head apart into an HTTP/2 one: what concerns only a connection is left out.
///
/// # Errors
/// If the host can't stand in `:authority`, or there are more headers than anyone needs.
pub(super) fn request(head: &Bytes, method: Method, scheme: Scheme) -> Result<Request<()>, Error> {
    let bad = |what: &str| Error::BadRequest(what.to_owned());
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut parsed = httparse::Request::new(&mut lines);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(bad("its headers can't be sent over HTTP/2")),
    }
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    let mut authority = None;
    let connection = connection_of(parsed.headers);
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| bad("a header's name"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value))
            .map_err(|_| bad("a header's value"))?;
        match name {
            header::HOST => {
                authority = Some(Authority::from_maybe_shared(head.slice_ref(line.value)));
            }
            header::TE => drop(headers.insert(name, value)),
            // The body is sent without being asked for.
            header::EXPECT => {}
            _ if connection.drops(&name) => {}
            _ => drop(headers.append(name, value)),
        }
    }
    let path = parsed.path.unwrap_or("/");
    let path = PathAndQuery::from_maybe_shared(head.slice_ref(path.as_bytes()));
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    uri.authority =
        Some(authority.ok_or_else(|| bad("Host is missing"))?.map_err(|_| bad("Host can't stand in a URL"))?);
    uri.path_and_query = Some(path.map_err(|_| bad("its target can't be sent over HTTP/2"))?);
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| bad("its target can't be sent over HTTP/2"))?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn connection_of(lines: &[httparse::Header<'_>]) -> Connection {
    let values = lines.iter().filter(|line| line.name.eq_ignore_ascii_case("connection"));
    Connection::parse(values.map(|line| line.value))
}

/// Removes from an answer what must not be in it (RFC 9113 section 8.2.2).
pub(super) fn clean(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

/// The size of a header section as HTTP/1 would write it.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// How long a gRPC client waits: `grpc-timeout: 250m`.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let h1 = "POST /a.B/c?d=e HTTP/1.1\r\nhost: a.test:80\r\nte: trailers\r\ncontent-type: application/grpc\r\n\
            x: 1\r\nx: 2\r\ntransfer-encoding: chunked\r\nconnection: upgrade, y\r\nupgrade: z\r\ny: 1\r\n\
            expect: 100-continue\r\n\r\n";
        let head = Bytes::copy_from_slice(h1.as_bytes());
        let made = request(&head, Method::POST, Scheme::HTTPS).expect("a head");
        assert_eq!(made.uri().to_string(), "https://a.test:80/a.B/c?d=e");
        let lines: Vec<_> = made
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        assert_eq!(lines, ["te: trailers", "content-type: application/grpc", "x: 1", "x: 2"]);
        for bad in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nhost: a b\r\n\r\n", "GET / HTTP/1.1\r\n"] {
            let head = Bytes::copy_from_slice(bad.as_bytes());
            assert!(request(&head, Method::GET, Scheme::HTTP).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn timeouts() {
        for (text, expect) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("1é", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_bytes(text.as_bytes()).expect("a value"));
            assert_eq!(grpc_timeout(&headers), expect, "{text}");
        }
    }
}
