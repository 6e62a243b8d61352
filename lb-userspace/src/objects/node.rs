//! Nodes: where their packets go.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node as ApiNode;

/// What is read of a node: one of the API is ten kilobytes, most of them images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its addresses within the cluster (`InternalIP`), as its status lists them.
    pub addresses: Box<[IpAddr]>,
}

impl From<&ApiNode> for Node {
    fn from(node: &ApiNode) -> Self {
        let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let internal = listed.filter(|one| one.type_ == "InternalIP");
        let addresses = internal.filter_map(|one| one.address.parse::<IpAddr>().ok());
        Self { addresses: addresses.map(|ip| ip.to_canonical()).collect() }
    }
}

impl Node {
    /// The address for packets of an IP version, else the first one of the other.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        let same = self.addresses.iter().find(|ip| ip.is_ipv4() == v4);
        same.or(self.addresses.first()).copied()
    }
}
