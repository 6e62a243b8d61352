//! VIPs on the command line, and what is set for one of them.

use std::net::{IpAddr, SocketAddr};

use crate::model::SniMode;

/// The address of a VIP, with or without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipAddress {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` for all.
    pub port: Option<u16>,
}

impl std::fmt::Display for VipAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// Reads `ADDR` or `ADDR:PORT`, an IPv6 address with a port in brackets.
pub fn vip_address(text: &str) -> Result<VipAddress, String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(VipAddress { address: socket.ip(), port: Some(socket.port()) });
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address =
        bare.parse().map_err(|_| "not like 198.51.100.10, 198.51.100.10:443 or [2001:db8::1]:443")?;
    Ok(VipAddress { address, port: None })
}

/// What is done with server names, at one VIP or at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SniRule {
    /// Where; `None`: everywhere.
    pub vip: Option<VipAddress>,
    /// What.
    pub mode: SniMode,
}

/// Reads `MODE` or `ADDR[:PORT]=MODE`.
pub(super) fn sni_rule(text: &str) -> Result<SniRule, String> {
    let (vip, mode) = match text.rsplit_once('=') {
        Some((vip, mode)) => (Some(vip_address(vip)?), mode),
        None => (None, text),
    };
    let mode = match mode {
        "off" => SniMode::Off,
        "observe" => SniMode::Observe,
        "filter" => SniMode::Filter,
        "steer" => SniMode::Steer,
        "steer-filter" => SniMode::SteerFilter,
        _ => return Err(format!("{mode:?} is none of off, observe, filter, steer and steer-filter")),
    };
    Ok(SniRule { vip, mode })
}
