//! The daemon's side of a trace: from the kernel's ring buffer to lines for one client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use lb_common::trace::Rule;
use nix::net::if_::if_indextoname;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::Asked;
use super::event::{End, Event, Line};
use crate::app::admin::server::Answer;
use crate::app::state::State;
use crate::dataplane::kernel::Events;

/// How often the kernel is told to go on, and the client that we are there.
const PULSE: Duration = Duration::from_secs(1);
/// For how long the kernel goes on by itself.
const LEASE: Duration = Duration::from_secs(5);
/// How often the ring buffer is looked at, which takes no system call. By time, and not when there is
/// something: frames that are looked for are rare, or there are always some.
const LOOK: Duration = Duration::from_millis(10);
/// Lines on their way to the client.
const AHEAD: usize = 256;
/// Events that are told before others get their turn on this thread.
const AT_ONCE: usize = 128;

/// Begins a trace: its lines, or why there is none.
pub fn begin(state: Arc<State>, text: &str) -> Result<mpsc::Receiver<Bytes>, Answer> {
    let bad = |error: String| Answer::Failure(StatusCode::BAD_REQUEST, error);
    let asked: Asked = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    let rule = asked.rule().map_err(bad)?;
    let begun = match state.steering().as_mut() {
        None => return Err(state.no_maps()),
        Some(steering) => steering.watch(&renewed(&rule)),
    };
    let failed = |error: String| Answer::Failure(StatusCode::CONFLICT, error);
    let events = begun.map_err(|error| failed(error.to_string()))?;
    let mut watch = Watch { state, events: Some(events) };
    tracing::info!(?asked, "a trace begins");
    let (lines, received) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let why = tell(&mut watch, &asked, &rule, &lines).await;
        let lost = watch.events.take().map_or(0, |events| watch.end(events));
        tracing::info!(why, lost, "a trace ends");
        // A client that is gone doesn't care.
        let _ = send(&lines, &Line::End(End { lost, why: why.to_owned() })).await;
    });
    Ok(received)
}

/// A trace that runs: however it ends, the kernel stops showing frames.
struct Watch {
    state: Arc<State>,
    events: Option<Events>,
}

impl Watch {
    fn end(&self, events: Events) -> u64 {
        match self.state.steering().as_mut().map(|steering| steering.unwatch(events)) {
            Some(Ok(lost)) => lost,
            // The kernel's side has gone, and ended the trace when it did.
            None => 0,
            Some(Err(error)) => {
                tracing::error!(%error, "the program that traces stays on the NIC until the next trace or start");
                0
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(events) = self.events.take() {
            self.end(events);
        }
    }
}

/// Tells of frames until something ends it, and what that was.
async fn tell(watch: &mut Watch, asked: &Asked, rule: &Rule, lines: &mpsc::Sender<Bytes>) -> &'static str {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let Watch { state, events: Some(events) } = watch else { return "nothing is watched" };
    let mut left = if asked.count == 0 { u64::MAX } else { asked.count };
    let limit = if asked.seconds == 0 { FAR } else { Duration::from_secs(asked.seconds).min(FAR) };
    let end = Instant::now() + limit;
    let mut pulse = interval(PULSE);
    let mut look = interval(LOOK);
    for timer in [&mut pulse, &mut look] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let booted = booted();
    let mut names = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = lines.closed() => return "the client left",
            () = sleep_until(end) => return "its time was over",
            _ = pulse.tick() => {
                match state.steering().as_mut().map(|steering| steering.set_rule(&renewed(rule))) {
                    Some(Ok(())) => {}
                    Some(Err(_)) => return "the kernel refused to go on",
                    None => return "the daemon lets go of the kernel's side",
                }
                // Fails where the client has gone without a word.
                let _ = lines.try_send(Bytes::from_static(b"\n"));
            }
            _ = look.tick() => {
                // No more than what was there at once: others want their turn on this thread.
                let mut told = 0;
                while told < AT_ONCE && let Some(event) = events.next() {
                    let name = names.entry(event.interface).or_insert_with(|| name(event.interface));
                    let line = Line::Event(Box::new(Event::new(&event, name.clone(), booted)));
                    if !send(lines, &line).await {
                        return "the client left";
                    }
                    told += 1;
                    left -= 1;
                    if left == 0 {
                        return "all that were asked for";
                    }
                }
                if told == AT_ONCE {
                    look.reset_immediately();
                }
            }
        }
    }
}

async fn send(lines: &mpsc::Sender<Bytes>, line: &Line) -> bool {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    lines.send(text.into()).await.is_ok()
}

/// The rule, to hold from now on.
fn renewed(rule: &Rule) -> Rule {
    let until = monotonic() + LEASE;
    Rule { until: until.as_nanos().try_into().unwrap_or(u64::MAX), ..*rule }
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// When the kernel's clock was zero.
fn booted() -> Timestamp {
    let since = SignedDuration::try_from(monotonic()).unwrap_or_default();
    Timestamp::now().checked_sub(since).unwrap_or_default()
}

fn name(interface: u32) -> String {
    let name = if_indextoname(interface).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| interface.to_string())
}
