//! VLAN devices for tests: a kernel may have none. One end of a veth pair stands for the device, these programs
//! are at the other end and at the interface below.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_vlan_pop, bpf_skb_vlan_push};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;
use lb_common::packet::{SERVICE_TAG, TAG};

use crate::egress::NEXT;

const CUSTOMER: u16 = 6;
const PROVIDER: u16 = 5;

/// The indices of the interface below and of the veth pair's other end, and how many tags there are: one or two.
#[map]
static LAB_VLAN: Array<[u32; 3]> = Array::with_max_entries(1, 0);

/// What comes from the device leaves by the interface below, tagged.
#[classifier]
pub fn vlan_out(context: TcContext) -> i32 {
    let Some([below, _, tags]) = LAB_VLAN.get(0) else { return NEXT };
    let skb = context.skb.skb;
    if push(skb, TAG, CUSTOMER) != 0 || (*tags > 1 && push(skb, SERVICE_TAG, PROVIDER) != 0) {
        return NEXT;
    }
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(*below, 0) as i32 }
}

/// What comes in there with a tag, which the kernel has laid beside the frame, is for the device.
#[classifier]
pub fn vlan_in(context: TcContext) -> i32 {
    let Some([_, above, tags]) = LAB_VLAN.get(0) else { return NEXT };
    let skb = context.skb.skb;
    // SAFETY: the context is valid for the run.
    if unsafe { (*skb).vlan_present } == 0 {
        return NEXT;
    }
    for _ in 0..2 {
        // SAFETY: as above. Where there is no tag any more, nothing is done.
        unsafe { bpf_skb_vlan_pop(skb) };
        if *tags < 2 {
            break;
        }
    }
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(*above, 0) as i32 }
}

#[inline(always)]
fn push(skb: *mut __sk_buff, kind: u16, tag: u16) -> i32 {
    // SAFETY: the context is valid for the run.
    unsafe { bpf_skb_vlan_push(skb, kind.to_be(), tag) as i32 }
}
