//! Requests that do not stop, to see what a change does to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::place::runtime;
use super::{Place, Request, Result};

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many were answered with 200.
    pub good: u64,
    /// How many each backend answered.
    pub endpoints: BTreeMap<String, u64>,
    /// What was wrong with the others, in order.
    pub bad: Vec<String>,
}

/// One request after the other, each on a new connection, until stopped.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Tally>>>,
}

impl Traffic {
    /// Starts in `place`, with `pause` between an answer and the next request.
    pub fn start(place: &Place, request: Request, pause: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = place.spawn("traffic", move || {
            let mut tally = Tally::default();
            let Ok(runtime) = runtime() else { return tally };
            while !stopped.load(Ordering::Relaxed) {
                tally.add(runtime.block_on(request.send()));
                std::thread::sleep(pause);
            }
            tally
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops after the request under way.
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        thread.and_then(Result::ok).flatten().unwrap_or_default()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    fn add(&mut self, result: Result<super::Answer>) {
        match result {
            Ok(answer) if answer.status == 200 => {
                self.good += 1;
                *self.endpoints.entry(answer.endpoint().unwrap_or_default()).or_default() += 1;
            }
            Ok(answer) => self.bad.push(format!("status {}", answer.status)),
            Err(error) => self.bad.push(error.to_string()),
        }
    }
}
