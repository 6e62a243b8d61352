//! Where `sluice` goes on with frames to VIPs in forward mode that are of no usual shape.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::unusual as common;

use crate::action;
use crate::frame::Kernel;

/// Judges frames with VLAN tags.
#[xdp(frags)]
pub fn unusual(context: XdpContext) -> u32 {
    action(common::judge(&Kernel::<false>::new(&context)))
}
