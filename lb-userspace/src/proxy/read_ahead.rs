//! Answers read ahead of slow clients.
//!
//! A client that takes a megabyte in a minute keeps its endpoint's connection for that minute. Where
//! a route wants that, a task of its own reads the answer as fast as the endpoint gives it, up to a
//! limit, and the client takes it from there. What has been read can be taken at once: nothing
//! waits for more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::Frame;
use tokio::task::AbortHandle;

use super::buffers::{Budget, Reserved, compact};
use super::error::Error;
use super::upstream::UpstreamBody;

/// How much one piece may have: as much as is read at once.
const PIECE: usize = 64 * 1024;

/// What a piece costs besides its bytes.
const OVERHEAD: usize = 128;

/// The body of an answer while it is read ahead. Dropping it ends the reading.
#[derive(Debug)]
pub(super) struct ReadAhead {
    queue: Rc<RefCell<Queue>>,
    reader: AbortHandle,
    /// How much the client has still to get, if the endpoint said so.
    left: Option<u64>,
}

#[derive(Debug)]
struct Queue {
    pieces: VecDeque<Result<Frame<Bytes>, Error>>,
    /// Bytes in `pieces`, and what they cost.
    held: usize,
    limit: usize,
    reserved: Reserved,
    /// Nothing more will come.
    complete: bool,
    reader: Option<Waker>,
    client: Option<Waker>,
}

impl ReadAhead {
    /// Reads `body`, at most `limit` bytes ahead and as far as the budget goes.
    pub(super) fn start(mut body: Box<UpstreamBody>, limit: u64, budget: &Rc<Budget>) -> Self {
        let left = body.exact_len();
        let queue = Rc::new(RefCell::new(Queue {
            pieces: VecDeque::new(),
            held: 0,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            reserved: budget.open(),
            complete: false,
            reader: None,
            client: None,
        }));
        let shared = Rc::clone(&queue);
        let reader = tokio::task::spawn_local(async move {
            while !poll_fn(|cx| read_one(&mut body, &shared, cx)).await {}
        });
        Self { queue, reader: reader.abort_handle(), left }
    }

    /// Nothing more will come.
    pub(super) fn is_end(&self) -> bool {
        let queue = self.queue.borrow();
        queue.complete && queue.pieces.is_empty()
    }

    /// How much is still to come, if the endpoint said so.
    pub(super) fn exact_len(&self) -> Option<u64> {
        self.left
    }

    /// The next piece.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut queue = self.queue.borrow_mut();
        match queue.pieces.pop_front() {
            Some(piece) => {
                let bytes = size(&piece);
                queue.held -= cost(bytes);
                let held = queue.held;
                queue.reserved.shrink_to(held);
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(bytes as u64);
                }
                if let Some(reader) = queue.reader.take() {
                    reader.wake();
                }
                Poll::Ready(Some(piece))
            }
            None if queue.complete => Poll::Ready(None),
            None => {
                queue.client = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads one piece when there is room; true at the end.
fn read_one(body: &mut UpstreamBody, queue: &RefCell<Queue>, cx: &mut Context<'_>) -> Poll<bool> {
    {
        let mut queue = queue.borrow_mut();
        let room = queue.held + cost(PIECE);
        // One piece is always allowed, as without reading ahead.
        if !queue.pieces.is_empty() && (queue.held >= queue.limit || !queue.reserved.grow_to(room)) {
            queue.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
    let piece = ready!(body.poll_frame(cx));
    let mut queue = queue.borrow_mut();
    queue.complete = !matches!(piece, Some(Ok(_))) || body.is_end();
    if let Some(piece) = piece {
        let piece = piece.map(|frame| frame.map_data(compact));
        queue.held += cost(size(&piece));
        queue.pieces.push_back(piece);
    }
    let held = queue.held;
    queue.reserved.shrink_to(held);
    if let Some(client) = queue.client.take() {
        client.wake();
    }
    Poll::Ready(queue.complete)
}

fn size(piece: &Result<Frame<Bytes>, Error>) -> usize {
    piece.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len)
}

fn cost(bytes: usize) -> usize {
    bytes + OVERHEAD
}
