//! Ingresses: only what is read of them.

use std::borrow::Cow;

use k8s_openapi::api::networking::v1 as networking;

use super::balancer::GivenAddress;
use super::metadata::Metadata;

/// Rules: host and path to Services. Shapes and names are those of the API's `networking.k8s.io/v1`;
/// lists that it lets be left out are empty here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Of the object.
    pub metadata: Metadata,
    /// `metadata.resourceVersion`: whoever writes the status has to know whether it is the newest.
    pub version: Option<Box<str>>,
    /// `spec`.
    pub spec: IngressSpec,
    /// `status.loadBalancer.ingress`.
    pub addresses: Box<[GivenAddress]>,
    /// Some Sluice wrote the status: `metadata.managedFields` has [`FIELD_MANAGER`] for it.
    pub status_is_ours: bool,
}

/// The name under which the API keeps book of what Sluice wrote.
pub const FIELD_MANAGER: &str = "sluice";

/// What an Ingress asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressSpec {
    /// `ingressClassName`.
    pub class: Option<Box<str>>,
    /// `defaultBackend`.
    pub default_backend: Option<Box<IngressBackend>>,
    /// `rules`.
    pub rules: Box<[IngressRule]>,
    /// `tls`.
    pub tls: Box<[IngressTls]>,
}

/// A host and its paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressRule {
    /// Empty for any.
    pub host: Box<str>,
    /// `http.paths`; `None` without `http`.
    pub paths: Option<Box<[IngressPath]>>,
}

/// A path of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPath {
    /// Empty where it is left out.
    pub path: Box<str>,
    /// As written.
    pub path_type: Cow<'static, str>,
    /// Where its requests go.
    pub backend: IngressBackend,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressBackend {
    /// `service`.
    pub service: Option<ServiceRef>,
    /// The kind of `resource`.
    pub resource: Option<Box<str>>,
}

/// A Service and a port of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRef {
    /// In the Ingress's namespace.
    pub name: Box<str>,
    /// `port.number`; not every number is a port.
    pub port_number: Option<i32>,
    /// `port.name`.
    pub port_name: Option<Box<str>>,
}

/// A certificate for hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressTls {
    /// Empty for all hosts of the Ingress.
    pub hosts: Box<[Box<str>]>,
    /// `secretName`.
    pub secret: Option<Box<str>>,
}

impl From<&networking::Ingress> for Ingress {
    fn from(ingress: &networking::Ingress) -> Self {
        let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let given = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
        let mut managers = ingress.metadata.managed_fields.iter().flatten();
        let ours = managers.any(|one| {
            one.manager.as_deref() == Some(FIELD_MANAGER) && one.subresource.as_deref() == Some("status")
        });
        Self {
            status_is_ours: ours,
            metadata: (&ingress.metadata).into(),
            version: short(ingress.metadata.resource_version.as_deref()),
            spec: ingress.spec.as_ref().map(Into::into).unwrap_or_default(),
            addresses: given.map(|one| GivenAddress::new(&one.ip, &one.hostname)).collect(),
        }
    }
}

impl From<&networking::IngressSpec> for IngressSpec {
    fn from(spec: &networking::IngressSpec) -> Self {
        Self {
            class: short(spec.ingress_class_name.as_deref()),
            default_backend: spec.default_backend.as_ref().map(|backend| Box::new(backend.into())),
            rules: spec.rules.iter().flatten().map(Into::into).collect(),
            tls: spec.tls.iter().flatten().map(Into::into).collect(),
        }
    }
}

impl From<&networking::IngressRule> for IngressRule {
    fn from(rule: &networking::IngressRule) -> Self {
        Self {
            host: rule.host.as_deref().unwrap_or_default().into(),
            paths: rule.http.as_ref().map(|http| http.paths.iter().map(Into::into).collect()),
        }
    }
}

impl From<&networking::HTTPIngressPath> for IngressPath {
    fn from(path: &networking::HTTPIngressPath) -> Self {
        let known = ["Prefix", "Exact", "ImplementationSpecific"];
        let known = known.into_iter().find(|known| path.path_type == *known);
        Self {
            path: path.path.as_deref().unwrap_or_default().into(),
            path_type: known.map_or_else(|| path.path_type.clone().into(), Into::into),
            backend: (&path.backend).into(),
        }
    }
}

impl From<&networking::IngressBackend> for IngressBackend {
    fn from(backend: &networking::IngressBackend) -> Self {
        let service = backend.service.as_ref().map(|service| ServiceRef {
            name: service.name.as_str().into(),
            port_number: service.port.as_ref().and_then(|port| port.number),
            port_name: service.port.as_ref().and_then(|port| short(port.name.as_deref())),
        });
        let resource = backend.resource.as_ref().map(|resource| resource.kind.as_str().into());
        Self { service, resource }
    }
}

impl From<&networking::IngressTLS> for IngressTls {
    fn from(tls: &networking::IngressTLS) -> Self {
        Self {
            hosts: tls.hosts.iter().flatten().map(|host| host.as_str().into()).collect(),
            secret: short(tls.secret_name.as_deref()),
        }
    }
}

fn short(text: Option<&str>) -> Option<Box<str>> {
    text.map(Into::into)
}
