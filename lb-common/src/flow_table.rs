//! The flow table as packets use it: whose flow is it, and room for a new one.
//!
//! What an entry looks like, and how long it lives, is [`crate::flow`]'s; what most packets need of it,
//! [`crate::mark`]'s.

use crate::ends::Ends;
use crate::flow::{self, Flow, PORT_TRIES, Phase, Stamp, WAYS, after_client, first_phase};
use crate::forward::{Forward, Pending};
use crate::maps::{BackendValue, VIP_DIRECT, VipValue};
use crate::mark::Mark;
use crate::packet::{ACK, SYN, TCP};
use crate::reason::Reason;

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

/// The mark with a tag, which may be one that doesn't hold; else one without a tag.
#[inline(always)]
pub(crate) fn marked<E: Forward>(env: &E, hash: u64, tag: u32) -> Mark {
    let (first, way) = flow::bucket(hash, env.mask());
    let Some(marks) = env.marks(first / WAYS) else { return Mark(0) };
    for step in 0..WAYS {
        let mark = Mark(marks.0[((way + step) & (WAYS - 1)) as usize]);
        if mark.tag() == tag {
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
pub(crate) fn go_on<E: Forward>(env: &E, index: u32, flags: u8, now: u32, vip: &VipValue) -> bool {
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
    refresh(env, index, &flow, after, flags, now);
    true
}

/// Tells a flow's mark of a packet that the flow was told of. Out of line: it is for few packets, and the stacks
/// of nested calls add up.
#[inline(never)]
pub(crate) fn tell<E: Forward>(env: &E, index: u32, now: u32) {
    let (Some(flow), Some(marks)) = (env.flow(index), env.marks(index / WAYS)) else { return };
    let mark = Mark(marks.0[(index % WAYS) as usize]);
    let told = mark.told(Stamp(flow.stamp), flow.generation, now);
    // Without a tag it is being written.
    if told != mark && mark.tag() != 0 {
        let alone = marks.count(mark.tag()) == 1;
        env.swap_mark(index, mark.0, if alone { told.0 } else { told.slow().0 });
    }
}

/// No entry. In place of `Option`: what it would hold besides is one more thing for the verifier to
/// tell apart.
pub(crate) const NONE: u32 = u32::MAX;

/// Enters a flow and its port: says where, or, in the upper half, why not. Out of line: established
/// flows should not pay for its registers.
#[inline(never)]
pub(crate) fn enter<E: Forward>(env: &E, new: &Pending) -> u64 {
    match entered(env, new) {
        Ok(index) => index as u64,
        Err(reason) => (reason as u64 + 1) << 32,
    }
}

#[inline(always)]
pub(crate) fn unpack(outcome: u64) -> (u32, Option<Reason>) {
    let reason = (outcome >> 32) as usize;
    (outcome as u32, if reason == 0 { None } else { Reason::ALL.get(reason - 1).copied() })
}

#[inline(always)]
fn entered<E: Forward>(env: &E, new: &Pending) -> Result<u32, Reason> {
    let Pending { hash, now, .. } = *new;
    let backend = env.backend(new.backend).ok_or(Reason::NoBackend)?;
    let own = env.flow(new.old).is_some_and(|flow| same_ends(&flow, new));
    let index = if own { new.old } else { room(env, hash, now) };
    let flow = env.flow(index).ok_or(Reason::FlowsFull)?;
    let old = flow.stamp;
    if !own && Stamp(old).worth(now) == 0 {
        return Err(Reason::FlowsFull);
    }
    let busy = Stamp::new(Phase::Busy, now).0;
    if !env.swap_stamp(index, old, busy) {
        // Another CPU took it; the client sends again.
        return Err(Reason::FlowsFull);
    }
    env.write_mark(index, 0);
    if new.old != NONE {
        // Another flow's with the same tag, or it was this one's.
        let twin = mark_of(env, new.old);
        env.swap_mark(new.old, twin, Mark(twin).slow().0);
    }
    env.write_flow(index, new, backend.generation);
    if new.keeps && !backend.is_direct() {
        env.keep(backend.port);
    }
    if !new.keeps && !take_port(env, hash, index, &backend, now) {
        env.swap_stamp(index, busy, 0);
        return Err(Reason::PortsFull);
    }
    let port = env.flow(index).map_or(0, |flow| flow.port);
    env.write_mark(index, Mark::new(new.tag, new.backend, port).0);
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

/// Notes that a flow had a packet, at most once in a tick unless its phase changes.
#[inline(always)]
pub(crate) fn refresh<E: Forward>(
    env: &E,
    index: u32,
    flow: &Flow,
    after: impl Fn(Phase, u8) -> Phase,
    flags: u8,
    now: u32,
) {
    let Some(phase) = Stamp(flow.stamp).phase() else { return };
    // A new connection over the ports of an old one begins anew.
    let opening = flow.protocol == TCP && flags & (SYN | ACK) == SYN;
    let next = if opening && matches!(phase, Phase::Closing) { Phase::Opening } else { after(phase, flags) };
    let stamp = Stamp::new(next, now);
    if stamp.0 != flow.stamp {
        // Whoever was faster wrote the same, or something newer.
        env.swap_stamp(index, flow.stamp, stamp.0);
    }
}
