//! Handshakes on the host: collections in place of maps, and a cookie that anybody can compute.

extern crate std;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::cookie::{
    Admission, CookieSettings, Cookies, Meter, OFFER_SACK, OFFER_SCALE, OFFER_STAMPS, SynOptions, VARIABLES,
    Variable,
};
use crate::env::Frame as _;
use crate::fixtures::Host;
use crate::maps::FlowKey;
use crate::packet::Packet;

/// The tables of handshakes.
pub struct Handshakes {
    /// What is offered.
    pub settings: CookieSettings,
    /// The state of the stack's socket for any connection.
    pub socket: Cell<u32>,
    /// Those that were admitted.
    pub admissions: RefCell<HashMap<FlowKey, Admission>>,
    /// What SYNs said.
    pub syn_options: RefCell<HashMap<FlowKey, SynOptions>>,
    meter: Cell<Meter>,
    used: Cell<u64>,
    variables: RefCell<[u32; VARIABLES]>,
}

impl Default for Handshakes {
    fn default() -> Self {
        let offers = OFFER_SCALE | OFFER_SACK | OFFER_STAMPS;
        Self {
            settings: CookieSettings { mss4: 1460, mss6: 1440, scale: 7, offers },
            // A listening one.
            socket: Cell::new(10),
            admissions: RefCell::default(),
            syn_options: RefCell::default(),
            meter: Cell::default(),
            used: Cell::default(),
            variables: RefCell::default(),
        }
    }
}

/// The cookie of a SYN with this sequence number.
pub const fn cookie(sequence: u32) -> u32 {
    sequence.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995
}

impl Cookies for Host {
    fn settings(&self) -> CookieSettings {
        self.handshakes.settings
    }

    fn cookie(&self, _packet: &Packet, header: &[u8; 24]) -> Option<u32> {
        Some(cookie(u32::from_be_bytes([header[4], header[5], header[6], header[7]])))
    }

    fn is_cookie(&self, packet: &Packet) -> bool {
        let Some([a, b, c, d, e, f, g, h]) = self.far::<8>(packet.transport as usize + 4) else {
            return false;
        };
        let sequence = u32::from_be_bytes([a, b, c, d]).wrapping_sub(1);
        u32::from_be_bytes([e, f, g, h]).wrapping_sub(1) == cookie(sequence)
    }

    fn socket(&self, _packet: &Packet, _flow: &FlowKey) -> u32 {
        self.handshakes.socket.get()
    }

    fn listener(&self, _packet: &Packet, class: u32) -> u32 {
        class + 1
    }

    fn is_admitted(&self, flow: &FlowKey) -> bool {
        self.handshakes.admissions.borrow().contains_key(flow)
    }

    fn admit(&self, flow: &FlowKey, admission: &Admission) {
        self.handshakes.admissions.borrow_mut().insert(*flow, *admission);
    }

    fn dismiss(&self, flow: &FlowKey) {
        self.handshakes.admissions.borrow_mut().remove(flow);
    }

    fn syn_options(&self, flow: &FlowKey) -> Option<SynOptions> {
        self.handshakes.syn_options.borrow().get(flow).copied()
    }

    fn set_syn_options(&self, flow: &FlowKey, options: SynOptions) {
        self.handshakes.syn_options.borrow_mut().insert(*flow, options);
    }

    fn meter(&self) -> Meter {
        self.handshakes.meter.get()
    }

    fn set_meter(&self, meter: Meter) {
        self.handshakes.meter.set(meter);
    }

    fn used(&self) -> u64 {
        self.handshakes.used.get()
    }

    fn set_used(&self, now: u64) {
        self.handshakes.used.set(now);
    }

    fn get(&self, variable: Variable) -> u32 {
        self.handshakes.variables.borrow()[variable as usize]
    }

    fn put(&self, variable: Variable, value: u32) {
        self.handshakes.variables.borrow_mut()[variable as usize] = value;
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;
    use std::{format, vec};

    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

    use super::*;
    use crate::cookie::{NO_SCALE, STACK_CHECKS, judge};
    use crate::env::Env as _;
    use crate::fixtures::{NAME, VIP4, VIP6, client_hello};
    use crate::maps::{TUNE_ALL_COOKIES, TUNE_COOKIES};
    use crate::reason::Reason;
    use crate::verdict::{Action, Verdict};

    use TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };

    /// Everything to VIPs is steered.
    fn host() -> Host {
        let mut host = Host::new();
        host.steer_all();
        host
    }

    fn frame(
        v6: bool,
        flags: &str,
        sequence: u32,
        ack: u32,
        options: &[TcpOptionElement],
        payload: &[u8],
    ) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 { ethernet.ipv6([1; 16], VIP6, 64) } else { ethernet.ipv4([192, 0, 2, 1], VIP4, 64) };
        let mut tcp = ip.tcp(40_000, 443, sequence, 1000);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'A' => tcp.ack(ack),
                'F' => tcp.fin(),
                _ => tcp.rst(),
            };
        }
        let mut frame = Vec::new();
        let tcp = tcp.options(options).expect("they fit");
        tcp.write(&mut frame, payload).expect("a Vec takes everything");
        frame
    }

    fn run(host: &mut Host, frame: Vec<u8>) -> Verdict {
        host.frame = frame.into();
        judge(host)
    }

    fn is(reason: Reason, action: Action) -> Verdict {
        Verdict { reason, action }
    }

    const STAMPED: [TcpOptionElement; 5] =
        [MaximumSegmentSize(1400), SelectiveAcknowledgementPermitted, Timestamp(77, 0), Noop, WindowScale(9)];

    #[test]
    fn what_a_syn_says_comes_back_with_the_hello() {
        for v6 in [false, true] {
            let sizes = if v6 { [1220, 1220, 1420] } else { [536, 1300, 1300] };
            for (options, mss, scale, sack, stamps) in [
                (&STAMPED[..], sizes[2].min(1400), 9, 1, 1),
                (&STAMPED[..3], sizes[2].min(1400), NO_SCALE, 1, 1),
                (&[MaximumSegmentSize(1400), WindowScale(3)], sizes[2].min(1400), 3, 0, 0),
                (&[MaximumSegmentSize(1400), WindowScale(200)], sizes[2].min(1400), 14, 0, 0),
                (&[SelectiveAcknowledgementPermitted], sizes[0], NO_SCALE, 1, 0),
                (&[], sizes[0], NO_SCALE, 0, 0),
            ] {
                let what = format!("{options:?}, IPv6 {v6}");
                let mss = if v6 && mss == 1400 { 1220 } else { mss };
                let mut host = host();
                let answered = run(&mut host, frame(v6, "S", 1000, 0, options, b""));
                assert_eq!(answered, is(Reason::SynCookie, Action::Send), "{what}");
                let answer = host.frame.borrow().clone();
                let sliced = SlicedPacket::from_ethernet(&answer).expect(&what);
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{what}: no TCP") };
                assert!(tcp.syn() && tcp.ack(), "{what}");
                assert_eq!(
                    (tcp.sequence_number(), tcp.acknowledgment_number()),
                    (cookie(1000), 1001),
                    "{what}"
                );
                assert_eq!((tcp.source_port(), tcp.destination_port()), (443, 40_000), "{what}");
                let told: Vec<_> = tcp.options_iterator().map(|option| option.expect(&what)).collect();
                assert!(told.contains(&MaximumSegmentSize(if v6 { 1440 } else { 1460 })), "{what}: {told:?}");
                assert_eq!(told.contains(&WindowScale(7)), scale != NO_SCALE, "{what}: {told:?}");
                assert_eq!(told.contains(&SelectiveAcknowledgementPermitted), sack == 1, "{what}: {told:?}");
                let stamp = told.iter().find_map(|option| match option {
                    Timestamp(ours, theirs) => Some((*ours, *theirs)),
                    _ => None,
                });
                assert_eq!(stamp.map(|(_, theirs)| theirs), (stamps == 1).then_some(77), "{what}");
                sums(&answer);

                let echo = stamp.map_or(0, |(ours, _)| ours);
                let back = [Noop, Noop, Timestamp(78, echo)];
                let back = if stamps == 1 { &back[..] } else { &[] };
                let bare = run(&mut host, frame(v6, "A", 1001, cookie(1000).wrapping_add(1), back, b""));
                assert_eq!(bare, is(Reason::CookieAck, Action::Drop), "{what}");
                let hello = client_hello(Some(NAME), 40);
                let hello = frame(v6, "A", 1001, cookie(1000).wrapping_add(1), back, &hello);
                assert_eq!(run(&mut host, hello.clone()), is(Reason::Vip, Action::Pass), "{what}");
                let admissions = host.handshakes.admissions.borrow().clone();
                let admission = *admissions.values().next().expect(&what);
                let (stamp, echo) = if stamps == 1 { (78, echo) } else { (0, 0) };
                let expect = Admission {
                    sequence: 1001u32.to_be(),
                    stamp,
                    echo,
                    mss,
                    class: 0,
                    scale,
                    sack,
                    stamps,
                    zero: 0,
                    listener: 0,
                };
                assert_eq!(admission, expect, "{what}");
                // Again, and what follows: the stack's.
                assert_eq!(run(&mut host, hello), is(Reason::Vip, Action::Pass), "{what}");
                let counted = host.counted.borrow();
                assert_eq!(counted.iter().filter(|one| **one == Reason::HelloExact).count(), 1, "{what}");
            }
        }
    }

    #[test]
    fn where_the_stack_checks_cookies_nothing_is_remembered() {
        let rows: [(&[TcpOptionElement], &[TcpOptionElement]); 3] = [
            (&STAMPED, &[WindowScale(7), SelectiveAcknowledgementPermitted]),
            (&[MaximumSegmentSize(1400), WindowScale(3), SelectiveAcknowledgementPermitted], &[]),
            (&[], &[]),
        ];
        for (options, agreed) in rows {
            let mut host = host();
            host.handshakes.settings.offers |= STACK_CHECKS;
            assert_eq!(run(&mut host, frame(false, "S", 1000, 0, options, b"")).action, Action::Send);
            let answer = host.frame.borrow().clone();
            let Some(TransportSlice::Tcp(tcp)) =
                SlicedPacket::from_ethernet(&answer).expect("whole").transport
            else {
                panic!("{options:?}: no TCP")
            };
            let told: Vec<_> = tcp.options_iterator().map(|option| option.expect("whole")).collect();
            for option in [WindowScale(7), SelectiveAcknowledgementPermitted] {
                assert_eq!(told.contains(&option), agreed.contains(&option), "{options:?}: {told:?}");
            }
            // As the kernel reads it (cookie_timestamp_decode): the scale, SACK, no ECN; and never ahead.
            if let Some(Timestamp(ours, _)) = told.iter().find(|option| matches!(option, Timestamp(..))) {
                assert_eq!(ours & 0x3f, 9 | 1 << 4, "{ours:#x}");
                let now = (host.now() / 1_000_000) as u32;
                assert!(now.wrapping_sub(*ours) <= 0xff, "{ours:#x} at {now:#x}");
            }
            assert!(host.handshakes.syn_options.borrow().is_empty());

            let hello = client_hello(Some(NAME), 40);
            let hello = frame(false, "A", 1001, cookie(1000).wrapping_add(1), &[], &hello);
            assert_eq!(run(&mut host, hello), is(Reason::Vip, Action::Pass));
            let admissions = host.handshakes.admissions.borrow();
            assert_eq!(admissions.values().map(|one| one.listener).collect::<Vec<_>>(), [1]);
        }
    }

    /// Both checksums are right.
    fn sums(frame: &[u8]) {
        let headers = etherparse::PacketHeaders::from_ethernet_slice(frame).expect("headers");
        let etherparse::TransportHeader::Tcp(tcp) = headers.transport.expect("TCP") else { panic!("no TCP") };
        let right = match headers.net.expect("IP") {
            etherparse::NetHeaders::Ipv4(ip, _) => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                tcp.calc_checksum_ipv4(&ip, &[])
            }
            etherparse::NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, &[]),
            other => panic!("{other:?}"),
        };
        assert_eq!(right.expect("short"), tcp.checksum);
    }

    #[test]
    fn who_is_not_admitted() {
        let hello = client_hello(Some(NAME), 40);
        let good = cookie(1000).wrapping_add(1);
        const LISTEN: u32 = 10;
        const ESTABLISHED: u32 = 1;
        const NOTHING: u32 = 0;
        for (what, flags, ack, payload, socket, expect) in [
            ("silence", "A", good, &b""[..], LISTEN, is(Reason::CookieAck, Action::Drop)),
            ("the end", "AF", good, b"", LISTEN, is(Reason::CookieReset, Action::Send)),
            ("the end, later", "AF", 5, b"", LISTEN, is(Reason::CookieReset, Action::Send)),
            ("a hello, much later", "A", 5, &hello, LISTEN, is(Reason::CookieReset, Action::Send)),
            ("what follows a hello", "A", 5, b"data", LISTEN, is(Reason::CookieStray, Action::Drop)),
            ("the same with no listener", "A", 5, b"data", NOTHING, is(Reason::CookieStray, Action::Drop)),
            ("a connection of the stack's", "A", 5, b"data", ESTABLISHED, is(Reason::Vip, Action::Pass)),
            ("a reset", "R", 0, b"", LISTEN, is(Reason::Vip, Action::Pass)),
            ("a SYN that nobody listens to", "S", 0, b"", NOTHING, is(Reason::Vip, Action::Pass)),
            ("a port taken anew", "S", 0, b"", 6, is(Reason::Vip, Action::Pass)),
        ] {
            let mut host = host();
            host.handshakes.socket.set(socket);
            let frame = frame(false, flags, 1001, ack, &[], payload);
            assert_eq!(run(&mut host, frame.clone()), expect, "{what}");
            if expect.action == Action::Pass {
                assert_eq!(*host.frame.borrow(), frame, "{what}");
            }
        }
    }

    #[test]
    fn other_vips_get_cookies_when_syns_come_too_fast() {
        for (flags, rate, syns, cookies) in [
            (0, 8, 50, 0),
            (TUNE_COOKIES, 8, 50, 49),
            (TUNE_COOKIES, 400, 50, 0),
            (TUNE_COOKIES | TUNE_ALL_COOKIES, 400, 50, 50),
        ] {
            let mut host = Host::new();
            host.tuning.flags = flags;
            host.tuning.syn_rate = rate;
            let mut given = 0;
            for _ in 0..syns {
                let verdict = run(&mut host, frame(false, "S", 1000, 0, &STAMPED, b""));
                given += u32::from(verdict.action == Action::Send);
                assert!(verdict.action == Action::Send || verdict.action == Action::Look, "{verdict:?}");
            }
            assert_eq!(given, cookies, "{flags} {rate}");
            // A bare acknowledgement of a cookie is a connection there.
            let ack = frame(false, "A", 1001, cookie(1000).wrapping_add(1), &[], b"");
            assert_eq!(run(&mut host, ack).action, Action::Look);
            let admitted = host.handshakes.admissions.borrow().len();
            assert_eq!(admitted, usize::from(cookies > 0), "{flags} {rate}");
        }
        assert!(host().now() > 0, "a host's clock never stands at its begin");
    }

    #[test]
    fn floods_are_metered() {
        let mut meter = Meter::default();
        let mut now = 1_000_000_000;
        let mut seen = vec![];
        // 80 a second is 10 in a window of an eighth.
        for (syns, step) in [(10, 125_000_000), (11, 125_000_000), (5, 125_000_000), (5, 125_000_000)] {
            let mut busy = false;
            for _ in 0..syns {
                (meter, busy) = meter.tick(now, 80);
            }
            seen.push(busy);
            now += step;
        }
        // Too many; and a window longer, since the next flood rarely waits.
        assert_eq!(seen, [false, true, true, false]);
        let (_, after_a_pause) = Meter { since: 0, count: 1000, busy: 1 }.tick(10_000_000_000, 80);
        assert!(!after_a_pause);
    }
}
