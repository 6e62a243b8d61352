//! The store: one map per kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::{Kind, Object, SERVICE_NAME_LABEL};
use crate::model::ObjectKey;

/// Every object that Sluice knows. Clones share the objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Ingresses, ours and others'.
    pub ingresses: BTreeMap<ObjectKey, Arc<Ingress>>,
    /// IngressClasses; the namespace is empty.
    pub classes: BTreeMap<ObjectKey, Arc<IngressClass>>,
    /// Services.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// EndpointSlices by their own key; see [`Objects::slices_of`]. Private since the index by
    /// Service must follow.
    slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// Service → names of its slices.
    slices_by_service: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
    /// Endpoints, of the same name as their Service.
    pub endpoints: BTreeMap<ObjectKey, Arc<Endpoints>>,
    /// Secrets.
    pub secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
}

impl Objects {
    /// Keeps `object`; gives back the one that had its key.
    pub fn insert(&mut self, object: impl Into<Object>) -> Option<Object> {
        let object = object.into();
        let key = object.key();
        match object {
            Object::Ingress(o) => self.ingresses.insert(key, o).map(Into::into),
            Object::IngressClass(o) => self.classes.insert(key, o).map(Into::into),
            Object::Service(o) => self.services.insert(key, o).map(Into::into),
            Object::EndpointSlice(o) => {
                let old = self.remove(Kind::EndpointSlice, &key);
                if let Some(service) = service_of(&key, &o) {
                    self.slices_by_service.entry(service).or_default().insert(key.name.clone());
                }
                self.slices.insert(key, o);
                old
            }
            Object::Endpoints(o) => self.endpoints.insert(key, o).map(Into::into),
            Object::Secret(o) => self.secrets.insert(key, o).map(Into::into),
            Object::ConfigMap(o) => self.config_maps.insert(key, o).map(Into::into),
        }
    }

    /// Forgets an object; gives it back if it was there.
    pub fn remove(&mut self, kind: Kind, key: &ObjectKey) -> Option<Object> {
        match kind {
            Kind::Ingress => self.ingresses.remove(key).map(Into::into),
            Kind::IngressClass => self.classes.remove(key).map(Into::into),
            Kind::Service => self.services.remove(key).map(Into::into),
            Kind::EndpointSlice => {
                let slice = self.slices.remove(key)?;
                if let Some(service) = service_of(key, &slice)
                    && let Some(names) = self.slices_by_service.get_mut(&service)
                {
                    names.remove(&key.name);
                    if names.is_empty() {
                        self.slices_by_service.remove(&service);
                    }
                }
                Some(slice.into())
            }
            Kind::Endpoints => self.endpoints.remove(key).map(Into::into),
            Kind::Secret => self.secrets.remove(key).map(Into::into),
            Kind::ConfigMap => self.config_maps.remove(key).map(Into::into),
        }
    }

    /// Keeps exactly `objects` of `kind`: what a fresh list of a watch says. Objects of another
    /// kind among them are kept too, without clearing theirs.
    pub fn replace_all<O: Into<Object>>(&mut self, kind: Kind, objects: impl IntoIterator<Item = O>) {
        match kind {
            Kind::Ingress => self.ingresses.clear(),
            Kind::IngressClass => self.classes.clear(),
            Kind::Service => self.services.clear(),
            Kind::EndpointSlice => {
                self.slices.clear();
                self.slices_by_service.clear();
            }
            Kind::Endpoints => self.endpoints.clear(),
            Kind::Secret => self.secrets.clear(),
            Kind::ConfigMap => self.config_maps.clear(),
        }
        for object in objects {
            self.insert(object);
        }
    }

    /// The object of this kind and key.
    pub fn get(&self, kind: Kind, key: &ObjectKey) -> Option<Object> {
        match kind {
            Kind::Ingress => self.ingresses.get(key).cloned().map(Into::into),
            Kind::IngressClass => self.classes.get(key).cloned().map(Into::into),
            Kind::Service => self.services.get(key).cloned().map(Into::into),
            Kind::EndpointSlice => self.slices.get(key).cloned().map(Into::into),
            Kind::Endpoints => self.endpoints.get(key).cloned().map(Into::into),
            Kind::Secret => self.secrets.get(key).cloned().map(Into::into),
            Kind::ConfigMap => self.config_maps.get(key).cloned().map(Into::into),
        }
    }

    /// Every EndpointSlice, in the order of keys.
    pub fn slices(&self) -> &BTreeMap<ObjectKey, Arc<EndpointSlice>> {
        &self.slices
    }

    /// The EndpointSlices of a Service, in the order of their names.
    pub fn slices_of<'a>(
        &'a self,
        service: &'a ObjectKey,
    ) -> impl Iterator<Item = (ObjectKey, &'a Arc<EndpointSlice>)> {
        self.slices_by_service.get(service).into_iter().flatten().filter_map(|name| {
            let key = ObjectKey { namespace: service.namespace.clone(), name: name.clone() };
            self.slices.get(&key).map(|slice| (key, slice))
        })
    }

    /// How many objects are kept, of all kinds.
    pub fn len(&self) -> usize {
        self.ingresses.len()
            + self.classes.len()
            + self.services.len()
            + self.slices.len()
            + self.endpoints.len()
            + self.secrets.len()
            + self.config_maps.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The Service that the slice of this key belongs to.
fn service_of(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey { namespace: key.namespace.clone(), name: name.as_str().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, service: Option<&str>) -> EndpointSlice {
        let mut slice = EndpointSlice::default();
        slice.metadata.name = Some(name.into());
        slice.metadata.labels = service.map(|s| BTreeMap::from([(SERVICE_NAME_LABEL.into(), s.into())]));
        slice
    }

    fn names(objects: &Objects, service: &str) -> Vec<String> {
        objects.slices_of(&ObjectKey::new("default", service)).map(|(key, _)| key.name.to_string()).collect()
    }

    #[test]
    fn slices_follow_their_label() {
        let mut objects = Objects::default();
        objects.insert(slice("b", Some("web")));
        objects.insert(slice("a", Some("web")));
        objects.insert(slice("lost", None));
        assert_eq!(names(&objects, "web"), ["a", "b"]);

        assert!(objects.insert(slice("a", Some("api"))).is_some(), "the old one comes back");
        assert_eq!((names(&objects, "web"), names(&objects, "api")), (vec!["b".into()], vec!["a".into()]));

        objects.remove(Kind::EndpointSlice, &ObjectKey::new("default", "b"));
        assert!(names(&objects, "web").is_empty());

        objects.replace_all(Kind::EndpointSlice, [slice("c", Some("web"))]);
        assert_eq!((names(&objects, "web"), names(&objects, "api").len()), (vec!["c".into()], 0));
        assert_eq!(objects.len(), 1);
    }
}
