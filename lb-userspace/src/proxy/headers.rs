//! Which headers concern only one connection, and how header lines are written.

use bytes::BufMut;
use http::header;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::forwarded::dashed;
use super::hops;

/// Most names that `Connection` can list: every header is compared with each of them.
const MAX_LISTED: usize = 32;

/// What [`is_hop_by_hop`] holds for.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
];

/// What a message's `Connection` headers say (RFC 9110 section 7.6.1).
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// The connection ends with this message.
    pub(super) close: bool,
    /// The message asks for another protocol, which `Upgrade` names.
    pub(super) upgrade: bool,
    listed: SmallVec<[HeaderName; 2]>,
}

impl Connection {
    pub(super) fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut connection = Self::default();
        for option in values.flat_map(|value| value.split(|byte| *byte == b',')) {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                connection.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                connection.upgrade = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
            } else if let Ok(name) = HeaderName::from_bytes(option)
                && !is_protected(&name)
                && connection.listed.len() < MAX_LISTED
            {
                connection.listed.push(name);
            }
        }
        connection
    }

    /// The same as [`Connection::drops`], for a name as it is written.
    pub(super) fn drops_written(&self, name: &[u8]) -> bool {
        HOP_BY_HOP.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
            || self.listed.iter().any(|listed| name.eq_ignore_ascii_case(listed.as_str().as_bytes()))
    }

    /// Whether a header of this message goes no further than this connection.
    pub(super) fn drops(&self, name: &HeaderName) -> bool {
        is_hop_by_hop(name) || self.listed.contains(name)
    }
}

/// Headers that frame a message or concern one connection, so that no policy may write them.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || matches!(*name, header::CONTENT_LENGTH | header::EXPECT)
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Whether a name has underscores where one that frames a message or concerns one connection has dashes. CGI and
/// what came after it takes both for the same: `Transfer_Encoding` would be a body's end in another place there.
pub(super) fn passes_for_framing(name: &HeaderName) -> bool {
    dashed(name.as_str()).is_some_and(|name| HOP_BY_HOP.contains(&&*name) || name == "content-length")
}

/// Whether a header must not be sent on, whoever wrote it: [`passes_for_framing`], or `Proxy`, which becomes
/// `HTTP_PROXY` in CGI programs, which then send their own requests there.
pub(super) fn is_unsafe(name: &HeaderName) -> bool {
    name.as_str() == "proxy" || passes_for_framing(name)
}

/// Headers that say who asks for what: a client must not have them removed by listing them in
/// `Connection`, or it could hide from the endpoint what the proxy vouches for.
fn is_protected(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::HOST
            | header::AUTHORIZATION
            | header::COOKIE
            | header::SET_COOKIE
            | header::CONTENT_LENGTH
            | header::CONTENT_TYPE
            | header::FORWARDED
    ) || name.as_str().starts_with("x-forwarded-")
        || matches!(name.as_str(), "x-real-ip" | "x-request-id" | hops::NAME)
}

/// The value of the first cookie of this name that the client sent (RFC 6265 section 5.4).
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(header::COOKIE).into_iter().map(|line| line.as_bytes());
    lines
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Whether a field may stand in a trailer section: nothing that frames, routes, authorises or
/// changes how the body is read (RFC 9110 section 6.5.1).
pub(super) fn may_be_trailer(name: &HeaderName) -> bool {
    !(is_hop_by_hop(name)
        || is_protected(name)
        || matches!(
            *name,
            header::CONTENT_ENCODING
                | header::CONTENT_RANGE
                | header::CACHE_CONTROL
                | header::EXPECT
                | header::MAX_FORWARDS
                | header::RANGE
                | header::WWW_AUTHENTICATE
        ))
}

/// Appends `name: value` and the line's end.
pub(super) fn write_line(out: &mut impl BufMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn cookies() {
        for (lines, expect) in [
            (&["c=1"][..], Some("1")),
            (&["a=b; c=1;d"], Some("1")),
            (&["a=b;c=1 "], Some("1")),
            (&["a=b", " c = 1"], None),
            (&["a=b", "c=1=2"], Some("1=2")),
            (&["c=1; c=2"], Some("1")),
            (&["C=1; cc=2; a=c=3"], None),
            (&["a=\u{e9}; c=1"], Some("1")),
            (&["c"], None),
            (&["c="], Some("")),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_bytes(line.as_bytes()).expect("a value"));
            }
            assert_eq!(cookie(&headers, "c"), expect.map(str::as_bytes), "{lines:?}");
        }
    }

    #[test]
    fn what_connection_drops() {
        for (connection, name, drops) in [
            ("close", "connection", true),
            ("", "keep-alive", true),
            ("", "proxy-connection", true),
            ("", "te", true),
            ("", "transfer-encoding", true),
            ("", "x-mine", false),
            ("x-mine", "x-mine", true),
            ("a, X-Mine ,b", "x-mine", true),
            ("x-forwarded-for", "x-forwarded-for", false),
            ("X-Forwarded-Proto", "x-forwarded-proto", false),
            ("host", "host", false),
            ("authorization", "authorization", false),
            ("cookie", "cookie", false),
            ("forwarded", "forwarded", false),
        ] {
            let parsed = Connection::parse([connection.as_bytes()].into_iter());
            let name = HeaderName::from_static(name);
            assert_eq!(parsed.drops(&name), drops, "Connection: {connection}, {name}");
            let written = name.as_str().to_ascii_uppercase();
            assert_eq!(
                parsed.drops_written(written.as_bytes()),
                drops,
                "Connection: {connection}, {written}"
            );
        }
    }
}
