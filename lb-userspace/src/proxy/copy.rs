//! A body's copy, made while the body is read.
//!
//! The copy holds nothing up: what its reader does not take in time makes it incomplete, and an
//! incomplete copy ends with an error, so that nobody takes it for the whole.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::buffers::{Reserved, compact};

/// How far a copy's reader may be behind.
const MAX_HELD: usize = 256 * 1024;

/// What each piece counts as, at least: an entry of the queue.
const PIECE: usize = 64;

/// The copy as its maker has it. Dropped before the end, it makes the copy incomplete.
#[derive(Debug)]
pub(super) struct CopyWriter(Rc<RefCell<Queue>>);

/// The copy as its reader gets it.
#[derive(Debug)]
pub(super) enum BodyCopy {
    /// Nothing, or all there is.
    Whole {
        data: Bytes,
        /// For `data`.
        _reserved: Option<Rc<Reserved>>,
    },
    /// What is being written.
    Written(CopyReader),
}

/// A copy that is being written.
#[derive(Debug)]
pub(super) struct CopyReader {
    queue: Rc<RefCell<Queue>>,
    hint: SizeHint,
}

#[derive(Debug)]
struct Queue {
    pieces: VecDeque<Bytes>,
    held: usize,
    reserved: Reserved,
    state: State,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Complete,
    Incomplete,
}

/// A part of the copy is missing.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the copy of a request's body is incomplete")]
pub(super) struct Incomplete;

/// Begins a copy of a body of which `hint` tells the length.
pub(super) fn copy(reserved: Reserved, hint: SizeHint) -> (CopyWriter, BodyCopy) {
    let queue = Queue { pieces: VecDeque::new(), held: 0, reserved, state: State::Open, reader: None };
    let queue = Rc::new(RefCell::new(queue));
    (CopyWriter(Rc::clone(&queue)), BodyCopy::Written(CopyReader { queue, hint }))
}

impl BodyCopy {
    /// The copy of no body.
    pub(super) fn none() -> Self {
        Self::Whole { data: Bytes::new(), _reserved: None }
    }
}

impl CopyWriter {
    /// The next piece. False when there is no use in further ones.
    pub(super) fn write(&self, data: &Bytes) -> bool {
        let mut queue = self.0.borrow_mut();
        let held = queue.held + data.len() + PIECE;
        if Rc::strong_count(&self.0) == 1 || held > MAX_HELD || !queue.reserved.grow_to(held) {
            return false;
        }
        queue.held = held;
        queue.pieces.push_back(compact(data.clone()));
        queue.wake();
        true
    }

    /// The body is complete.
    pub(super) fn finish(&self) {
        let mut queue = self.0.borrow_mut();
        queue.state = State::Complete;
        queue.wake();
    }
}

impl Drop for CopyWriter {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        if queue.state == State::Open {
            queue.state = State::Incomplete;
            queue.pieces.clear();
            queue.reserved.shrink_to(0);
            queue.wake();
        }
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Body for BodyCopy {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        let reader = match &mut *self {
            Self::Whole { data, .. } if data.is_empty() => return Poll::Ready(None),
            Self::Whole { data, .. } => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Written(reader) => reader,
        };
        let mut queue = reader.queue.borrow_mut();
        match (queue.pieces.pop_front(), queue.state) {
            (Some(piece), _) => {
                queue.held -= piece.len() + PIECE;
                let held = queue.held;
                queue.reserved.shrink_to(held);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            (None, State::Complete) => Poll::Ready(None),
            (None, State::Incomplete) => Poll::Ready(Some(Err(Incomplete))),
            (None, State::Open) => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { data, .. } if data.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            // As the body's was at its begin: only asked for before the first piece.
            Self::Written(reader) => reader.hint,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::BodyExt;

    use super::*;
    use crate::proxy::buffers::Budget;

    /// What a reader gets after some pieces of `size` were written, and whether all of them were taken.
    fn check(budget: usize, size: usize, pieces: usize, finished: bool) -> (bool, Option<Option<usize>>) {
        let budget = Budget::new(budget);
        let (writer, reader) = copy(budget.open(), SizeHint::new());
        let taken = (0..pieces).all(|_| writer.write(&Bytes::from(vec![7; size])));
        if taken && finished {
            writer.finish();
        }
        drop(writer);
        let read = reader.collect().now_or_never().map(|body| Some(body.ok()?.to_bytes().len()));
        assert!(budget.open().grow_to(1), "what is read or dropped is given back");
        (taken, read)
    }

    #[test]
    fn copies_are_whole_or_end_with_an_error() {
        let plenty = 64 * 1024 * 1024;
        for (budget, size, pieces, finished, expect) in [
            (plenty, 1000, 3, true, (true, Some(Some(3000)))),
            (plenty, 0, 1, true, (true, Some(Some(0)))),
            (plenty, 1000, 3, false, (true, Some(None))),
            // The reader is too far behind.
            (plenty, 100_000, 3, true, (false, Some(None))),
            (plenty, 1, 10_000, true, (false, Some(None))),
            // There is no memory for it.
            (1000, 1000, 1, true, (false, Some(None))),
        ] {
            assert_eq!(check(budget, size, pieces, finished), expect, "{pieces} of {size}, {budget}");
        }
    }

    #[test]
    fn nobody_writes_for_nobody() {
        let (writer, reader) = copy(Budget::new(1_000_000).open(), SizeHint::new());
        assert!(writer.write(&Bytes::from_static(b"a")));
        drop(reader);
        assert!(!writer.write(&Bytes::from_static(b"b")));
    }
}
