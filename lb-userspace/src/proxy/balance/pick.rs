//! Choosing one of several endpoints, by turns or by load.

use super::load::Measure;

/// The first from `place` on that is not skipped, round and round.
pub(super) fn round_robin(count: usize, place: u64, skip: impl Fn(usize) -> bool) -> Option<usize> {
    let start = place.checked_rem(count as u64)? as usize;
    (start..count).chain(0..start).find(|index| !skip(*index))
}

/// How often a place is drawn before all are looked at.
const DRAWS: usize = 8;

/// The power of two choices: of two that `random` picks (below its argument), the one with the
/// lower cost. Always the best one would be worse: all workers would send to it until they see that
/// it is no longer.
pub(super) fn two_choices(
    count: usize,
    skip: impl Fn(usize) -> bool,
    mut random: impl FnMut(usize) -> usize,
    prefers: impl Fn(usize, usize) -> bool,
) -> Option<usize> {
    let first = draw(count, &skip, &mut random)?;
    match draw(count, |index| index == first || skip(index), &mut random) {
        Some(second) if prefers(second, first) => Some(second),
        _ => Some(first),
    }
}

/// One that is not skipped. Looks at all of them only where most are.
fn draw(
    count: usize,
    skip: impl Fn(usize) -> bool,
    random: &mut impl FnMut(usize) -> usize,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    for _ in 0..DRAWS {
        let drawn = random(count);
        if !skip(drawn) {
            return Some(drawn);
        }
    }
    match (0..count).filter(|index| !skip(*index)).count() {
        0 => None,
        open => {
            let nth = random(open);
            (0..count).filter(|index| !skip(*index)).nth(nth)
        }
    }
}

/// Whether `a` has less to do.
pub(super) fn has_fewer_requests(a: Measure, b: Measure) -> bool {
    a.in_flight < b.in_flight
}

/// Whether `a` will answer sooner: its response time, once for each request that it works on and
/// once for this one. Who was not measured yet counts as fast as the other.
pub(super) fn is_sooner(a: Measure, b: Measure) -> bool {
    let (time_a, time_b) = match (a.time, b.time) {
        (Some(a), Some(b)) => (a, b),
        _ => (1.0, 1.0),
    };
    time_a * f64::from(a.in_flight + 1) < time_b * f64::from(b.in_flight + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn turns_are_even(count in 1usize..50, start: u32, rounds in 1u64..5) {
            let mut load = vec![0; count];
            for place in 0..rounds * count as u64 {
                load[round_robin(count, u64::from(start) + place, |_| false).expect("one")] += 1;
            }
            prop_assert!(load.iter().all(|one| *one == rounds), "{load:?}");
        }

        #[test]
        fn skipped_are_never_picked(skipped in prop::collection::vec(any::<bool>(), 0..20), place: u64, seed: u64) {
            let skip = |index: usize| skipped[index];
            let mut rng = fastrand::Rng::with_seed(seed);
            let two = two_choices(skipped.len(), skip, |below| rng.usize(..below), |a, b| a < b);
            for picked in [round_robin(skipped.len(), place, skip), two] {
                match picked {
                    Some(index) => prop_assert!(!skipped[index]),
                    None => prop_assert!(skipped.iter().all(|one| *one)),
                }
            }
        }

        #[test]
        fn the_worst_is_never_picked(count in 2usize..20, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut seen = vec![false; count];
            for _ in 0..count * 40 {
                seen[two_choices(count, |_| false, |below| rng.usize(..below), |a, b| a < b).expect("one")] = true;
            }
            prop_assert!(!seen[count - 1], "of two different ones, another is always better");
            prop_assert!(seen[0]);
        }

        /// Many clients at once, each request staying for good: the most loaded endpoint has hardly
        /// more than the mean, which no blind choice achieves.
        #[test]
        fn loads_stay_close(count in 2usize..20, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut load = vec![Measure::default(); count];
            for _ in 0..count * 100 {
                let prefers = |a: usize, b: usize| has_fewer_requests(load[a], load[b]);
                let picked = two_choices(count, |_| false, |below| rng.usize(..below), prefers).expect("one");
                load[picked].in_flight += 1;
            }
            let (least, most) = load.iter().fold((u32::MAX, 0), |(least, most), one| {
                (least.min(one.in_flight), most.max(one.in_flight))
            });
            prop_assert!(most <= 110 && least >= 80, "{load:?}");
        }
    }

    #[test]
    fn who_is_sooner() {
        let measure = |in_flight, time| Measure { in_flight, time };
        for (a, b, expect) in [
            (measure(0, Some(0.1)), measure(0, Some(0.2)), true),
            (measure(0, Some(0.2)), measure(0, Some(0.1)), false),
            (measure(3, Some(0.1)), measure(0, Some(0.3)), false),
            (measure(2, Some(0.1)), measure(0, Some(0.31)), true),
            (measure(0, None), measure(1, Some(0.1)), true),
            (measure(0, None), measure(0, Some(9.0)), false),
            (measure(0, Some(9.0)), measure(0, None), false),
            (measure(0, Some(9.0)), measure(1, None), true),
        ] {
            assert_eq!(is_sooner(a, b), expect, "{a:?} {b:?}");
        }
    }
}
