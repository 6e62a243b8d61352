//! Clients that a VIP in forward mode takes packets from: `loadBalancerSourceRanges` of its Service.
//!
//! All VIPs share one table of prefixes, whose keys begin with the VIP's slot. Every packet is looked
//! up, not only the first of a connection: who is no longer listed is out, whatever he has open.

use crate::env::Env;
use crate::forward::Forward;
use crate::maps::VIP_RANGES;
use crate::packet::Packet;
use crate::verdict::{mapped, words};

/// How much of a key the slot takes, in bits. An address' prefix is counted from there.
pub const SLOT_BITS: u32 = 32;

/// A key of the table: the VIP's slot and an address, as in [`crate::maps::VipKey::address`].
pub type RangeKey = [u32; 5];

/// The key of an address.
#[inline(always)]
pub const fn key(slot: u32, address: &[u32; 4]) -> RangeKey {
    [slot, address[0], address[1], address[2], address[3]]
}

/// Whether a VIP takes a packet. Out of line: most VIPs take everybody's.
#[inline(never)]
pub fn admit<E: Forward>(env: &E, packet: &Packet, slot: u32) -> bool {
    let ip = packet.ip as usize;
    // What can't be read is from nowhere.
    source(env, packet.v6, ip).is_some_and(|address| env.in_range(&key(slot, &address)))
}

/// Whether a VIP with these flags asks for [`admit`].
#[inline(always)]
pub const fn asked(flags: u32) -> bool {
    flags & VIP_RANGES != 0
}

#[inline(always)]
fn source<E: Env>(env: &E, v6: bool, ip: usize) -> Option<[u32; 4]> {
    if v6 { env.reach::<16>(ip + 8).map(words) } else { env.reach::<4>(ip + 12).map(mapped) }
}
