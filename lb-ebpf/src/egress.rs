//! What leaves by a NIC: replies of endpoints that see the client's address get the VIP's back.

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::ends::Ends;
use lb_common::flow::{self, Flow, Stamp, WAYS, after_endpoint};
use lb_common::packet::{FRAGMENT, ICMP, ICMPV6, IPV4, IPV6, TCP, UDP};
use lb_common::reason::Reason;
use lb_common::verdict::{mapped, words};

use crate::egress_rare;
use crate::forward::{L4_MASK, L4_TICK, swap};
use crate::maps::{L4_BACKENDS, L4_FLOWS, L4_KEPT, count};

/// TC_ACT_UNSPEC, which TCX calls "next": what else is attached has its turn.
pub const NEXT: i32 = -1;

/// TC_ACT_SHOT.
const DROP: i32 = 2;

/// Offsets of the headers that are looked at: without tags, options and extensions.
struct Shape {
    v6: bool,
    transport: usize,
    protocol: u8,
    /// The first one of several.
    fragment: bool,
}

/// Looks at a packet that leaves.
#[classifier]
pub fn egress(context: TcContext) -> i32 {
    // Of one tag, the kernel keeps it beside the frame; of two, the outer one, with the inner one in the frame.
    // SAFETY: the context is valid for the run.
    let outer = unsafe { (*context.skb.skb).vlan_present } != 0 && egress_rare::take_outer(&context);
    // A packet that can't be read or written is none of a connection of ours.
    let _ = restore(&context);
    if outer && !egress_rare::put_outer(&context) {
        return DROP;
    }
    NEXT
}

#[inline(always)]
fn restore(context: &TcContext) -> Option<()> {
    let kind = u16::from_be(context.load::<u16>(12).ok()?);
    let shape = match kind {
        IPV4 => {
            let [version, _, _, _, _, _, f0, f1, _, protocol] = context.load::<[u8; 10]>(14).ok()?;
            let fragment = u16::from_be_bytes([f0, f1]);
            match protocol {
                _ if version != 0x45 => return None,
                ICMP => {
                    egress_rare::error::<false>(context);
                    return None;
                }
                UDP if fragment & 0x1fff != 0 => {
                    egress_rare::later::<false>(context);
                    return None;
                }
                _ => Shape { v6: false, transport: 34, protocol, fragment: fragment & 0x3fff != 0 },
            }
        }
        IPV6 => match context.load::<u8>(20).ok()? {
            ICMPV6 => {
                egress_rare::error::<true>(context);
                return None;
            }
            FRAGMENT => {
                let [protocol, _, o0, o1] = context.load::<[u8; 4]>(54).ok()?;
                if protocol == UDP && u16::from_be_bytes([o0, o1]) & 0xfff8 != 0 {
                    egress_rare::later::<true>(context);
                    return None;
                }
                Shape { v6: true, transport: 62, protocol, fragment: true }
            }
            protocol => Shape { v6: true, transport: 54, protocol, fragment: false },
        },
        _ => return None,
    };
    if shape.protocol != TCP && shape.protocol != UDP {
        return None;
    }
    let port = context.load::<u16>(shape.transport).ok()?;
    if !is_kept(port) {
        return None;
    }
    let client_port = context.load::<u16>(shape.transport + 2).ok()?;
    let (source, client) = if shape.v6 {
        (words(context.load(22).ok()?), words(context.load(38).ok()?))
    } else {
        (mapped(context.load(26).ok()?), mapped(context.load(30).ok()?))
    };
    let flags = if shape.protocol == TCP { context.load::<u8>(shape.transport + 13).ok()? } else { 0 };
    let now = tick();
    let ends = Ends { source: client, target: source, source_port: client_port, target_port: port };
    let flow = find(&ends, shape.protocol, now)?;
    // SAFETY: an element of the map; only its stamp is written, by compare-and-swap.
    let known = unsafe { &*flow };
    let stamp = known.stamp;
    if let Some(phase) = Stamp(stamp).phase() {
        let next = Stamp::new(after_endpoint(phase, flags), now).0;
        if next != stamp {
            // SAFETY: an aligned word of a map's element.
            unsafe { swap(&raw mut (*flow).stamp, stamp, next) };
        }
    }
    if shape.fragment && shape.protocol == UDP {
        egress_rare::first(context, shape.v6, &ends, &known.vip, now);
    }
    rewrite(context, &shape, &source, port, &known.vip, known.vip_port)
}

/// Whether some endpoint with this port (network order) sees clients' addresses.
#[inline(always)]
pub fn is_kept(port: u16) -> bool {
    L4_KEPT.get(u16::from_be(port) as u32).is_some_and(|kept| *kept != 0)
}

/// The time in ticks of about a second.
#[inline(always)]
pub fn tick() -> u32 {
    // SAFETY: reads a constant, and a helper without arguments.
    unsafe { (bpf_jiffies64() >> ((&raw const L4_TICK).read_volatile() & 31)) as u32 }
}

/// The flow between a client and an endpoint that sees the client's address.
#[inline(always)]
pub fn find(ends: &Ends, protocol: u8, now: u32) -> Option<*mut Flow> {
    // SAFETY: reads a constant.
    let mask = unsafe { (&raw const L4_MASK).read_volatile() };
    let (first, way) = flow::bucket(flow::hash(&ends.source, ends.source_port, protocol), mask);
    for step in 0..WAYS {
        let index = first | ((way + step) & (WAYS - 1));
        let flow = L4_FLOWS.get_ptr_mut(index)?;
        // SAFETY: an element of the map, which is only read.
        let known = unsafe { &*flow };
        if known.client_port != ends.source_port
            || known.port != 0
            || known.protocol != protocol
            || known.client != ends.source
            || !Stamp(known.stamp).alive(now)
        {
            continue;
        }
        let Some(backend) = L4_BACKENDS.get(known.backend) else { continue };
        if backend.port == ends.target_port
            && backend.address == ends.target
            && backend.generation == known.generation
        {
            return Some(flow);
        }
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
