//! An event as the daemon tells it.

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr};

use jiff::{SignedDuration, Timestamp};
use lb_common::packet::{ACK, FIN, PSH, RST, SYN, TCP, UDP};
use lb_common::reason::Reason;
use lb_common::trace::{self, Head, SHOWN, sides};
use lb_common::verdict::Action;
use serde::{Deserialize, Serialize};

/// One line of the daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// A frame.
    Event(Box<Event>),
    /// The last line.
    End(End),
}

/// How a trace ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Frames that were asked for and not shown: they came faster than they were read.
    pub lost: u64,
    /// Why it ended.
    pub why: String,
}

/// A frame as it came, what became of it, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it came.
    pub time: Timestamp,
    /// By which NIC.
    pub interface: String,
    /// The CPU that judged it.
    pub cpu: u32,
    /// `pass`, `drop`, `send` (out again where it came in) or `redirect` (out by another NIC).
    pub verdict: String,
    /// The reason, as it is counted.
    pub reason: String,
    /// The frame as it came.
    pub came: Shown,
    /// The frame as it went on; `None`: as it came, or nowhere.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub went: Option<Shown>,
}

/// A frame's beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its whole length in bytes.
    pub length: u32,
    /// `tcp`, `udp`, `icmp`, the number of another IP protocol, or the Ethernet type.
    pub protocol: String,
    /// TCP's flags, as letters: S, A, F, R, P.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub flags: String,
    /// Address and port, or without IP the MAC.
    pub from: String,
    /// Likewise.
    pub to: String,
    /// Up to 256 bytes, in hex.
    pub data: String,
}

impl Event {
    /// An event of the kernel's. `booted`: the time at which its clock was zero.
    pub fn new(event: &trace::Event, interface: String, booted: Timestamp) -> Self {
        let there = |length: u32| SHOWN.min(length as usize);
        let came = (&event.came[..there(event.came_length)], event.came_length);
        let went = (&event.went[..there(event.went_length)], event.went_length);
        let since = i64::try_from(event.time).unwrap_or(i64::MAX);
        let action = Action::ALL.get(event.action as usize);
        let reason = Reason::ALL.get(event.reason as usize);
        Self {
            time: booted.checked_add(SignedDuration::from_nanos(since)).unwrap_or(booted),
            interface,
            cpu: event.cpu,
            verdict: action.map_or_else(|| event.action.to_string(), |action| action.name().to_owned()),
            reason: reason.map_or_else(|| event.reason.to_string(), |reason| reason.name().to_owned()),
            went: (action != Some(&Action::Drop) && went != came).then(|| Shown::new(went.0, went.1)),
            came: Shown::new(came.0, came.1),
        }
    }
}

impl Shown {
    fn new(bytes: &[u8], length: u32) -> Self {
        let data = hex(bytes);
        let mac = |at: usize| {
            let bytes = bytes.get(at..at + 6).unwrap_or_default();
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
        };
        let found = sides(&Head(bytes));
        if found.ends.target == [0; 4] && found.protocol == 0 {
            let kind = bytes.get(12..14).map_or_else(String::new, |kind| format!("0x{}", hex(kind)));
            return Self { length, protocol: kind, flags: String::new(), from: mac(6), to: mac(0), data };
        }
        let protocol = match found.protocol {
            TCP => "tcp".to_owned(),
            UDP => "udp".to_owned(),
            1 => "icmp".to_owned(),
            58 => "icmpv6".to_owned(),
            other => format!("ip-{other}"),
        };
        let ported = found.protocol == TCP || found.protocol == UDP;
        let end = |address: &[u32; 4], port: u16| {
            let socket = socket(address, port);
            if ported { socket.to_string() } else { socket.ip().to_string() }
        };
        let ends = &found.ends;
        Self {
            length,
            protocol,
            flags: flags(found.flags),
            from: end(&ends.source, ends.source_port),
            to: end(&ends.target, ends.target_port),
            data,
        }
    }

    /// The bytes; none where somebody wrote what is no hex.
    pub fn bytes(&self) -> Vec<u8> {
        let digits = self.data.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(byte).collect::<Option<_>>().unwrap_or_default()
    }
}

/// An address as the kernel's tables have it, and a port in network order.
pub fn socket(address: &[u32; 4], port: u16) -> SocketAddr {
    let mut octets = [0; 16];
    for (part, word) in octets.chunks_mut(4).zip(address) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), u16::from_be(port))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn flags(flags: u8) -> String {
    let letters = [(SYN, 'S'), (ACK, 'A'), (FIN, 'F'), (RST, 'R'), (PSH, 'P')];
    letters.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A SYN from 192.0.2.1:1234 to an address, port 443.
    fn syn(to: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0, 192, 0, 2, 1]);
        frame.extend(to);
        frame.extend([4, 210, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        frame
    }

    /// An event about these frames, an hour after the clock's zero.
    pub fn event(action: Action, reason: Reason, came: &[u8], went: &[u8]) -> Event {
        let padded = |bytes: &[u8]| {
            let mut all = [0xee; SHOWN];
            all[..bytes.len()].copy_from_slice(bytes);
            all
        };
        let event = trace::Event {
            time: 3_600_000_000_000,
            reason: reason as u32,
            action: action as u32,
            interface: 2,
            cpu: 1,
            came_length: came.len() as u32,
            went_length: went.len() as u32,
            came: padded(came),
            went: padded(went),
        };
        Event::new(&event, "eth0".to_owned(), Timestamp::UNIX_EPOCH)
    }

    /// What is forwarded, refused and passed on.
    pub fn some() -> [Event; 3] {
        let arp = [&[0xff; 6][..], &[2; 6], &[8, 6], &[0; 28]].concat();
        let vip = syn([198, 51, 100, 10]);
        [
            event(Action::Send, Reason::Forwarded, &vip, &syn([10, 9, 1, 2])),
            event(Action::Drop, Reason::NoBackend, &vip, &vip[..20]),
            event(Action::Pass, Reason::NotIp, &arp, &arp),
        ]
    }

    #[test]
    fn events_as_told() {
        let [forwarded, dropped, passed] = some();
        assert_eq!(forwarded.time.to_string(), "1970-01-01T01:00:00Z");
        assert_eq!((&*forwarded.verdict, &*forwarded.reason), ("send", "forwarded"));
        assert_eq!(forwarded.came.flags, "S");
        assert_eq!(forwarded.went.map(|went| went.to).as_deref(), Some("10.9.1.2:443"));
        assert_eq!((dropped.went, &*dropped.came.to), (None, "198.51.100.10:443"));
        assert_eq!((passed.went, &*passed.came.protocol), (None, "0x0806"));
        assert_eq!(passed.came.to, "ff:ff:ff:ff:ff:ff");
        assert_eq!(passed.came.bytes().len(), 42);
        assert!(Shown { data: "zz".into(), ..Shown::default() }.bytes().is_empty());
        assert!(Shown { data: "abc".into(), ..Shown::default() }.bytes().len() <= 2);
    }
}
