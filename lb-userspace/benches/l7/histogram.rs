//! How long requests took.

use std::time::{Duration, Instant};

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

/// Requests are told apart by the tenth of a second that they were due in.
const WINDOW: Duration = Duration::from_millis(100);

/// How long requests took, by when they were due.
///
/// A machine that stops for three milliseconds twice in a second holds up half a hundredth of all requests, whoever
/// answers them. Of ten windows it spoils two.
pub struct Windows {
    began: Instant,
    times: Vec<Vec<Duration>>,
}

impl Windows {
    pub fn new(began: Instant) -> Self {
        Self { began, times: Vec::new() }
    }

    pub fn add(&mut self, due: Instant, time: Duration) {
        // Those of the run before are none of this one's.
        let Some(since) = due.checked_duration_since(self.began) else { return };
        let at = since.div_duration_f64(WINDOW) as usize;
        if at >= self.times.len() {
            self.times.resize_with(at + 1, Vec::new);
        }
        self.times[at].push(time);
    }

    /// So many of the requests in a window are not longer, in microseconds: the median of all windows but the last, whose
    /// late requests have no answer yet.
    pub fn quantile(&mut self, share: f64) -> f64 {
        let of_window = |times: &mut Vec<Duration>| {
            times.sort();
            let at = (times.len() as f64 * share).ceil() as usize;
            times.get(at.saturating_sub(1)).map(|time| time.as_secs_f64() * 1e6)
        };
        let Some((_last, whole)) = self.times.split_last_mut() else { return f64::NAN };
        let mut all: Vec<_> = whole.iter_mut().filter_map(of_window).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }
}
