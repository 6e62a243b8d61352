//! From arguments to what the daemon's parts are told. Pure, but for the NICs' addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{ClusterKey, Listener, ObjectKey, PortRef, Protocol, SniMode, Transport, Vip, WorkerPool};
use crate::objects::is_name;
use crate::status::Publish;

use super::cli::{RunArgs, VipAddress};
use super::publisher::Plan;

/// Why the arguments make no settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// Neither a NIC nor `--no-xdp`.
    #[error(
        "no NIC named: say --interface IF to attach XDP to it, or --no-xdp to serve through ordinary sockets"
    )]
    NoInterface,
    /// The NIC is not there.
    #[error("there is no NIC {name}; this node has {have}")]
    UnknownInterface {
        /// As given.
        name: String,
        /// Those there are.
        have: String,
    },
    /// The NICs have no address to answer for.
    #[error("{0} has no address to answer for: name one with --vip ADDR")]
    NoAddress(String),
    /// The two ports are the same.
    #[error("--http-port and --https-port are both {0}: give them different ports")]
    SamePort(u16),
    /// An address that nobody can connect to.
    #[error("--vip {0} is no address that clients can connect to")]
    BadVip(IpAddr),
    /// Wildcards need sockets of their own.
    #[error("--vip {0} works only with --no-xdp: name the addresses that the node should answer for")]
    WildcardVip(IpAddr),
    /// A pool is given twice, or there are too many.
    #[error("--worker-pool {0}: name each pool once, and at most {most}", most = WorkerPool::MOST)]
    BadPools(Arc<str>),
    /// A reference to an object that can't be read.
    #[error("--{option} {text:?} is not of the form {form}")]
    BadReference {
        /// Which option.
        option: &'static str,
        /// As given.
        text: String,
        /// What it should look like.
        form: &'static str,
    },
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A manifest directory.
    Manifests(PathBuf),
    /// The Kubernetes API, with this kubeconfig or the environment's.
    Kubernetes(Option<PathBuf>),
}

/// What of the arguments needs more than copying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where objects come from.
    pub source: SourceKind,
    /// NICs for XDP; empty without it.
    pub interfaces: Vec<String>,
    /// Sorted by VIP.
    pub listeners: Vec<Listener>,
    /// Gets what no Ingress takes.
    pub default_backend: Option<ClusterKey>,
    /// For names without a certificate.
    pub default_certificate: Option<ObjectKey>,
    /// The ConfigMap with settings of the cluster.
    pub config_map: Option<ObjectKey>,
    /// How status is written; `None`: not at all.
    pub status: Option<Plan>,
}

impl Settings {
    /// Checks the arguments. `addresses`: the node's NICs, each with its addresses; one entry for
    /// each address, and a NIC without any has one entry too.
    pub fn new(args: &RunArgs, addresses: &[(String, Option<IpAddr>)]) -> Result<Self, BadSettings> {
        if args.interface.is_empty() && !args.no_xdp {
            return Err(BadSettings::NoInterface);
        }
        if args.http_port == args.https_port {
            return Err(BadSettings::SamePort(args.http_port));
        }
        for name in &args.interface {
            if !addresses.iter().any(|(have, _)| have == name) {
                let have: BTreeSet<_> = addresses.iter().map(|(name, _)| name.as_str()).collect();
                let have = have.into_iter().collect::<Vec<_>>().join(", ");
                return Err(BadSettings::UnknownInterface { name: name.clone(), have });
            }
        }
        let mut pools = BTreeSet::new();
        for pool in &args.worker_pool {
            let named = pools.iter().filter(|name| **name != WorkerPool::PASSTHROUGH).count();
            let more = *pool.name != *WorkerPool::PASSTHROUGH && named == WorkerPool::MOST;
            if more || !pools.insert(&*pool.name) {
                return Err(BadSettings::BadPools(pool.name.clone()));
            }
        }
        let source = match &args.manifests {
            Some(dir) => SourceKind::Manifests(dir.clone()),
            None => SourceKind::Kubernetes(args.kubeconfig.clone()),
        };
        let vips = vips(args, addresses)?;
        let mut listeners: Vec<_> = vips
            .into_iter()
            .flat_map(|address| {
                let vip = |port| Vip { address, port, transport: Transport::Tcp };
                [
                    Listener { vip: vip(args.http_port), protocol: Protocol::Http, sni: SniMode::Off },
                    Listener {
                        vip: vip(args.https_port),
                        protocol: Protocol::Https,
                        sni: sni(args, vip(args.https_port)),
                    },
                ]
            })
            .collect();
        listeners.sort_by_key(|listener| listener.vip);
        Ok(Self {
            source,
            interfaces: args.interface.clone(),
            listeners,
            default_backend: args.default_backend.as_deref().map(cluster_key).transpose()?,
            default_certificate: args.default_certificate.as_deref().map(secret_key).transpose()?,
            config_map: args.config_map.as_deref().map(config_map_key).transpose()?,
            status: status(args)?,
        })
    }
}

/// What the last rule for a VIP says. Counting takes XDP; names are refused without it, too.
fn sni(args: &RunArgs, vip: Vip) -> SniMode {
    let covers =
        |rule: &VipAddress| rule.address == vip.address && rule.port.is_none_or(|port| port == vip.port);
    let rules = args.sni.iter().rev();
    let own = rules.clone().find(|rule| rule.vip.as_ref().is_some_and(covers));
    let rule = own.or_else(|| rules.clone().find(|rule| rule.vip.is_none()));
    match rule.map(|rule| rule.mode).unwrap_or_default() {
        SniMode::Observe | SniMode::Steer if args.no_xdp => SniMode::Off,
        SniMode::SteerFilter if args.no_xdp => SniMode::Filter,
        mode => mode,
    }
}

/// Only a cluster has anybody to say it to.
fn status(args: &RunArgs) -> Result<Option<Plan>, BadSettings> {
    if args.manifests.is_some() || args.no_status {
        return Ok(None);
    }
    let key = |option, text: &str, form| {
        object_key(text).ok_or_else(|| BadSettings::BadReference { option, text: text.to_owned(), form })
    };
    let service = args.publish_service.as_deref();
    let service = service.map(|text| key("publish-service", text, "namespace/service")).transpose()?;
    let lease = args.lease.as_deref().map(|text| key("lease", text, "namespace/lease")).transpose()?;
    let publish = match service {
        Some(service) => Publish::Service(service),
        None if args.publish_address.is_empty() => Publish::Nodes,
        None => Publish::Fixed(args.publish_address.iter().cloned().collect()),
    };
    Ok(Some(Plan { lease, publish }))
}

/// The node's NICs and addresses, from the kernel.
pub fn node_addresses() -> Result<Vec<(String, Option<IpAddr>)>, nix::Error> {
    let addresses = nix::ifaddrs::getifaddrs()?;
    Ok(addresses
        .map(|one| {
            let address = one.address.as_ref();
            let v4 = address.and_then(|a| a.as_sockaddr_in()).map(|a| IpAddr::V4(a.ip()));
            let v6 = || address.and_then(|a| a.as_sockaddr_in6()).map(|a| IpAddr::V6(a.ip()));
            (one.interface_name, v4.or_else(v6))
        })
        .collect())
}

fn vips(args: &RunArgs, addresses: &[(String, Option<IpAddr>)]) -> Result<BTreeSet<IpAddr>, BadSettings> {
    for vip in &args.vip {
        let broadcast = *vip == IpAddr::V4(Ipv4Addr::BROADCAST);
        if vip.is_multicast() || broadcast {
            return Err(BadSettings::BadVip(*vip));
        }
        if vip.is_unspecified() && !args.no_xdp {
            return Err(BadSettings::WildcardVip(*vip));
        }
    }
    if !args.vip.is_empty() {
        return Ok(args.vip.iter().copied().collect());
    }
    if args.no_xdp {
        return Ok([IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)].into());
    }
    let own: BTreeSet<_> = addresses
        .iter()
        .filter(|(name, _)| args.interface.contains(name))
        .filter_map(|(_, address)| *address)
        .filter(|address| !link_local(address))
        .collect();
    if own.is_empty() { Err(BadSettings::NoAddress(args.interface.join(", "))) } else { Ok(own) }
}

/// Link-local IPv6 addresses need a scope that no VIP has.
fn link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn cluster_key(text: &str) -> Result<ClusterKey, BadSettings> {
    let bad = || BadSettings::BadReference {
        option: "default-backend",
        text: text.to_owned(),
        form: "namespace/service:port",
    };
    let (service, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let service = object_key(service).ok_or_else(bad)?;
    let port = match port.parse::<u16>() {
        Ok(0) => return Err(bad()),
        Ok(number) => PortRef::Number(number),
        Err(_) if !is_name(port) => return Err(bad()),
        Err(_) => PortRef::Name(port.into()),
    };
    Ok(ClusterKey::new(service, port))
}

fn secret_key(text: &str) -> Result<ObjectKey, BadSettings> {
    object_key(text).ok_or_else(|| BadSettings::BadReference {
        option: "default-certificate",
        text: text.to_owned(),
        form: "namespace/secret",
    })
}

fn config_map_key(text: &str) -> Result<ObjectKey, BadSettings> {
    object_key(text).ok_or_else(|| BadSettings::BadReference {
        option: "config-map",
        text: text.to_owned(),
        form: "namespace/name",
    })
}

/// `namespace/name`.
pub fn object_key(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/')?;
    (is_name(namespace) && is_name(name)).then(|| ObjectKey::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::cli::{Cli, Command};
    use clap::Parser as _;

    fn settings(line: &str) -> Result<Settings, BadSettings> {
        let line = format!("sluice run --manifests d {line}");
        let Command::Run(args) = Cli::try_parse_from(line.split_whitespace()).expect("usage").command else {
            panic!("not run");
        };
        let nic = |name: &str, address: &str| (name.to_owned(), address.parse().ok());
        Settings::new(
            &args,
            &[
                nic("eth0", "192.0.2.1"),
                nic("eth0", "2001:db8::1"),
                nic("eth0", "fe80::1"),
                nic("eth1", ""),
                nic("lo", "127.0.0.1"),
            ],
        )
    }

    #[test]
    fn listeners() {
        for (line, expect) in [
            ("--no-xdp", vec!["0.0.0.0:80/tcp", "0.0.0.0:443/tcp", "[::]:80/tcp", "[::]:443/tcp"]),
            ("--no-xdp --vip 127.0.0.1 --http-port 8080", vec!["127.0.0.1:443/tcp", "127.0.0.1:8080/tcp"]),
            (
                "--interface eth0 --https-port 8443",
                vec![
                    "192.0.2.1:80/tcp",
                    "192.0.2.1:8443/tcp",
                    "[2001:db8::1]:80/tcp",
                    "[2001:db8::1]:8443/tcp",
                ],
            ),
            (
                "--interface eth1 --vip 198.51.100.10 --vip 198.51.100.10",
                vec!["198.51.100.10:80/tcp", "198.51.100.10:443/tcp"],
            ),
        ] {
            let settings = settings(line).expect(line);
            let got: Vec<_> = settings.listeners.iter().map(|l| l.vip.to_string()).collect();
            assert_eq!(got, expect, "{line}");
            for listener in settings.listeners {
                let observed = listener.protocol == Protocol::Https && !line.contains("--no-xdp");
                assert_eq!(listener.sni == SniMode::Observe, observed, "{line}");
            }
        }
    }

    #[test]
    fn sni_modes() {
        use SniMode::{Filter, Observe, Off, Steer, SteerFilter};
        for (line, expect) in [
            ("--interface eth0", [Observe, Observe]),
            ("--interface eth0 --sni filter", [Filter, Filter]),
            ("--interface eth0 --sni 192.0.2.1=filter --sni off", [Filter, Off]),
            ("--interface eth0 --sni off,filter,[2001:db8::1]:443=observe", [Filter, Observe]),
            ("--interface eth0 --sni 192.0.2.1:444=filter", [Observe, Observe]),
            ("--no-xdp --sni observe", [Off, Off]),
            ("--no-xdp --sni filter", [Filter, Filter]),
            ("--interface eth0 --sni steer,[2001:db8::1]=steer-filter", [Steer, SteerFilter]),
            ("--no-xdp --sni steer,[::]=steer-filter", [Off, Filter]),
        ] {
            let listeners = settings(line).expect(line).listeners;
            let got: Vec<_> =
                listeners.iter().filter(|l| l.protocol == Protocol::Https).map(|l| l.sni).collect();
            assert_eq!(got, expect, "{line}");
            assert!(listeners.iter().all(|l| l.protocol == Protocol::Https || l.sni == Off), "{line}");
        }
    }

    #[test]
    fn refusals_name_the_remedy() {
        for (line, expect) in [
            ("", "--no-xdp"),
            ("--interface eth9", "this node has eth0, eth1, lo"),
            ("--interface eth1", "--vip ADDR"),
            ("--no-xdp --http-port 443", "different ports"),
            ("--no-xdp --vip 224.0.0.1", "no address that clients"),
            ("--interface eth0 --vip 0.0.0.0", "only with --no-xdp"),
            ("--no-xdp --worker-pool a=1,b=1,a=2", "name each pool once"),
            ("--no-xdp --default-backend a:80", "namespace/service:port"),
            ("--no-xdp --default-backend a/b", "namespace/service:port"),
            ("--no-xdp --default-backend a/b:0", "namespace/service:port"),
            ("--no-xdp --default-backend a/b/c:80", "namespace/service:port"),
            ("--no-xdp --default-certificate x", "namespace/secret"),
        ] {
            let error = settings(line).expect_err(line).to_string();
            assert!(error.contains(expect), "{line}: {error}");
        }
    }

    #[test]
    fn what_is_published() {
        for (line, expect) in [
            ("--kubernetes", Ok(Some("None Nodes"))),
            ("--kubernetes --lease a/b", Ok(Some("Some(a/b) Nodes"))),
            (
                "--kubernetes --publish-address B.example --publish-address 192.0.2.1,192.0.2.1",
                Ok(Some("None 192.0.2.1 b.example")),
            ),
            ("--kubernetes --publish-service a/b", Ok(Some("None Service a/b"))),
            ("--kubernetes --no-status", Ok(None)),
            ("--manifests d", Ok(None)),
            ("--kubernetes --publish-service b", Err("namespace/service")),
            ("--kubernetes --lease a/b/c", Err("namespace/lease")),
        ] {
            let text = format!("sluice run --no-xdp {line}");
            let cli = Cli::try_parse_from(text.split_whitespace()).expect("usage");
            let Command::Run(args) = cli.command else { panic!("not run") };
            let got = Settings::new(&args, &[]).map_err(|error| error.to_string());
            let got = got.map(|settings| {
                settings.status.map(|plan| {
                    let publish = match plan.publish {
                        Publish::Nodes => "Nodes".to_owned(),
                        Publish::Service(key) => format!("Service {key}"),
                        Publish::Fixed(all) => {
                            all.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" ")
                        }
                    };
                    let lease = plan.lease.map_or("None".to_owned(), |lease| format!("Some({lease})"));
                    format!("{lease} {publish}")
                })
            });
            match (got, expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got.as_deref(), expect, "{line}"),
                (Err(got), Err(expect)) => assert!(got.contains(expect), "{line}: {got}"),
                (got, expect) => panic!("{line}: {got:?}, not {expect:?}"),
            }
        }
        for line in [
            "--kubernetes --publish-address 0.0.0.0",
            "--manifests d --lease a/b",
            "--kubernetes --no-status --lease a/b",
        ] {
            let text = format!("sluice run --no-xdp {line}");
            assert!(Cli::try_parse_from(text.split_whitespace()).is_err(), "{line}");
        }
    }

    #[test]
    fn references() {
        let got = settings("--no-xdp --default-backend a/b:http --default-certificate a/tls").expect("fine");
        assert_eq!(got.default_backend.map(|key| key.to_string()).as_deref(), Some("a/b:http"));
        assert_eq!(got.default_certificate, Some(ObjectKey::new("a", "tls")));
    }
}
