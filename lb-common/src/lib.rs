//! What both sides of the kernel boundary agree on, as pure code.
//!
//! A frame takes this way, in the kernel and in host tests alike:
//!
//! ```text
//! frame ─► packet (headers) ─► verdict (VIP? hello? which counter?) ─► hello (server name) ─► Verdict
//!                                                                     └─► refuse (an answer in its place)
//!                                                                    ├─► forward (endpoint, flow, nat; direct)
//!                                                                    ├─► tunnel (packets in packets, to forward)
//!                                                                    ├─► cookie (handshake, class)
//!                                                                    ├─► rare (icmp, fragment, too_big)
//!                                                                    └─► unusual (tags), to forward
//! ```
//!
//! [`maps`] holds the layouts of everything the daemon and the programs share, [`reason`] the
//! counters, [`env`] what the code needs from its surroundings: the kernel program implements it
//! with helpers and maps, tests with slices and hash maps. Nothing here allocates, blocks or
//! panics, and nothing knows aya (but for the `user` feature's Pod impls).
#![no_std]

pub mod env;
pub mod maps;
pub mod reason;

pub mod cookie;
pub mod direct;
pub mod ends;
pub mod established;
pub mod flow;
pub mod flow_table;
pub mod forward;
pub mod fragment;
pub mod hello;
pub mod icmp;
pub mod maglev;
pub mod mark;
pub mod mark_table;
pub mod nat;
pub mod packet;
pub mod quic;
pub mod ranges;
pub mod rare;
pub mod refuse;
pub mod ring;
pub mod source;
pub mod tags;
pub mod too_big;
pub mod trace;
pub mod tunnel;
pub mod unusual;
pub mod verdict;
pub mod vips;

#[cfg(any(test, feature = "fixtures"))]
pub mod cookie_fixtures;
#[cfg(test)]
mod corpus;
#[cfg(any(test, feature = "fixtures"))]
pub mod direct_fixtures;
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
#[cfg(test)]
mod flow_model;
#[cfg(any(test, feature = "fixtures"))]
pub mod forward_fixtures;
#[cfg(any(test, feature = "fixtures"))]
pub mod quic_fixtures;
#[cfg(any(test, feature = "fixtures"))]
pub mod rare_fixtures;
#[cfg(any(test, feature = "fixtures"))]
pub mod unusual_fixtures;
