//! The options of the offline lint.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Output;
use super::network::network;
use crate::app::settings::object_key;
use crate::model::{Compat, ObjectKey};

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
    /// [default: what the settings say, else kubernetes]
    #[arg(long, value_name = "WHOSE")]
    pub compat: Option<CheckCompat>,
    /// The ConfigMap among the files with the settings of the cluster: namespace/name.
    #[arg(long, env = "SLUICE_CONFIG_MAP", value_name = "NS/NAME", value_parser = config_map)]
    pub config_map: Option<ObjectKey>,
    /// Services of type LoadBalancer may only have addresses in this network (CIDR). May be repeated; the settings
    /// of the cluster go before it.
    #[arg(long, env = "SLUICE_SERVICE_VIPS", value_name = "CIDR", value_parser = network, value_delimiter = ',')]
    pub service_vips: Option<Vec<ipnet::IpNet>>,
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

fn config_map(text: &str) -> Result<ObjectKey, &'static str> {
    object_key(text).ok_or("write namespace/name")
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
