//! What is shown of frames to whoever traces them, and of which.
//!
//! ```text
//! frame ─► sides, head ─► verdict::judge ─► sides, head ─► Rule::wants ─► Event ─► ring buffer
//! ```

use crate::ends::Ends;
use crate::env::Frame;
use crate::packet::{TCP, UDP};
use crate::verdict::{Action, Verdict, mapped, words};

/// How much of a frame is shown: all headers, and of a ClientHello as much as tells it from others.
pub const SHOWN: usize = 256;
/// The ring buffer's size: room for 1,900 events.
pub const TRACE_BYTES: u32 = 1 << 20;

/// [`Rule::address`] counts.
pub const TRACE_ADDRESS: u32 = 1;
/// [`Rule::port`] counts.
pub const TRACE_PORT: u32 = 2;
/// [`Rule::vip`] counts.
pub const TRACE_VIP: u32 = 4;

/// Which frames are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// Until when any are, in the kernel's monotonic nanoseconds: a daemon that is killed leaves no
    /// trace running.
    pub until: u64,
    /// The [`crate::reason::Reason`]s that are asked for, a bit each.
    pub reasons: u64,
    /// The [`Action`]s that are asked for, a bit each.
    pub actions: u32,
    /// One of so many, by chance; 0 and 1: all.
    pub sample: u32,
    /// [`TRACE_ADDRESS`], [`TRACE_PORT`], [`TRACE_VIP`].
    pub flags: u32,
    /// A port of either side, network order.
    pub port: u16,
    /// The VIP's port, network order; 0: any.
    pub vip_port: u16,
    /// The network of either side, as in [`crate::maps::VipKey::address`].
    pub address: [u32; 4],
    /// The network's mask.
    pub mask: [u32; 4],
    /// The VIP's address.
    pub vip: [u32; 4],
}

const _: () = assert!(size_of::<Rule>() == 80);

/// Who sends a frame to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sides {
    /// Addresses, and ports where there are any.
    pub ends: Ends,
    /// The IP protocol.
    pub protocol: u8,
    /// TCP's flags.
    pub flags: u8,
    /// Always 0.
    pub zero: u16,
}

/// A frame as it came, as it went, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// When, in the kernel's monotonic nanoseconds.
    pub time: u64,
    /// The [`crate::reason::Reason`]'s index.
    pub reason: u32,
    /// The [`Action`]'s index.
    pub action: u32,
    /// The index of the interface that it came in by.
    pub interface: u32,
    /// The CPU that judged it.
    pub cpu: u32,
    /// Its length as it came.
    pub came_length: u32,
    /// Its length as it went.
    pub went_length: u32,
    /// How it came.
    pub came: [u8; SHOWN],
    /// How it went.
    pub went: [u8; SHOWN],
}

const WORDS: usize = 32;
const _: () = assert!(size_of::<Event>() == WORDS + 2 * SHOWN);

impl Event {
    /// An event as it lies in the ring buffer; `None`: it is of another size.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        Some(Self {
            time: u64::from_ne_bytes(*bytes.first_chunk()?),
            reason: number(8)?,
            action: number(12)?,
            interface: number(16)?,
            cpu: number(20)?,
            came_length: number(24)?,
            went_length: number(28)?,
            came: *bytes[WORDS..].first_chunk()?,
            went: *bytes[WORDS + SHOWN..].first_chunk()?,
        })
    }
}

impl Action {
    /// All of them, by index.
    pub const ALL: [Self; 9] = [
        Self::Pass,
        Self::Drop,
        Self::Send,
        Self::Redirect,
        Self::Admit,
        Self::Look,
        Self::Rare,
        Self::Unwrap,
        Self::Unusual,
    ];

    /// The action's name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Send => "send",
            Self::Redirect => "redirect",
            Self::Admit => "admit",
            Self::Look => "look",
            Self::Rare => "rare",
            Self::Unwrap => "unwrap",
            Self::Unusual => "unusual",
        }
    }
}

impl Rule {
    /// Whether a frame is asked for, but for the chance.
    #[inline(always)]
    pub fn wants(&self, verdict: Verdict, came: &Sides, went: &Sides) -> bool {
        let bits = self.reasons >> (verdict.reason as u32 & 63) & 1 != 0
            && self.actions >> (verdict.action as u32 & 31) & 1 != 0;
        bits && (self.flags & TRACE_ADDRESS == 0 || self.has_address(came) || self.has_address(went))
            && (self.flags & TRACE_PORT == 0 || self.has_port(came) || self.has_port(went))
            && (self.flags & TRACE_VIP == 0 || self.is_vip(came) || self.is_vip(went))
    }

    #[inline(always)]
    fn has_address(&self, sides: &Sides) -> bool {
        self.covers(&sides.ends.source) || self.covers(&sides.ends.target)
    }

    #[inline(always)]
    fn covers(&self, address: &[u32; 4]) -> bool {
        let mut differs = 0;
        let mut at = 0;
        while at < 4 {
            differs |= (address[at] ^ self.address[at]) & self.mask[at];
            at += 1;
        }
        differs == 0
    }

    #[inline(always)]
    fn has_port(&self, sides: &Sides) -> bool {
        sides.ends.source_port == self.port || sides.ends.target_port == self.port
    }

    /// To the VIP, or from it: what is turned back to a client comes from the VIP as it goes.
    #[inline(always)]
    fn is_vip(&self, sides: &Sides) -> bool {
        let is =
            |address: &[u32; 4], port| *address == self.vip && (self.vip_port == 0 || port == self.vip_port);
        is(&sides.ends.target, sides.ends.target_port) || is(&sides.ends.source, sides.ends.source_port)
    }
}

/// Who sends a frame to whom. Zeros where it doesn't say: no IP, no ports behind extension headers and
/// in fragments but the first.
#[inline(always)]
pub fn sides<F: Frame>(frame: &F) -> Sides {
    read(frame).unwrap_or_default()
}

#[inline(always)]
fn read<F: Frame>(frame: &F) -> Option<Sides> {
    let mut ip = 14;
    let mut kind = frame.far::<2>(12)?;
    for _ in 0..2 {
        if kind == [0x81, 0] || kind == [0x88, 0xa8] {
            kind = frame.far::<2>(ip + 2)?;
            ip += 4;
        }
    }
    let mut sides = Sides::default();
    let transport = match kind {
        [0x08, 0] => {
            let head = frame.far::<20>(ip)?;
            sides.ends.source = mapped([head[12], head[13], head[14], head[15]]);
            sides.ends.target = mapped([head[16], head[17], head[18], head[19]]);
            sides.protocol = head[9];
            let first = u16::from_be_bytes([head[6], head[7]]) & 0x1fff == 0;
            if first { Some(ip + (head[0] & 0xf) as usize * 4) } else { None }
        }
        [0x86, 0xdd] => {
            let [next, _] = frame.far::<2>(ip + 6)?;
            sides.ends.source = words(frame.far::<16>(ip + 8)?);
            sides.ends.target = words(frame.far::<16>(ip + 24)?);
            sides.protocol = next;
            Some(ip + 40)
        }
        _ => return None,
    };
    if let Some(transport) = transport
        && (sides.protocol == TCP || sides.protocol == UDP)
        && let Some([a, b, c, d]) = frame.far::<4>(transport)
    {
        sides.ends.source_port = u16::from_ne_bytes([a, b]);
        sides.ends.target_port = u16::from_ne_bytes([c, d]);
        if sides.protocol == TCP
            && let Some([_, flags]) = frame.far::<2>(transport + 12)
        {
            sides.flags = flags;
        }
    }
    Some(sides)
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a>(pub &'a [u8]);

impl Frame for Head<'_> {
    fn near<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.near(offset)
    }

    fn linear(&self) -> u32 {
        self.0.len() as u32
    }

    fn length(&self) -> u32 {
        self.linear()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::reason::Reason;

    const CLIENT: [u8; 4] = [192, 0, 2, 1];
    const VIP: [u8; 4] = [198, 51, 100, 10];

    fn frame(tags: &[u16], fragment: u16, protocol: u8) -> Vec<u8> {
        let mut frame = std::vec![0; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0]);
        frame.extend(CLIENT);
        frame.extend(VIP);
        frame.extend([0x04, 0xd2, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn who_sends_to_whom() {
        let ports =
            |sides: &Sides| (u16::from_be(sides.ends.source_port), u16::from_be(sides.ends.target_port));
        for (tags, fragment, protocol, expect) in [
            (&[][..], 0, TCP, (1234, 443)),
            (&[0x8100], 0, TCP, (1234, 443)),
            (&[0x88a8, 0x8100], 0, UDP, (1234, 443)),
            (&[], 0x2000, UDP, (1234, 443)),
            (&[], 0x2001, UDP, (0, 0)),
            (&[], 0, 1, (0, 0)),
        ] {
            let bytes = frame(tags, fragment, protocol);
            let sides = sides(&Head(&bytes));
            assert_eq!((sides.ends.source, sides.ends.target), (mapped(CLIENT), mapped(VIP)));
            assert_eq!((ports(&sides), sides.protocol), (expect, protocol), "{tags:x?} {fragment:#x}");
            assert_eq!(sides.flags, if protocol == TCP { 2 } else { 0 });
        }
        assert_eq!(sides(&Head(&frame(&[0x8100; 3], 0, TCP))), Sides::default());
        let mut v6 = std::vec![0; 12];
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, UDP, 64]);
        v6.extend([7; 32]);
        v6.extend([0x04, 0xd2, 0x01, 0xbb]);
        let found = sides(&Head(&v6));
        assert_eq!((found.ends.source, ports(&found)), (words([7; 16]), (1234, 443)));
    }

    #[test]
    fn every_prefix_of_a_frame_is_read() {
        let bytes = frame(&[0x8100], 0, TCP);
        for length in 0..bytes.len() {
            let sides = sides(&Head(&bytes[..length]));
            assert!(sides.ends.target_port == 0 || length >= 42, "{length}");
        }
    }

    #[test]
    fn which_frames_are_shown() {
        let came = sides(&Head(&frame(&[], 0, TCP)));
        let none = Sides::default();
        let verdict = Verdict { reason: Reason::Forwarded, action: Action::Send };
        let any = Rule { reasons: u64::MAX, actions: u32::MAX, ..Rule::default() };
        let network = |address, ones: u32| {
            let last = if ones == 0 { 0 } else { (u32::MAX << (32 - ones)).to_be() };
            Rule { flags: TRACE_ADDRESS, address: mapped(address), mask: [!0, !0, !0, last], ..any }
        };
        let port = |port: u16| Rule { flags: TRACE_PORT, port: port.to_be(), ..any };
        let vip = |vip, port: u16| Rule { flags: TRACE_VIP, vip: mapped(vip), vip_port: port.to_be(), ..any };
        for (what, rule, expect) in [
            ("any", any, true),
            ("another reason", Rule { reasons: 1 << Reason::Vip as u32, ..any }, false),
            ("the reason", Rule { reasons: 1 << Reason::Forwarded as u32, ..any }, true),
            ("another action", Rule { actions: 1 << Action::Drop as u32, ..any }, false),
            ("the client", network(CLIENT, 32), true),
            ("the VIP", network(VIP, 32), true),
            ("their network", network([192, 0, 2, 200], 24), true),
            ("another", network([192, 0, 2, 200], 25), false),
            ("all of IPv4", network([0; 4], 0), true),
            ("a port of either side", port(1234), true),
            ("a port of neither side", port(1235), false),
            ("the VIP's port", vip(VIP, 443), true),
            ("any port of the VIP", vip(VIP, 0), true),
            ("another port of the VIP", vip(VIP, 80), false),
            ("another VIP", vip(CLIENT, 443), false),
        ] {
            assert_eq!(rule.wants(verdict, &came, &none), expect, "{what}");
            assert_eq!(rule.wants(verdict, &none, &came), expect, "{what}, on the way out");
        }
    }

    #[test]
    fn events_are_read_whole_or_not() {
        let bytes: Vec<u8> = (0..size_of::<Event>()).map(|n| n as u8).collect();
        let event = Event::read(&bytes).expect("whole");
        assert_eq!((event.reason, event.went_length), (0x0b0a_0908, 0x1f1e_1d1c));
        assert_eq!((event.came[0], event.went[SHOWN - 1]), (32, 31));
        assert_eq!(Event::read(&bytes[1..]), None);
        for (index, action) in Action::ALL.iter().enumerate() {
            assert_eq!(*action as usize, index);
        }
    }
}
