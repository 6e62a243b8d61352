//! What the kernel's verdicts mean, and what comes behind them, for people.

use std::net::SocketAddr;

use lb_common::reason::Reason;
use lb_common::verdict::Action;

use super::Question;
use crate::dataplane::kernel::Rehearsed;
use crate::model::{Listener, Protocol};

/// A reason in words, of those that the first packets of a connection can have.
pub fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::NotVip => "no VIP of Sluice",
        Reason::Vip => "a VIP in proxy mode",
        Reason::SniRefused => "no route and no certificate knows the server name",
        Reason::SniClosing => "its ClientHello was refused before",
        Reason::SourceDenied => "the client is on the deny list (`sluice tune`)",
        Reason::SourceOverBudget => "the client opened more connections than it may (`sluice tune`)",
        Reason::Forwarded => "a VIP in forward mode",
        Reason::Returned => "an endpoint's reply, on its way back to the client",
        Reason::SourceOutside => "its Service is not for this client (loadBalancerSourceRanges)",
        Reason::TooBig | Reason::TooBigUnanswered => "bigger than the way on takes; its sender is told",
        Reason::ForwardUnusual => "with IPv4 options or IPv6 extension headers, which are not forwarded",
        Reason::NoBackend => "the Service has no endpoint that takes connections",
        Reason::FlowsFull => "the flow table has no room",
        Reason::PortsFull => "no port at the endpoint is free",
        Reason::NoRoute => "the node has no route to the endpoint, or does not forward (`sluice doctor`)",
        Reason::NoNeighbour => "the MAC of the endpoint's next hop is not known yet",
        Reason::Tunnelled => {
            "a VIP in forward mode, in a packet to an endpoint's node (sluice.dev/forwarding)"
        }
        Reason::NotAdjacent => "the endpoint is not in the node's own segment, as dsr-l2 asks for",
        Reason::NoUplink => {
            "the way to the endpoint's node is by an interface that `--interface` doesn't name"
        }
        Reason::WayChanged => "the way to the endpoint changed since the connection began",
        other => other.name(),
    }
}

/// What becomes of a connection whose packet is not for this node's stack.
pub fn sent(last: &Rehearsed, endpoint: Option<SocketAddr>) -> String {
    match (endpoint, last.action) {
        (Some(endpoint), _) => format!("{endpoint} answers; XDP gives its replies the VIP's address"),
        (None, _) if last.reason == Reason::Tunnelled => {
            "the other node takes the packet out, and an endpoint there answers the client by itself"
                .to_owned()
        }
        (None, _) if last.reason == Reason::Forwarded => {
            "the endpoint has the VIP as an address of its own, and answers the client by itself".to_owned()
        }
        (None, Action::Drop) => "nothing more: the packet is dropped".to_owned(),
        (None, _) if last.reason == Reason::SniRefused => {
            "the client gets a TLS alert (unrecognized_name) and the end of the connection".to_owned()
        }
        (None, _) => "the packet leaves the node again".to_owned(),
    }
}

/// What becomes of a connection that a listener takes. `proxy`: what a request for `/` gets.
pub fn taken(listener: &Listener, proxy: Option<String>, question: &Question) -> String {
    match (listener.protocol, &question.sni, proxy) {
        (Protocol::Http, ..) => format!(
            "the listener takes it: it speaks http; `sluice explain http://HOST:{}/` says what a request gets",
            listener.vip.port
        ),
        (Protocol::Https, Some(name), Some(answer)) => {
            format!("the listener takes it; https://{name}/ gets {answer}")
        }
        (Protocol::Https, ..) => {
            "the listener takes it and waits for a ClientHello; ask again with --sni NAME".to_owned()
        }
    }
}

/// For a Service that XDP would forward.
pub const fn without_xdp() -> &'static str {
    "nothing: only XDP forwards this Service, and it is off"
}

/// For everything that is no VIP.
pub const fn nobodys() -> &'static str {
    "no VIP of Sluice: the node takes it or sends it on as if Sluice were not there"
}
