//! EndpointSlices, of which a big cluster has the most: only what is read of them.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{SERVICE_NAME_LABEL, names};

/// A part of a Service's endpoints. An `EndpointSlice` of the API takes ten times the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The name of its Service, by the label [`SERVICE_NAME_LABEL`]; the namespace is its own.
    pub service: Option<Arc<str>>,
    /// Its addresses are names in the DNS rather than IP addresses.
    pub fqdn: bool,
    /// As the slice lists them.
    pub ports: Box<[SlicePort]>,
    /// As the slice lists them.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port; empty if it has none.
    pub name: Box<str>,
    /// `None` is TCP.
    pub protocol: Option<Box<str>>,
    /// As it is written; not every number is a port.
    pub number: Option<i32>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address; the API gives no meaning to others.
    pub address: SliceAddress,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// The topology zone.
    pub zone: Option<Arc<str>>,
    /// The zones that are to use it (`hints`); `None` where the slice says nothing.
    pub for_zones: Option<Arc<Vec<Arc<str>>>>,
    /// Takes new requests. True where the slice says nothing.
    pub ready: bool,
    /// Answers, though it may be about to end. True where the slice says nothing.
    pub serving: bool,
    /// Is about to end.
    pub terminating: bool,
}

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceAddress {
    /// There is none.
    None,
    /// An IP address.
    Ip(IpAddr),
    /// Something else.
    Other(Box<str>),
}

impl From<&EndpointSlice> for Slice {
    fn from(slice: &EndpointSlice) -> Self {
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        let ports = slice.ports.iter().flatten().map(|port| SlicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: port.protocol.as_deref().filter(|protocol| *protocol != "TCP").map(Into::into),
            number: port.port,
        });
        let mut zones = Zones::default();
        Self {
            service: label.map(|name| name.as_str().into()),
            fqdn: slice.address_type == "FQDN",
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().map(|endpoint| read(endpoint, &mut zones)).collect(),
        }
    }
}

fn read(endpoint: &Endpoint, zones: &mut Zones) -> SliceEndpoint {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_deref());
    let hints = hints.filter(|zones| !zones.is_empty());
    SliceEndpoint {
        address: match endpoint.addresses.first() {
            None => SliceAddress::None,
            Some(text) => match text.parse() {
                Ok(ip) => SliceAddress::Ip(ip),
                Err(_) => SliceAddress::Other(text.as_str().into()),
            },
        },
        node: endpoint.node_name.as_deref().filter(|node| !node.is_empty()).map(names::shared),
        zone: endpoint.zone.as_deref().filter(|zone| !zone.is_empty()).map(names::shared),
        for_zones: hints.map(|hints| zones.list(hints.iter().map(|zone| zone.name.as_str()))),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
    }
}

/// The few lists of zones in a slice, each once.
#[derive(Default)]
struct Zones {
    lists: Vec<Arc<Vec<Arc<str>>>>,
}

impl Zones {
    fn list<'a>(&mut self, zones: impl Iterator<Item = &'a str> + Clone) -> Arc<Vec<Arc<str>>> {
        let same = |known: &&Arc<Vec<Arc<str>>>| known.iter().map(|zone| &**zone).eq(zones.clone());
        if let Some(known) = self.lists.iter().find(same) {
            return known.clone();
        }
        let list = Arc::new(zones.map(names::shared).collect::<Vec<_>>());
        self.lists.push(list.clone());
        list
    }
}
