//! Whether the two CPUs are two cores at this moment.
//!
//! On a virtual machine they may be two threads of one core, now and then and for seconds: then
//! each gets about half of it, and a figure measured meanwhile says nothing of the proxy.

use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// How much slower than the best a turn may be.
const TOLERANCE: f64 = 1.15;

/// How often a turn is repeated before its result counts anyway.
const TRIES: u32 = 10;

/// Compares both CPUs' speed with the best seen so far.
pub struct Calm {
    best: Duration,
    /// Turns that went by with the CPUs too slow.
    pub disturbed: u32,
}

impl Calm {
    pub fn new() -> Self {
        let best = (0..20).map(|_| turn()).min().unwrap_or(Duration::MAX);
        Self { best, disturbed: 0 }
    }

    /// Waits until both are as fast as they were; false if that takes too long.
    pub fn wait(&mut self) -> bool {
        for _ in 0..TRIES {
            let time = turn();
            self.best = self.best.min(time);
            if time.as_secs_f64() < self.best.as_secs_f64() * TOLERANCE {
                return true;
            }
            self.disturbed += 1;
            thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

/// Binds this thread to a CPU.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    let _ = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

/// The same work on both CPUs at once; the longer of the two times.
fn turn() -> Duration {
    let other = thread::spawn(|| {
        pin(0);
        work()
    });
    let mine = work();
    other.join().map_or(Duration::MAX, |theirs| theirs.max(mine))
}

/// Independent multiplications, which fill a core as one thread can.
fn work() -> Duration {
    let began = Instant::now();
    let mut lanes = [1_u64, 3, 5, 7, 11, 13, 17, 19];
    for _ in 0..2_000_000 {
        for lane in &mut lanes {
            *lane = lane.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
    }
    std::hint::black_box(lanes);
    began.elapsed()
}
