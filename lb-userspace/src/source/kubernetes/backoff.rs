//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Waits that double with every attempt.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first wait is `first`; none is longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0 }
    }

    /// Whether nothing went wrong lately.
    pub fn is_fresh(&self) -> bool {
        self.attempts == 0
    }

    /// Something went well for a while.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next wait. Spread over its upper half, so that a thousand nodes don't come back in the
    /// same moment.
    pub fn next(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        let spread = RandomState::new().hash_one(self.attempts) as f64 / u64::MAX as f64;
        doubled.min(self.longest).mul_f64(0.5 + 0.5 * spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for most in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next().as_millis();
            assert!((most / 2..=most).contains(&wait), "{wait} of {most}");
        }
        for _ in 0..100 {
            assert!(backoff.next() <= Duration::from_secs(1));
        }
        backoff.reset();
        assert!(backoff.is_fresh() && backoff.next() <= Duration::from_millis(100));
    }
}
