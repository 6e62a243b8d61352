//! What becomes of a frame.

use crate::env::{Bytes, Env};
use crate::flow::is_reply_port;
use crate::forward::{self, Forward};
use crate::hello;
use crate::maps::{FlowKey, HELLO_LEN, NAME_LEN, VIP_FORWARD, VIP_OBSERVE_SNI, VipKey, VipValue};
use crate::packet::{self, ACK, Packet, SYN, TCP};
use crate::reason::Reason;

/// A DNS label's longest; a wildcard covers exactly one.
const MAX_LABEL: usize = 63;

/// What is done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the local stack.
    Pass,
    /// Nowhere.
    Drop,
    /// Out again by the interface that it came in by.
    Send,
    /// Out by another interface, which the kernel was told.
    Redirect,
}

/// What is done with a frame, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The counter.
    pub reason: Reason,
    /// What is done.
    pub action: Action,
}

/// Where a TCP or UDP packet goes.
struct Arrival {
    packet: Packet,
    address: [u32; 4],
    port: [u8; 2],
    /// TCP's; 0 for UDP.
    flags: u8,
}

impl Arrival {
    /// Whether the headers are where they are in frames without tags, options and extensions.
    #[inline(always)]
    const fn usual(&self) -> bool {
        self.packet.transport == if self.packet.v6 { 54 } else { 34 }
    }
}

/// Judges a frame and counts it. The frame is passed on in every case: Sluice drops nothing that
/// it does not understand, and what it understands goes to the local stack.
#[inline(always)]
pub fn judge<E: Forward>(env: &E) -> Verdict {
    let arrival = match packet::shape(env) {
        // Constants instead of fields, so that the kernel's reads stay at constant offsets.
        Some(packet) if !packet.v6 => v4(env, packet),
        Some(packet) => v6(env, packet),
        None => unusual(env),
    };
    let verdict = match arrival {
        Ok(arrival) => arrived(env, &arrival),
        Err(reason) => pass(reason),
    };
    env.count(verdict.reason);
    verdict
}

#[inline(always)]
fn pass(reason: Reason) -> Verdict {
    Verdict { reason, action: Action::Pass }
}

#[inline(always)]
fn v4<E: Env>(env: &E, packet: Packet) -> Result<Arrival, Reason> {
    let (Some(address), Some(port)) = (env.near::<4>(30), env.near::<2>(36)) else {
        return Err(Reason::Truncated);
    };
    let flags = if packet.protocol == TCP { env.near::<1>(47) } else { Some([0]) };
    let [flags] = flags.ok_or(Reason::Truncated)?;
    Ok(Arrival { packet, address: mapped(address), port, flags })
}

#[inline(always)]
fn v6<E: Env>(env: &E, packet: Packet) -> Result<Arrival, Reason> {
    let (Some(address), Some(port)) = (env.near::<16>(38), env.near::<2>(56)) else {
        return Err(Reason::Truncated);
    };
    let flags = if packet.protocol == TCP { env.near::<1>(67) } else { Some([0]) };
    let [flags] = flags.ok_or(Reason::Truncated)?;
    Ok(Arrival { packet, address: words(address), port, flags })
}

/// Tags, options, extension headers, odd and broken frames. Kept out of line: the usual frames
/// should not pay for its registers. The stacks of nested calls add up to at most 512 bytes, so it
/// calls nothing out of line but [`Env::note`].
#[inline(never)]
fn unusual<E: Env>(env: &E) -> Result<Arrival, Reason> {
    let arrival = walked(env);
    if let Err(reason) = arrival {
        env.note(reason);
    }
    arrival
}

#[inline(always)]
fn walked<E: Env>(env: &E) -> Result<Arrival, Reason> {
    let packet = packet::walk(env)?;
    let (ip, transport) = (packet.ip as usize, packet.transport as usize);
    let address =
        if packet.v6 { env.far::<16>(ip + 24).map(words) } else { env.far::<4>(ip + 16).map(mapped) };
    let (Some(address), Some(port)) = (address, env.far::<2>(transport + 2)) else {
        return Err(Reason::Truncated);
    };
    let flags = if packet.protocol == TCP { env.far::<1>(transport + 13) } else { Some([0]) };
    let [flags] = flags.ok_or(Reason::Truncated)?;
    Ok(Arrival { packet, address, port, flags })
}

#[inline(always)]
fn arrived<E: Forward>(env: &E, arrival: &Arrival) -> Verdict {
    let Arrival { packet, address, port, flags } = arrival;
    let key =
        VipKey { address: *address, port: u16::from_ne_bytes(*port), protocol: packet.protocol, zero: 0 };
    let Some(vip) = env.vip(&key) else {
        let reply = arrival.usual() && is_reply_port(u16::from_be(key.port));
        return if reply { returned(env, arrival) } else { pass(Reason::NotVip) };
    };
    let opening = flags & (SYN | ACK) == SYN;
    env.count_vip(vip.slot, packet.end as u32, opening);
    if vip.flags & VIP_FORWARD != 0 {
        return forwarded(env, arrival, &vip);
    }
    if vip.flags & VIP_OBSERVE_SNI != 0 && packet.protocol == TCP {
        observe(env, packet, opening);
    }
    pass(Reason::Vip)
}

/// To a VIP in forward mode. Out of line for the same reason as [`unusual`].
#[inline(never)]
fn forwarded<E: Forward>(env: &E, arrival: &Arrival, vip: &VipValue) -> Verdict {
    if !arrival.usual() {
        return Verdict { reason: Reason::ForwardUnusual, action: Action::Drop };
    }
    forward::to_endpoint(env, &arrival.packet, arrival.flags, vip)
}

/// Maybe an endpoint's reply.
#[inline(never)]
fn returned<E: Forward>(env: &E, arrival: &Arrival) -> Verdict {
    let reply = forward::to_client(env, &arrival.packet, arrival.flags, u16::from_ne_bytes(arrival.port));
    reply.unwrap_or(pass(Reason::NotVip))
}

/// Counts the ClientHello of a connection once.
#[inline(always)]
fn observe<E: Env>(env: &E, packet: &Packet, opening: bool) {
    if opening {
        // The client took the port anew: its next ClientHello is another connection's.
        if let Some(flow) = flow(env, packet) {
            env.forget(&flow);
        }
        return;
    }
    let transport = packet.transport as usize;
    let Some([offset, _]) = env.reach::<2>(transport + 12) else {
        return;
    };
    let payload = transport + (offset >> 4) as usize * 4;
    // A bare ACK has nothing to look at; Ethernet's padding behind it is not payload.
    if payload + 6 > packet.end as usize {
        return;
    }
    if env.reach::<6>(payload).is_some_and(|start| hello::begins(&start)) {
        first_hello(env, packet, payload);
    }
}

/// Out of line for the same reason as [`unusual`].
#[inline(never)]
fn first_hello<E: Env>(env: &E, packet: &Packet, payload: usize) {
    let Some(flow) = flow(env, packet) else {
        return;
    };
    if env.remember(&flow) {
        let reason = name(env, payload, packet.end as usize - payload);
        env.count(reason);
        env.note(reason);
    }
}

#[inline(always)]
fn name<E: Env>(env: &E, payload: usize, length: usize) -> Reason {
    let Some(bytes) = env.payload(payload, if length < HELLO_LEN { length } else { HELLO_LEN }) else {
        return Reason::HelloSplit;
    };
    let name = match hello::server_name(&bytes) {
        Ok(name) => name,
        Err(reason) => return reason,
    };
    if name.length > NAME_LEN {
        return Reason::HelloNameTooLong;
    }
    if let Some(slot) = env.exact(payload + name.offset, name.length) {
        env.count_name(slot);
        return Reason::HelloExact;
    }
    for label in 0..=MAX_LABEL {
        if label + 1 >= name.length {
            break;
        }
        if bytes.byte(name.offset + label) == Some(b'.') {
            // An empty first label is no label.
            if label == 0 {
                break;
            }
            let Some(slot) = env.wildcard(payload + name.offset + label + 1, name.length - label - 1) else {
                break;
            };
            env.count_name(slot);
            return Reason::HelloWildcard;
        }
    }
    Reason::HelloUnknown
}

#[inline(always)]
fn flow<E: Env>(env: &E, packet: &Packet) -> Option<FlowKey> {
    let (ip, transport) = (packet.ip as usize, packet.transport as usize);
    let [a, b, c, d] = env.far::<4>(transport)?;
    let (source, destination) = if packet.v6 {
        (words(env.far::<16>(ip + 8)?), words(env.far::<16>(ip + 24)?))
    } else {
        (mapped(env.far::<4>(ip + 12)?), mapped(env.far::<4>(ip + 16)?))
    };
    Some(FlowKey {
        source,
        destination,
        source_port: u16::from_ne_bytes([a, b]),
        destination_port: u16::from_ne_bytes([c, d]),
    })
}

/// An IPv4 address as IPv6 (`::ffff:a.b.c.d`).
#[inline(always)]
pub fn mapped(address: [u8; 4]) -> [u32; 4] {
    [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(address)]
}

/// An IPv6 address in words as the bytes lie.
#[inline(always)]
pub fn words(a: [u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}
