//! The command line's grammar and help.

mod check;
mod explain;
mod network;
mod run;
mod top;
mod trace;
mod vip;

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::check::{CheckArgs, CheckCompat, Origin, Scheme};
pub use self::explain::{Asked, ExplainArgs};
pub use self::run::{AccessLog, LogFormat, RunArgs, SteeringArg, XdpMode};
pub use self::top::TopArgs;
pub use self::trace::{TraceArgs, TraceOutput};
pub use self::vip::{VipAddress, vip_address};

/// Where the daemon listens for the other subcommands unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";

/// XDP-accelerated load balancer and Kubernetes ingress controller.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  sluice doctor --interface eth0                         is this node fit for Sluice?
  sluice check ./manifests                               what is wrong with these manifests?
  sluice run --manifests ./manifests --no-xdp --http-port 8080 --https-port 8443
  sluice explain https://blue.example.com/x              what happens with this request, and why?
  sluice trace --verdict drop                            which frames does XDP drop, and why?

Exit status: 0 fine; 1 a negative answer (maps differ, errors found, not ready); 2 wrong usage, or
it could not be done.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: follow a source, attach to the NIC, serve.
    Run(Box<RunArgs>),
    /// What the daemon serves, how it is, and what is wrong with which object.
    Status(ClientArgs),
    /// Hosts, paths and where they lead.
    Routes(ClientArgs),
    /// Clusters (Service ports) and their endpoints.
    Backends(ClientArgs),
    /// What happens with a request for a URL, or with a connection, and why.
    Explain(ExplainArgs),
    /// Requests, latencies, endpoints, workers and XDP's verdicts as they are now, live.
    Top(TopArgs),
    /// Frames as XDP sees them: before, after, verdict and reason, as they come.
    Trace(TraceArgs),
    /// The kernel's maps: show them, compare them with the desired state, remove them.
    Maps(MapsArgs),
    /// Rules for clients by address, in XDP: show them, change them while the daemon runs.
    Tune(TuneArgs),
    /// Have other nodes take over: open connections end in good order, the node is no longer ready.
    Drain(DrainArgs),
    /// Is the daemon alive, or ready? For the probes of a pod: one line, and the exit status.
    Probe(ProbeArgs),
    /// Check kernel, rights, NIC and sysctls of this node. Needs no daemon.
    Doctor(DoctorArgs),
    /// Read a manifest directory and say what is wrong with it. Needs no daemon.
    Check(CheckArgs),
}

/// How the daemon is reached, and how its answer looks.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "SLUICE_SOCKET")]
    pub socket: PathBuf,
    /// How the answer looks.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// `sluice tune`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice tune                                            show what is set
  sluice tune deny+=203.0.113.0/24,2001:db8:bad::/48     drop what these send to VIPs
  sluice tune deny=0.0.0.0/0,::/0 allow=192.0.2.0/24     let only these in
  sluice tune deny=@/etc/sluice/deny.txt                 a file of networks, a million at most
  sluice tune connection-rate=50 connection-burst=200    50 new connections a second for each client
  sluice tune deny= allow= connection-rate=0             none of all that
  sluice tune ban-after=20 ban-within=60 ban-for=600     keep out for ten minutes whom the proxy
                                                         catches 20 times within a minute
  sluice tune banned-=198.51.100.7                       let one of them in again; banned= lets all in

The longest network that covers a client counts. Who is allowed has no budget; a client is an IPv4
address or an IPv6 /64. All holds for VIPs alone. It stays when the daemon restarts, until the node does,
or `sluice maps purge`; but what begins with ban is as the cluster's settings or the daemon's arguments say when it starts or they
change, and nobody is banned at the start. Bans work without XDP, too: the daemon closes what it accepts.")]
pub struct TuneArgs {
    /// KEY=VALUE; KEY+=VALUE and KEY-=VALUE add to lists and take from them. Keys: deny, allow,
    /// connection-rate, connection-burst, syn-cookies, syn-rate, banned, ban-after, ban-within, ban-for,
    /// ban-max. Lists are separated by commas; @FILE stands for a file's.
    #[arg(value_name = "SETTING")]
    pub settings: Vec<String>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `sluice drain`.
#[derive(Debug, Args)]
#[command(after_help = "\
The node is not ready from then on, and its addresses leave the status of Ingresses. Connections are asked
to end: HTTP/1.1 with `Connection: close` on the next answer, HTTP/2 with GOAWAY. Who comes nevertheless is
served, with one answer for each connection. WebSockets and passed-through connections go on; nothing is
cut before the daemon ends. Services in forward mode are not touched. All that ends with --undo, and with
the daemon.

Exit status: 0 no connection is left; 1 some are when the time is over; 2 it could not be done.")]
pub struct DrainArgs {
    /// How many seconds to wait for connections to end; the node stays drained after that.
    #[arg(long, value_name = "SECONDS", default_value = "300", conflicts_with = "undo")]
    pub timeout: u32,
    /// Take part again.
    #[arg(long)]
    pub undo: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `sluice probe`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 yes; 1 no; 2 no daemon answers.")]
pub struct ProbeArgs {
    /// What to ask.
    pub question: Question,
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "SLUICE_SOCKET")]
    pub socket: PathBuf,
}

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Does it answer?
    Live,
    /// Does it serve, or stand by to take over from the daemon before it?
    Ready,
}

/// `sluice maps`.
#[derive(Debug, Args)]
pub struct MapsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: MapsCommand,
}

/// What to do with the maps.
#[derive(Debug, Subcommand)]
pub enum MapsCommand {
    /// Print what the kernel has.
    Dump(ClientArgs),
    /// Compare what the kernel has with what it should; exit 1 when they differ.
    Verify(ClientArgs),
    /// Detach XDP and remove all pinned maps and links. The daemon must not run.
    Purge {
        /// Directory on a bpffs where maps and links are pinned.
        #[arg(long, env = "SLUICE_PIN_DIR", value_name = "DIR", default_value = "/sys/fs/bpf/sluice")]
        pin_dir: PathBuf,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// `sluice doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 fit; 1 something keeps Sluice from working; 2 wrong usage.")]
pub struct DoctorArgs {
    /// The NIC to look at. May be repeated. Default: every NIC that is not virtual.
    #[arg(long, env = "SLUICE_INTERFACE", value_delimiter = ',', value_name = "IF")]
    pub interface: Vec<String>,
    /// Look only at what ordinary sockets need.
    #[arg(long, env = "SLUICE_NO_XDP", value_parser = BoolishValueParser::new())]
    pub no_xdp: bool,
    /// Only what is wrong, a line each: for the log of an init container.
    #[arg(long)]
    pub brief: bool,
    /// How the answer looks.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// How answers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage() {
        for (line, ok) in [
            ("sluice run --manifests d --no-xdp", true),
            ("sluice run --manifests d --interface a --interface b --vip 192.0.2.1 --vip 2001:db8::1", true),
            ("sluice run --kubernetes --kubeconfig f --interface a", true),
            ("sluice run --no-xdp", false),
            ("sluice run --manifests d --kubernetes --no-xdp", false),
            ("sluice run --manifests d --kubeconfig f --no-xdp", false),
            ("sluice run --manifests d --no-xdp --interface a", false),
            ("sluice run --manifests d --no-xdp --http-port 0", false),
            ("sluice run --manifests d --no-xdp --vip foo", false),
            ("sluice run --manifests d --no-xdp --trusted-proxy 10.0.0.0/8,192.0.2.1,::1", true),
            ("sluice run --manifests d --no-xdp --trusted-proxy 10.0.0.0/33", false),
            ("sluice run --manifests d --interface a --wait-for-lock 120", true),
            ("sluice run --manifests d --no-xdp --wait-for-lock 120", false),
            ("sluice run --manifests d --interface a,b --vip 192.0.2.1,::1 --adopt-class x,y", true),
            ("sluice drain", true),
            ("sluice drain --timeout 5 -o json", true),
            ("sluice drain --undo", true),
            ("sluice drain --undo --timeout 5", false),
            ("sluice probe", false),
            ("sluice probe ready", true),
            ("sluice explain http://a --vip 192.0.2.1", true),
            ("sluice explain http://a --vip [2001:db8::1]:443", true),
            ("sluice explain http://a --vip x", false),
            ("sluice explain tcp 192.0.2.1:1234 198.51.100.10:443 --sni a.example", true),
            ("sluice explain", false),
            ("sluice explain a b c d", false),
            ("sluice explain http://a -o json --socket s", true),
            ("sluice top --once --sort latency --interval 0.5 -o json --socket s", true),
            ("sluice top --interval 0", false),
            ("sluice top --interval NaN", false),
            ("sluice trace", true),
            ("sluice trace --address 192.0.2.0/24 --port 443 --vip [2001:db8::1]:443 --sample 10", true),
            ("sluice trace --address 2001:db8::1 --reason vip,not_vip --verdict drop --direction out", true),
            ("sluice trace --count 5 --seconds 0 -o pcap --write f --socket s", true),
            ("sluice trace --reason nonsense", false),
            ("sluice trace --verdict nonsense", false),
            ("sluice trace --address 192.0.2.0/33", false),
            ("sluice trace -o table", false),
            ("sluice maps", false),
            ("sluice tune", true),
            ("sluice tune deny+=192.0.2.0/24 connection-rate=5 -o json", true),
            ("sluice maps verify -o json", true),
            ("sluice doctor --interface eth0", true),
            ("sluice check", false),
            ("sluice check d --strict -o json", true),
            ("sluice check d --compat both --from none", true),
            ("sluice check d --replay f --replay-host a --replay-scheme http", true),
            ("sluice check d --replay -", true),
            ("sluice check d --replay-host a", false),
            ("sluice run --manifests d --no-xdp --compat both", false),
            (
                "sluice run --manifests d --interface a --sni filter,192.0.2.1:8443=off,[::1]:443=observe",
                true,
            ),
            ("sluice run --manifests d --interface a --sni steer,[::1]:443=steer-filter", true),
            ("sluice run --manifests d --interface a --sni refuse", false),
            ("sluice run --manifests d --interface a --sni x=filter", false),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), ok, "{line}");
        }
    }
}
