//! Programs for benchmarks of the forwarder. A test run shows the same buffer again and again, as
//! the run before left it; here each run first makes it the packet of one of many clients.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use lb_common::env::Frame as _;
use lb_common::forward::Forward as _;
use lb_common::nat::fold;
use lb_common::verdict;

use crate::action;
use crate::frame::Kernel;

/// How many clients take turns, in no order; 0: each packet is a new one's. Set before loading.
#[unsafe(no_mangle)]
static CLIENTS: u32 = 1;
/// Likewise: to how many VIPs they go.
#[unsafe(no_mangle)]
static TARGETS: u32 = 1;
/// Likewise: the index of the interface that the generator sends by.
#[unsafe(no_mangle)]
static SENDER: u32 = 0;

#[map]
static TURN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Replies: the endpoint's IPv4 address and the port that they come to, as the bytes lie. As many as a benchmark has.
#[map]
static REPLIES: Array<u64> = Array::with_max_entries(1, 0);
/// Packets that came to where all roads end.
#[map]
static SWALLOWED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// `sluice` on the packet of the client whose turn it is.
#[xdp(frags)]
pub fn clients(context: XdpContext) -> u32 {
    let frame = Kernel::<false>::new(&context);
    dress(&frame);
    action(verdict::judge(&frame))
}

/// The same, where `sluice` has put an IPv4 header around the packet of the run before: it is taken away
/// first.
#[xdp(frags)]
pub fn wrapped(context: XdpContext) -> u32 {
    const AROUND: usize = 20;
    let frame = Kernel::<false>::new(&context);
    // The Ethernet header that was there is gone with it.
    if frame.linear() > PACKET && (!frame.narrow::<AROUND>() || !frame.set(12, [8, 0])) {
        return XDP_DROP;
    }
    dress(&frame);
    action(verdict::judge(&frame))
}

/// As [`dressing`], and besides moves the head of the packet there and back.
#[xdp(frags)]
pub fn shifting(context: XdpContext) -> u32 {
    const AROUND: usize = 20;
    let frame = Kernel::<false>::new(&context);
    if !frame.widen::<AROUND>() || !frame.narrow::<AROUND>() || !frame.set(12, [8, 0]) {
        return XDP_DROP;
    }
    dress(&frame);
    XDP_PASS
}

/// The length of the frames here.
const PACKET: u32 = 128;

/// `sluice` on an endpoint's reply of the flow whose turn it is.
#[xdp(frags)]
pub fn replies(context: XdpContext) -> u32 {
    let frame = Kernel::<false>::new(&context);
    dress_reply(&frame);
    action(verdict::judge(&frame))
}

/// Only makes the reply: what `replies` costs without `sluice`.
#[xdp(frags)]
pub fn dressing_reply(context: XdpContext) -> u32 {
    dress_reply(&Kernel::<false>::new(&context));
    XDP_PASS
}

/// Only makes the packet: what `clients` costs without `sluice`.
#[xdp(frags)]
pub fn dressing(context: XdpContext) -> u32 {
    dress(&Kernel::<false>::new(&context));
    XDP_PASS
}

/// Sends the packet. The buffer may come back from anywhere: the headers are written anew.
#[xdp(frags)]
pub fn generator(context: XdpContext) -> u32 {
    const TO: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 8];
    let frame = Kernel::<false>::new(&context);
    let (client, target) = dress(&frame);
    let ([a, b, c, d], [e, f, g, h]) = (client, target);
    let half = |high, low| u16::from_be_bytes([high, low]) as u64;
    // Version to protocol: no fragment, 64 hops, UDP.
    let fixed = 0x4500 + 114 + 0x4000 + 0x4011;
    let sum = fixed + half(a, b) + half(c, d) + half(e, f) + half(g, h);
    let [high, low] = (!fold(sum)).to_be_bytes();
    frame.set(0, TO);
    frame.set(22, [64, 17, high, low]);
    frame.set(36, [0, 80]);
    // SAFETY: reads a constant, and a helper that takes numbers.
    unsafe { bpf_redirect((&raw const SENDER).read_volatile(), 0) as u32 }
}

/// Counts the packet and ends it.
#[xdp(frags)]
pub fn swallow(_: XdpContext) -> u32 {
    if let Some(count) = SWALLOWED.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe { *count += 1 }
    }
    XDP_DROP
}

/// Ends the packet.
#[xdp(frags)]
pub fn discard(_: XdpContext) -> u32 {
    XDP_DROP
}

/// Makes the packet the reply of an endpoint in the flow whose turn it is.
#[inline(always)]
fn dress_reply(frame: &Kernel<false>) {
    const ENDPOINTS_PORT: [u8; 2] = 8080u16.to_be_bytes();
    // SAFETY: reads a constant.
    let flows = unsafe { (&raw const CLIENTS).read_volatile() } as u64;
    let Some(reply) = REPLIES.get(scattered(turn(), flows) as u32) else { return };
    let [a, b, c, d, p, q, _, _] = reply.to_ne_bytes();
    frame.set(26, [a, b, c, d]);
    frame.set(30, [10, 9, 0, 1]);
    frame.set(34, [ENDPOINTS_PORT[0], ENDPOINTS_PORT[1], p, q]);
}

/// Counts the packets on this CPU.
#[inline(always)]
fn turn() -> u64 {
    // SAFETY: this CPU's own element.
    TURN.get_ptr_mut(0).map_or(0, |turn| unsafe {
        *turn += 1;
        *turn
    })
}

/// Whose turn it is of so many, in no order.
#[inline(always)]
const fn scattered(turn: u64, count: u64) -> u64 {
    let random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (random * count) >> 32
}

/// Makes the packet the one of the client whose turn it is: gives its address and the VIP's.
#[inline(always)]
fn dress(frame: &Kernel<false>) -> ([u8; 4], [u8; 4]) {
    let turn = turn();
    // SAFETY: reads constants.
    let (clients, targets) =
        unsafe { ((&raw const CLIENTS).read_volatile() as u64, (&raw const TARGETS).read_volatile()) };
    let number = if clients == 0 { turn } else { scattered(turn, clients) };
    let [_, a, b, c] = ((number >> 12) as u32).to_be_bytes();
    let [d, e] = (1024 + (number as u16 & 0xfff)).to_be_bytes();
    let [_, _, f, g] = (if targets > 1 { number as u32 % targets } else { 0 }).to_be_bytes();
    let (client, target) = ([10, 64 + (a & 63), b, c], [203, 0, f, g]);
    frame.set(26, client);
    frame.set(30, target);
    frame.set(34, [d, e, 0, 80]);
    if clients == 0 {
        // The data offset and SYN. UDP's sum is there, which nobody looks at.
        frame.set(46, [0x50, 2]);
    }
    (client, target)
}
