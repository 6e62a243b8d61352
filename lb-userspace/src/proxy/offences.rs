//! What clients are caught at, told to whoever decides what becomes of them; and who is kept out.
//!
//! An offence is rare, and so is a change of who is kept out: the one goes into a channel, the other is a
//! set that workers read when a connection comes. Whoever is behind a proxy that is trusted with its
//! clients' addresses is never told on: the peer is not the one to blame, and the one to blame is not the
//! peer.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ahash::AHashSet;
use arc_swap::ArcSwapOption;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What a client was caught at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offence {
    /// HTTP/2 frames that cost more than they carry.
    Flood,
    /// HTTP/2 requests given up as soon as they are made.
    Resets,
    /// A request's head, or a TLS handshake, that began and did not come to its end in time.
    Slow,
    /// A TLS server name that nobody serves, where that is refused.
    Name,
    /// A connection above those that one client may have.
    Connections,
    /// A request above a route's limits. Weighs less than the others.
    Requests,
}

impl Offence {
    /// In words, behind "caught at".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Flood => "a flood of HTTP/2 frames",
            Self::Resets => "HTTP/2 requests made and given up",
            Self::Slow => "heads or handshakes that never end",
            Self::Name => "server names that nobody serves",
            Self::Connections => "too many connections",
            Self::Requests => "too many requests",
        }
    }
}

/// A client and what it was caught at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// One client, as [`client_network`] has it.
    pub source: IpNet,
    /// What.
    pub offence: Offence,
}

/// Where a worker tells of offences. What finds no room is dropped: then there are more than enough.
#[derive(Clone, Debug)]
pub(super) struct Offences(mpsc::Sender<Caught>);

/// How many offences wait to be heard of.
const ROOM: usize = 1024;

impl Offences {
    pub(super) fn new() -> (Self, mpsc::Receiver<Caught>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        (Self(sender), receiver)
    }

    pub(super) fn tell(&self, address: IpAddr, offence: Offence) {
        let _ = self.0.try_send(Caught { source: client_network(address), offence });
    }
}

/// Who is kept out.
#[derive(Debug, Default)]
pub(super) struct Banned(ArcSwapOption<AHashSet<IpAddr>>);

impl Banned {
    /// Whether a connection from this address is closed at once.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        let set = self.0.load();
        set.as_deref().is_some_and(|set| set.contains(&client_network(address).addr()))
    }

    pub(super) fn set(&self, sources: impl Iterator<Item = IpNet>) {
        let set: AHashSet<_> = sources.map(|source| source.addr()).collect();
        self.0.store((!set.is_empty()).then(|| Arc::new(set)));
    }
}

/// Who counts as one client: an IPv6 host has at least a /64 to choose addresses from.
pub fn client_network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(ip) => Ipv4Net::from(ip).into(),
        IpAddr::V6(ip) => {
            let first = Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64);
            Ipv6Net::new_assert(first, 64).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_addresses_and_halves_of_addresses() {
        for (address, expect) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8:0:1:ffff::1", "2001:db8:0:1::/64"),
        ] {
            let network = client_network(address.parse().expect("an address"));
            assert_eq!(network.to_string(), expect, "{address}");
        }
    }

    #[test]
    fn who_is_kept_out() {
        let banned = Banned::default();
        let holds = |text: &str| banned.holds(text.parse().expect("an address"));
        assert!(!holds("192.0.2.1"));
        banned.set(["192.0.2.1/32", "2001:db8::/64"].map(|text| text.parse().expect("a net")).into_iter());
        for (address, expect) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::7", true),
            ("2001:db8:0:1::7", false),
        ] {
            assert_eq!(holds(address), expect, "{address}");
        }
        banned.set(std::iter::empty());
        assert!(!holds("192.0.2.1"));
    }
}
