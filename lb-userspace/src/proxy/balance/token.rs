//! What stands in a cookie for an endpoint or a cluster.
//!
//! Every node has to read what any node wrote, without asking anybody, so a token is a hash of
//! what it stands for. It shows no address and can't be turned back, but it is no secret: who can
//! guess the Service and the address can tell that they are the right ones.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use crate::model::ClusterKey;

/// Stands for an endpoint of a cluster.
pub(in crate::proxy) type Token = u128;

/// An endpoint's token, the same on all nodes and in all versions.
pub(in crate::proxy) fn token(cluster: &ClusterKey, address: SocketAddr) -> Token {
    hash(&format!("sluice endpoint {cluster} {address}"))
}

/// A cluster's token.
pub(in crate::proxy) fn backend_token(cluster: &ClusterKey) -> Token {
    hash(&format!("sluice cluster {cluster}"))
}

fn hash(text: &str) -> Token {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest[..16].iter().fold(0, |token, byte| token << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectKey, PortRef};

    #[test]
    fn tokens_never_change() {
        let cluster = ClusterKey::new(ObjectKey::new("default", "web"), PortRef::Number(80));
        let address = SocketAddr::from(([10, 0, 0, 1], 8080));
        assert_eq!(token(&cluster, address), 0xaa24_c894_d358_286a_e3bf_36c8_907c_4549);
        assert_eq!(backend_token(&cluster), 0xbfb6_655c_63d6_abd2_3817_cc1b_3dbf_2154);
    }
}
