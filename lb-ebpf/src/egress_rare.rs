//! What leaves by a NIC as few packets do: ICMP errors about what went to an endpoint with the client's
//! address, and fragments of that endpoint's replies.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::helpers::generated::{bpf_skb_vlan_pop, bpf_skb_vlan_push};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use lb_common::ends::Ends;
use lb_common::fragment::{FragmentKey, FragmentValue, TO_CLIENT};
use lb_common::icmp::{self, Edit, Quote};
use lb_common::packet::{SERVICE_TAG, TAG};
use lb_common::reason::Reason;
use lb_common::verdict::{mapped, words};

use crate::egress::{find, is_kept, tick};
use crate::maps::{FRAGMENTS, count};

/// Room that the stack doesn't have.
#[repr(C)]
struct Room {
    old: Quote,
    new: Quote,
    key: FragmentKey,
    value: FragmentValue,
    /// The outer one of two VLAN tags: what it says of itself (network order), and of the frame.
    outer: (u32, u32),
}

#[map]
static ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn room() -> Option<&'static mut Room> {
    // SAFETY: this CPU's own element, which nothing else uses during the run.
    ROOM.get_ptr_mut(0).map(|room| unsafe { &mut *room })
}

/// A packet that leaves. What is written to it is noted in what the NIC summed up when it came.
struct Leaving<'a>(&'a TcContext);

impl Edit for Leaving<'_> {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn put<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> bool {
        self.0.store(offset, &bytes, BPF_F_RECOMPUTE_CSUM as u64).is_ok()
    }

    #[inline(always)]
    fn put_address(&self, offset: usize, address: &[u32; 4]) -> bool {
        // From where it is: the stack has no room for copies.
        self.0.store(offset, address, BPF_F_RECOMPUTE_CSUM as u64).is_ok()
    }
}

/// Takes the outer one of two VLAN tags away, by which the kernel moves the inner one out of the frame. False:
/// there is none in it.
#[inline(never)]
pub fn take_outer(context: &TcContext) -> bool {
    let Ok(kind) = context.load::<u16>(12) else { return false };
    if !matches!(u16::from_be(kind), TAG | SERVICE_TAG) {
        return false;
    }
    let Some(Room { outer, .. }) = room() else { return false };
    let skb = context.skb.skb;
    // SAFETY: the context is valid for the run.
    unsafe {
        *outer = ((*skb).vlan_proto, (*skb).vlan_tci);
        bpf_skb_vlan_pop(skb) == 0
    }
}

/// Puts it back. False: there is no memory, and the frame would go to another VLAN.
#[inline(never)]
pub fn put_outer(context: &TcContext) -> bool {
    let Some(Room { outer: (protocol, tag), .. }) = room() else { return false };
    // SAFETY: the context is valid for the run.
    unsafe { bpf_skb_vlan_push(context.skb.skb, *protocol as u16, *tag as u16) == 0 }
}

/// An ICMP error to a client: who sends it, an endpoint or the node itself, knows the endpoint where
/// the client knows the VIP.
///
/// In three steps, out of line: the stack has room for one at a time, and none where packets are usual.
#[inline(always)]
pub fn error<const V6: bool>(context: &TcContext) {
    let Some(room) = room() else { return };
    // Twice: a copy would go over the stack, which has no room for it.
    if read::<V6>(context, &mut room.old) != 0
        && read::<V6>(context, &mut room.new) != 0
        && understand(room) != 0
        && write::<V6>(context, room) != 0
    {
        count(Reason::IcmpReturned);
    }
}

#[inline(never)]
fn read<const V6: bool>(context: &TcContext, quote: &mut Quote) -> u32 {
    icmp::read::<_, V6>(&Leaving(context), quote).is_some() as u32
}

/// Not 0: it is about a packet of a flow.
#[inline(never)]
fn understand(room: &mut Room) -> u32 {
    let Room { old, new, .. } = room;
    if old.target != old.ends.source || !is_kept(old.ends.target_port) {
        return 0;
    }
    let Some(flow) = find(&old.ends, old.protocol, tick()) else { return 0 };
    // SAFETY: an element of the map, which is only read.
    let flow = unsafe { &*flow };
    new.source = flow.vip;
    new.ends.target = flow.vip;
    new.ends.target_port = flow.vip_port;
    1
}

#[inline(never)]
fn write<const V6: bool>(context: &TcContext, room: &Room) -> u32 {
    icmp::rewrite::<_, V6>(&Leaving(context), &room.old, &room.new) as u32
}

/// The first fragment of a reply, which has the ports. `ends`: the client and the endpoint.
#[inline(never)]
pub fn first(context: &TcContext, v6: bool, ends: &Ends, vip: &[u32; 4], tick: u32) {
    let Some(id) = (if v6 { id::<true>(context) } else { id::<false>(context) }) else { return };
    let Some(Room { key, value, .. }) = room() else { return };
    *key = FragmentKey { source: ends.target, target: ends.source, id, last: 0 };
    value.source = *vip;
    value.target = ends.source;
    value.backend = TO_CLIENT;
    value.tick = tick;
    // A full table evicts; only a lack of memory fails, and then the datagram is lost.
    let (key, value): (&FragmentKey, &FragmentValue) = (key, value);
    let _ = FRAGMENTS.insert(key, value, 0);
}

/// Another fragment. The kernel sends them in order, so what is not known is no reply of ours.
#[inline(never)]
pub fn later<const V6: bool>(context: &TcContext) {
    let _ = follow::<V6>(context);
}

#[inline(always)]
fn follow<const V6: bool>(context: &TcContext) -> Option<()> {
    let Room { key, .. } = room()?;
    if V6 {
        key.source = words(context.load(22).ok()?);
        key.target = words(context.load(38).ok()?);
    } else {
        key.source = mapped(context.load(26).ok()?);
        key.target = mapped(context.load(30).ok()?);
    }
    key.id = id::<V6>(context)?;
    key.last = 0;
    let key: &FragmentKey = key;
    // SAFETY: a torn read sends a fragment astray, which checksums tell.
    let value = unsafe { FRAGMENTS.get(key) }?;
    if value.backend != TO_CLIENT || !value.holds(key, tick()) {
        return None;
    }
    if V6 {
        context.store(22, &value.source, 0).ok()?;
    } else {
        context.l3_csum_replace(24, key.source[3] as u64, value.source[3] as u64, 4).ok()?;
        context.store(26, &value.source[3], 0).ok()?;
    }
    count(Reason::FragmentReturned);
    Some(())
}

/// The identification, as the bytes lie.
#[inline(always)]
fn id<const V6: bool>(context: &TcContext) -> Option<u32> {
    if V6 { context.load::<u32>(58).ok() } else { Some(context.load::<u16>(18).ok()? as u32) }
}
