//! What a request asks for: host, target, and how it wants to go on.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Version};
use hyper::body::Body;

use super::error::Error;
use super::guard::{MAX_HEADERS, MAX_REQUEST_LINE};
use super::headers::Connection;
use crate::route::Target;

/// Whether a head is as long as may be. On HTTP/1.1 the guard has seen to it; h2 only bounds the bytes.
///
/// # Errors
/// If the target is too long, or there are too many headers. Crumbs of a cookie are no headers.
pub(super) fn check_size<B>(request: &Request<B>) -> Result<(), Error> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let cookies = request.headers().get_all(header::COOKIE).iter().count();
    if target > MAX_REQUEST_LINE {
        Err(Error::TargetTooLong)
    } else if request.headers().len() - cookies > MAX_HEADERS {
        Err(Error::HeadTooLarge)
    } else {
        Ok(())
    }
}

/// The host that the client wrote, from `Host` or `:authority`; they must agree. Empty only for HTTP/1.0
/// without one.
pub(super) fn host_of(parts: &Parts) -> Result<String, Error> {
    let bad = |what: &str| Error::BadRequest(what.to_owned());
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(bad("more than one Host header")),
        (Some(host), None) => Some(host.to_str().map_err(|_| bad("Host is not text"))?),
        (None, _) => None,
    };
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(bad("user information in the request target"));
    }
    match (authority, header) {
        (Some(authority), Some(header)) if !authority.eq_ignore_ascii_case(header) => {
            Err(bad("Host and the request target disagree"))
        }
        (Some(authority), _) => Ok(authority.to_owned()),
        (None, Some("")) => Err(bad("Host is empty")),
        (None, Some(header)) => Ok(header.to_owned()),
        (None, None) if parts.version == Version::HTTP_10 => Ok(String::new()),
        (None, None) => Err(bad("Host is missing")),
    }
}

pub(super) fn target_of(parts: &Parts) -> Result<Target, Error> {
    if parts.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Error::BadRequest(
            "the request target is of another scheme than http and https".to_owned(),
        ));
    }
    let text = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // Of a URL without a path, as in `http://a.test?x`.
    let text = if text.starts_with('?') { &format!("/{text}") } else { text };
    if text == "*" && parts.method != Method::OPTIONS {
        return Err(Error::BadRequest("* is a target for OPTIONS only".to_owned()));
    }
    Target::parse(text).map_err(|bad| Error::BadRequest(bad.to_string()))
}

/// Whether the request asks for another protocol in a form that can be given: HTTP/1.1, no body. HTTP/2 is
/// never given, in whatever company it is named: its requests would pass by every rule.
pub(super) fn wants_upgrade<B: Body>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mut protocols =
        headers.get_all(header::UPGRADE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let connections = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let is_http2 =
        |name: &[u8]| name.trim_ascii().get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case(b"h2"));
    headers.contains_key(header::UPGRADE)
        && request.version() == Version::HTTP_11
        && !protocols.any(is_http2)
        && Connection::parse(connections).upgrade
        && request.body().is_end_stream()
}

pub(super) fn expects_continue(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    fn asks(lines: &[(&str, &str)]) -> Request<Empty<&'static [u8]>> {
        let mut request = Request::builder();
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(Empty::new()).expect("a request")
    }

    #[test]
    fn which_protocols_are_asked_for() {
        for (upgrades, connection, expect) in [
            (&["websocket"][..], "upgrade", true),
            (&["websocket"], "keep-alive, Upgrade", true),
            (&["websocket"], "keep-alive", false),
            (&[], "upgrade", false),
            (&["h2c"], "upgrade", false),
            (&["H2C"], "upgrade", false),
            (&["websocket, h2c"], "upgrade", false),
            (&["websocket ,\tH2C"], "upgrade", false),
            (&["websocket", "h2"], "upgrade", false),
            (&["ch2"], "upgrade", true),
        ] {
            let mut lines = vec![("connection", connection)];
            lines.extend(upgrades.iter().map(|value| ("upgrade", *value)));
            assert_eq!(wants_upgrade(&asks(&lines)), expect, "{lines:?}");
        }
        let lines = [("connection", "upgrade"), ("upgrade", "websocket")];
        assert!(!wants_upgrade(&asks(&lines).map(|_| Full::new(&b"x"[..]))), "with a body");
        let mut old = asks(&lines);
        *old.version_mut() = Version::HTTP_10;
        assert!(!wants_upgrade(&old), "before HTTP/1.1");
    }
}
