//! The kinds of objects that Sluice reads, and one object of any of them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{ObjectKey, ObjectRef};

/// Declares [`Kind`], [`Object`] and their conversions from one list, so that no kind is forgotten in one of them.
macro_rules! kinds {
    ($($kind:ident: $doc:literal, $api:literal, $namespaced:literal;)*) => {
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

            /// The `apiVersion` of the form that is kept: `networking.k8s.io/v1`.
            pub const fn api_version(self) -> &'static str {
                match self { $(Self::$kind => $api,)* }
            }

            /// The word for it in the API's paths: `ingresses`.
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$kind => <$kind as k8s_openapi::Resource>::URL_PATH_SEGMENT,)* }
            }

            /// Whether objects of the kind live in a namespace.
            pub const fn namespaced(self) -> bool {
                match self { $(Self::$kind => $namespaced,)* }
            }
        }

        /// One object of any kind that Sluice reads.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $(#[doc = $doc] $kind(Arc<$kind>),)*
        }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Self::$kind(object) => &object.metadata,)* }
            }
        }

        $(
            impl From<Arc<$kind>> for Object {
                fn from(object: Arc<$kind>) -> Self {
                    Self::$kind(object)
                }
            }

            impl From<$kind> for Object {
                fn from(object: $kind) -> Self {
                    Self::$kind(Arc::new(object))
                }
            }
        )*
    };
}

kinds! {
    Ingress: "Rules: host and path to Services.", "networking.k8s.io/v1", true;
    IngressClass: "Whose an Ingress is.", "networking.k8s.io/v1", false;
    Service: "Ports and what they are called.", "v1", true;
    EndpointSlice: "A part of a Service's endpoints.", "discovery.k8s.io/v1", true;
    Endpoints: "A Service's endpoints in the old form, read where there are no slices.", "v1", true;
    Secret: "Certificates.", "v1", true;
    ConfigMap: "Settings.", "v1", true;
}

impl Kind {
    /// The kind of this name, if Sluice reads it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl Object {
    /// Where it is kept. A namespaced object without a namespace is in `default`, as with kubectl.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        let namespace = match metadata.namespace.as_deref() {
            _ if !self.kind().namespaced() => "",
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        ObjectKey::new(namespace, metadata.name.as_deref().unwrap_or_default())
    }

    /// How issues name it.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef { kind: self.kind().name(), key: self.key() }
    }
}
