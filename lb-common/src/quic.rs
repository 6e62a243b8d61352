//! The endpoint that a QUIC packet names by its connection id.
//!
//! A QUIC connection outlives its client's address and port (RFC 9000 section 9), and a flow does not:
//! the packet that comes from elsewhere begins a flow of its own, which the ring may give to an endpoint
//! that knows nothing of the connection. But every packet of a client, once the server has answered,
//! carries a connection id that the server chose. Where a VIP asks for it, those ids are read by the
//! plaintext scheme of draft-ietf-quic-load-balancers (config 0), in which the server id is the endpoint's
//! own address, so that a pod needs nothing but its address to make its ids, and the node no registry:
//!
//! ```text
//! octet 0      000 (config rotation bits) | how many octets follow (5 bits)
//! octets 1..   server id: the 4 octets of an IPv4 address, or the last 8 of an IPv6 address
//! the rest     at least 4 octets of the server's choice, unlike in all its other ids
//! ```
//!
//! `08 0a090102 5f3c91aa` is an id of 10.9.1.2. The first packets of a connection, whose ids the client
//! chose, and all others that name no endpoint of the VIP, go the way of their flow or of the ring.

use crate::forward::Forward;
use crate::packet::{Packet, UDP};
use crate::verdict::is_v4;

/// Set in the first octet of a packet with a long header (RFC 8999 section 5.1).
const LONG: u8 = 0x80;

/// How many octets of an id are the server's own choice, at least.
pub const NONCE: u8 = 4;

/// The bits of an id's first octet that say which scheme it is of. Ours: 0.
const ROTATION: u8 = 0xe0;

/// An endpoint of a VIP, by the server id that names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ServerKey {
    /// [`server_id`]'s.
    pub id: u64,
    /// The slot of the VIP.
    pub vip: u32,
    /// Always 0: every byte of a key counts.
    pub zero: u32,
}

/// The server id of an endpoint with this address (as in [`crate::maps::VipKey::address`]), in the order
/// of the octets; IPv4's are followed by zeros. Two IPv6 addresses may have the same.
#[inline(always)]
pub const fn server_id(address: &[u32; 4]) -> u64 {
    let [_, _, c, d] = *address;
    let [i, j, k, l] = c.to_ne_bytes();
    let [m, n, o, p] = d.to_ne_bytes();
    if is_v4(address) {
        return u64::from_ne_bytes([m, n, o, p, 0, 0, 0, 0]);
    }
    u64::from_ne_bytes([i, j, k, l, m, n, o, p])
}

/// How much of a datagram is looked at: to the end of a server id behind a long header. No packet with an
/// id of the scheme is shorter, as 20 octets follow the id (RFC 9001 section 5.4.2).
pub const HEAD: usize = 16;

/// The slot plus one of the endpoint that a UDP packet names, of the VIP with this slot; 0: none.
/// `packet` is one of the shapes that lie at constant offsets.
#[inline(always)]
pub fn named<E: Forward>(env: &E, packet: &Packet, vip: u32) -> u32 {
    let (head, header) = if packet.v6 { (env.near::<HEAD>(62), 62) } else { (env.near::<HEAD>(42), 42) };
    let Some(head) = head else { return 0 };
    look_up(env, &head, (packet.end as u32).saturating_sub(header), packet.v6, vip)
}

/// Out of line: TCP should not pay for its registers. It reads no frame: LLVM would hand it the frame's
/// bounds as numbers, and calculate with them as the verifier allows nobody to.
#[inline(never)]
fn look_up<E: Forward>(env: &E, head: &[u8; HEAD], length: u32, v6: bool, vip: u32) -> u32 {
    let Some(id) = named_id(head, length, v6) else { return 0 };
    let Some(slot) = env.server(&ServerKey { id, vip, zero: 0 }) else { return 0 };
    // The endpoint may be gone by now, and its slot free.
    match env.backend(slot) {
        Some(backend) if backend.protocol == UDP => slot + 1,
        _ => 0,
    }
}

/// The server id in the destination connection id of a datagram that begins like this and has this
/// length, if the id is one of the scheme's. IPv6 endpoints have longer ones.
#[inline(always)]
pub const fn named_id(head: &[u8; HEAD], length: u32, v6: bool) -> Option<u64> {
    let h = head;
    let (end, first, id) = if h[0] & LONG != 0 {
        // The form, four octets of the version, the id's length.
        if h[5] != following(h[6]) + 1 {
            return None;
        }
        (6 + h[5] as u32, h[6], [h[7], h[8], h[9], h[10], h[11], h[12], h[13], h[14]])
    } else {
        // A short header doesn't say how long the id is.
        (2 + following(h[1]) as u32, h[1], [h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9]])
    };
    let server = if v6 { 8 } else { 4 };
    // Behind the packet, Ethernet may pad.
    if first & ROTATION != 0 || following(first) < server + NONCE || end > length {
        return None;
    }
    let [a, b, c, d, e, f, g, h] = id;
    Some(u64::from_ne_bytes(if v6 { [a, b, c, d, e, f, g, h] } else { [a, b, c, d, 0, 0, 0, 0] }))
}

/// How many octets follow an id's first one.
#[inline(always)]
const fn following(first: u8) -> u8 {
    first & !ROTATION
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::verdict::{mapped, words};

    const V4: [u8; 4] = [10, 9, 1, 2];
    const V6: [u8; 16] = [0xfd, 0, 0, 9, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    /// What is read of a datagram with this payload, and with `padding` bytes behind it.
    fn id(v6: bool, payload: &[u8], padding: usize) -> Option<u64> {
        let padded = [payload, &vec![0xaa; padding]].concat();
        named_id(padded.first_chunk()?, payload.len() as u32, v6)
    }

    fn short(cid: &[u8]) -> Vec<u8> {
        [&[0x40], cid, &[9; 20]].concat()
    }

    fn long(cid: &[u8]) -> Vec<u8> {
        [&[0xc3, 0, 0, 0, 1, cid.len() as u8], cid, &[4, 7, 7, 7, 7, 0]].concat()
    }

    /// An id of the scheme.
    fn cid(server: &[u8], nonce: &[u8]) -> Vec<u8> {
        [&[(server.len() + nonce.len()) as u8], server, nonce].concat()
    }

    fn ids() -> [(bool, Vec<u8>, u64); 2] {
        [(false, V4.to_vec(), server_id(&mapped(V4))), (true, V6[8..].to_vec(), server_id(&words(V6)))]
    }

    #[test]
    fn ids_of_the_scheme_are_read_from_both_headers() {
        for (v6, server, expect) in ids() {
            for nonce in [4, 5, 19 - server.len()] {
                let cid = cid(&server, &vec![0x5a; nonce]);
                for payload in [short(&cid), long(&cid)] {
                    assert_eq!(id(v6, &payload, 0), Some(expect), "{v6} {nonce} {payload:?}");
                    // A bit that is there to be greased (RFC 9287), and the version.
                    let greased = [&[payload[0] ^ 0x40], &payload[1..]].concat();
                    assert_eq!(id(v6, &greased, 0), Some(expect), "{v6} {nonce}");
                }
            }
        }
        assert_eq!(server_id(&mapped(V4)).to_ne_bytes(), [10, 9, 1, 2, 0, 0, 0, 0]);
        assert_eq!(server_id(&words(V6)).to_ne_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn other_ids_name_nobody() {
        for (v6, server, _) in ids() {
            let good = cid(&server, &[1, 2, 3, 4]);
            for rotation in 1..8u8 {
                let other = [&[good[0] | rotation << 5], &good[1..]].concat();
                assert_eq!(id(v6, &short(&other), 0), None, "config {rotation}");
                assert_eq!(id(v6, &long(&other), 0), None, "config {rotation}");
            }
            // Too little of the server's own; a length that is not the header's.
            let mean = cid(&server, &[1, 2, 3]);
            assert_eq!(id(v6, &short(&mean), 0), None);
            assert_eq!(id(v6, &long(&mean), 0), None);
            for length in (0..=255).filter(|length| usize::from(*length) != good.len()) {
                let mut payload = long(&good);
                payload[5] = length;
                payload.extend([0; 255]);
                assert_eq!(id(v6, &payload, 0), None, "{length}");
            }
        }
    }

    #[test]
    fn every_prefix_is_read_or_not_read() {
        for (v6, server, expect) in ids() {
            let cid = cid(&server, &[1, 2, 3, 4, 5]);
            for (payload, whole) in [(short(&cid), 1 + cid.len()), (long(&cid), 6 + cid.len())] {
                for length in 0..=payload.len() {
                    let read = length >= whole && length >= HEAD;
                    let want = read.then_some(expect);
                    assert_eq!(id(v6, &payload[..length], 0), want, "{length} of {payload:?}");
                    // What is behind the packet is not of it.
                    let want = (length >= whole).then_some(expect);
                    assert_eq!(id(v6, &payload[..length], 64), want, "{length} of {payload:?}, padded");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_address_is_found_again(
            address: [u8; 16], nonce in prop::collection::vec(any::<u8>(), 4..11), form: u8, v6: bool,
        ) {
            let (server, expect) = if v6 {
                // The mapped ones are no IPv6 endpoints'.
                prop_assume!(address[..8] != [0; 8]);
                (&address[8..], server_id(&words(address)))
            } else {
                let four = [address[0], address[1], address[2], address[3]];
                (&address[..4], server_id(&mapped(four)))
            };
            let cid = cid(server, &nonce);
            let mut payload = if form & LONG != 0 { long(&cid) } else { short(&cid) };
            payload[0] = form;
            prop_assert_eq!(id(v6, &payload, 0), Some(expect));
        }

        #[test]
        fn whatever_is_read_is_of_the_scheme(
            v6: bool, payload in prop::collection::vec(any::<u8>(), 0..48), padding in 0..32usize,
        ) {
            if let Some(found) = id(v6, &payload, padding) {
                let begin = if payload[0] & LONG != 0 { 6 } else { 1 };
                let (first, size) = (payload[begin], if v6 { 8 } else { 4 });
                let server = &payload[begin + 1..begin + 1 + size];
                prop_assert_eq!(&found.to_ne_bytes()[..size], server);
                prop_assert!(first < 32 && usize::from(first) >= size + usize::from(NONCE));
                prop_assert!(begin + 1 + usize::from(first) <= payload.len());
                prop_assert!(begin == 1 || payload[5] == first + 1);
            }
        }
    }
}
