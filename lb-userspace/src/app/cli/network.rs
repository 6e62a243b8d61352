//! Networks on the command line.

use std::net::IpAddr;

use ipnet::IpNet;

/// A network, or an address for a network of its own.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or(address).map_err(|_| "not like 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32".to_owned())
}
