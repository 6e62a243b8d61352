//! What becomes of a frame.

use crate::direct::{self, GUE_PORT};
use crate::env::{Bytes, Env};
use crate::established;
use crate::flow::is_reply_port;
use crate::forward::{self, Forward};
use crate::hello::{self, ServerName};
use crate::maps::{
    CLASS_TERMINATE, FLOW_CLOSING, FLOW_REFUSED, FLOW_SEEN, FlowKey, FlowState, HELLO_LEN, NAME_LEN,
    TUNE_COOKIES, VIP_DIRECT, VIP_FILTER_SNI, VIP_FORWARD, VIP_OBSERVE_SNI, VIP_RANGES, VIP_STEER, VipKey,
    VipValue, name_class, name_slot,
};
use crate::packet::{self, ACK, FIN, Packet, RST, SYN, TCP, UDP};
use crate::ranges;
use crate::rare;
use crate::reason::Reason;
use crate::refuse::{self, Reply};
use crate::source;

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
    /// To [`crate::cookie::judge`], which counts it. Where there is no such program: on to the local
    /// stack.
    Admit,
    /// From there to [`look`], which counts it.
    Look,
    /// To [`crate::rare::judge`], which counts it. Where there is no such program, the frame is passed, or
    /// dropped if it is too big.
    Rare,
    /// To [`crate::tunnel::judge`], which counts it. Where there is no such program: on to the local stack.
    Unwrap,
    /// To [`crate::unusual::judge`], which counts it. Where there is no such program: nowhere.
    Unusual,
}

/// What is done with a frame, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The counter.
    pub reason: Reason,
    /// What is done.
    pub action: Action,
}

impl Verdict {
    /// As one number that is not 0. BPF functions return nothing larger but by way of their caller's stack,
    /// and whether the verifier allows that depends on what LLVM leaves in a register.
    #[inline(always)]
    pub const fn packed(self) -> u32 {
        (self.reason as u32 + 1) << 8 | self.action as u32
    }

    /// From [`Self::packed`].
    #[inline(always)]
    pub fn unpacked(packed: u32) -> Self {
        let reason = Reason::ALL.get((packed >> 8) as usize - 1).copied();
        let action = Action::ALL.get((packed & 0xff) as usize).copied();
        match (reason, action) {
            (Some(reason), Some(action)) => Self { reason, action },
            _ => drop(Reason::Malformed),
        }
    }
}

/// A first byte of TLS alerts.
const TLS_ALERT: u8 = 21;

#[inline(always)]
pub(crate) fn drop(reason: Reason) -> Verdict {
    Verdict { reason, action: Action::Drop }
}

/// Where a TCP or UDP packet goes.
#[derive(Clone, Copy)]
struct Arrival {
    packet: Packet,
    address: [u32; 4],
    port: [u8; 2],
    /// TCP's; 0 for UDP.
    flags: u8,
}

/// Judges a frame and counts it. What isn't understood is passed on, and so is nearly all that is:
/// it goes to the local stack. A frame that is not passed, or passed as [`Reason::SniClosing`] or
/// [`Reason::Forwarded`], was changed.
#[inline(always)]
pub fn judge<E: Forward>(env: &E) -> Verdict {
    let arrival = match packet::shape(env) {
        // Constants instead of fields, so that the kernel's reads stay at constant offsets.
        Some(packet) if !packet.v6 => v4(env, packet),
        Some(packet) => v6(env, packet),
        None => match packet::unpacked(unusual(env)) {
            Ok(packet) => far(env, packet),
            Err(reason) => Err(reason),
        },
    };
    let verdict = match arrival {
        Ok(arrival) => arrived(env, arrival),
        Err(reason) if rare::is_rare(reason) => Verdict { reason, action: Action::Rare },
        Err(Reason::OtherProtocol) => Verdict { reason: Reason::OtherProtocol, action: Action::Unwrap },
        Err(reason) => pass(reason),
    };
    if !matches!(verdict.action, Action::Admit | Action::Rare | Action::Unwrap | Action::Unusual) {
        env.count(verdict.reason);
    }
    verdict
}

#[inline(always)]
pub(crate) fn pass(reason: Reason) -> Verdict {
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

/// The headers of frames with tags, options, extension headers, and of odd and broken ones, as
/// [`packet::packed`] writes them. Kept out of line: the usual frames should not pay for its registers. Nor for
/// a place in memory where it would leave what it found: LLVM would put theirs there, too, byte by byte, and a
/// processor waits where words are read that were just written in pieces. The stacks of nested calls add up to at
/// most 512 bytes, so it calls nothing out of line but [`Env::note`].
#[inline(never)]
fn unusual<E: Env>(env: &E) -> u64 {
    let found = packet::walk(env);
    if let Err(reason) = found {
        env.note(reason);
    }
    packet::packed(found)
}

#[inline(always)]
fn far<E: Env>(env: &E, packet: Packet) -> Result<Arrival, Reason> {
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
fn arrived<E: Forward>(env: &E, arrival: Arrival) -> Verdict {
    let Arrival { packet, address, port, flags } = arrival;
    let key = VipKey { address, port: u16::from_ne_bytes(port), protocol: packet.protocol, zero: 0 };
    let Some(vip) = env.vip(&key) else {
        let reply = packet.is_usual() && is_reply_port(u16::from_be(key.port));
        let unwrap = key.port == GUE_PORT.to_be() && packet.protocol == UDP;
        return match reply {
            true => returned(env, packet.hidden(env), env.hide(flags as u32) as u8, key.port),
            false if unwrap => Verdict { reason: Reason::NotVip, action: Action::Unwrap },
            false => pass(Reason::NotVip),
        };
    };
    // From here on it is the same to the verifier which of the ways here the packet took.
    let (packet, flags) = (packet.hidden(env), env.hide(flags as u32) as u8);
    if packet.protocol == TCP && source::is_bogus(flags) {
        return drop(Reason::BogusFlags);
    }
    let opening = packet.protocol == TCP && flags & (SYN | ACK) == SYN;
    let rules = env.tuning().flags;
    if rules != 0 {
        let reason = source::judge(env, &packet, opening);
        if reason != Reason::Vip {
            return drop(reason);
        }
    }
    env.count_vip(vip.slot, packet.end as u32, opening);
    let packet = packet.hidden(env);
    if vip.flags & VIP_FORWARD != 0 {
        if !packet.is_usual() {
            return Verdict { reason: Reason::ForwardUnusual, action: Action::Unusual };
        }
        return forward(env, packet, flags, vip);
    }
    let admits = vip.flags & VIP_STEER != 0 || rules & TUNE_COOKIES != 0;
    if admits && packet.protocol == TCP && packet.is_usual() {
        return Verdict { reason: Reason::Vip, action: Action::Admit };
    }
    to_stack(env, &packet, flags, &vip)
}

/// Judges a TCP packet to a VIP that [`judge`] left to [`crate::cookie::judge`], and that left to the
/// local stack, and counts it.
#[inline(always)]
pub fn look<E: Env>(env: &E) -> Verdict {
    let verdict = looked(env).unwrap_or(pass(Reason::Vip));
    env.count(verdict.reason);
    verdict
}

#[inline(always)]
fn looked<E: Env>(env: &E) -> Option<Verdict> {
    let packet = packet::shape(env)?;
    let Arrival { address, port, flags, packet } =
        if packet.v6 { v6(env, packet) } else { v4(env, packet) }.ok()?;
    let key = VipKey { address, port: u16::from_ne_bytes(port), protocol: packet.protocol, zero: 0 };
    Some(to_stack(env, &packet, flags, &env.vip(&key)?))
}

/// To the local stack, by way of [`observe`] where the VIP asks for that.
#[inline(always)]
fn to_stack<E: Env>(env: &E, packet: &Packet, flags: u8, vip: &VipValue) -> Verdict {
    if vip.flags & VIP_OBSERVE_SNI != 0 && packet.protocol == TCP {
        return observe(env, packet, flags, vip.flags & VIP_FILTER_SNI != 0);
    }
    pass(Reason::Vip)
}

/// To a VIP in forward mode, a packet of a usual shape. Where clients are listed, all flows are remembered, for
/// each packet asks for its client besides.
///
/// IPv4 packets in the middle of a connection or of a flow of UDP, and those that go as they are, are sent
/// without a function of their own: each return costs. The others come back here with what they need to be sent
/// by the same code, which the verifier would otherwise follow from each place that knows an endpoint.
#[inline(always)]
pub(crate) fn forward<E: Forward>(env: &E, mut packet: Packet, flags: u8, vip: VipValue) -> Verdict {
    if vip.flags & (VIP_DIRECT | VIP_RANGES) == VIP_DIRECT {
        let sent = if packet.v6 {
            match direct::send_v6(env, packet, vip) {
                0 => None,
                packed => Some(Verdict::unpacked(packed)),
            }
        } else {
            direct::send(env, &Packet { ip: 14, transport: 34, v6: false, ..packet }, &vip)
        };
        if let Some(verdict) = sent {
            return verdict;
        }
    }
    if ranges::asked(vip.flags) && !ranges::admit(env, &packet, vip.slot) {
        return drop(Reason::SourceOutside);
    }
    let mut found = None;
    if vip.flags & VIP_DIRECT == 0 {
        if !packet.v6 {
            found = established::find_v4(env, packet, flags, &vip);
        } else if let Some(verdict) = established::send_v6(env, packet, flags, &vip) {
            return verdict;
        }
    }
    if found.is_none() {
        // The branches before have found its version, which would have all this followed twice.
        packet = packet.hidden(env);
        match forwarded(env, packet, flags, vip) {
            AS_IT_IS => return Verdict::unpacked(direct::send_chosen(env, packet)),
            SETTLED => {}
            packed => return Verdict::unpacked(packed),
        }
        found = env.pending().map(|new| (new.backend, new.port));
    }
    let Some((slot, port)) = found else { return drop(Reason::NoFlow) };
    if packet.v6 {
        return Verdict::unpacked(forwarded_v6(env, packet, slot, port));
    }
    // What is constant here is no work for who sends it.
    let packet = Packet { ip: 14, transport: 34, v6: false, ..packet };
    forward::to(env, &packet, slot, port)
}

/// In place of a packed verdict: the packet goes as it is.
const AS_IT_IS: u32 = 0;
/// Likewise: the packet's endpoint and port are in [`Forward::pending`].
const SETTLED: u32 = 1;

/// To a VIP in forward mode: [`Verdict::packed`], [`AS_IT_IS`] or [`SETTLED`]. Out of line for the same reason as
/// [`unusual`].
#[inline(never)]
fn forwarded<E: Forward>(env: &E, packet: Packet, flags: u8, vip: VipValue) -> u32 {
    let (slot, port) = match forward::endpoint(env, &packet, flags, &vip) {
        Ok(found) => found,
        Err(verdict) => return verdict.map_or(AS_IT_IS, Verdict::packed),
    };
    if let Some(mut new) = env.pending() {
        (new.backend, new.port) = (slot, port);
    }
    SETTLED
}

/// An IPv6 packet to an endpoint: [`Verdict::packed`]. Out of line: the stack has no room for its addresses.
#[inline(never)]
fn forwarded_v6<E: Forward>(env: &E, packet: Packet, slot: u32, port: u16) -> u32 {
    let packet = Packet { ip: 14, transport: 54, v6: true, ..packet.hidden(env) };
    forward::to(env, &packet, slot, port).packed()
}

/// Maybe an endpoint's reply.
#[inline(never)]
fn returned<E: Forward>(env: &E, packet: Packet, flags: u8, port: u16) -> Verdict {
    forward::to_client(env, &packet, flags, port).unwrap_or(pass(Reason::NotVip))
}

/// Counts the ClientHello of a connection once. With `filter`, one whose name nobody serves goes no
/// further.
///
/// What takes room on the stack or many instructions is out of line, called from here and from one
/// place only: the stacks of nested calls add up, and each further call is verified again.
#[inline(always)]
fn observe<E: Env>(env: &E, packet: &Packet, flags: u8, filter: bool) -> Verdict {
    if flags & (SYN | ACK) == SYN {
        // The client took the port anew: its next ClientHello is another connection's.
        forget(env, packet);
        return pass(Reason::Vip);
    }
    let transport = packet.transport as usize;
    let Some([offset, _]) = env.reach::<2>(transport + 12) else {
        return pass(Reason::Vip);
    };
    let payload = transport + (offset >> 4) as usize * 4;
    // A bare ACK has nothing to look at; Ethernet's padding behind it is not payload.
    let start = if payload + 6 > packet.end as usize { None } else { env.reach::<6>(payload) };
    let begins = start.is_some_and(|start| hello::begins(&start));
    // What a refused client sends besides the hello again: an alert of its own, nothing, its end.
    let bare = payload >= packet.end as usize;
    let after = bare || flags & (FIN | RST) != 0 || start.is_some_and(|start| start[0] == TLS_ALERT);
    let looks = begins || (filter && after);
    if !looks {
        return pass(Reason::Vip);
    }
    let state = FlowState::from(recall(env, packet));
    let refused = state.kind == FLOW_REFUSED || state.kind == FLOW_CLOSING;
    if state.kind == FLOW_SEEN || (!begins && !refused) {
        return pass(Reason::Vip);
    }
    let mut next = FlowState { kind: FLOW_SEEN, expects: 0 };
    let mut reply = Reply::Alert;
    if begins {
        // Looked up again when it comes again: the name may be served by now, and a forged hello
        // must not cost the real one its connection.
        let packet = &packet.hidden(env);
        let payload = env.hide(payload as u32) as usize;
        let reason = hello_name(env, packet, payload);
        if !refused {
            env.count(reason);
            env.note(reason);
        }
        if filter && reason == Reason::HelloUnknown && refuse::is_plain(env, packet, payload) {
            let sequence = env.reach::<4>(transport + 4).map(u32::from_be_bytes).unwrap_or_default();
            let kind = if refused { state.kind } else { FLOW_REFUSED };
            next = FlowState { kind, expects: if refused { state.expects } else { sequence } };
        }
    } else {
        next = FlowState { kind: FLOW_CLOSING, ..state };
        reply = match state.kind {
            FLOW_REFUSED => Reply::Reset,
            // Once the stack knows, there is nothing to say to acknowledgements and resets.
            _ if flags & RST != 0 || (bare && flags & FIN == 0) => Reply::Nothing,
            _ => Reply::Acknowledge,
        };
    }
    remember(env, packet, next.kind, next.expects);
    if next.kind == FLOW_SEEN {
        return pass(Reason::Vip);
    }
    let done = turn(env, packet, payload, reply, next.expects);
    let reason = if reply == Reply::Alert { Reason::SniRefused } else { Reason::SniClosing };
    let action = match reply {
        _ if !done => Action::Drop,
        Reply::Nothing => Action::Drop,
        Reply::Reset => Action::Pass,
        Reply::Alert | Reply::Acknowledge | Reply::Refusal => Action::Send,
    };
    Verdict { reason, action }
}

/// What is known of the packet's connection, packed: BPF functions return one number.
#[inline(never)]
fn recall<E: Env>(env: &E, packet: &Packet) -> u64 {
    flow(env, packet).and_then(|flow| env.recall(&flow)).unwrap_or_default().into()
}

#[inline(never)]
fn remember<E: Env>(env: &E, packet: &Packet, kind: u32, expects: u32) {
    if let Some(flow) = flow(env, packet) {
        env.remember(&flow, FlowState { kind, expects });
    }
}

#[inline(never)]
fn forget<E: Env>(env: &E, packet: &Packet) {
    if let Some(flow) = flow(env, packet) {
        env.forget(&flow);
    }
}

#[inline(never)]
pub(crate) fn turn<E: Env>(env: &E, packet: &Packet, payload: usize, reply: Reply, expects: u32) -> bool {
    refuse::turn(env, packet, payload, reply, expects)
}

#[inline(never)]
fn hello_name<E: Env>(env: &E, packet: &Packet, payload: usize) -> Reason {
    name(env, payload, packet.end as usize - payload).0
}

/// Set in [`hello_class`]'s answer: nobody serves the name.
pub(crate) const NOBODY: u32 = 1 << 31;

/// Counts a ClientHello and gives its class, or [`NOBODY`].
#[inline(never)]
pub(crate) fn hello_class<E: Env>(env: &E, packet: &Packet, payload: usize) -> u32 {
    let (reason, class) = name(env, payload, packet.end as usize - payload);
    env.count(reason);
    env.note(reason);
    if reason == Reason::HelloUnknown { NOBODY } else { class }
}

/// What a ClientHello is, and its class.
#[inline(always)]
fn name<E: Env>(env: &E, payload: usize, length: usize) -> (Reason, u32) {
    let Some(bytes) = env.payload(payload, if length < HELLO_LEN { length } else { HELLO_LEN }) else {
        return (Reason::HelloSplit, CLASS_TERMINATE);
    };
    let name = match hello::server_name(&bytes) {
        Ok(name) => name,
        Err(reason) => return (reason, CLASS_TERMINATE),
    };
    // A name's end may be written with the root's dot; the tables have it without.
    let dotted = name.length > 1 && bytes.byte(name.offset + name.length - 1) == Some(b'.');
    let name = ServerName { length: name.length - dotted as usize, ..name };
    if name.length > NAME_LEN {
        return (Reason::HelloNameTooLong, CLASS_TERMINATE);
    }
    if let Some(value) = env.exact(payload + name.offset, name.length) {
        env.count_name(name_slot(value));
        return (Reason::HelloExact, name_class(value));
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
            let Some(value) = env.wildcard(payload + name.offset + label + 1, name.length - label - 1) else {
                break;
            };
            env.count_name(name_slot(value));
            return (Reason::HelloWildcard, name_class(value));
        }
    }
    (Reason::HelloUnknown, CLASS_TERMINATE)
}

/// Which connection a packet is of.
#[inline(always)]
pub(crate) fn flow<E: Env>(env: &E, packet: &Packet) -> Option<FlowKey> {
    let (ip, transport) = (packet.ip as usize, packet.transport as usize);
    let [a, b, c, d] = env.reach::<4>(transport)?;
    let (source, destination) = if packet.v6 {
        (words(env.reach::<16>(ip + 8)?), words(env.reach::<16>(ip + 24)?))
    } else {
        (mapped(env.reach::<4>(ip + 12)?), mapped(env.reach::<4>(ip + 16)?))
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

/// Whether an address is one of IPv4, as [`mapped`] writes it.
#[inline(always)]
pub const fn is_v4(address: &[u32; 4]) -> bool {
    let [a, b, c, _] = *address;
    a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
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
