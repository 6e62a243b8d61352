//! The first packets of a connection, made up.

use std::net::SocketAddr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::Question;
use crate::model::Transport;

/// Whose it doesn't matter: nobody on the way looks at them.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TTL: u8 = 64;
/// Any numbers do: none of these packets is part of a connection that is there.
const SEQUENCE: u32 = 1;
const WINDOW: u16 = 64240;

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// In words.
    pub what: String,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
}

/// What cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum BadQuestion {
    /// One address is IPv4 and the other IPv6.
    #[error("{0} and {1} are of different address families")]
    Families(SocketAddr, SocketAddr),
    /// UDP with a server name.
    #[error("a server name is looked for in TCP only")]
    Name,
    /// A server name that none can have.
    #[error("{0:?} can't be the server name in a ClientHello: not a DNS name")]
    BadName(String),
    /// It can't be put in a packet.
    #[error("there is no such packet: {0}")]
    Packet(String),
}

/// The first packets of a connection from the client: a SYN and, with a server name, its ClientHello; or
/// an empty datagram.
///
/// # Errors
/// Addresses that don't fit together, and names that are none.
pub fn packets(question: &Question) -> Result<Vec<Packet>, BadQuestion> {
    let Question { transport, sni, .. } = question;
    let packet = |what: &str, segment: Segment<'_>| {
        let frame = frame(question, segment)?;
        Ok(Packet { what: what.to_owned(), frame })
    };
    match (transport, sni) {
        (Transport::Udp, Some(_)) => Err(BadQuestion::Name),
        (Transport::Udp, None) => Ok(vec![packet("datagram", Segment::Datagram)?]),
        (Transport::Tcp, None) => Ok(vec![packet("SYN", Segment::Syn)?]),
        (Transport::Tcp, Some(name)) => {
            let hello = hello(name)?;
            let second = packet(&format!("ClientHello for {name}"), Segment::Data(&hello))?;
            Ok(vec![packet("SYN", Segment::Syn)?, second])
        }
    }
}

/// What is in a packet.
enum Segment<'a> {
    Datagram,
    Syn,
    Data(&'a [u8]),
}

fn frame(question: &Question, segment: Segment<'_>) -> Result<Vec<u8>, BadQuestion> {
    let (from, to) = (question.from, question.to);
    let ethernet = PacketBuilder::ethernet2(MAC, MAC);
    let ip = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            ethernet.ipv4(from.ip().octets(), to.ip().octets(), TTL)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            ethernet.ipv6(from.ip().octets(), to.ip().octets(), TTL)
        }
        _ => return Err(BadQuestion::Families(from, to)),
    };
    let mut frame = Vec::new();
    let written = match segment {
        Segment::Datagram => ip.udp(from.port(), to.port()).write(&mut frame, &[]),
        Segment::Syn => ip.tcp(from.port(), to.port(), SEQUENCE, WINDOW).syn().write(&mut frame, &[]),
        Segment::Data(data) => {
            let segment = ip.tcp(from.port(), to.port(), SEQUENCE, WINDOW);
            segment.psh().ack(SEQUENCE).write(&mut frame, data)
        }
    };
    written.map_err(|error| BadQuestion::Packet(error.to_string()))?;
    Ok(frame)
}

/// A real ClientHello, without post-quantum keys, so that it is whole in one packet.
fn hello(name: &str) -> Result<Vec<u8>, BadQuestion> {
    let bad = || BadQuestion::BadName(name.to_owned());
    let server = ServerName::try_from(name.to_owned()).map_err(|_| bad())?;
    if !matches!(server, ServerName::DnsName(_)) {
        return Err(bad());
    }
    let provider =
        CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
    let odd = |error: rustls::Error| BadQuestion::Packet(error.to_string());
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(odd)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), server).map_err(odd)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello).map_err(|error| BadQuestion::Packet(error.to_string()))?;
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use lb_common::hello::server_name;
    use lb_common::trace::{Head, sides};

    use super::*;

    fn ask(
        transport: Transport,
        from: &str,
        to: &str,
        sni: Option<&str>,
    ) -> Result<Vec<Packet>, BadQuestion> {
        let address = |text: &str| text.parse().expect("an address");
        packets(&Question { transport, from: address(from), to: address(to), sni: sni.map(str::to_owned) })
    }

    #[test]
    fn what_is_asked_is_in_the_packets() {
        let (v4, v6) = (["192.0.2.1:1234", "198.51.100.10:443"], ["[2001:db8::1]:1234", "[2001:db8::2]:443"]);
        for ([from, to], header) in [(v4, 54), (v6, 74)] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let packets = ask(transport, from, to, None).expect("packets");
                let found = sides(&Head(&packets[0].frame));
                assert_eq!(u16::from_be(found.ends.target_port), 443);
                assert_eq!(
                    (packets.len(), found.flags),
                    (1, if transport == Transport::Tcp { 2 } else { 0 })
                );
            }
            let packets = ask(Transport::Tcp, from, to, Some("www.example.com")).expect("packets");
            let payload = &packets[1].frame[header..];
            let name = server_name(payload).expect("a name");
            assert_eq!(&payload[name.offset..][..name.length], b"www.example.com");
            assert!(packets[1].frame.len() < 1500);
        }
    }

    #[test]
    fn what_cannot_be_asked() {
        for (transport, to, sni, part) in [
            (Transport::Tcp, "[2001:db8::2]:443", None, "different address families"),
            (Transport::Udp, "198.51.100.10:443", Some("a"), "TCP only"),
            (Transport::Tcp, "198.51.100.10:443", Some("a b"), "not a DNS name"),
            (Transport::Tcp, "198.51.100.10:443", Some("192.0.2.1"), "not a DNS name"),
            (Transport::Tcp, "198.51.100.10:443", Some(""), "not a DNS name"),
        ] {
            let error = ask(transport, "192.0.2.1:1234", to, sni).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
