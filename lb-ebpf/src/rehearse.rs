//! `sluice` on a made-up frame, by a test run: the same code over the same tables, which it reads and
//! doesn't write.

use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::Flow;
use lb_common::unusual;
use lb_common::verdict::{self, Verdict};

use crate::action;
use crate::frame::Kernel;

/// A flow that would have been entered.
#[repr(C)]
pub struct Entered {
    flow: Flow,
    /// Its index plus one; 0: there is none.
    index: u64,
}

#[map]
static REHEARSED: PerCpuArray<Entered> = PerCpuArray::with_max_entries(1, 0);

/// Judges a frame. Its word is the XDP action in the lowest byte, and above it the reason.
#[xdp(frags)]
pub fn rehearsal(context: XdpContext) -> u32 {
    begin();
    word(verdict::judge(&Kernel::<false, true>::new(&context)))
}

/// Judges a frame that the other one says is none that is usually forwarded.
#[xdp(frags)]
pub fn rehearsal_unusual(context: XdpContext) -> u32 {
    begin();
    word(unusual::judge(&Kernel::<false, true>::new(&context)))
}

#[inline(always)]
fn word(verdict: Verdict) -> u32 {
    action(verdict) | (verdict.reason as u32) << 8
}

#[inline(always)]
fn begin() {
    if let Some(entered) = REHEARSED.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe { (*entered).index = 0 }
    }
}

/// The flow that would be at an index, if it was this run that would have entered it.
#[inline(always)]
pub fn flow(index: u32) -> Option<&'static Flow> {
    // SAFETY: this CPU's own element, which is written before it is read in a run.
    let entered = unsafe { &*REHEARSED.get_ptr(0)? };
    if entered.index == index as u64 + 1 { Some(&entered.flow) } else { None }
}

/// Enters a flow for the rest of the run. `port`: network order.
#[inline(always)]
pub fn enter(index: u32, backend: u32, port: u16, generation: u32) {
    if let Some(entered) = REHEARSED.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe {
            (*entered).index = index as u64 + 1;
            (*entered).flow.backend = backend;
            (*entered).flow.generation = generation;
            (*entered).flow.port = port;
        }
    }
}
