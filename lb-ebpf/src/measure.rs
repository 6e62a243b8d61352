//! Programs for benchmarks of the forwarder. A test run shows the same buffer again and again, as
//! the run before left it; here each run first makes it the packet of one of many clients.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use lb_common::forward::Forward as _;
use lb_common::verdict;

use crate::action;
use crate::frame::Kernel;

/// Of lb_common::forward_fixtures.
const VIP4: [u8; 4] = [198, 51, 100, 20];

/// How many clients take turns, in no order; 0: each packet is a new one's. Set before loading.
#[unsafe(no_mangle)]
static CLIENTS: u32 = 1;

#[map]
static TURN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// `sluice` on the packet of the client whose turn it is.
#[xdp(frags)]
pub fn clients(context: XdpContext) -> u32 {
    let frame = Kernel::<false>::new(&context);
    dress(&frame);
    action(verdict::judge(&frame))
}

/// Only makes the packet: what `clients` costs without `sluice`.
#[xdp(frags)]
pub fn dressing(context: XdpContext) -> u32 {
    dress(&Kernel::<false>::new(&context));
    XDP_PASS
}

#[inline(always)]
fn dress(frame: &Kernel<false>) {
    let Some(turn) = TURN.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own element.
    let turn = unsafe {
        *turn += 1;
        *turn
    };
    // SAFETY: reads a constant.
    let clients = unsafe { (&raw const CLIENTS).read_volatile() } as u64;
    let random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let client = if clients == 0 { turn } else { (random * clients) >> 32 };
    let [_, a, b, c] = ((client >> 12) as u32).to_be_bytes();
    let [d, e] = (1024 + (client as u16 & 0xfff)).to_be_bytes();
    frame.set(26, [10, 64 + (a & 63), b, c]);
    frame.set(30, VIP4);
    frame.set(34, [d, e, 0, 80]);
}
