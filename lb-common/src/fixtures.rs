//! Frames and what has to become of them: one table for host functions and loaded program.

extern crate std;

use std::cell::RefCell;
use std::collections::HashMap;
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use etherparse::{PacketBuilder, TcpOptionElement};

use crate::env::{Bytes, Env, Frame};
use crate::maps::{
    FlowKey, FlowState, HELLO_LEN, NameKey, SOURCE_ALLOW, SOURCE_BANNED, SOURCE_DENY, TUNE_BUDGET,
    TUNE_SOURCES, Tuning, VIP_FILTER_SNI, VIP_OBSERVE_SNI, VIP_STEER, VipKey, VipValue,
};
use crate::rare;
use crate::reason::Reason;
use crate::refuse::ALERT;
use crate::verdict::{self, Action, Verdict, mapped, words};
use crate::{tunnel, unusual};

/// The VIP of the fixtures: ports 80 (plain), 443 (observed) and 8443 (filtered) over TCP.
pub const VIP4: [u8; 4] = [198, 51, 100, 10];
/// Its IPv6 sister.
pub const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
/// The name in the exact table, with slot 0.
pub const NAME: &str = "www.example.com";
/// The wildcard's suffix, with slot 1.
pub const SUFFIX: &str = "wild.example.com";

/// A frame and its fate.
pub struct Fixture {
    /// What it is.
    pub description: &'static str,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
    /// What it becomes; `None`: it leaves as it came.
    pub becomes: Option<Vec<u8>>,
    /// The verdict.
    pub verdict: Verdict,
    /// What its ClientHello counts as.
    pub hello: Option<Reason>,
}

/// The lists of sources: prefix length (of 128), address, and what is said of it.
pub fn sources() -> Vec<(u32, [u32; 4], u32)> {
    vec![
        // Where all other rows come from.
        (128, mapped([192, 0, 2, 1]), SOURCE_ALLOW),
        (128, words([1; 16]), SOURCE_ALLOW),
        (96 + 24, mapped([203, 0, 113, 0]), SOURCE_DENY),
        (96 + 25, mapped([203, 0, 113, 128]), SOURCE_ALLOW),
        (48, words(DENIED6), SOURCE_BANNED),
    ]
}

/// The rules of sources: two connections at once, and then none for as long as a test may take.
pub const TUNING: Tuning =
    Tuning { flags: TUNE_SOURCES | TUNE_BUDGET, burst: 2, interval: 3_600_000_000_000, syn_rate: 0, zero: 0 };

const DENIED6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0xba, 0xd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

impl Fixture {
    fn passed(description: &'static str, frame: Vec<u8>, reason: Reason, hello: Option<Reason>) -> Self {
        let verdict = Verdict { reason, action: Action::Pass };
        Self { description, frame, becomes: None, verdict, hello }
    }
}

/// The VIP table's entries.
pub fn vips() -> Vec<(VipKey, VipValue)> {
    let mut vips = Vec::new();
    for (slot, (address, port)) in [mapped(VIP4), words(VIP6)]
        .into_iter()
        .flat_map(|address| [(address, 80u16), (address, 443), (address, 8443)])
        .enumerate()
    {
        let flags = match port {
            443 => VIP_OBSERVE_SNI,
            8443 => VIP_OBSERVE_SNI | VIP_FILTER_SNI,
            _ => 0,
        };
        let key = VipKey { address, port: port.to_be(), protocol: 6, zero: 0 };
        vips.push((key, VipValue { slot: slot as u32, flags }));
    }
    vips
}

/// A ClientHello record with the server name, if any, behind `before` bytes of another extension.
pub fn client_hello(name: Option<&str>, before: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, body: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend((body.len() as u16).to_be_bytes());
        extensions.extend(body);
    };
    extension(51, &vec![7; before]);
    if let Some(name) = name {
        let mut list = Vec::new();
        list.extend((name.len() as u16 + 3).to_be_bytes());
        list.push(0);
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(name.as_bytes());
        extension(0, &list);
    }
    extension(43, &[2, 3, 4]);
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.push(32);
    body.extend([8; 32]);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

/// A TCP segment to the fixtures' VIP.
pub fn segment(v6: bool, source_port: u16, port: u16, syn: bool, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = if v6 { ethernet.ipv6([1; 16], VIP6, 64) } else { ethernet.ipv4([192, 0, 2, 1], VIP4, 64) };
    let tcp = ip.tcp(source_port, port, 1, 1000);
    let tcp = if syn { tcp.syn() } else { tcp.ack(1) };
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload).expect("a Vec takes everything");
    frame
}

fn udp(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], VIP4, 64).udp(9, port);
    packet.write(&mut frame, b"x").expect("a Vec takes everything");
    frame
}

fn tagged(tags: usize, frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for tag in 0..tags {
        out.extend(if tag == 0 && tags > 1 { [0x88, 0xa8, 0, 5] } else { [0x81, 0, 0, 6] });
    }
    out.extend(&frame[12..]);
    out
}

/// An IPv4 frame with options (no-ops).
fn with_options(words: u8) -> Vec<u8> {
    let mut frame = segment(false, 7, 80, false, b"data");
    frame[14] = 0x45 + words;
    let total = u16::from_be_bytes([frame[16], frame[17]]) + u16::from(words) * 4;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame.splice(34..34, vec![1; words as usize * 4]);
    frame
}

/// An IPv6 frame with extension headers of the kinds, each of eight bytes.
fn with_extensions(kinds: &[u8], fragment: u16) -> Vec<u8> {
    let mut frame = segment(true, 7, 443, true, b"");
    let mut chain = Vec::new();
    for (at, kind) in kinds.iter().enumerate() {
        let next = kinds.get(at + 1).copied().unwrap_or(6);
        let [high, low] = if *kind == 44 { fragment.to_be_bytes() } else { [1, 4] };
        chain.extend([next, 0, high, low, 0, 0, 0, 0]);
    }
    let length = u16::from_be_bytes([frame[18], frame[19]]) + chain.len() as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = kinds.first().copied().unwrap_or(6);
    frame.splice(54..54, chain);
    frame
}

fn patched(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The table. Every hello has a source port of its own, so the rows don't depend on each other.
pub fn table() -> Vec<Fixture> {
    let mut rows = Vec::new();
    let mut row = |description, frame, reason| rows.push(Fixture::passed(description, frame, reason, None));
    let plain = || segment(false, 7, 80, false, b"GET / HTTP/1.1\r\n\r\n");
    row("IPv4 data to a VIP", plain(), Reason::Vip);
    row("IPv4 SYN to a VIP", segment(false, 7, 443, true, b""), Reason::Vip);
    row("IPv6 data to a VIP", segment(true, 7, 80, false, b"data"), Reason::Vip);
    row("IPv6 SYN to a VIP", segment(true, 7, 443, true, b""), Reason::Vip);
    row("another port", segment(false, 7, 81, false, b"data"), Reason::NotVip);
    row("another protocol on a VIP's port", udp(443), Reason::NotVip);
    row("another address", patched(plain(), 33, &[11]), Reason::NotVip);
    row("one VLAN tag", tagged(1, &plain()), Reason::Vip);
    row("two VLAN tags", tagged(2, &segment(true, 7, 80, false, b"data")), Reason::Vip);
    row("an ICMP message behind a VLAN tag", tagged(1, &patched(plain(), 23, &[1])), Reason::Icmp);
    row("a fragment behind two", tagged(2, &patched(plain(), 20, &[0, 9])), Reason::Fragment);
    row("three VLAN tags", tagged(3, &plain()), Reason::TooManyTags);
    row("IPv4 options", with_options(2), Reason::Vip);
    row("the longest IPv4 options", with_options(10), Reason::Vip);
    row("first IPv4 fragment", patched(plain(), 20, &[0x20, 0]), Reason::Fragment);
    row("later IPv4 fragment", patched(plain(), 20, &[0, 9]), Reason::Fragment);
    row("don't fragment is no fragment", patched(plain(), 20, &[0x40, 0]), Reason::Vip);
    row("IPv6 hop-by-hop, routing and destination options", with_extensions(&[0, 43, 60], 0), Reason::Vip);
    row("IPv6 atomic fragment", with_extensions(&[44], 0), Reason::Vip);
    row("IPv6 fragment", with_extensions(&[44], 1), Reason::Fragment);
    row("nine IPv6 extension headers", with_extensions(&[60; 9], 0), Reason::TooManyHeaders);
    row("eight IPv6 extension headers", with_extensions(&[60; 8], 0), Reason::Vip);
    row("IPv4 data in several buffers", segment(false, 7, 80, false, &[b'x'; 9000]), Reason::Vip);
    row("IPv6 data in several buffers", segment(true, 7, 80, false, &[b'x'; 9000]), Reason::Vip);
    row(
        "tags in front of several buffers",
        tagged(2, &segment(true, 7, 443, false, &[b'x'; 9000])),
        Reason::Vip,
    );
    row("several buffers to no VIP", segment(false, 7, 81, false, &[b'x'; 9000]), Reason::NotVip);
    let damaged = patched(segment(false, 7, 80, false, &[b'x'; 9000]), 16, &[0xff, 0xff]);
    row("longer than its several buffers", damaged, Reason::Truncated);
    row("ICMP", patched(plain(), 23, &[1]), Reason::Icmp);
    row("ICMPv6", patched(segment(true, 7, 80, false, b""), 20, &[58]), Reason::Icmp);
    row("GRE", patched(plain(), 23, &[47]), Reason::OtherProtocol);
    row("ARP", patched(plain(), 12, &[8, 6]), Reason::NotIp);
    row("IPv4 with version 5", patched(plain(), 14, &[0x55]), Reason::Malformed);
    row("IPv4 with a short header", patched(plain(), 14, &[0x44]), Reason::Malformed);
    row("IPv4 longer than its frame", patched(plain(), 16, &[0xff, 0xff]), Reason::Truncated);
    row("IPv4 without room for ports", patched(plain(), 16, &[0, 22]), Reason::Truncated);
    row(
        "IPv6 longer than its frame",
        patched(segment(true, 7, 80, false, b""), 18, &[9, 9]),
        Reason::Truncated,
    );
    row("an IPv4 header cut off", plain()[..30].to_vec(), Reason::Truncated);
    row("an Ethernet header only", plain()[..14].to_vec(), Reason::Truncated);

    let long = format!("{}.example.com", ["a"; 60].join("."));
    let hellos: [(&str, Option<&str>, usize, usize, Reason); 9] = [
        ("an exact name", Some(NAME), 0, 9999, Reason::HelloExact),
        ("an exact name in capitals", Some("WWW.Example.COM"), 0, 9999, Reason::HelloExact),
        ("a wildcard's name", Some("any.wild.example.com"), 0, 9999, Reason::HelloWildcard),
        ("two labels under a wildcard", Some("a.b.wild.example.com"), 0, 9999, Reason::HelloUnknown),
        ("the wildcard's suffix itself", Some(SUFFIX), 0, 9999, Reason::HelloUnknown),
        ("an unknown name", Some("nobody.test"), 0, 9999, Reason::HelloUnknown),
        ("no name", None, 0, 9999, Reason::HelloNoName),
        ("a name behind a post-quantum key share, split", Some(NAME), 1200, 1000, Reason::HelloSplit),
        ("a name of 131 bytes", Some(&long), 0, 9999, Reason::HelloNameTooLong),
    ];
    for v6 in [false, true] {
        for (at, (description, name, before, cut, reason)) in hellos.iter().enumerate() {
            let hello = client_hello(*name, *before);
            let payload = &hello[..hello.len().min(*cut)];
            let frame = segment(v6, 1000 + at as u16, 443, false, payload);
            rows.push(Fixture::passed(description, frame, Reason::Vip, Some(*reason)));
        }
    }
    let hello = client_hello(Some(NAME), 0);
    let frame = segment(false, 1000, 443, false, &hello);
    rows.push(Fixture::passed("a hello once more", frame, Reason::Vip, None));
    let early_data = [&hello[..], &[7; 8000]].concat();
    let frame = segment(false, 3001, 443, false, &early_data);
    let exact = Some(Reason::HelloExact);
    rows.push(Fixture::passed("a hello and more in several buffers", frame, Reason::Vip, exact));
    let frame = tagged(2, &segment(false, 3000, 443, false, &hello));
    rows.push(Fixture::passed("a hello behind tags", frame, Reason::Vip, exact));
    rows.extend(refusals());
    rows.extend(rules());
    rows
}

/// What the rules for sources say.
fn rules() -> Vec<Fixture> {
    let v4 = |source: [u8; 4], port, syn| patched(segment(false, 7, port, syn, b""), 26, &source);
    let v6 = |source: [u8; 16], port, syn| patched(segment(true, 7, port, syn, b""), 22, &source);
    let budget6 = |host| [0x20, 1, 0xd, 0xb8, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
    let flags = |flags| patched(segment(false, 7, 80, true, b""), 47, &[flags]);
    let udp = |source: [u8; 4]| patched(udp(443), 26, &source);
    let passed = (Reason::Vip, Action::Pass);
    let (denied, over) = (Reason::SourceDenied, Reason::SourceOverBudget);
    let rows = [
        ("a denied source", v4([203, 0, 113, 9], 80, false), (denied, Action::Drop)),
        ("a denied source's SYN", v4([203, 0, 113, 9], 443, true), (denied, Action::Drop)),
        ("an allowed source of a denied network", v4([203, 0, 113, 129], 80, false), passed),
        ("a denied source elsewhere", v4([203, 0, 113, 9], 81, false), (Reason::NotVip, Action::Pass)),
        ("a denied source in IPv6", v6(DENIED6, 80, false), (denied, Action::Drop)),
        ("UDP of a denied source to no VIP", udp([203, 0, 113, 9]), (Reason::NotVip, Action::Pass)),
        ("a source's first SYN", v4([198, 18, 0, 1], 80, true), passed),
        ("its second", v4([198, 18, 0, 1], 80, true), passed),
        ("its third, over its budget", v4([198, 18, 0, 1], 80, true), (over, Action::Drop)),
        ("its data all the same", v4([198, 18, 0, 1], 80, false), passed),
        ("another source's SYN", v4([198, 18, 0, 2], 80, true), passed),
        ("a network's first SYN", v6(budget6(1), 80, true), passed),
        ("the second, of another host", v6(budget6(2), 80, true), passed),
        ("the third is over the network's budget", v6(budget6(3), 80, true), (over, Action::Drop)),
        ("an allowed source has no budget", v4([203, 0, 113, 200], 80, true), passed),
        ("an allowed source's second SYN", v4([203, 0, 113, 200], 80, true), passed),
        ("an allowed source's third SYN", v4([203, 0, 113, 200], 80, true), passed),
        ("SYN and FIN", flags(0x03), (Reason::BogusFlags, Action::Drop)),
        ("SYN and RST", flags(0x06), (Reason::BogusFlags, Action::Drop)),
        ("no flags", flags(0), (Reason::BogusFlags, Action::Drop)),
        ("a Christmas tree", flags(0x29), (Reason::BogusFlags, Action::Drop)),
        ("no flags to no VIP", patched(flags(0), 37, &[81]), (Reason::NotVip, Action::Pass)),
        ("SYN with ECN", flags(0xc2), passed),
    ];
    let row = |(description, frame, (reason, action))| {
        let verdict = Verdict { reason, action };
        Fixture { description, frame, becomes: None, verdict, hello: None }
    };
    rows.into_iter().map(row).collect()
}

/// Timestamps as they stand in nearly every segment: a client's own, and ours that it echoes.
const STAMPS: ([u8; 4], [u8; 4]) = ([0, 0, 1, 2], [0, 0, 3, 4]);

/// A TCP segment between a client and the filtered VIP, or back.
struct Peer {
    v6: bool,
    port: u16,
    tags: usize,
    stamped: bool,
}

impl Peer {
    /// `flags` as letters. `reply`: from the VIP.
    fn segment(&self, flags: &str, sequence: u32, acknowledged: u32, payload: &[u8], reply: bool) -> Vec<u8> {
        let (client4, client6) = ([192, 0, 2, 1], [1; 16]);
        let ethernet = if reply { ([4; 6], [2; 6]) } else { ([2; 6], [4; 6]) };
        let builder = PacketBuilder::ethernet2(ethernet.0, ethernet.1);
        let builder = match (self.v6, reply) {
            (false, false) => builder.ipv4(client4, VIP4, 64),
            (false, true) => builder.ipv4(VIP4, client4, 64),
            (true, false) => builder.ipv6(client6, VIP6, 64),
            (true, true) => builder.ipv6(VIP6, client6, 64),
        };
        let (from, to) = if reply { (8443, self.port) } else { (self.port, 8443) };
        let mut tcp = builder.tcp(from, to, sequence, 1024);
        for flag in flags.chars() {
            tcp = match flag {
                'F' => tcp.fin(),
                'P' => tcp.psh(),
                'R' => tcp.rst(),
                _ => tcp.ack(acknowledged),
            };
        }
        if self.stamped && !flags.contains('R') {
            let (own, echoed) = if reply { (STAMPS.1, STAMPS.0) } else { STAMPS };
            let number = u32::from_be_bytes;
            let options = [
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(number(own), number(echoed)),
            ];
            tcp = tcp.options(&options).expect("twelve bytes");
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).expect("a Vec takes everything");
        if self.tags > 0 { tagged(self.tags, &frame) } else { frame }
    }
}

/// What becomes of connections to the filtered VIP.
fn refusals() -> Vec<Fixture> {
    let mut rows = Vec::new();
    let unknown = client_hello(Some("nobody.test"), 40);
    let length = unknown.len() as u32;
    let peers = [
        ("IPv4", Peer { v6: false, port: 5000, tags: 0, stamped: false }),
        ("IPv6", Peer { v6: true, port: 5001, tags: 0, stamped: false }),
        ("IPv4 with timestamps", Peer { v6: false, port: 5002, tags: 0, stamped: true }),
        ("IPv6 with timestamps and two tags", Peer { v6: true, port: 5003, tags: 2, stamped: true }),
    ];
    for (_, peer) in &peers {
        let mut row = |description, frame, becomes, reason, action, hello| {
            rows.push(Fixture { description, frame, becomes, verdict: Verdict { reason, action }, hello });
        };
        let hello = peer.segment("PA", 100, 900, &unknown, false);
        let alert = peer.segment("FPA", 900, 100 + length, &ALERT, true);
        let (refused, closing) = (Reason::SniRefused, Reason::SniClosing);
        let counted = Some(Reason::HelloUnknown);
        row("a refused hello", hello.clone(), Some(alert.clone()), refused, Action::Send, counted);
        row("the refused hello again", hello, Some(alert), refused, Action::Send, None);
        let ack = || peer.segment("A", 100 + length, 908, &[], false);
        let reset = padded(peer.segment("R", 100, 0, &[], false), &ack());
        row("the acknowledged alert tells the stack", ack(), Some(reset), closing, Action::Pass, None);
        row("another acknowledgement", ack(), None, closing, Action::Drop, None);
        let end = peer.segment("FA", 100 + length, 908, &[], false);
        let answer = peer.segment("A", 908, 101 + length, &[], true);
        row("the client's end", end, Some(answer), closing, Action::Send, None);
        let words = peer.segment("PA", 100 + length, 908, &[21, 3, 3, 0, 2, 1, 0], false);
        let answer = padded(peer.segment("A", 908, 107 + length, &[], true), &words);
        row("the client's own alert", words, Some(answer), closing, Action::Send, None);
        let late = peer.segment("R", 100 + length, 0, &[], false);
        row("the client's reset after all", late, None, closing, Action::Drop, None);
    }

    let peer = Peer { v6: false, port: 5010, tags: 0, stamped: false };
    let hello = peer.segment("PA", 100, 900, &unknown, false);
    let alert = peer.segment("FPA", 900, 100 + length, &ALERT, true);
    rows.push(Fixture {
        description: "a refused hello whose client gives up",
        frame: hello,
        becomes: Some(alert),
        verdict: Verdict { reason: Reason::SniRefused, action: Action::Send },
        hello: Some(Reason::HelloUnknown),
    });
    rows.push(Fixture {
        description: "its reset, as the stack expects it",
        frame: peer.segment("R", 100 + length, 0, &[], false),
        becomes: Some(peer.segment("R", 100, 0, &[], false)),
        verdict: Verdict { reason: Reason::SniClosing, action: Action::Pass },
        hello: None,
    });

    let long = format!("{}.example.com", ["a"; 60].join("."));
    let passed: [(&str, Option<&str>, usize, usize, Reason); 7] = [
        ("a filtered VIP's exact name", Some(NAME), 0, 9999, Reason::HelloExact),
        ("a filtered VIP's name with the root's dot", Some("www.example.com."), 0, 9999, Reason::HelloExact),
        ("a filtered VIP's wildcard", Some("any.wild.example.com"), 0, 9999, Reason::HelloWildcard),
        ("no name at a filtered VIP", None, 0, 9999, Reason::HelloNoName),
        ("a split hello at a filtered VIP", Some("nobody.test"), 1200, 1000, Reason::HelloSplit),
        ("a split hello of a served name", Some(NAME), 1200, 1000, Reason::HelloSplit),
        ("a name at a filtered VIP that is too long", Some(&long), 0, 9999, Reason::HelloNameTooLong),
    ];
    for (at, (description, name, before, cut, reason)) in passed.into_iter().enumerate() {
        let peer = Peer { v6: at % 2 == 1, port: 5020 + at as u16, tags: 0, stamped: true };
        let hello = client_hello(name, before);
        let frame = peer.segment("PA", 100, 900, &hello[..hello.len().min(cut)], false);
        rows.push(Fixture::passed(description, frame, Reason::Vip, Some(reason)));
        let frame = peer.segment("FA", 5000, 900, &[], false);
        rows.push(Fixture::passed("the end of a connection that was not refused", frame, Reason::Vip, None));
    }
    let mut frame = peers[0].1.segment("PA", 100, 900, &unknown, false);
    // An option of four bytes that is no timestamp, in the place of the payload's first four.
    frame.splice(54..54, [1, 1, 1, 1]);
    frame[46] = 0x60;
    frame[34..36].copy_from_slice(&5040u16.to_be_bytes());
    let total = u16::from_be_bytes([frame[16], frame[17]]) + 4;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    let unknown = Some(Reason::HelloUnknown);
    rows.push(Fixture::passed("unusual options are left to the stack", frame, Reason::Vip, unknown));
    let frame = segment(false, 5041, 8443, false, b"");
    rows.push(Fixture::passed("an acknowledgement of nobody refused", frame, Reason::Vip, None));
    rows
}

/// A reply in the place of a frame: what is left of that, up to Ethernet's 60 bytes, is padding.
fn padded(mut reply: Vec<u8>, came: &[u8]) -> Vec<u8> {
    let shortest = came.len().min(60);
    if reply.len() < shortest {
        reply.extend(&came[reply.len()..shortest]);
    }
    reply
}

/// The kernel's surroundings made of collections.
#[derive(Default)]
pub struct Host {
    /// The frame at hand.
    pub frame: RefCell<Vec<u8>>,
    /// The forwarder's tables.
    pub l4: crate::forward_fixtures::Tables,
    /// Handshakes.
    pub handshakes: crate::cookie_fixtures::Handshakes,
    vips: HashMap<VipKey, VipValue>,
    names: HashMap<NameKey, u32>,
    wildcards: HashMap<NameKey, u32>,
    sources: Vec<(u32, [u32; 4], u32)>,
    /// Lists and budgets of sources.
    pub tuning: Tuning,
    budgets: RefCell<HashMap<[u32; 4], u64>>,
    flows: RefCell<HashMap<FlowKey, FlowState>>,
    /// Reasons counted, in order.
    pub counted: RefCell<Vec<Reason>>,
}

impl Host {
    /// With the fixtures' tables.
    pub fn new() -> Self {
        let key = |name: &str| NameKey::new(name.as_bytes()).expect("fits");
        Self {
            vips: vips().into_iter().chain(crate::forward_fixtures::content().vips).collect(),
            names: [(key(NAME), 0)].into(),
            wildcards: [(key(SUFFIX), 1)].into(),
            sources: sources(),
            tuning: TUNING,
            ..Self::default()
        }
    }

    /// Makes all of its TLS VIPs steer by name.
    pub fn steer_all(&mut self) {
        let tls = self.vips.values_mut().filter(|vip| vip.flags & VIP_OBSERVE_SNI != 0);
        tls.for_each(|vip| vip.flags |= VIP_STEER);
    }

    fn find(&self, table: &HashMap<NameKey, u32>, offset: usize, length: usize) -> Option<u32> {
        table.get(&NameKey::new(self.frame.borrow().get(offset..offset + length)?)?).copied()
    }
}

struct Payload(Vec<u8>);

impl Bytes for Payload {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }
}

impl Frame for Host {
    fn near<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.frame.borrow().get(offset..offset + N)?.try_into().ok()
    }

    fn far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.near(offset)
    }

    fn linear(&self) -> u32 {
        self.frame.borrow().len() as u32
    }

    fn length(&self) -> u32 {
        self.linear()
    }
}

impl Env for Host {
    fn vip(&self, key: &VipKey) -> Option<VipValue> {
        self.vips.get(key).copied()
    }

    fn tuning(&self) -> Tuning {
        self.tuning
    }

    fn source(&self, address: &[u32; 4]) -> Option<u32> {
        let number =
            |words: &[u32; 4]| words.iter().fold(0u128, |all, word| all << 32 | u128::from(word.to_be()));
        let covers = |length: u32, prefix: &[u32; 4]| {
            (number(prefix) ^ number(address)).checked_shr(128 - length).is_none_or(|rest| rest == 0)
        };
        let covering = self.sources.iter().filter(|(length, prefix, _)| covers(*length, prefix));
        covering.max_by_key(|(length, ..)| *length).map(|(_, _, says)| *says)
    }

    fn now(&self) -> u64 {
        1_000_000
    }

    fn due(&self, source: &[u32; 4]) -> Option<u64> {
        self.budgets.borrow().get(source).copied()
    }

    fn set_due(&self, source: &[u32; 4], due: u64) {
        self.budgets.borrow_mut().insert(*source, due);
    }

    fn count(&self, reason: Reason) {
        self.counted.borrow_mut().push(reason);
    }

    fn count_vip(&self, _slot: u32, _bytes: u32, _connection: bool) {}

    fn count_name(&self, _slot: u32) {}

    fn recall(&self, flow: &FlowKey) -> Option<FlowState> {
        self.flows.borrow().get(flow).copied()
    }

    fn remember(&self, flow: &FlowKey, state: FlowState) {
        self.flows.borrow_mut().insert(*flow, state);
    }

    fn forget(&self, flow: &FlowKey) {
        self.flows.borrow_mut().remove(flow);
    }

    fn payload(&self, offset: usize, length: usize) -> Option<impl Bytes> {
        Some(Payload(self.frame.borrow().get(offset..offset + length.min(HELLO_LEN))?.to_vec()))
    }

    fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> bool {
        let mut frame = self.frame.borrow_mut();
        let place = frame.get_mut(offset..offset + N);
        place.map(|place| place.copy_from_slice(bytes)).is_some()
    }

    fn resize(&self, length: usize) -> bool {
        self.frame.borrow_mut().resize(length, 0);
        true
    }

    fn exact(&self, offset: usize, length: usize) -> Option<u32> {
        self.find(&self.names, offset, length)
    }

    fn wildcard(&self, offset: usize, length: usize) -> Option<u32> {
        self.find(&self.wildcards, offset, length)
    }
}

/// Judges the frame at hand as the programs do, one after the other.
pub fn judge(host: &Host) -> Verdict {
    let verdict = verdict::judge(host);
    match verdict.action {
        Action::Unwrap => rarely(host, tunnel::judge(host)),
        Action::Unusual => unusual::judge(host),
        _ => rarely(host, verdict),
    }
}

fn rarely(host: &Host, verdict: Verdict) -> Verdict {
    if verdict.action == Action::Rare { rare::judge(host) } else { verdict }
}

/// What a row has to count, for comparing.
pub fn expected(row: &Fixture) -> Vec<Reason> {
    let mut reasons: Vec<_> = row.hello.into_iter().chain([row.verdict.reason]).collect();
    reasons.sort();
    reasons
}

/// A row's name for messages.
pub fn label(row: &Fixture) -> String {
    format!("{} ({} bytes)", row.description, row.frame.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::server_name;
    use crate::packet::{shape, walk};
    use proptest::prelude::*;

    #[test]
    fn the_host_judges_the_table() {
        let mut host = Host::new();
        for row in table() {
            host.frame = row.frame.clone().into();
            host.counted.borrow_mut().clear();
            assert_eq!(judge(&host), row.verdict, "{}", label(&row));
            if row.verdict.action != Action::Drop {
                assert_eq!(
                    *host.frame.borrow(),
                    *row.becomes.as_ref().unwrap_or(&row.frame),
                    "{}",
                    label(&row)
                );
            }
            let mut counted = host.counted.borrow().clone();
            counted.sort();
            assert_eq!(counted, expected(&row), "{}", label(&row));
        }
    }

    #[test]
    fn every_prefix_of_a_hello_is_split_or_whole() {
        for name in [Some(NAME), None] {
            let hello = client_hello(name, 40);
            let whole = server_name(&hello[..]);
            for length in 0..hello.len() {
                let part = server_name(&hello[..length]);
                assert!(part == Err(Reason::HelloSplit) || part == whole, "{length}: {part:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = server_name(&bytes[..]);
            let host = Host { frame: bytes.into(), ..Host::new() };
            judge(&host);
        }

        #[test]
        fn a_damaged_hello_never_points_outside(at in 0..200usize, byte: u8) {
            let mut hello = client_hello(Some(NAME), 20);
            let at = at % hello.len();
            hello[at] = byte;
            if let Ok(name) = server_name(&hello[..]) {
                prop_assert!(name.length > 0 && name.offset + name.length <= hello.len());
            }
        }

        #[test]
        fn both_ways_through_the_headers_agree(row in 0..table().len(), at in 12..60usize, byte: u8) {
            let mut frame = table().swap_remove(row).frame;
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
            let host = Host { frame: frame.into(), ..Host::new() };
            if let Some(packet) = shape(&host) {
                prop_assert_eq!(walk(&host), Ok(packet));
            }
        }
    }
}
