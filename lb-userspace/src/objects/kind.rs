//! The kinds of objects that Sluice reads, and one object of any of them.

use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slim::Slim;
use super::{Ingress, Node, Service, Slice, names};
use crate::model::{ObjectKey, ObjectRef};

/// Declares [`Kind`], [`Object`] and their conversions from one list, so that no kind is forgotten in one
/// of them: the API's type, and the one that is kept of it.
macro_rules! kinds {
    ($($kind:ident: $of_api:ty => $kept:ty, $doc:literal, $api:literal, $namespaced:literal;)*) => {
        /// A kind of object that Sluice reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $doc] $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// As the API writes it: `Ingress`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// The `apiVersion` of the form that is read: `networking.k8s.io/v1`.
            pub const fn api_version(self) -> &'static str {
                match self { $(Self::$kind => $api,)* }
            }

            /// The word for it in the API's paths: `ingresses`.
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$kind => <$of_api as k8s_openapi::Resource>::URL_PATH_SEGMENT,)* }
            }

            /// Whether objects of the kind live in a namespace.
            pub const fn namespaced(self) -> bool {
                match self { $(Self::$kind => $namespaced,)* }
            }
        }

        /// What is kept of an object.
        #[derive(Clone, Debug, PartialEq)]
        pub(super) enum Form {
            $($kind(Arc<$kept>),)*
        }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match &self.form { $(Form::$kind(_) => Kind::$kind,)* }
            }
        }

        $(
            impl From<$of_api> for Object {
                fn from(object: $of_api) -> Self {
                    let key = key(Kind::$kind, &object.metadata);
                    Self { key, form: Form::$kind(Arc::new(object.slim())) }
                }
            }
        )*
    };
}

kinds! {
    Ingress: networking::Ingress => Ingress, "Rules: host and path to Services.", "networking.k8s.io/v1", true;
    IngressClass: networking::IngressClass => networking::IngressClass, "Whose an Ingress is.", "networking.k8s.io/v1", false;
    Service: core::Service => Service, "Ports and what they are called.", "v1", true;
    EndpointSlice: discovery::EndpointSlice => Slice, "A part of a Service's endpoints.", "discovery.k8s.io/v1", true;
    Endpoints: core::Endpoints => core::Endpoints, "A Service's endpoints in the old form, read where there are no slices.", "v1", true;
    Secret: core::Secret => core::Secret, "Certificates.", "v1", true;
    ConfigMap: core::ConfigMap => core::ConfigMap, "Settings.", "v1", true;
    Node: core::Node => Node, "Where packets in packets go, read where a Service asks for those.", "v1", false;
}

/// One object of any kind that Sluice reads: what is read of it. Clones share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    key: ObjectKey,
    pub(super) form: Form,
}

impl Kind {
    /// The kind of this name, if Sluice reads it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl Object {
    /// Where it is kept. A namespaced object without a namespace is in `default`, as with kubectl.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// How issues name it.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef { kind: self.kind().name(), key: self.key.clone() }
    }
}

fn key(kind: Kind, metadata: &ObjectMeta) -> ObjectKey {
    let namespace = match metadata.namespace.as_deref() {
        _ if !kind.namespaced() => "",
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    ObjectKey::new(names::shared(namespace), metadata.name.as_deref().unwrap_or_default())
}
