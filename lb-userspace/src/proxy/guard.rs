//! Strictness that hyper does not offer for HTTP/1.1 requests.
//!
//! hyper reads requests as RFC 9112 allows: it takes a bare LF for a line's end, drops
//! Content-Length beside Transfer-Encoding, folds equal Content-Lengths into one and cuts off the
//! fragment of a target. None of that is visible afterwards, and each is how requests are smuggled
//! past a proxy that reads them in another way than its neighbour. So the guard follows the bytes
//! that hyper is about to read from one head to the next, and overwrites what must not be with
//! NUL, which hyper answers with 400 and the end of the connection.

/// Longest part of a line that is kept when it arrives in pieces: enough for every line whose
/// value matters here.
const KEEP: usize = 256;

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Guard {
    state: State,
    head: Head,
    /// The begin of a line that has not ended yet.
    line: Vec<u8>,
    /// The last byte of that line.
    last: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    RequestLine,
    Headers,
    Body(u64),
    ChunkSize,
    /// What is left of a chunk and the line end after it.
    Chunk(u64),
    Trailers,
    /// The client asked for another protocol: what follows is none of HTTP's business. If the
    /// endpoint declines, the connection ends with its answer.
    Off,
    Refused,
}

/// What matters of the head being read.
#[derive(Debug, Default)]
struct Head {
    content_length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// The request is not to be trusted.
struct Refuse;

impl Guard {
    /// Looks at bytes on their way to hyper.
    pub(super) fn inspect(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Off => return,
                State::Refused => {
                    bytes[at..].fill(0);
                    return;
                }
                State::Body(left) => at += self.skip(left, rest.len(), State::Body, State::RequestLine),
                State::Chunk(left) => at += self.skip(left, rest.len(), State::Chunk, State::ChunkSize),
                State::RequestLine | State::Headers | State::ChunkSize | State::Trailers => {
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        self.keep(rest);
                        return;
                    };
                    let before = if end > 0 { rest[end - 1] } else { self.last };
                    let result = if before != b'\r' {
                        Err(Refuse)
                    } else if self.line.is_empty() && end > 0 {
                        let line = &rest[..end - 1];
                        next(self.state, &mut self.head, line)
                    } else {
                        self.keep(&rest[..end]);
                        let line = std::mem::take(&mut self.line);
                        next(self.state, &mut self.head, line.strip_suffix(b"\r").unwrap_or(&line))
                    };
                    self.line.clear();
                    self.last = 0;
                    match result {
                        Ok(state) => {
                            self.state = state;
                            at += end + 1;
                        }
                        Err(Refuse) => {
                            self.state = State::Refused;
                            at += end;
                        }
                    }
                }
            }
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = KEEP.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        if let Some(last) = part.last() {
            self.last = *last;
        }
        // A fragment beyond what is kept must not slip by.
        if self.state == State::RequestLine && part.contains(&b'#') {
            self.line.splice(..0, [b'#']);
        }
    }

    fn skip(&mut self, left: u64, have: usize, more: impl Fn(u64) -> State, then: State) -> usize {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(have);
        let left = left - count as u64;
        self.state = if left == 0 { then } else { more(left) };
        count
    }
}

/// The state after a line, given without its end.
fn next(state: State, head: &mut Head, line: &[u8]) -> Result<State, Refuse> {
    match state {
        // Empty lines before a request are allowed (RFC 9112 section 2.2).
        State::RequestLine if line.is_empty() => Ok(State::RequestLine),
        State::RequestLine if line.contains(&b'#') => Err(Refuse),
        State::RequestLine => {
            *head = Head::default();
            Ok(State::Headers)
        }
        State::Headers if line.is_empty() => match (head.content_length, head.chunked) {
            (Some(_), true) => Err(Refuse),
            (None, true) => Ok(State::ChunkSize),
            (Some(1..), false) => Ok(State::Body(head.content_length.unwrap_or_default())),
            (_, false) if head.upgrade => Ok(State::Off),
            (_, false) => Ok(State::RequestLine),
        },
        State::Headers => header(head, line).map(|()| State::Headers),
        State::ChunkSize => {
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let text = std::str::from_utf8(&line[..digits]).map_err(|_| Refuse)?;
            match u64::from_str_radix(text, 16).map_err(|_| Refuse)? {
                0 => Ok(State::Trailers),
                size => size.checked_add(2).map(State::Chunk).ok_or(Refuse),
            }
        }
        State::Trailers if line.is_empty() => Ok(State::RequestLine),
        other => Ok(other),
    }
}

fn header(head: &mut Head, line: &[u8]) -> Result<(), Refuse> {
    // Most names differ from the three in length or first letter, so this costs little.
    let Some(colon) = memchr::memchr(b':', line) else { return Err(Refuse) };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if matches!(name.first(), None | Some(b' ' | b'\t')) {
        return Err(Refuse);
    }
    if name.eq_ignore_ascii_case(b"content-length") {
        let digits = !value.is_empty() && value.len() < 19 && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        if !digits || head.content_length.is_some() {
            return Err(Refuse);
        }
        head.content_length = number;
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        if head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refuse);
        }
        head.chunked = true;
    } else if name.eq_ignore_ascii_case(b"upgrade") {
        head.upgrade = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the bytes come through unchanged.
    fn passed(input: &[u8], step: usize) -> usize {
        let mut guard = Guard::default();
        let mut bytes = input.to_vec();
        for part in bytes.chunks_mut(step) {
            guard.inspect(part);
        }
        bytes.iter().zip(input).take_while(|(left, right)| left == right).count()
    }

    #[test]
    fn requests() {
        let long = format!("GET /{}#x HTTP/1.1\r\n\r\n", "a".repeat(600));
        for (input, passes) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\naGET / HTTP/1.1\n", false),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\na\nb\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\nb\r\n0\r\n\r\nGET /#f HTTP/1.1\r\n\r\n",
                false,
            ),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", false),
            ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", false),
            (&long, false),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", false),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\na", false),
            ("POST / HTTP/1.1\r\nContent-Length: 5,5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x00\nanything", true),
        ] {
            for step in [1, 2, 7, input.len()] {
                let count = passed(input.as_bytes(), step);
                assert_eq!(count == input.len(), passes, "{input:?} by {step}: {count} passed");
            }
        }
    }
}
