//! UDP datagrams in fragments, to VIPs in forward mode and back.
//!
//! Only the first fragment of a datagram has ports. It goes the way of its flow, as a whole datagram
//! would, and what becomes of its addresses is remembered for the others of the same source, target
//! and identification. Others that overtake their first go where the first of the same ends went
//! last, if that is known, for which endpoint a client's datagrams go to rarely changes: UDP flows
//! keep theirs, and most clients have one flow with a VIP. Else they are passed, as what is no VIP's.
//!
//! Endpoints that see the node's address instead of the client's put fragments together by that
//! address and the identification, so two clients' must not be alike: to each identification a
//! number is added that its source chooses. That leaves one client's fragments apart from each other
//! as they were, and needs no memory.
//!
//! To VIPs whose packets go as they are, each fragment goes in a packet of its own, or by the MAC alone: the
//! first one where its flow does, the others where it went. Another node takes them out ([`crate::tunnel`]) and
//! does the same once more, for its own endpoints: `HERE`.

use crate::ends::Ends;
use crate::env::Env;
use crate::flow::{self, is_reply_port};
use crate::flow_table;
use crate::forward::{self, Forward, drop};
use crate::icmp::write;
use crate::maps::{VIP_DIRECT, VIP_FORWARD, VipKey, VipValue, WayValue};
use crate::mark;
use crate::nat::Change;
use crate::packet::{FRAGMENT, Packet, UDP};
use crate::rare::Work;
use crate::reason::Reason;
use crate::verdict::{Action, Verdict, mapped, words};
use crate::{direct, ranges, source, too_big, tunnel};

/// For how many ticks, of about a second, what the first fragment chose counts.
const REMEMBERED: u32 = 15;

/// Of which datagram a fragment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Whom it is from, as in [`VipKey::address`].
    pub source: [u32; 4],
    /// Whom it is to.
    pub target: [u32; 4],
    /// The identification, as the bytes lie. Of IPv4 the upper half is 0.
    pub id: u32,
    /// 0: this datagram; 1: the last one between the two, whatever its identification, which is 0.
    pub last: u32,
}

impl FragmentKey {
    /// Of whatever datagram was last between the two.
    #[inline(always)]
    #[must_use]
    pub const fn last(self) -> Self {
        Self { id: 0, last: 1, ..self }
    }
}

/// What becomes of a datagram's fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentValue {
    /// The new source.
    pub source: [u32; 4],
    /// The new target.
    pub target: [u32; 4],
    /// The slot of the endpoint that it goes to, or [`TO_CLIENT`].
    pub backend: u32,
    /// That slot's generation.
    pub generation: u32,
    /// When the first fragment came.
    pub tick: u32,
    /// [`WRITTEN_ANEW`], [`KEEPS`] or [`AS_IT_IS`].
    pub keeps: u32,
}

impl FragmentValue {
    /// Whether what was remembered under a key still counts.
    #[inline(always)]
    pub const fn holds(&self, key: &FragmentKey, tick: u32) -> bool {
        tick.wrapping_sub(self.tick) <= if key.last == 0 { REMEMBERED } else { flow::DATAGRAMS_KEPT }
    }
}

/// The endpoint sees the node's address.
pub const WRITTEN_ANEW: u32 = 0;
/// It sees the client's, and the kernel delivers.
pub const KEEPS: u32 = 1;
/// It sees what the client sent.
pub const AS_IT_IS: u32 = 2;

/// In the place of an endpoint's slot: it is a reply.
pub const TO_CLIENT: u32 = u32::MAX;

/// A fragment.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Piece {
    /// Whom it is from and to, with ports if it is the first.
    pub ends: Ends,
    /// The identification, as the bytes lie.
    pub id: u32,
    /// From the IP header on, in bytes.
    pub length: u32,
    /// 1: it has the ports.
    pub first: u32,
}

/// Where things are. From the Ethernet header on, without options and other extensions.
struct Places {
    source: usize,
    target: usize,
    id: usize,
    transport: usize,
}

const fn places<const V6: bool>() -> Places {
    if V6 {
        Places { source: 22, target: 38, id: 58, transport: 62 }
    } else {
        Places { source: 26, target: 30, id: 18, transport: 34 }
    }
}

/// Judges a fragment. `None`: it is of no forwarded datagram, as far as is known.
///
/// `HERE`: another node sent it on, so it is for an endpoint of this one.
#[inline(always)]
pub fn judge<E: Forward, const V6: bool, const HERE: bool>(env: &E, work: &mut Work) -> Option<Verdict> {
    match chosen::<E, V6, HERE>(env, work) {
        NOT_OURS => None,
        OURS if work.value.keeps == AS_IT_IS && work.value.backend != TO_CLIENT => {
            // Never put in again.
            Some(if HERE { drop(Reason::NoBackend) } else { as_it_is::<E, V6>(env, work) })
        }
        OURS => Some(send::<E, V6>(env, work)),
        other => Some(drop(Reason::ALL.get(other as usize - DROPPED as usize).copied()?)),
    }
}

/// [`chosen`]'s words; above the last, it is a reason to drop the fragment. In place of an enum: BPF
/// functions return one number.
const NOT_OURS: u32 = 0;
const OURS: u32 = 1;
const DROPPED: u32 = 2;

/// Finds out what becomes of a fragment. Out of line, as what follows: the stacks of nested calls add
/// up.
#[inline(never)]
fn chosen<E: Forward, const V6: bool, const HERE: bool>(env: &E, work: &mut Work) -> u32 {
    let read = if V6 { read_v6(env, &mut work.piece) } else { read_v4(env, &mut work.piece) };
    if read.is_none() {
        return NOT_OURS;
    }
    let Ends { source, target, .. } = work.piece.ends;
    work.key = FragmentKey { source, target, id: work.piece.id, last: 0 };
    if work.piece.first == 0 {
        return if recall(env, work).is_some() { OURS } else { NOT_OURS };
    }
    match choose::<E, V6, HERE>(env, work) {
        None => NOT_OURS,
        Some(Err(reason)) => DROPPED + reason as u32,
        Some(Ok(())) => {
            env.remember_fragment(&work.key, &work.value);
            work.key = work.key.last();
            env.remember_fragment(&work.key, &work.value);
            OURS
        }
    }
}

/// What becomes of a datagram whose first fragment this is. `None`: it is none of ours.
#[inline(always)]
fn choose<E: Forward, const V6: bool, const HERE: bool>(
    env: &E,
    work: &mut Work,
) -> Option<Result<(), Reason>> {
    let at = const { places::<V6>() };
    let [a, b, c, d] = env.near::<4>(at.transport)?;
    work.piece.ends.source_port = u16::from_ne_bytes([a, b]);
    work.piece.ends.target_port = u16::from_ne_bytes([c, d]);
    let ends = &work.piece.ends;
    let key = VipKey { address: ends.target, port: ends.target_port, protocol: UDP, zero: 0 };
    work.value.tick = env.tick();
    let Some(mut vip) = env.vip(&key) else {
        if HERE || !is_reply_port(u16::from_be(ends.target_port)) {
            return None;
        }
        let tick = work.value.tick;
        let index = flow_table::owner(env, &ends.source, ends.source_port, UDP, ends.target_port, tick)?;
        let flow = env.flow(index)?;
        work.ends.source_port = flow.vip_port;
        work.ends.target_port = flow.client_port;
        work.value.source = flow.vip;
        work.value.target = flow.client;
        work.value.backend = TO_CLIENT;
        work.value.keeps = WRITTEN_ANEW;
        return Some(Ok(()));
    };
    if vip.flags & VIP_FORWARD == 0 {
        return None;
    }
    if HERE && vip.flags & VIP_DIRECT == 0 {
        return None;
    }
    let packet = Packet { ip: 14, transport: 0, end: 0, protocol: UDP, v6: V6 };
    if !HERE && env.tuning().flags != 0 {
        let reason = source::judge(env, &packet, false);
        if reason != Reason::Vip {
            return Some(Err(reason));
        }
    }
    if ranges::asked(vip.flags) && !ranges::admit(env, &packet, vip.slot) {
        return Some(Err(Reason::SourceOutside));
    }
    env.count_vip(vip.slot, work.piece.length + 14, false);
    if HERE {
        vip = tunnel::here(vip);
    }
    Some(enter(env, work, &vip))
}

/// The datagram's flow, and what that makes of its addresses.
#[inline(always)]
fn enter<E: Forward>(env: &E, work: &mut Work, vip: &VipValue) -> Result<(), Reason> {
    let mut new = env.pending().ok_or(Reason::FlowsFull)?;
    new.ends = work.piece.ends;
    new.hash = flow::hash(&new.ends.source, new.ends.source_port, UDP);
    new.tag = mark::tag(new.hash, &new.ends);
    new.now = work.value.tick;
    new.protocol = UDP;
    new.flags = 0;
    // QUIC is never in fragments (RFC 9000 section 14).
    new.named = 0;
    let direct = vip.flags & VIP_DIRECT != 0;
    let stateless = if direct { forward::stateless(env, new.hash, vip, &new.ends) } else { None };
    let known = match stateless {
        Some(slot) => {
            new.backend = slot;
            Err(Reason::NoFlow)
        }
        None => forward::settle(env, &mut new, vip),
    };
    let known = match known {
        Ok(known) => Some(known),
        // What can't be remembered goes where it would have gone.
        Err(Reason::FlowsFull | Reason::NoFlow) if direct => None,
        Err(reason) => return Err(reason),
    };
    work.value.backend = known.map_or(new.backend, |(slot, _)| slot);
    let backend = env.backend(work.value.backend).ok_or(Reason::NoBackend)?;
    work.value.generation = backend.generation;
    if direct && backend.is_direct() {
        work.value.keeps = AS_IT_IS;
        return Ok(());
    }
    let (_, port) = known.ok_or(Reason::FlowsFull)?;
    work.value.target = backend.address;
    work.ends.target_port = backend.port;
    work.value.keeps = if port == 0 { KEEPS } else { WRITTEN_ANEW };
    if port == 0 {
        work.value.source = new.ends.source;
        work.ends.source_port = new.ends.source_port;
        return Ok(());
    }
    let way = env.way_to_backend(work.value.backend, &backend)?;
    if way.interface == 0 {
        return Err(Reason::WayChanged);
    }
    work.value.source = way.source;
    work.ends.source_port = port;
    Ok(())
}

/// Whether it is known what becomes of a datagram that a fragment, of another node's packet, is of. `at`: where
/// its IP header is.
#[inline(never)]
pub(crate) fn is_known_within<E: Forward>(env: &E, at: u32, v6: bool) -> bool {
    read_within(env, at as usize, v6).is_some()
}

#[inline(always)]
fn read_within<E: Forward>(env: &E, at: usize, v6: bool) -> Option<()> {
    let mut work = env.work()?;
    work.key.last = 0;
    if v6 {
        let [next, _] = env.far::<2>(at + 6)?;
        let [protocol, _] = env.far::<2>(at + 40)?;
        work.key.source = words(env.far(at + 8)?);
        work.key.target = words(env.far(at + 24)?);
        work.key.id = u32::from_ne_bytes(env.far(at + 44)?);
        if next != FRAGMENT || protocol != UDP {
            return None;
        }
    } else {
        let [_, protocol] = env.far::<2>(at + 8)?;
        let part = u16::from_be_bytes(env.far(at + 6)?) & 0x1fff;
        work.key.source = mapped(env.far(at + 12)?);
        work.key.target = mapped(env.far(at + 16)?);
        work.key.id = u16::from_ne_bytes(env.far(at + 4)?) as u32;
        if part == 0 || protocol != UDP {
            return None;
        }
    }
    recall(env, &mut work)?;
    // One that this node has sent on, or a reply, is none for its endpoints.
    (work.value.keeps != AS_IT_IS && work.value.backend != TO_CLIENT).then_some(())
}

/// What became of the first fragment; of one that is still to come, what is likely.
#[inline(always)]
fn recall<E: Forward>(env: &E, work: &mut Work) -> Option<()> {
    let tick = env.tick();
    if let Some(value) = env.fragment(&work.key)
        && value.holds(&work.key, tick)
    {
        work.value = value;
        return Some(());
    }
    work.key = work.key.last();
    work.value = env.fragment(&work.key)?;
    work.value.holds(&work.key, tick).then_some(())
}

/// Sends a fragment on as it is.
#[inline(always)]
fn as_it_is<E: Forward, const V6: bool>(env: &E, work: &Work) -> Verdict {
    let FragmentValue { backend: slot, generation, .. } = work.value;
    if !env.backend(slot).is_some_and(|backend| backend.generation == generation && backend.is_direct()) {
        return drop(Reason::NoBackend);
    }
    if let Some(mut chosen) = env.pending() {
        chosen.backend = slot;
        // Only the first one has ports, and all should take one way.
        chosen.hash = flow::hash(&work.piece.ends.source, 0, UDP);
    }
    let end = (work.piece.length + 14) as u16;
    Verdict::unpacked(direct::send_chosen(env, Packet { ip: 14, transport: 0, end, protocol: UDP, v6: V6 }))
}

/// Writes a fragment anew and sends it on.
#[inline(never)]
fn send<E: Forward, const V6: bool>(env: &E, work: &mut Work) -> Verdict {
    work.ends.source = work.value.source;
    work.ends.target = work.value.target;
    let returns = work.value.backend == TO_CLIENT;
    let found = if returns { way_to_client(env, work) } else { way_to_endpoint(env, work) };
    if let Err(reason) = found {
        return drop(reason);
    }
    let WayValue { interface, mtu, .. } = work.way;
    if work.piece.length > mtu {
        return too_big::found(env, mtu);
    }
    if !rewrite::<E, V6>(env, &work.piece, &work.ends) {
        return drop(Reason::Truncated);
    }
    let action = if interface == 0 { Action::Pass } else { env.leave(&work.way) };
    Verdict { reason: if returns { Reason::FragmentReturned } else { Reason::FragmentForwarded }, action }
}

/// The kernel delivers where there is no way, whatever the length.
#[inline(always)]
fn way_to_client<E: Forward>(env: &E, work: &mut Work) -> Result<(), Reason> {
    let FragmentValue { source, target, .. } = work.value;
    match env.way_to_client(&target, &source, work.piece.length) {
        Some(way) => work.way = *way,
        None => by_kernel(work),
    }
    Ok(())
}

#[inline(always)]
fn way_to_endpoint<E: Forward>(env: &E, work: &mut Work) -> Result<(), Reason> {
    let backend = env.backend(work.value.backend).ok_or(Reason::NoBackend)?;
    if backend.generation != work.value.generation {
        return Err(Reason::NoBackend);
    }
    if work.value.keeps == KEEPS {
        by_kernel(work);
        return Ok(());
    }
    work.way = *env.way_to_backend(work.value.backend, &backend)?;
    if work.way.interface == 0 { Err(Reason::WayChanged) } else { Ok(()) }
}

#[inline(always)]
fn by_kernel(work: &mut Work) {
    work.way.interface = 0;
    work.way.mtu = u32::MAX;
}

/// Writes the new addresses and the new identification; of the first fragment, the ports and UDP's
/// checksum, which is the whole datagram's.
#[inline(always)]
fn rewrite<E: Forward, const V6: bool>(env: &E, piece: &Piece, new: &Ends) -> bool {
    rewritten::<E, V6>(env, piece, &piece.ends, new).is_some_and(|done| done)
}

#[inline(always)]
fn rewritten<E: Forward, const V6: bool>(env: &E, piece: &Piece, old: &Ends, new: &Ends) -> Option<bool> {
    let at = const { places::<V6>() };
    let addresses = Change::NONE.address(old.source, new.source).address(old.target, new.target);
    // Who sees the client's address sees its identification.
    let same = old.source == new.source;
    if V6 {
        let id = if same { piece.id } else { u32::from_be(piece.id).wrapping_add(salt(&old.source)).to_be() };
        if !env.set(at.id, id.to_ne_bytes()) {
            return None;
        }
    } else {
        let was = piece.id as u16;
        let id = if same { was } else { u16::from_be(was).wrapping_add(salt(&old.source) as u16).to_be() };
        let sum = u16::from_ne_bytes(env.near(24)?);
        let sum = addresses.half(was, id).apply(sum);
        if !env.set(at.id, id.to_ne_bytes()) || !env.set(24, sum.to_ne_bytes()) {
            return None;
        }
    }
    if piece.first != 0 {
        let ports = addresses.half(old.source_port, new.source_port).half(old.target_port, new.target_port);
        let sum = ports.apply_udp(u16::from_ne_bytes(env.near(at.transport + 6)?));
        let [a, b] = new.source_port.to_ne_bytes();
        let [c, d] = new.target_port.to_ne_bytes();
        if !env.set(at.transport, [a, b, c, d]) || !env.set(at.transport + 6, sum.to_ne_bytes()) {
            return None;
        }
    }
    Some(write::<E, V6>(env, at.source, &new.source) && write::<E, V6>(env, at.target, &new.target))
}

/// What the source of a fragment adds to identifications.
#[inline(always)]
pub(crate) const fn salt(source: &[u32; 4]) -> u32 {
    (flow::hash(source, 0, 0) >> 16) as u32
}

/// A fragment of UDP whose IPv4 header has no options.
#[inline(always)]
fn read_v4<E: Env>(env: &E, piece: &mut Piece) -> Option<()> {
    let [version, _, l0, l1, i0, i1, f0, f1, _, protocol] = env.near::<10>(14)?;
    piece.length = u16::from_be_bytes([l0, l1]) as u32;
    piece.id = u16::from_ne_bytes([i0, i1]) as u32;
    piece.first = (u16::from_be_bytes([f0, f1]) & 0x1fff == 0) as u32;
    piece.ends.source = mapped(env.near(26)?);
    piece.ends.target = mapped(env.near(30)?);
    let part = u16::from_be_bytes([f0, f1]) & 0x3fff != 0;
    (version == 0x45 && part && protocol == UDP && 14 + piece.length <= env.length()).then_some(())
}

/// A fragment of UDP whose only extension header is the one of fragments.
#[inline(always)]
fn read_v6<E: Env>(env: &E, piece: &mut Piece) -> Option<()> {
    let [version, _, _, _, l0, l1, next, _] = env.near::<8>(14)?;
    let [protocol, _, o0, o1, i0, i1, i2, i3] = env.near::<8>(54)?;
    piece.length = u16::from_be_bytes([l0, l1]) as u32 + 40;
    piece.id = u32::from_ne_bytes([i0, i1, i2, i3]);
    piece.first = (u16::from_be_bytes([o0, o1]) & 0xfff8 == 0) as u32;
    piece.ends.source = words(env.near(22)?);
    piece.ends.target = words(env.near(38)?);
    let ours = version >> 4 == 6 && next == FRAGMENT && protocol == UDP;
    (ours && 14 + piece.length <= env.length()).then_some(())
}
