//! `sluice trace`: frames as XDP sees them, before and after.
//!
//! The command line ([`client`]) asks the daemon; there a [`session`] has the kernel show frames, and
//! sends a line of JSON for each ([`event`]), which becomes [`text`] or a capture file ([`pcap`]).

pub mod client;
pub mod event;
mod pcap;
pub mod session;
mod text;

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::reason::Reason;
use lb_common::trace::{Rule, TRACE_ADDRESS, TRACE_PORT, TRACE_VIP};
use lb_common::verdict::{Action, words};
use serde::{Deserialize, Serialize};

use super::cli::vip_address;

/// Which frames are asked for, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// From or to this network.
    pub address: Option<IpNet>,
    /// From or to this port.
    pub port: Option<u16>,
    /// To this VIP, or from it: address, with or without a port.
    pub vip: Option<String>,
    /// Names of reasons; empty: all.
    pub reasons: Vec<String>,
    /// Names of verdicts; empty: all.
    pub verdicts: Vec<String>,
    /// Clients' frames, or endpoints' replies; `None`: both.
    pub direction: Option<Direction>,
    /// One frame of so many; 0 and 1: all.
    pub sample: u32,
    /// How many frames; 0: any number.
    pub count: u64,
    /// For how many seconds; 0: as long as somebody listens.
    pub seconds: u64,
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From clients.
    In,
    /// From endpoints of Services that XDP forwards, back to clients.
    Out,
}

impl Asked {
    /// The kernel's form of it. An error is a sentence for whoever asked.
    pub fn rule(&self) -> Result<Rule, String> {
        let out = 1 << Reason::Returned as u32;
        let directed = match self.direction {
            None => u64::MAX,
            Some(Direction::In) => !out,
            Some(Direction::Out) => out,
        };
        let reasons = bits("reason", &self.reasons, &Reason::ALL.map(Reason::name))? & directed;
        let actions = bits("verdict", &self.verdicts, &Action::ALL.map(Action::name))? as u32;
        if reasons == 0 {
            return Err("no frame has such a reason and such a direction".to_owned());
        }
        let mut rule = Rule { reasons, actions, sample: self.sample, ..Rule::default() };
        if let Some(network) = self.address {
            rule.flags |= TRACE_ADDRESS;
            rule.address = address(network.network());
            rule.mask = mask(network);
        }
        if let Some(port) = self.port {
            rule.flags |= TRACE_PORT;
            rule.port = port.to_be();
        }
        if let Some(text) = &self.vip {
            let vip = vip_address(text).map_err(|error| format!("vip {text:?}: {error}"))?;
            rule.flags |= TRACE_VIP;
            rule.vip = address(vip.address);
            rule.vip_port = vip.port.unwrap_or_default().to_be();
        }
        Ok(rule)
    }
}

/// A bit for each name; all when there are none.
fn bits(what: &str, names: &[String], known: &[&str]) -> Result<u64, String> {
    if names.is_empty() {
        return Ok(u64::MAX);
    }
    names.iter().try_fold(0, |bits, name| match known.iter().position(|known| known == name) {
        Some(index) => Ok(bits | 1 << index),
        None => Err(format!("there is no {what} {name:?}; there are {}", known.join(", "))),
    })
}

fn address(address: IpAddr) -> [u32; 4] {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    words(v6.octets())
}

fn mask(network: IpNet) -> [u32; 4] {
    let ones = u32::from(network.prefix_len()) + if network.addr().is_ipv4() { 96 } else { 0 };
    let mask = u128::MAX.checked_shl(128 - ones).unwrap_or(0);
    words(mask.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let asked = |change: fn(&mut Asked)| {
            let mut asked = Asked::default();
            change(&mut asked);
            asked.rule()
        };
        let returned = 1 << Reason::Returned as u32;
        assert_eq!(asked(|_| {}), Ok(Rule { reasons: u64::MAX, actions: u32::MAX, ..Rule::default() }));
        assert_eq!(asked(|a| a.direction = Some(Direction::Out)).map(|r| r.reasons), Ok(returned));
        assert_eq!(asked(|a| a.direction = Some(Direction::In)).map(|r| r.reasons), Ok(!returned));
        assert_eq!(asked(|a| a.verdicts = vec!["drop".into(), "send".into()]).map(|r| r.actions), Ok(0b110));
        for (network, ones) in
            [("192.0.2.0/24", 120), ("0.0.0.0/0", 96), ("::/0", 0), ("2001:db8::1/128", 128)]
        {
            let network: IpNet = network.parse().expect("a network");
            let ones_set: u32 = mask(network).iter().map(|word| word.count_ones()).sum();
            assert_eq!(ones_set, ones, "{network}");
        }
        let vip = asked(|a| a.vip = Some("[2001:db8::1]:443".into())).expect("a VIP");
        assert_eq!((vip.flags, vip.vip_port), (TRACE_VIP, 443u16.to_be()));
        for (wrong, part) in [
            (asked(|a| a.reasons = vec!["nonsense".into()]), "no reason \"nonsense\"; there are not_ip, "),
            (asked(|a| a.vip = Some("x".into())), "vip \"x\": not like"),
            (
                asked(|a| {
                    a.reasons = vec!["returned".into()];
                    a.direction = Some(Direction::In);
                }),
                "such a direction",
            ),
        ] {
            assert!(wrong.as_ref().is_err_and(|error| error.contains(part)), "{wrong:?}");
        }
    }
}
