//! W3C Trace Context: which trace a request is part of.
//!
//! A `traceparent` that is valid goes on to the endpoint, and `tracestate` with it. One that is not
//! begins a trace that nobody can follow: both are left out, so that the endpoint begins its own. Where
//! spans are sent somewhere, the endpoint gets the proxy's span for a parent ([`super::spans`]).

use http::HeaderMap;
use http::header::HeaderName;

/// The request's place in a trace.
pub(super) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What tracing systems add to it.
pub(super) static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Whether a header says which trace a request is part of.
pub(super) fn is_about_traces(name: &HeaderName) -> bool {
    *name == TRACEPARENT || *name == TRACESTATE
}

/// Whether a request is part of a trace that its headers name as they must.
pub(super) fn is_valid(headers: &HeaderMap) -> bool {
    TraceParent::of(headers).is_some()
}

/// A valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent<'a>(&'a str);

impl<'a> TraceParent<'a> {
    /// That of a request; `None` if there is none, more than one, or none that is valid (Trace Context
    /// level 1, section 3.2).
    pub(super) fn of(headers: &'a HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let hex = |range: std::ops::Range<usize>| {
            let digits = bytes.get(range)?;
            digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
        };
        let (version, trace, parent) = (hex(0..2)?, hex(3..35)?, hex(36..52)?);
        hex(53..55)?;
        let dashes = [2, 35, 52].iter().all(|at| bytes[*at] == b'-');
        let is_zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
        // Versions to come may add fields behind a dash.
        let length = bytes.len() == 55 || (version != b"00" && bytes[55] == b'-');
        (dashes && length && version != b"ff" && !is_zero(trace) && !is_zero(parent)).then_some(Self(text))
    }

    /// The trace.
    pub(super) fn trace(self) -> [u8; 16] {
        u128::from_str_radix(self.trace_id(), 16).unwrap_or_default().to_be_bytes()
    }

    /// The span that the request is part of.
    pub(super) fn parent(self) -> [u8; 8] {
        u64::from_str_radix(&self.0[36..52], 16).unwrap_or_default().to_be_bytes()
    }

    /// Whether whoever sent it records the trace.
    pub(super) fn is_sampled(self) -> bool {
        u8::from_str_radix(&self.0[53..55], 16).is_ok_and(|flags| flags & 1 != 0)
    }

    /// The trace, 32 hexadecimal digits.
    pub(super) fn trace_id(self) -> &'a str {
        &self.0[3..35]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_are_valid() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (text, valid) in [
            (good.to_owned(), true),
            (good.replace("-01", "-00"), true),
            (good.replace("00-0", "cc-0"), true),
            (format!("{}-more", good.replace("00-0", "cc-0")), true),
            (format!("{good}-more"), false),
            (format!("{}x", good.replace("00-0", "cc-0")), false),
            (good.replace("00-0", "ff-0"), false),
            (good.to_uppercase(), false),
            (good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), false),
            (good.replace("b7ad6b7169203331", &"0".repeat(16)), false),
            (good.replace("-b7", "_b7"), false),
            (good.replace("0af7", "0ag7"), false),
            (String::new(), false),
            ("é".repeat(30), false),
        ] {
            let got = TraceParent::parse(text.as_bytes());
            assert_eq!(got.is_some(), valid, "{text}");
            assert!(got.is_none_or(|got| got.trace_id() == &good[3..35]), "{text}");
        }
        for end in 0..good.len() {
            assert_eq!(TraceParent::parse(&good.as_bytes()[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn two_are_as_good_as_none() {
        let mut headers = HeaderMap::new();
        let value = || "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().expect("a value");
        assert_eq!(TraceParent::of(&headers), None);
        headers.append(&TRACEPARENT, value());
        assert!(TraceParent::of(&headers).is_some());
        headers.append(&TRACEPARENT, value());
        assert_eq!(TraceParent::of(&headers), None);
    }
}
