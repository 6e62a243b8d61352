//! The command line's grammar and help.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::model::{Compat, SniMode};
use crate::proxy;
use crate::status::Address;

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
    /// What happens with a request for a URL, and why the other rules lost.
    Explain(ExplainArgs),
    /// The kernel's maps: show them, compare them with the desired state, remove them.
    Maps(MapsArgs),
    /// Rules for clients by address, in XDP: show them, change them while the daemon runs.
    Tune(TuneArgs),
    /// Is the daemon alive, or ready? For the probes of a pod: one line, and the exit status.
    Probe(ProbeArgs),
    /// Check kernel, rights, NIC and sysctls of this node. Needs no daemon.
    Doctor(DoctorArgs),
    /// Read a manifest directory and say what is wrong with it. Needs no daemon.
    Check(CheckArgs),
}

/// `sluice run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["manifests", "kubernetes"]))]
#[command(after_help = "\
Examples:
  sluice run --manifests /etc/sluice --interface eth0 --vip 198.51.100.10
  sluice run --manifests ./manifests --no-xdp --http-port 8080 --https-port 8443
  sluice run --kubernetes --interface eth0 --adopt-class nginx --compat ingress-nginx

Each option can be given by its environment variable instead; the command line overrules it, lists
are separated by commas, and an empty variable counts as none.

SIGTERM or SIGINT drains for --drain-timeout; a second one ends at once. XDP stays attached and its
maps stay pinned, so that a restart detaches nothing; `sluice maps purge` removes them.")]
pub struct RunArgs {
    /// Follow the Kubernetes YAML files in this directory.
    #[arg(
        long,
        env = "SLUICE_MANIFESTS",
        conflicts_with = "kubernetes",
        value_name = "DIR",
        help_heading = "Source"
    )]
    pub manifests: Option<PathBuf>,
    /// Follow the Kubernetes API: in a cluster by the service account, else by a kubeconfig.
    #[arg(long, env = "SLUICE_KUBERNETES", value_parser = BoolishValueParser::new(), help_heading = "Source")]
    pub kubernetes: bool,
    /// The kubeconfig to use with --kubernetes.
    #[arg(
        long,
        env = "SLUICE_KUBECONFIG",
        value_name = "FILE",
        requires = "kubernetes",
        conflicts_with = "manifests",
        help_heading = "Source"
    )]
    pub kubeconfig: Option<PathBuf>,

    /// Attach XDP to this NIC. May be repeated.
    #[arg(
        long,
        env = "SLUICE_INTERFACE",
        value_delimiter = ',',
        value_name = "IF",
        conflicts_with = "no_xdp",
        help_heading = "Traffic"
    )]
    pub interface: Vec<String>,
    /// Answer for this address. May be repeated. Default: the NICs' addresses, and with --no-xdp
    /// all addresses of the node.
    #[arg(long, env = "SLUICE_VIP", value_delimiter = ',', value_name = "ADDR", help_heading = "Traffic")]
    pub vip: Vec<IpAddr>,
    /// Port for plain HTTP.
    #[arg(long, env = "SLUICE_HTTP_PORT", value_name = "PORT", default_value_t = 80, help_heading = "Traffic", value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: u16,
    /// Port for HTTPS.
    #[arg(long, env = "SLUICE_HTTPS_PORT", value_name = "PORT", default_value_t = 443, help_heading = "Traffic", value_parser = clap::value_parser!(u16).range(1..))]
    pub https_port: u16,
    /// Number of proxy workers, each pinned to a CPU. Default: one for each CPU.
    #[arg(long, env = "SLUICE_WORKERS", value_name = "N", help_heading = "Traffic", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// The topology zone that the node is in: endpoints whose EndpointSlice has hints for it go first.
    #[arg(long, env = "SLUICE_ZONE", value_name = "ZONE", help_heading = "Traffic")]
    pub zone: Option<String>,
    /// Where a line for each request goes.
    #[arg(
        long,
        env = "SLUICE_ACCESS_LOG",
        value_name = "WHERE",
        default_value = "off",
        help_heading = "Traffic"
    )]
    pub access_log: AccessLog,
    /// What that line looks like: json, or text with nginx's variables, such as
    /// '$remote_addr "$request" $status $request_time'. An unknown variable is told with all there are.
    #[arg(
        long,
        env = "SLUICE_ACCESS_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "json",
        help_heading = "Traffic"
    )]
    pub access_log_format: proxy::LogFormat,
    /// Send a span of each traced request to this OpenTelemetry collector: OTLP over HTTP, such as
    /// http://127.0.0.1:4318/v1/traces. Without it, traces of clients go on to endpoints as they are.
    #[arg(long, env = "SLUICE_OTLP_ENDPOINT", value_name = "URL", help_heading = "Traffic", value_parser = otlp_endpoint)]
    pub otlp_endpoint: Option<http::Uri>,
    /// With --otlp-endpoint: how many percent of the requests that bring no trace begin one. Those that
    /// bring one are sent as that says.
    #[arg(
        long,
        env = "SLUICE_TRACE_SAMPLE",
        value_name = "PERCENT",
        default_value_t = 0.0,
        value_parser = percent,
        help_heading = "Traffic"
    )]
    pub trace_sample: f64,
    /// Believe X-Forwarded-* headers of peers in this network (CIDR). May be repeated.
    #[arg(
        long,
        env = "SLUICE_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = "Traffic"
    )]
    pub trusted_proxy: Vec<ipnet::IpNet>,
    /// Connections of peers in this network (CIDR) begin with a PROXY header, version 1 or 2, that
    /// names the client. May be repeated.
    #[arg(
        long,
        env = "SLUICE_PROXY_PROTOCOL",
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = "Traffic"
    )]
    pub proxy_protocol: Vec<ipnet::IpNet>,
    /// How many connections one client (IPv4 address or IPv6 /64) may have; further ones are closed
    /// at once. Default: no limit. Trusted proxies have none.
    #[arg(long, env = "SLUICE_MAX_CLIENT_CONNECTIONS", value_name = "N", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_client_connections: Option<u32>,
    /// How many client connections each worker holds; further ones wait in the listen queue.
    /// Default: 32768, and never more than the limit of open files allows.
    #[arg(long, env = "SLUICE_MAX_WORKER_CONNECTIONS", value_name = "N", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_worker_connections: Option<u32>,
    /// How many seconds open connections may take to end after SIGTERM.
    #[arg(
        long,
        env = "SLUICE_DRAIN_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 30,
        help_heading = "Traffic"
    )]
    pub drain_timeout: u16,

    /// What to do with the server names of TLS connections: off, observe (count them), or filter (and
    /// answer names that no route or certificate is for with an alert). ADDR[:PORT]=MODE sets it for one
    /// VIP. May be repeated. Without XDP there is nothing to count, and the proxy filters alone.
    #[arg(
        long,
        env = "SLUICE_SNI",
        value_name = "[VIP=]MODE",
        value_delimiter = ',',
        value_parser = sni_rule,
        help_heading = "Traffic"
    )]
    pub sni: Vec<SniRule>,

    /// Serve through ordinary sockets, without the kernel's help.
    #[arg(long, env = "SLUICE_NO_XDP", value_parser = BoolishValueParser::new(), help_heading = "XDP")]
    pub no_xdp: bool,
    /// How XDP attaches; auto takes native and falls back to generic.
    #[arg(long, env = "SLUICE_XDP_MODE", value_name = "MODE", default_value = "auto", help_heading = "XDP")]
    pub xdp_mode: XdpMode,
    /// Directory on a bpffs where maps and links are pinned.
    #[arg(
        long,
        env = "SLUICE_PIN_DIR",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/sluice",
        help_heading = "XDP"
    )]
    pub pin_dir: PathBuf,
    /// Log what the kernel programs find odd, and each ClientHello: lines of level debug of
    /// sluice_ebpf, so --log has to let them through.
    #[arg(
        long,
        env = "SLUICE_XDP_LOG",
        value_parser = BoolishValueParser::new(),
        conflicts_with = "no_xdp",
        help_heading = "XDP"
    )]
    pub xdp_log: bool,

    /// Also serve Ingresses of this class, whoever's controller it names. May be repeated.
    #[arg(
        long,
        env = "SLUICE_ADOPT_CLASS",
        value_delimiter = ',',
        value_name = "NAME",
        help_heading = "Ingress"
    )]
    pub adopt_class: Vec<String>,
    /// Also serve Ingresses that name no class. With --manifests they are served anyway.
    #[arg(long, env = "SLUICE_SERVE_CLASSLESS", value_parser = BoolishValueParser::new(), help_heading = "Ingress")]
    pub serve_classless: bool,
    /// With --manifests: treat classes as a cluster does, so ignore Ingresses without one, or whose
    /// class no IngressClass in the directory defines.
    #[arg(long, env = "SLUICE_STRICT_CLASS", value_parser = BoolishValueParser::new(), conflicts_with = "kubernetes", help_heading = "Ingress")]
    pub strict_class: bool,
    /// Whose defaults apply: the API's text, or ingress-nginx's (redirects to https, above all).
    #[arg(
        long,
        env = "SLUICE_COMPAT",
        value_name = "WHOSE",
        default_value = "kubernetes",
        help_heading = "Ingress"
    )]
    pub compat: CompatArg,
    /// A ConfigMap with settings of the cluster, followed while it runs: namespace/name. The keys are
    /// those of ingress-nginx's, as far as they mean something here; deploy/README.md lists them.
    #[arg(long, env = "SLUICE_CONFIG_MAP", value_name = "NS/NAME", help_heading = "Ingress")]
    pub config_map: Option<String>,
    /// Gets what no Ingress takes: namespace/service:port.
    #[arg(long, env = "SLUICE_DEFAULT_BACKEND", value_name = "NS/SVC:PORT", help_heading = "Ingress")]
    pub default_backend: Option<String>,
    /// For names without a certificate: the Secret namespace/name. Default: a self-signed one.
    #[arg(long, env = "SLUICE_DEFAULT_CERTIFICATE", value_name = "NS/SECRET", help_heading = "Ingress")]
    pub default_certificate: Option<String>,

    /// Say in the status of Ingresses that they are reached at this address or name. May be repeated.
    /// Default: the addresses of all nodes that run Sluice.
    #[arg(
        long,
        env = "SLUICE_PUBLISH_ADDRESS",
        value_delimiter = ',',
        value_name = "ADDR",
        conflicts_with_all = ["publish_service", "manifests", "no_status"],
        help_heading = "Status"
    )]
    pub publish_address: Vec<Address>,
    /// Say that they are reached at what this Service is reached at.
    #[arg(
        long,
        env = "SLUICE_PUBLISH_SERVICE",
        value_name = "NS/SVC",
        conflicts_with_all = ["manifests", "no_status"],
        help_heading = "Status"
    )]
    pub publish_service: Option<String>,
    /// The Lease by which one of all daemons is chosen to write status and Events. Default: sluice
    /// in the namespace of the pod, or of the kubeconfig's context.
    #[arg(
        long,
        env = "SLUICE_LEASE",
        value_name = "NS/LEASE",
        conflicts_with_all = ["manifests", "no_status"],
        help_heading = "Status"
    )]
    pub lease: Option<String>,
    /// Write neither status nor Events, and take no part in the election of who does.
    #[arg(
        long,
        env = "SLUICE_NO_STATUS",
        value_parser = BoolishValueParser::new(),
        conflicts_with = "manifests",
        help_heading = "Status"
    )]
    pub no_status: bool,

    /// While another daemon holds the pin directory, stand by for so long to take over from it.
    /// Default: refuse at once.
    #[arg(
        long,
        env = "SLUICE_WAIT_FOR_LOCK",
        value_name = "SECONDS",
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "no_xdp",
        help_heading = "Operation"
    )]
    pub wait_for_lock: u32,
    /// Where the other subcommands reach the daemon.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "SLUICE_SOCKET", help_heading = "Operation")]
    pub socket: PathBuf,
    /// Address for /healthz, /readyz and /metrics.
    #[arg(
        long,
        env = "SLUICE_HEALTH",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:10254",
        help_heading = "Operation"
    )]
    pub health: SocketAddr,
    /// How log lines on stderr look.
    #[arg(
        long,
        env = "SLUICE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Operation"
    )]
    pub log_format: LogFormat,
    /// What to log: a level, or directives like sluice=debug,kube=warn.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "SLUICE_LOG",
        help_heading = "Operation"
    )]
    pub log: String,
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

/// `sluice explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice explain https://blue.example.com/x
  sluice explain http://198.51.100.10:8080/ -o json")]
pub struct ExplainArgs {
    /// The URL a client would ask for; http:// may be left out.
    pub url: String,
    /// Also list the rules of hosts that the URL's host is not.
    #[arg(long)]
    pub all: bool,
    /// Only for connections to this address, or to this one and port.
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = vip_address)]
    pub vip: Option<VipAddress>,
    #[command(flatten)]
    pub client: ClientArgs,
}

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

The longest network that covers a client counts. Who is allowed has no budget; a client is an IPv4
address or an IPv6 /64. All holds for VIPs alone. It stays when the daemon restarts, until the node does,
or `sluice maps purge`.")]
pub struct TuneArgs {
    /// KEY=VALUE; KEY+=VALUE and KEY-=VALUE add to lists and take from them. Keys: deny, allow,
    /// connection-rate, connection-burst. Lists are separated by commas; @FILE stands for a file's.
    #[arg(value_name = "SETTING")]
    pub settings: Vec<String>,
    #[command(flatten)]
    pub client: ClientArgs,
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
fn sni_rule(text: &str) -> Result<SniRule, String> {
    let (vip, mode) = match text.rsplit_once('=') {
        Some((vip, mode)) => (Some(vip_address(vip)?), mode),
        None => (None, text),
    };
    let mode = match mode {
        "off" => SniMode::Off,
        "observe" => SniMode::Observe,
        "filter" => SniMode::Filter,
        _ => return Err(format!("{mode:?} is none of off, observe and filter")),
    };
    Ok(SniRule { vip, mode })
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

/// `sluice check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice check ./manifests                              what is wrong, and what changes for ingress-nginx's Ingresses?
  sluice check ./manifests --compat ingress-nginx       the same, with ingress-nginx's defaults
  sluice check ./manifests --replay requests.jsonl      which route does each of these requests take?
  zcat access.log.gz | sluice check ./manifests --replay - --replay-host shop.example.com --compat both

A replayed line is a JSON object with method, host, path, headers and tls (all but path may be left
out), or a line of nginx's log format combined, with or without the host before it.

Exit status: 0 fine; 1 errors, or annotations that are refused; with --strict also warnings, annotations
that differ and answers that change; 2 wrong usage, or it can't be read.")]
pub struct CheckArgs {
    /// The directory with Kubernetes YAML files.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Warnings and changes count as errors.
    #[arg(long)]
    pub strict: bool,
    /// Which controller the Ingresses come from: what changes by the move is reported, and its classes
    /// are adopted.
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    pub from: Origin,
    /// Ignore Ingresses without a class, or whose class no IngressClass in the directory defines.
    #[arg(long)]
    pub strict_class: bool,
    /// Also serve Ingresses of this class. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub adopt_class: Vec<String>,
    /// With --strict-class: also serve Ingresses that name no class.
    #[arg(long)]
    pub serve_classless: bool,
    /// Whose defaults apply. Both: report what differs between them; objects are checked with kubernetes.
    #[arg(long, value_name = "WHOSE", default_value = "kubernetes")]
    pub compat: CheckCompat,
    /// Read requests from this file, or - for standard input, and say which route each takes. With
    /// --compat both, only those whose answers differ.
    #[arg(long, value_name = "FILE", help_heading = "Replay")]
    pub replay: Option<PathBuf>,
    /// The host of requests that name none.
    #[arg(long, value_name = "HOST", requires = "replay", help_heading = "Replay")]
    pub replay_host: Option<String>,
    /// How requests came that don't say it.
    #[arg(
        long,
        value_name = "SCHEME",
        requires = "replay",
        default_value = "https",
        help_heading = "Replay"
    )]
    pub replay_scheme: Scheme,
    /// How the answer looks.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// Which controller Ingresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// ingress-nginx, if any Ingress has an annotation of it.
    Auto,
    /// ingress-nginx.
    IngressNginx,
    /// None that matters.
    None,
}

/// Whose defaults apply to what is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckCompat {
    /// What the API documents.
    Kubernetes,
    /// ingress-nginx's.
    IngressNginx,
    /// One after the other.
    Both,
}

impl CheckCompat {
    /// The defaults to look at; the first is the one that objects are checked with.
    pub fn each(self) -> &'static [Compat] {
        match self {
            Self::Kubernetes => &[Compat::Kubernetes],
            Self::IngressNginx => &[Compat::IngressNginx],
            Self::Both => &[Compat::Kubernetes, Compat::IngressNginx],
        }
    }
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// How answers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where a line for each request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
}

/// How XDP attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// Native, else generic with a warning.
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's network stack: any NIC, slower.
    Generic,
}

/// Whose defaults apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompatArg {
    /// What the API documents.
    Kubernetes,
    /// ingress-nginx's.
    IngressNginx,
}

impl From<CompatArg> for Compat {
    fn from(arg: CompatArg) -> Self {
        match arg {
            CompatArg::Kubernetes => Self::Kubernetes,
            CompatArg::IngressNginx => Self::IngressNginx,
        }
    }
}

fn otlp_endpoint(text: &str) -> Result<http::Uri, String> {
    let remedy =
        "write http://HOST:4318/v1/traces; for a collector that wants TLS, run one on the node that sends on";
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}; {remedy}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(uri),
        _ => Err(remedy.to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "write a number from 0 to 100".to_owned())
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
            ("sluice run --manifests d --interface a --wait-for-lock 120", true),
            ("sluice run --manifests d --no-xdp --wait-for-lock 120", false),
            ("sluice run --manifests d --interface a,b --vip 192.0.2.1,::1 --adopt-class x,y", true),
            ("sluice probe", false),
            ("sluice probe ready", true),
            ("sluice explain http://a --vip 192.0.2.1", true),
            ("sluice explain http://a --vip [2001:db8::1]:443", true),
            ("sluice explain http://a --vip x", false),
            ("sluice explain", false),
            ("sluice explain http://a -o json --socket s", true),
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
            ("sluice run --manifests d --interface a --sni steer", false),
            ("sluice run --manifests d --interface a --sni x=filter", false),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), ok, "{line}");
        }
    }
}
