//! Words for whoever debugs, behind aya-log's level.
//!
//! The level is a constant in read-only memory that is set before the programs are loaded. With
//! logging off the verifier knows that and removes all of this, so nothing is paid for it.

use aya_log_ebpf::debug;
use lb_common::reason::Reason;

/// Calls `debug!` with one constant text for each reason: a text chosen while the program runs
/// would have to be copied with a length that the verifier can't bound.
macro_rules! say {
    ($reason:expr, $length:expr, $($variant:ident)*) => {
        match $reason {
            $(Reason::$variant => {
                debug!((), "{}: {} bytes", const { Reason::$variant.name() }, $length)
            })*
            // The reasons of usual traffic, and sk_lookup's.
            _ => {}
        }
    };
}

/// Why a frame was unusual, or what became of a ClientHello.
#[inline(never)]
pub fn note(reason: Reason, length: u32) {
    say!(
        reason, length,
        Truncated Malformed TooManyTags Fragment TooManyHeaders OtherProtocol
        HelloExact HelloWildcard HelloUnknown HelloNoName HelloSplit HelloMalformed HelloNameTooLong
    );
}

/// A connection to a VIP found no listener in place.
#[inline(never)]
pub fn no_socket(worker: u32, port: u32) {
    debug!((), "steer_no_socket: worker {} for port {}", worker, port);
}
