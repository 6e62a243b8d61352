//! How fast an endpoint answers: an average that believes bad news at once.

use std::time::{Duration, Instant};

/// How fast old observations fade: to a third in this time. As in ingress-nginx.
const DECAY: Duration = Duration::from_secs(10);

/// A peak-sensitive exponentially weighted moving average (as in Finagle): a slower answer counts
/// at once and whole, faster ones win back trust little by little. It fades while nothing is
/// observed, so that an endpoint that was slow is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeakEwma {
    seconds: f64,
    at: Instant,
}

impl PeakEwma {
    pub(super) fn new(first: Duration, now: Instant) -> Self {
        Self { seconds: first.as_secs_f64(), at: now }
    }

    pub(super) fn observe(&mut self, time: Duration, now: Instant) {
        let seconds = time.as_secs_f64();
        let kept = self.kept(now);
        let faded = self.seconds * kept;
        self.seconds = if seconds > faded { seconds } else { faded + seconds * (1.0 - kept) };
        self.at = now;
    }

    /// The average now, in seconds.
    pub(super) fn get(&self, now: Instant) -> f64 {
        self.seconds * self.kept(now)
    }

    /// How much of the last average is left.
    fn kept(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn between_the_extremes_and_never_below_a_peak(
            times in prop::collection::vec((0u64..5_000, 0u64..20_000), 1..50)
        ) {
            let start = Instant::now();
            let (mut now, mut worst) = (start, Duration::ZERO);
            let mut ewma: Option<PeakEwma> = None;
            for (time, pause) in times {
                now += Duration::from_millis(pause);
                let time = Duration::from_millis(time);
                worst = worst.max(time);
                match &mut ewma {
                    None => ewma = Some(PeakEwma::new(time, now)),
                    Some(ewma) => {
                        let before = ewma.get(now);
                        ewma.observe(time, now);
                        let after = ewma.get(now);
                        if time.as_secs_f64() >= before {
                            prop_assert_eq!(after, time.as_secs_f64(), "bad news count whole");
                        }
                    }
                }
                let value = ewma.as_ref().expect("one was observed").get(now);
                prop_assert!((0.0..=worst.as_secs_f64() + 1e-9).contains(&value), "{value}");
            }
            let ewma = ewma.expect("one was observed");
            let later = now + Duration::from_secs(200);
            prop_assert!(ewma.get(later) < 1e-6, "it fades");
        }
    }

    #[test]
    fn trust_comes_back() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(Duration::from_secs(1), start);
        for second in 1..=60 {
            ewma.observe(Duration::from_millis(10), start + Duration::from_secs(second));
        }
        let value = ewma.get(start + Duration::from_secs(60));
        assert!((0.009..0.02).contains(&value), "{value}");
    }
}
