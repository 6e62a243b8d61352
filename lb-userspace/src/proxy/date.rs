//! What `Date` says, made once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// One worker's date.
#[derive(Debug, Default)]
pub(super) struct Date(RefCell<(u64, String)>);

impl Date {
    /// Writes the time as RFC 9110 section 5.6.7 has it.
    pub(super) fn write(&self, out: &mut impl Extend<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut made = self.0.borrow_mut();
        if made.0 != now {
            *made = (now, text());
        }
        out.extend(made.1.bytes());
    }
}

/// The time now.
pub(super) fn text() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
