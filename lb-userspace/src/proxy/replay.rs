//! What was taken of a request's body, in case the request has to be sent again.

use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use smallvec::SmallVec;

use super::buffers::{Budget, Reserved, compact};

/// Bodies that are longer are forgotten while they are passed on.
const LONGEST: usize = 128 * 1024;

/// What a piece costs besides its bytes.
const OVERHEAD: usize = 64;

/// The begin of a body, which can be gone through again and again.
#[derive(Debug)]
pub(super) struct Replay {
    pieces: SmallVec<[Bytes; 2]>,
    trailers: Option<HeaderMap>,
    /// What was gone through: pieces, and then trailers.
    next: usize,
    reserved: Reserved,
    cost: usize,
}

impl Replay {
    /// Nothing was taken yet.
    pub(super) fn new(budget: &Rc<Budget>) -> Self {
        Self { pieces: SmallVec::new(), trailers: None, next: 0, reserved: budget.open(), cost: 0 }
    }

    /// Takes note of what comes after all that is known. False if that is too much, or there is no
    /// memory for it: then this is of no use any more.
    pub(super) fn take(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(data) = frame.data_ref() {
            self.cost += data.len() + OVERHEAD;
            if self.cost > LONGEST || !self.reserved.grow_to(self.cost.next_power_of_two()) {
                return false;
            }
            // Most bodies come in one piece, which the connection holds anyway.
            self.pieces.push(if self.pieces.is_empty() { data.clone() } else { compact(data.clone()) });
            self.next = self.pieces.len();
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.next = self.pieces.len() + 1;
        }
        true
    }

    /// Begins anew.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next that was taken before; `None` where something new comes.
    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        let frame = match self.pieces.get(self.next) {
            Some(data) => Frame::data(data.clone()),
            None if self.next == self.pieces.len() => Frame::trailers(self.trailers.clone()?),
            None => return None,
        };
        self.next += 1;
        Some(frame)
    }

    /// Bytes that were taken before and come again.
    pub(super) fn left(&self) -> usize {
        self.pieces.iter().skip(self.next).map(Bytes::len).sum()
    }

    /// Nothing that was taken before comes again.
    pub(super) fn is_through(&self) -> bool {
        self.next >= self.pieces.len() + usize::from(self.trailers.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(replay: &mut Replay) -> String {
        let mut text = String::new();
        while let Some(frame) = replay.next() {
            match frame.into_data() {
                Ok(data) => text += std::str::from_utf8(&data).expect("text"),
                Err(_) => text += "!",
            }
        }
        assert!(replay.is_through() && replay.left() == 0);
        text
    }

    #[test]
    fn all_of_it_comes_again() {
        let mut replay = Replay::new(&Budget::new(1 << 20));
        assert_eq!(text(&mut replay), "");
        for (piece, expect) in [("ab", "ab"), ("c", "abc"), ("!", "abc!")] {
            let frame = match piece {
                "!" => Frame::trailers(HeaderMap::new()),
                data => Frame::data(Bytes::from_static(data.as_bytes())),
            };
            assert!(replay.take(&frame) && replay.next().is_none(), "what is new does not come again");
            for _ in 0..2 {
                replay.rewind();
                assert_eq!(replay.left(), expect.trim_end_matches('!').len());
                assert_eq!(text(&mut replay), expect);
            }
        }
    }

    #[test]
    fn as_far_as_there_is_memory() {
        for (budget, piece, expect) in [
            (1 << 20, 1, LONGEST / (1 + OVERHEAD)),
            (1 << 20, 16_384, LONGEST / (16_384 + OVERHEAD)),
            (1 << 20, LONGEST, 0),
            (20_000, 16_384, 0),
            (40_000, 16_384, 1),
        ] {
            let budget = Budget::new(budget);
            let mut replay = Replay::new(&budget);
            let frame = Frame::data(Bytes::from(vec![0; piece]));
            assert_eq!((0..9999).take_while(|_| replay.take(&frame)).count(), expect, "{budget:?} {piece}");
        }
    }
}
