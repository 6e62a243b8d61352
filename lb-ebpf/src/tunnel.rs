//! Where `sluice` goes on with frames that may have a packet in their packet.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::tunnel as common;

use crate::action;
use crate::frame::Kernel;

/// Takes packets out of other nodes' packets, and sends them to endpoints of this node.
#[xdp(frags)]
pub fn tunnel(context: XdpContext) -> u32 {
    action(common::judge(&Kernel::<false>::new(&context)))
}
