//! Counters as they are shown.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::Vip;

/// All counters of the kernel programs, summed over CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// By [`lb_common::reason::Reason`]; every reason is there.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// By VIP, sorted.
    pub vips: Vec<VipCount>,
    /// By server name, sorted; wildcards as `*.suffix`.
    pub sni: Vec<NameCount>,
}

/// Counters of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipCount {
    /// Which.
    #[serde(serialize_with = "text")]
    pub vip: Vip,
    /// Frames.
    pub packets: u64,
    /// Bytes from the Ethernet header to the end of the IP packet.
    pub bytes: u64,
    /// TCP SYNs, retransmitted ones too.
    pub connections: u64,
}

/// Counters of a server name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameCount {
    /// `www.example.com` or `*.example.com`.
    pub name: String,
    /// Connections whose ClientHello named it.
    pub connections: u64,
}

fn text<S: serde::Serializer>(vip: &Vip, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(vip)
}
