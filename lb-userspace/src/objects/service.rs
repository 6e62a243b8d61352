//! Services: only what is read of them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::balancer::GivenAddress;
use super::metadata::Metadata;

/// Ports and what they are called. Names are those of the API's `v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Of the object.
    pub metadata: Metadata,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// `spec.clusterIPs`, or `spec.clusterIP` alone; headless Services have none.
    pub cluster_ips: Box<[IpAddr]>,
    /// What few Services have. `None`: nothing of it.
    pub outside: Option<Box<Outside>>,
}

/// What a Service is to the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceKind {
    /// Reached from inside, or by ports of the nodes; whatever isn't one of the others.
    #[default]
    Inside,
    /// A name in the DNS that stands for something else.
    ExternalName,
    /// Reached from outside by addresses of its own.
    LoadBalancer,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if it has none.
    pub name: Box<str>,
    /// As written; not every number is a port.
    pub port: i32,
    /// `None` is TCP.
    pub protocol: Option<Box<str>>,
    /// What is spoken there, as far as somebody says so.
    pub app_protocol: Option<Box<str>>,
}

/// How a Service is reached from outside, and by whom. Texts are as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// `spec.externalName`.
    pub external_name: Option<Box<str>>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Box<str>>,
    /// `spec.loadBalancerClass`.
    pub class: Option<Box<str>>,
    /// `spec.loadBalancerIP`.
    pub asked_ip: Option<Box<str>>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<Box<str>>,
    /// `spec.externalTrafficPolicy`, unless it is `Cluster`.
    pub traffic_policy: Option<Box<str>>,
    /// `spec.healthCheckNodePort`, as written; not every number is a port.
    pub health_port: Option<i32>,
    /// `spec.sessionAffinity`, unless it is `None`.
    pub affinity: Option<Box<str>>,
    /// `status.loadBalancer.ingress`.
    pub addresses: Vec<GivenAddress>,
    /// `metadata.resourceVersion` of Services of type LoadBalancer: whoever writes the status has to know whether
    /// it is the newest.
    pub version: Option<Box<str>>,
}

impl From<&core::Service> for Service {
    fn from(service: &core::Service) -> Self {
        let nothing = core::ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&nothing);
        let all = spec.cluster_ips.as_deref().unwrap_or_default();
        let first = spec.cluster_ip.as_ref().filter(|_| all.is_empty());
        let kind = match spec.type_.as_deref() {
            Some("ExternalName") => ServiceKind::ExternalName,
            Some("LoadBalancer") => ServiceKind::LoadBalancer,
            _ => ServiceKind::Inside,
        };
        let mut outside = Outside::of(spec, service.status.as_ref());
        if kind == ServiceKind::LoadBalancer {
            outside.version = service.metadata.resource_version.as_deref().map(Into::into);
        }
        Self {
            metadata: (&service.metadata).into(),
            kind,
            ports: spec.ports.iter().flatten().map(Into::into).collect(),
            cluster_ips: all.iter().chain(first).filter_map(|text| text.parse().ok()).collect(),
            outside: (outside != Outside::default()).then(|| Box::new(outside)),
        }
    }
}

impl From<&core::ServicePort> for ServicePort {
    fn from(port: &core::ServicePort) -> Self {
        let protocol = port.protocol.as_deref().filter(|protocol| !matches!(*protocol, "" | "TCP"));
        Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            port: port.port,
            protocol: protocol.map(Into::into),
            app_protocol: port.app_protocol.as_deref().map(Into::into),
        }
    }
}

impl Outside {
    fn of(spec: &core::ServiceSpec, status: Option<&core::ServiceStatus>) -> Self {
        let text = |text: &Option<String>| -> Option<Box<str>> { text.as_deref().map(Into::into) };
        let texts = |all: &Option<Vec<String>>| -> Vec<Box<str>> {
            all.iter().flatten().map(|text| text.as_str().into()).collect()
        };
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        let given = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
        Self {
            external_name: text(&spec.external_name),
            external_ips: texts(&spec.external_ips),
            class: text(&spec.load_balancer_class),
            asked_ip: text(&spec.load_balancer_ip),
            source_ranges: texts(&spec.load_balancer_source_ranges),
            traffic_policy: text(&spec.external_traffic_policy)
                .filter(|policy| !matches!(&**policy, "" | "Cluster")),
            health_port: spec.health_check_node_port.filter(|port| *port != 0),
            affinity: text(&spec.session_affinity).filter(|affinity| !matches!(&**affinity, "" | "None")),
            addresses: given.map(|one| GivenAddress::new(&one.ip, &one.hostname)).collect(),
            version: None,
        }
    }
}

impl Service {
    /// What it is to the outside; nothing for most.
    pub fn outside(&self) -> &Outside {
        static NOTHING: Outside = Outside {
            external_name: None,
            external_ips: Vec::new(),
            class: None,
            asked_ip: None,
            source_ranges: Vec::new(),
            traffic_policy: None,
            health_port: None,
            affinity: None,
            addresses: Vec::new(),
            version: None,
        };
        self.outside.as_deref().unwrap_or(&NOTHING)
    }
}
