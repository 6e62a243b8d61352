//! HTTP/2 streams as tasks of their worker. One whose client takes nothing of the answer is ended.
//!
//! A client may leave a stream's window at nothing for ever while the connection lives on: the
//! answer would stay in memory and its endpoint's connection busy. hyper waits as long as the
//! client likes and does not tell. But a body knows whether it was the last to give something, and
//! a task that is not polled again after that waits for its client.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::stream::Gate;

/// A connection that has written so much in a period moves. Less may be pings.
const MOVES: u64 = 1024;

/// How many periods a stream may wait while its connection moves: on a slow line, streams wait for
/// one another.
const MOST_PERIODS: u32 = 10;

thread_local! {
    static WAITS_FOR: Cell<Option<WaitsFor>> = const { Cell::new(None) };
}

/// Whom an answer waits for, as far as its body was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// The client: what there was has been given to it.
    Client,
    /// The endpoint: there was nothing to give.
    Endpoint,
}

/// Says what became of asking an answer's body for its next piece.
pub(super) fn note(waits_for: WaitsFor) {
    WAITS_FOR.set(Some(waits_for));
}

/// Runs hyper's HTTP/2 tasks on the worker's own thread.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    gate: Arc<Gate>,
    /// How long a client may take nothing.
    limit: Duration,
}

impl Streams {
    pub(super) fn new(gate: &Arc<Gate>, limit: Duration) -> Self {
        Self { gate: Arc::clone(gate), limit }
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        let Self { gate, limit } = self.clone();
        // In a box: what a task is made of is copied several times until it ends.
        let mut future = Box::pin(future);
        tokio::task::spawn_local(async move {
            let mut timer = None;
            let mut waiting = None;
            poll_fn(|cx| {
                WAITS_FOR.set(None);
                if future.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                match WAITS_FOR.get() {
                    Some(WaitsFor::Client) => waiting = Some(Waiting::new(&gate, limit)),
                    Some(WaitsFor::Endpoint) => waiting = None,
                    None => {}
                }
                let Some(wait) = &mut waiting else { return Poll::Pending };
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(wait.until)));
                loop {
                    // A timer that rings too early is cheaper than one that is moved for every piece.
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if wait.until <= Instant::now() && !wait.goes_on(&gate, limit) {
                        return Poll::Ready(());
                    }
                    timer.as_mut().reset(wait.until);
                }
            })
            .await;
        });
    }
}

/// A stream that waits for its client.
#[derive(Debug)]
struct Waiting {
    until: Instant,
    /// What the connection had written at the period's begin.
    written: u64,
    periods: u32,
}

impl Waiting {
    fn new(gate: &Gate, limit: Duration) -> Self {
        Self { until: Instant::now() + limit, written: gate.written(), periods: 0 }
    }

    /// The period is over; whether there is another.
    fn goes_on(&mut self, gate: &Gate, limit: Duration) -> bool {
        let moved = gate.written().wrapping_sub(self.written) >= MOVES;
        self.periods += 1;
        self.written = gate.written();
        self.until = Instant::now() + limit;
        moved && self.periods < MOST_PERIODS
    }
}
