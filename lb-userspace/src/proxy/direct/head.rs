//! Which requests are plain, and what their endpoints get.

use std::mem::MaybeUninit;

use bytes::{BufMut, Bytes};
use http::{HeaderMap, Method};

use crate::model::{Balance, BodyLimits, RoutePolicy, UpstreamPolicy, UpstreamProtocol};
use crate::proxy::config::{Config, Served};
use crate::proxy::connection::Client;
use crate::proxy::forwarded;
use crate::proxy::headers::write_line;
use crate::proxy::hops;
use crate::proxy::policy::Edits;
use crate::route::{Found, Target, normalise_host};

/// More header lines than this are not plain.
const MAX_LINES: usize = 64;

/// A plain request.
pub(super) struct Plain<'a> {
    pub(super) found: Found<'a, Served>,
    pub(super) method: Method,
    /// As the endpoint gets it.
    pub(super) head: Bytes,
}

/// Whether a route with these rules needs nothing of its requests but their way to an endpoint.
/// Rules that nobody has thought of here make it not plain.
pub(in crate::proxy) fn is_plain(rules: &RoutePolicy) -> bool {
    let UpstreamPolicy { connect_timeout, send_timeout, read_timeout, ref retry, .. } = rules.upstream;
    let known = RoutePolicy {
        // Of no concern to those who come over TLS.
        https_redirect: rules.https_redirect,
        body: BodyLimits {
            max_request: rules.body.max_request,
            buffer_request: rules.body.buffer_request,
            buffer_response: rules.body.buffer_response.filter(|limit| *limit == 0),
            max_response_head: rules.body.max_response_head,
        },
        balance: rules.balance.clone(),
        upstream: UpstreamPolicy {
            connect_timeout,
            send_timeout,
            read_timeout,
            retry: retry.clone(),
            ..UpstreamPolicy::default()
        },
        unlogged: rules.unlogged,
        // The answer's writer knows how.
        hsts: rules.hsts,
        ..RoutePolicy::default()
    };
    *rules == known && !matches!(rules.balance, Balance::Hash { .. })
}

/// Reads a request. `None`: it is not plain, or not complete, or more follows.
pub(super) fn plain<'a>(client: &Client, config: &'a Config, bytes: &[u8]) -> Option<Plain<'a>> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_LINES];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut lines);
    if parsed != Ok(httparse::Status::Complete(bytes.len())) || request.version != Some(1) {
        return None;
    }
    let method = match request.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        _ => return None,
    };
    let path = request.path.filter(|path| path.starts_with('/') && path.bytes().all(is_usual))?;
    let target = Target::parse(path).ok()?;

    let worker = &client.worker;
    let mut scratch = worker.heads.borrow_mut();
    // A request that turned out not to be plain may have left something.
    scratch.clear();
    scratch.reserve(bytes.len() + 512);
    let out = &mut *scratch;
    out.put_slice(method.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(target.path_and_query().as_bytes());
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    let mut host = None;
    let mut cookie = None;
    // The host stands first, wherever the client wrote it.
    for line in request.headers.iter() {
        if line.name.eq_ignore_ascii_case("host") {
            if host.replace(line.value).is_some() {
                return None;
            }
            out.put_slice(line.value);
            out.put_slice(b"\r\n");
        }
    }
    let host = std::str::from_utf8(host?).ok()?;
    for line in request.headers.iter() {
        match kind(line.name.as_bytes(), line.value) {
            Kind::Passed => {
                let at = out.len();
                out.put_slice(line.name.as_bytes());
                out[at..].make_ascii_lowercase();
                out.put_slice(b": ");
                out.put_slice(line.value);
                out.put_slice(b"\r\n");
            }
            Kind::Dropped => {}
            Kind::Cookie => {
                if cookie.replace(line.value).is_some() {
                    return None;
                }
            }
            Kind::Unusual => return None,
        }
    }
    if let Some(cookie) = cookie {
        write_line(out, "cookie", cookie);
    }

    let name = normalise_host(host).ok()?;
    if client.handshake.as_ref().is_some_and(|tls| config.tls.is_misdirected(tls, Some(&name))) {
        return None;
    }
    let found = config.table.find(Some(&name), target.path())?;
    let served = found.served;
    if !served.is_plain || (served.policy.rules.https_redirect.is_some() && !client.tls) {
        return None;
    }
    {
        let endpoints = served.cluster.as_ref()?.endpoints();
        if endpoints.cluster.endpoints.is_empty() || endpoints.cluster.protocol != UpstreamProtocol::Http {
            return None;
        }
    }
    let request_id = worker.ids.next();
    let about = forwarded::Client {
        ip: &client.ip,
        scheme: if client.tls { "https" } else { "http" },
        port: client.local.port(),
        host,
        request_id: std::str::from_utf8(&request_id).unwrap_or_default(),
        trusted: false,
        forwarded: worker.settings.forwarded,
    };
    about.write(&HeaderMap::new(), &[], &Edits::default(), out);
    write_line(out, hops::NAME, hops::FIRST.as_bytes());
    out.put_slice(b"\r\n");
    Some(Plain { found, method, head: scratch.split().freeze() })
}

/// What becomes of a header line.
enum Kind {
    Passed,
    Dropped,
    Cookie,
    /// The request is not plain.
    Unusual,
}

fn kind(name: &[u8], value: &[u8]) -> Kind {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    // By length first: most lines then cost one comparison or none.
    match name.len() {
        2 if is("te") => Kind::Unusual,
        4 if is("host") => Kind::Dropped,
        5 if is("proxy") => Kind::Unusual,
        6 if is("cookie") => Kind::Cookie,
        6 if is("expect") => Kind::Unusual,
        7 if is("upgrade") || is("trailer") => Kind::Unusual,
        8 if is("x-scheme") => Kind::Dropped,
        9 if is("x-real-ip") || is("forwarded") => Kind::Dropped,
        10 if is("connection") => match value.eq_ignore_ascii_case(b"keep-alive") {
            true => Kind::Dropped,
            false => Kind::Unusual,
        },
        10 if is("keep-alive") => Kind::Dropped,
        // Good for something only if both are good.
        10 if is("tracestate") => Kind::Unusual,
        11 if is("traceparent") => Kind::Unusual,
        // gRPC's answers have a form of their own.
        12 if is("content-type") => Kind::Unusual,
        12 if is("x-request-id") => Kind::Dropped,
        // Something to add to.
        13 if is(hops::NAME) => Kind::Unusual,
        14 if is("content-length") || is("http2-settings") => Kind::Unusual,
        15 if is("x-forwarded-for") => Kind::Dropped,
        16 if is("proxy-connection") => Kind::Unusual,
        16 if is("x-forwarded-host") || is("x-forwarded-port") => Kind::Dropped,
        17 if is("x-forwarded-proto") => Kind::Dropped,
        17 if is("transfer-encoding") => Kind::Unusual,
        18 if is("x-forwarded-scheme") => Kind::Dropped,
        18 if is("proxy-authenticate") => Kind::Unusual,
        19 if is("proxy-authorization") => Kind::Unusual,
        // Some readers take it for a dash, and then for a header of ours.
        _ if name.contains(&b'_') => Kind::Unusual,
        _ => Kind::Passed,
    }
}

/// What every reader of a target takes for the same.
fn is_usual(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::forwarded::is_ours;
    use crate::proxy::headers::is_of_connection;
    use http::HeaderName;

    #[test]
    fn what_becomes_of_lines() {
        for (name, value, expect) in [
            ("accept", "*/*", "passed"),
            ("Cookie", "a=b", "cookie"),
            ("Connection", "Keep-Alive", "dropped"),
            ("connection", "close", "unusual"),
            ("connection", "x-mine", "unusual"),
            ("Content-Length", "0", "unusual"),
            ("X-Forwarded-For", "1.2.3.4", "dropped"),
            ("X_Forwarded_For", "1.2.3.4", "unusual"),
            ("X-Sluice-Hops", "1", "unusual"),
        ] {
            let got = match kind(name.as_bytes(), value.as_bytes()) {
                Kind::Passed => "passed",
                Kind::Dropped => "dropped",
                Kind::Cookie => "cookie",
                Kind::Unusual => "unusual",
            };
            assert_eq!(got, expect, "{name}: {value}");
        }
    }

    /// Whatever the long way writes itself or keeps for this connection must not be passed here.
    #[test]
    fn nothing_slips_by() {
        let names = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "http2-settings",
            "te",
            "trailer",
            "upgrade",
            "transfer-encoding",
            "proxy-authenticate",
            "proxy-authorization",
            "content-length",
            "expect",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-scheme",
            "x-scheme",
            "x-real-ip",
            "x-request-id",
            "forwarded",
        ];
        for name in names {
            let known = HeaderName::from_static(name);
            assert!(is_ours(&known) || is_of_connection(&known), "{name}");
            assert!(!matches!(kind(name.as_bytes(), b"x"), Kind::Passed), "{name}");
        }
    }
}
