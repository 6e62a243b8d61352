//! Checksums that follow a rewrite: RFC 1624, equation 3, with every word that changes in one sum.
//!
//! One's complement sums don't depend on the order of bytes, so words are taken as they lie.

/// What a rewrite changes in the sum that a checksum is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change(u64);

impl Change {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// Four bytes become others.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        // 2^32 is 1 modulo 2^16 - 1, so halves need not be told apart before the end. Sixty-four
        // bits have room for two thousand million of these sums.
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Two bytes become others.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// An address becomes another.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.word(old[0], new[0]).word(old[1], new[1]).word(old[2], new[2]).word(old[3], new[3])
    }

    /// The checksum after the change.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }

    /// The same for UDP, where 0 says that there is no checksum: it stays 0, and a sum that comes
    /// to 0 is written as all ones (RFC 768).
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            other => other,
        }
    }
}

/// Sixteen bits of a sum, carries added.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    /// The transport checksum of a packet as an independent library calculates it.
    fn packet(
        v6: bool,
        udp: bool,
        source: [u8; 16],
        target: [u8; 16],
        ports: (u16, u16),
        body: &[u8],
    ) -> [u16; 2] {
        let four = |a: [u8; 16]| [a[12], a[13], a[14], a[15]];
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            ethernet.ipv6(source, target, 64)
        } else {
            ethernet.ipv4(four(source), four(target), 64)
        };
        let mut frame = Vec::new();
        if udp {
            ip.udp(ports.0, ports.1).write(&mut frame, body).expect("a Vec takes everything");
        } else {
            ip.tcp(ports.0, ports.1, 1, 1000).write(&mut frame, body).expect("a Vec takes everything");
        }
        let sliced = SlicedPacket::from_ethernet(&frame).expect("whole");
        let transport = match sliced.transport.expect("there is one") {
            TransportSlice::Tcp(tcp) => tcp.checksum(),
            TransportSlice::Udp(udp) => udp.checksum(),
            _ => panic!("neither TCP nor UDP"),
        };
        let header = if v6 { 0 } else { u16::from_be_bytes([frame[24], frame[25]]) };
        [header, transport]
    }

    fn words(a: [u8; 16]) -> [u32; 4] {
        crate::verdict::words(a)
    }

    proptest! {
        #[test]
        fn rewritten_checksums_are_those_of_the_rewritten_packet(
            v6: bool, udp: bool, from: [u8; 16], to: [u8; 16], new_from: [u8; 16], new_to: [u8; 16],
            ports: (u16, u16), new_ports: (u16, u16), body in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            // The words in front of an IPv4 address are the same in old and new.
            let cut = |mut a: [u8; 16]| { if !v6 { a[..12].fill(0); } a };
            let [from, to, new_from, new_to] = [from, to, new_from, new_to].map(cut);
            let [header, transport] = packet(v6, udp, from, to, ports, &body);
            let [want_header, want_transport] = packet(v6, udp, new_from, new_to, new_ports, &body);
            let addresses =
                Change::NONE.address(words(from), words(new_from)).address(words(to), words(new_to));
            let all = addresses
                .half(ports.0.to_be(), new_ports.0.to_be())
                .half(ports.1.to_be(), new_ports.1.to_be());
            if !v6 {
                prop_assert_eq!(addresses.apply(header.to_be()), want_header.to_be());
            }
            let got = if udp { all.apply_udp(transport.to_be()) } else { all.apply(transport.to_be()) };
            // Both zeros of one's complement are one number.
            let zero = |sum: u16| if sum == 0xffff { 0 } else { sum };
            prop_assert_eq!(zero(got), zero(want_transport.to_be()));
        }
    }

    #[test]
    fn no_checksum_stays_none() {
        assert_eq!(Change::NONE.word(1, 2).apply_udp(0), 0);
        // A sum that comes to zero.
        let old = 0x1234u16;
        let new = (0..=u16::MAX).find(|new| Change::NONE.half(7, *new).apply(old) == 0).expect("one");
        assert_eq!(Change::NONE.half(7, new).apply_udp(old), 0xffff);
    }
}
