//! What the endpoint is told about the client: `X-Forwarded-*`, `X-Real-IP`, `X-Request-ID`.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use bytes::BufMut;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::headers::write_line;
use super::policy::Edits;

/// Whether a header is one that Sluice writes itself, or that says the same in another form.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    is_written(name.as_str()) || dashed(name.as_str()).is_some_and(|name| is_written(&name))
}

/// A name with dashes for its underscores; `None` if it has none. CGI and what came after it (WSGI,
/// Rack, PHP) takes both for the same, so that `X_Real_IP` would stand in for `X-Real-IP` there.
pub(super) fn dashed(name: &str) -> Option<String> {
    name.contains('_').then(|| name.replace('_', "-"))
}

fn is_written(name: &str) -> bool {
    matches!(
        name,
        "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-scheme"
            | "x-scheme"
            | "x-real-ip"
            | "x-request-id"
            | "forwarded"
    )
}

/// What the proxy knows about a request's client.
pub(super) struct Client<'a> {
    pub(super) ip: &'a str,
    pub(super) scheme: &'static str,
    pub(super) port: u16,
    /// The host as the client wrote it.
    pub(super) host: &'a str,
    pub(super) request_id: &'a str,
    /// The peer is a proxy whose word counts.
    pub(super) trusted: bool,
    /// The endpoint gets `Forwarded`, too.
    pub(super) forwarded: bool,
}

impl Client<'_> {
    /// Writes the headers that `edits` leaves. From peers that are not trusted nothing is taken over;
    /// a trusted proxy's are kept, and its address is appended to `X-Forwarded-For`.
    pub(super) fn write(&self, request: &HeaderMap, trusted: &[IpNet], edits: &Edits, out: &mut impl BufMut) {
        let mut write = |name: &'static str, value: &[u8]| {
            if !edits.drops(name) {
                write_line(out, name, value);
            }
        };
        let theirs = |name: &str| {
            if !self.trusted {
                return None;
            }
            let value = request.get(name)?;
            (!value.is_empty()).then_some(value.as_bytes())
        };
        let chain = chain(request, self.ip, self.trusted);
        let mut port = itoa::Buffer::new();
        let alone = theirs("x-real-ip").filter(|_| !has_chain(request));
        write("x-real-ip", alone.unwrap_or_else(|| first_untrusted(&chain, trusted)));
        write("x-forwarded-for", &chain);
        // The latter two are ingress-nginx's, whose endpoints may go by them.
        let scheme = theirs("x-forwarded-proto").unwrap_or(self.scheme.as_bytes());
        for name in ["x-forwarded-proto", "x-forwarded-scheme", "x-scheme"] {
            write(name, scheme);
        }
        write("x-forwarded-host", theirs("x-forwarded-host").unwrap_or(self.host.as_bytes()));
        write("x-forwarded-port", theirs("x-forwarded-port").unwrap_or(port.format(self.port).as_bytes()));
        write("x-request-id", theirs("x-request-id").unwrap_or(self.request_id.as_bytes()));
        match (theirs("forwarded"), self.forwarded) {
            (Some(before), false) => write("forwarded", before),
            (Some(before), true) => write("forwarded", &[before, b", ", self.element().as_bytes()].concat()),
            (None, true) => write("forwarded", self.element().as_bytes()),
            (None, false) => {}
        }
    }

    /// What this hop says in `Forwarded` (RFC 7239 section 4).
    fn element(&self) -> String {
        let mut element = match self.ip.contains(':') {
            true => format!("for=\"[{}]\"", self.ip),
            false => format!("for={}", self.ip),
        };
        if !self.host.is_empty() && !self.host.contains(['"', '\\']) {
            element.push_str(&format!(";host=\"{}\"", self.host));
        }
        element.push_str(";proto=");
        element.push_str(self.scheme);
        element
    }
}

/// The client of a request that a trusted proxy at `peer` sent on; the proxy itself where it names none.
/// It is who `X-Real-IP` names for the endpoint.
pub(super) fn real_address(request: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let parse = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<IpAddr>().ok();
    let told = request.get("x-real-ip").filter(|value| !value.is_empty() && !has_chain(request));
    let address = match told {
        Some(value) => parse(value.as_bytes()),
        None => parse(first_untrusted(&chain(request, &peer.to_string(), true), trusted)),
    };
    address.map_or(peer, |address| address.to_canonical())
}

/// Whether the proxies before us say whom the request came through. Then `X-Real-IP` says nothing more:
/// most of them add to the former and leave the latter as the client wrote it.
fn has_chain(request: &HeaderMap) -> bool {
    request.get_all("x-forwarded-for").iter().any(|value| !value.is_empty())
}

/// The proxies that the request came through, the peer last.
fn chain<'a>(request: &HeaderMap, peer: &'a str, trusted: bool) -> Cow<'a, [u8]> {
    if !trusted {
        return Cow::Borrowed(peer.as_bytes());
    }
    let mut chain = Vec::new();
    for value in request.get_all("x-forwarded-for") {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.as_bytes());
    Cow::Owned(chain)
}

/// Whether the peer at `ip` is a proxy whose word counts.
pub(super) fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&ip))
}

/// The client of a chain of proxies: read from the right, the first address that is no trusted proxy.
fn first_untrusted<'a>(chain: &'a [u8], trusted: &[IpNet]) -> &'a [u8] {
    let mut hops = chain.rsplit(|byte| *byte == b',').map(|hop| without_port(hop.trim_ascii()));
    let mut last = hops.next().unwrap_or_default();
    for hop in hops {
        let parse = |hop: &[u8]| std::str::from_utf8(hop).ok()?.parse::<IpAddr>().ok();
        if !parse(last).is_some_and(|ip| is_trusted(ip, trusted)) || parse(hop).is_none() {
            break;
        }
        last = hop;
    }
    last
}

/// The address of `192.0.2.1:4711`, `[2001:db8::1]:4711` and `[2001:db8::1]`, as some load balancers write it.
fn without_port(hop: &[u8]) -> &[u8] {
    if let Some(rest) = hop.strip_prefix(b"[") {
        return rest.split(|byte| *byte == b']').next().unwrap_or_default();
    }
    match memchr::memchr(b':', hop) {
        // An address of IPv6 has more of them.
        Some(colon) if memchr::memchr(b':', &hop[colon + 1..]).is_none() => &hop[..colon],
        _ => hop,
    }
}

/// Makes request ids: 32 hexadecimal digits, unique by a counter, not guessable from one another.
pub(super) struct RequestIds {
    keys: RandomState,
    next: std::cell::Cell<u64>,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        Self { keys: RandomState::new(), next: std::cell::Cell::new(0) }
    }

    pub(super) fn next(&self) -> [u8; 32] {
        let count = self.next.get();
        self.next.set(count.wrapping_add(1));
        let id = u128::from(self.keys.hash_one(count)) << 64 | u128::from(self.keys.hash_one(!count));
        std::array::from_fn(|digit| b"0123456789abcdef"[(id >> (124 - 4 * digit)) as usize & 15])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_the_client_is() {
        let nets: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a net")];
        for (trusted, sent, expect) in [
            (false, vec![], "x-real-ip: 10.0.0.9|x-forwarded-for: 10.0.0.9|x-forwarded-proto: http"),
            (
                false,
                vec![
                    ("x-forwarded-for", "1.2.3.4"),
                    ("x-real-ip", "1.2.3.4"),
                    ("x-forwarded-proto", "https"),
                    ("x-scheme", "https"),
                ],
                "x-real-ip: 10.0.0.9|x-forwarded-for: 10.0.0.9|x-forwarded-proto: http",
            ),
            (
                true,
                vec![("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.1.1.1"), ("x-forwarded-proto", "https")],
                "x-real-ip: 1.2.3.4|x-forwarded-for: 6.6.6.6, 1.2.3.4, 10.1.1.1, 10.0.0.9|x-forwarded-proto: https",
            ),
            (
                true,
                vec![("x-forwarded-for", "6.6.6.6"), ("x-real-ip", "10.0.0.1")],
                "x-real-ip: 6.6.6.6|x-forwarded-for: 6.6.6.6, 10.0.0.9|x-forwarded-proto: http",
            ),
            (
                true,
                vec![("x-forwarded-for", ""), ("x-real-ip", "1.2.3.4")],
                "x-real-ip: 1.2.3.4|x-forwarded-for: , 10.0.0.9|x-forwarded-proto: http",
            ),
            (
                true,
                vec![("x-forwarded-for", "nonsense")],
                "x-real-ip: 10.0.0.9|x-forwarded-for: nonsense, 10.0.0.9|x-forwarded-proto: http",
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &sent {
                map.append(*name, value.parse().expect("a value"));
            }
            let client = Client {
                ip: "10.0.0.9",
                scheme: "http",
                port: 80,
                host: "a.example.com",
                request_id: "id",
                trusted,
                forwarded: false,
            };
            let mut out = Vec::new();
            client.write(&map, &nets, &Edits::default(), &mut out);
            let text = String::from_utf8(out).expect("text").replace("\r\n", "|");
            let scheme = expect.rsplit(' ').next().expect("a word");
            let rest = "|x-forwarded-host: a.example.com|x-forwarded-port: 80|x-request-id: id|";
            let expect = format!("{expect}|x-forwarded-scheme: {scheme}|x-scheme: {scheme}{rest}");
            assert_eq!(text, expect, "{sent:?}");
        }
    }

    #[test]
    fn chains() {
        let nets: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/64"].map(|net| net.parse().expect("a net")).into();
        for (chain, expect) in [
            ("1.2.3.4, 10.0.0.9", "1.2.3.4"),
            ("1.2.3.4:4711, 10.0.0.8:80, 10.0.0.9", "1.2.3.4"),
            ("[2001:db8:1::1]:4711,[2001:db8::2],10.0.0.9", "2001:db8:1::1"),
            ("2001:db8:1::1, 2001:db8::2, 10.0.0.9", "2001:db8:1::1"),
            ("6.6.6.6, 1.2.3.4:x, 10.0.0.9", "1.2.3.4"),
            ("6.6.6.6, [1.2.3.4, 10.0.0.9", "1.2.3.4"),
            ("6.6.6.6, unknown, 10.0.0.9", "10.0.0.9"),
            ("6.6.6.6, [], 10.0.0.9", "10.0.0.9"),
            ("6.6.6.6, :80, 10.0.0.9", "10.0.0.9"),
            ("10.0.0.9", "10.0.0.9"),
        ] {
            let got = first_untrusted(chain.as_bytes(), &nets);
            assert_eq!(std::str::from_utf8(got), Ok(expect), "{chain}");
        }
    }

    #[test]
    fn in_the_standard_form() {
        for (forwarded, trusted, ip, host, sent, expect) in [
            (false, false, "192.0.2.1", "a.test", "for=6.6.6.6", None),
            (false, true, "192.0.2.1", "a.test", "for=6.6.6.6", Some("for=6.6.6.6")),
            (
                true,
                false,
                "192.0.2.1",
                "a.test:80",
                "for=6.6.6.6",
                Some("for=192.0.2.1;host=\"a.test:80\";proto=http"),
            ),
            (
                true,
                true,
                "2001:db8::1",
                "a.test",
                "for=6.6.6.6",
                Some("for=6.6.6.6, for=\"[2001:db8::1]\";host=\"a.test\";proto=http"),
            ),
            (true, true, "192.0.2.1", "", "", Some("for=192.0.2.1;proto=http")),
            (true, true, "192.0.2.1", "a\"b", "", Some("for=192.0.2.1;proto=http")),
        ] {
            let mut map = HeaderMap::new();
            map.insert("forwarded", sent.parse().expect("a value"));
            let client = Client { ip, scheme: "http", port: 80, host, request_id: "id", trusted, forwarded };
            let mut out = Vec::new();
            client.write(&map, &[], &Edits::default(), &mut out);
            let text = String::from_utf8(out).expect("text");
            let line = text.lines().find_map(|line| line.strip_prefix("forwarded: "));
            assert_eq!(line, expect, "{forwarded} {trusted} {ip} {host} {sent}");
        }
    }

    #[test]
    fn request_ids_differ() {
        let ids = RequestIds::new();
        let (one, two) = (ids.next(), ids.next());
        assert_ne!(one, two);
        assert!(one.iter().all(u8::is_ascii_hexdigit));
    }
}
