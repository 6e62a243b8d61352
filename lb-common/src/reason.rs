//! Why a packet or a connection went the way it did: one counter each.

/// The counters, in the order of their index in the `REASONS` map.
///
/// Every frame counts in exactly one of the reasons up to [`Reason::BogusFlags`] and from
/// [`Reason::Forwarded`] on; the `Hello…` reasons count TLS connections of observed VIPs, the `Steer…`
/// ones connections that sk_lookup saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Neither IPv4 nor IPv6 (ARP, LLDP, …).
    NotIp = 0,
    /// The frame ends inside a header that announces more.
    Truncated,
    /// A header contradicts itself: a version, a length or an offset that can't be.
    Malformed,
    /// More than two VLAN tags.
    TooManyTags,
    /// An IP fragment: ports aren't in every one, so none is judged by them.
    Fragment,
    /// More IPv6 extension headers than are followed.
    TooManyHeaders,
    /// IP, but not TCP, UDP or ICMP.
    OtherProtocol,
    /// ICMP or ICMPv6.
    Icmp,
    /// TCP or UDP to an address and port that are no VIP.
    NotVip,
    /// To a VIP: on to the local stack and its listener.
    Vip,
    /// A ClientHello with a name that nobody serves, to a VIP that refuses those: answered with an
    /// alert and the end of the stream.
    SniRefused,
    /// What the client of a refused ClientHello sent next: made a reset for the local stack,
    /// acknowledged, or dropped.
    SniClosing,
    /// From a source on the deny list, to a VIP: dropped.
    SourceDenied,
    /// A TCP SYN from a source that opened more connections than it may: dropped.
    SourceOverBudget,
    /// TCP to a VIP with flags that no stack sends: dropped.
    BogusFlags,
    /// A ClientHello with a name of the exact table.
    HelloExact,
    /// A ClientHello with a name that a wildcard covers.
    HelloWildcard,
    /// A ClientHello with a name that nobody serves.
    HelloUnknown,
    /// A ClientHello without a server name.
    HelloNoName,
    /// The server name is not whole in the first segment.
    HelloSplit,
    /// It begins as a ClientHello and isn't one.
    HelloMalformed,
    /// The server name is longer than the name tables' keys.
    HelloNameTooLong,
    /// A connection given to the listener of the worker on the receiving CPU.
    Steered,
    /// A connection to a VIP for which no worker has put a listener in place.
    SteerNoSocket,
    /// To a VIP in forward mode: on to an endpoint.
    Forwarded,
    /// An endpoint's reply: back to the client.
    Returned,
    /// To a VIP in forward mode, in a shape that is not forwarded (IPv4 options, IPv6 extension headers): dropped.
    ForwardUnusual,
    /// To a VIP in forward mode that has no endpoint: dropped.
    NoBackend,
    /// A TCP reset of no connection that is known: dropped.
    NoFlow,
    /// A new connection for which the flow table has no room: dropped.
    FlowsFull,
    /// A new connection for which no port at its endpoint is free: dropped.
    PortsFull,
    /// The kernel has no route to the endpoint, or does not forward: dropped.
    NoRoute,
    /// The MAC of the endpoint's next hop is not known yet: dropped. The daemon has the kernel ask for
    /// it when the endpoint comes.
    NoNeighbour,
    /// The way to the endpoint is of another kind than when the connection began: dropped.
    WayChanged,
    /// A SYN to a VIP, answered with a cookie.
    SynCookie,
    /// The end of such a handshake, to a VIP that steers by name: the ClientHello has to come first.
    CookieAck,
    /// To a VIP that steers by name, after a handshake that is too long ago, or instead of a
    /// ClientHello the end: answered with a reset.
    CookieReset,
    /// To a VIP that steers by name, of no connection that is known: dropped, the client sends it again.
    CookieStray,
    /// A connection that was to be handed to the stack, and the stack would not have it. Not a frame's.
    AdmissionRefused,
    /// To a VIP in forward mode, from a client that its Service doesn't list: dropped.
    SourceOutside,
    /// An ICMP error about an endpoint's reply: on to the endpoint.
    IcmpForwarded,
    /// An ICMP error about a client's packet: on to the client.
    IcmpReturned,
    /// A packet to a VIP in forward mode, or a reply, that is bigger than the way on takes: its sender
    /// is told.
    TooBig,
    /// The same, and too many were told already: dropped.
    TooBigUnanswered,
    /// A fragment of a UDP datagram to a VIP in forward mode: on to an endpoint.
    FragmentForwarded,
    /// A fragment of an endpoint's UDP reply: back to the client.
    FragmentReturned,
    /// To a VIP whose packets go as they are: in a packet of this node's to another one.
    Tunnelled,
    /// In another node's packet, to a VIP whose packets go as they are: taken out, on to an endpoint of this
    /// node.
    Decapsulated,
    /// The same from somebody who is none of the nodes that are known: passed to the local stack.
    TunnelForeign,
    /// To a VIP whose packets get other MACs only, and its endpoint is not in the same segment: dropped.
    NotAdjacent,
    /// To a VIP whose packets go as they are, and the way to its endpoint's node is by an interface without
    /// the program: dropped.
    NoUplink,
}

impl Reason {
    /// All of them, by index.
    pub const ALL: [Self; 51] = [
        Self::NotIp,
        Self::Truncated,
        Self::Malformed,
        Self::TooManyTags,
        Self::Fragment,
        Self::TooManyHeaders,
        Self::OtherProtocol,
        Self::Icmp,
        Self::NotVip,
        Self::Vip,
        Self::SniRefused,
        Self::SniClosing,
        Self::SourceDenied,
        Self::SourceOverBudget,
        Self::BogusFlags,
        Self::HelloExact,
        Self::HelloWildcard,
        Self::HelloUnknown,
        Self::HelloNoName,
        Self::HelloSplit,
        Self::HelloMalformed,
        Self::HelloNameTooLong,
        Self::Steered,
        Self::SteerNoSocket,
        Self::Forwarded,
        Self::Returned,
        Self::ForwardUnusual,
        Self::NoBackend,
        Self::NoFlow,
        Self::FlowsFull,
        Self::PortsFull,
        Self::NoRoute,
        Self::NoNeighbour,
        Self::WayChanged,
        Self::SynCookie,
        Self::CookieAck,
        Self::CookieReset,
        Self::CookieStray,
        Self::AdmissionRefused,
        Self::SourceOutside,
        Self::IcmpForwarded,
        Self::IcmpReturned,
        Self::TooBig,
        Self::TooBigUnanswered,
        Self::FragmentForwarded,
        Self::FragmentReturned,
        Self::Tunnelled,
        Self::Decapsulated,
        Self::TunnelForeign,
        Self::NotAdjacent,
        Self::NoUplink,
    ];

    /// The counter's name in JSON, metrics and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::TooManyTags => "too_many_tags",
            Self::Fragment => "fragment",
            Self::TooManyHeaders => "too_many_headers",
            Self::OtherProtocol => "other_protocol",
            Self::Icmp => "icmp",
            Self::NotVip => "not_vip",
            Self::Vip => "vip",
            Self::SniRefused => "sni_refused",
            Self::SniClosing => "sni_closing",
            Self::SourceDenied => "source_denied",
            Self::SourceOverBudget => "source_over_budget",
            Self::BogusFlags => "bogus_flags",
            Self::HelloExact => "hello_exact",
            Self::HelloWildcard => "hello_wildcard",
            Self::HelloUnknown => "hello_unknown",
            Self::HelloNoName => "hello_no_name",
            Self::HelloSplit => "hello_split",
            Self::HelloMalformed => "hello_malformed",
            Self::HelloNameTooLong => "hello_name_too_long",
            Self::Steered => "steered",
            Self::SteerNoSocket => "steer_no_socket",
            Self::Forwarded => "forwarded",
            Self::Returned => "returned",
            Self::ForwardUnusual => "forward_unusual",
            Self::NoBackend => "no_backend",
            Self::NoFlow => "no_flow",
            Self::FlowsFull => "flows_full",
            Self::PortsFull => "ports_full",
            Self::NoRoute => "no_route",
            Self::NoNeighbour => "no_neighbour",
            Self::WayChanged => "way_changed",
            Self::SynCookie => "syn_cookie",
            Self::CookieAck => "cookie_ack",
            Self::CookieReset => "cookie_reset",
            Self::CookieStray => "cookie_stray",
            Self::AdmissionRefused => "admission_refused",
            Self::SourceOutside => "source_outside",
            Self::IcmpForwarded => "icmp_forwarded",
            Self::IcmpReturned => "icmp_returned",
            Self::TooBig => "too_big",
            Self::TooBigUnanswered => "too_big_unanswered",
            Self::FragmentForwarded => "fragment_forwarded",
            Self::FragmentReturned => "fragment_returned",
            Self::Tunnelled => "tunnelled",
            Self::Decapsulated => "decapsulated",
            Self::TunnelForeign => "tunnel_foreign",
            Self::NotAdjacent => "not_adjacent",
            Self::NoUplink => "no_uplink",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_positions_and_names_differ() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(Reason::ALL[..index].iter().all(|other| other.name() != reason.name()), "{reason:?}");
        }
    }
}
