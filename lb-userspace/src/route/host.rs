//! Hosts of requests, from `Host` and `:authority`.

use std::borrow::Cow;

/// Why a text names no host. All of them are the client's fault (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// Nothing before the port.
    #[error("the host is empty")]
    Empty,
    /// More than 253 bytes, or a label of more than 63.
    #[error("the host is longer than a DNS name can be")]
    TooLong,
    /// Two dots in a row or one at the start.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// A byte that is in no DNS name and no address: user information, a path, an escape.
    #[error("the host has a byte that no host name has")]
    BadByte,
    /// What follows the colon is no port.
    #[error("the host's port is no number up to 65535")]
    BadPort,
    /// A bracket that holds no IPv6 address.
    #[error("the host's brackets hold no IPv6 address")]
    BadAddress,
}

/// The form in which hosts are compared: lower case, without port and without trailing dot.
/// IPv6 addresses keep their brackets. Borrows where nothing had to change.
pub fn normalise_host(text: &str) -> Result<Cow<'_, str>, BadHost> {
    if text.starts_with('[') {
        return bracketed(text);
    }
    let name = match text.split_once(':') {
        Some((name, port)) => {
            check_port(port)?;
            name
        }
        None => text,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(BadHost::Empty);
    }
    if name.len() > 253 {
        return Err(BadHost::TooLong);
    }
    let mut label = 0;
    let mut upper = false;
    for byte in name.bytes() {
        match byte {
            b'.' if label == 0 => return Err(BadHost::EmptyLabel),
            b'.' => label = 0,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'A'..=b'Z' => {
                upper = true;
                label += 1;
            }
            _ => return Err(BadHost::BadByte),
        }
        if label > 63 {
            return Err(BadHost::TooLong);
        }
    }
    if label == 0 {
        return Err(BadHost::EmptyLabel);
    }
    Ok(lower(name, upper))
}

fn bracketed(text: &str) -> Result<Cow<'_, str>, BadHost> {
    let (inner, rest) = text[1..].split_once(']').ok_or(BadHost::BadAddress)?;
    inner.parse::<std::net::Ipv6Addr>().map_err(|_| BadHost::BadAddress)?;
    match rest.strip_prefix(':') {
        Some(port) => check_port(port)?,
        None if rest.is_empty() => {}
        None => return Err(BadHost::BadByte),
    }
    let name = &text[..inner.len() + 2];
    Ok(lower(name, name.bytes().any(|b| b.is_ascii_uppercase())))
}

fn lower(name: &str, upper: bool) -> Cow<'_, str> {
    if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }
}

/// RFC 3986 lets the digits after the colon be absent.
fn check_port(port: &str) -> Result<(), BadHost> {
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    if digits && (port.is_empty() || port.parse::<u16>().is_ok()) { Ok(()) } else { Err(BadHost::BadPort) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts() {
        for (text, expect) in [
            ("foo.com", Ok("foo.com")),
            ("FOO.com", Ok("foo.com")),
            ("foo.com:80", Ok("foo.com")),
            ("foo.com.:443", Ok("foo.com")),
            ("foo.com:", Ok("foo.com")),
            ("foo_bar.com", Ok("foo_bar.com")),
            ("192.0.2.1:8080", Ok("192.0.2.1")),
            ("[2001:DB8::1]:80", Ok("[2001:db8::1]")),
            ("[::1]", Ok("[::1]")),
            ("", Err(BadHost::Empty)),
            (":80", Err(BadHost::Empty)),
            (".", Err(BadHost::Empty)),
            ("a..b", Err(BadHost::EmptyLabel)),
            (".foo.com", Err(BadHost::EmptyLabel)),
            ("foo.com..", Err(BadHost::EmptyLabel)),
            ("user@foo.com", Err(BadHost::BadByte)),
            ("foo.com/x", Err(BadHost::BadByte)),
            ("foo%2ecom", Err(BadHost::BadByte)),
            ("foo com", Err(BadHost::BadByte)),
            ("*.foo.com", Err(BadHost::BadByte)),
            ("foo.com\\", Err(BadHost::BadByte)),
            ("é.com", Err(BadHost::BadByte)),
            ("foo.com:65536", Err(BadHost::BadPort)),
            ("foo.com:+80", Err(BadHost::BadPort)),
            ("foo.com:80:80", Err(BadHost::BadPort)),
            ("::1", Err(BadHost::BadPort)),
            ("[::1", Err(BadHost::BadAddress)),
            ("[foo.com]", Err(BadHost::BadAddress)),
            ("[::1]x", Err(BadHost::BadByte)),
        ] {
            assert_eq!(normalise_host(text).as_deref(), expect.as_ref().copied(), "{text:?}");
        }
        assert_eq!(normalise_host(&"a".repeat(64)), Err(BadHost::TooLong));
        assert_eq!(normalise_host(&"a.".repeat(130)), Err(BadHost::TooLong));
    }

    proptest! {
        #[test]
        fn twice_is_once(text in "\\PC{0,40}") {
            if let Ok(once) = normalise_host(&text) {
                prop_assert_eq!(normalise_host(&once), Ok(Cow::Borrowed(once.as_ref())));
            }
        }

        #[test]
        fn names_pass(text in "[a-zA-Z0-9_-]{1,20}(\\.[a-zA-Z0-9]{1,9}){0,3}(\\.)?(:[0-9]{1,4})?") {
            prop_assert!(normalise_host(&text).is_ok());
        }
    }
}
