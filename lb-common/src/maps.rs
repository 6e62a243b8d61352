//! The maps that the daemon and the kernel programs share: layouts, names, sizes.
//!
//! All sizes are fixed here, so the kernel memory that Sluice can ever take is bounded: on a
//! machine of 64 CPUs about 30 MiB for flows (more with `--flows`), 1 MiB for VIPs, 9 MiB for ways and 31 MiB for
//! counters, plus 200 bytes for each name and 100 for each listed source that is really there.

use crate::cookie::{Admission, CookieSettings, SynOptions};
use crate::flow::{ENTRIES_OF_FLOW, Flow, WAYS};
use crate::mark::Marks;
use crate::quic::ServerKey;
use crate::reason::Reason;
use crate::vips::{CHUNKS, VipChunk, VipPlace};

/// VIPs of one node: its listeners are few, its L4 services may be thousands.
pub const MAX_VIPS: u32 = 10_240;
/// Where in `PROGRAMS` the program is that does [`crate::cookie::judge`].
pub const PROGRAM_ADMIT: u32 = 0;
/// Where the one is that does [`crate::verdict::look`].
pub const PROGRAM_LOOK: u32 = 1;
/// Where the one is that does [`crate::rare::judge`].
pub const PROGRAM_RARE: u32 = 2;
/// Where the one is that does [`crate::tunnel::judge`].
pub const PROGRAM_TUNNEL: u32 = 3;
/// Where the one is that does [`crate::unusual::judge`].
pub const PROGRAM_UNUSUAL: u32 = 4;
/// Where the one is that does the same while somebody watches.
pub const PROGRAM_SHOWN: u32 = 5;
/// How many programs there are.
pub const PROGRAMS_LEN: u32 = 6;
/// Server names, exact and wildcard each. Three times the 5,000 Ingresses that Sluice is tested
/// with; names beyond it are served all the same, just not counted by name.
pub const MAX_NAMES: u32 = 16_384;
/// Connections of TLS VIPs whose ClientHello was seen. Guards against counting a retransmission
/// twice and sees refused ones to their end, so the least recently used may go: it has to outlast a
/// retransmission, not the connection. The LRU evicts 128 at a time and for each CPU by itself, hence the room.
pub const MAX_FLOWS: u32 = 65_536;
/// Prefixes of the lists of sources. Each takes about 100 bytes once it is there.
pub const MAX_SOURCES: u32 = 1_000_000;
/// Sources whose budget is not whole. The least recently used is forgotten, which gives it a whole one.
pub const MAX_BUDGETS: u32 = 131_072;
/// CPUs that steering knows.
pub const MAX_CPUS: u32 = 1024;
/// Classes of connections: [`CLASS_TERMINATE`], [`CLASS_PASSTHROUGH`] and named pools of workers.
pub const MAX_CLASSES: u32 = 32;
/// Connections that XDP answered itself and then gave to the stack. An entry that was evicted costs a
/// look at the stack's own table, not the connection.
pub const MAX_ADMISSIONS: u32 = 65_536;
/// What SYNs of clients without TCP timestamps said, until their handshake is over.
pub const MAX_SYN_OPTIONS: u32 = 65_536;
/// Workers, one on each CPU at most.
pub const MAX_WORKERS: u32 = 512;
/// Longest server name the kernel tables hold. DNS allows 253, but hosts of Ingresses that come
/// near 128 are rare and the key is hashed whole; longer ones count as one reason.
pub const NAME_LEN: usize = 128;
/// How much of a first segment is looked at for a ClientHello: one jumbo-free MTU.
pub const HELLO_LEN: usize = 2048;

/// An address, port and protocol, as the VIP table's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct VipKey {
    /// IPv6, or IPv4 mapped (`::ffff:a.b.c.d`), each word as the bytes lie on the wire.
    pub address: [u32; 4],
    /// In network order, as the bytes lie on the wire.
    pub port: u16,
    /// The IP protocol: 6 or 17.
    pub protocol: u8,
    /// Always 0: every byte of a key counts.
    pub zero: u8,
}

/// What the kernel knows of a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VipValue {
    /// Its index in the VIP counters.
    pub slot: u32,
    /// [`VIP_OBSERVE_SNI`], [`VIP_FILTER_SNI`], [`VIP_STEER`]; or [`VIP_FORWARD`], [`VIP_AFFINITY`],
    /// [`VIP_RANGES`], [`VIP_DIRECT`], [`VIP_QUIC`].
    pub flags: u32,
}

/// ClientHellos to this VIP are parsed and counted.
pub const VIP_OBSERVE_SNI: u32 = 1;
/// And those whose name is in neither table are refused. Only together with [`VIP_OBSERVE_SNI`].
pub const VIP_FILTER_SNI: u32 = 2;

/// Connections to this VIP are forwarded to endpoints instead of going to the local stack.
pub const VIP_FORWARD: u32 = 4;
/// A client's connections all go to one endpoint, as long as its ring stays.
pub const VIP_AFFINITY: u32 = 8;
/// XDP does the TCP handshake and shows the stack the segment with the ClientHello first, once it knows
/// whose connection it is.
pub const VIP_STEER: u32 = 16;
/// Only clients that [`crate::ranges`] lists are let in. Only together with [`VIP_FORWARD`].
pub const VIP_RANGES: u32 = 32;
/// Packets go to endpoints on other nodes as they are: [`crate::direct`]. Only together with [`VIP_FORWARD`].
pub const VIP_DIRECT: u32 = 64;
/// Packets go to the endpoint that [`crate::quic`] finds in them, if it does. Only together with
/// [`VIP_FORWARD`], of UDP.
pub const VIP_QUIC: u32 = 128;

/// Connections whose TLS ends here, and all of which nothing better is known.
pub const CLASS_TERMINATE: u32 = 0;
/// Connections that go to endpoints as they are.
pub const CLASS_PASSTHROUGH: u32 = 1;
/// The first named pool of workers.
pub const CLASS_POOLS: u32 = 2;

/// What the name tables say of a name: the slot of its counter, and its class.
#[inline(always)]
pub const fn name_value(slot: u32, class: u32) -> u32 {
    slot & NAME_SLOT | class << NAME_CLASS_SHIFT
}

/// The slot in a [`name_value`].
#[inline(always)]
pub const fn name_slot(value: u32) -> u32 {
    value & NAME_SLOT
}

/// The class in a [`name_value`].
#[inline(always)]
pub const fn name_class(value: u32) -> u32 {
    value >> NAME_CLASS_SHIFT
}

const NAME_CLASS_SHIFT: u32 = 24;
const NAME_SLOT: u32 = (1 << NAME_CLASS_SHIFT) - 1;
const _: () = assert!(2 * MAX_NAMES <= NAME_SLOT && MAX_CLASSES <= 1 << (32 - NAME_CLASS_SHIFT));

/// How many flows are remembered, unless the daemon asks for another power of two.
pub const REMEMBERED_FLOWS: u32 = 131_072;
/// Entries of the flow table then: 16 MiB, and 2 MiB of marks, one for each. So many that flows, and connections
/// that were closed within the last minute, take half of them; a quarter where endpoints see the client's address.
pub const MAX_L4_FLOWS: u32 = REMEMBERED_FLOWS * ENTRIES_OF_FLOW;
/// Endpoints of VIPs in forward mode.
pub const MAX_BACKENDS: u32 = 16_384;
/// Ring entries in a chunk, which is what the daemon writes at once.
pub const RING_CHUNK: usize = 128;
/// Chunks of rings: 8 MiB. Half of them stay free for rings that take others' places, so there is room for
/// 2,048 small Services, 62 whose packets go as they are, or 15 with the largest ring.
pub const MAX_RING_CHUNKS: u32 = 16_384;
/// Prefixes of clients, of all VIPs together. Each takes about 100 bytes once it is there.
pub const MAX_RANGES: u32 = 131_072;
/// Endpoints that QUIC packets may name, of all VIPs together. Each takes about 100 bytes once it is there.
pub const MAX_SERVERS: u32 = 65_536;
/// Datagrams whose fragments are on their way, in both directions.
pub const MAX_FRAGMENTS: u32 = 16_384;
/// Addresses of nodes: each has one or two.
pub const MAX_NODES: u32 = 16_384;
/// Interfaces with the program on them.
pub const MAX_UPLINKS: u32 = 64;
/// One for each port that an endpoint may have.
pub const KEPT_PORTS: u32 = 65_536;
/// Ways to endpoints that a CPU remembers, and ways to clients: a power of two.
pub const WAY_SLOTS: u32 = 1024;

/// Where the ring of a VIP in forward mode is. Eight aligned bytes, so that it changes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct ServiceValue {
    /// Its first chunk.
    pub first: u32,
    /// How many entries it has; 0: there is no endpoint.
    pub size: u32,
}

/// A part of a ring: [`crate::ring::Entry`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RingChunk(pub [u32; RING_CHUNK]);

/// An endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendValue {
    /// Its address, as in [`VipKey::address`].
    pub address: [u32; 4],
    /// Its port, network order.
    pub port: u16,
    /// The IP protocol of packets that are written anew for it; [`DIRECT_L2`], [`DIRECT_IPIP`] or
    /// [`DIRECT_GUE`] where they go as they are, the port being 0 then; 0: the slot is free.
    pub protocol: u8,
    /// 1: takes no new connections.
    pub draining: u8,
    /// Rises by one when the slot's endpoint goes, and by one when another comes.
    pub generation: u32,
}

/// Packets go as they are, with its MAC: it is in the same segment.
pub const DIRECT_L2: u8 = 253;
/// Packets go as they are, in an IP packet.
pub const DIRECT_IPIP: u8 = 254;
/// Packets go as they are, in a UDP datagram.
pub const DIRECT_GUE: u8 = 255;

impl BackendValue {
    /// Whether packets go there as they are.
    #[inline(always)]
    pub const fn is_direct(&self) -> bool {
        self.protocol >= DIRECT_L2
    }
}

/// What is known of an address: it is one of this node's.
pub const NODE_SELF: u32 = 1;
/// It is another node's, who may send packets in packets.
pub const NODE_PEER: u32 = 2;

/// A way to an endpoint that a CPU remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WayValue {
    /// Whose way it is: slot and generation.
    pub backend: u32,
    /// See there.
    pub generation: u32,
    /// Until when it holds, in the kernel's jiffies.
    pub until: u64,
    /// By which interface; 0: the kernel delivers.
    pub interface: u32,
    /// Destination and source MAC.
    pub macs: [u32; 3],
    /// The node's address there.
    pub source: [u32; 4],
    /// The longest packet that it takes, in bytes from the IP header on.
    pub mtu: u32,
    /// Not 0: somebody else is between, whose MAC it is.
    pub gateway: u32,
}

/// A way to a client that a CPU remembers. Of the way, backend, generation and source are unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClientWay {
    /// The way.
    pub way: WayValue,
    /// To whom.
    pub client: [u32; 4],
    /// From which VIP: routes may depend on it.
    pub vip: [u32; 4],
    /// Likewise the interface that the reply came by.
    pub arrival: u32,
}

impl ClientWay {
    /// Where a client's way is kept, among [`WAY_SLOTS`].
    #[inline(always)]
    pub const fn slot(client: &[u32; 4]) -> u32 {
        let word = client[0] ^ client[1].rotate_left(8) ^ client[2].rotate_left(16) ^ client[3];
        word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - WAY_SLOTS.trailing_zeros())
    }

    /// Whether it is the one of a packet from a VIP to a client that arrived by an interface.
    #[inline(always)]
    pub const fn is_of(&self, client: &[u32; 4], vip: &[u32; 4], arrival: u32) -> bool {
        let mut other = self.arrival ^ arrival;
        let mut at = 0;
        while at < 4 {
            other |= self.client[at] ^ client[at] | self.vip[at] ^ vip[at];
            at += 1;
        }
        other == 0
    }
}

/// Counters of one VIP on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VipCounters {
    /// Frames to the VIP.
    pub packets: u64,
    /// Their lengths from the Ethernet header to the end of the IP packet, without padding.
    pub bytes: u64,
    /// TCP SYNs without ACK.
    pub connections: u64,
}

/// Counters by reason on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ReasonCounters(pub [u64; REASON_SLOTS]);

/// A power of two with room for every reason: the kernel program masks its index for the verifier.
pub const REASON_SLOTS: usize = 64;
const _: () = assert!(Reason::ALL.len() <= REASON_SLOTS);

/// A server name: lower case, the rest zero. A wildcard's key is what follows `*.`.
///
/// In words, so that the kernel program fills, lowers and compares eight bytes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct NameKey(pub [u64; NAME_LEN / 8]);

impl NameKey {
    /// The key of a name; ASCII upper case becomes lower. `None`: empty or longer than [`NAME_LEN`].
    pub fn new(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > NAME_LEN {
            return None;
        }
        let mut words = [0; NAME_LEN / 8];
        for (word, part) in words.iter_mut().zip(name.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            *word = u64::from_ne_bytes(bytes);
        }
        let mut key = Self(words);
        key.make_lower();
        Some(key)
    }

    /// Turns ASCII upper case into lower, eight bytes at a time.
    #[inline(always)]
    pub fn make_lower(&mut self) {
        for word in &mut self.0 {
            *word = lower(*word);
        }
    }

    /// The bytes, padding included.
    pub fn bytes(&self) -> [u8; NAME_LEN] {
        let mut bytes = [0; NAME_LEN];
        for (part, word) in bytes.chunks_mut(8).zip(self.0) {
            part.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// ASCII lower case of eight bytes at once; bytes above 127 stay as they are.
#[inline(always)]
pub const fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * ONES);
    // The high bit of each byte says: at least 'A' / more than 'Z'.
    let from_a = low + (0x80 - b'A' as u64) * ONES;
    let past_z = low + (0x80 - b'Z' as u64 - 1) * ONES;
    let upper = (from_a & !past_z & !word) & (0x80 * ONES);
    word | (upper >> 2)
}

/// A connection, as seen from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The client, as in [`VipKey::address`].
    pub source: [u32; 4],
    /// The VIP.
    pub destination: [u32; 4],
    /// The client's port, network order.
    pub source_port: u16,
    /// The VIP's port, network order.
    pub destination_port: u16,
}

/// The rules for sources that are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tuning {
    /// [`TUNE_SOURCES`], [`TUNE_BUDGET`], [`TUNE_COOKIES`], [`TUNE_ALL_COOKIES`].
    pub flags: u32,
    /// How many connections a source may open at once, at least 1.
    pub burst: u32,
    /// Nanoseconds for each further one, at most a second.
    pub interval: u64,
    /// SYNs a second, on one CPU, above which it is a flood; 0: [`crate::cookie::SYN_RATE`].
    pub syn_rate: u32,
    /// Always 0.
    pub zero: u32,
}

/// The lists of sources are not empty.
pub const TUNE_SOURCES: u32 = 1;
/// Sources have budgets of new connections.
pub const TUNE_BUDGET: u32 = 2;
/// VIPs in proxy mode get SYN cookies when SYNs come faster than they should.
pub const TUNE_COOKIES: u32 = 4;
/// And at any time. Only together with [`TUNE_COOKIES`].
pub const TUNE_ALL_COOKIES: u32 = 8;

/// What the list says of a prefix: dropped.
pub const SOURCE_DENY: u32 = 1;
/// What the list says of a prefix: let in, without a budget.
pub const SOURCE_ALLOW: u32 = 2;
/// [`SOURCE_DENY`] for a time: written by the daemon, for what the proxy caught the source at.
pub const SOURCE_BANNED: u32 = 3;

/// What is known of a connection of a TLS VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowState {
    /// [`FLOW_SEEN`], [`FLOW_REFUSED`] or [`FLOW_CLOSING`].
    pub kind: u32,
    /// Of a refused connection: the sequence number that the local stack expects next.
    pub expects: u32,
}

impl From<u64> for FlowState {
    #[inline(always)]
    fn from(packed: u64) -> Self {
        Self { kind: packed as u32, expects: (packed >> 32) as u32 }
    }
}

impl From<FlowState> for u64 {
    #[inline(always)]
    fn from(state: FlowState) -> Self {
        (state.expects as u64) << 32 | state.kind as u64
    }
}

/// Its ClientHello was counted, and passed on.
pub const FLOW_SEEN: u32 = 1;
/// Its ClientHello was refused; the local stack still waits for it.
pub const FLOW_REFUSED: u32 = 2;
/// Refused, and the local stack was told.
pub const FLOW_CLOSING: u32 = 3;

/// What a shared map is called and how it is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// Its name in the object and under the pin directory.
    pub name: &'static str,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Most entries.
    pub entries: u32,
}

const fn layout<K, V>(name: &'static str, entries: u32) -> MapLayout {
    MapLayout { name, key: size_of::<K>(), value: size_of::<V>(), entries }
}

/// The maps that live on between two runs of the daemon.
pub const MAPS: [MapLayout; 27] = [
    layout::<u32, VipChunk>("VIPS", CHUNKS),
    layout::<u32, VipCounters>("VIP_COUNTERS", MAX_VIPS),
    layout::<u32, ReasonCounters>("REASONS", 1),
    layout::<NameKey, u32>("NAMES", MAX_NAMES),
    layout::<NameKey, u32>("WILDCARDS", MAX_NAMES),
    layout::<u32, u64>("NAME_COUNTERS", 2 * MAX_NAMES),
    layout::<FlowKey, FlowState>("FLOWS", MAX_FLOWS),
    // The key is the prefix's length and an address.
    layout::<[u32; 5], u32>("SOURCES", MAX_SOURCES),
    layout::<u32, Tuning>("TUNING", 1),
    layout::<u32, u32>("CPU_WORKER", MAX_CLASSES * MAX_CPUS),
    layout::<u32, u32>("SOCKETS", 2 * MAX_WORKERS),
    // Behind the rings of all endpoints, at the same places, those of this node's.
    layout::<u32, ServiceValue>("L4_SERVICES", 2 * MAX_VIPS),
    // When each VIP's ring changed last, in the kernel's monotonic seconds.
    layout::<u32, u32>("L4_CHANGED", MAX_VIPS),
    layout::<[u32; 4], u32>("L4_NODES", MAX_NODES),
    layout::<u32, RingChunk>("L4_RINGS", MAX_RING_CHUNKS),
    layout::<u32, BackendValue>("L4_BACKENDS", MAX_BACKENDS),
    layout::<u32, Flow>("L4_FLOWS", MAX_L4_FLOWS),
    layout::<u32, Marks>("L4_MARKS", MAX_L4_FLOWS / WAYS),
    // As in `SOURCES`.
    layout::<[u32; 6], u32>("L4_RANGES", MAX_RANGES),
    layout::<ServerKey, u32>("L4_SERVERS", MAX_SERVERS),
    layout::<u32, u32>("UPLINKS", MAX_UPLINKS),
    layout::<u32, u32>("L4_KEPT", KEPT_PORTS),
    layout::<FlowKey, Admission>("ADMISSIONS", MAX_ADMISSIONS),
    layout::<FlowKey, SynOptions>("SYN_OPTIONS", MAX_SYN_OPTIONS),
    layout::<u32, CookieSettings>("COOKIES", 1),
    layout::<u32, u64>("COOKIES_USED", 1),
    // Which programs XDP goes on to.
    layout::<u32, u32>("PROGRAMS", PROGRAMS_LEN),
];

/// Raise it when the meaning of a map's bytes changes and their number does not.
const MEANING: u64 = 7;

/// Names the layout of all of [`MAPS`] (FNV-1a over names and sizes). Kept in the one-element map
/// [`LAYOUT_MAP`]: pinned maps of another layout are replaced, never reused.
pub const LAYOUT: u64 = {
    let mut hash = fnv(0xcbf2_9ce4_8422_2325, MEANING);
    let mut i = 0;
    while i < MAPS.len() {
        let name = MAPS[i].name.as_bytes();
        let mut j = 0;
        while j < name.len() {
            hash = fnv(hash, name[j] as u64);
            j += 1;
        }
        hash = fnv(hash, MAPS[i].key as u64);
        hash = fnv(hash, MAPS[i].value as u64);
        hash = fnv(hash, MAPS[i].entries as u64);
        i += 1;
    }
    hash
};

/// Holds [`LAYOUT`] in its only element.
pub const LAYOUT_MAP: &str = "LAYOUT";

const fn fnv(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3)
}

#[cfg(feature = "user")]
mod pod {
    use super::{
        Admission, BackendValue, CookieSettings, Flow, FlowKey, FlowState, NameKey, ReasonCounters,
        RingChunk, ServerKey, ServiceValue, SynOptions, Tuning, VipChunk, VipCounters, VipKey, VipValue,
    };
    use crate::trace::Rule;

    macro_rules! pod {
        ($($name:ty),*) => {$(
            // SAFETY: repr(C), made of integers only, without padding (checked below).
            unsafe impl aya::Pod for $name {}
        )*};
    }
    pod!(VipKey, VipValue, VipChunk, VipCounters, ReasonCounters, NameKey, FlowKey, FlowState, Tuning);
    pod!(ServiceValue, RingChunk, BackendValue, Flow, ServerKey, Rule);
    pod!(Admission, SynOptions, CookieSettings);
}

const _: () = assert!(size_of::<VipKey>() == 16 + 2 + 1 + 1);
const _: () = assert!(size_of::<VipPlace>() == 20 + 4 + 8);
const _: () = assert!(size_of::<VipValue>() == 8 && size_of::<VipCounters>() == 24);
const _: () = assert!(size_of::<Tuning>() == 24 && size_of::<ServerKey>() == 16);
const _: () = assert!(size_of::<FlowKey>() == 32 + 4);
const _: () = assert!(size_of::<Admission>() == 24 && size_of::<SynOptions>() == 4);
const _: () = assert!(size_of::<CookieSettings>() == 12);
const _: () = assert!(size_of::<ServiceValue>() == 8 && size_of::<BackendValue>() == 24);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn names_are_lowered_bytewise() {
        for byte in 0..=255u8 {
            let expect = byte.to_ascii_lowercase();
            for at in 0..8 {
                let mut bytes = [b'@', b'Z', b'[', b'a', 0xc1, 0, 0xff, b'A'];
                let mut want = bytes.map(|b| b.to_ascii_lowercase());
                (bytes[at], want[at]) = (byte, expect);
                assert_eq!(lower(u64::from_ne_bytes(bytes)).to_ne_bytes(), want, "byte {byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn keys_hold_up_to_128_bytes() {
        let long = std::vec![b'a'; NAME_LEN];
        assert!(NameKey::new(&long).is_some());
        assert!(NameKey::new(&[&long[..], b"a"].concat()).is_none());
        assert!(NameKey::new(b"").is_none());
        assert_eq!(&NameKey::new(b"WWW.Example.com").unwrap().bytes()[..16], b"www.example.com\0");
    }
}
