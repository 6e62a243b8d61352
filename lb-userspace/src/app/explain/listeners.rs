//! Which listeners take the connection, and what the kernel does there.

use serde::{Deserialize, Serialize};

use crate::model::{HostPattern, Listener, Snapshot, SniMode};

use super::super::admin::views::word;
use super::super::cli::VipAddress;
use super::asked::Asked;

/// A listener and what the kernel does there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    /// Address, port and protocol.
    pub vip: String,
    /// `http` or `https`.
    pub protocol: String,
    /// `pass`, or `none` without XDP.
    pub xdp: String,
    /// What XDP and `sk_lookup` do, in words.
    pub kernel: String,
}

/// Whether a connection to the address comes to the listener.
pub(super) fn takes(listener: &Listener, to: VipAddress) -> bool {
    let vip = listener.vip;
    let same = vip.address == to.address
        || (vip.address.is_unspecified() && vip.address.is_ipv4() == to.address.is_ipv4());
    same && to.port.is_none_or(|port| port == vip.port)
}

pub(super) fn listener_view(
    listener: &Listener,
    asked: &Asked,
    snapshot: &Snapshot,
    xdp: bool,
) -> ListenerView {
    let kernel = if xdp {
        let mut text = if listener.sni.steers() {
            let class = class_of(asked, snapshot);
            format!("XDP does the TCP handshake; the ClientHello's name brings the connection to {class}")
        } else {
            "XDP passes it on as a VIP in proxy mode; sk_lookup gives the connection to the worker \
                        of the CPU it arrives on"
                .to_owned()
        };
        if listener.sni != SniMode::Off {
            text.push_str(&match counted_as(asked, snapshot) {
                Some(name) => format!("; the ClientHello is counted as {name}"),
                None if is_refused(listener, asked, snapshot) => {
                    "; the ClientHello's name is none that Sluice knows: a TLS alert is the answer".to_owned()
                }
                None => "; the ClientHello's name is none that Sluice knows".to_owned(),
            });
        }
        text
    } else {
        let mut text = "XDP is off: an ordinary socket takes the connection".to_owned();
        if is_refused(listener, asked, snapshot) {
            text.push_str(", and the proxy answers a TLS alert: it knows no such name");
        }
        text
    };
    ListenerView {
        vip: listener.vip.to_string(),
        protocol: word(&listener.protocol),
        xdp: if xdp { "pass" } else { "none" }.to_owned(),
        kernel,
    }
}

/// Whose connection it is.
fn class_of(asked: &Asked, snapshot: &Snapshot) -> String {
    let (sni, tls) = (asked.sni(), &snapshot.tls);
    match sni.and_then(|sni| tls.pool_of(sni)) {
        Some(pool) => format!("the worker pool {pool}"),
        None if sni.is_some_and(|sni| tls.passthrough_of(sni).is_some()) => {
            "the workers for passthrough".to_owned()
        }
        None => "the general workers".to_owned(),
    }
}

/// Whether the listener refuses connections that ask for this name.
fn is_refused(listener: &Listener, asked: &Asked, snapshot: &Snapshot) -> bool {
    let refuses = |sni: &str| !snapshot.named_hosts().any(|pattern| pattern.matches(sni));
    listener.sni.refuses() && asked.sni().is_some_and(refuses)
}

/// The most specific known pattern that covers the server name, as XDP counts it.
fn counted_as<'a>(asked: &Asked, snapshot: &'a Snapshot) -> Option<&'a HostPattern> {
    let sni = asked.sni()?;
    snapshot.named_hosts().filter(|p| **p != HostPattern::Any && p.matches(sni)).min()
}
