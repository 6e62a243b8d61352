//! Marks: what most packets of a flow need to know of it, in eight bytes.
//!
//! A flow fills a cache line, and with a hundred thousand of them nearly every packet would wait for
//! memory. Eight marks share one line. In the middle of a TCP connection, and of a flow of UDP over IPv4, a packet is
//! written anew and sent on by the mark alone; every [`PERIOD`] ticks, at both ends of a connection, and for
//! packets that go as they are always, the flow itself is compared and told. Where a mark lies is
//! [`crate::mark_table`]'s.
//!
//! The tag of a mark is a hash of the flow's ends, and says whether the mark lies in the bucket of its flow or in
//! the other one, so that a bucket and a tag are those of one flow, but for chance. Of two TCP connections that
//! share both neither is ever sent by its mark, which the SYN of the later one sees to. A packet of no connection
//! finds another one's tag about once in a million times: then it is taken for that one's, whose endpoint sees by
//! the sequence number that it is not. Shorter tags, in marks of four bytes, would let whoever sends packets of no
//! flow put them into other clients' connections once in a thousand times.
//!
//! In UDP any datagram may be a flow's first one, and nothing in it says whose it is. So a mark is relied on for it
//! only if its port is one that the datagram's own flow would have tried first ([`flow::is_own_port`]), which
//! leaves one chance in some ten billion. Over IPv6 it never is: there a client can choose its address so that it
//! has another one's hash.

use crate::ends::Ends;
use crate::flow::{
    self, DATAGRAMS_KEPT, DATAGRAMS_SPARED, FIRST_PORT, HALF_OPEN_KEPT, OPEN_SPARED, Phase, WAYS,
};
use crate::maglev::mix;
use crate::maps::MAX_BACKENDS;
use crate::packet::{TCP, UDP};

/// The marks of a bucket. 0: there was never one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Marks(pub [u64; WAYS as usize]);

/// What a bucket has for a new mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// How many places are free.
    pub free: u32,
    /// [`Mark::worth`] of the one that is given away first.
    pub worth: u32,
    /// Which one that is.
    pub way: u32,
}

impl Marks {
    /// A bit for each of them that has this tag, from the lowest on.
    #[inline(always)]
    pub const fn with_tag(&self, tag: u32) -> u32 {
        self.equal((tag as u64) << TAG, !0 << TAG)
    }

    /// A bit for each of them that leads to the same entry as another for the same tag.
    #[inline(always)]
    pub const fn of(&self, mark: Mark) -> u32 {
        self.equal(mark.0, FLOW)
    }

    /// How many there never were.
    #[inline(always)]
    pub const fn unused(&self) -> u32 {
        let bits = self.equal(0, !0);
        let pairs = (bits & 0x55) + (bits >> 1 & 0x55);
        let fours = (pairs & 0x33) + (pairs >> 2 & 0x33);
        (fours & 0xf) + (fours >> 4)
    }

    /// A bit for each of them that has these bits of a mask.
    #[inline(always)]
    const fn equal(&self, bits: u64, mask: u64) -> u32 {
        let mut found = 0;
        let mut at = 0;
        while at < WAYS as usize {
            found |= is_zero((self.0[at] ^ bits) & mask) << at;
            at += 1;
        }
        found
    }

    /// The place for a new mark, those from `way` on before others that are as good.
    #[inline(always)]
    pub fn room(&self, way: u32, now: u32) -> Room {
        let (mut best, mut sum) = (0, 0);
        for (at, mark) in (0u32..).zip(self.0) {
            let worth = Mark(mark).worth(now);
            sum += worth;
            // Places that come later are worth less if all else is the same.
            let step = at.wrapping_sub(way) % WAYS;
            let candidate = worth * WAYS + (WAYS - 1 - step);
            if candidate > best {
                best = candidate;
            }
        }
        let step = WAYS - 1 - best % WAYS;
        Room { free: sum / FREE, worth: best / WAYS, way: way.wrapping_add(step) % WAYS }
    }
}

/// 1 if it is 0, else 0. Of a comparison LLVM makes a branch, each of which the verifier would follow: eight of them
/// make 256 numbers, all of which it would tell apart.
#[inline(always)]
const fn is_zero(word: u64) -> u32 {
    let word = word >> 1 | word & 1;
    (word.wrapping_sub(1) >> 63) as u32
}

/// The lowest of eight bits that is set.
#[inline(always)]
pub const fn lowest(bits: u32) -> u32 {
    // A de Bruijn sequence: BPF has no instruction for it.
    let at = ((bits & bits.wrapping_neg()).wrapping_mul(0x1d) >> 5) & 7;
    0x3457_2610 >> (4 * at) & 7
}

/// For how many ticks a mark stands for its flow: a power of two. Longer, and flows of UDP would be given up that still
/// speak; shorter, and old marks would seem young more often, as there are only so many periods.
pub const PERIOD: u32 = 16;

/// A mark.
///
/// From the lowest bit on: the way to the entry (15, [`Way`]), the endpoint's slot (14), in which period the flow
/// was told (6), of which generation the endpoint was (3), whether the mark is to be relied on (1), whether the flow is
/// one of UDP then (1), whether it lies in its flow's second bucket (1), the tag (23). Of one that is not to be relied
/// on, the generation's place says what kind of flow it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

const BACKEND: u32 = 15;
const EPOCH: u32 = 29;
const KIND: u32 = 35;
const TAG: u32 = 40;
const _: () = assert!(MAX_BACKENDS <= 1 << (EPOCH - BACKEND));
const _: () = assert!(flow::PORTS as u32 + WAYS <= 1 << BACKEND);

/// All bits but those of when and what the mark was told.
const FLOW: u64 = !(((1 << (TAG - EPOCH)) - 1) << EPOCH);
/// After so many periods they come around.
pub(crate) const EPOCHS: u32 = 1 << (KIND - EPOCH);
const KINDS: u32 = 1 << (TAG - KIND);
const GENERATIONS: u32 = KINDS / 4;
/// Above the kinds of those that are not.
const RELIED_ON: u32 = GENERATIONS;
/// Besides, where the flow is one of UDP. It is a bit of that protocol's number that TCP's hasn't.
const OF_UDP: u32 = 2 * RELIED_ON;
const _: () = assert!(UDP as u32 & OF_UDP != 0 && TCP as u32 & OF_UDP == 0);
/// In a tag: the mark lies in its flow's second bucket.
const AWAY: u32 = 1;

/// Of none: all bits are 0.
const NEVER: u32 = 0;
/// Of a connection that is not open.
const CLOSED: u32 = 1;
/// Of UDP.
const DATAGRAMS: u32 = 2;
/// Of any, but another flow has the same tag.
const TWIN: u32 = 3;
/// Of UDP, with one datagram so far.
const ASKED: u32 = 4;

/// From how many periods on the entry of a flow of a kind is free.
const fn kept(kind: u32) -> u32 {
    match kind {
        CLOSED => periods(HALF_OPEN_KEPT),
        _ if is_of_datagrams(kind) => periods(DATAGRAMS_KEPT),
        _ => EPOCHS,
    }
}

/// Whether flows of a kind are of UDP.
const fn is_of_datagrams(kind: u32) -> bool {
    kind == DATAGRAMS || kind == ASKED || kind >= OF_UDP
}

/// How readily the place of a mark is given away, by kind and how many periods ago it was told. A table in place of
/// branches, see [`is_zero`].
static WORTH: [u16; (KINDS * EPOCHS) as usize] = {
    let mut worth = [0; (KINDS * EPOCHS) as usize];
    let mut at = 0;
    while at < KINDS * EPOCHS {
        let (kind, age) = (at / EPOCHS, at % EPOCHS);
        // From when on it is surely not spared any more in a full table, and what goes before older ones.
        let (spared, first) = match kind {
            CLOSED => (0, EPOCHS),
            ASKED => (0, 0),
            _ if is_of_datagrams(kind) => (periods(DATAGRAMS_SPARED), 0),
            _ => (periods(OPEN_SPARED), 0),
        };
        worth[at as usize] = match age {
            _ if kind == NEVER => UNUSED as u16,
            _ if age >= kept(kind) => GONE as u16,
            _ if age >= spared => (first + 1 + age) as u16,
            _ => 0,
        };
        at += 1;
    }
    worth
};
const _: () = assert!(periods(OPEN_SPARED) < EPOCHS && periods(DATAGRAMS_KEPT) < EPOCHS);
const _: () = assert!(PERIOD < OPEN_SPARED && PERIOD < DATAGRAMS_SPARED);

/// Periods that so many ticks have come to an end in, wherever they began.
const fn periods(ticks: u32) -> u32 {
    ticks.div_ceil(PERIOD) + 1
}

/// [`Mark::worth`] of one that there never was. Those whose flow is gone are worth more: as long as a
/// bucket has unused ones, no flow had to go elsewhere.
const UNUSED: u32 = FREE;
/// Of one whose flow is gone.
const GONE: u32 = FREE + 1;
/// From here on, a place is free. More than all others of a bucket together, so that a sum tells how many are.
const FREE: u32 = 4 * EPOCHS * WAYS;
const _: () = assert!(GONE <= u16::MAX as u32);

/// Where a flow's entry is, given its endpoint and its client: the port that its replies come to, or, where the
/// client's address and port are kept, which one of the client's bucket. 15 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way(pub u32);

impl Way {
    /// Of a flow at this place that has this port (network order; 0: the client's address and port are kept).
    #[inline(always)]
    pub const fn new(index: u32, port: u16) -> Self {
        if port == 0 {
            return Self(index & (WAYS - 1));
        }
        Self((u16::from_be(port).wrapping_sub(FIRST_PORT) as u32 + WAYS) & ((1 << BACKEND) - 1))
    }

    /// The port, network order.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        if self.0 < WAYS { 0 } else { ((self.0 - WAYS) as u16).wrapping_add(FIRST_PORT).to_be() }
    }
}

/// The tag of a flow whose client's [`crate::flow::hash`] this is, in its own bucket: never 0.
#[inline(always)]
pub const fn tag(hash: u64, ends: &Ends) -> u32 {
    let [a, b, c, d] = ends.target;
    let low = a as u64 | (b as u64) << 32;
    let high = (c ^ ends.target_port as u32) as u64 | (d as u64) << 32;
    let mixed = mix(hash ^ low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ high);
    let tag = (mixed >> TAG) as u32 & !AWAY;
    tag + 2 * AWAY * (tag == 0) as u32
}

/// The same in its second bucket.
#[inline(always)]
pub const fn away(tag: u32) -> u32 {
    tag | AWAY
}

impl Mark {
    /// Of a flow with this tag, of an endpoint in this slot, that [`Self::told`] is still to be told of.
    #[inline(always)]
    pub const fn new(tag: u32, backend: u32, way: Way, twin: bool) -> Self {
        let kind = if twin { TWIN } else { CLOSED };
        Self(way.0 as u64 | (backend as u64) << BACKEND | (kind as u64) << KIND | (tag as u64) << TAG)
    }

    /// The tag; 0: there was never a flow.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> TAG) as u32
    }

    /// The endpoint's slot.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        (self.0 >> BACKEND) as u32 & ((1 << (EPOCH - BACKEND)) - 1)
    }

    /// The way to the flow's entry.
    #[inline(always)]
    pub const fn way(self) -> Way {
        Way(self.0 as u32 & ((1 << BACKEND) - 1))
    }

    /// The port that replies come to, network order; 0: the client's address and port are kept.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.way().port()
    }

    /// Whether it can be relied on for a packet of this protocol, its endpoint's slot being of this generation.
    #[inline(always)]
    pub const fn holds(self, protocol: u8, generation: u32, now: u32) -> bool {
        (self.0 >> EPOCH) as u32 & (KINDS * EPOCHS - 1) == relied_on(protocol, generation, now)
    }

    /// The same after its flow was told of a packet, and is in this phase.
    ///
    /// One of UDP is relied on only where replies come to a port of the flow: its entry may seem old to who finds it
    /// otherwise, as [`crate::flow_table::owner`] knows.
    #[inline(always)]
    #[must_use]
    pub const fn told(self, phase: Phase, generation: u32, now: u32) -> Self {
        let kind = match phase {
            _ if self.kind() == TWIN => TWIN,
            Phase::Open => return self.with(relied_on(TCP, generation, now)),
            Phase::Datagrams if self.port() != 0 => return self.with(relied_on(UDP, generation, now)),
            Phase::Datagrams => DATAGRAMS,
            Phase::Asked => ASKED,
            _ => CLOSED,
        };
        self.with(kind << (KIND - EPOCH) | epoch(now))
    }

    /// The same, but never again to be relied on: another flow has its tag.
    #[inline(always)]
    #[must_use]
    pub const fn twin(self) -> Self {
        self.with(TWIN << (KIND - EPOCH) | (self.0 >> EPOCH) as u32 & (EPOCHS - 1))
    }

    /// The same, of a flow that is gone.
    #[inline(always)]
    #[must_use]
    pub const fn gone(self, now: u32) -> Self {
        self.with(CLOSED << (KIND - EPOCH) | epoch(now.wrapping_sub(kept(CLOSED) * PERIOD)))
    }

    /// How readily its place is given to another flow: the higher the sooner; 0: not at all.
    ///
    /// The flow itself needn't be asked. The client's packets tell the mark, and a mark that was not told for so
    /// long is of a client that said nothing for so long. Where periods have come around, it seems younger
    /// than it is.
    #[inline(always)]
    pub fn worth(self, now: u32) -> u32 {
        let age = epoch(now).wrapping_sub((self.0 >> EPOCH) as u32) % EPOCHS;
        WORTH[(self.kind() * EPOCHS + age) as usize] as u32
    }

    #[inline(always)]
    const fn kind(self) -> u32 {
        (self.0 >> KIND) as u32 & (KINDS - 1)
    }

    #[inline(always)]
    const fn with(self, told: u32) -> Self {
        Self(self.0 & FLOW | (told as u64) << EPOCH)
    }
}

/// The kind and period of a mark that is relied on.
#[inline(always)]
const fn relied_on(protocol: u8, generation: u32, now: u32) -> u32 {
    let kind = RELIED_ON | protocol as u32 & OF_UDP | generation_bits(generation);
    kind << (KIND - EPOCH) | epoch(now)
}

/// Tells what was there before an endpoint in its slot, each of which is two generations
/// ([`crate::maps::BackendValue::generation`]). They come around, but not at once while a flow is in use.
#[inline(always)]
const fn generation_bits(generation: u32) -> u32 {
    generation >> 1 & (GENERATIONS - 1)
}

/// Tells periods apart. They come around.
#[inline(always)]
const fn epoch(now: u32) -> u32 {
    now / PERIOD % EPOCHS
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::{PORTS, is_reply_port};
    use crate::packet::TCP;

    proptest! {
        #[test]
        fn fields_stay_apart(
            port in 0..PORTS, index: u32, keeps: bool, backend in 0..MAX_BACKENDS, generation: u32,
            tag in 1..1u32 << 24, tcp: bool, now: u32,
        ) {
            let (protocol, phase) = if tcp { (TCP, Phase::Open) } else { (UDP, Phase::Datagrams) };
            let relied_on = tcp || !keeps;
            let port = if keeps { 0 } else { (FIRST_PORT + port).to_be() };
            let way = Way::new(index, port);
            prop_assert_eq!((way.port(), !keeps || way.0 == index % WAYS), (port, true));
            let new = Mark::new(tag, backend, way, false).told(flow::first_phase(protocol), generation, now);
            let open = new.told(phase, generation, now);
            for mark in [new, open, open.twin(), open.gone(now)] {
                prop_assert_eq!((mark.way(), mark.backend(), mark.tag()), (way, backend, tag));
                prop_assert_eq!(Marks([mark.0; WAYS as usize]).of(new), 0xff);
            }
            prop_assert_eq!(Marks([new.0; WAYS as usize]).of(Mark::new(tag, backend ^ 1, way, false)), 0);
            let holds = |mark: Mark, generation, now| mark.holds(protocol, generation, now);
            prop_assert!(!holds(new, generation, now), "a new flow's");
            prop_assert_eq!(holds(open, generation, now), relied_on);
            prop_assert!(!open.holds(TCP + UDP - protocol, generation, now), "another protocol's");
            prop_assert!(!holds(open, generation, now.wrapping_add(PERIOD)), "too long ago");
            prop_assert!(!holds(open, generation.wrapping_add(2), now), "another endpoint");
            prop_assert!(!holds(open.gone(now), generation, now) && !holds(open.twin(), generation, now));
            prop_assert!(!holds(open.twin().told(phase, generation, now), generation, now));
            for phase in [Phase::Opening, Phase::Answered, Phase::Closing, Phase::Ending] {
                prop_assert_eq!(open.told(phase, generation, now), Mark::new(tag, backend, way, false).told(Phase::Opening, generation, now));
            }
        }

        #[test]
        fn tags_are_found(mut marks: [u64; WAYS as usize], at in 0..WAYS as usize, same in 0..WAYS as usize) {
            marks[same] = marks[at];
            let tag = Mark(marks[at]).tag();
            let mut bits = Marks(marks).with_tag(tag);
            for (n, mark) in marks.iter().enumerate() {
                prop_assert_eq!(bits >> n & 1 != 0, Mark(*mark).tag() == tag);
            }
            while bits != 0 {
                prop_assert_eq!(lowest(bits), bits.trailing_zeros());
                bits &= bits - 1;
            }
        }

        #[test]
        fn a_bucket_gives_the_best_of_its_places(
            marks in proptest::array::uniform8(prop_oneof![Just(0), any::<u64>()]), way in 0..WAYS, now: u32,
        ) {
            // Only what was never used is of no kind.
            let marks = marks.map(|mark| if Mark(mark).kind() == NEVER { 0 } else { mark });
            let room = Marks(marks).room(way, now);
            let worths = marks.map(|mark| Mark(mark).worth(now));
            prop_assert_eq!(room.worth, worths.into_iter().max().unwrap());
            prop_assert!(room.worth == 0 || worths[room.way as usize] == room.worth);
            prop_assert_eq!(room.free as usize, worths.iter().filter(|worth| **worth >= FREE).count());
            prop_assert_eq!(Marks(marks).unused() as usize, marks.iter().filter(|mark| **mark == 0).count());
        }

        /// What the mark says is never less than what the flow says by the time of its client's last packet.
        #[test]
        fn who_is_spared_is_spared_by_the_mark(told: u32, age in 0..2000u32, phase in 0..4usize, way in 0..2 * WAYS) {
            let phase = [Phase::Open, Phase::Datagrams, Phase::Opening, Phase::Asked][phase];
            let mark = Mark::new(7, 1, Way(way), false).told(phase, 1, told);
            // Of further packets in the same period it isn't told.
            let last = told | (PERIOD - 1);
            let now = last.wrapping_add(age);
            let stamp = flow::Stamp::new(phase, last);
            prop_assert!(stamp.worth(now) > 0 || mark.worth(now) == 0);
        }
    }

    #[test]
    fn a_full_bucket_gives_up_what_is_least_likely_to_live() {
        let now = 100_000;
        let at = |phase, age: u32| Mark::new(7, 1, Way(0), false).told(phase, 1, now - age).worth(now);
        let order = [
            at(Phase::Opening, 100),
            Mark(0).worth(now),
            at(Phase::Answered, 40),
            at(Phase::Closing, 1),
            at(Phase::Open, 500),
            at(Phase::Datagrams, 100),
        ];
        assert!(order.windows(2).all(|pair| pair[0] > pair[1]), "{order:?}");
        assert_eq!(at(Phase::Datagrams, 200), at(Phase::Opening, 100), "both are gone");
        assert_eq!(Mark::new(7, 1, Way(0), true).gone(now).worth(now), order[0]);
        for (phase, age) in [(Phase::Open, 300), (Phase::Datagrams, 29)] {
            assert_eq!(at(phase, age), 0, "{phase:?} {age}");
        }
        // A twin may be anything.
        let twin = Mark::new(7, 1, Way(0), true).told(Phase::Opening, 1, now - 300);
        assert_eq!((twin.worth(now), twin.worth(now + 2 * PERIOD) > 0), (0, true));
    }

    #[test]
    fn tags_differ_by_both_ends() {
        let mut tags = BTreeSet::new();
        for client in 0..32u32 {
            for vip in 0..32u32 {
                let source = [0, 0, 0xffff_0000, 0x0a00_0000 + client];
                let target = [0, 0, 0xffff_0000, vip << 24];
                let ends = Ends { source, target, source_port: 7, target_port: 80 };
                let hash = flow::hash(&source, 7, TCP);
                tags.insert(tag(hash, &ends));
                tags.insert(tag(hash, &Ends { target_port: 81, ..ends }));
            }
        }
        // 2,048 of eight million: by chance, one pair in four tables like this.
        assert!(tags.len() >= 2046 && !tags.contains(&0), "{}", tags.len());
        assert!(tags.iter().all(|tag| !tags.contains(&away(*tag))));
    }

    #[test]
    fn ways_are_ports_or_below() {
        assert!((0..WAYS).all(|way| Way(way).port() == 0));
        assert!((WAYS..WAYS + u32::from(PORTS)).all(|way| is_reply_port(u16::from_be(Way(way).port()))));
    }
}
