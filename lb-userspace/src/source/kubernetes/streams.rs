//! Whether the server offers streaming lists.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What is believed of the server. A proxy between, or an old server behind the same address, may
/// refuse once what the next one offers: so it is asked again at times.
#[derive(Debug)]
pub struct Streams {
    again: Duration,
    refused: Mutex<Option<Instant>>,
}

impl Streams {
    /// They are offered until somebody is refused; then they are asked for `again` after so long.
    pub fn new(again: Duration) -> Self {
        Self { again, refused: Mutex::new(None) }
    }

    /// Whether to ask for one.
    pub fn are_offered(&self, now: Instant) -> bool {
        self.refused().is_none_or(|at| now >= at + self.again)
    }

    /// Somebody who asked was refused. Whether that is news.
    pub fn refuse(&self, now: Instant) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.replace(now).is_none()
    }

    fn refused(&self) -> Option<Instant> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_again_after_a_while() {
        let (now, again) = (Instant::now(), Duration::from_secs(600));
        let streams = Streams::new(again);
        assert!(streams.are_offered(now));
        assert!(streams.refuse(now) && !streams.refuse(now));
        assert!(!streams.are_offered(now + again / 2));
        assert!(streams.are_offered(now + again));
        streams.refuse(now + again);
        assert!(!streams.are_offered(now + again));
    }
}
