//! Leaves out of objects what nobody reads.

use k8s_openapi::api::core::v1::{self as core, ConfigMap, Endpoints, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{self as networking, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::metadata::is_read;
use super::{Ingress, Node, Service, Slice};

/// An object of the API, before it is kept.
pub(super) trait Slim {
    /// What is kept: for kinds of which there are many, a form of its own.
    type Kept;

    /// Drops what neither translation nor status reads.
    fn slim(self) -> Self::Kept;
}

impl Slim for networking::Ingress {
    type Kept = Ingress;

    fn slim(self) -> Ingress {
        (&self).into()
    }
}

impl Slim for core::Service {
    type Kept = Service;

    fn slim(self) -> Service {
        (&self).into()
    }
}

impl Slim for EndpointSlice {
    type Kept = Slice;

    fn slim(self) -> Slice {
        (&self).into()
    }
}

impl Slim for core::Node {
    type Kept = Node;

    fn slim(self) -> Node {
        (&self).into()
    }
}

impl Slim for IngressClass {
    type Kept = Self;

    fn slim(self) -> Self {
        Self { metadata: metadata(self.metadata), ..self }
    }
}

impl Slim for Endpoints {
    type Kept = Self;

    fn slim(mut self) -> Self {
        for address in self.subsets.iter_mut().flatten().flat_map(|s| s.addresses.iter_mut().flatten()) {
            address.target_ref = None;
            address.node_name = None;
        }
        Self { metadata: metadata(self.metadata), ..self }
    }
}

impl Slim for Secret {
    type Kept = Self;

    fn slim(self) -> Self {
        Self { metadata: metadata(self.metadata), ..self }
    }
}

impl Slim for ConfigMap {
    type Kept = Self;

    fn slim(self) -> Self {
        Self { metadata: metadata(self.metadata), binary_data: None, ..self }
    }
}

/// The name, annotations, and what tells one object of the name from another are left.
fn metadata(metadata: ObjectMeta) -> ObjectMeta {
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.retain(|name, _| is_read(name));
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    }
}
