//! The PROXY protocol: a header before a connection's first byte that says whom it is really with.

use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

/// Whose connections begin with a PROXY header, of either version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyProtocol {
    /// The peers that send one. All of theirs must; what others send is never read as one. Empty:
    /// nobody sends any.
    pub from: Vec<IpNet>,
    /// How long the header may take to come.
    pub header_timeout: Duration,
}

impl Default for ProxyProtocol {
    /// Nobody sends any; where somebody does, five seconds as in ingress-nginx.
    fn default() -> Self {
        Self { from: Vec::new(), header_timeout: Duration::from_secs(5) }
    }
}

/// The form of a PROXY header that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
