//! How long requests took.

use std::time::Duration;

/// Times by the microsecond.
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

/// Longer ones count as this.
const LONGEST: usize = 200_000;

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; LONGEST + 1], total: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, time: Duration) {
        let micros = usize::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        self.counts[micros] += 1;
        self.total += 1;
    }

    /// So many of all are not longer, in microseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut left = (self.total as f64 * share).ceil() as u64;
        for (micros, count) in self.counts.iter().enumerate() {
            left = left.saturating_sub(u64::from(*count));
            if left == 0 {
                return micros as f64;
            }
        }
        LONGEST as f64
    }
}
