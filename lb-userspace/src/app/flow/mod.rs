//! `sluice explain` for a connection: what XDP would do with its first packets if they came now, and what
//! comes behind that. The packets are made up ([`packets`]) and judged by the kernel, in a rehearsal
//! that counts and remembers nothing; everything else here is pure.

pub mod packets;
mod words;

use std::net::{IpAddr, SocketAddr};

use lb_common::reason::Reason;
use lb_common::trace::{Head, sides};
use lb_common::verdict::Action;
use serde::{Deserialize, Serialize};

use super::cli::VipAddress;
use super::explain::{self, Tls};
use super::trace::event::socket;
use crate::dataplane::kernel::Rehearsed;
use crate::model::{Listener, Protocol, Snapshot, Transport};
use crate::route::RouteTable;

/// A connection that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// TCP or UDP.
    pub transport: Transport,
    /// The client.
    pub from: SocketAddr,
    /// Where it connects to.
    pub to: SocketAddr,
    /// The server name in its ClientHello; `None`: there is none.
    pub sni: Option<String>,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// As asked.
    pub question: Question,
    /// The snapshot that is served.
    pub generation: u64,
    /// What XDP does with each of its first packets; empty without XDP.
    pub packets: Vec<Judged>,
    /// The Service, where it is one that XDP forwards.
    pub service: Option<String>,
    /// The endpoint that the packet goes to.
    pub endpoint: Option<SocketAddr>,
    /// The listener that takes the connection.
    pub listener: Option<String>,
    /// The certificate that the client sees.
    pub tls: Option<Tls>,
    /// What comes next, in words.
    pub next: String,
}

/// What XDP does with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The packet in words.
    pub packet: String,
    /// `pass`, `drop`, `send` (out again where it came in) or `redirect` (out by another NIC).
    pub verdict: String,
    /// The reason, as it would be counted.
    pub reason: String,
    /// The reason in words.
    pub meaning: String,
    /// Where the packet is from and to afterwards, if that changes.
    pub becomes: Option<String>,
}

impl Judged {
    /// A packet and what the kernel says of it.
    pub fn new(packet: &packets::Packet, rehearsed: &Rehearsed) -> Self {
        let (before, after) = (sides(&Head(&packet.frame)).ends, sides(&Head(&rehearsed.frame)).ends);
        let changed = rehearsed.action != Action::Drop && after != before;
        let from = || socket(&after.source, after.source_port);
        Self {
            packet: packet.what.clone(),
            verdict: rehearsed.action.name().to_owned(),
            reason: rehearsed.reason.name().to_owned(),
            meaning: words::meaning(rehearsed.reason).to_owned(),
            becomes: changed.then(|| format!("{} > {}", from(), socket(&after.target, after.target_port))),
        }
    }
}

/// Explains a connection by a snapshot, and by what the kernel said of its packets, the last of them last.
pub fn explain(
    question: Question,
    snapshot: &Snapshot,
    table: &RouteTable,
    judged: &[(packets::Packet, Rehearsed)],
) -> Explanation {
    let last = judged.last().map(|(_, rehearsed)| rehearsed);
    let listener = listener(&question, snapshot);
    let service = snapshot
        .services
        .iter()
        .find(|service| service.vip.transport == question.transport && service.vip.socket() == question.to);
    let endpoint = last.filter(|last| last.reason == Reason::Forwarded).map(|last| {
        let ends = sides(&Head(&last.frame)).ends;
        socket(&ends.target, ends.target_port)
    });
    // By its MAC alone, an endpoint can't be told.
    let endpoint = endpoint.filter(|endpoint| *endpoint != question.to);
    let stays = judged.iter().all(|(_, rehearsed)| rehearsed.action == Action::Pass);
    let (tls, proxy) = match (listener, &question.sni) {
        (Some(listener), Some(name)) if stays && listener.protocol == Protocol::Https => {
            through_tls(name, &question, snapshot, table)
        }
        _ => (None, None),
    };
    let next = match last {
        Some(last) if last.action != Action::Pass || is_sent(last.reason) => words::sent(last, endpoint),
        _ => match listener {
            Some(listener) => words::taken(listener, proxy, &question),
            None if service.is_some() => words::without_xdp().to_owned(),
            None => words::nobodys().to_owned(),
        },
    };
    Explanation {
        generation: snapshot.generation,
        packets: judged.iter().map(|(packet, rehearsed)| Judged::new(packet, rehearsed)).collect(),
        service: service.map(|service| service.service.to_string()),
        endpoint,
        listener: listener.filter(|_| stays).map(|listener| listener.vip.to_string()),
        tls,
        next,
        question,
    }
}

/// Whether a packet goes to an endpoint, by whatever way.
fn is_sent(reason: Reason) -> bool {
    matches!(reason, Reason::Forwarded | Reason::Tunnelled)
}

fn listener<'a>(question: &Question, snapshot: &'a Snapshot) -> Option<&'a Listener> {
    let fits = |address: IpAddr| {
        let to = question.to.ip();
        address == to || (address.is_unspecified() && address.is_ipv4() == to.is_ipv4())
    };
    snapshot.listeners.iter().find(|listener| {
        let vip = listener.vip;
        vip.transport == question.transport && vip.port == question.to.port() && fits(vip.address)
    })
}

/// The certificate, and what a request for `/` gets.
fn through_tls(
    name: &str,
    question: &Question,
    snapshot: &Snapshot,
    table: &RouteTable,
) -> (Option<Tls>, Option<String>) {
    let url = format!("https://{name}:{}/", question.to.port());
    let vip = VipAddress { address: question.to.ip(), port: Some(question.to.port()) };
    let asked = explain::Question { url: &url, vip: Some(vip), all: false, xdp: true };
    match explain::explain(&asked, snapshot, table) {
        Ok(found) => {
            let explain::Answer { status, text } = found.answer;
            let answer = status.map_or_else(|| text.clone(), |status| format!("{status}: {text}"));
            (found.tls, Some(answer))
        }
        Err(error) => (None, Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lb_common::reason::Reason;

    use super::*;
    use crate::model::{L4Service, ObjectKey, SniMode, Vip};

    fn snapshot() -> Snapshot {
        let vip = |address: &str, port, transport| Vip {
            address: address.parse().expect("an address"),
            port,
            transport,
        };
        let listener = |address, port, protocol| Listener {
            vip: vip(address, port, Transport::Tcp),
            protocol,
            sni: SniMode::Observe,
        };
        let service = L4Service {
            vip: vip("198.51.100.20", 53, Transport::Udp),
            service: ObjectKey::new("d", "dns"),
            targets: Arc::new([]),
            draining: Arc::new([]),
            affinity: false,
            quic: false,
            local: false,
            sources: None,
            direct: None,
        };
        Snapshot {
            listeners: Arc::new([
                listener("198.51.100.10", 80, Protocol::Http),
                listener("0.0.0.0", 443, Protocol::Https),
            ]),
            services: Arc::new([service]),
            ..Snapshot::empty()
        }
    }

    /// Explains a connection of which the kernel says so of all packets.
    fn check(
        transport: Transport,
        to: &str,
        sni: Option<&str>,
        says: Option<(Action, Reason)>,
    ) -> Explanation {
        let from = if to.starts_with('[') { "[2001:db8:5::1]:1234" } else { "192.0.2.1:1234" };
        let question = Question {
            transport,
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
            sni: sni.map(str::to_owned),
        };
        let packets = packets::packets(&question).expect("packets");
        let judged: Vec<_> = packets
            .into_iter()
            .filter_map(|packet| {
                let (action, reason) = says?;
                let mut frame = packet.frame.clone();
                if reason == Reason::Forwarded {
                    frame[30..34].copy_from_slice(&[10, 9, 1, 2]);
                }
                Some((packet, Rehearsed { action, reason, frame }))
            })
            .collect();
        let snapshot = snapshot();
        explain(question, &snapshot, &RouteTable::build(&snapshot.routing), &judged)
    }

    #[test]
    fn what_comes_next() {
        use Transport::{Tcp, Udp};
        let pass = |reason| Some((Action::Pass, reason));
        for (transport, to, sni, says, expect) in [
            (Tcp, "198.51.100.10:80", None, pass(Reason::Vip), "it speaks http"),
            (Tcp, "198.51.100.10:443", None, pass(Reason::Vip), "with --sni NAME"),
            (Tcp, "198.51.100.10:443", Some("a.example"), pass(Reason::Vip), "404: no rule covers this host"),
            (Tcp, "198.51.100.10:443", Some("a.example"), None, "404: no rule covers this host"),
            (Tcp, "198.51.100.10:22", None, pass(Reason::NotVip), "no VIP of Sluice"),
            (Tcp, "198.51.100.10:443", None, Some((Action::Drop, Reason::SourceDenied)), "nothing more"),
            (
                Tcp,
                "198.51.100.10:443",
                Some("x"),
                Some((Action::Send, Reason::SniRefused)),
                "unrecognized_name",
            ),
            (Udp, "198.51.100.20:53", None, Some((Action::Send, Reason::Forwarded)), "10.9.1.2:53 answers"),
            (Udp, "198.51.100.20:53", None, pass(Reason::Forwarded), "10.9.1.2:53 answers"),
            (
                Udp,
                "198.51.100.20:53",
                None,
                Some((Action::Redirect, Reason::Tunnelled)),
                "takes the packet out",
            ),
            (Udp, "198.51.100.20:53", None, None, "only XDP forwards"),
        ] {
            let got = check(transport, to, sni, says);
            assert!(got.next.contains(expect), "{to} {sni:?} {says:?}: {}", got.next);
            assert_eq!(got.packets.len(), says.map_or(0, |_| 1 + usize::from(sni.is_some())));
        }
    }

    #[test]
    fn where_it_goes() {
        let got = check(Transport::Udp, "198.51.100.20:53", None, Some((Action::Send, Reason::Forwarded)));
        assert_eq!(got.service.as_deref(), Some("d/dns"));
        assert_eq!(got.packets[0].becomes.as_deref(), Some("192.0.2.1:1234 > 10.9.1.2:53"));
        let got = check(Transport::Tcp, "198.51.100.10:443", Some("a.example"), None);
        assert_eq!(got.listener.as_deref(), Some("0.0.0.0:443/tcp"));
        assert_eq!(got.tls.map(|tls| tls.certificate).as_deref(), Some("self-signed"));
    }
}
