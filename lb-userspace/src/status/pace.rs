//! How often to ask: a token bucket. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A rate with room for bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// In the long run; above 0.
    pub per_second: f64,
    /// At once, after a quiet time; at least 1.
    pub burst: u32,
}

/// Tokens that come back at a [`Pace`].
#[derive(Clone, Debug)]
pub struct Bucket {
    pace: Pace,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(pace: Pace, now: Instant) -> Self {
        Self { pace, tokens: f64::from(pace.burst), filled: now }
    }

    /// How many may be taken now.
    pub fn room(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + since * self.pace.per_second).min(f64::from(self.pace.burst));
        self.tokens as usize
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let some = self.room(now) > 0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }

    /// When there will be one.
    pub fn next(&mut self, now: Instant) -> Instant {
        if self.room(now) > 0 {
            return now;
        }
        let missing = (1.0 - self.tokens) / self.pace.per_second;
        // A little late rather than early, when there would be none again.
        now + Duration::from_secs_f64(missing) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_give_their_burst_and_then_their_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Pace { per_second: 10.0, burst: 3 }, start);
        let mut given = Vec::new();
        let mut now = start;
        while now < start + Duration::from_secs(2) {
            if bucket.take(now) {
                given.push(now - start);
            } else {
                let next = bucket.next(now);
                assert!(next > now, "waiting must bring one on");
                now = next;
            }
        }
        assert!(given[..3].iter().all(Duration::is_zero), "{given:?}");
        assert!((20..=23).contains(&given.len()), "3 at once and about 10 a second: {}", given.len());

        assert_eq!(bucket.room(now + Duration::from_secs(3600)), 3, "quiet times save up no more than that");
        assert_eq!(bucket.room(start), 3, "a clock that goes back takes nothing away");
    }
}
