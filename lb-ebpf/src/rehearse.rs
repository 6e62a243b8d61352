//! `sluice` on a made-up frame, by a test run: the same code over the same tables, which it reads and
//! doesn't write.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::unusual;
use lb_common::verdict::{self, Verdict};

use crate::action;
use crate::frame::Kernel;

/// Judges a frame. Its word is the XDP action in the lowest byte, and above it the reason.
#[xdp(frags)]
pub fn rehearsal(context: XdpContext) -> u32 {
    word(verdict::judge(&Kernel::<false, true>::new(&context)))
}

/// Judges a frame that the other one says is none that is usually forwarded.
#[xdp(frags)]
pub fn rehearsal_unusual(context: XdpContext) -> u32 {
    word(unusual::judge(&Kernel::<false, true>::new(&context)))
}

#[inline(always)]
fn word(verdict: Verdict) -> u32 {
    action(verdict) | (verdict.reason as u32) << 8
}
