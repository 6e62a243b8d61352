//! Time as atomics can hold it.

use std::sync::LazyLock;
use std::time::Instant;

use super::Milliseconds;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call, and one: 0 is never.
pub(in crate::proxy) fn now() -> Milliseconds {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}
