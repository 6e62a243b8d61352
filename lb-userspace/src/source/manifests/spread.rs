//! Work over all CPUs, in order.

use std::num::NonZero;
use std::thread;

/// What `work` makes of the parts of `items`, in their order. There is one part for each CPU, and none
/// is smaller than `least`: a thread has to be worth its start.
pub fn spread<T: Sync, R: Send>(items: &[T], least: usize, work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let count = cpus.min(items.len() / least.max(1));
    if count < 2 {
        return vec![work(items)];
    }
    let mut parts = items.chunks(items.len().div_ceil(count));
    let own = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(|| work(part))).collect();
        let mut results = vec![work(own)];
        for other in others {
            results.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_and_in_order() {
        for count in [0, 1, 2, 9, 10, 11, 1000, 1001] {
            let items: Vec<usize> = (0..count).collect();
            for least in [0, 1, 10, 5000] {
                let parts = spread(&items, least, <[usize]>::to_vec);
                assert!(least < 5000 || parts.len() == 1);
                assert_eq!(parts.concat(), items, "{count} by {least}");
            }
        }
    }
}
