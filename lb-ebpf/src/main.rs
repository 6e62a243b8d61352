//! The kernel programs: entry points, thin over lb-common.
//!
//! `sluice` (XDP) judges every frame of the NIC, `steer` (sk_lookup) gives each new connection to
//! a VIP to the worker of the CPU that it arrived on, `empty` is what benchmarks compare with. Where
//! TCP handshakes are XDP's, `sluice` goes on to `admit`, and `ingress` (tc) has the stack take over.
//! `rare` judges ICMP errors, fragments and what is too big, `tunnel` packets in other nodes' packets, `unusual`
//! what is to be forwarded and has VLAN tags. `traced` takes `sluice`'s place while somebody watches, `rehearsal`
//! judges made-up frames.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "compare-and-swap: the target has the instruction, and core no atomic type for it"
)]
#![allow(static_mut_refs, reason = "aya's macros")]

mod admit;
mod egress;
mod egress_rare;
mod forward;
mod frame;
mod ingress;
mod lab;
mod log;
mod maps;
mod measure;
mod rare;
mod rehearse;
mod steer;
mod trace;
mod tunnel;
mod unusual;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::helpers::generated::bpf_get_numa_node_id;
use aya_ebpf::macros::{sk_lookup, xdp};
use aya_ebpf::programs::{SkLookupContext, XdpContext};
use lb_common::cookie;
use lb_common::maps::{PROGRAM_ADMIT, PROGRAM_LOOK, PROGRAM_RARE, PROGRAM_TUNNEL, PROGRAM_UNUSUAL};
use lb_common::reason::Reason;
use lb_common::verdict::{self, Action, Verdict};

use crate::maps::{PROGRAMS, count};

/// Judges a frame, and does what the verdict says.
#[xdp(frags)]
pub fn sluice(context: XdpContext) -> u32 {
    let verdict = verdict::judge(&frame::Kernel::<false>::new(&context));
    carry_out(&context, verdict)
}

/// Does what a verdict says, or goes on to the program that does.
#[inline(always)]
fn carry_out(context: &XdpContext, verdict: Verdict) -> u32 {
    match verdict.action {
        // Without such a program the stack does its handshakes itself.
        Action::Admit => go_on(context, PROGRAM_ADMIT, verdict),
        Action::Rare => go_on(context, PROGRAM_RARE, verdict),
        Action::Unwrap => go_on(context, PROGRAM_TUNNEL, verdict),
        Action::Unusual => go_on(context, PROGRAM_UNUSUAL, verdict),
        _ => {}
    }
    action(verdict)
}

/// Goes on to the program in a place, which counts the frame, and comes back only if there is none.
#[inline(always)]
fn go_on(context: &XdpContext, place: u32, verdict: Verdict) {
    // SAFETY: nothing here waits for being dropped.
    unsafe { PROGRAMS.tail_call(context, place) };
    count(verdict.reason);
}

/// Judges TCP to VIPs that steer by name, or where SYN cookies may be needed. `sluice` goes on here.
#[xdp(frags)]
pub fn admit(context: XdpContext) -> u32 {
    let verdict = cookie::judge(&frame::Kernel::<false>::new(&context));
    if verdict.action == Action::Look {
        go_on(&context, PROGRAM_LOOK, verdict);
    }
    action(verdict)
}

/// What `sluice` does with TCP to VIPs that need no handshake by XDP. `admit` goes on here.
#[xdp(frags)]
pub fn look(context: XdpContext) -> u32 {
    action(verdict::look(&frame::Kernel::<false>::new(&context)))
}

#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict.action {
        Action::Pass | Action::Admit | Action::Look | Action::Unwrap => XDP_PASS,
        Action::Rare if verdict.reason != Reason::TooBig => XDP_PASS,
        Action::Drop | Action::Rare | Action::Unusual => XDP_DROP,
        Action::Send => XDP_TX,
        Action::Redirect => XDP_REDIRECT,
    }
}

/// Gives a connection to a listener.
#[sk_lookup]
pub fn steer(context: SkLookupContext) -> u32 {
    steer::steer(&context);
    // 1 is SK_PASS: with no socket assigned, the kernel's own lookup goes on.
    1
}

/// `sluice` with a memory for connections that lasts no longer than a frame. For benchmarks only.
#[xdp(frags)]
pub fn forgetful(context: XdpContext) -> u32 {
    action(verdict::judge(&frame::Kernel::<true>::new(&context)))
}

/// Does nothing: the floor that benchmarks subtract.
#[xdp(frags)]
pub fn empty(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Ten calls of a helper that does next to nothing: what a call and its return cost on a machine
/// explains most of what benchmarks show there.
#[xdp(frags)]
pub fn calls(_: XdpContext) -> u32 {
    for _ in 0..10 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_numa_node_id() };
    }
    XDP_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics; the verifier refuses a program in which this could be reached.
    loop {}
}

/// GPL-compatible, which bpf_sk_assign and others ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
