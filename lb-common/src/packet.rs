//! Ethernet, VLAN, IPv4, IPv6, TCP and UDP headers of a frame.
//!
//! Two ways lead to the same answer. [`shape`] reads the frames that nearly all are (no tag, no
//! options, no extension headers) at constant offsets; [`walk`] reads every other. Tests hold
//! them together: where the first has an answer, the second has the same.

use crate::env::{Env, Frame};
use crate::reason::Reason;

/// IPv4's EtherType.
pub const IPV4: u16 = 0x0800;
/// IPv6's EtherType.
pub const IPV6: u16 = 0x86dd;
/// The EtherType of a VLAN tag.
pub const TAG: u16 = 0x8100;
/// The one of a provider's, around another.
pub const SERVICE_TAG: u16 = 0x88a8;

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;
/// The number of IPv6's fragment header.
pub const FRAGMENT: u8 = 44;

/// IPv6 extension headers that are followed. RFC 8200 lists six kinds, each at most once but for
/// destination options; two more than that is nobody's honest packet.
const MAX_EXTENSIONS: usize = 8;

/// What every TCP and UDP header begins with: two ports.
const PORTS: u16 = 4;

/// TCP flags.
pub const FIN: u8 = 0x01;
/// TCP flags.
pub const SYN: u8 = 0x02;
/// TCP flags.
pub const RST: u8 = 0x04;
/// TCP flags.
pub const PSH: u8 = 0x08;
/// TCP flags.
pub const ACK: u8 = 0x10;

/// Where things are in a TCP or UDP packet, and which transport it is. Offsets from the Ethernet
/// header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// The IP header.
    pub ip: u16,
    /// The TCP or UDP header.
    pub transport: u16,
    /// Where the IP packet ends; Ethernet may pad behind it.
    pub end: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// IPv6?
    pub v6: bool,
}

impl Packet {
    /// Whether the headers are where they are in frames without tags, options and extensions.
    #[inline(always)]
    pub(crate) const fn is_usual(&self) -> bool {
        self.transport == if self.v6 { 54 } else { 34 }
    }

    /// As one number: the fields as they lie in memory. Never 0.
    #[inline(always)]
    const fn word(self) -> u64 {
        let Self { ip, transport, end, protocol, v6 } = self;
        let [a, b] = ip.to_ne_bytes();
        let [c, d] = transport.to_ne_bytes();
        let [e, f] = end.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, protocol, v6 as u8])
    }

    /// The same, for the verifier any: see [`Env::hide`].
    #[inline(always)]
    pub(crate) fn hidden<E: Env>(self, env: &E) -> Self {
        let word = self.word();
        Self::from_word(env.hide(word as u32) as u64 | (env.hide((word >> 32) as u32) as u64) << 32)
    }

    /// From [`Self::word`].
    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        let [a, b, c, d, e, f, protocol, v6] = word.to_ne_bytes();
        Self {
            ip: u16::from_ne_bytes([a, b]),
            transport: u16::from_ne_bytes([c, d]),
            end: u16::from_ne_bytes([e, f]),
            protocol,
            // Without a comparison, or the verifier would follow what comes of it.
            v6: v6 & 1 != 0,
        }
    }
}

/// What [`walk`] found, as one number: see [`crate::verdict::Verdict::packed`] for why.
#[inline(always)]
pub(crate) const fn packed(found: Result<Packet, Reason>) -> u64 {
    match found {
        Ok(packet) => packet.word(),
        // No packet: its upper half would have a protocol.
        Err(reason) => reason as u64,
    }
}

/// From [`packed`].
#[inline(always)]
pub(crate) fn unpacked(packed: u64) -> Result<Packet, Reason> {
    let packet = Packet::from_word(packed);
    if packet.protocol == 0 {
        return Err(Reason::ALL.get(packed as usize).copied().unwrap_or(Reason::Malformed));
    }
    Ok(packet)
}

/// The headers of the usual frames: untagged, IPv4 without options or IPv6 without extension
/// headers, TCP or UDP. `None`: ask [`walk`].
#[inline(always)]
pub fn shape<F: Frame>(frame: &F) -> Option<Packet> {
    const ETHERNET: usize = 14;
    match u16::from_be_bytes(frame.near::<2>(12)?) {
        IPV4 => {
            let head = frame.near::<10>(ETHERNET)?;
            let total = u16::from_be_bytes([head[2], head[3]]);
            let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff;
            if head[0] != 0x45 || fragment != 0 || total < 20 + PORTS || !is_port_protocol(head[9]) {
                return None;
            }
            let end = ETHERNET as u32 + total as u32;
            if end > frame.linear() {
                return None;
            }
            Some(Packet { ip: 14, transport: 34, end: end as u16, protocol: head[9], v6: false })
        }
        IPV6 => {
            let head = frame.near::<8>(ETHERNET)?;
            let payload = u16::from_be_bytes([head[4], head[5]]);
            let end = ETHERNET as u32 + 40 + payload as u32;
            if head[0] >> 4 != 6 || payload < PORTS || !is_port_protocol(head[6]) {
                return None;
            }
            if end > frame.linear() || end > 0xffff {
                return None;
            }
            Some(Packet { ip: 14, transport: 54, end: end as u16, protocol: head[6], v6: true })
        }
        _ => None,
    }
}

/// TCP's flags, of a packet whose headers lie where [`shape`] wants them; 0 of UDP. `None`: the frame ends before.
#[inline(always)]
pub(crate) fn flags<F: Frame>(frame: &F, packet: &Packet) -> Option<u8> {
    let [flags] = match (packet.protocol, packet.v6) {
        (TCP, true) => frame.near(67)?,
        (TCP, false) => frame.near(47)?,
        _ => [0],
    };
    Some(flags)
}

/// The headers of any frame, or why it is none of ours.
#[inline(always)]
pub fn walk<F: Frame>(frame: &F) -> Result<Packet, Reason> {
    let mut offset = 12;
    let mut kind = kind(frame, offset);
    for _ in 0..2 {
        if kind == TAG as u32 || kind == SERVICE_TAG as u32 {
            offset += 4;
            kind = self::kind(frame, offset);
        }
    }
    if kind == NO_KIND {
        return Err(Reason::Truncated);
    }
    match kind as u16 {
        IPV4 => walk_v4(frame, offset + 2),
        IPV6 => walk_v6(frame, offset + 2),
        TAG | SERVICE_TAG => Err(Reason::TooManyTags),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn walk_v4<F: Frame>(frame: &F, ip: usize) -> Result<Packet, Reason> {
    let head = frame.far::<20>(ip).ok_or(Reason::Truncated)?;
    let header = (head[0] & 0x0f) as usize * 4;
    let total = u16::from_be_bytes([head[2], head[3]]) as usize;
    if head[0] >> 4 != 4 || header < 20 || total < header {
        return Err(Reason::Malformed);
    }
    // More fragments, or not the first one; the two bits above say nothing of that.
    if u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0 {
        return Err(Reason::Fragment);
    }
    transport(frame, ip, ip + header, ip + total, head[9], false)
}

#[inline(always)]
fn walk_v6<F: Frame>(frame: &F, ip: usize) -> Result<Packet, Reason> {
    let head = frame.far::<8>(ip).ok_or(Reason::Truncated)?;
    if head[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let end = ip + 40 + u16::from_be_bytes([head[4], head[5]]) as usize;
    let mut next = head[6];
    let mut offset = ip + 40;
    for _ in 0..MAX_EXTENSIONS {
        let units = match next {
            // Hop-by-hop, routing, destination options: length in 8 bytes beyond the first 8.
            0 | 43 | 60 => 8,
            // Authentication: length in 4 bytes, less 2.
            51 => 4,
            44 => {
                let part = frame.far::<8>(offset).ok_or(Reason::Truncated)?;
                // A fragment header around a whole packet ("atomic", RFC 6946) is no fragment.
                if u16::from_be_bytes([part[2], part[3]]) & 0xfff9 != 0 {
                    return Err(Reason::Fragment);
                }
                next = part[0];
                offset += 8;
                continue;
            }
            _ => return transport(frame, ip, offset, end, next, true),
        };
        let part = frame.far::<2>(offset).ok_or(Reason::Truncated)?;
        next = part[0];
        offset += if units == 8 { (part[1] as usize + 1) * 8 } else { (part[1] as usize + 2) * 4 };
    }
    match next {
        0 | 43 | 44 | 51 | 60 => Err(Reason::TooManyHeaders),
        _ => transport(frame, ip, offset, end, next, true),
    }
}

#[inline(always)]
fn transport<F: Frame>(
    frame: &F,
    ip: usize,
    offset: usize,
    end: usize,
    protocol: u8,
    v6: bool,
) -> Result<Packet, Reason> {
    match protocol {
        ICMP if !v6 => return Err(Reason::Icmp),
        ICMPV6 if v6 => return Err(Reason::Icmp),
        _ if !is_port_protocol(protocol) => return Err(Reason::OtherProtocol),
        _ => {}
    }
    if end > frame.length() as usize || end > 0xffff || offset + PORTS as usize > end {
        return Err(Reason::Truncated);
    }
    Ok(Packet { ip: ip as u16, transport: offset as u16, end: end as u16, protocol, v6 })
}

const fn is_port_protocol(protocol: u8) -> bool {
    protocol == TCP || protocol == UDP
}

/// The frame ends before.
const NO_KIND: u32 = u32::MAX;

/// What follows. A number in place of a `Result`: of one that failed, LLVM moves the value that it
/// doesn't have from a register that nothing was written to, which the verifier refuses.
#[inline(always)]
fn kind<F: Frame>(frame: &F, offset: usize) -> u32 {
    match frame.far::<2>(offset) {
        Some(bytes) => u16::from_be_bytes(bytes) as u32,
        None => NO_KIND,
    }
}
