//! How long an endpoint is waited for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timer that is set for every wait and hardly ever rings. One that rings too early, once in a
/// long while, is cheaper than one that is moved each time.
#[derive(Debug)]
pub(super) struct Patience {
    timer: Pin<Box<Sleep>>,
    until: Instant,
}

impl Patience {
    /// Runs from now on.
    pub(super) fn new(limit: Duration) -> Self {
        let until = Instant::now() + limit;
        Self { timer: Box::pin(tokio::time::sleep_until(until)), until }
    }

    /// Runs anew.
    pub(super) fn restart(&mut self, limit: Duration) {
        self.until = Instant::now() + limit;
        if self.timer.deadline() > self.until {
            self.timer.as_mut().reset(self.until);
        }
    }

    /// Ready when it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.until {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.until);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// For how long somebody is waited for whose limits are set one after the other, the next after
    /// so many milliseconds.
    async fn waited(limits: &[(u64, u64)]) -> Duration {
        let mut patience = Patience::new(ms(limits[0].0));
        let mut began = Instant::now();
        for (limit, pause) in limits {
            patience.restart(ms(*limit));
            began = Instant::now();
            if *pause > 0 {
                let over = poll_fn(|cx| patience.poll(cx));
                assert!(tokio::time::timeout(ms(*pause), over).await.is_err(), "{limits:?}");
            }
        }
        poll_fn(|cx| patience.poll(cx)).await;
        began.elapsed()
    }

    #[test]
    fn every_wait_has_its_whole_limit_and_no_more() {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a clock");
        for limits in [
            &[(30, 0)][..],
            &[(60, 20), (60, 20), (60, 0)],
            &[(10_000, 5), (20, 0)],
            &[(20, 5), (10_000, 5), (40, 0)],
        ] {
            let last = ms(limits.last().expect("one").0);
            let waited = clock.block_on(waited(limits));
            assert!(waited >= last && waited < ms(9_000), "{limits:?}: {waited:?}");
        }
    }
}
