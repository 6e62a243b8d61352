//! An object as a source keeps it: without what nobody reads.

use std::sync::Arc;

use super::{Object, Slice};
use crate::model::{ObjectKey, ObjectRef};

/// An object without what nobody reads. Made from it with [`From`].
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// An EndpointSlice, by its key.
    Slice(ObjectKey, Arc<Slice>),
    /// Any other; see [`Object::slim`].
    Other(Object),
}

impl From<Object> for Kept {
    fn from(mut object: Object) -> Self {
        match &object {
            Object::EndpointSlice(slice) => Self::Slice(object.key(), Arc::new(Slice::from(&**slice))),
            _ => {
                object.slim();
                Self::Other(object)
            }
        }
    }
}

impl Kept {
    /// How issues name it.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Slice(key, _) => ObjectRef { kind: super::Kind::EndpointSlice.name(), key: key.clone() },
            Self::Other(object) => object.reference(),
        }
    }
}
