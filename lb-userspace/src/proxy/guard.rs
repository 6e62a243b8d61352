//! Strictness that hyper does not offer for HTTP/1.1 requests.
//!
//! hyper reads requests as RFC 9112 allows: it takes a bare LF for a line's end, drops
//! Content-Length beside Transfer-Encoding, folds equal Content-Lengths into one and cuts off the
//! fragment of a target. None of that is visible afterwards, and each is how requests are smuggled
//! past a proxy that reads them in another way than its neighbour. So the guard follows the bytes
//! that hyper is about to read from one head to the next, and says how far hyper may read.

use http::StatusCode;

/// Longest part of a line that is kept when it arrives in pieces: enough for every line whose
/// value matters here.
const KEEP: usize = 256;

/// Most digits of a chunk's size: those of 64 bits, and nobody needs zeros before them.
const MAX_SIZE_DIGITS: usize = 16;

/// Longest request line. nginx takes 8 KiB; links of reports and dashboards do get longer.
pub(super) const MAX_REQUEST_LINE: usize = 16 * 1024;

/// Most bytes of a request's head.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Most header lines of a request.
pub(super) const MAX_HEADERS: usize = 100;

/// Why a request is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Two readers could see different requests in it.
    Malformed,
    /// The request line is too long.
    TargetTooLong,
    /// The head has too many bytes or lines.
    HeadTooLarge,
    /// The head did not arrive in time.
    TooSlow,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Guard {
    state: State,
    head: Head,
    /// The begin of a line that has not ended yet.
    line: Vec<u8>,
    /// The last byte of that line.
    last: u8,
    /// How long that line is so far.
    line_length: usize,
    /// How many heads were complete.
    heads: u64,
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
    /// The client asked for another protocol: what follows is a request only if it does not get it.
    Held,
    Refused {
        why: Refusal,
        in_body: bool,
    },
}

/// What matters of the head being read.
#[derive(Debug, Default)]
struct Head {
    content_length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    bytes: usize,
    lines: usize,
}

impl Guard {
    /// Looks at bytes on their way to hyper, and says how many of them it may have. If not all,
    /// the request is refused, or asks for another protocol.
    pub(super) fn inspect(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Held | State::Refused { .. } => return at,
                State::Body(left) => at += self.skip(left, rest.len(), State::Body, State::RequestLine),
                State::Chunk(left) => at += self.skip(left, rest.len(), State::Chunk, State::ChunkSize),
                State::RequestLine | State::Headers | State::ChunkSize | State::Trailers => {
                    let end = memchr::memchr(b'\n', rest);
                    if let Err(why) = self.measure(end.map_or(rest.len(), |end| end + 1)) {
                        self.refuse(why);
                        return at;
                    }
                    let Some(end) = end else {
                        self.keep(rest);
                        return bytes.len();
                    };
                    match self.take_line(&rest[..end]) {
                        Ok(State::RequestLine) if self.state == State::RequestLine => {}
                        Ok(state) => self.enter(state),
                        Err(why) => {
                            self.refuse(why);
                            return at;
                        }
                    }
                    at += end + 1;
                }
            }
        }
        at
    }

    /// Why the connection is not read any further, and whether that was found in a body.
    pub(super) fn refused(&self) -> Option<(Refusal, bool)> {
        match self.state {
            State::Refused { why, in_body } => Some((why, in_body)),
            _ => None,
        }
    }

    /// Gives up on the request being read.
    pub(super) fn refuse(&mut self, why: Refusal) {
        let in_body = !matches!(self.state, State::RequestLine | State::Headers);
        self.state = State::Refused { why, in_body };
    }

    /// Whether what follows waits for the answer to a request for another protocol.
    pub(super) fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// The client did not get the other protocol: what follows is a request.
    pub(super) fn declined(&mut self) {
        self.state = State::RequestLine;
    }

    /// How many heads were complete.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.state, State::RequestLine | State::Headers) && self.head.bytes > 0
    }

    /// Whether no request has begun.
    pub(super) fn is_between_requests(&self) -> bool {
        self.state == State::RequestLine && self.head.bytes == 0
    }

    /// Whether a request's body has begun and not ended.
    pub(super) fn is_in_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::ChunkSize | State::Chunk(_) | State::Trailers)
    }

    /// Counts bytes of a line.
    fn measure(&mut self, count: usize) -> Result<(), Refusal> {
        self.line_length += count;
        if !matches!(self.state, State::RequestLine | State::Headers) {
            // hyper bounds chunk extensions and trailers itself.
            return Ok(());
        }
        self.head.bytes += count;
        if self.state == State::RequestLine && self.line_length > MAX_REQUEST_LINE {
            return Err(Refusal::TargetTooLong);
        }
        if self.head.bytes > MAX_HEAD || self.head.lines > MAX_HEADERS {
            return Err(Refusal::HeadTooLarge);
        }
        Ok(())
    }

    /// The state after a line, given without its LF.
    fn take_line(&mut self, part: &[u8]) -> Result<State, Refusal> {
        let before = part.last().copied().unwrap_or(self.last);
        let result = if before != b'\r' {
            Err(Refusal::Malformed)
        } else if self.line.is_empty() && !part.is_empty() {
            next(self.state, &mut self.head, &part[..part.len() - 1])
        } else {
            self.keep(part);
            let line = std::mem::take(&mut self.line);
            next(self.state, &mut self.head, line.strip_suffix(b"\r").unwrap_or(&line))
        };
        self.line.clear();
        (self.last, self.line_length) = (0, 0);
        result
    }

    fn enter(&mut self, state: State) {
        if self.state == State::Headers && state != State::Headers {
            self.heads += 1;
            self.head = Head::default();
        }
        self.state = state;
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
fn next(state: State, head: &mut Head, line: &[u8]) -> Result<State, Refusal> {
    match state {
        // Empty lines before a request are allowed (RFC 9112 section 2.2).
        State::RequestLine if line.is_empty() => Ok(State::RequestLine),
        State::RequestLine if line.contains(&b'#') => Err(Refusal::Malformed),
        State::RequestLine => Ok(State::Headers),
        State::Headers if line.is_empty() => match (head.content_length, head.chunked) {
            (Some(_), true) => Err(Refusal::Malformed),
            (None, true) => Ok(State::ChunkSize),
            (Some(length @ 1..), false) => Ok(State::Body(length)),
            (_, false) if head.upgrade => Ok(State::Held),
            (_, false) => Ok(State::RequestLine),
        },
        State::Headers => header(head, line).map(|()| State::Headers),
        State::ChunkSize => {
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            // Of a longer size, hyper might see digits that were not kept here.
            if digits > MAX_SIZE_DIGITS {
                return Err(Refusal::Malformed);
            }
            let text = std::str::from_utf8(&line[..digits]).map_err(|_| Refusal::Malformed)?;
            match u64::from_str_radix(text, 16).map_err(|_| Refusal::Malformed)? {
                0 => Ok(State::Trailers),
                size => size.checked_add(2).map(State::Chunk).ok_or(Refusal::Malformed),
            }
        }
        State::Trailers if line.is_empty() => Ok(State::RequestLine),
        other => Ok(other),
    }
}

fn header(head: &mut Head, line: &[u8]) -> Result<(), Refusal> {
    head.lines += 1;
    // Most names differ from the three in length or first letter, so this costs little.
    let Some(colon) = memchr::memchr(b':', line) else { return Err(Refusal::Malformed) };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if matches!(name.first(), None | Some(b' ' | b'\t')) {
        return Err(Refusal::Malformed);
    }
    if name.eq_ignore_ascii_case(b"content-length") {
        let digits = !value.is_empty() && value.len() < 19 && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        if !digits || head.content_length.is_some() {
            return Err(Refusal::Malformed);
        }
        head.content_length = number;
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        if head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::Malformed);
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

    /// How many of the bytes hyper gets, and what became of the guard.
    fn passed(input: &[u8], step: usize) -> (usize, Guard) {
        let mut guard = Guard::default();
        let mut count = 0;
        for part in input.chunks(step) {
            let passed = guard.inspect(part);
            count += passed;
            if passed < part.len() {
                break;
            }
        }
        (count, guard)
    }

    #[test]
    fn requests() {
        let long = format!("GET /{}#x HTTP/1.1\r\n\r\n", "a".repeat(600));
        let zeros = |digits: usize| {
            let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            format!("{head}{}3\r\na\nb\r\n0\r\n\r\n", "0".repeat(digits - 1))
        };
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
            (&zeros(16), true),
            (&zeros(17), false),
            (&zeros(300), false),
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
            ("0\n\r\nGET / HTTP/1.1\r\n\r\n", false),
        ] {
            for step in [1, 2, 7, input.len()] {
                let (count, guard) = passed(input.as_bytes(), step);
                assert_eq!(guard.refused().is_none(), passes, "{input:?} by {step}: {guard:?}");
                assert_eq!(count == input.len(), passes, "{input:?} by {step}: {count} passed");
            }
        }
    }

    #[test]
    fn limits() {
        let line = |bytes: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(bytes));
        let headers = |lines: usize, bytes: usize| {
            format!("{}{}\r\n", line(1), format!("X: {}\r\n", "a".repeat(bytes)).repeat(lines))
        };
        for (input, expect) in [
            (line(MAX_REQUEST_LINE - 100), None),
            (line(MAX_REQUEST_LINE), Some(Refusal::TargetTooLong)),
            (headers(MAX_HEADERS, 1), None),
            (headers(MAX_HEADERS + 2, 1), Some(Refusal::HeadTooLarge)),
            (headers(1, MAX_HEAD), Some(Refusal::HeadTooLarge)),
            (headers(80, 1000), Some(Refusal::HeadTooLarge)),
            (headers(50, 1000).repeat(3), None),
            ("\r\n".repeat(MAX_HEAD), Some(Refusal::HeadTooLarge)),
        ] {
            for step in [1, 1000, input.len()] {
                let (_, guard) = passed(input.as_bytes(), step);
                assert_eq!(guard.refused().map(|(why, _)| why), expect, "{} bytes by {step}", input.len());
            }
        }
    }

    #[test]
    fn what_follows_an_upgrade_is_held() {
        let head = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let input = format!("{head}GET / HTTP/1.1\nHost: a\r\n\r\n");
        for step in [1, 5, input.len()] {
            let (count, mut guard) = passed(input.as_bytes(), step);
            assert_eq!((count, guard.is_held(), guard.heads()), (head.len(), true, 1), "by {step}");
            guard.declined();
            guard.inspect(&input.as_bytes()[count..]);
            assert_eq!(guard.refused(), Some((Refusal::Malformed, false)), "by {step}");
        }
    }
}
