//! Answers that are sent no faster than a route allows.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// How long a piece may take: rare enough not to cost, often enough to flow.
const BEAT: Duration = Duration::from_millis(100);

/// How much of an answer may have been sent at which time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Bytes each second, not 0.
    pub(super) bytes_per_second: u64,
    /// Bytes that are free of it.
    pub(super) free: u64,
}

impl Rate {
    /// Bytes that may have been sent after `elapsed`: what is free, and what the rate gives for
    /// that time and the beat to come.
    fn allows(&self, elapsed: Duration) -> u64 {
        let time = (elapsed + BEAT).as_nanos();
        let paid = time * u128::from(self.bytes_per_second) / 1_000_000_000;
        self.free.saturating_add(u64::try_from(paid).unwrap_or(u64::MAX))
    }

    /// The time after which something more may be sent once `sent` were.
    fn next(&self, sent: u64) -> Duration {
        let piece = (self.bytes_per_second / 10).max(1);
        let paid = u128::from(sent.saturating_sub(self.free)) + u128::from(piece);
        let time = (paid * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        Duration::from_nanos(u64::try_from(time).unwrap_or(u64::MAX)).saturating_sub(BEAT)
    }
}

/// A body that gives its bytes no faster than allowed. It takes nothing from the endpoint that may
/// not be sent soon, so that the endpoint feels the limit and no memory does.
pub(in crate::proxy) struct Throttled<B> {
    inner: B,
    rate: Rate,
    started: Instant,
    sent: u64,
    /// Taken from the endpoint and not sent yet.
    waiting: Bytes,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B: Body<Data = Bytes> + Unpin> Throttled<B> {
    pub(super) fn new(inner: B, rate: Rate) -> Self {
        let started = Instant::now();
        Self { inner, rate, started, sent: 0, waiting: Bytes::new(), timer: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Throttled<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.waiting.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.waiting = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        loop {
            let room = this.rate.allows(this.started.elapsed()).saturating_sub(this.sent);
            if room > 0 || this.waiting.is_empty() {
                let count = usize::try_from(room).unwrap_or(usize::MAX).min(this.waiting.len());
                this.sent += count as u64;
                return Poll::Ready(Some(Ok(Frame::data(this.waiting.split_to(count)))));
            }
            let until = this.started + this.rate.next(this.sent);
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            timer.as_mut().reset(until);
            ready!(timer.as_mut().poll(cx));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.waiting.len() as u64;
        match self.inner.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + waiting),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (bytes_per_second, free, sent, milliseconds) in [
            (1000, 0, 0, 0),
            (1000, 0, 100, 100),
            (1000, 0, 1000, 1000),
            (1000, 5000, 5000, 0),
            (1000, 5000, 6000, 1000),
            (10, 0, 1, 100),
            (1, 0, 1, 1900),
        ] {
            let rate = Rate { bytes_per_second, free };
            assert_eq!(rate.next(sent), Duration::from_millis(milliseconds), "{rate:?} after {sent}");
        }
    }

    #[test]
    fn what_is_allowed_follows_the_clock() {
        for (bytes_per_second, free) in [(1, 0), (7, 3), (1000, 0), (1_000_000, 65_536), (u64::MAX, u64::MAX)]
        {
            let rate = Rate { bytes_per_second, free };
            let mut sent = 0;
            for _ in 0..100 {
                let at = rate.next(sent);
                let allowed = rate.allows(at);
                assert!(allowed > sent || allowed == u64::MAX, "{rate:?}: {allowed} at {at:?} after {sent}");
                let most = (at + BEAT).as_nanos() * u128::from(bytes_per_second) / 1_000_000_000;
                assert!(u128::from(allowed) <= most + u128::from(free), "{rate:?}");
                sent = allowed;
            }
        }
    }
}
