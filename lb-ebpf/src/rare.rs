//! Where `sluice` goes on with frames that few are like.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::rare;

use crate::action;
use crate::frame::Kernel;

/// Judges ICMP errors, fragments, and packets that are too big for their way.
#[xdp(frags)]
pub fn rare(context: XdpContext) -> u32 {
    action(rare::judge(&Kernel::<false>::new(&context)))
}
