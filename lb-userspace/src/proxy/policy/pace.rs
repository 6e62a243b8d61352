//! How often: the generic cell rate algorithm, in whole nanoseconds.
//!
//! A client's state is one number: when the requests it was granted would have been paid for at
//! the rate. Nothing is counted up or down in the background.

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Nanoseconds that one request costs.
    interval: u64,
    /// How far ahead of time a client may be.
    tolerance: u64,
}

impl Pace {
    /// `count` requests in each `period` nanoseconds, and `burst` more at once, as nginx's
    /// `limit_req … burst= nodelay` counts it. A count of 0 lets nothing but the burst through.
    pub(super) fn new(count: u32, period: u64, burst: u64) -> Self {
        // Rounded up, so that the rate is never exceeded by the rounding.
        let interval =
            period.checked_div(count.into()).map_or(u64::MAX / 4, |_| period.div_ceil(count.into()));
        Self { interval, tolerance: interval.saturating_mul(burst) }
    }

    /// The client's new state if a request at `now` is granted; `None` if it comes too soon.
    /// `paid_until` is the state before, 0 for a client that is not known.
    pub(super) fn grant(&self, paid_until: u64, now: u64) -> Option<u64> {
        let from = paid_until.max(now);
        (from - now <= self.tolerance).then(|| from.saturating_add(self.interval))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn rows() {
        for (count, period, burst, times, granted) in [
            (1, SECOND, 0, &[0, 0, 1, SECOND - 1, SECOND][..], &[0, 4][..]),
            (2, SECOND, 0, &[0, SECOND / 2 - 1, SECOND / 2], &[0, 2]),
            (1, SECOND, 2, &[0, 0, 0, 0, SECOND], &[0, 1, 2, 4]),
            (3, 60 * SECOND, 0, &[0, 19 * SECOND, 20 * SECOND], &[0, 2]),
            (3, SECOND, 0, &[0, 333_333_333, 333_333_334], &[0, 2]),
            (0, SECOND, 0, &[0, 3600 * SECOND], &[0]),
            (u32::MAX, SECOND, 0, &[0, 0, 1], &[0, 2]),
            // The clock of another worker may be a little behind.
            (1, SECOND, 0, &[SECOND, 0], &[0]),
        ] {
            let pace = Pace::new(count, period, burst);
            let mut state = 0;
            let mut got = Vec::new();
            for (at, now) in times.iter().enumerate() {
                if let Some(next) = pace.grant(state, *now) {
                    state = next;
                    got.push(at);
                }
            }
            assert_eq!(got, granted, "{count} in {period} and {burst}: {times:?}");
        }
    }

    proptest! {
        /// In no window of time is more granted than its share of the rate, the burst and one.
        #[test]
        fn never_too_much(
            count in 1u32..5000,
            burst in 0u64..50,
            mut gaps in prop::collection::vec(0u64..SECOND / 10, 1..400),
        ) {
            let pace = Pace::new(count, SECOND, burst);
            let (mut state, mut now) = (0, 0);
            let mut granted = Vec::new();
            for gap in gaps.drain(..) {
                now += gap;
                if let Some(next) = pace.grant(state, now) {
                    state = next;
                    granted.push(now);
                }
            }
            for (first, from) in granted.iter().enumerate() {
                for (last, to) in granted.iter().enumerate().skip(first) {
                    let most = (to - from) as u128 * u128::from(count) / u128::from(SECOND);
                    let got = (last - first + 1) as u128;
                    prop_assert!(got <= most + u128::from(burst) + 1, "{got} in {} ns", to - from);
                }
            }
        }

        /// A client that keeps to the rate is never refused.
        #[test]
        fn who_keeps_to_the_rate_gets_in(count in 1u32..5000, tries in 1u64..200) {
            let pace = Pace::new(count, SECOND, 0);
            let mut state = 0;
            for at in 0..tries {
                state = pace.grant(state, at * SECOND.div_ceil(count.into())).expect("granted");
            }
        }
    }
}
