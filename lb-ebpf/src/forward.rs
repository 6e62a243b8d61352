//! The forwarder's surroundings: its tables, the kernel's routes, and writes to the frame.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::ops::{Deref, DerefMut};

use aya_ebpf::bindings::xdp_action::XDP_REDIRECT;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SRC,
    bpf_fib_lookup as Query, xdp_md,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_jiffies64, bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::maps::lpm_trie::Key;
use lb_common::flow::{Flow, WAYS as FLOWS_OF_BUCKET};
use lb_common::forward::{Forward, Pending};
use lb_common::fragment::{FragmentKey, FragmentValue};
use lb_common::maps::{BackendValue, ClientWay, MAX_L4_FLOWS, RING_CHUNK, ServiceValue, WAY_SLOTS, WayValue};
use lb_common::mark::{Mark, Marks};
use lb_common::quic::ServerKey;
use lb_common::ranges::{RangeKey, SLOT_BITS};
use lb_common::rare::Work;
use lb_common::reason::Reason;
use lb_common::ring::Entry;
use lb_common::too_big::Answers;
use lb_common::verdict::{Action, is_v4, mapped};

use crate::frame::{Kernel, write};
use crate::maps::{
    ANSWERS, FRAGMENTS, L4_BACKENDS, L4_CHANGED, L4_FLOWS, L4_KEPT, L4_MARKS, L4_NODES, L4_RANGES, L4_RINGS,
    L4_SERVERS, L4_SERVICES, PENDING, RARE, UPLINKS, WAYS, WAYS_BACK, opaque,
};

/// Set by the daemon, before the programs are loaded: entries of the flow table less one.
#[unsafe(no_mangle)]
pub static L4_MASK: u32 = MAX_L4_FLOWS - 1;
/// Likewise: two to this power of the kernel's jiffies are about a second.
#[unsafe(no_mangle)]
pub static L4_TICK: u32 = 8;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

impl<const FORGETFUL: bool, const DRY: bool> Forward for Kernel<FORGETFUL, DRY> {
    #[inline(always)]
    fn tick(&self) -> u32 {
        // SAFETY: reads a constant; the verifier knows its value.
        let shift = unsafe { (&raw const L4_TICK).read_volatile() } & 31;
        (jiffies() >> shift) as u32
    }

    #[inline(always)]
    fn service(&self, slot: u32) -> Option<ServiceValue> {
        L4_SERVICES.get(slot).copied()
    }

    #[inline(always)]
    fn in_range(&self, key: &RangeKey) -> bool {
        L4_RANGES.get(Key::new(SLOT_BITS + 128, *key)).is_some()
    }

    #[inline(always)]
    fn backend(&self, slot: u32) -> Option<impl Deref<Target = BackendValue>> {
        L4_BACKENDS.get(slot)
    }

    #[inline(always)]
    fn server(&self, key: &ServerKey) -> Option<u32> {
        // SAFETY: values are four aligned bytes.
        unsafe { L4_SERVERS.get(key) }.copied()
    }

    #[inline(always)]
    fn ring(&self, chunk: u32, at: u32) -> Option<Entry> {
        let chunk = L4_RINGS.get(chunk)?;
        Some(Entry(chunk.0[opaque(at) as usize & (RING_CHUNK - 1)]))
    }

    #[inline(always)]
    fn changed(&self, slot: u32) -> u32 {
        L4_CHANGED.get(slot).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn node(&self, address: &[u32; 4]) -> Option<u32> {
        // SAFETY: a torn read is impossible, values are four aligned bytes and replaced whole.
        unsafe { L4_NODES.get(address) }.copied()
    }

    #[inline(always)]
    fn widen<const N: usize>(&self) -> bool {
        // SAFETY: the helper checks the room; packet pointers are made anew for each access.
        unsafe { bpf_xdp_adjust_head(self.context(), -(N as i32)) == 0 }
    }

    #[inline(always)]
    fn narrow<const N: usize>(&self) -> bool {
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_head(self.context(), N as i32) == 0 }
    }

    #[inline(always)]
    fn mask(&self) -> u32 {
        // SAFETY: as in `now`.
        unsafe { (&raw const L4_MASK).read_volatile() }
    }

    #[inline(always)]
    fn flow(&self, index: u32) -> Option<impl Deref<Target = Flow>> {
        L4_FLOWS.get(index)
    }

    #[inline(always)]
    fn marks(&self, bucket: u32) -> Option<impl Deref<Target = Marks>> {
        L4_MARKS.get(bucket)
    }

    #[inline(always)]
    fn mark(&self, bucket: u32, way: u32) -> Option<Mark> {
        let marks = L4_MARKS.get(bucket)?;
        Some(Mark(marks.0[opaque(way) as usize & (FLOWS_OF_BUCKET as usize - 1)]))
    }

    #[inline(always)]
    fn swap_mark(&self, index: u32, old: u64, new: u64) -> bool {
        if DRY {
            return true;
        }
        match L4_MARKS.get_ptr_mut(index / FLOWS_OF_BUCKET) {
            // SAFETY: an aligned word of a map's element, which the mask keeps it inside of.
            Some(marks) => unsafe {
                let first = (&raw mut (*marks).0).cast::<u64>();
                swap(first.add(opaque(index) as usize & (FLOWS_OF_BUCKET as usize - 1)), old, new)
            },
            None => false,
        }
    }

    #[inline(always)]
    fn swap_stamp(&self, index: u32, old: u64, new: u64) -> bool {
        if DRY {
            return true;
        }
        match L4_FLOWS.get_ptr_mut(index) {
            // SAFETY: an aligned word of a map's element.
            Some(flow) => unsafe { swap(&raw mut (*flow).stamp, old, new) },
            None => false,
        }
    }

    #[inline(always)]
    fn pending(&self) -> Option<impl DerefMut<Target = Pending>> {
        // SAFETY: this CPU's own element, which nothing else uses during the run.
        PENDING.get_ptr_mut(0).map(|pending| unsafe { &mut *pending })
    }

    #[inline(always)]
    fn write_flow(&self, index: u32, new: &Pending, generation: u32) {
        if !DRY && let Some(place) = L4_FLOWS.get_ptr_mut(index) {
            // SAFETY: this CPU has marked the entry busy, so no other one writes it or reads it.
            unsafe {
                (*place).client = new.ends.source;
                (*place).vip = new.ends.target;
                (*place).client_port = new.ends.source_port;
                (*place).vip_port = new.ends.target_port;
                (*place).port = new.port;
                (*place).protocol = new.protocol;
                (*place).backend = new.backend;
                (*place).generation = generation;
            }
        }
    }

    #[inline(always)]
    fn keep(&self, port: u16) {
        if !DRY && let Some(kept) = L4_KEPT.get_ptr_mut(u16::from_be(port) as u32) {
            // SAFETY: an aligned word that is only ever written with this.
            unsafe { *kept = 1 }
        }
    }

    #[inline(always)]
    fn expect_marks(&self, bucket: u32) {
        if let Some(marks) = L4_MARKS.get_ptr(bucket) {
            // SAFETY: an aligned word of a map's element.
            unsafe { (&raw const (*marks).0).cast::<u64>().read_volatile() };
        }
    }

    #[inline(always)]
    fn expect_flow(&self, index: u32) {
        if let Some(flow) = L4_FLOWS.get_ptr(index) {
            // SAFETY: an aligned word of a map's element.
            unsafe { (&raw const (*flow).stamp).read_volatile() };
        }
    }

    #[inline(always)]
    fn way_to_backend(
        &self,
        slot: u32,
        backend: &BackendValue,
    ) -> Result<impl Deref<Target = WayValue>, Reason> {
        let Some(known) = WAYS.get_ptr_mut(slot & (WAY_SLOTS - 1)) else { return Err(Reason::NoRoute) };
        // SAFETY: this CPU's own element, which nothing else uses during the run.
        let known = unsafe { &mut *known };
        if known.backend != slot || known.generation != backend.generation || known.until < jiffies() {
            let failed = learn(self.context(), slot, backend, known);
            if failed != 0 {
                return Err(if failed == NO_NEIGHBOUR { Reason::NoNeighbour } else { Reason::NoRoute });
            }
        }
        Ok(&*known)
    }

    #[inline(always)]
    fn way_to_client(
        &self,
        client: &[u32; 4],
        vip: &[u32; 4],
        length: u32,
    ) -> Option<impl Deref<Target = WayValue>> {
        // SAFETY: this CPU's own element, which nothing else uses during the run.
        let known = unsafe { &mut *WAYS_BACK.get_ptr_mut(ClientWay::slot(client))? };
        if !known.is_of(client, vip, self.interface()) || known.way.until < jiffies() {
            learn_back(self.context(), client, vip, length, known);
        }
        Some(&known.way)
    }

    #[inline(always)]
    fn answers(&self) -> Option<impl DerefMut<Target = Answers>> {
        if DRY {
            return None;
        }
        // SAFETY: this CPU's own element, which nothing else uses during the run.
        ANSWERS.get_ptr_mut(0).map(|answers| unsafe { &mut *answers })
    }

    #[inline(always)]
    fn work(&self) -> Option<impl DerefMut<Target = Work>> {
        // SAFETY: this CPU's own element, which nothing else uses during the run.
        RARE.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: a torn read sends a fragment astray, which checksums tell.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        // A full table evicts; only a lack of memory fails, and then the datagram is lost.
        let _ = FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn set<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> bool {
        let Some(place) = self.place::<N>(offset) else { return false };
        // SAFETY: in bounds, as just checked.
        unsafe { write(place, bytes) };
        true
    }

    #[inline(always)]
    fn leave(&self, way: &WayValue) -> Action {
        let [a, b, c] = way.macs;
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
        if !self.set(0, [a, b, c, d, e, f, g, h, i, j, k, l]) {
            return Action::Drop;
        }
        if way.interface == self.interface() {
            return Action::Send;
        }
        // SAFETY: a helper that takes numbers.
        let done = unsafe { bpf_redirect(way.interface, 0) } as u32;
        if done == XDP_REDIRECT { Action::Redirect } else { Action::Drop }
    }
}

/// [`learn`]'s word for a next hop whose MAC is not known.
const NO_NEIGHBOUR: u32 = 2;

/// Asks the kernel for the way to an endpoint and remembers it for a quarter of a second or so; 0
/// when there is one. Out of line: it is long, and one packet in thousands comes here.
#[inline(never)]
fn learn(context: *mut xdp_md, slot: u32, backend: &BackendValue, known: &mut WayValue) -> u32 {
    let mut query = query(&backend.address);
    match ask(context, &mut query, BPF_FIB_LOOKUP_SRC) {
        BPF_FIB_LKUP_RET_SUCCESS => {}
        BPF_FIB_LKUP_RET_NO_NEIGH => {
            // The kernel asks for the neighbours of what it delivers itself.
            if UPLINKS.get_ptr(query.ifindex).is_some() {
                return NO_NEIGHBOUR;
            }
        }
        _ => return 1,
    }
    known.interface = if UPLINKS.get_ptr(query.ifindex).is_some() { query.ifindex } else { 0 };
    known.macs = macs(&query);
    known.gateway = !is_next_hop(&query, &backend.address) as u32;
    // SAFETY: the kernel filled the family's own part.
    known.source = unsafe {
        if query.family == AF_INET {
            mapped(query.__bindgen_anon_3.ipv4_src.to_ne_bytes())
        } else {
            query.__bindgen_anon_3.ipv6_src
        }
    };
    known.mtu = mtu(&query);
    known.backend = slot;
    known.generation = backend.generation;
    known.until = for_a_while();
    0
}

/// Asks the kernel for the way to a client and remembers it likewise. What the kernel knows no neighbour for, or sends
/// by another interface, it can deliver itself: the frame is the VIP's by then.
#[inline(never)]
fn learn_back(context: *mut xdp_md, client: &[u32; 4], vip: &[u32; 4], length: u32, known: &mut ClientWay) {
    let mut query = query(client);
    if query.family == AF_INET {
        query.__bindgen_anon_3.ipv4_src = vip[3];
    } else {
        query.__bindgen_anon_3.ipv6_src = *vip;
    }
    query.__bindgen_anon_1.tot_len = length as u16;
    let found = ask(context, &mut query, 0);
    // Only for the packet at hand, unless there is a way.
    known.way.until = 0;
    known.client = *client;
    known.vip = *vip;
    // SAFETY: the context is valid for the run.
    known.arrival = unsafe { (*context).ingress_ifindex };
    known.way.interface = 0;
    known.way.mtu = u32::MAX;
    if found == BPF_FIB_LKUP_RET_FRAG_NEEDED {
        known.way.mtu = mtu(&query);
    }
    if found != BPF_FIB_LKUP_RET_SUCCESS {
        return;
    }
    if UPLINKS.get_ptr(query.ifindex).is_some() {
        known.way.interface = query.ifindex;
    }
    known.way.macs = macs(&query);
    known.way.mtu = mtu(&query);
    known.way.until = for_a_while();
}

/// The longest packet that the way takes.
#[inline(always)]
fn mtu(answer: &Query) -> u32 {
    // SAFETY: integers of one size; where the kernel found no neighbour it is what was asked with, 0.
    let mtu = unsafe { answer.__bindgen_anon_1.mtu_result } as u32;
    if mtu == 0 { u32::MAX } else { mtu }
}

/// Until when the kernel's word on a way is taken, in jiffies: a quarter of a second or so.
#[inline(always)]
fn for_a_while() -> u64 {
    // SAFETY: reads a constant.
    let second = 1u64 << (unsafe { (&raw const L4_TICK).read_volatile() } & 31);
    jiffies() + second / 4
}

#[inline(always)]
fn query(to: &[u32; 4]) -> Query {
    // SAFETY: integers and unions of integers, for which zero is a value.
    let mut query: Query = unsafe { core::mem::zeroed() };
    if is_v4(to) {
        query.family = AF_INET;
        query.__bindgen_anon_4.ipv4_dst = to[3];
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_4.ipv6_dst = *to;
    }
    query
}

/// Whether the answer's next hop is whom it was asked for: the kernel writes a gateway in its place.
#[inline(always)]
fn is_next_hop(answer: &Query, to: &[u32; 4]) -> bool {
    // SAFETY: integers; the family's own part is what was asked with, or the kernel's.
    unsafe {
        if answer.family == AF_INET {
            answer.__bindgen_anon_4.ipv4_dst == to[3]
        } else {
            answer.__bindgen_anon_4.ipv6_dst == *to
        }
    }
}

#[inline(always)]
fn ask(context: *mut xdp_md, query: &mut Query, flags: u32) -> u32 {
    // SAFETY: the context is valid for the run.
    query.ifindex = unsafe { (*context).ingress_ifindex };
    // SAFETY: the helper gets the size of what it may write to.
    unsafe { bpf_fib_lookup(context.cast(), query, size_of::<Query>() as i32, flags) as u32 }
}

#[inline(always)]
fn macs(query: &Query) -> [u32; 3] {
    let (d, s) = (&query.dmac, &query.smac);
    [
        u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
        u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
        u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
    ]
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: a helper without arguments; compiled to one load.
    unsafe { bpf_jiffies64() }
}

/// # Safety
/// The word is an aligned one of a map.
#[inline(always)]
pub unsafe fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's. The target has the instruction for 64 bits but no type for it.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new).1 }
}
