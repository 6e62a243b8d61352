//! VIPs in forward mode: from a client's packet to an endpoint's, and back.
//!
//! ```text
//! client ─► VIP      flow known? else Maglev ring ─► endpoint, flow entered
//!                    endpoint behind a NIC that runs this program: ─► source: node, port of the flow
//!                    else (a pod of this node, a tunnel): the client's address stays, the kernel delivers
//! endpoint ─► node   port ─► flow ─► VIP ─► client
//! ```
//!
//! Which of the two it is follows from the way to the endpoint, because the reply has to come by
//! here: a reply that comes in by the NIC is turned back by this program, one that the kernel
//! forwards is turned back by the program at the NIC's egress.

use core::ops::{Deref, DerefMut};

use crate::env::Env;
use crate::flow::{
    self, DATAGRAMS_KEPT, Flow, PORT_TRIES, Phase, Stamp, WAYS, after_client, after_endpoint, first_phase,
};
use crate::fragment::{FragmentKey, FragmentValue};
use crate::maps::{
    BackendValue, RING_CHUNK, ServiceValue, VIP_AFFINITY, VIP_DIRECT, VIP_QUIC, VipValue, WayValue,
};
use crate::mark::{self, Mark, Marks};
use crate::nat::Change;
use crate::packet::{ACK, FIN, Packet, RST, SYN, TCP};
use crate::quic::{self, ServerKey};
use crate::ranges::RangeKey;
use crate::rare::Work;
use crate::reason::Reason;
use crate::ring::Entry;
use crate::too_big::{self, Answers};
use crate::verdict::{Action, Verdict, mapped, words};

/// The tables of the forwarder, and the frame to write to.
pub trait Forward: Env {
    /// The time in ticks of about a second.
    fn tick(&self) -> u32;

    /// The ring of a VIP.
    fn service(&self, slot: u32) -> Option<ServiceValue>;

    /// Whether the table of clients' prefixes has one that covers this, see [`crate::ranges`].
    fn in_range(&self, key: &RangeKey) -> bool;

    /// An endpoint.
    fn backend(&self, slot: u32) -> Option<BackendValue>;

    /// The slot of the endpoint with a server id, see [`crate::quic`].
    fn server(&self, key: &ServerKey) -> Option<u32>;

    /// An entry of the rings.
    fn ring(&self, chunk: u32, at: u32) -> Option<Entry>;

    /// When the ring of a VIP changed last, in seconds of the clock of [`Env::now`].
    fn changed(&self, slot: u32) -> u32;

    /// What is known of an address among nodes': [`crate::maps::NODE_SELF`], [`crate::maps::NODE_PEER`].
    fn node(&self, address: &[u32; 4]) -> Option<u32>;

    /// How many entries the flow and port tables have, less one: a power of two less one.
    fn mask(&self) -> u32;

    /// An entry of the flow table.
    fn flow(&self, index: u32) -> Option<impl Deref<Target = Flow>>;

    /// The marks of a bucket.
    fn marks(&self, bucket: u32) -> Option<impl Deref<Target = Marks>>;

    /// Puts `new` in place of `old` in the mark of a flow, unless it is no longer `old`.
    fn swap_mark(&self, index: u32, old: u64, new: u64);

    /// Writes the mark of a flow. The caller has made it [`Phase::Busy`].
    fn write_mark(&self, index: u32, mark: u64);

    /// Puts `new` in place of `old` in a flow's stamp; false if it was no longer `old`.
    fn swap_stamp(&self, index: u32, old: u64, new: u64) -> bool;

    /// Room for what is known of a packet, which the stack doesn't have.
    fn pending(&self) -> Option<impl DerefMut<Target = Pending>>;

    /// Writes a flow, without a port yet, but for its stamp. The caller has made it
    /// [`Phase::Busy`].
    fn write_flow(&self, index: u32, new: &Pending, generation: u32);

    /// Writes the port of a flow and where it is in the port table. After [`Self::write_flow`].
    fn write_port(&self, index: u32, port: u16, place: u32);

    /// Notes that replies from this port (network order) may need the VIP's address.
    fn keep(&self, port: u16);

    /// An entry of the port table: a flow's index plus one, or 0.
    fn port(&self, index: u32) -> Option<u64>;

    /// Puts `new` in place of `old` in the port table; false if it was no longer `old`.
    fn swap_port(&self, index: u32, old: u64, new: u64) -> bool;

    /// The way to an endpoint. Without an interface, the kernel delivers.
    fn way_to_backend(
        &self,
        slot: u32,
        backend: &BackendValue,
    ) -> Result<impl Deref<Target = WayValue>, Reason>;

    /// The way to a client, for a packet with this source and length (0: any). `None`: the kernel has
    /// to find it. Without an interface: it is too long, see [`WayValue::mtu`].
    fn way_to_client(
        &self,
        client: &[u32; 4],
        source: &[u32; 4],
        length: u32,
    ) -> Option<impl Deref<Target = WayValue>>;

    /// Writes bytes at a constant offset; false: the frame ends before.
    fn set<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> bool;

    /// What this CPU told senders of packets that were too big.
    fn answers(&self) -> Option<impl DerefMut<Target = Answers>>;

    /// Room for what is known of a rare packet.
    fn work(&self) -> Option<impl DerefMut<Target = Work>>;

    /// What became of the first fragment of a datagram.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;

    /// Remembers that.
    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue);

    /// Makes room for so many bytes in front of the frame; false: there is none. Offsets count from there.
    fn widen<const N: usize>(&self) -> bool;

    /// Takes so many bytes away from the frame's beginning; false: it has no more.
    fn narrow<const N: usize>(&self) -> bool;

    /// Puts the MACs of a way in front of the frame, and says how it leaves.
    fn leave(&self, way: &WayValue) -> Action;
}

/// A packet of a VIP in forward mode, which may begin a flow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Pending {
    /// Its ends.
    pub ends: Ends,
    /// [`flow::hash`] of its source.
    pub hash: u64,
    /// [`mark::tag`] of its ends.
    pub tag: u32,
    /// The slot of its endpoint.
    pub backend: u32,
    /// The slot plus one of the endpoint that it names itself, see [`crate::quic`]; 0: none.
    pub named: u32,
    /// The time.
    pub now: u32,
    /// The entry that it takes, whoever has it: of a flow between the same ends that can't go on, or
    /// with the same tag.
    pub old: u32,
    /// The IP protocol.
    pub protocol: u8,
    /// Whether its endpoint sees the client's address.
    pub keeps: bool,
}

/// The two ends of a packet: addresses, and ports in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ends {
    /// Where it is from.
    pub source: [u32; 4],
    /// Where it is to.
    pub target: [u32; 4],
    /// The port it is from.
    pub source_port: u16,
    /// The port it is to.
    pub target_port: u16,
}

/// A packet to a VIP in forward mode. `packet` is one of the shapes that lie at constant offsets. `None`: it
/// goes as it is, and [`crate::direct::send`] does that.
#[inline(always)]
pub fn to_endpoint<E: Forward>(env: &E, packet: &Packet, flags: u8, vip: &VipValue) -> Option<Verdict> {
    let Some(mut new) = env.pending() else { return Some(drop(Reason::FlowsFull)) };
    let Some(ends) = ends(env, packet.v6) else { return Some(drop(Reason::Truncated)) };
    let now = env.tick();
    let hash = flow::hash(&ends.source, ends.source_port, packet.protocol);
    new.hash = hash;
    let direct = vip.flags & VIP_DIRECT != 0;
    let tag = mark::tag(hash, &ends);
    if packet.protocol == TCP && flags & (SYN | FIN | RST) == 0 {
        let mark = quick(env, hash, tag, now);
        if let Some(backend) = env.backend(mark.backend())
            && mark.tag() == tag
            && mark.is_of(backend.generation)
        {
            if backend.protocol == TCP {
                return Some(send(env, packet, mark.backend(), &backend, mark.port(), &ends));
            }
            if direct && backend.is_direct() {
                new.backend = mark.backend();
                return None;
            }
        }
    }
    new.ends = ends;
    new.tag = tag;
    new.now = now;
    new.protocol = packet.protocol;
    new.named = if vip.flags & VIP_QUIC != 0 { quic::named(env, packet, vip.slot) } else { 0 };
    let (slot, port) = match settle(env, &mut new, flags, vip) {
        Ok(index) => match env.flow(index) {
            Some(flow) => (flow.backend, flow.port),
            None => return Some(drop(Reason::NoFlow)),
        },
        // What can't be remembered goes where it would have gone.
        Err(Reason::FlowsFull | Reason::NoFlow) if direct && is_direct(env, new.backend) => return None,
        Err(reason) => return Some(drop(reason)),
    };
    let Some(backend) = env.backend(slot) else { return Some(drop(Reason::NoBackend)) };
    if direct && backend.is_direct() {
        new.backend = slot;
        return None;
    }
    Some(send(env, packet, slot, &backend, port, &new.ends))
}

/// The slot that a flow's packets go to as they are whatever the flow table says.
#[inline(always)]
pub(crate) fn stateless<E: Forward>(env: &E, hash: u64, vip: &VipValue, ends: &Ends) -> Option<u32> {
    let entry = entry(env, hash, vip, ends)?;
    let slot = entry.now()?;
    if entry.remembers() || !is_direct(env, slot) { None } else { Some(slot) }
}

#[inline(always)]
fn is_direct<E: Forward>(env: &E, slot: u32) -> bool {
    env.backend(slot).is_some_and(|backend| backend.is_direct())
}

/// The entry of the flow that a packet to a VIP belongs to, a new one if need be. Of `new`, everything
/// that the packet says is known: its ends, what follows from them, its time and protocol.
#[inline(always)]
pub(crate) fn settle<E: Forward>(
    env: &E,
    new: &mut Pending,
    flags: u8,
    vip: &VipValue,
) -> Result<u32, Reason> {
    let Pending { hash, tag, now, protocol, named, .. } = *new;
    let (mut index, twin) = find(env, hash, tag, now, protocol, &new.ends);
    if index == NONE || leads_elsewhere(env, index, named) || !go_on(env, index, flags, now, vip) {
        let slot = match named.checked_sub(1) {
            Some(slot) => slot,
            None => choose(env, new, flags, vip).ok_or(Reason::NoBackend)?,
        };
        new.backend = slot;
        // The last word of a connection that nobody knows makes none.
        if protocol == TCP && flags & RST != 0 {
            return Err(Reason::NoFlow);
        }
        let backend = env.backend(slot).ok_or(Reason::NoBackend)?;
        // Here and not in `enter`: the stacks of nested calls add up.
        new.keeps = backend.is_direct() || env.way_to_backend(slot, &backend)?.interface == 0;
        new.old = if index == NONE { twin } else { index };
        let (entered, reason) = unpack(enter(env, new));
        if let Some(reason) = reason {
            return Err(reason);
        }
        index = entered;
    }
    Ok(index)
}

/// Writes the packet of a flow anew, for its endpoint, and with the flow's port.
#[inline(always)]
fn send<E: Forward>(
    env: &E,
    packet: &Packet,
    slot: u32,
    backend: &BackendValue,
    port: u16,
    old: &Ends,
) -> Verdict {
    let way = match env.way_to_backend(slot, backend) {
        Ok(way) => way,
        Err(reason) => return drop(reason),
    };
    let mut new = Ends { target: backend.address, target_port: backend.port, ..*old };
    // A flow keeps what it began with for life, the client's address or the node's: the endpoint
    // knows the connection by it.
    if port != 0 {
        if way.interface == 0 {
            return drop(Reason::WayChanged);
        }
        let length = packet.end as u32 - packet.ip as u32;
        if length > way.mtu {
            return too_big::found(env, way.mtu);
        }
        new.source = way.source;
        new.source_port = port;
    }
    if !rewrite(env, packet, old, &new) {
        return drop(Reason::Truncated);
    }
    let action = if port == 0 { Action::Pass } else { env.leave(&way) };
    Verdict { reason: Reason::Forwarded, action }
}

/// A packet that is to none of our VIPs but to one of the ports that replies come to: maybe an
/// endpoint's reply. `None`: it is not.
#[inline(always)]
pub fn to_client<E: Forward>(env: &E, packet: &Packet, flags: u8, port: u16) -> Option<Verdict> {
    let ends = ends(env, packet.v6)?;
    let now = env.tick();
    let index = owner(env, &ends.source, ends.source_port, packet.protocol, port, now)?;
    let flow = env.flow(index)?;
    refresh(env, index, &flow, after_endpoint, flags, now);
    let new = Ends {
        source: flow.vip,
        target: flow.client,
        source_port: flow.vip_port,
        target_port: flow.client_port,
    };
    let way = env.way_to_client(&new.target, &new.source, packet.end as u32 - packet.ip as u32);
    if let Some(way) = &way
        && way.interface == 0
    {
        return Some(too_big::found(env, way.mtu));
    }
    if !rewrite(env, packet, &ends, &new) {
        return Some(drop(Reason::Truncated));
    }
    let action = way.map_or(Action::Pass, |way| env.leave(&way));
    Some(Verdict { reason: Reason::Returned, action })
}

/// The entry of the flow that has a port (network order) at an endpoint.
#[inline(always)]
pub(crate) fn owner<E: Forward>(
    env: &E,
    endpoint: &[u32; 4],
    endpoint_port: u16,
    protocol: u8,
    port: u16,
    now: u32,
) -> Option<u32> {
    let endpoint_hash = flow::hash(endpoint, endpoint_port, protocol);
    let place = flow::port_index(endpoint_hash, u16::from_be(port), env.mask());
    let index = (env.port(place)? as u32).checked_sub(1)?;
    let flow = env.flow(index)?;
    if flow.port != port || flow.protocol != protocol || !Stamp(flow.stamp).alive(now) {
        return None;
    }
    let backend = env.backend(flow.backend)?;
    let same = backend.address == *endpoint
        && backend.port == endpoint_port
        && backend.generation == flow.generation;
    same.then_some(index)
}

pub(crate) const fn drop(reason: Reason) -> Verdict {
    Verdict { reason, action: Action::Drop }
}

/// The mark that a packet in the middle of a connection can be sent by; else one without a tag.
#[inline(always)]
fn quick<E: Forward>(env: &E, hash: u64, tag: u32, now: u32) -> Mark {
    let (first, way) = flow::bucket(hash, env.mask());
    let Some(marks) = env.marks(first / WAYS) else { return Mark(0) };
    for step in 0..WAYS {
        let mark = Mark(marks.0[((way + step) & (WAYS - 1)) as usize]);
        if mark.is_quick(tag, now) {
            return mark;
        }
    }
    Mark(0)
}

/// The entry of the flow that a client's packet belongs to, and that of another one with its tag.
#[inline(always)]
pub(crate) fn find<E: Forward>(
    env: &E,
    hash: u64,
    tag: u32,
    now: u32,
    protocol: u8,
    ends: &Ends,
) -> (u32, u32) {
    let (first, _) = flow::bucket(hash, env.mask());
    let mut twin = NONE;
    let Some(marks) = env.marks(first / WAYS) else { return (NONE, NONE) };
    for step in 0..WAYS {
        if Mark(marks.0[step as usize]).tag() != tag {
            continue;
        }
        let index = first | step;
        let Some(flow) = env.flow(index) else { return (NONE, NONE) };
        if flow.client_port == ends.source_port
            && flow.vip_port == ends.target_port
            && flow.client == ends.source
            && flow.vip == ends.target
            && flow.protocol == protocol
            && Stamp(flow.stamp).alive(now)
        {
            return (index, NONE);
        }
        twin = index;
    }
    (NONE, twin)
}

/// Notes the packet in its flow. False: the flow can't go on, as its endpoint is gone, or about to
/// go, and the packet begins a new connection over the same ports.
#[inline(always)]
fn go_on<E: Forward>(env: &E, index: u32, flags: u8, now: u32, vip: &VipValue) -> bool {
    let Some(flow) = env.flow(index) else { return false };
    let Some(backend) = env.backend(flow.backend) else { return false };
    let opening = flow.protocol == TCP && flags & (SYN | ACK) == SYN;
    let old = matches!(Stamp(flow.stamp).phase(), Some(Phase::Open | Phase::Closing));
    if backend.generation != flow.generation || (opening && old && backend.draining != 0) {
        return false;
    }
    // Packets to this VIP are not, or no longer, sent as they are.
    let direct = backend.is_direct();
    if direct && vip.flags & VIP_DIRECT == 0 {
        return false;
    }
    // Nobody sees the replies: a client that goes on was answered.
    let after = |phase, flags| {
        let answered = direct && matches!(phase, Phase::Opening);
        after_client(if answered { Phase::Answered } else { phase }, flags)
    };
    let stamp = refresh(env, index, &flow, after, flags, now);
    let mark = Mark(mark_of(env, index));
    let told = mark.told(stamp, now);
    // Without a tag it is being written.
    if told != mark && mark.tag() != 0 {
        env.swap_mark(index, mark.0, told.0);
    }
    true
}

/// Whether a packet names another endpoint than its flow's: another connection's packets came by the same
/// ports before.
#[inline(always)]
fn leads_elsewhere<E: Forward>(env: &E, index: u32, named: u32) -> bool {
    named != 0 && env.flow(index).is_some_and(|flow| flow.backend + 1 != named)
}

/// No entry. In place of `Option`: what it would hold besides is one more thing for the verifier to
/// tell apart.
const NONE: u32 = u32::MAX;

/// Enters a flow and its port: says where, or, in the upper half, why not. Out of line: established
/// flows should not pay for its registers.
#[inline(never)]
fn enter<E: Forward>(env: &E, new: &Pending) -> u64 {
    match entered(env, new) {
        Ok(index) => index as u64,
        Err(reason) => (reason as u64 + 1) << 32,
    }
}

#[inline(always)]
fn unpack(outcome: u64) -> (u32, Option<Reason>) {
    let reason = (outcome >> 32) as usize;
    (outcome as u32, if reason == 0 { None } else { Reason::ALL.get(reason - 1).copied() })
}

#[inline(always)]
fn entered<E: Forward>(env: &E, new: &Pending) -> Result<u32, Reason> {
    let Pending { hash, now, .. } = *new;
    let backend = env.backend(new.backend).ok_or(Reason::NoBackend)?;
    let index = if new.old == NONE { room(env, hash, now) } else { new.old };
    let flow = env.flow(index).ok_or(Reason::FlowsFull)?;
    let old = flow.stamp;
    // Of another flow with the same tag, one has to give way.
    if !same_ends(&flow, new) && Stamp(old).worth(now) == 0 {
        return Err(Reason::FlowsFull);
    }
    let busy = Stamp::new(Phase::Busy, now).0;
    if !env.swap_stamp(index, old, busy) {
        // Another CPU took it; the client sends again.
        return Err(Reason::FlowsFull);
    }
    env.write_mark(index, 0);
    env.write_flow(index, new, backend.generation);
    if new.keeps && !backend.is_direct() {
        env.keep(backend.port);
    }
    if !new.keeps && !take_port(env, hash, index, &backend, now) {
        env.swap_stamp(index, busy, 0);
        return Err(Reason::PortsFull);
    }
    let port = env.flow(index).map_or(0, |flow| flow.port);
    env.write_mark(index, Mark::new(new.tag, new.backend, backend.generation, port).0);
    env.swap_stamp(index, busy, Stamp::new(first_phase(new.protocol), now).0);
    Ok(index)
}

#[inline(always)]
fn same_ends(flow: &Flow, new: &Pending) -> bool {
    flow.client_port == new.ends.source_port
        && flow.vip_port == new.ends.target_port
        && flow.client == new.ends.source
        && flow.vip == new.ends.target
        && flow.protocol == new.protocol
}

/// The entry of the bucket that a new flow may have.
#[inline(always)]
fn room<E: Forward>(env: &E, hash: u64, now: u32) -> u32 {
    let (first, way) = flow::bucket(hash, env.mask());
    if let Some(marks) = env.marks(first / WAYS) {
        // Never used: nothing has to be read to know. Most flows are where they are looked for first.
        for step in 0..WAYS {
            let at = (way + step) & (WAYS - 1);
            if marks.0[at as usize] == 0 {
                return first | at;
            }
        }
    }
    let mut room = NONE;
    let mut best = 0;
    for step in 0..WAYS {
        let index = first | ((way + step) & (WAYS - 1));
        let Some(flow) = env.flow(index) else { return NONE };
        let worth = Stamp(flow.stamp).worth(now);
        if worth > best {
            best = worth;
            room = index;
        }
    }
    room
}

/// The ring's word on a flow that is not in the table.
#[inline(always)]
fn choose<E: Forward>(env: &E, new: &Pending, flags: u8, vip: &VipValue) -> Option<u32> {
    let entry = entry(env, new.hash, vip, &new.ends)?;
    if !entry.remembers() {
        return entry.now();
    }
    let begins = if new.protocol == TCP {
        flags & (SYN | ACK) == SYN
    } else {
        // Who was silent for as long as this began anew.
        ((env.now() / NANOSECONDS) as u32).wrapping_sub(env.changed(vip.slot)) > DATAGRAMS_KEPT
    };
    entry.choice(begins)
}

const NANOSECONDS: u64 = 1_000_000_000;

/// Where the ring's word on a flow is.
#[inline(always)]
pub(crate) fn entry<E: Forward>(env: &E, hash: u64, vip: &VipValue, ends: &Ends) -> Option<Entry> {
    let hash = if vip.flags & VIP_AFFINITY != 0 { flow::hash(&ends.source, 0, 0) } else { hash };
    let service = env.service(vip.slot)?;
    if service.size == 0 {
        return None;
    }
    let at = (((hash >> 32) * service.size as u64) >> 32) as u32;
    env.ring(service.first + at / RING_CHUNK as u32, at % RING_CHUNK as u32)
}

/// Finds a port at the endpoint that no other flow has.
#[inline(always)]
fn take_port<E: Forward>(env: &E, hash: u64, index: u32, backend: &BackendValue, now: u32) -> bool {
    let endpoint = flow::hash(&backend.address, backend.port, backend.protocol);
    for attempt in 0..PORT_TRIES {
        let port = flow::port(hash, attempt);
        let place = flow::port_index(endpoint, port, env.mask());
        let Some(taken) = env.port(place) else { return false };
        if let Some(before) = (taken as u32).checked_sub(1)
            && before != index
            && let Some(owner) = env.flow(before)
            && owner.port_index == place
        {
            // Read before the stamp: it is only taken from the flow whose time is up.
            let mark = mark_of(env, before);
            if Stamp(env.flow(before).map_or(0, |owner| owner.stamp)).taken(now) {
                continue;
            }
            env.swap_mark(before, mark, 0);
        }
        // Before the swap: whoever sees the port taken has to see by whom.
        env.write_port(index, port.to_be(), place);
        if env.swap_port(place, taken, index as u64 + 1) {
            return true;
        }
    }
    false
}

/// The mark of a flow.
#[inline(always)]
fn mark_of<E: Forward>(env: &E, index: u32) -> u64 {
    env.marks(index / WAYS).map_or(0, |marks| marks.0[(index % WAYS) as usize])
}

/// Notes that a flow had a packet, at most once in a tick unless its phase changes. Gives its stamp.
#[inline(always)]
fn refresh<E: Forward>(
    env: &E,
    index: u32,
    flow: &Flow,
    after: impl Fn(Phase, u8) -> Phase,
    flags: u8,
    now: u32,
) -> Stamp {
    let Some(phase) = Stamp(flow.stamp).phase() else { return Stamp(flow.stamp) };
    // A new connection over the ports of an old one begins anew.
    let opening = flow.protocol == TCP && flags & (SYN | ACK) == SYN;
    let next = if opening && matches!(phase, Phase::Closing) { Phase::Opening } else { after(phase, flags) };
    let stamp = Stamp::new(next, now);
    if stamp.0 != flow.stamp {
        // Whoever was faster wrote the same, or something newer.
        env.swap_stamp(index, flow.stamp, stamp.0);
    }
    stamp
}

const V4_TRANSPORT: usize = 34;
const V6_TRANSPORT: usize = 54;

/// Who sends a packet of a usual shape to whom.
#[inline(always)]
pub(crate) fn ends<E: Forward>(env: &E, v6: bool) -> Option<Ends> {
    let (source, target, ports) = if v6 {
        (words(env.near::<16>(22)?), words(env.near::<16>(38)?), env.near::<4>(V6_TRANSPORT)?)
    } else {
        (mapped(env.near::<4>(26)?), mapped(env.near::<4>(30)?), env.near::<4>(V4_TRANSPORT)?)
    };
    let source_port = u16::from_ne_bytes([ports[0], ports[1]]);
    let target_port = u16::from_ne_bytes([ports[2], ports[3]]);
    Some(Ends { source, target, source_port, target_port })
}

/// Writes the new ends and the checksums that follow. False: the frame is too short for its own
/// headers, and is as it was.
#[inline(always)]
fn rewrite<E: Forward>(env: &E, packet: &Packet, old: &Ends, new: &Ends) -> bool {
    let transport = if packet.v6 { V6_TRANSPORT } else { V4_TRANSPORT };
    let tcp = packet.protocol == TCP;
    let sum = if packet.v6 {
        let (tcp_sum, udp_sum) = (V6_TRANSPORT + 16, V6_TRANSPORT + 6);
        if tcp { env.near::<2>(tcp_sum) } else { env.near::<2>(udp_sum) }
    } else {
        let (tcp_sum, udp_sum) = (V4_TRANSPORT + 16, V4_TRANSPORT + 6);
        if tcp { env.near::<2>(tcp_sum) } else { env.near::<2>(udp_sum) }
    };
    let Some(sum) = sum else { return false };
    let ports = Change::NONE.half(old.source_port, new.source_port).half(old.target_port, new.target_port);
    let p = u16::to_ne_bytes;
    let [a, b] = p(new.source_port);
    let [c, d] = p(new.target_port);
    let all = if packet.v6 {
        let all = ports.address(old.source, new.source).address(old.target, new.target);
        if !env.set(22, bytes(new.source)) || !env.set(38, bytes(new.target)) {
            return false;
        }
        all
    } else {
        let addresses = Change::NONE.word(old.source[3], new.source[3]).word(old.target[3], new.target[3]);
        let Some(header) = env.near::<2>(24) else { return false };
        let header = addresses.apply(u16::from_ne_bytes(header));
        let (source, target) = (new.source[3].to_ne_bytes(), new.target[3].to_ne_bytes());
        if !env.set(24, p(header)) || !env.set(26, source) || !env.set(30, target) {
            return false;
        }
        ports.word(old.source[3], new.source[3]).word(old.target[3], new.target[3])
    };
    let sum = u16::from_ne_bytes(sum);
    let sum = p(if tcp { all.apply(sum) } else { all.apply_udp(sum) });
    match (transport, tcp) {
        (V4_TRANSPORT, true) => env.set(V4_TRANSPORT, [a, b, c, d]) && env.set(V4_TRANSPORT + 16, sum),
        (V4_TRANSPORT, false) => env.set(V4_TRANSPORT, [a, b, c, d]) && env.set(V4_TRANSPORT + 6, sum),
        (_, true) => env.set(V6_TRANSPORT, [a, b, c, d]) && env.set(V6_TRANSPORT + 16, sum),
        (_, false) => env.set(V6_TRANSPORT, [a, b, c, d]) && env.set(V6_TRANSPORT + 6, sum),
    }
}

/// An address as it lies on the wire.
#[inline(always)]
pub(crate) fn bytes(address: [u32; 4]) -> [u8; 16] {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = address.map(u32::to_ne_bytes);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
