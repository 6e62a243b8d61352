//! The options of the daemon.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgGroup, Args, ValueEnum};
use lb_common::maps::REMEMBERED_FLOWS;

use super::DEFAULT_SOCKET;
use super::network::network;
use super::vip::{SniRule, sni_rule};
use crate::dataplane::kernel::{FEWEST_FLOWS, MOST_FLOWS};
use crate::model::{Compat, MAX_BAN_AFTER, MAX_BAN_FOR, MAX_BAN_WITHIN, MAX_BANS, WorkerPool};
use crate::proxy;
use crate::status::Address;

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

SIGTERM or SIGINT drains for --drain-timeout; a second one ends at once; SIGHUP changes nothing.
XDP stays attached and its maps stay pinned, so that a restart detaches nothing; `sluice maps purge` removes them.")]
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
    /// N more workers that serve the TLS connections for hosts of Ingresses with the annotation
    /// sluice.dev/worker-pool: NAME, and nothing else. Each is pinned to a CPU of its own as long as
    /// there are any; --workers then defaults to one for each CPU that is left. The pool passthrough
    /// serves ssl-passthrough. May be repeated.
    #[arg(
        long,
        env = "SLUICE_WORKER_POOL",
        value_name = "NAME=N",
        value_delimiter = ',',
        value_parser = worker_pool,
        help_heading = "Traffic"
    )]
    pub worker_pool: Vec<WorkerPool>,
    /// The topology zone that the node is in: endpoints whose EndpointSlice has hints for it go first.
    #[arg(long, env = "SLUICE_ZONE", value_name = "ZONE", help_heading = "Traffic")]
    pub zone: Option<String>,
    /// The name of this node, as EndpointSlices write it: Services with externalTrafficPolicy Local ask
    /// the endpoints on it.
    #[arg(long, env = "SLUICE_NODE_NAME", value_name = "NAME", help_heading = "Traffic")]
    pub node_name: Option<String>,
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
        value_parser = network,
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
        value_parser = network,
        value_delimiter = ',',
        help_heading = "Traffic"
    )]
    pub proxy_protocol: Vec<ipnet::IpNet>,
    /// Services of type LoadBalancer may only have addresses in this network (CIDR). May be repeated; the
    /// cluster's setting service-vips goes before it. Without either, whoever may write such a Service can
    /// take any address's packets, a node's own included.
    #[arg(
        long,
        env = "SLUICE_SERVICE_VIPS",
        value_name = "CIDR",
        value_parser = network,
        value_delimiter = ',',
        help_heading = "Traffic"
    )]
    pub service_vips: Option<Vec<ipnet::IpNet>>,
    /// How many connections one client (IPv4 address or IPv6 /64) may have; further ones are closed
    /// at once. Default: no limit. Trusted proxies have none.
    #[arg(long, env = "SLUICE_MAX_CLIENT_CONNECTIONS", value_name = "N", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_client_connections: Option<u32>,
    /// Ban a client (IPv4 address or IPv6 /64) that the proxy catches so often: HTTP/2 floods, heads and
    /// handshakes that never end, refused server names, too many connections or requests. Its packets are
    /// dropped in XDP, its connections closed without it. Default: nobody is banned. `sluice tune` changes
    /// this and lets in again; trusted proxies, this node and allowed sources are spared.
    #[arg(long, env = "SLUICE_BAN_AFTER", value_name = "N", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..=MAX_BAN_AFTER as i64))]
    pub ban_after: Option<u32>,
    /// Within so many seconds.
    #[arg(long, env = "SLUICE_BAN_WITHIN", value_name = "SECONDS", default_value = "60", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..=MAX_BAN_WITHIN as i64))]
    pub ban_within: u32,
    /// For so many seconds.
    #[arg(long, env = "SLUICE_BAN_FOR", value_name = "SECONDS", default_value = "600", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..=MAX_BAN_FOR as i64))]
    pub ban_for: u32,
    /// How many bans there are at a time; above, the one that ends first goes.
    #[arg(long, env = "SLUICE_BAN_MAX", value_name = "N", default_value = "10000", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..=MAX_BANS as i64))]
    pub ban_max: u32,
    /// How many requests a client may send on one connection, which then ends with
    /// `Connection: close` or GOAWAY. Default: no limit.
    #[arg(long, env = "SLUICE_MAX_CONNECTION_REQUESTS", value_name = "N", help_heading = "Traffic", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connection_requests: Option<u32>,
    /// Tell endpoints about the client in `Forwarded` (RFC 7239), too.
    #[arg(long, env = "SLUICE_FORWARDED", value_parser = BoolishValueParser::new(), help_heading = "Traffic")]
    pub forwarded: bool,
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

    /// What to do with the server names of TLS connections: off, observe (count them), filter (and
    /// answer names that no route or certificate is for with an alert), steer (XDP does the TCP
    /// handshake, and the name chooses the workers), or steer-filter (both). ADDR[:PORT]=MODE sets it
    /// for one VIP. May be repeated. Without XDP there is nothing to count, and the proxy does the rest
    /// alone.
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
    /// How the stack takes over connections whose handshake XDP did, for --sni steer and syn-cookies:
    /// v2 by a function of the kernel (Linux 6.9), v1 by the kernel's own SYN cookies, which takes
    /// net.ipv4.tcp_syncookies=2 and net.ipv4.tcp_timestamps=2. Without either, connections are not
    /// steered.
    #[arg(
        long,
        env = "SLUICE_STEERING",
        value_name = "HOW",
        default_value = "auto",
        conflicts_with = "no_xdp",
        help_heading = "XDP"
    )]
    pub steering: SteeringArg,
    /// How many flows of Services of type LoadBalancer a node remembers, those that were closed within the last
    /// minute included; rounded up to a power of two. Each takes 144 bytes of the kernel's memory. With another
    /// number than before, open flows are lost and counters start at zero.
    #[arg(
        long,
        env = "SLUICE_FLOWS",
        value_name = "N",
        default_value_t = REMEMBERED_FLOWS,
        value_parser = clap::value_parser!(u32).range(i64::from(FEWEST_FLOWS)..=i64::from(MOST_FLOWS)),
        help_heading = "XDP"
    )]
    pub flows: u32,
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

/// How connections are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SteeringArg {
    /// V2 where the kernel has it, else v1.
    Auto,
    /// By the kernel's own SYN cookies.
    V1,
    /// By a function of the kernel.
    V2,
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

fn worker_pool(text: &str) -> Result<WorkerPool, String> {
    let form = "write NAME=N: a name of lower-case letters, digits and hyphens, and 1 to 512 workers";
    let (name, workers) = text.split_once('=').ok_or(form)?;
    let workers = workers.parse().ok().filter(|number| (1..=512).contains(number)).ok_or(form)?;
    if name == "terminate" {
        return Err("terminate is what the general workers do: say --workers N for these".to_owned());
    }
    if WorkerPool::is_name(name) {
        Ok(WorkerPool { name: name.into(), workers })
    } else {
        Err(form.to_owned())
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
