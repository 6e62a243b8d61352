//! Flows: connections that the forwarder remembers, and where in the table they are.
//!
//! A flow is a cache line of `L4_FLOWS`, and lies where its replies look for it. A reply shows nothing of
//! the client: the endpoint that it comes from and the port that it comes to are the [`place`]. Flows whose
//! endpoint sees the client's address lie in a [`bucket`] that the client chooses. A client's packet finds
//! the place by the flow's mark ([`crate::mark`]).
//!
//! It is no hash map of the kernel's. An element of an array is found without a call, which
//! is what most of a packet's time goes to; whoever takes an entry with one compare-and-swap has its port
//! as well, so that no two flows ever have the same port at the same endpoint, without a lock; and what may be
//! thrown out is decided here rather than by an LRU that a flood of SYNs turns over.

use crate::maglev::mix;
use crate::packet::TCP;

/// Entries of a bucket.
pub const WAYS: u32 = 8;

/// The ports that replies come to: below the kernel's own for outgoing connections (32768 and up,
/// `net.ipv4.ip_local_port_range`) and above most that programs listen on.
pub const FIRST_PORT: u16 = 10_240;
/// How many ports there are.
pub const PORTS: u16 = 22_528;
/// How many of them a new flow tries. With half of the table taken, one flow in 16 million finds none.
pub const PORT_TRIES: u32 = 24;
/// How many entries there are for each flow that is to be remembered.
pub const ENTRIES_OF_FLOW: u32 = 2;

/// What is known of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// [`Stamp`]; 0: the entry is free. The only word that two CPUs may write.
    pub stamp: u64,
    /// The client, as in [`crate::maps::VipKey::address`].
    pub client: [u32; 4],
    /// The VIP.
    pub vip: [u32; 4],
    /// The client's port, network order.
    pub client_port: u16,
    /// The VIP's port, network order.
    pub vip_port: u16,
    /// The port that replies come to, network order; 0: the client's address and port are kept.
    pub port: u16,
    /// The IP protocol.
    pub protocol: u8,
    /// Always 0.
    pub zero: u8,
    /// The endpoint's slot.
    pub backend: u32,
    /// Its slot's generation: another one, and the endpoint is gone.
    pub generation: u32,
    /// Always 0.
    pub pad: [u32; 2],
}

const _: () = assert!(size_of::<Flow>() == 64);

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Being written; nobody may read it.
    Busy = 1,
    /// Only the client spoke.
    Opening,
    /// The endpoint answered.
    Answered,
    /// The client answered that: no flood of SYNs does.
    Open,
    /// UDP: the client spoke more than once.
    Datagrams,
    /// The client said FIN or RST, or the endpoint before the connection was open.
    Closing,
    /// The endpoint said so of an open one, whose mark may not know.
    Ending,
    /// UDP: the client spoke once, as who only asks for something does, and who floods.
    Asked,
}

/// Phases, and 0 for a free entry, rounded up to a power of two.
const PHASES: usize = 16;

/// By phase, 0 being a free entry: for how many ticks after its last packet a flow is kept. Open
/// connections: twice the two hours after which TCP asks whether the other side is still there.
///
/// Tables instead of branches: the verifier follows each branch, in each round of a loop.
const KEPT: [u32; PHASES] = by_phase([
    0,
    2,
    HALF_OPEN_KEPT,
    HALF_OPEN_KEPT,
    4 * 3600,
    DATAGRAMS_KEPT,
    CLOSING_KEPT,
    CLOSING_KEPT,
    DATAGRAMS_KEPT,
]);
/// For how many ticks after its last packet a flow is kept that was never open.
pub const HALF_OPEN_KEPT: u32 = 60;
/// Likewise one that was closed.
const CLOSING_KEPT: u32 = 60;
/// For how many ticks after its last datagram that was noted a flow of UDP is kept. Of a client's, one in each
/// [`crate::mark::PERIOD`] is noted.
pub const DATAGRAMS_KEPT: u32 = 180;
/// For how many ticks a full table leaves it alone: connections that may be alive longest.
const SPARED: [u32; PHASES] = by_phase([0, 2, 0, 0, OPEN_SPARED, DATAGRAMS_SPARED, 0, 0, 0]);
/// Open connections.
pub const OPEN_SPARED: u32 = 300;
/// Flows of UDP whose client spoke more than once.
pub const DATAGRAMS_SPARED: u32 = 30;
/// What is given up first once it may be: half-open ones, whatever their age, then closed ones and those of
/// clients that spoke once.
const FIRST: [u32; PHASES] = by_phase([0, 0, HALF_OPEN, HALF_OPEN, 0, 0, CLOSED, CLOSED, ASKED]);
const FREE: u32 = 1 << 29;
const HALF_OPEN: u32 = 1 << 25;
const CLOSED: u32 = 1 << 24;
/// From this on, closed ones are given up while the table has room elsewhere.
const CLOSED_LONG_AGO: u32 = CLOSED + 10;
/// Likewise, if nobody said anything for as long as others of UDP are spared: answers may take their time.
const ASKED: u32 = CLOSED_LONG_AGO - DATAGRAMS_SPARED;

/// What there is for each phase, from that of a free entry on.
const fn by_phase(known: [u32; Phase::Asked as usize + 1]) -> [u32; PHASES] {
    let mut all = [0; PHASES];
    let mut at = 0;
    while at < known.len() {
        all[at] = known[at];
        at += 1;
    }
    all
}

/// The [`Stamp::worth`] from which on a new flow takes an entry, by how many others it has looked at. At first
/// what is free; then who never opened, was closed a while ago, or asked long ago; in the end whoever isn't
/// spared.
#[inline(always)]
pub const fn wanted(attempt: u32, keeps: bool) -> u32 {
    // Those that keep the client's address go around their bucket three times.
    let patience = if keeps { WAYS } else { 2 };
    if attempt < patience {
        FREE
    } else if attempt < PORT_TRIES - WAYS {
        CLOSED_LONG_AGO
    } else {
        1
    }
}

/// When a flow's last packet came, and its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Of a flow whose packet came at this tick.
    #[inline(always)]
    pub const fn new(phase: Phase, tick: u32) -> Self {
        Self(tick as u64 | (phase as u64) << 32)
    }

    /// The phase; `None`: the entry is free.
    #[inline(always)]
    pub const fn phase(self) -> Option<Phase> {
        match (self.0 >> 32) as u8 {
            1 => Some(Phase::Busy),
            2 => Some(Phase::Opening),
            3 => Some(Phase::Answered),
            4 => Some(Phase::Open),
            5 => Some(Phase::Datagrams),
            6 => Some(Phase::Closing),
            7 => Some(Phase::Ending),
            8 => Some(Phase::Asked),
            _ => None,
        }
    }

    /// Ticks since then. A clock of another CPU that is a little ahead counts as none.
    #[inline(always)]
    pub const fn age(self, now: u32) -> u32 {
        let age = now.wrapping_sub(self.0 as u32);
        // Bounded, for what is added to it.
        if age > u32::MAX / 2 {
            0
        } else if age > 1 << 20 {
            1 << 20
        } else {
            age
        }
    }

    #[inline(always)]
    const fn index(self) -> usize {
        (self.0 >> 32) as usize & (PHASES - 1)
    }

    /// Whether the entry holds a flow, be it one that is being written.
    #[inline(always)]
    pub const fn taken(self, now: u32) -> bool {
        // An age of 0 counts as 1: what is free is kept for none.
        self.age(now) < KEPT[self.index()]
    }

    /// Whether the entry holds a flow that can be read.
    #[inline(always)]
    pub const fn alive(self, now: u32) -> bool {
        // A tick less than what makes the entry free: whoever reads has time to end.
        self.index() != Phase::Busy as usize && self.age(now) + 1 < KEPT[self.index()]
    }

    /// How readily the entry is given to another flow: the higher the sooner; 0: not at all.
    #[inline(always)]
    pub const fn worth(self, now: u32) -> u32 {
        let age = self.age(now);
        let at = self.index();
        let over = (age >= KEPT[at]) as u32;
        let unspared = (age >= SPARED[at]) as u32;
        over * FREE + unspared * (FIRST[at] + 1 + age)
    }

    /// Whether a mark of the flow may be relied on: it has to be cleared by who takes the entry.
    #[inline(always)]
    pub const fn may_be_relied_on(self) -> bool {
        const THESE: u32 = 1 << Phase::Open as u32 | 1 << Phase::Datagrams as u32 | 1 << Phase::Ending as u32;
        THESE >> self.index() & 1 != 0
    }
}

/// What a client's address, port and protocol choose a bucket by.
#[inline(always)]
pub const fn hash(client: &[u32; 4], port: u16, protocol: u8) -> u64 {
    let low = client[0] as u64 | (client[1] as u64) << 32;
    let high = client[2] as u64 | (client[3] as u64) << 32;
    let word = low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ high;
    mix(word.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ (port as u64) << 8 ^ protocol as u64)
}

/// The first entry of the bucket, and the entry in it that is looked at first.
#[inline(always)]
pub const fn bucket(hash: u64, mask: u32) -> (u32, u32) {
    (hash as u32 & mask & !(WAYS - 1), (hash >> 32) as u32 & (WAYS - 1))
}

/// The port of a flow's `attempt`, host order.
#[inline(always)]
pub const fn port(hash: u64, attempt: u32) -> u16 {
    let spread = (hash >> 16) as u32;
    let spread = spread.wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    FIRST_PORT + ((spread as u64 * PORTS as u64) >> 32) as u16
}

/// Whether a port (network order) is one of the first four that a flow tries, as nearly all flows'
/// are unless the table is full.
#[inline(always)]
pub const fn is_own_port(hash: u64, own: u16) -> bool {
    // One branch for all: 0 if one of them is.
    let mut other = 1;
    let mut attempt = 0;
    while attempt < 4 {
        other *= (port(hash, attempt).to_be() ^ own) as u64;
        attempt += 1;
    }
    other == 0
}

/// Whether replies may come to a port (host order).
#[inline(always)]
pub const fn is_reply_port(port: u16) -> bool {
    port.wrapping_sub(FIRST_PORT) < PORTS
}

/// The entry of the flow that has a port (host order) at an endpoint. `endpoint` is the [`hash`] of its address
/// and port, and `mask` how many entries there are less one.
#[inline(always)]
pub const fn place(endpoint: u64, port: u16, mask: u32) -> u32 {
    let mixed = (endpoint ^ (port as u64) << 40 ^ port as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 & mask
}

/// The phase of a new flow.
#[inline(always)]
pub const fn first_phase(protocol: u8) -> Phase {
    if protocol == TCP { Phase::Opening } else { Phase::Asked }
}

/// TCP flags that end a connection.
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const SYN: u8 = 0x02;

/// The phase after a packet of the client's.
#[inline(always)]
pub const fn after_client(phase: Phase, flags: u8) -> Phase {
    match phase {
        Phase::Datagrams | Phase::Asked => Phase::Datagrams,
        _ if flags & (FIN | RST) != 0 => Phase::Closing,
        Phase::Answered if flags & SYN == 0 => Phase::Open,
        _ => phase,
    }
}

/// The phase after a packet of the endpoint's.
#[inline(always)]
pub const fn after_endpoint(phase: Phase, flags: u8) -> Phase {
    match phase {
        Phase::Datagrams | Phase::Asked => phase,
        Phase::Open | Phase::Ending if flags & (FIN | RST) != 0 => Phase::Ending,
        _ if flags & (FIN | RST) != 0 => Phase::Closing,
        Phase::Opening => Phase::Answered,
        _ => phase,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn phases() {
        use Phase::*;
        const ACK: u8 = 0x10;
        for (before, flags, client, endpoint) in [
            (Opening, SYN, Opening, Answered),
            (Opening, ACK, Opening, Answered),
            (Answered, SYN, Answered, Answered),
            (Answered, ACK, Open, Answered),
            (Open, ACK, Open, Open),
            (Open, FIN | ACK, Closing, Ending),
            (Ending, FIN | ACK, Closing, Ending),
            (Ending, ACK, Ending, Ending),
            (Answered, RST, Closing, Closing),
            (Opening, RST, Closing, Closing),
            (Closing, ACK, Closing, Closing),
            (Asked, RST, Datagrams, Asked),
            (Datagrams, RST, Datagrams, Datagrams),
        ] {
            assert_eq!(after_client(before, flags), client, "{before:?} {flags:#x}");
            assert_eq!(after_endpoint(before, flags), endpoint, "{before:?} {flags:#x}");
        }
        for phase in [Busy, Opening, Answered, Open, Datagrams, Closing, Ending, Asked] {
            assert_eq!(Stamp::new(phase, 7).phase(), Some(phase));
        }
        assert_eq!(Stamp(0).phase(), None);
    }

    #[test]
    fn a_full_table_gives_up_what_is_least_likely_to_live() {
        let at = |phase, age: u32| Stamp::new(phase, 100_000 - age).worth(100_000);
        let order = [
            Stamp(0).worth(100_000),
            at(Phase::Datagrams, 181),
            at(Phase::Opening, 5),
            at(Phase::Answered, 1),
            at(Phase::Closing, 20),
            at(Phase::Ending, 10),
            at(Phase::Asked, 29),
            at(Phase::Open, 4000),
            at(Phase::Datagrams, 100),
        ];
        assert!(order.windows(2).all(|pair| pair[0] > pair[1]), "{order:?}");
        for (phase, age) in [(Phase::Open, 299), (Phase::Datagrams, 29), (Phase::Busy, 1)] {
            assert_eq!(at(phase, age), 0, "{phase:?} {age}");
        }
        for (keeps, attempt, phase, age, takes) in [
            (false, 1, Phase::Opening, 59, false),
            (false, 1, Phase::Opening, 60, true),
            (false, 2, Phase::Opening, 0, true),
            (false, 2, Phase::Closing, 8, false),
            (false, 2, Phase::Ending, 9, true),
            (false, 15, Phase::Open, 4000, false),
            (false, 16, Phase::Open, 300, true),
            (false, 16, Phase::Closing, 0, true),
            (false, 23, Phase::Open, 299, false),
            (true, 7, Phase::Opening, 59, false),
            (true, 8, Phase::Opening, 0, true),
            (false, 15, Phase::Asked, 28, false),
            (false, 2, Phase::Asked, 29, true),
            (false, 16, Phase::Asked, 0, true),
            (true, 16, Phase::Datagrams, 30, true),
        ] {
            assert_eq!(at(phase, age) >= wanted(attempt, keeps), takes, "{attempt} {phase:?} {age}");
        }
    }

    #[test]
    fn what_is_read_is_never_what_is_free() {
        for phase in [
            Phase::Busy,
            Phase::Opening,
            Phase::Open,
            Phase::Datagrams,
            Phase::Closing,
            Phase::Ending,
            Phase::Asked,
        ] {
            for age in 0..20_000 {
                let stamp = Stamp::new(phase, 5u32.wrapping_sub(age));
                assert!(stamp.taken(5) || !stamp.alive(5), "{phase:?} {age}");
            }
        }
        assert_eq!(Stamp::new(Phase::Open, 10).age(9), 0, "another CPU's clock is ahead");
        assert_eq!(Stamp::new(Phase::Open, u32::MAX).age(4), 5, "the clock wraps");
    }

    #[test]
    fn clients_spread_over_buckets() {
        let mask = 4096 * WAYS - 1;
        let mut buckets = BTreeMap::<u32, u32>::new();
        // Neighbours in address and port, as clients behind one gateway are.
        for client in 0..64u32 {
            for port in 0..128u16 {
                let address = [0, 0, 0xffff_0000, 0x0a00_0000 + (client << 24)];
                let (first, way) = bucket(hash(&address, (40_000 + port).to_be(), TCP), mask);
                assert!(first % WAYS == 0 && first <= mask && way < WAYS);
                *buckets.entry(first).or_default() += 1;
            }
        }
        // 8,192 in 4,096 buckets of 8: by chance, one bucket in 4,000 has more.
        let over = buckets.values().filter(|n| **n > WAYS).count();
        assert!(over < 10, "{over} buckets are over-full");
        assert!(buckets.len() > 3300, "{} buckets are used", buckets.len());
    }

    proptest! {
        #[test]
        fn ports_are_reply_ports_and_tries_differ(hash: u64) {
            let ports: BTreeSet<_> = (0..PORT_TRIES).map(|attempt| port(hash, attempt)).collect();
            prop_assert!(ports.iter().all(|port| is_reply_port(*port)));
            prop_assert_eq!(ports.len(), PORT_TRIES as usize);
            for attempt in 0..PORT_TRIES {
                prop_assert_eq!(is_own_port(hash, port(hash, attempt).to_be()), attempt < 4);
            }
        }
    }

    #[test]
    fn reply_ports() {
        for (port, expect) in [(10_239, false), (10_240, true), (32_767, true), (32_768, false), (0, false)] {
            assert_eq!(is_reply_port(port), expect, "{port}");
        }
    }
}
