//! WebSockets over HTTP/2 (RFC 8441): a CONNECT with `:protocol`, which endpoints get as the
//! Upgrade of HTTP/1.1. The keys of that handshake are the proxy's own business.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::ext::Protocol;

use super::error::Error;

/// What every server appends to a client's key before it hashes it (RFC 6455 section 1.3).
const SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The handshake with an endpoint, made in the place of a client that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Handshake {
    /// What `Sec-WebSocket-Accept` has to be.
    accept: String,
}

impl Handshake {
    /// Turns a client's CONNECT for a WebSocket into the request that its endpoint understands.
    /// `None`: the request is none.
    ///
    /// # Errors
    /// For other uses of CONNECT.
    pub(super) fn begin<B>(request: &mut Request<B>) -> Result<Option<Self>, Error> {
        if request.method() != Method::CONNECT {
            return Ok(None);
        }
        let protocol = request.extensions().get::<Protocol>().ok_or(Error::Method("CONNECT"))?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Err(Error::ConnectProtocol);
        }
        if request.uri().path_and_query().is_none() {
            return Err(Error::BadRequest(":path is missing".to_owned()));
        }
        let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
        let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{SALT}").as_bytes()));
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        let key = HeaderValue::try_from(key).expect("base64 is text");
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        Ok(Some(Self { accept }))
    }

    /// The answer to the client's CONNECT, from the endpoint's 101.
    ///
    /// # Errors
    /// If the endpoint answered another handshake than ours, or took no WebSocket.
    pub(super) fn end(
        &self,
        mut headers: HeaderMap,
        protocol: Option<&HeaderValue>,
    ) -> Result<Response<()>, &'static str> {
        if !protocol.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Err("101 for another protocol than WebSocket");
        }
        let accept = headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| accept.as_bytes() != self.accept.as_bytes()) {
            return Err("Sec-WebSocket-Accept that does not fit the key");
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::OK;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(uri: &str, protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::connect(uri).body(()).expect("a request");
        request.extensions_mut().extend(
            protocol
                .map(Protocol::from_static)
                .map(|protocol| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(protocol);
                    extensions
                })
                .unwrap_or_default(),
        );
        request
    }

    #[test]
    fn which_connects_are_websockets() {
        for (uri, protocol, expect) in [
            ("https://a.test/x", Some("websocket"), 200),
            ("https://a.test/x", Some("WebSocket"), 200),
            ("https://a.test/x", Some("connect-udp"), 501),
            ("a.test:443", Some("websocket"), 400),
            ("a.test:443", None, 405),
        ] {
            let mut request = connect(uri, protocol);
            let got = Handshake::begin(&mut request);
            let status = got.as_ref().map_or_else(|error| error.status().as_u16(), |_| 200);
            assert_eq!(status, expect, "{uri} {protocol:?}");
            assert_eq!(request.method() == Method::GET, expect == 200, "{uri} {protocol:?}");
        }
        let mut get = Request::get("https://a.test/").body(()).expect("a request");
        assert!(Handshake::begin(&mut get).expect("fine").is_none());
    }

    #[test]
    fn what_endpoints_must_answer() {
        // The example of RFC 6455 section 1.3.
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("dGhlIHNhbXBsZSBub25jZQ=={SALT}").as_bytes());
        let accept = STANDARD.encode(digest);
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let handshake = Handshake { accept: accept.clone() };
        for (protocol, value, fits) in [
            (Some("websocket"), Some(accept.as_str()), true),
            (Some("WebSocket"), Some(accept.as_str()), true),
            (Some("websocket"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOO="), false),
            (Some("websocket"), None, false),
            (Some("h2c"), Some(accept.as_str()), false),
            (None, Some(accept.as_str()), false),
        ] {
            let mut headers = HeaderMap::new();
            let text = |text: &str| HeaderValue::from_str(text).expect("text");
            headers.extend(value.map(|value| (header::SEC_WEBSOCKET_ACCEPT, text(value))));
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, text("chat"));
            let got = handshake.end(headers, protocol.map(text).as_ref());
            assert_eq!(got.is_ok(), fits, "{protocol:?} {value:?}");
            if let Ok(response) = got {
                assert_eq!(response.headers().len(), 1, "only the chosen subprotocol is left");
            }
        }
    }
}
