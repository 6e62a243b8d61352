//! The keys of session tickets, which are changed now and then.
//!
//! A ticket is good for as long as the key that it was made with is one of the last two. All workers take
//! the same keys, so that a client can come back to any of them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

/// How long a key makes tickets; for as long again it reads them.
pub(in crate::proxy) const ROTATION: Duration = Duration::from_secs(6 * 60 * 60);

/// Makes and reads tickets.
///
/// The library's own has the keys changed by whoever makes or reads the first ticket after the time: on a
/// quiet node old keys would stay in memory.
#[derive(Debug)]
pub(super) struct Tickets(ArcSwap<Keys>);

#[derive(Debug)]
struct Keys {
    current: Arc<dyn ProducesTickets>,
    previous: Option<Arc<dyn ProducesTickets>>,
}

impl Tickets {
    /// # Errors
    /// If there is no randomness.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let keys = Keys { current: Ticketer::new()?, previous: None };
        Ok(Self(ArcSwap::from_pointee(keys)))
    }

    /// From here on, tickets are made with a new key. What the one before the last made is worth nothing.
    ///
    /// # Errors
    /// If there is no randomness; all stays as it is.
    pub(super) fn rotate(&self) -> Result<(), rustls::Error> {
        let current = Ticketer::new()?;
        let previous = Some(Arc::clone(&self.0.load().current));
        self.0.store(Arc::new(Keys { current, previous }));
        Ok(())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(2 * ROTATION.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.load().current.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let keys = self.0.load();
        keys.current.decrypt(cipher).or_else(|| keys.previous.as_ref()?.decrypt(cipher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_are_good() {
        let tickets = Tickets::new().expect("random");
        let mut made = Vec::new();
        for round in 0..4_u8 {
            made.push(tickets.encrypt(&[round]).expect("a ticket"));
            let read: Vec<_> = made.iter().map(|ticket| tickets.decrypt(ticket)).collect();
            let good = |index: usize| index + 2 > usize::from(round);
            let expect: Vec<_> = (0..=round).map(|one| good(one.into()).then(|| vec![one])).collect();
            assert_eq!(read, expect, "after {round} rotations");
            tickets.rotate().expect("random");
        }
        assert_eq!(tickets.decrypt(b"made up"), None);
    }
}
