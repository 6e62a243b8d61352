//! How long to wait after failures. Knows nobody.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Waits after failures: doubling from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Backoff {
    /// The wait after `failures` in a row, spread over its upper half by `luck` (0 to 1), so that
    /// many nodes don't come back in the same moment.
    pub fn wait(&self, failures: u32, luck: f64) -> Duration {
        let doubled = self.min.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.max).mul_f64(0.5 + 0.5 * luck)
    }
}

/// A [`Backoff`] that counts by itself.
#[derive(Debug)]
pub struct Attempts {
    backoff: Backoff,
    failures: u32,
}

impl Attempts {
    /// Nothing has failed yet.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// Whether nothing went wrong lately.
    pub fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// Something went well for a while.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub fn wait(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.wait(self.failures, luck())
    }
}

/// A number from 0 to 1 that nobody can guess; for spreading waits, not for secrets.
pub fn luck() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_limit() {
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(10) };
        for (failures, luck, expect) in [
            (1, 1.0, 100),
            (1, 0.0, 50),
            (2, 1.0, 200),
            (4, 1.0, 800),
            (8, 1.0, 10_000),
            (u32::MAX, 1.0, 10_000),
            (u32::MAX, 0.0, 5_000),
        ] {
            assert_eq!(backoff.wait(failures, luck), Duration::from_millis(expect), "{failures} {luck}");
        }
        assert!((0.0..=1.0).contains(&luck()));
    }

    #[test]
    fn attempts_are_counted() {
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1) };
        let mut attempts = Attempts::new(backoff);
        for most in [100, 200, 400, 800, 1000, 1000] {
            let wait = attempts.wait().as_millis();
            assert!((most / 2..=most).contains(&wait), "{wait} of {most}");
        }
        attempts.reset();
        assert!(attempts.is_fresh() && attempts.wait() <= backoff.min);
    }
}
