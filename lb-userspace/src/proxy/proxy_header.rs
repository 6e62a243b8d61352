//! PROXY headers (HAProxy's proxy-protocol.txt, versions 1 and 2): read from load balancers in
//! front, written for endpoints.
//!
//! A header is looked at until it is complete and only then taken, so that not one byte of what
//! follows is touched: that may be a ClientHello which goes to an endpoint as it is.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::peek::peek_more;
use crate::model::ProxyVersion;

/// Longest line of version 1, its end included.
const MAX_LINE: usize = 107;

/// What a header of version 2 begins with, its length included.
const FIXED: usize = 16;

/// Longest header of version 2. The addresses take 216 bytes at most; load balancers add a few
/// short fields.
const MAX_BINARY: usize = 4096;

/// What a header says: whom the connection is really with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// The client.
    pub(super) source: SocketAddr,
    /// Where it connected to.
    pub(super) destination: SocketAddr,
}

/// Why a connection has no header that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("it begins with something else")]
    Missing,
    #[error("the connection ended within it")]
    Cut,
    #[error("it is longer than {MAX_BINARY} bytes")]
    TooLong,
    #[error("{0}")]
    Line(v1::BinaryParseError),
    #[error("{0}")]
    Binary(v2::ParseError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes the header that the connection begins with. `None`: it tells nothing, as those of a load
/// balancer's own health checks.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<Ends>, HeaderError> {
    let mut space = vec![0; MAX_LINE];
    let mut seen = 0;
    loop {
        let count = peek_more(stream, &mut space, seen).await?;
        if count <= seen {
            return Err(if seen == 0 { HeaderError::Missing } else { HeaderError::Cut });
        }
        seen = count;
        match parse(&space[..seen])? {
            Parsed::Header(length, ends) => {
                stream.read_exact(&mut space[..length]).await?;
                return Ok(ends);
            }
            Parsed::Part(whole) => space.resize(space.len().max(whole), 0),
        }
    }
}

/// A header for an endpoint.
pub(super) fn write(version: ProxyVersion, ends: Ends) -> Bytes {
    let (source, destination) = same_family(ends);
    let bytes = match version {
        ProxyVersion::V1 => v1::Addresses::from((source, destination)).to_string().into_bytes(),
        ProxyVersion::V2 => v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            (source, destination),
        )
        .build()
        .expect("two addresses are shorter than a header may be"),
    };
    bytes.into()
}

pub(super) enum Parsed {
    /// How long it is, and what it says.
    Header(usize, Option<Ends>),
    /// So many bytes are needed at most to tell more.
    Part(usize),
}

/// Reads the header that `bytes` begin with, or are the begin of.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let begins = |with: &[u8]| {
        let common = bytes.len().min(with.len());
        bytes[..common] == with[..common]
    };
    if begins(v2::PROTOCOL_PREFIX) {
        let Some(length) = bytes.get(14..16) else { return Ok(Parsed::Part(FIXED)) };
        let length = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length > MAX_BINARY {
            return Err(HeaderError::TooLong);
        }
        let Some(whole) = bytes.get(..length) else { return Ok(Parsed::Part(length)) };
        let header = v2::Header::try_from(whole).map_err(HeaderError::Binary)?;
        let ends = match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(ends)) => Some(Ends {
                source: (ends.source_address, ends.source_port).into(),
                destination: (ends.destination_address, ends.destination_port).into(),
            }),
            (v2::Command::Proxy, v2::Addresses::IPv6(ends)) => Some(Ends {
                source: (ends.source_address, ends.source_port).into(),
                destination: (ends.destination_address, ends.destination_port).into(),
            }),
            (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        };
        return Ok(Parsed::Header(length, ends));
    }
    if !begins(b"PROXY ") {
        return Err(HeaderError::Missing);
    }
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let whole = match memchr::memchr(b'\n', line) {
        Some(end) => &line[..=end],
        None if line.len() < MAX_LINE => return Ok(Parsed::Part(MAX_LINE)),
        None => return Err(HeaderError::TooLong),
    };
    let header = v1::Header::try_from(whole).map_err(HeaderError::Line)?;
    let ends = match header.addresses {
        v1::Addresses::Tcp4(ends) => Some(Ends {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
        v1::Addresses::Tcp6(ends) => Some(Ends {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
        v1::Addresses::Unknown => None,
    };
    Ok(Parsed::Header(whole.len(), ends))
}

/// Both ends as addresses of one family, which is all that a header can hold.
fn same_family(Ends { source, destination }: Ends) -> (SocketAddr, SocketAddr) {
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), end.port())),
        IpAddr::V6(_) => end,
    };
    match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (mapped(source), mapped(destination)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        let parse = |text: &str| text.parse().expect("an address");
        Ends { source: parse(source), destination: parse(destination) }
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    #[test]
    fn headers_at_every_prefix() {
        let four = ends("192.0.2.1:1000", "198.51.100.2:443");
        let six = ends("[2001:db8::1]:1000", "[2001:db8::2]:443");
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 3, 232, 1, 187];
        for (header, expect) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\r\n".to_vec(), Some(four)),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 443\r\n".to_vec(), Some(six)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN a b c d\r\n".to_vec(), None),
            (binary(0x21, 0x11, &v4), Some(four)),
            // Further fields are skipped.
            (binary(0x21, 0x11, &[&v4[..], &[4, 0, 1, 9], &[0x20, 0, 0]].concat()), Some(four)),
            (binary(0x20, 0, &[]), None),
            (binary(0x20, 0x11, &v4), None),
            (binary(0x21, 0, &[]), None),
            (write(ProxyVersion::V2, six).to_vec(), Some(six)),
        ] {
            for end in 1..header.len() {
                assert!(matches!(parse(&header[..end]), Ok(Parsed::Part(whole)) if whole > end), "{end}");
            }
            let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            for bytes in [&header, &followed] {
                let Ok(Parsed::Header(length, got)) = parse(bytes) else { panic!("{header:?}") };
                assert_eq!((length, got), (header.len(), expect), "{header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        let many = format!("PROXY TCP4 {}", "1".repeat(200));
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXYTCP4".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 65536\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 2001:db8::2 1000 443\r\n".to_vec(),
            b"PROXY TCP5 192.0.2.1 198.51.100.2 1000 443\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            many.into_bytes(),
            binary(0x31, 0x11, &[0; 12]),
            binary(0x22, 0x11, &[0; 12]),
            binary(0x21, 0x11, &[0; 4]),
            binary(0x21, 0x51, &[0; 12]),
            binary(0x21, 0x11, &[0; 5000]),
            vec![22, 3, 1, 2, 0, 1],
            vec![],
        ] {
            let got = parse(&bytes);
            assert!(got.is_err() || bytes.is_empty(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    proptest! {
        /// Whatever comes is a header of what is there, or nonsense, or asks for more than there is, but
        /// never for more than a header may have.
        #[test]
        fn any_bytes(
            begin in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", v2::PROTOCOL_PREFIX]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [begin, &rest].concat();
            match parse(&bytes) {
                Ok(Parsed::Header(length, _)) => prop_assert!(length <= bytes.len()),
                Ok(Parsed::Part(whole)) => prop_assert!(whole > bytes.len() && whole <= MAX_BINARY),
                Err(_) => {}
            }
        }

        #[test]
        fn what_is_written_is_read(
            source: SocketAddr, destination: SocketAddr, binary: bool,
        ) {
            let version = if binary { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let plain = |end: SocketAddr| SocketAddr::new(end.ip(), end.port());
            let ends = Ends { source: plain(source), destination: plain(destination) };
            let header = write(version, ends);
            let Ok(Parsed::Header(length, Some(read))) = parse(&header) else { panic!("{header:?}") };
            let same = |one: SocketAddr, other: SocketAddr| {
                one.ip().to_canonical() == other.ip().to_canonical() && one.port() == other.port()
            };
            prop_assert!(length == header.len() && same(read.source, ends.source));
            prop_assert!(same(read.destination, ends.destination));
        }
    }

    #[test]
    fn what_endpoints_get() {
        for (ends, line) in [
            (ends("192.0.2.1:1", "192.0.2.2:2"), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
            (ends("[::1]:1", "[::2]:2"), "PROXY TCP6 ::1 ::2 1 2\r\n"),
            (ends("192.0.2.1:1", "[::2]:2"), "PROXY TCP6 ::ffff:192.0.2.1 ::2 1 2\r\n"),
        ] {
            assert_eq!(write(ProxyVersion::V1, ends), line);
            let Ok(Parsed::Header(_, Some(read))) = parse(&write(ProxyVersion::V2, ends)) else {
                panic!("{line}");
            };
            assert_eq!(read.source.ip().to_canonical(), ends.source.ip(), "{line}");
        }
    }
}
