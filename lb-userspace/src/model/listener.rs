//! VIPs and listeners: what the node answers for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The transport protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// An address, port and protocol that the node answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The transport protocol.
    pub transport: Transport,
}

impl Vip {
    /// Address and port together.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{}/{transport}", self.socket())
    }
}

/// What a listener speaks with its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Plain HTTP/1.1 and HTTP/2 with prior knowledge.
    Http,
    /// TLS; the ClientHello's server name chooses the certificate.
    Https,
}

/// What is done with the server names that ClientHellos to a TLS listener have; by XDP where it can,
/// and by the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SniMode {
    /// Not looked at.
    Off,
    /// Parsed once for each connection and counted per name; nothing is changed.
    #[default]
    Observe,
    /// The same, and a name that no route and no certificate is for is answered with a TLS alert.
    /// Where a route takes any host, every name has one.
    Filter,
    /// As [`SniMode::Observe`], and XDP does the TCP handshake: the connection comes up with its
    /// ClientHello, on a worker of its name's class. Who never sends one never takes up a socket.
    Steer,
    /// As [`SniMode::Steer`] and [`SniMode::Filter`].
    SteerFilter,
}

impl SniMode {
    /// Whether names that nobody serves are refused.
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Filter | Self::SteerFilter)
    }

    /// Whether names choose the worker.
    pub const fn steers(self) -> bool {
        matches!(self, Self::Steer | Self::SteerFilter)
    }
}

/// A VIP in proxy mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Listener {
    /// Where clients connect.
    pub vip: Vip,
    /// What is spoken there.
    pub protocol: Protocol,
    /// What XDP does with ClientHellos; `Off` for plain HTTP.
    pub sni: SniMode,
}
