//! TCP handshakes that XDP does itself, by SYN cookies.
//!
//! ```text
//! SYN ─► SYN-ACK with a cookie ─► ACK ─┬─► (SYN flood) a connection, as if nothing had happened
//!                                      └─► (steering) dropped ─► ClientHello ─► class ─► a connection
//! ```
//!
//! A SYN says nothing of the name that the client will ask for, so a connection can only come up on the
//! listener of its name's class if the handshake is over by then. The stack hears of it with the segment
//! that carries the ClientHello: its [`Admission`] tells the program at the NIC's ingress whose listener
//! makes the socket, and what was agreed upon in the handshake.
//!
//! Nothing is remembered of a SYN whose client has TCP timestamps: what it said travels in ours, which
//! the client sends back. For other clients it is, unless SYNs come too fast; those clients then get a
//! connection without window scaling and selective acknowledgements.
//!
//! Kernels before 6.9 can't be told what was agreed upon (V1, [`STACK_CHECKS`]): there the stack takes the
//! segment for the answer to a cookie of its own, checks it, and reads the rest in the timestamp, whose
//! lowest bits are therefore laid out as the kernel's own. Which listener makes the socket is sk_lookup's
//! to say, and that listener has to believe that it gave cookies lately ([`Cookies::listener`]).

use crate::env::Env;
use crate::hello;
use crate::maps::{
    CLASS_TERMINATE, FlowKey, TUNE_ALL_COOKIES, TUNE_COOKIES, VIP_FILTER_SNI, VIP_FORWARD, VIP_STEER, VipKey,
    VipValue,
};
use crate::packet::{self, ACK, FIN, Packet, RST, SYN, TCP};
use crate::reason::Reason;
use crate::refuse::{self, Reply, SHORTEST, add, folded, swap_macs, write_v4, write_v6};
use crate::verdict::{Action, NOBODY, Verdict, drop, flow, hello_class, pass, turn};

/// What the node's stack would say in a handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CookieSettings {
    /// The largest segment it takes, IPv4.
    pub mss4: u16,
    /// The same for IPv6.
    pub mss6: u16,
    /// By how many bits its windows are shifted, at most 14.
    pub scale: u32,
    /// [`OFFER_SCALE`], [`OFFER_SACK`], [`OFFER_STAMPS`]; [`STACK_CHECKS`].
    pub offers: u32,
}

/// Window scaling is on (`net.ipv4.tcp_window_scaling`).
pub const OFFER_SCALE: u32 = 1;
/// Selective acknowledgements are on (`net.ipv4.tcp_sack`).
pub const OFFER_SACK: u32 = 2;
/// Timestamps are on (`net.ipv4.tcp_timestamps`).
pub const OFFER_STAMPS: u32 = 4;

/// The stack checks cookies itself and knows of a handshake what its timestamp carries, no more.
pub const STACK_CHECKS: u32 = 8;

/// What the stack is told of a connection whose handshake it did not see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Admission {
    /// The sequence number of the client's first byte, as it lies on the wire: only the segment with
    /// that begins the connection.
    pub sequence: u32,
    /// The client's timestamp.
    pub stamp: u32,
    /// Ours, as the client sent it back.
    pub echo: u32,
    /// The largest segment that the client takes.
    pub mss: u16,
    /// The class of its listener.
    pub class: u16,
    /// By how many bits the client's windows are shifted; [`NO_SCALE`].
    pub scale: u8,
    /// Both sides take selective acknowledgements: 1.
    pub sack: u8,
    /// Both sides have timestamps: 1.
    pub stamps: u8,
    /// Always 0.
    pub zero: u8,
    /// Where the stack checks cookies, the number of the listener that takes it plus one; else 0.
    pub listener: u32,
}

/// What the SYN of a client without timestamps said, as far as we agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SynOptions {
    /// The largest segment that the client takes.
    pub mss: u16,
    /// As [`Admission::scale`].
    pub scale: u8,
    /// As [`Admission::sack`].
    pub sack: u8,
}

/// No window scaling.
pub const NO_SCALE: u8 = 15;

/// How many SYNs came lately, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Meter {
    /// Begin of the window, nanoseconds.
    pub since: u64,
    /// SYNs in it.
    pub count: u32,
    /// The window before had too many: 1.
    pub busy: u32,
}

/// A window of a [`Meter`]: an eighth of a second.
const WINDOW: u64 = 125_000_000;

impl Meter {
    /// One more SYN; whether they come faster than `rate` a second.
    #[inline(always)]
    pub const fn tick(self, now: u64, rate: u32) -> (Self, bool) {
        let most = rate / 8;
        let (mut meter, age) = (self, now.wrapping_sub(self.since));
        if age >= WINDOW {
            meter = Self { since: now, count: 0, busy: (self.count > most && age < 2 * WINDOW) as u32 };
        }
        meter.count = meter.count.wrapping_add(1);
        (meter, meter.busy != 0 || meter.count > most)
    }
}

/// The state of a socket that listens (include/net/tcp_states.h).
pub const LISTEN: u32 = 10;

/// For so long after the last cookie, acknowledgements are looked at: the kernel takes cookies of the
/// minute in which they were made and of the one after it.
const LIFETIME: u64 = 130_000_000_000;

/// SYNs a second on one CPU that are no flood, unless the node's rules say otherwise.
pub const SYN_RATE: u32 = 5_000;

/// What may be noted at most so often that cookies are in use.
const NOTE: u64 = 1_000_000_000;

/// What [`judge`] needs besides [`Env`].
pub trait Cookies: Env {
    /// What to offer.
    fn settings(&self) -> CookieSettings;

    /// The kernel's cookie for a SYN with this header (20 bytes and the option for the segment size).
    fn cookie(&self, packet: &Packet, header: &[u8; 24]) -> Option<u32>;

    /// Whether the segment acknowledges a cookie of the kernel that is not too old, with its first byte.
    fn is_cookie(&self, packet: &Packet) -> bool;

    /// The state of the stack's socket for a connection, a listening one's included; 0: there is none.
    fn socket(&self, packet: &Packet, flow: &FlowKey) -> u32;

    /// Has the listener for a class take cookies that it did not give. Its number plus one; 0: there is none.
    fn listener(&self, packet: &Packet, class: u32) -> u32;

    /// Whether the connection was admitted.
    fn is_admitted(&self, flow: &FlowKey) -> bool;

    /// Admits it.
    fn admit(&self, flow: &FlowKey, admission: &Admission);

    /// Forgets that it was.
    fn dismiss(&self, flow: &FlowKey);

    /// What is remembered of a SYN.
    fn syn_options(&self, flow: &FlowKey) -> Option<SynOptions>;

    /// Remembers it.
    fn set_syn_options(&self, flow: &FlowKey, options: SynOptions);

    /// This CPU's meter.
    fn meter(&self) -> Meter;

    /// Sets it.
    fn set_meter(&self, meter: Meter);

    /// When a cookie was given last, about; 0: never.
    fn used(&self) -> u64;

    /// Sets that.
    fn set_used(&self, now: u64);

    /// A parser's variable. In the kernel it lies in a map: of what comes from there the verifier knows
    /// nothing, so that a loop's rounds look all the same to it.
    fn get(&self, variable: Variable) -> u32;

    /// Sets a parser's variable.
    fn put(&self, variable: Variable, value: u32);
}

/// What the options of a SYN are read into, and what is agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Variable {
    /// Where the next option is.
    At = 0,
    /// The client's largest segment, 0 if it did not say; in an answer, which of four it is.
    Mss,
    /// As [`Admission::scale`].
    Scale,
    /// As [`Admission::sack`].
    Sack,
    /// Whether there is a timestamp.
    Stamps,
    /// The client's timestamp.
    Stamp,
    /// The timestamp that the client sends back.
    Echo,
    /// The cookie for a SYN.
    Cookie,
}

/// How many variables there are.
pub const VARIABLES: usize = 8;

/// Options that are looked through: 40 bytes hold seven that mean something, and no-ops between them.
const MAX_OPTIONS: usize = 24;

/// Segment sizes that a timestamp can carry, the two bits' worth.
const SIZES4: [u16; 4] = [536, 1300, 1440, 1460];
/// The same for IPv6, where less than the first would need no answer at all.
const SIZES6: [u16; 4] = [1220, 1420, 1440, 8940];

/// What a timestamp of ours carries in its lowest bits.
const CARRIED: u32 = 0xff;

/// The window of an answer: what every stack's smallest receive buffer holds.
const WINDOW_SIZE: u16 = 29_200;

/// Judges a TCP packet to a VIP that steers, or to one that may be under a flood, and counts it, unless
/// [`crate::verdict::look`] has the last word. It comes without tags, options and extension headers of
/// IP.
///
/// What takes room on the stack is out of line and called from here, as the stacks of nested calls add
/// up.
#[inline(always)]
pub fn judge<E: Cookies>(env: &E) -> Verdict {
    let verdict = match packet::shape(env) {
        Some(packet) if packet.protocol == TCP => arrived(env, &packet),
        _ => pass(Reason::Vip),
    };
    if verdict.action != Action::Look {
        env.count(verdict.reason);
    }
    verdict
}

#[inline(always)]
fn arrived<E: Cookies>(env: &E, packet: &Packet) -> Verdict {
    let transport = packet.transport as usize;
    let mut flow = FlowKey::default();
    let Some([offset, flags]) = env.reach::<2>(transport + 12) else { return pass(Reason::Truncated) };
    let known = known(env, packet, &mut flow);
    if known == UNKNOWN {
        return pass(Reason::NotVip);
    }
    let vip = VipValue { slot: 0, flags: known };
    let payload = transport + (offset >> 4) as usize * 4;
    if vip.flags & VIP_FORWARD != 0 || payload < transport + 20 || payload > packet.end as usize {
        return pass(Reason::Vip);
    }
    let steer = vip.flags & VIP_STEER != 0;
    let verdict = if flags & (SYN | ACK) == SYN {
        opening(env, packet, &flow, payload, steer)
    } else {
        following(env, packet, &flow, flags, payload, &vip)
    };
    match verdict {
        Some(verdict) => verdict,
        // ClientHellos of these were counted and judged by their name when they were admitted.
        None if steer => pass(Reason::Vip),
        None => Verdict { reason: Reason::Vip, action: Action::Look },
    }
}

/// No VIP's flags.
const UNKNOWN: u32 = u32::MAX;

/// The flags of the VIP that a packet is for, and the connection that it is of.
#[inline(never)]
fn known<E: Cookies>(env: &E, packet: &Packet, place: &mut FlowKey) -> u32 {
    let Some(flow) = flow(env, packet) else { return UNKNOWN };
    let (address, port) = (flow.destination, flow.destination_port);
    *place = flow;
    env.vip(&VipKey { address, port, protocol: TCP, zero: 0 }).map_or(UNKNOWN, |vip| vip.flags)
}

/// A SYN. `None`: the stack does this handshake.
#[inline(always)]
fn opening<E: Cookies>(
    env: &E,
    packet: &Packet,
    flow: &FlowKey,
    payload: usize,
    steer: bool,
) -> Option<Verdict> {
    let wanted = wanted(env, packet, flow, steer);
    if wanted == NO {
        return None;
    }
    read_options(env, packet.transport as u32 + 20, payload as u32);
    if !agree(env, packet, flow, wanted == STATELESS) {
        return None;
    }
    let action = if write(env, packet) { Action::Send } else { Action::Drop };
    Some(Verdict { reason: Reason::SynCookie, action })
}

/// No cookie.
const NO: u32 = 0;
/// A cookie, and what the SYN said may be remembered.
const REMEMBER: u32 = 1;
/// A cookie, and nothing else: there is no room for all who come.
const STATELESS: u32 = 2;

/// Whether a SYN gets a cookie.
#[inline(never)]
fn wanted<E: Cookies>(env: &E, packet: &Packet, flow: &FlowKey, steer: bool) -> u32 {
    let (tuning, now) = (env.tuning(), env.now());
    let rate = if tuning.syn_rate == 0 { SYN_RATE } else { tuning.syn_rate };
    let (meter, busy) = env.meter().tick(now, rate);
    env.set_meter(meter);
    let asked = |flag| tuning.flags & flag != 0;
    if !steer && (!asked(TUNE_COOKIES) || (!busy && !asked(TUNE_ALL_COOKIES))) {
        return NO;
    }
    env.dismiss(flow);
    // Another state than listening: the client takes a port anew whose last connection lingers, or
    // sends its SYN again; the stack knows what to do. With no socket it knows that, too.
    if env.socket(packet, flow) != LISTEN {
        return NO;
    }
    let used = env.used();
    if used == 0 || now.wrapping_sub(used) > NOTE {
        env.set_used(now);
    }
    if busy { STATELESS } else { REMEMBER }
}

/// Makes the cookie, and leaves in the variables what is agreed upon. False: there is no cookie.
#[inline(never)]
fn agree<E: Cookies>(env: &E, packet: &Packet, flow: &FlowKey, stateless: bool) -> bool {
    let offers = env.settings().offers;
    let stateless = stateless || offers & STACK_CHECKS != 0;
    let Some([a, b, c, d, s0, s1, s2, s3]) = env.reach::<8>(packet.transport as usize) else { return false };
    let size = nearest(packet.v6, env.get(Variable::Mss));
    let mss = segment_size(packet.v6, size);
    let [z0, z1] = mss.to_be_bytes();
    let header = [a, b, c, d, s0, s1, s2, s3, 0, 0, 0, 0, 6 << 4, SYN, 0, 0, 0, 0, 0, 0, 2, 4, z0, z1];
    let Some(cookie) = env.cookie(packet, &header) else { return false };
    env.put(Variable::Cookie, cookie);
    env.put(Variable::Mss, size);

    let stamps = env.get(Variable::Stamps) != 0 && offers & OFFER_STAMPS != 0;
    // Without timestamps what is agreed upon would have to be remembered.
    let agrees = stamps || !stateless;
    let sack = agrees && env.get(Variable::Sack) != 0 && offers & OFFER_SACK != 0;
    let theirs = env.get(Variable::Scale) as u8;
    let scale = if agrees && offers & OFFER_SCALE != 0 { theirs } else { NO_SCALE };
    env.put(Variable::Stamps, stamps as u32);
    env.put(Variable::Sack, sack as u32);
    env.put(Variable::Scale, scale as u32);
    if !stamps && !stateless {
        env.set_syn_options(flow, SynOptions { mss, scale, sack: sack as u8 });
    }
    true
}

/// Turns a SYN into the answer that the variables ask for. False: the frame is damaged.
#[inline(never)]
fn write<E: Cookies>(env: &E, packet: &Packet) -> bool {
    let (ip, transport) = (packet.ip as usize, packet.transport as usize);
    let Some([a, b, c, d, s0, s1, s2, s3]) = env.reach::<8>(transport) else { return false };
    let stamps = env.get(Variable::Stamps) != 0;
    let (scale, sack) = (env.get(Variable::Scale), env.get(Variable::Sack));
    let scales = scale != NO_SCALE as u32;
    // No longer than the SYN, which said the same: behind a frame there may be no room for more.
    let (first, first_length) = match (stamps, sack != 0) {
        (true, true) => ([4, 2, 8, 10], 12),
        (true, false) => ([1, 1, 8, 10], 12),
        (false, true) => ([1, 1, 4, 2], 4),
        (false, false) => ([0; 4], 0),
    };
    let length = 24 + first_length + if scales { 4 } else { 0 };
    let came = env.length() as usize;
    let ends = transport + length;
    let shortest = if came < SHORTEST { came } else { SHORTEST };
    if !env.resize(if ends > shortest { ends } else { shortest }) {
        return false;
    }
    let sum = if packet.v6 { write_v6(env, ip, length, true) } else { write_v4(env, ip, length, true) };
    let Some(mut sum) = sum else { return false };

    let [c0, c1, c2, c3] = env.get(Variable::Cookie).to_be_bytes();
    let [n0, n1, n2, n3] = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(1).to_be_bytes();
    let [w0, w1] = WINDOW_SIZE.to_be_bytes();
    let head = [c, d, a, b, c0, c1, c2, c3, n0, n1, n2, n3, (length as u8) << 2, SYN | ACK, w0, w1];
    sum += TCP as u32 + length as u32 + add(&head);
    if !env.store(transport, &head) {
        return false;
    }
    let settings = env.settings();
    let [m0, m1] = if packet.v6 { settings.mss6 } else { settings.mss4 }.to_be_bytes();
    sum += add(&[2, 4, m0, m1]);
    if scales {
        let scaling = [1, 3, 3, settings.scale as u8];
        sum += add(&scaling);
        if !env.store(transport + 24 + first_length, &scaling) {
            return false;
        }
    }
    let [f0, f1, f2, f3] = first;
    sum += add(&first);
    let stored = if stamps {
        let carried = scale & 0xf | (sack & 1) << 4 | (env.get(Variable::Mss) & 3) << 6;
        let ours = stamp((env.now() / 1_000_000) as u32, carried);
        let [o0, o1, o2, o3] = ours.to_be_bytes();
        let [t0, t1, t2, t3] = env.get(Variable::Stamp).to_be_bytes();
        sum += add(&[o0, o1, o2, o3, t0, t1, t2, t3]);
        env.store(transport + 24, &[f0, f1, f2, f3, o0, o1, o2, o3, t0, t1, t2, t3])
    } else {
        first_length == 0 || env.store(transport + 24, &first)
    };
    let [k0, k1] = folded(sum).to_be_bytes();
    if !stored || !env.store(transport + 16, &[k0, k1, 0, 0, 2, 4, m0, m1]) {
        return false;
    }
    swap_macs(env)
}

/// The last timestamp that carries this and is not ahead of the clock (ms), by which the stack goes on.
#[inline(always)]
const fn stamp(now: u32, carried: u32) -> u32 {
    let stamp = now & !CARRIED | carried;
    if carried > now & CARRIED { stamp.wrapping_sub(CARRIED + 1) } else { stamp }
}

/// A packet that is no SYN. `None`: it goes on to the stack, if it is one that steers as it is.
#[inline(always)]
fn following<E: Cookies>(
    env: &E,
    packet: &Packet,
    flow: &FlowKey,
    flags: u8,
    payload: usize,
    vip: &VipValue,
) -> Option<Verdict> {
    let steer = vip.flags & VIP_STEER != 0;
    let idle = || match env.used() {
        0 => true,
        used => env.now().wrapping_sub(used) > LIFETIME,
    };
    if flags & (SYN | ACK | RST) != ACK || (!steer && idle()) || env.is_admitted(flow) {
        return None;
    }
    let bare = payload >= packet.end as usize;
    if !env.is_cookie(packet) {
        return stranger(env, packet, flow, flags, payload, steer);
    }
    let mut class = CLASS_TERMINATE;
    if steer {
        if bare {
            // Who ends without having said anything never was here; a reset keeps it from waiting.
            return Some(if flags & FIN != 0 {
                refusal(env, packet, payload)
            } else {
                drop(Reason::CookieAck)
            });
        }
        if begins(env, packet, payload) {
            class = hello_class(env, packet, payload);
        }
        if class == NOBODY {
            class = CLASS_TERMINATE;
            if vip.flags & VIP_FILTER_SNI != 0 && is_plain(env, packet, payload) {
                let done = turn(env, packet, payload, Reply::Alert, 0);
                let action = if done { Action::Send } else { Action::Drop };
                return Some(Verdict { reason: Reason::SniRefused, action });
            }
        }
    }
    read_options(env, packet.transport as u32 + 20, payload as u32);
    admit(env, packet, flow, class);
    None
}

/// No cookie of ours, and not admitted: a connection of the stack's own, or whose admission was
/// forgotten; or nothing that there is.
#[inline(always)]
fn stranger<E: Cookies>(
    env: &E,
    packet: &Packet,
    flow: &FlowKey,
    flags: u8,
    payload: usize,
    steer: bool,
) -> Option<Verdict> {
    if is_known(env, packet, flow) || !steer {
        // The stack's own answer to what it does not know is a reset.
        return None;
    }
    // A hello without a cookie comes after its handshake has been forgotten. Other segments may have
    // overtaken the hello, and come again.
    if flags & FIN != 0 || begins(env, packet, payload) {
        return Some(refusal(env, packet, payload));
    }
    Some(drop(Reason::CookieStray))
}

/// Whether the stack has a connection. Then it is taken for admitted, so that this is asked once.
#[inline(never)]
fn is_known<E: Cookies>(env: &E, packet: &Packet, flow: &FlowKey) -> bool {
    let state = env.socket(packet, flow);
    let known = state != 0 && state != LISTEN;
    if known {
        env.admit(flow, &Admission::default());
    }
    known
}

#[inline(never)]
fn is_plain<E: Cookies>(env: &E, packet: &Packet, payload: usize) -> bool {
    refuse::is_plain(env, packet, payload)
}

#[inline(never)]
fn begins<E: Cookies>(env: &E, packet: &Packet, payload: usize) -> bool {
    payload + 6 <= packet.end as usize && env.reach::<6>(payload).is_some_and(|start| hello::begins(&start))
}

#[inline(always)]
fn refusal<E: Cookies>(env: &E, packet: &Packet, payload: usize) -> Verdict {
    let done = turn(env, packet, payload, Reply::Refusal, 0);
    Verdict { reason: Reason::CookieReset, action: if done { Action::Send } else { Action::Drop } }
}

/// Writes down what the stack has to know to take the connection over, from what the options say.
#[inline(never)]
fn admit<E: Cookies>(env: &E, packet: &Packet, flow: &FlowKey, class: u32) {
    let sequence = env.reach::<4>(packet.transport as usize + 4).map(u32::from_ne_bytes).unwrap_or_default();
    let sizes = |index| segment_size(packet.v6, index);
    let mut admission = Admission { sequence, class: class as u16, mss: sizes(0), ..Admission::default() };
    admission.scale = NO_SCALE;
    if env.get(Variable::Stamps) != 0 && env.settings().offers & OFFER_STAMPS != 0 {
        let echo = env.get(Variable::Echo);
        admission.stamps = 1;
        admission.stamp = env.get(Variable::Stamp);
        admission.echo = echo;
        admission.scale = (echo & 0xf) as u8;
        admission.sack = (echo >> 4 & 1) as u8;
        admission.mss = sizes(echo >> 6 & 3);
    } else if let Some(SynOptions { mss, scale, sack }) = env.syn_options(flow) {
        admission = Admission { mss, scale, sack, ..admission };
    }
    if env.settings().offers & STACK_CHECKS != 0 {
        admission.listener = env.listener(packet, class);
    }
    env.admit(flow, &admission);
}

/// One of the four sizes that a timestamp can carry.
#[inline(always)]
const fn segment_size(v6: bool, index: u32) -> u16 {
    match (v6, index) {
        (false, 0) => SIZES4[0],
        (false, 1) => SIZES4[1],
        (false, 2) => SIZES4[2],
        (false, _) => SIZES4[3],
        (true, 0) => SIZES6[0],
        (true, 1) => SIZES6[1],
        (true, 2) => SIZES6[2],
        (true, _) => SIZES6[3],
    }
}

/// Which of the sizes is the largest that is not above a client's.
#[inline(always)]
const fn nearest(v6: bool, mss: u32) -> u32 {
    let mut index = 3;
    while index > 0 && mss < segment_size(v6, index) as u32 {
        index -= 1;
    }
    index
}

/// Reads TCP options that lie from `at` to `end`.
#[inline(never)]
fn read_options<E: Cookies>(env: &E, at: u32, end: u32) {
    for variable in [Variable::Mss, Variable::Sack, Variable::Stamps, Variable::Stamp, Variable::Echo] {
        env.put(variable, 0);
    }
    env.put(Variable::Scale, NO_SCALE as u32);
    env.put(Variable::At, at);
    for _ in 0..MAX_OPTIONS {
        let at = env.get(Variable::At);
        if at >= end {
            return;
        }
        let Some([kind, length]) = env.reach::<2>(at as usize) else { return };
        if kind == 1 {
            env.put(Variable::At, at + 1);
            continue;
        }
        // The end of the list, or what has no end.
        if kind == 0 || length < 2 {
            return;
        }
        let after = at as usize + 2;
        match (kind, length) {
            (2, 4) => {
                let size = env.reach::<2>(after).map(u16::from_be_bytes).unwrap_or_default();
                env.put(Variable::Mss, size as u32);
            }
            (3, 3) => {
                // From the length on: two bytes are the least that is read.
                let [_, shift] = env.reach::<2>(at as usize + 1).unwrap_or_default();
                // RFC 7323 §2.3: more than 14 means 14.
                env.put(Variable::Scale, if shift > 14 { 14 } else { shift as u32 });
            }
            (4, 2) => env.put(Variable::Sack, 1),
            (8, 10) => {
                if let Some([a, b, c, d, e, f, g, h]) = env.reach::<8>(after) {
                    env.put(Variable::Stamps, 1);
                    env.put(Variable::Stamp, u32::from_be_bytes([a, b, c, d]));
                    env.put(Variable::Echo, u32::from_be_bytes([e, f, g, h]));
                }
            }
            _ => {}
        }
        env.put(Variable::At, at + length as u32);
    }
}
