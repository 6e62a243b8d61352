//! VIPs in forward mode: from a client's packet to an endpoint's, and back.
//!
//! ```text
//! client ─► VIP      mark ─► flow known? else Maglev ring ─► endpoint, flow entered
//!                    endpoint behind a NIC that runs this program: ─► source: node, port of the flow
//!                    else (a pod of this node, a tunnel): the client's address stays, the kernel delivers
//! endpoint ─► node   port ─► flow ─► VIP ─► client
//! ```
//!
//! Which of the two it is follows from the way to the endpoint, because the reply has to come by
//! here: a reply that comes in by the NIC is turned back by this program, one that the kernel
//! forwards is turned back by the program at the NIC's egress.

use core::ops::{Deref, DerefMut};

use crate::ends::{Ends, ends, rewrite};
use crate::env::Env;
use crate::flow::{self, DATAGRAMS_KEPT, Flow, WAYS, after_endpoint};
use crate::flow_table::{enter, go_on, owner, refresh};
use crate::fragment::{FragmentKey, FragmentValue};
use crate::maps::{
    BackendValue, RING_CHUNK, ServiceValue, VIP_AFFINITY, VIP_DIRECT, VIP_QUIC, VipValue, WayValue,
};
use crate::mark::{self, Mark, Marks};
use crate::mark_table::{NONE, find, partner};
use crate::packet::{ACK, Packet, RST, SYN, TCP};
use crate::quic::{self, ServerKey};
use crate::ranges::RangeKey;
use crate::rare::Work;
use crate::reason::Reason;
use crate::ring::Entry;
use crate::too_big::{self, Answers};
use crate::verdict::{Action, Verdict};

/// The tables of the forwarder, and the frame to write to.
pub trait Forward: Env {
    /// The time in ticks of about a second.
    fn tick(&self) -> u32;

    /// The ring of a VIP.
    fn service(&self, slot: u32) -> Option<ServiceValue>;

    /// Whether the table of clients' prefixes has one that covers this, see [`crate::ranges`].
    fn in_range(&self, key: &RangeKey) -> bool;

    /// An endpoint.
    fn backend(&self, slot: u32) -> Option<impl Deref<Target = BackendValue>>;

    /// The slot of the endpoint with a server id, see [`crate::quic`].
    fn server(&self, key: &ServerKey) -> Option<u32>;

    /// An entry of the rings.
    fn ring(&self, chunk: u32, at: u32) -> Option<Entry>;

    /// When the ring of a VIP changed last, in seconds of the clock of [`Env::now`].
    fn changed(&self, slot: u32) -> u32;

    /// What is known of an address among nodes': [`crate::maps::NODE_SELF`], [`crate::maps::NODE_PEER`].
    fn node(&self, address: &[u32; 4]) -> Option<u32>;

    /// How many entries the flow table has, and how many marks there are, less one: a power of two less one.
    fn mask(&self) -> u32;

    /// An entry of the flow table.
    fn flow(&self, index: u32) -> Option<impl Deref<Target = Flow>>;

    /// The marks of a bucket.
    fn marks(&self, bucket: u32) -> Option<impl Deref<Target = Marks>>;

    /// One of them.
    fn mark(&self, bucket: u32, way: u32) -> Option<Mark>;

    /// Puts `new` in place of `old` in a mark, counted over all buckets; false if it was no longer `old`.
    fn swap_mark(&self, index: u32, old: u64, new: u64) -> bool;

    /// Puts `new` in place of `old` in a flow's stamp; false if it was no longer `old`.
    fn swap_stamp(&self, index: u32, old: u64, new: u64) -> bool;

    /// Room for what is known of a packet, which the stack doesn't have.
    fn pending(&self) -> Option<impl DerefMut<Target = Pending>>;

    /// Writes a flow, but for its stamp. The caller has made it [`flow::Phase::Busy`].
    fn write_flow(&self, index: u32, new: &Pending, generation: u32);

    /// Notes that replies from this port (network order) may need the VIP's address.
    fn keep(&self, port: u16);

    /// Has memory bring a bucket of marks that is about to be asked for.
    ///
    /// BPF has no instruction that asks ahead. A load whose value nobody uses is one: processors go on behind it.
    fn expect_marks(&self, _bucket: u32) {}

    /// Likewise an entry of the flow table.
    fn expect_flow(&self, _index: u32) {}

    /// The way to an endpoint. Without an interface, the kernel delivers.
    fn way_to_backend(
        &self,
        slot: u32,
        backend: &BackendValue,
    ) -> Result<impl Deref<Target = WayValue>, Reason>;

    /// The way to a client from a VIP, for a packet of this length (0: any), which may be too long for it.
    /// Without an interface, the kernel has to find it.
    fn way_to_client(
        &self,
        client: &[u32; 4],
        vip: &[u32; 4],
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
    /// The entry of a flow between the same ends that can't go on.
    pub old: u32,
    /// Where its flow's mark is, or will be.
    pub mark: u32,
    /// In which bucket marks with its tag are, if there are any.
    pub bucket: u32,
    /// What is there.
    pub was: u64,
    /// The port that its flow has at its endpoint, network order; 0: the client's address and port are kept.
    pub port: u16,
    /// The IP protocol.
    pub protocol: u8,
    /// TCP's flags.
    pub flags: u8,
    /// Whether its endpoint sees the client's address.
    pub keeps: bool,
    /// Whether another flow has its tag.
    pub twin: bool,
    /// Whether its flow had an entry, if no mark.
    pub known: bool,
    /// Whether the mark of the flow that had the entry may be relied on.
    pub relied_on: bool,
}

/// A packet to a VIP in forward mode. `packet` is one of the shapes that lie at constant offsets. `None`: it
/// goes as it is, and [`crate::direct::send_chosen`] does that.
#[inline(always)]
pub fn to_endpoint<E: Forward>(env: &E, packet: &Packet, flags: u8, vip: &VipValue) -> Option<Verdict> {
    match endpoint(env, packet, flags, vip) {
        Ok((slot, port)) => Some(to(env, packet, slot, port)),
        Err(verdict) => verdict,
    }
}

/// The slot of the endpoint of such a packet, and the port that its flow has there. `Err(None)`: as above.
#[inline(always)]
pub(crate) fn endpoint<E: Forward>(
    env: &E,
    packet: &Packet,
    flags: u8,
    vip: &VipValue,
) -> Result<(u32, u16), Option<Verdict>> {
    let Some(mut new) = env.pending() else { return Err(Some(drop(Reason::FlowsFull))) };
    let Some(ends) = ends(env, packet.v6) else { return Err(Some(drop(Reason::Truncated))) };
    let now = env.tick();
    let hash = flow::hash(&ends.source, ends.source_port, packet.protocol);
    new.hash = hash;
    let direct = vip.flags & VIP_DIRECT != 0;
    new.ends = ends;
    new.tag = mark::tag(hash, &ends);
    new.now = now;
    new.protocol = packet.protocol;
    new.flags = flags;
    new.named = if vip.flags & VIP_QUIC != 0 { quic::named(env, packet, vip.slot) } else { 0 };
    let (slot, port) = match settle(env, &mut new, vip) {
        Ok(known) => known,
        // What can't be remembered goes where it would have gone.
        Err(Reason::FlowsFull | Reason::NoFlow) if direct && is_direct(env, new.backend) => return Err(None),
        Err(reason) => return Err(Some(drop(reason))),
    };
    if direct && is_direct(env, slot) {
        new.backend = slot;
        return Err(None);
    }
    Ok((slot, port))
}

/// Writes the packet of a flow anew, for the endpoint in this slot.
#[inline(always)]
pub(crate) fn to<E: Forward>(env: &E, packet: &Packet, slot: u32, port: u16) -> Verdict {
    let Some(backend) = env.backend(slot) else { return drop(Reason::NoBackend) };
    let Some(ends) = ends(env, packet.v6) else { return drop(Reason::Truncated) };
    send(env, packet, slot, &backend, port, &ends)
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

/// The slot of the endpoint of a packet to a VIP, and the port of its flow there, which is entered if it is new. Of
/// `new`, everything that the packet says is known: its ends, what follows from them, its time, protocol and flags.
#[inline(always)]
pub(crate) fn settle<E: Forward>(env: &E, new: &mut Pending, vip: &VipValue) -> Result<(u32, u16), Reason> {
    let Pending { protocol, named, flags, .. } = *new;
    if protocol == TCP && flags & (SYN | ACK) == SYN {
        expect(env, new, vip);
    }
    let index = find(env, new);
    if index == NONE || leads_elsewhere(env, index, named) || !go_on(env, index, new, vip) {
        new.old = index;
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
        new.keeps = backend.is_direct() || env.way_to_backend(slot, &backend)?.interface == 0;
        enter(env, new, &backend)?;
        return Ok((slot, new.port));
    }
    env.flow(index).map(|flow| (flow.backend, flow.port)).ok_or(Reason::NoFlow)
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
    let length = packet.end as u32 - packet.ip as u32;
    let way = env.way_to_client(&new.target, &new.source, length)?;
    if length > way.mtu {
        return Some(too_big::found(env, way.mtu));
    }
    if !rewrite(env, packet, &ends, &new) {
        return Some(drop(Reason::Truncated));
    }
    let action = if way.interface == 0 { Action::Pass } else { env.leave(&way) };
    Some(Verdict { reason: Reason::Returned, action })
}

pub(crate) const fn drop(reason: Reason) -> Verdict {
    Verdict { reason, action: Action::Drop }
}

/// How many entries a new flow looks at in a table that is full of half-open ones: [`flow::wanted`].
const EXPECTED: u32 = 3;

/// Has memory bring what a new flow may need, all at once: it is far away, and in the order of things the packet
/// would wait for each before it knows to ask for the next.
///
/// Out of line: inlined, it makes the verifier's work a tenth more.
#[inline(never)]
fn expect<E: Forward>(env: &E, new: &Pending, vip: &VipValue) {
    let mask = env.mask();
    let bucket = flow::bucket(new.hash, mask).0 / WAYS;
    env.expect_marks(bucket);
    env.expect_marks(partner(bucket, new.tag, mask));
    if let Some(slot) = entry(env, new.hash, vip, &new.ends).and_then(Entry::now)
        && let Some(backend) = env.backend(slot)
    {
        let endpoint = flow::hash(&backend.address, backend.port, backend.protocol);
        for attempt in 0..EXPECTED {
            env.expect_flow(flow::place(endpoint, flow::port(new.hash, attempt), mask));
        }
    }
}

/// Whether a packet names another endpoint than its flow's: another connection's packets came by the same
/// ports before.
#[inline(always)]
fn leads_elsewhere<E: Forward>(env: &E, index: u32, named: u32) -> bool {
    named != 0 && env.flow(index).is_some_and(|flow| flow.backend + 1 != named)
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
