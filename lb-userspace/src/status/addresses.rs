//! Where Ingresses can be reached: what `status.loadBalancer.ingress` says.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::IngressLoadBalancerIngress;

use crate::model::{Listener, ObjectKey};
use crate::objects::{GivenAddress, Ingress, Service, ServiceKind};

/// One place where Ingresses can be reached. Ordered as it is published: IPv4, IPv6, names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name, in lower case.
    Hostname(String),
}

/// A set of addresses that many objects share.
pub type Addresses = Arc<BTreeSet<Address>>;

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address that clients can connect to nor a DNS name")]
pub struct BadAddress(pub String);

/// Which addresses to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Those of all nodes that run Sluice: each node's VIPs.
    Nodes,
    /// These, whatever the nodes have.
    Fixed(BTreeSet<Address>),
    /// Those of this Service: for a load balancer in front of the nodes.
    Service(ObjectKey),
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            let nobody = ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
            return if nobody { Err(BadAddress(text.to_owned())) } else { Ok(Self::of(ip)) };
        }
        let name = text.to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // 300.1.2.3 and 1.2.3 are mistyped addresses rather than names.
        let number = |c: char| c.is_ascii_digit() || c == '.';
        if name.len() > 253 || !name.split('.').all(label) || name.chars().all(number) {
            return Err(BadAddress(text.to_owned()));
        }
        Ok(Self::Hostname(name))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Hostname(name) => f.write_str(name),
        }
    }
}

impl Address {
    /// An IPv4 address that is written as an IPv6 address is that IPv4 address: the API warns of the
    /// other form, and clients can't connect to it.
    fn of(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }

    /// As the API writes it, without ports: every address takes both of them.
    pub fn entry(&self) -> IngressLoadBalancerIngress {
        match self {
            Self::Ip(ip) => IngressLoadBalancerIngress { ip: Some(ip.to_string()), ..Default::default() },
            Self::Hostname(name) => {
                IngressLoadBalancerIngress { hostname: Some(name.clone()), ..Default::default() }
            }
        }
    }
}

/// What an Ingress says it can be reached at, in any order.
pub fn of_ingress(ingress: &Ingress) -> BTreeSet<Address> {
    ingress.addresses.iter().flat_map(given_address).collect()
}

/// What a Service's status says that it can be reached at.
pub fn of_balancer(service: &Service) -> BTreeSet<Address> {
    service.outside().addresses.iter().flat_map(given_address).collect()
}

/// What a Service can be reached at from outside of the cluster, or at least from inside. Empty
/// while it has no address: a cloud's load balancer takes its time.
pub fn of_service(service: &Service) -> BTreeSet<Address> {
    let outside = service.outside();
    if service.kind == ServiceKind::ExternalName {
        let name = outside.external_name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
        return given(None, name).collect();
    }
    // What can't be connected to is not said again: the API refuses, of an Ingress, some of the odd
    // addresses (with leading zeros) that it keeps in Services of old.
    let usable = |address: Address| address.to_string().parse().ok();
    let balanced = outside.addresses.iter().flat_map(given_address);
    let external = outside.external_ips.iter().flat_map(|ip| given(Some(ip), None));
    let outside: BTreeSet<_> = balanced.chain(external).filter_map(usable).collect();
    if !outside.is_empty() || service.kind == ServiceKind::LoadBalancer {
        return outside;
    }
    service.cluster_ips.iter().map(|ip| Address::of(*ip)).collect()
}

fn given_address(entry: &GivenAddress) -> impl Iterator<Item = Address> {
    given(entry.ip.as_deref(), entry.hostname.as_deref())
}

fn given(ip: Option<&str>, hostname: Option<&str>) -> impl Iterator<Item = Address> {
    let read = |text: Option<&str>| text.filter(|text| !text.is_empty()).and_then(|text| text.parse().ok());
    // Kept although unreadable: a status that says something odd does not say what it should.
    let odd = |text: &str| Address::Hostname(text.to_owned());
    let ip =
        ip.filter(|text| !text.is_empty()).map(|text| text.parse().map_or_else(|_| odd(text), Address::Ip));
    ip.into_iter().chain(read(hostname))
}

/// The addresses of this node's listeners. One that listens on all addresses stands for the node's
/// primary address of that family, which `primary` knows.
pub fn of_listeners(listeners: &[Listener], primary: impl Fn(IpAddr) -> Option<IpAddr>) -> BTreeSet<IpAddr> {
    let addresses = listeners.iter().map(|listener| listener.vip.address);
    let own = |ip: IpAddr| if ip.is_unspecified() { primary(ip) } else { Some(ip) };
    addresses.filter_map(own).map(|ip| ip.to_canonical()).collect()
}

/// The address by which this node speaks with the outside, of the family of `any`: the source
/// address of its default route. Sends nothing.
pub fn primary(any: IpAddr) -> Option<IpAddr> {
    let elsewhere: IpAddr = match any {
        // Documentation networks (RFC 5737, RFC 3849): only a default route leads there.
        IpAddr::V4(_) => Ipv4Addr::new(203, 0, 113, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(elsewhere, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified()).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, SniMode, Transport, Vip};
    use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
    use serde_json::json;

    fn texts(addresses: &BTreeSet<Address>) -> Vec<String> {
        addresses.iter().map(Address::to_string).collect()
    }

    #[test]
    fn what_users_may_write() {
        for (text, expect) in [
            ("198.51.100.10", Some("198.51.100.10")),
            ("2001:DB8::A", Some("2001:db8::a")),
            ("::ffff:198.51.100.10", Some("198.51.100.10")),
            ("::ffff:0.0.0.0", None),
            ("LB.example.com", Some("lb.example.com")),
            ("localhost", Some("localhost")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("0.0.0.0", None),
            ("::", None),
            ("224.0.0.1", None),
            ("255.255.255.255", None),
            ("300.1.2.3", None),
            ("1.2.3", None),
            ("", None),
            ("a_b.example", None),
            ("*.example.com", None),
            ("a..b", None),
            ("-a.b", None),
            ("http://a", None),
            ("10.0.0.1:80", None),
        ] {
            let got = text.parse::<Address>().ok().map(|address| address.to_string());
            assert_eq!(got.as_deref(), expect, "{text:?}");
        }
        assert!("a.".repeat(127).trim_end_matches('.').parse::<Address>().is_ok(), "253 bytes");
        assert!("a.".repeat(128).trim_end_matches('.').parse::<Address>().is_err(), "255 bytes");
    }

    #[test]
    fn what_services_have() {
        for (what, spec, status, expect) in [
            ("cluster", json!({"clusterIP": "10.0.0.1"}), json!({}), vec!["10.0.0.1"]),
            (
                "both families",
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
                json!({}),
                vec!["10.0.0.1", "fd00::1"],
            ),
            ("headless", json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({}), vec![]),
            (
                "external addresses",
                json!({"type": "NodePort", "clusterIP": "10.0.0.1", "externalIPs": ["192.0.2.9"]}),
                json!({}),
                vec!["192.0.2.9"],
            ),
            (
                "a load balancer that is not there yet",
                json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1"}),
                json!({"loadBalancer": {}}),
                vec![],
            ),
            (
                "a load balancer",
                json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "externalIPs": ["192.0.2.9"]}),
                json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "192.0.2.1"}]}}),
                vec!["192.0.2.1", "192.0.2.9", "lb.example"],
            ),
            (
                "addresses that the API takes nowhere else",
                json!({"type": "LoadBalancer", "externalIPs": ["010.0.0.1", "::ffff:192.0.2.9", "0.0.0.0"]}),
                json!({"loadBalancer": {"ingress": [{"ip": "192.000.002.001", "hostname": "lb.example"}]}}),
                vec!["192.0.2.9", "lb.example"],
            ),
            (
                "a name",
                json!({"type": "ExternalName", "externalName": "Lb.example"}),
                json!({}),
                vec!["lb.example"],
            ),
            (
                "a name from the root",
                json!({"type": "ExternalName", "externalName": "lb.example."}),
                json!({}),
                vec!["lb.example"],
            ),
        ] {
            let service: core::Service =
                serde_json::from_value(json!({"spec": spec, "status": status})).expect("a Service");
            assert_eq!(texts(&of_service(&Service::from(&service))), expect, "{what}");
        }
        assert!(of_service(&Service::default()).is_empty());
    }

    #[test]
    fn what_ingresses_say() {
        for (status, expect) in [
            (json!(null), vec![]),
            (json!({"loadBalancer": {}}), vec![]),
            (
                json!({"loadBalancer": {"ingress": [{"ip": "2001:DB8::1"}, {"hostname": "B"}, {"ip": "192.0.2.1", "ports": []}]}}),
                vec!["192.0.2.1", "2001:db8::1", "b"],
            ),
            (json!({"loadBalancer": {"ingress": [{"ip": "odd"}, {"ip": ""}, {}]}}), vec!["odd"]),
        ] {
            let ingress: networking::Ingress =
                serde_json::from_value(json!({"metadata": {}, "status": status})).expect("an Ingress");
            assert_eq!(texts(&of_ingress(&Ingress::from(&ingress))), expect, "{status}");
        }
    }

    #[test]
    fn listeners_on_all_addresses_stand_for_the_primary_one() {
        let listener = |address: &str, port| Listener {
            vip: Vip { address: address.parse().expect("an address"), port, transport: Transport::Tcp },
            protocol: Protocol::Http,
            sni: SniMode::Off,
        };
        let primary = |any: IpAddr| any.is_ipv4().then(|| "192.0.2.7".parse().expect("an address"));
        for (listeners, expect) in [
            (vec![], vec![]),
            (vec![listener("198.51.100.1", 80), listener("198.51.100.1", 443)], vec!["198.51.100.1"]),
            (vec![listener("0.0.0.0", 80), listener("::", 80)], vec!["192.0.2.7"]),
            (vec![listener("127.0.0.1", 80), listener("::", 80)], vec!["127.0.0.1"]),
            (vec![listener("::ffff:198.51.100.1", 80)], vec!["198.51.100.1"]),
        ] {
            let got: Vec<_> = of_listeners(&listeners, primary).iter().map(IpAddr::to_string).collect();
            assert_eq!(got, expect);
        }
    }
}
