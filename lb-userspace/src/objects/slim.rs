//! Leaves out of objects what nobody reads. Of 5,000 Ingresses and their Services, every field counts.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Object;

/// Annotations for other programs, which may be as long as the object itself.
const UNREAD: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

impl Object {
    /// Drops what neither translation nor status reads, and memory that vectors hold to grow. For
    /// objects that nobody else holds yet; others are copied first.
    pub fn slim(&mut self) {
        match self {
            Self::Ingress(object) => ingress(Arc::make_mut(object)),
            Self::IngressClass(object) => class(Arc::make_mut(object)),
            Self::Service(object) => service(Arc::make_mut(object)),
            // The store keeps these in a form of its own.
            Self::EndpointSlice(_) => {}
            Self::Endpoints(object) => endpoints(Arc::make_mut(object)),
            Self::Secret(object) => secret(Arc::make_mut(object)),
            Self::ConfigMap(object) => config_map(Arc::make_mut(object)),
        }
    }
}

/// The name, annotations, and what tells one object of the name from another are left.
fn metadata(metadata: &mut ObjectMeta) {
    let kept = std::mem::take(metadata);
    *metadata = ObjectMeta {
        name: kept.name,
        namespace: kept.namespace,
        uid: kept.uid,
        creation_timestamp: kept.creation_timestamp,
        deletion_timestamp: kept.deletion_timestamp,
        annotations: kept.annotations,
        ..ObjectMeta::default()
    };
    let Some(annotations) = &mut metadata.annotations else { return };
    annotations.retain(|name, _| !UNREAD.contains(&name.as_str()));
    if annotations.is_empty() {
        metadata.annotations = None;
    }
}

fn ingress(ingress: &mut Ingress) {
    // Whoever writes the status has to know whether it is the newest.
    let version = ingress.metadata.resource_version.take();
    metadata(&mut ingress.metadata);
    ingress.metadata.resource_version = version;
    let Some(spec) = &mut ingress.spec else { return };
    for rule in spec.rules.iter_mut().flatten() {
        if let Some(http) = &mut rule.http {
            http.paths.shrink_to_fit();
        }
    }
    if let Some(rules) = &mut spec.rules {
        rules.shrink_to_fit();
    }
    if let Some(tls) = &mut spec.tls {
        tls.shrink_to_fit();
    }
}

fn class(class: &mut IngressClass) {
    metadata(&mut class.metadata);
}

fn service(service: &mut Service) {
    metadata(&mut service.metadata);
    let Some(spec) = &mut service.spec else { return };
    spec.selector = None;
    spec.ip_families = None;
    spec.ip_family_policy = None;
    spec.internal_traffic_policy = None;
    spec.external_traffic_policy = None;
    spec.session_affinity_config = None;
    if let Some(ports) = &mut spec.ports {
        ports.shrink_to_fit();
    }
    if let Some(addresses) = &mut spec.cluster_ips {
        addresses.shrink_to_fit();
    }
}

fn endpoints(endpoints: &mut Endpoints) {
    metadata(&mut endpoints.metadata);
    for address in endpoints.subsets.iter_mut().flatten().flat_map(|s| s.addresses.iter_mut().flatten()) {
        address.target_ref = None;
        address.node_name = None;
    }
}

fn secret(secret: &mut Secret) {
    metadata(&mut secret.metadata);
}

fn config_map(config_map: &mut ConfigMap) {
    metadata(&mut config_map.metadata);
    config_map.binary_data = None;
}
