//! Where `sluice` goes on with frames that few are like.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::maps::PROGRAM_RARE;
use lb_common::rare;
use lb_common::verdict::Verdict;

use crate::action;
use crate::frame::Kernel;
use crate::maps::{PROGRAMS, count};

/// Judges ICMP errors, fragments, and packets that are too big for their way.
#[xdp(frags)]
pub fn rare(context: XdpContext) -> u32 {
    action(rare::judge(&Kernel::<false>::new(&context)))
}

/// Goes on there, and comes back only if there is no such program.
#[inline(always)]
pub fn go_on(context: &XdpContext, verdict: Verdict) {
    // SAFETY: nothing here waits for being dropped.
    unsafe { PROGRAMS.tail_call(context, PROGRAM_RARE) };
    count(verdict.reason);
}
