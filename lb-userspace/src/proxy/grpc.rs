//! Answers of the proxy's own to gRPC clients, which look at nothing but `grpc-status`.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::error::Error;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is a gRPC client's.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    // Not gRPC-Web, whose clients are browsers.
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The answer as one without messages: status 200, and gRPC's own status in the head.
pub(super) fn answer(own: Response<Bytes>) -> Response<Bytes> {
    let (mut parts, text) = own.into_parts();
    if !(parts.status.is_client_error() || parts.status.is_server_error()) {
        return Response::from_parts(parts, text);
    }
    parts.headers.insert(STATUS, HeaderValue::from(code(parts.status)));
    if let Ok(message) = HeaderValue::from_str(&escape(text.trim_ascii())) {
        parts.headers.insert(MESSAGE, message);
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    parts.status = StatusCode::OK;
    Response::from_parts(parts, Bytes::new())
}

/// The end of an answer whose endpoint broke it off: what client libraries make of a stream that is reset is
/// an error in one of the programs, which nobody tries again.
pub(super) fn trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(code(error.status())));
    if let Ok(message) = HeaderValue::from_str(&escape(error.public_text().as_bytes().trim_ascii())) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// gRPC's status for one of HTTP's, as its clients would translate it, but that a time limit is one.
fn code(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 2,
    }
}

/// Percent-encoded as gRPC has it: everything but visible ASCII, and `%`.
fn escape(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (kind, expect) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_call(&headers), expect, "{kind}");
        }
        for (status, text, expect) in [
            (503, "no endpoint\n", Some(("14", "no endpoint"))),
            (504, "100 %\n", Some(("4", "100 %25"))),
            (404, "a\nb", Some(("12", "a%0Ab"))),
            (308, "elsewhere", None),
        ] {
            let mut own = Response::new(Bytes::from(text));
            *own.status_mut() = StatusCode::from_u16(status).expect("a status");
            let answer = answer(own);
            let got = answer.headers().get("grpc-status").map(|code| {
                (code.to_str().expect("text"), answer.headers()["grpc-message"].to_str().expect("text"))
            });
            assert_eq!(got, expect, "{status} {text:?}");
            assert_eq!(answer.status().as_u16(), if expect.is_some() { 200 } else { status });
        }
    }
}
