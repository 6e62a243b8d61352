//! The chunked transfer coding (RFC 9112 section 7.1), read strictly.

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest chunk line with its extensions, and longest trailer section.
const LIMIT: usize = 8 * 1024;

/// Where in the coding a body is.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

/// What the next bytes are.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// More bytes are needed.
    More,
    /// Body.
    Data(Bytes),
    /// The end, perhaps with trailers.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// Takes the next piece from `input`, or says what is wrong with it.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Piece, &'static str> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(input)? else { return Ok(Piece::More) };
                    self.state = match size(&line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(Piece::More);
                    }
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - count as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Piece::Data(input.split_to(count)));
                }
                State::DataEnd => {
                    if input.len() < 2 {
                        return Ok(Piece::More);
                    }
                    if !input.starts_with(b"\r\n") {
                        return Err("a chunk is longer than it says");
                    }
                    input.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => {
                    if input.starts_with(b"\r\n") {
                        input.advance(2);
                        return Ok(Piece::End(None));
                    }
                    let mut lines = [httparse::EMPTY_HEADER; 64];
                    let (end, trailers) = match httparse::parse_headers(input, &mut lines) {
                        Ok(httparse::Status::Complete((end, lines))) => (end, trailers(lines)),
                        Ok(httparse::Status::Partial) if input.len() < LIMIT => return Ok(Piece::More),
                        _ => return Err("the trailers are not valid"),
                    };
                    input.advance(end);
                    return Ok(Piece::End(trailers));
                }
            }
        }
    }
}

fn take_line(input: &mut Bytes) -> Result<Option<Bytes>, &'static str> {
    match memchr::memchr(b'\n', input) {
        Some(end) if end > 0 && end < LIMIT && input[end - 1] == b'\r' => {
            let line = input.split_to(end - 1);
            input.advance(2);
            Ok(Some(line))
        }
        None if input.len() < LIMIT => Ok(None),
        _ => Err("a chunk's size line is not valid"),
    }
}

/// The size of `1a;extension`. Extensions are dropped.
fn size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let rest = &line[digits..];
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let (bare_cr, rest) = (rest.contains(&b'\r'), &rest[blanks..]);
    if !(1..=15).contains(&digits) || !(rest.is_empty() || rest[0] == b';') || bare_cr {
        return Err("a chunk's size is not valid");
    }
    Ok(line[..digits]
        .iter()
        .fold(0, |sum, byte| sum * 16 + u64::from((*byte as char).to_digit(16).unwrap_or_default())))
}

/// Trailers that may be passed on: nothing that frames, routes or authorises (RFC 9110 section 6.5.1).
fn trailers(lines: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for line in lines {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(line.name.as_bytes()), HeaderValue::from_bytes(line.value))
            && crate::proxy::headers::may_be_trailer(&name)
        {
            map.append(name, value);
        }
    }
    (!map.is_empty()).then_some(map)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body, its trailers and what is left of the input; fed `step` bytes at a time.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), &'static str> {
        let mut chunked = Chunked::default();
        let (mut fed, mut unread, mut body) = (0, Bytes::new(), Vec::new());
        loop {
            match chunked.next(&mut unread)? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End(trailers) => return Ok((body, trailers, unread.len() + input.len() - fed)),
                Piece::More if fed == input.len() => return Err("truncated"),
                Piece::More => {
                    let end = (fed + step).min(input.len());
                    unread = Bytes::from([&unread[..], &input[fed..end]].concat());
                    fed = end;
                }
            }
        }
    }

    proptest! {
        /// What a body is does not depend on how it comes, and a part of it is never the whole.
        #[test]
        fn any_chunks(
            parts in prop::collection::vec(
                prop::sample::select(vec!["5\r\nhello\r\n", "0\r\n", "\r\n", "1;x\r\n", "a", "\n", "X: y\r\n", "f", " ", "\r"]),
                0..10,
            ),
            step in 1..20usize,
        ) {
            let input = parts.concat();
            let whole = decode(input.as_bytes(), input.len().max(1));
            let in_parts = decode(input.as_bytes(), step);
            match (&whole, &in_parts) {
                (Ok(one), Ok(other)) => prop_assert_eq!(one, other),
                (one, other) => prop_assert_eq!(one.is_err(), other.is_err()),
            }
        }
    }

    #[test]
    fn bodies() {
        for (input, expect) in [
            (&b"5\r\nhello\r\n0\r\n\r\n"[..], Ok((&b"hello"[..], 0))),
            (b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\n\r\nHTTP", Ok((b"hello!", 4))),
            (b"00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\n\r\n", Ok((b"0123456789", 0))),
            (b"0\r\n\r\n", Ok((b"", 0))),
            (b"5\r\nhel", Err("truncated")),
            (b"5\r\nhello!\r\n0\r\n\r\n", Err("a chunk is longer than it says")),
            (b"5\nhello\r\n0\r\n\r\n", Err("a chunk's size line is not valid")),
            (b"\r\n", Err("a chunk's size is not valid")),
            (b"-1\r\n", Err("a chunk's size is not valid")),
            (b"0x5\r\nhello\r\n", Err("a chunk's size is not valid")),
            (b"ffffffffffffffff1\r\n", Err("a chunk's size is not valid")),
            (b"5\r\r\nhello\r\n", Err("a chunk's size is not valid")),
        ] {
            for step in [1, 3, input.len()] {
                let got = decode(input, step);
                let text = String::from_utf8_lossy(input);
                match (&got, expect) {
                    (Ok((body, trailers, left)), Ok((want, rest))) => {
                        assert_eq!((&body[..], !input.is_empty() && *left == rest), (want, true), "{text:?}");
                        let names = trailers.iter().flat_map(HeaderMap::keys).map(HeaderName::as_str);
                        assert!(names.into_iter().all(|name| name == "x-sum"), "{text:?}");
                    }
                    (Err(got), Err(want)) => assert_eq!(*got, want, "{text:?} by {step}"),
                    _ => panic!("{text:?} by {step}: {got:?}"),
                }
            }
        }
    }
}
