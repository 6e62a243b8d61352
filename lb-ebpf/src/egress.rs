//! What leaves by a NIC: replies of endpoints that see the client's address get the VIP's back.

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::flow::{self, Stamp, WAYS, after_endpoint};
use lb_common::packet::{TCP, UDP};
use lb_common::reason::Reason;
use lb_common::verdict::{mapped, words};

use crate::forward::{L4_MASK, L4_TICK, swap};
use crate::maps::{L4_BACKENDS, L4_FLOWS, L4_KEPT, count};

/// TC_ACT_UNSPEC, which TCX calls "next": what else is attached has its turn.
const NEXT: i32 = -1;

/// Offsets of the headers that are looked at: without tags, options and extensions.
struct Shape {
    v6: bool,
    transport: usize,
    protocol: u8,
}

/// Looks at a packet that leaves.
#[classifier]
pub fn egress(context: TcContext) -> i32 {
    // A packet that can't be read or written is none of a connection of ours.
    let _ = restore(&context);
    NEXT
}

#[inline(always)]
fn restore(context: &TcContext) -> Option<()> {
    let kind = u16::from_be(context.load::<u16>(12).ok()?);
    let shape = match kind {
        0x0800 => {
            let [version, ..] = context.load::<[u8; 2]>(14).ok()?;
            if version != 0x45 {
                return None;
            }
            Shape { v6: false, transport: 34, protocol: context.load::<u8>(23).ok()? }
        }
        0x86dd => Shape { v6: true, transport: 54, protocol: context.load::<u8>(20).ok()? },
        _ => return None,
    };
    if shape.protocol != TCP && shape.protocol != UDP {
        return None;
    }
    let port = context.load::<u16>(shape.transport).ok()?;
    if *L4_KEPT.get(u16::from_be(port) as u32)? == 0 {
        return None;
    }
    let client_port = context.load::<u16>(shape.transport + 2).ok()?;
    let (source, client) = if shape.v6 {
        (words(context.load(22).ok()?), words(context.load(38).ok()?))
    } else {
        (mapped(context.load(26).ok()?), mapped(context.load(30).ok()?))
    };
    let flags = if shape.protocol == TCP { context.load::<u8>(shape.transport + 13).ok()? } else { 0 };
    // SAFETY: reads constants, and a helper without arguments.
    let (mask, now) = unsafe {
        let shift = (&raw const L4_TICK).read_volatile() & 31;
        ((&raw const L4_MASK).read_volatile(), (bpf_jiffies64() >> shift) as u32)
    };
    let (first, way) = flow::bucket(flow::hash(&client, client_port, shape.protocol), mask);
    for step in 0..WAYS {
        let index = first | ((way + step) & (WAYS - 1));
        let flow = L4_FLOWS.get_ptr_mut(index)?;
        // SAFETY: an element of the map; only its stamp is written, by compare-and-swap.
        let known = unsafe { &*flow };
        let stamp = known.stamp;
        if known.client_port != client_port
            || known.port != 0
            || known.protocol != shape.protocol
            || known.client != client
            || !Stamp(stamp).alive(now)
        {
            continue;
        }
        let Some(backend) = L4_BACKENDS.get(known.backend) else { continue };
        if backend.port != port || backend.address != source || backend.generation != known.generation {
            continue;
        }
        if let Some(phase) = Stamp(stamp).phase() {
            let next = Stamp::new(after_endpoint(phase, flags), now).0;
            if next != stamp {
                // SAFETY: an aligned word of a map's element.
                unsafe { swap(&raw mut (*flow).stamp, stamp, next) };
            }
        }
        return rewrite(context, &shape, &source, port, &known.vip, known.vip_port);
    }
    None
}

/// The kernel's own helpers, which know how far it has come with the checksum.
#[inline(always)]
fn rewrite(
    context: &TcContext,
    shape: &Shape,
    old: &[u32; 4],
    old_port: u16,
    new: &[u32; 4],
    new_port: u16,
) -> Option<()> {
    /// BPF_F_MARK_MANGLED_0: a UDP checksum of 0 stays 0.
    const MANGLED: u64 = 1 << 5;
    let sum = shape.transport + if shape.protocol == TCP { 16 } else { 6 };
    let keep = if shape.protocol == UDP { MANGLED } else { 0 };
    let pseudo = keep | BPF_F_PSEUDO_HDR as u64;
    context.l4_csum_replace(sum, old_port as u64, new_port as u64, keep | 2).ok()?;
    if shape.v6 {
        for at in 0..4 {
            context.l4_csum_replace(sum, old[at] as u64, new[at] as u64, pseudo | 4).ok()?;
        }
        context.store(22, new, 0).ok()?;
    } else {
        context.l4_csum_replace(sum, old[3] as u64, new[3] as u64, pseudo | 4).ok()?;
        context.l3_csum_replace(24, old[3] as u64, new[3] as u64, 4).ok()?;
        context.store(26, &new[3], 0).ok()?;
    }
    context.store(shape.transport, &new_port, 0).ok()?;
    count(Reason::Returned);
    Some(())
}
