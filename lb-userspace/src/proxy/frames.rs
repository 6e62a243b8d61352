//! What h2 lets HTTP/2 clients do, and Sluice does not.
//!
//! Three things, found by following the heads of frames on their way to h2:
//!
//! - DATA on a stream that its client has ended is an error of the connection (RFC 9113 section 5.1).
//!   h2 resets a stream that is long forgotten, each time anew.
//! - PING, SETTINGS, PRIORITY, WINDOW_UPDATE and RST_STREAM cost their sender a few bytes and are worked
//!   on one by one. A client may send as many as fit to what else goes over the connection, and some.
//! - Pseudo-headers in trailers ([`Trailers`]).
//!
//! The connection is ended by h2 itself, which knows what to say: the frame at fault is turned into
//! one that no client may send, and h2 answers GOAWAY. Whose reason is PROTOCOL_ERROR then, so that
//! [`calm`] writes another where it was a flood.

use tokio::time::Instant;

use super::trailers::Trailers;

/// The preface, whose frame-like look is accidental (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// A frame's head: length, type, flags, stream.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
const FLAG: u8 = 1;

/// Longest payload that a client may send, since we have not allowed more (RFC 9113 section 4.2).
const LONGEST: u32 = 16_384;

/// Streams that are remembered as not ended. A client may leave those open that were reset under it.
const MOST_OPEN: usize = 512;

/// How many bytes of frames that carry nothing a client may send for nothing: about 15,000 PINGs.
const FOR_NOTHING: u64 = 256 * 1024;

/// And for each byte that is carried, either way. Who takes a body in small pieces may send two
/// WINDOW_UPDATEs of 13 bytes for each of them.
const FOR_EACH_BYTE: u64 = 8;

/// And for each second: who is there for days says so now and then.
const FOR_EACH_SECOND: u64 = 1024;

/// Follows the frames of one client.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the preface that have passed.
    preface: usize,
    head: [u8; HEAD],
    /// How much of `head` is there.
    known: usize,
    /// What is left of the frame behind its head.
    left: usize,
    /// The highest stream that was opened.
    last: u32,
    /// Those of them that the client has not ended, in order.
    open: Vec<u32>,
    /// Of streams up to this one nothing is known any more.
    forgotten: u32,
    /// Bytes of frames that carry nothing, of those that do, and of our answers to the former.
    idle: u64,
    carried: u64,
    answers: u64,
    floods: bool,
    /// The trailers that are being read, and whether this frame is of them.
    trailers: Option<Box<Trailers>>,
    in_trailers: bool,
}

impl Frames {
    /// Looks at bytes on their way to h2, and spoils the frame that its client must not send. `written`
    /// is how many bytes went to the client since `opened`. True when that was for a flood.
    pub(super) fn follow(&mut self, bytes: &mut [u8], written: u64, opened: Instant) -> bool {
        let mut at = self.skip_preface(bytes.len());
        let mut ends = false;
        while at < bytes.len() {
            if self.left > 0 {
                let count = self.left.min(bytes.len() - at);
                if self.in_trailers
                    && let Some(trailers) = &mut self.trailers
                {
                    trailers.follow(&mut bytes[at..at + count]);
                }
                (self.left, at) = (self.left - count, at + count);
                continue;
            }
            let count = (HEAD - self.known).min(bytes.len() - at);
            self.head[self.known..self.known + count].copy_from_slice(&bytes[at..at + count]);
            (self.known, at) = (self.known + count, at + count);
            if self.known < HEAD {
                break;
            }
            self.known = 0;
            if self.take_note() {
                // The last byte is at hand, whatever went before: an even stream, which clients never
                // open.
                bytes[at - 1] &= !1;
            } else if self.is_flood(written, opened) && at >= HEAD && !self.floods {
                (self.floods, ends) = (true, true);
                let head = &mut bytes[at - HEAD..at];
                // PING is about no stream.
                head[3..].copy_from_slice(&[PING, 0, 0, 0, 0, 1]);
            }
        }
        ends
    }

    fn skip_preface(&mut self, have: usize) -> usize {
        let count = (PREFACE - self.preface).min(have);
        self.preface += count;
        count
    }

    /// Takes note of a frame's head. True for DATA on a stream that the client has ended.
    fn take_note(&mut self) -> bool {
        let [high, mid, low, kind, flags, stream @ ..] = self.head;
        let length = u32::from_be_bytes([0, high, mid, low]);
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.left = length as usize;
        let ends = flags & FLAG != 0;
        self.in_trailers = false;
        match kind {
            DATA if length > 0 => self.carried += u64::from(length),
            HEADERS | CONTINUATION => self.carried += u64::from(length),
            // Longer ones, whatever they announce, are refused by h2.
            _ => self.idle += u64::from(length.min(LONGEST)) + HEAD as u64,
        }
        match kind {
            // What each is answered with.
            PING if !ends => self.answers += 17,
            SETTINGS if !ends => self.answers += 9,
            HEADERS if stream > self.last => {
                self.trailers = None;
                self.last = stream;
                if !ends {
                    self.remember(stream);
                }
            }
            DATA | HEADERS if stream <= self.last && stream > self.forgotten => {
                let place = self.open.binary_search(&stream);
                if kind == HEADERS && place.is_ok() {
                    self.trailers = Some(Box::new(Trailers::begin(flags, self.left)));
                    self.in_trailers = true;
                }
                if let (Ok(place), true) = (place, ends) {
                    self.open.remove(place);
                }
                return kind == DATA && place.is_err() && stream % 2 == 1;
            }
            CONTINUATION => {
                if let Some(trailers) = &mut self.trailers {
                    trailers.go_on(self.left);
                    self.in_trailers = true;
                }
            }
            _ => {}
        }
        false
    }

    fn remember(&mut self, stream: u32) {
        if self.open.len() == MOST_OPEN {
            self.forgotten = self.open.remove(0);
        }
        self.open.push(stream);
    }

    fn is_flood(&self, written: u64, opened: Instant) -> bool {
        let carried = self.carried + written.saturating_sub(self.answers);
        let most = FOR_NOTHING + FOR_EACH_BYTE * carried;
        self.idle > most && self.idle > most + FOR_EACH_SECOND * opened.elapsed().as_secs()
    }
}

/// What h2 writes at the end of a connection that was a flood, with the reason for it (RFC 9113
/// section 7); `None` where this is not the end.
pub(super) fn calm(written: &[u8]) -> Option<Vec<u8>> {
    const LENGTH: usize = 8;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let (before, frame) = written.split_at_checked(written.len().checked_sub(HEAD + LENGTH)?)?;
    let (head, payload) = frame.split_at(HEAD);
    let is_end = head == [0, 0, LENGTH as u8, GOAWAY, 0, 0, 0, 0, 0];
    is_end.then(|| [before, head, &payload[..4], &ENHANCE_YOUR_CALM.to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIORITY: u8 = 2;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).expect("short").to_be_bytes();
        [&size[1..], &[kind, flags], &stream.to_be_bytes(), &vec![0; length]].concat()
    }

    /// What becomes of frames that come in pieces of `step` bytes, and whether they are a flood.
    fn followed(frames: &[Vec<u8>], step: usize, written: u64) -> (Vec<u8>, bool) {
        let mut bytes = [vec![b'P'; PREFACE], frames.concat()].concat();
        let mut frames = Frames::default();
        let mut floods = false;
        for piece in bytes.chunks_mut(step) {
            floods |= frames.follow(piece, written, Instant::now());
        }
        (bytes.split_off(PREFACE), floods)
    }

    /// Where the stream of a frame was changed.
    fn spoilt(frames: &[Vec<u8>], after: &[u8]) -> Option<usize> {
        let mut at = 0;
        frames.iter().position(|frame| {
            let same = after[at..at + frame.len()] == frame[..];
            at += frame.len();
            !same
        })
    }

    #[test]
    fn data_on_streams_that_are_ended() {
        let (open, ended) = (|n| frame(HEADERS, 0, n, 5), |n| frame(HEADERS, FLAG, n, 5));
        let (more, last) = (|n| frame(DATA, 0, n, 7), |n| frame(DATA, FLAG, n, 7));
        let reset = |n| frame(RST_STREAM, 0, n, 4);
        for (frames, expect) in [
            (vec![ended(1), ended(3), open(5), more(5), more(5), last(5), ended(7)], None),
            (vec![open(1), open(3), last(1), more(3), ended(3), open(5), last(5)], None),
            (vec![ended(1), more(1)], Some(1)),
            (vec![open(1), last(1), more(1)], Some(2)),
            (vec![open(1), ended(1), last(1)], Some(2)),
            (vec![open(5), more(3)], Some(1)),
            // These are h2's to judge.
            (vec![more(1)], None),
            (vec![open(1), reset(1), more(1)], None),
            (vec![ended(1), open(1)], None),
            (vec![ended(1), frame(DATA, 0, 0, 1), frame(DATA, 0, 2, 1)], None),
        ] {
            for step in [1, 4, 10, 1000] {
                let (after, floods) = followed(&frames, step, 0);
                assert_eq!((spoilt(&frames, &after), floods), (expect, false), "{frames:?} by {step}");
            }
        }
        // A client may leave as many streams open as it likes: those that are too many are forgotten.
        let count = u32::try_from(MOST_OPEN).expect("few") * 2;
        let mut frames: Vec<_> = (0..count).map(|n| open(2 * n + 1)).collect();
        frames.extend([last(1), last(1), last(2 * count - 1)]);
        assert_eq!(spoilt(&frames, &followed(&frames, 100, 0).0), None);
        frames.push(last(2 * count - 1));
        assert_eq!(spoilt(&frames, &followed(&frames, 100, 0).0), Some(frames.len() - 1));
    }

    #[test]
    fn floods() {
        let update = frame(WINDOW_UPDATE, 0, 0, 4);
        let request = frame(HEADERS, FLAG, 1, 20);
        let alternating: Vec<_> = (0..60_000).map(|n| [&update, &request][n % 2].clone()).collect();
        for (what, frames, written, expect) in [
            ("PING", vec![frame(PING, 0, 0, 8); 40_000], 0, true),
            // What they are answered with is no reason for more of them.
            ("PING that is answered", vec![frame(PING, 0, 0, 8); 40_000], 40_000 * 17, true),
            ("SETTINGS", vec![frame(SETTINGS, 0, 0, 6); 40_000], 40_000 * 9, true),
            ("PRIORITY", vec![frame(PRIORITY, 0, 1, 5); 40_000], 0, true),
            ("WINDOW_UPDATE", vec![update.clone(); 40_000], 0, true),
            (
                "empty DATA",
                [vec![frame(HEADERS, 0, 1, 9)], vec![frame(DATA, 0, 1, 0); 40_000]].concat(),
                0,
                true,
            ),
            ("a few PINGs", vec![frame(PING, 0, 0, 8); 5000], 0, false),
            ("WINDOW_UPDATE for a body", vec![update.clone(); 40_000], 400_000, false),
            ("WINDOW_UPDATE beside requests", alternating, 0, false),
            (
                "a long body",
                [vec![frame(HEADERS, 0, 1, 9)], vec![frame(DATA, 0, 1, 16_384); 100]].concat(),
                0,
                false,
            ),
        ] {
            for step in [100, 8192] {
                let (after, floods) = followed(&frames, step, written);
                assert_eq!(floods, expect, "{what} by {step}");
                assert_eq!(spoilt(&frames, &after).is_some(), expect, "{what} by {step}");
            }
        }
    }

    #[test]
    fn reasons() {
        let goaway = |reason: u8| [&frame(GOAWAY, 0, 0, 8)[..9], &[0, 0, 0, 7, 0, 0, 0, reason]].concat();
        let before = frame(PING, FLAG, 0, 8);
        assert_eq!(calm(&goaway(1)), Some(goaway(11)));
        assert_eq!(calm(&[&before[..], &goaway(1)].concat()), Some([&before[..], &goaway(11)].concat()));
        for other in [&before[..], &[&goaway(1)[..], &before].concat(), &goaway(1)[1..], b""] {
            assert_eq!(calm(other), None, "{other:?}");
        }
    }
}
