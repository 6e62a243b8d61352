//! ICMP errors about packets of forwarded connections: to whom the connection is, in his own words.
//!
//! An error quotes the packet that it is about. Who sent that packet knows the connection by other
//! addresses and ports than who took it, so what is quoted is translated like the connection's
//! packets, the other way round. Path MTU discovery through a VIP works by nothing else.
//!
//! ```text
//! about an endpoint's reply  (VIP ► client)    to the VIP   ─► to the endpoint, quoting endpoint ► node
//! about a client's packet    (node ► endpoint) to the node  ─► to the client, quoting client ► VIP
//! ```
//!
//! An error about a reply of an endpoint that packets go to as they are goes there in the same way: the node
//! that sent the reply knows its connection.
//!
//! Its own addresses are the connection's as well: who gets it sees nobody whom it doesn't talk to.

use crate::direct;
use crate::ends::{Ends, bytes};
use crate::flow::{self, is_reply_port};
use crate::flow_table;
use crate::forward::{self, Forward, drop};
use crate::maps::{VIP_DIRECT, VIP_FORWARD, VipKey};
use crate::nat::Change;
use crate::packet::{ICMP, ICMPV6, Packet, TCP, UDP};
use crate::rare::Work;
use crate::reason::Reason;
use crate::verdict::{Action, Verdict, mapped, words};
use crate::{mark, mark_table};

/// A frame that can be read and written at constant offsets.
pub trait Edit {
    /// Bytes; `None`: the frame ends before.
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes bytes; false: the frame ends before.
    fn put<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> bool;

    /// Writes an IPv6 address.
    fn put_address(&self, offset: usize, address: &[u32; 4]) -> bool;
}

impl<E: Forward> Edit for E {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.near(offset)
    }

    #[inline(always)]
    fn put<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> bool {
        self.set(offset, bytes)
    }

    #[inline(always)]
    fn put_address(&self, offset: usize, address: &[u32; 4]) -> bool {
        self.set(offset, bytes(*address))
    }
}

/// An error and what it quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Quote {
    /// Whom the error is from.
    pub source: [u32; 4],
    /// Whom it is to.
    pub target: [u32; 4],
    /// The ends of the packet that it quotes.
    pub ends: Ends,
    /// That packet's IP protocol: TCP or UDP.
    pub protocol: u8,
}

/// Where things are. All from the Ethernet header on, with IP headers that have neither options nor
/// extensions.
struct Places {
    source: usize,
    target: usize,
    icmp: usize,
    quoted: usize,
    quoted_source: usize,
    quoted_target: usize,
    ports: usize,
}

const fn places<const V6: bool>() -> Places {
    if V6 {
        Places {
            source: 22,
            target: 38,
            icmp: 54,
            quoted: 62,
            quoted_source: 70,
            quoted_target: 86,
            ports: 102,
        }
    } else {
        Places {
            source: 26,
            target: 30,
            icmp: 34,
            quoted: 42,
            quoted_source: 54,
            quoted_target: 58,
            ports: 62,
        }
    }
}

/// Judges a frame that may be an error about a forwarded connection's packet. `None`: it is not.
///
/// `HERE`: another node sent it on, so it is about a connection with an endpoint of this one, or nobody's.
#[inline(always)]
pub fn judge<E: Forward, const V6: bool, const HERE: bool>(env: &E, work: &mut Work) -> Option<Verdict> {
    if !ours::<E, V6, HERE>(env, work) {
        return None;
    }
    let index = work.index;
    if !HERE && work.returns == AS_IT_IS {
        return Some(as_it_is::<E, V6>(env, work));
    }
    let verdict = if work.returns != 0 { to_client(env, work, index) } else { to_endpoint(env, work, index) };
    if verdict.action != Action::Drop && !write_anew::<E, V6>(env, &work.old, &work.new) {
        return Some(drop(Reason::Truncated));
    }
    Some(leave(env, work, verdict))
}

/// Whether it is about a packet of a flow, and of which. Its steps are out of line, one after the other: the stacks of
/// nested calls add up.
#[inline(always)]
fn ours<E: Forward, const V6: bool, const HERE: bool>(env: &E, work: &mut Work) -> bool {
    is_read::<E, V6>(env, &mut work.old) && is_of_flow::<E, HERE>(env, work)
}

/// Whether it is an error that can be read, and nobody else's mail.
#[inline(never)]
fn is_read<E: Forward, const V6: bool>(env: &E, quote: &mut Quote) -> bool {
    // So much of it has to be there at least. Asked here for the same reason as in `write_anew`.
    let least = const { places::<V6>() }.ports as u32 + 8;
    env.length() >= least && read::<E, V6>(env, quote).is_some() && quote.target == quote.ends.source
}

#[inline(never)]
fn is_of_flow<E: Forward, const HERE: bool>(env: &E, work: &mut Work) -> bool {
    match flow_of::<E, HERE>(env, work) {
        Some(index) => work.index = index,
        None => return false,
    }
    true
}

#[inline(always)]
fn flow_of<E: Forward, const HERE: bool>(env: &E, work: &mut Work) -> Option<u32> {
    let Quote { ends, protocol, .. } = &work.old;
    let key = VipKey { address: ends.source, port: ends.source_port, protocol: *protocol, zero: 0 };
    let now = env.tick();
    match env.vip(&key) {
        Some(vip) if vip.flags & VIP_FORWARD != 0 => {
            work.returns = 0;
            // The quoted packet is a reply.
            work.ends = Ends {
                source: ends.target,
                target: ends.source,
                source_port: ends.target_port,
                target_port: ends.source_port,
            };
            let hash = flow::hash(&work.ends.source, work.ends.source_port, *protocol);
            let index = {
                let mut its = env.pending()?;
                its.ends = work.ends;
                (its.hash, its.tag) = (hash, mark::tag(hash, &work.ends));
                (its.now, its.protocol) = (now, *protocol);
                mark_table::find(env, &mut its)
            };
            let known = env.flow(index).filter(|flow| {
                env.backend(flow.backend).is_some_and(|backend| backend.generation == flow.generation)
            });
            if !HERE && vip.flags & VIP_DIRECT != 0 {
                let slot = match &known {
                    Some(flow) => flow.backend,
                    None => forward::entry(env, hash, &vip, &work.ends)?.choice(false)?,
                };
                if env.backend(slot)?.is_direct() {
                    work.returns = AS_IT_IS;
                    return Some(slot);
                }
            }
            let backend = env.backend(known?.backend)?;
            if backend.is_direct() { None } else { Some(index) }
        }
        Some(_) => None,
        // A packet of a client's that this node sent on under its own address.
        None if is_reply_port(u16::from_be(ends.source_port)) => {
            work.returns = 1;
            flow_table::owner(env, &ends.target, ends.target_port, *protocol, ends.source_port, now)
        }
        None => None,
    }
}

/// In the place of [`Work::returns`]: the error goes on as it is, and [`Work::index`] is the slot of to whom.
const AS_IT_IS: u32 = 2;

#[inline(always)]
fn as_it_is<E: Forward, const V6: bool>(env: &E, work: &Work) -> Verdict {
    let length = if V6 { env.near::<2>(18) } else { env.near::<2>(16) };
    let Some(length) = length.map(u16::from_be_bytes) else { return drop(Reason::Truncated) };
    let end = length as u32 + if V6 { 54 } else { 14 };
    if end > env.length() || end > 0xffff {
        return drop(Reason::Truncated);
    }
    if let Some(mut chosen) = env.pending() {
        chosen.backend = work.index;
        chosen.hash = flow::hash(&work.ends.source, work.ends.source_port, work.old.protocol);
    }
    let packet = Packet { ip: 14, transport: 0, end: end as u16, protocol: ICMP, v6: V6 };
    let verdict = Verdict::unpacked(direct::send_chosen(env, packet));
    // Nobody is told of an error (RFC 1122, section 3.2.2).
    if verdict.action == Action::Rare { drop(Reason::TooBigUnanswered) } else { verdict }
}

/// About a reply.
#[inline(never)]
fn to_endpoint<E: Forward>(env: &E, work: &mut Work, index: u32) -> Verdict {
    let Some(flow) = env.flow(index) else { return drop(Reason::NoFlow) };
    let Some(backend) = env.backend(flow.backend) else { return drop(Reason::NoBackend) };
    let way = match env.way_to_backend(flow.backend, &backend) {
        Ok(way) => way,
        Err(reason) => return drop(reason),
    };
    work.way = *way;
    work.new = work.old;
    work.new.target = backend.address;
    work.new.ends.source = backend.address;
    work.new.ends.source_port = backend.port;
    if flow.port == 0 {
        work.way.interface = 0;
    } else {
        if way.interface == 0 {
            return drop(Reason::WayChanged);
        }
        work.new.source = way.source;
        work.new.ends.target = way.source;
        work.new.ends.target_port = flow.port;
    }
    Verdict { reason: Reason::IcmpForwarded, action: Action::Pass }
}

/// About a client's packet.
#[inline(never)]
fn to_client<E: Forward>(env: &E, work: &mut Work, index: u32) -> Verdict {
    let Some(flow) = env.flow(index) else { return drop(Reason::NoFlow) };
    work.new = work.old;
    work.new.source = flow.vip;
    work.new.target = flow.client;
    work.new.ends.source = flow.client;
    work.new.ends.target = flow.vip;
    work.new.ends.source_port = flow.client_port;
    work.new.ends.target_port = flow.vip_port;
    match env.way_to_client(&flow.client, &flow.vip, 0) {
        Some(way) => work.way = *way,
        None => work.way.interface = 0,
    }
    Verdict { reason: Reason::IcmpReturned, action: Action::Pass }
}

/// By the way that was found; without an interface, the kernel delivers.
#[inline(always)]
fn leave<E: Forward>(env: &E, work: &Work, verdict: Verdict) -> Verdict {
    if verdict.action == Action::Drop || work.way.interface == 0 {
        return verdict;
    }
    Verdict { action: env.leave(&work.way), ..verdict }
}

#[inline(never)]
fn write_anew<E: Forward, const V6: bool>(env: &E, old: &Quote, new: &Quote) -> bool {
    // The length is asked for again so that the function gets the frame as a whole: LLVM would pass
    // its end instead, which the verifier allows nobody to.
    env.length() >= const { places::<V6>() }.ports as u32 + 8 && rewrite::<E, V6>(env, old, new)
}

/// Reads an error of a kind that quotes a packet, whole as far as it is looked at. `None`: it is none.
#[inline(always)]
pub fn read<F: Edit, const V6: bool>(frame: &F, quote: &mut Quote) -> Option<()> {
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    let at = const { places::<V6>() };
    let protocol = if V6 {
        let [version, _, _, _, l0, l1, next, _] = frame.get::<8>(14)?;
        let [kind, _] = frame.get::<2>(at.icmp)?;
        let [inner, _, _, _, _, _, protocol, _] = frame.get::<8>(at.quoted)?;
        let length = u16::from_be_bytes([l0, l1]) as usize;
        // Unreachable, too big, time exceeded, parameter problem (RFC 4443, section 2.1).
        let error = version >> 4 == 6 && next == ICMPV6 && matches!(kind, 1..=4);
        if !error || inner >> 4 != 6 || length < at.ports + 8 - at.icmp {
            return None;
        }
        protocol
    } else {
        let [version, _, l0, l1, _, _, f0, f1, _, outer] = frame.get::<10>(14)?;
        let [kind, _] = frame.get::<2>(at.icmp)?;
        let [inner, _, _, _, _, _, i0, i1, _, protocol] = frame.get::<10>(at.quoted)?;
        let length = u16::from_be_bytes([l0, l1]) as usize;
        let whole = u16::from_be_bytes([f0, f1]) & 0x3fff == 0;
        // Unreachable, time exceeded, parameter problem (RFC 792).
        let error = version == 0x45 && outer == ICMP && matches!(kind, 3 | 11 | 12);
        // The first fragment of a packet has the ports, no other.
        let first = u16::from_be_bytes([i0, i1]) & FRAGMENT_OFFSET == 0;
        if !error || !whole || inner != 0x45 || !first || length < at.ports + 8 - 14 {
            return None;
        }
        protocol
    };
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let [a, b, c, d] = frame.get::<4>(at.ports)?;
    quote.protocol = protocol;
    quote.ends.source_port = u16::from_ne_bytes([a, b]);
    quote.ends.target_port = u16::from_ne_bytes([c, d]);
    quote.source = address::<F, V6>(frame, at.source)?;
    quote.target = address::<F, V6>(frame, at.target)?;
    quote.ends.source = address::<F, V6>(frame, at.quoted_source)?;
    quote.ends.target = address::<F, V6>(frame, at.quoted_target)?;
    Some(())
}

/// Makes one error of another, with all checksums: those of both IP headers, the quoted packet's, and
/// the error's own, which is made of all that it quotes. False: the frame ends too soon, and is
/// damaged.
#[inline(always)]
pub fn rewrite<F: Edit, const V6: bool>(frame: &F, old: &Quote, new: &Quote) -> bool {
    rewritten::<F, V6>(frame, old, new).is_some_and(|done| done)
}

#[inline(always)]
fn rewritten<F: Edit, const V6: bool>(frame: &F, old: &Quote, new: &Quote) -> Option<bool> {
    let at = const { places::<V6>() };
    let half = u16::from_ne_bytes;
    let outer = change::<V6>(change::<V6>(Change::NONE, &old.source, &new.source), &old.target, &new.target);
    let addresses = change::<V6>(Change::NONE, &old.ends.source, &new.ends.source);
    let addresses = change::<V6>(addresses, &old.ends.target, &new.ends.target);
    let ports = addresses
        .half(old.ends.source_port, new.ends.source_port)
        .half(old.ends.target_port, new.ends.target_port);
    let mut all = ports;
    if V6 {
        all = all.address(old.source, new.source).address(old.target, new.target);
    } else {
        let was = half(frame.get(24)?);
        let inner = half(frame.get(at.quoted + 10)?);
        let is = addresses.apply(inner);
        all = all.half(inner, is);
        if !frame.put(24, outer.apply(was).to_ne_bytes()) || !frame.put(at.quoted + 10, is.to_ne_bytes()) {
            return None;
        }
    }
    // Of a TCP segment, eight bytes may be all that is quoted: its checksum lies behind them.
    if old.protocol == UDP {
        let sum = half(frame.get(at.ports + 6)?);
        let is = ports.apply_udp(sum);
        all = all.half(sum, is);
        frame.put(at.ports + 6, is.to_ne_bytes());
    } else if let Some(sum) = quoted_tcp_sum::<F, V6>(frame) {
        let is = ports.apply(sum);
        all = all.half(sum, is);
        frame.put(at.ports + 16, is.to_ne_bytes());
    }
    let sum = half(frame.get(at.icmp + 2)?);
    let [a, b] = new.ends.source_port.to_ne_bytes();
    let [c, d] = new.ends.target_port.to_ne_bytes();
    Some(
        frame.put(at.icmp + 2, all.apply(sum).to_ne_bytes())
            && frame.put(at.ports, [a, b, c, d])
            && write::<F, V6>(frame, at.source, &new.source)
            && write::<F, V6>(frame, at.target, &new.target)
            && write::<F, V6>(frame, at.quoted_source, &new.ends.source)
            && write::<F, V6>(frame, at.quoted_target, &new.ends.target),
    )
}

/// `None`: it is not quoted; what lies there is Ethernet's padding, if anything.
#[inline(always)]
fn quoted_tcp_sum<F: Edit, const V6: bool>(frame: &F) -> Option<u16> {
    let at = const { places::<V6>() };
    let [a, b] = if V6 { frame.get::<2>(18)? } else { frame.get::<2>(16)? };
    let ends = u16::from_be_bytes([a, b]) as usize + if V6 { 54 } else { 14 };
    if ends < at.ports + 18 { None } else { frame.get(at.ports + 16).map(u16::from_ne_bytes) }
}

/// Of IPv4 addresses, what lies in front of them doesn't change.
#[inline(always)]
const fn change<const V6: bool>(change: Change, old: &[u32; 4], new: &[u32; 4]) -> Change {
    if V6 { change.address(*old, *new) } else { change.word(old[3], new[3]) }
}

#[inline(always)]
fn address<F: Edit, const V6: bool>(frame: &F, at: usize) -> Option<[u32; 4]> {
    if V6 { frame.get(at).map(words) } else { frame.get(at).map(mapped) }
}

/// Writes an address. False: the frame ends before.
#[inline(always)]
pub(crate) fn write<F: Edit, const V6: bool>(frame: &F, at: usize, address: &[u32; 4]) -> bool {
    if V6 { frame.put_address(at, address) } else { frame.put(at, address[3].to_ne_bytes()) }
}
