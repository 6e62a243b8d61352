//! `sluice` with somebody watching. A program of its own, which takes the other one's place in its
//! links for as long as it is needed: who doesn't watch pays nothing.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_load_bytes};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use aya_ebpf::programs::XdpContext;
use lb_common::env::Frame as _;
use lb_common::maps::PROGRAM_SHOWN;
use lb_common::trace::{self, Event, Rule, SHOWN, Sides, TRACE_BYTES};
use lb_common::unusual;
use lb_common::verdict::{self, Action, Verdict};

use crate::frame::Kernel;
use crate::maps::{PROGRAMS, opaque};
use crate::{action, carry_out};

/// Not pinned, like the others here: the daemon that is asked for a trace loads the program anew.
#[map]
static TRACE: RingBuf = RingBuf::with_byte_size(TRACE_BYTES, 0);
#[map]
static TRACE_RULE: Array<Rule> = Array::with_max_entries(1, 0);
/// Events for which the ring buffer had no room.
#[map]
static TRACE_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Room that the stack doesn't have.
#[repr(C)]
struct Watched {
    event: Event,
    came: Sides,
    went: Sides,
}

#[map]
static WATCHED: PerCpuArray<Watched> = PerCpuArray::with_max_entries(1, 0);

/// Judges a frame as `sluice` does, and shows it.
#[xdp(frags)]
pub fn traced(context: XdpContext) -> u32 {
    let frame = Kernel::<false>::new(&context);
    let watched = before(&frame);
    let verdict = verdict::judge(&frame);
    if watched != 0 {
        if verdict.action == Action::Unusual {
            // SAFETY: nothing here waits for being dropped.
            unsafe { PROGRAMS.tail_call(&context, PROGRAM_SHOWN) };
        }
        after(&frame, verdict);
    }
    carry_out(&context, verdict)
}

/// What becomes of a frame that is judged by `unusual`, and shows it. `traced` goes on here: its stack has no room for
/// both.
#[xdp(frags)]
pub fn shown(context: XdpContext) -> u32 {
    let frame = Kernel::<false>::new(&context);
    let verdict = unusual::judge(&frame);
    after(&frame, verdict);
    action(verdict)
}

/// Keeps how a frame came; 0: nobody watches.
#[inline(never)]
fn before(frame: &Kernel<false>) -> u32 {
    let (Some(rule), Some(watched)) = (TRACE_RULE.get(0), WATCHED.get_ptr_mut(0)) else { return 0 };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > rule.until {
        return 0;
    }
    // SAFETY: this CPU's own element, which nothing else uses during the run.
    let watched = unsafe { &mut *watched };
    watched.event.time = now;
    watched.event.came_length = frame.length();
    copy(frame, watched.event.came_length, &mut watched.event.came);
    watched.came = trace::sides(frame);
    1
}

/// Shows the frame, if it is asked for.
#[inline(never)]
fn after(frame: &Kernel<false>, verdict: Verdict) {
    let (Some(rule), Some(watched)) = (TRACE_RULE.get(0), WATCHED.get_ptr_mut(0)) else { return };
    // SAFETY: this CPU's own element, which nothing else uses during the run.
    let watched = unsafe { &mut *watched };
    watched.went = trace::sides(frame);
    if !rule.wants(verdict, &watched.came, &watched.went) {
        return;
    }
    // SAFETY: a helper without arguments.
    if rule.sample > 1 && unsafe { bpf_get_prandom_u32() } % rule.sample != 0 {
        return;
    }
    let event = &mut watched.event;
    event.reason = verdict.reason as u32;
    event.action = verdict.action as u32;
    event.interface = frame.interface();
    // SAFETY: a helper without arguments.
    event.cpu = unsafe { bpf_get_smp_processor_id() };
    event.went_length = frame.length();
    copy(frame, event.went_length, &mut event.went);
    if TRACE.output::<Event>(&*event, 0).is_err()
        && let Some(lost) = TRACE_LOST.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own element.
        unsafe { *lost += 1 }
    }
}

/// The beginning of a frame. What lay there from another frame stays behind it: lengths are shown, too.
#[inline(always)]
fn copy(frame: &Kernel<false>, length: u32, to: &mut [u8; SHOWN]) {
    let length = opaque(if length < SHOWN as u32 { length } else { SHOWN as u32 });
    if length == 0 || length > SHOWN as u32 {
        return;
    }
    // SAFETY: length is at most the buffer's.
    unsafe { bpf_xdp_load_bytes(frame.context(), 0, to.as_mut_ptr().cast(), length) };
}
