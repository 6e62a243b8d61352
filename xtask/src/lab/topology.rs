//! The standard laboratory: a client, a node and some endpoints.
//!
//! ```text
//! client ──veth── node ──veth── endpoint 1
//!  192.0.2.2      │ XDP ├─veth── endpoint 2
//!                 └─────┴─veth── endpoint 3
//! ```
//!
//! The client reaches the VIPs' networks by way of the node; nothing there is bound to a VIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::netns::{End, join};
use super::owner::Owner;
use super::sweep::{BPFFS, mount_bpffs};
use super::{LabError, Namespace, Place, Result};

/// The node's interface towards the client: where XDP belongs.
pub const NODE_NIC: &str = "front0";
/// The VIP in IPv4.
pub const VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
/// The VIP in IPv6.
pub const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10));

/// A client, a node and endpoints, joined by veths. Removed when dropped.
#[derive(Debug)]
pub struct Topology {
    /// Where requests come from.
    pub client: Arc<Namespace>,
    /// Where the daemon runs.
    pub node: Arc<Namespace>,
    /// Where backends run.
    pub endpoints: Vec<Arc<Namespace>>,
    pins: PathBuf,
    directory: tempfile::TempDir,
}

impl Topology {
    /// Builds it with that many endpoints (at most 250). Needs root. `label` tells several apart
    /// that one process holds at the same time.
    pub fn new(label: &str, endpoints: usize) -> Result<Self> {
        mount_bpffs()?;
        let make = |name: &str| Namespace::create(&format!("{label}-{name}")).map(Arc::new);
        let directory = temporary_directory(label)?;
        let pins = Path::new(BPFFS).join(Owner::me().name(label));
        let (client, node) = (make("client")?, make("node")?);
        join(
            End {
                namespace: &client,
                interface: "eth0",
                addresses: &["192.0.2.2/24".into(), "2001:db8:1::2/64".into()],
            },
            End {
                namespace: &node,
                interface: NODE_NIC,
                addresses: &["192.0.2.1/24".into(), "2001:db8:1::1/64".into()],
            },
        )?;
        client.ip("route add 198.51.100.0/24 via 192.0.2.1")?;
        client.ip("-6 route add 2001:db8:100::/64 via 2001:db8:1::1")?;
        let mut topology = Self { client, node, endpoints: Vec::new(), pins, directory };
        for index in 0..endpoints {
            let endpoint = make(&format!("endpoint{}", index + 1))?;
            let [v4, v6] = addresses(index, 2).map(|(a, length)| format!("{a}/{length}"));
            let [node_v4, node_v6] = addresses(index, 1).map(|(a, length)| format!("{a}/{length}"));
            join(
                End {
                    namespace: &topology.node,
                    interface: &format!("back{}", index + 1),
                    addresses: &[node_v4, node_v6],
                },
                End { namespace: &endpoint, interface: "eth0", addresses: &[v4, v6] },
            )?;
            topology.endpoints.push(endpoint);
        }
        Ok(topology)
    }

    /// The client as a place to run in.
    pub fn client(&self) -> Place {
        Place::Namespace(Arc::clone(&self.client))
    }

    /// The node as a place to run in.
    pub fn node(&self) -> Place {
        Place::Namespace(Arc::clone(&self.node))
    }

    /// The endpoint `index` (from 0) as a place to run in.
    pub fn endpoint(&self, index: usize) -> Place {
        Place::Namespace(Arc::clone(&self.endpoints[index]))
    }

    /// The endpoint's addresses, v4 and v6, with `port`.
    pub fn endpoint_addresses(&self, index: usize, port: u16) -> [SocketAddr; 2] {
        addresses(index, 2).map(|(address, _)| SocketAddr::new(address, port))
    }

    /// Where this laboratory's daemon pins its maps and links.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// A directory for files, removed with the laboratory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        // Unpinning a link detaches its program; the namespaces go right after.
        if self.pins.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.pins)
        {
            eprintln!("{} stays behind: {error}", self.pins.display());
        }
    }
}

/// A temporary directory whose name tells its owner.
pub fn temporary_directory(label: &str) -> Result<tempfile::TempDir> {
    let prefix = format!("{}-", Owner::me().name(label));
    tempfile::Builder::new().prefix(&prefix).tempdir().map_err(LabError::io("make a temporary directory"))
}

fn addresses(index: usize, host: u8) -> [(IpAddr, u8); 2] {
    let net = u8::try_from(index).ok().and_then(|i| i.checked_add(1)).expect("at most 250 endpoints");
    [
        (Ipv4Addr::new(10, 77, net, host).into(), 24),
        (Ipv6Addr::new(0x2001, 0xdb8, 0x77, net.into(), 0, 0, 0, host.into()).into(), 64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_a_network_of_its_own() {
        let all: std::collections::BTreeSet<_> = (0..250).flat_map(|i| addresses(i, 2)).collect();
        assert_eq!(all.len(), 500);
        assert_eq!(addresses(0, 2)[1].0.to_string(), "2001:db8:77:1::2");
    }
}
