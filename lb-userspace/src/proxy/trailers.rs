//! Pseudo-headers in an HTTP/2 client's trailers: malformed (RFC 9113 section 8.1), and left out by h2
//! without a word.
//!
//! Where each field of a compressed block (RFC 7541 section 6) begins and ends shows without decoding it,
//! and so do the names of the static table and those that are written out. Names of the dynamic table do
//! not show; h2 leaves them out, as it does all, so that no endpoint sees any.

/// The static table begins with the pseudo-headers.
const PSEUDO: std::ops::RangeInclusive<u8> = 1..=14;

/// `:` in Huffman's code, without the last bit of the byte.
const HUFFMAN_COLON: u8 = 0b101_1100;

/// What no name may have, and no code.
const SPOILT: u8 = 0xff;

const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// A stream's number and a weight.
const PRIORITY_LENGTH: usize = 5;

/// Follows one block, through HEADERS and CONTINUATION.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    /// The next byte is the length of the padding.
    padded: bool,
    /// Bytes before the block.
    before: usize,
    /// Bytes of this frame that are not padding.
    left: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Field,
    /// A number that goes on.
    Number(Next),
    Length(Part),
    LongLength {
        part: Part,
        huffman: bool,
        length: usize,
        shift: u32,
    },
    Name {
        left: usize,
        huffman: bool,
        begins: bool,
        spoilt: bool,
    },
    Value {
        left: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Field,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Name,
    Value,
}

impl Trailers {
    /// A HEADERS frame of this length and with these flags follows.
    pub(super) fn begin(flags: u8, length: usize) -> Self {
        let before = if flags & PRIORITY != 0 { PRIORITY_LENGTH } else { 0 };
        Self { padded: flags & PADDED != 0, before, left: length, state: State::Field }
    }

    /// A CONTINUATION frame of this length follows.
    pub(super) fn go_on(&mut self, length: usize) {
        self.left = length;
    }

    /// Looks at bytes of the frame, and spoils pseudo-headers so that h2 can't read the block.
    pub(super) fn follow(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if std::mem::take(&mut self.padded) {
                self.left = self.left.saturating_sub(1 + usize::from(*byte));
            } else if self.left > 0 {
                self.left -= 1;
                match self.before {
                    0 => self.take(byte),
                    _ => self.before -= 1,
                }
            }
        }
    }

    fn take(&mut self, byte: &mut u8) {
        self.state = match self.state {
            State::Field => self.field(byte),
            State::Number(next) if *byte & 0x80 != 0 => State::Number(next),
            State::Number(next) => next.state(),
            State::Length(part) => {
                let (huffman, length) = (*byte & 0x80 != 0, *byte & 0x7f);
                match length {
                    0x7f => State::LongLength { part, huffman, length: 0x7f, shift: 0 },
                    length => part.text(length.into(), huffman),
                }
            }
            State::LongLength { part, huffman, length, shift } => {
                // h2 refuses numbers that are longer.
                let more = usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(usize::MAX);
                let length = length.saturating_add(more);
                match *byte & 0x80 {
                    0 => part.text(length, huffman),
                    _ => State::LongLength { part, huffman, length, shift: shift.saturating_add(7) },
                }
            }
            State::Name { left, huffman, begins, spoilt } => {
                let is_colon = if huffman { *byte >> 1 == HUFFMAN_COLON } else { *byte == b':' };
                let spoilt = spoilt || (begins && is_colon);
                if spoilt {
                    *byte = SPOILT;
                }
                match left {
                    1 => State::Length(Part::Value),
                    left => State::Name { left: left - 1, huffman, begins: false, spoilt },
                }
            }
            State::Value { left: 1 } => State::Field,
            State::Value { left } => State::Value { left: left - 1 },
        };
    }

    /// The first byte of a field.
    fn field(&self, byte: &mut u8) -> State {
        let (mask, next, is_size) = match *byte {
            0x80.. => (0x7f, Next::Field, false),
            0x40.. => (0x3f, Next::Value, false),
            0x20.. => (0x1f, Next::Field, true),
            _ => (0x0f, Next::Value, false),
        };
        let index = *byte & mask;
        if index == mask {
            return State::Number(next);
        }
        if !is_size && PSEUDO.contains(&index) {
            // Index 0 of a field without a name of its own: an error wherever it stands.
            *byte = 0x80;
            return State::Field;
        }
        match (index, next) {
            (0, Next::Value) => State::Length(Part::Name),
            _ => next.state(),
        }
    }
}

impl Next {
    fn state(self) -> State {
        match self {
            Self::Field => State::Field,
            Self::Value => State::Length(Part::Value),
        }
    }
}

impl Part {
    fn text(self, length: usize, huffman: bool) -> State {
        match (self, length) {
            (Self::Name, 0) => State::Length(Self::Value),
            (Self::Value, 0) => State::Field,
            (Self::Name, left) => State::Name { left, huffman, begins: true, spoilt: false },
            (Self::Value, left) => State::Value { left },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether something was spoilt, read in pieces of `step` bytes.
    fn spoils(flags: u8, frames: &[&[u8]], step: usize) -> bool {
        let mut trailers = Trailers::begin(flags, frames[0].len());
        let mut spoilt = false;
        for (n, frame) in frames.iter().enumerate() {
            if n > 0 {
                trailers.go_on(frame.len());
            }
            let mut bytes = frame.to_vec();
            bytes.chunks_mut(step).for_each(|piece| trailers.follow(piece));
            spoilt |= bytes != *frame;
        }
        spoilt
    }

    #[test]
    fn pseudo_headers_are_found() {
        let long = [&[0, 0x7f, 0x49][..], &[b'x'; 200], b"\x01y\x83"].concat();
        let longer = [&[0, 1, b'x', 0x7f, 0x80, 0x01][..], &[b'y'; 255], b"\x84"].concat();
        for (what, flags, frames, expect) in [
            ("nothing", 0, &[&b""[..]][..], false),
            ("a field", 0, &[b"\0\x01x\x01y"], false),
            ("a field of the static table", 0, &[b"\x90"], false),
            (":method as it stands", 0, &[b"\x83"], true),
            (":status as it stands", 0, &[b"\x8e"], true),
            ("behind a field", 0, &[b"\0\x01x\x01y\x81"], true),
            ("its name, to be remembered", 0, &[b"\x41\x01y"], true),
            ("its name", 0, &[b"\x04\x01y"], true),
            ("its name, never to be remembered", 0, &[b"\x14\x01y"], true),
            ("another name", 0, &[b"\x4f\x01\x84\x1f\x01\x01\x84"], false),
            ("written out", 0, &[b"\0\x07:method\x01y"], true),
            ("written out in code", 0, &[b"\0\x84\xb9\x58\xd3\x3f\x01y"], true),
            ("a value with a colon", 0, &[b"\0\x01x\x02:y"], false),
            ("a name with a colon", 0, &[b"\0\x02x:\x01y"], false),
            ("no name", 0, &[b"\0\0\0\x83"], true),
            ("another size", 0, &[b"\x21\x22\x3f\x01"], false),
            ("an entry of the dynamic table", 0, &[b"\xbe\xff\x20"], false),
            ("a long name", 0, &[&long], true),
            ("a long value", 0, &[&longer], true),
            ("padding", PADDED, &[b"\x02\0\x01x\x01y\x83\x83"], false),
            ("before padding", PADDED, &[b"\x02\0\x01x\x01y\x83\x83\x83"], true),
            ("nothing but padding", PADDED, &[b"\x02\x83\x83"], false),
            ("a priority", PRIORITY, &[b"\x83\x83\x83\x83\x83\0\x01x\x01y"], false),
            ("behind a priority", PRIORITY, &[b"\0\0\0\0\0\x83"], true),
            ("in two frames", 0, &[b"\0\x01x\x01", b"y\x83"], true),
            ("not in two frames", 0, &[b"\0\x01x\x02", b"\x83\x83"], false),
        ] {
            for step in [1, 2, 1000] {
                assert_eq!(spoils(flags, frames, step), expect, "{what} by {step}");
            }
        }
    }

    /// No block, however broken, makes it stumble.
    #[test]
    fn any_bytes() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(1..40)).map(|_| random.u8(..)).collect();
            spoils(random.u8(..), &[&bytes, &bytes], random.usize(1..8));
        }
    }
}
