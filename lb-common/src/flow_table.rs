//! The flow table as packets use it: a client's packet is of which flow, an endpoint's of which, and a place for
//! a new one.
//!
//! What an entry looks like, and how long it lives, is [`crate::flow`]'s; what most packets need of it,
//! [`crate::mark`]'s.

use crate::flow::{self, Flow, PORT_TRIES, Phase, Stamp, WAYS, after_client, first_phase};
use crate::forward::{Forward, Pending};
use crate::maps::{BackendValue, VIP_DIRECT, VipValue};
use crate::mark::{Mark, Way};
use crate::mark_table::{NONE, forget, is_relied_on, room, same_ends, tag_in};
use crate::packet::{ACK, SYN, TCP};
use crate::reason::Reason;

/// The entry of the flow that has a port (network order) at an endpoint.
///
/// One of UDP that is too old goes on if its client's datagrams may be sent by its mark, which may seem younger than it
/// is.
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
    let index = flow::place(endpoint_hash, u16::from_be(port), env.mask());
    let flow = env.flow(index)?;
    let stamp = Stamp(flow.stamp);
    if flow.port != port || flow.protocol != protocol {
        return None;
    }
    let backend = env.backend(flow.backend)?;
    let same = backend.address == *endpoint
        && backend.port == endpoint_port
        && backend.generation == flow.generation;
    let revived = || {
        matches!(stamp.phase(), Some(Phase::Datagrams))
            && is_relied_on(env, index, now) != 0
            && env.swap_stamp(index, stamp.0, Stamp::new(Phase::Datagrams, now).0)
    };
    (same && (stamp.alive(now) || revived())).then_some(index)
}

/// Notes the packet in its flow, and in the flow's mark. False: the flow can't go on, as its endpoint is gone, or
/// about to go, and the packet begins a new connection over the same ports.
#[inline(always)]
pub(crate) fn go_on<E: Forward>(env: &E, index: u32, new: &mut Pending, vip: &VipValue) -> bool {
    let Some(flow) = env.flow(index) else { return false };
    let Some(backend) = env.backend(flow.backend) else { return false };
    let Some(phase) = Stamp(flow.stamp).phase() else { return false };
    let opening = flow.protocol == TCP && new.flags & (SYN | ACK) == SYN;
    let old = matches!(phase, Phase::Open | Phase::Closing | Phase::Ending);
    if backend.generation != flow.generation || (opening && old && backend.draining != 0) {
        return false;
    }
    // Packets to this VIP are not, or no longer, sent as they are.
    let direct = backend.is_direct();
    if direct && vip.flags & VIP_DIRECT == 0 {
        return false;
    }
    // Nobody sees the replies: a client that goes on was answered.
    let answered = direct && matches!(phase, Phase::Opening);
    let phase = next(&flow, if answered { Phase::Answered } else { phase }, after_client, new.flags);
    let stamp = Stamp::new(phase, new.now).0;
    let mark = if new.twin { Mark(new.was).twin() } else { Mark(new.was) };
    let told = mark.told(phase, flow.generation, new.now).0;
    let relied_on = matches!(phase, Phase::Open | Phase::Datagrams);
    // The mark is relied on only after the stamp says that it may be, and not from before it says otherwise.
    if !relied_on && !tell(env, new, told) {
        return true;
    }
    let noted = stamp == flow.stamp || env.swap_stamp(index, flow.stamp, stamp);
    if relied_on && noted {
        tell(env, new, told);
    }
    true
}

/// Writes a flow's mark anew that [`find`](crate::mark_table::find) has noted. False: another CPU did something to it.
#[inline(always)]
fn tell<E: Forward>(env: &E, new: &Pending, told: u64) -> bool {
    told == new.was || env.swap_mark(new.mark, new.was, told)
}

/// Enters a flow, and notes which port it has got.
#[inline(always)]
pub(crate) fn enter<E: Forward>(env: &E, new: &mut Pending, backend: &BackendValue) -> Result<(), Reason> {
    // One after the other and not nested: the stacks of nested calls add up.
    if room(env, new) == 0 {
        return Err(Reason::FlowsFull);
    }
    let index = take(env, new, backend);
    if index == NONE {
        return Err(if new.keeps { Reason::FlowsFull } else { Reason::PortsFull });
    }
    if new.relied_on {
        forget(env, index, new);
    }
    if publish(env, new, index, backend) == 0 {
        // Another CPU took it; the client sends again.
        return Err(Reason::FlowsFull);
    }
    Ok(())
}

/// Writes a flow to the entry that it has, and its mark. 0: another flow has got the place of the mark.
#[inline(never)]
fn publish<E: Forward>(env: &E, new: &Pending, index: u32, backend: &BackendValue) -> u32 {
    let busy = Stamp::new(Phase::Busy, new.now).0;
    let mut phase = first_phase(new.protocol);
    if new.known {
        // It may be open, which was noted, and its mark stays only if it says so.
        phase = env.flow(index).and_then(|flow| Stamp(flow.stamp).phase()).unwrap_or(phase);
    } else {
        env.write_flow(index, new, backend.generation);
        if new.keeps && !backend.is_direct() {
            env.keep(backend.port);
        }
    }
    // Before the flow can be found: two of one tag see each other.
    let tag = tag_in(env, new, new.mark / WAYS);
    let mark = Mark::new(tag, new.backend, Way::new(index, new.port), new.twin);
    let done = env.swap_mark(new.mark, new.was, mark.told(phase, backend.generation, new.now).0);
    if !new.known {
        env.swap_stamp(index, busy, if done { Stamp::new(phase, new.now).0 } else { 0 });
    }
    if new.old != index
        && let Some(old) = env.flow(new.old)
        && Stamp(old.stamp).alive(new.now)
        && same_ends(&old, new)
    {
        env.swap_stamp(new.old, old.stamp, 0);
    }
    (done || new.known) as u32
}

/// Takes an entry for a flow, and with it its port at the endpoint, which is noted. The entry is busy then, unless
/// the flow is there already. Out of line, as the stack has no room for its variables.
#[inline(never)]
fn take<E: Forward>(env: &E, new: &mut Pending, backend: &BackendValue) -> u32 {
    let (now, mask) = (new.now, env.mask());
    let endpoint = flow::hash(&backend.address, backend.port, backend.protocol);
    let (first, way) = flow::bucket(new.hash, mask);
    (new.known, new.relied_on) = (false, false);
    for attempt in 0..PORT_TRIES {
        let (index, port) = if new.keeps {
            (first | ((way + attempt) & (WAYS - 1)), 0)
        } else {
            let port = flow::port(new.hash, attempt);
            (flow::place(endpoint, port, mask), port.to_be())
        };
        let Some(flow) = env.flow(index) else { return NONE };
        let old = Stamp(flow.stamp);
        if old.worth(now) >= flow::wanted(attempt, new.keeps) {
            if env.swap_stamp(index, old.0, Stamp::new(Phase::Busy, now).0) {
                (new.port, new.relied_on) = (port, old.may_be_relied_on());
                return index;
            }
        } else if flow.port == port
            && flow.backend == new.backend
            && flow.generation == backend.generation
            && same_ends(&flow, new)
            && old.alive(now)
        {
            // Its mark was given to another flow.
            if !refresh(env, index, &flow, after_client, new.flags, now) {
                return NONE;
            }
            (new.port, new.known) = (port, true);
            return index;
        }
    }
    NONE
}

/// Notes that a flow had a packet, at most once in a tick unless its phase changes. False: another CPU was faster, and
/// wrote the same, or something newer.
#[inline(always)]
pub(crate) fn refresh<E: Forward>(
    env: &E,
    index: u32,
    flow: &Flow,
    after: impl Fn(Phase, u8) -> Phase,
    flags: u8,
    now: u32,
) -> bool {
    let old = Stamp(flow.stamp);
    let Some(phase) = old.phase() else { return false };
    let stamp = Stamp::new(next(flow, phase, after, flags), now);
    stamp == old || env.swap_stamp(index, old.0, stamp.0)
}

/// The phase of a flow after a packet.
#[inline(always)]
fn next(flow: &Flow, phase: Phase, after: impl Fn(Phase, u8) -> Phase, flags: u8) -> Phase {
    // A new connection over the ports of an old one begins anew.
    let opening = flow.protocol == TCP && flags & (SYN | ACK) == SYN;
    if opening && matches!(phase, Phase::Closing | Phase::Ending) {
        Phase::Opening
    } else {
        after(phase, flags)
    }
}
