//! Where `sluice` goes on with frames that may have a packet in their packet.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::maps::PROGRAM_TUNNEL;
use lb_common::tunnel as common;
use lb_common::verdict::Verdict;

use crate::action;
use crate::frame::Kernel;
use crate::maps::{PROGRAMS, count};

/// Takes packets out of other nodes' packets, and sends them to endpoints of this node.
#[xdp(frags)]
pub fn tunnel(context: XdpContext) -> u32 {
    action(common::judge(&Kernel::<false>::new(&context)))
}

/// Goes on there, and comes back only if there is no such program.
#[inline(always)]
pub fn go_on(context: &XdpContext, verdict: Verdict) {
    // SAFETY: nothing here waits for being dropped.
    unsafe { PROGRAMS.tail_call(context, PROGRAM_TUNNEL) };
    count(verdict.reason);
}
