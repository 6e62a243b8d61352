//! `sluice trace`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use lb_common::reason::Reason;
use lb_common::verdict::Action;

use super::network::network;
use super::{DEFAULT_SOCKET, VipAddress, vip_address};
use crate::app::trace::Direction;

/// `sluice trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice trace --vip 198.51.100.10:443 --count 20        what becomes of frames to a VIP
  sluice trace --verdict drop --seconds 0                every dropped frame, until Ctrl-C
  sluice trace --address 203.0.113.0/24 --sample 100     one in a hundred of a client's
  sluice trace --write trace.pcapng -o pcap              a capture for Wireshark
  sluice trace -o pcap | wireshark -k -i -               the same, live

While it runs, each frame costs about a microsecond more; otherwise nothing. One trace at a time.")]
pub struct TraceArgs {
    /// Only frames from or to this address or network.
    #[arg(long, value_name = "NET", value_parser = network)]
    pub address: Option<IpNet>,
    /// Only frames from or to this port.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only frames to this VIP, and replies that leave as from it.
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = vip_address)]
    pub vip: Option<VipAddress>,
    /// Only frames with this reason; several by commas.
    #[arg(long, value_name = "REASON", value_delimiter = ',', hide_possible_values = true,
        value_parser = PossibleValuesParser::new(Reason::ALL.map(Reason::name)))]
    pub reason: Vec<String>,
    /// Only frames with this verdict; several by commas.
    #[arg(long, value_name = "VERDICT", value_delimiter = ',',
        value_parser = PossibleValuesParser::new(Action::ALL.map(Action::name)))]
    pub verdict: Vec<String>,
    /// Only frames this way: in from clients, or out to them from endpoints that XDP forwards to.
    #[arg(long, value_name = "WAY")]
    pub direction: Option<Direction>,
    /// Only one frame of so many, by chance.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub sample: u32,
    /// End after so many frames; 0: never.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub count: u64,
    /// End after so many seconds; 0: never.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u64,
    /// Write to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "SLUICE_SOCKET")]
    pub socket: PathBuf,
    /// How events look.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: TraceOutput,
}

/// How events look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceOutput {
    /// A line for each frame.
    Text,
    /// An object in a line for each frame.
    Json,
    /// A capture file (pcapng).
    Pcap,
}
