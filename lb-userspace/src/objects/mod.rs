//! The Kubernetes objects that Sluice reads, kept by kind and name.
//!
//! Sources fill an [`Objects`] store: from manifests through [`parse`], from the API with typed
//! objects. `translate` reads it. Pure: whoever does I/O hands in what it read.

mod balancer;
mod ingress;
mod kind;
mod metadata;
mod names;
mod node;
mod parse;
mod references;
mod service;
mod slice;
mod slim;
mod store;
mod v1beta1;

pub use balancer::GivenAddress;
pub use ingress::{
    FIELD_MANAGER, Ingress, IngressBackend, IngressPath, IngressRule, IngressSpec, IngressTls, ServiceRef,
};
pub use kind::{Kind, Object};
pub use metadata::{AnnotationMap, Metadata};
pub use node::Node;
pub use parse::{Parsed, parse};
pub use references::{
    ANNOTATION_PREFIXES, Reference, is_name, parameters_of, references_of, references_of_settings,
};
pub use service::{Outside, Service, ServiceKind, ServicePort};
pub use slice::{Slice, SliceAddress, SliceEndpoint, SlicePort};
pub use store::{ObjectMap, Objects, differing};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The annotation of a Service of ours that says how its packets get to endpoints: `nat` (also without it),
/// `dsr-l2`, `dsr-ipip` or `dsr-gue`.
pub const FORWARDING: &str = "sluice.dev/forwarding";

/// An error with all of its causes, each once.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

/// `text` short enough for a message: whole up to 80 bytes, else its start and `…`. Values come
/// from users and may be a megabyte long; issues are kept and sent around.
pub fn excerpt(text: &str) -> std::borrow::Cow<'_, str> {
    const MAX: usize = 80;
    if text.len() <= MAX {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX)]).into()
}
