//! The store: one map per kind.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret};
use k8s_openapi::api::networking::v1::IngressClass;

use super::kind::Form;
use super::{Ingress, Kind, Node, Object, Service, Slice};
use crate::model::ObjectKey;

/// Objects of one kind in the order of their keys. A clone is one pointer; a change of it copies
/// a few nodes of the tree, whatever its size.
pub type ObjectMap<T> = OrdMap<ObjectKey, Arc<T>>;

/// The slices of one Service, in the order of their names.
type ServiceSlices = Arc<[(Arc<str>, Arc<Slice>)]>;

/// Every object that Sluice knows. Clones share the objects, and the maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Ingresses, ours and others'.
    pub ingresses: ObjectMap<Ingress>,
    /// IngressClasses; the namespace is empty.
    pub classes: ObjectMap<IngressClass>,
    /// Services.
    pub services: ObjectMap<Service>,
    /// EndpointSlices by their own key; see [`Objects::slices_of`]. Private since the index by
    /// Service must follow.
    slices: ObjectMap<Slice>,
    slices_by_service: OrdMap<ObjectKey, ServiceSlices>,
    /// Endpoints, of the same name as their Service.
    pub endpoints: ObjectMap<Endpoints>,
    /// Secrets.
    pub secrets: ObjectMap<Secret>,
    /// ConfigMaps.
    pub config_maps: ObjectMap<ConfigMap>,
    /// Nodes; the namespace is empty.
    pub nodes: ObjectMap<Node>,
}

impl Objects {
    /// Keeps `object` in place of the one that had its key. Returns whether that changed anything:
    /// where both are equal the old one stays, so that readers can compare by pointer.
    pub fn insert(&mut self, object: impl Into<Object>) -> bool {
        let object = object.into();
        let key = object.key().clone();
        match object.form {
            Form::Ingress(o) => put(&mut self.ingresses, key, o),
            Form::IngressClass(o) => put(&mut self.classes, key, o),
            Form::Service(o) => put(&mut self.services, key, o),
            Form::EndpointSlice(o) => self.insert_slice(key, o),
            Form::Endpoints(o) => put(&mut self.endpoints, key, o),
            Form::Secret(o) => put(&mut self.secrets, key, o),
            Form::ConfigMap(o) => put(&mut self.config_maps, key, o),
            Form::Node(o) => put(&mut self.nodes, key, o),
        }
    }

    fn insert_slice(&mut self, key: ObjectKey, slice: Arc<Slice>) -> bool {
        let old = self.slices.get(&key).cloned();
        if old.as_ref() == Some(&slice) {
            return false;
        }
        self.slices.insert(key.clone(), slice.clone());
        if let Some(old) = old.filter(|old| old.service != slice.service) {
            self.index(&key, &old, None);
        }
        self.index(&key, &slice, Some(&slice));
        true
    }

    /// Forgets an object; returns whether it was there.
    pub fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        match kind {
            Kind::Ingress => self.ingresses.remove(key).is_some(),
            Kind::IngressClass => self.classes.remove(key).is_some(),
            Kind::Service => self.services.remove(key).is_some(),
            Kind::EndpointSlice => match self.slices.remove(key) {
                Some(slice) => {
                    self.index(key, &slice, None);
                    true
                }
                None => false,
            },
            Kind::Endpoints => self.endpoints.remove(key).is_some(),
            Kind::Secret => self.secrets.remove(key).is_some(),
            Kind::ConfigMap => self.config_maps.remove(key).is_some(),
            Kind::Node => self.nodes.remove(key).is_some(),
        }
    }

    /// Keeps exactly `objects` of `kind`: what a fresh list of a watch says. Objects of another
    /// kind among them are kept too, without clearing theirs. Returns whether anything changed.
    pub fn replace_all<O: Into<Object>>(&mut self, kind: Kind, objects: impl IntoIterator<Item = O>) -> bool {
        let mut gone: std::collections::BTreeSet<ObjectKey> = self.keys(kind).collect();
        let mut changed = false;
        for object in objects {
            let object = object.into();
            if object.kind() == kind {
                gone.remove(object.key());
            }
            changed |= self.insert(object);
        }
        for key in gone {
            changed |= self.remove(kind, &key);
        }
        changed
    }

    /// The keys of all objects of a kind, in order.
    pub fn keys(&self, kind: Kind) -> impl Iterator<Item = ObjectKey> {
        let keys: Box<dyn Iterator<Item = &ObjectKey> + '_> = match kind {
            Kind::Ingress => Box::new(self.ingresses.keys()),
            Kind::IngressClass => Box::new(self.classes.keys()),
            Kind::Service => Box::new(self.services.keys()),
            Kind::EndpointSlice => Box::new(self.slices.keys()),
            Kind::Endpoints => Box::new(self.endpoints.keys()),
            Kind::Secret => Box::new(self.secrets.keys()),
            Kind::ConfigMap => Box::new(self.config_maps.keys()),
            Kind::Node => Box::new(self.nodes.keys()),
        };
        keys.cloned()
    }

    /// Whether there is an object of this kind and key.
    pub fn contains(&self, kind: Kind, key: &ObjectKey) -> bool {
        match kind {
            Kind::Ingress => self.ingresses.contains_key(key),
            Kind::IngressClass => self.classes.contains_key(key),
            Kind::Service => self.services.contains_key(key),
            Kind::EndpointSlice => self.slices.contains_key(key),
            Kind::Endpoints => self.endpoints.contains_key(key),
            Kind::Secret => self.secrets.contains_key(key),
            Kind::ConfigMap => self.config_maps.contains_key(key),
            Kind::Node => self.nodes.contains_key(key),
        }
    }

    /// The object's `metadata.uid`, as far as it is kept: EndpointSlices and Nodes are without.
    pub fn uid(&self, kind: Kind, key: &ObjectKey) -> Option<&str> {
        let metadata = match kind {
            Kind::Ingress => return self.ingresses.get(key)?.metadata.uid.as_deref(),
            Kind::Service => return self.services.get(key)?.metadata.uid.as_deref(),
            Kind::IngressClass => &self.classes.get(key)?.metadata,
            Kind::EndpointSlice | Kind::Node => return None,
            Kind::Endpoints => &self.endpoints.get(key)?.metadata,
            Kind::Secret => &self.secrets.get(key)?.metadata,
            Kind::ConfigMap => &self.config_maps.get(key)?.metadata,
        };
        metadata.uid.as_deref()
    }

    /// Every EndpointSlice, in the order of keys.
    pub fn slices(&self) -> &ObjectMap<Slice> {
        &self.slices
    }

    /// The EndpointSlices of a Service, in the order of their names.
    pub fn slices_of<'a>(
        &'a self,
        service: &'a ObjectKey,
    ) -> impl Iterator<Item = (ObjectKey, &'a Arc<Slice>)> {
        self.slices_by_service.get(service).into_iter().flat_map(|slices| slices.iter()).map(
            |(name, slice)| (ObjectKey { namespace: service.namespace.clone(), name: name.clone() }, slice),
        )
    }

    /// The Services that differ from those of `old` in themselves or in their endpoints, each
    /// once. Costs as much as there are differences, where one of the two was made from the other.
    pub fn changed_services(&self, old: &Self) -> Vec<ObjectKey> {
        let mut keys: Vec<_> = differing(&old.services, &self.services)
            .chain(differing(&old.slices_by_service, &self.slices_by_service))
            .chain(differing(&old.endpoints, &self.endpoints))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
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
            + self.nodes.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a slice into, or takes it out of, the list of the Service that `slice` names.
    fn index(&mut self, key: &ObjectKey, slice: &Slice, now: Option<&Arc<Slice>>) {
        let Some(service) = &slice.service else { return };
        let service = ObjectKey { namespace: key.namespace.clone(), name: service.clone() };
        let known = self.slices_by_service.get(&service).into_iter().flat_map(|slices| slices.iter());
        let mut slices: Vec<_> = known.filter(|(name, _)| *name != key.name).cloned().collect();
        if let Some(now) = now {
            let at = slices.partition_point(|(name, _)| *name < key.name);
            slices.insert(at, (key.name.clone(), now.clone()));
        }
        if slices.is_empty() {
            self.slices_by_service.remove(&service);
        } else {
            self.slices_by_service.insert(service, slices.into());
        }
    }
}

fn put<T: PartialEq>(map: &mut ObjectMap<T>, key: ObjectKey, object: Arc<T>) -> bool {
    if map.get(&key) == Some(&object) {
        return false;
    }
    map.insert(key, object);
    true
}

/// The keys under which two maps differ. Costs as much as there are differences, where one was made
/// from the other.
pub fn differing<'a, V: PartialEq>(
    old: &'a OrdMap<ObjectKey, V>,
    new: &'a OrdMap<ObjectKey, V>,
) -> impl Iterator<Item = ObjectKey> + 'a {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => {
            key.clone()
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::super::SERVICE_NAME_LABEL;
    use super::*;

    fn slice(name: &str, service: Option<&str>) -> EndpointSlice {
        let mut slice = EndpointSlice::default();
        slice.metadata.name = Some(name.into());
        slice.metadata.labels = service.map(|s| BTreeMap::from([(SERVICE_NAME_LABEL.into(), s.into())]));
        slice
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    fn names(objects: &Objects, service: &str) -> Vec<String> {
        objects.slices_of(&key(service)).map(|(key, _)| key.name.to_string()).collect()
    }

    #[test]
    fn slices_follow_their_label() {
        let mut objects = Objects::default();
        objects.insert(slice("b", Some("web")));
        objects.insert(slice("a", Some("web")));
        objects.insert(slice("lost", None));
        assert_eq!(names(&objects, "web"), ["a", "b"]);

        assert!(objects.insert(slice("a", Some("api"))), "the label differs");
        assert!(!objects.insert(slice("a", Some("api"))), "nothing differs");
        assert_eq!((names(&objects, "web"), names(&objects, "api")), (vec!["b".into()], vec!["a".into()]));

        objects.remove(Kind::EndpointSlice, &key("b"));
        assert!(names(&objects, "web").is_empty());

        objects.replace_all(Kind::EndpointSlice, [slice("c", Some("web"))]);
        assert_eq!((names(&objects, "web"), names(&objects, "api").len()), (vec!["c".into()], 0));
        assert_eq!(objects.len(), 1);
    }

    #[test]
    fn equal_objects_stay_the_same() {
        let service = |kind: &str| {
            let mut service = Service::default();
            service.metadata.name = Some("web".into());
            service.spec.get_or_insert_default().type_ = Some(kind.into());
            service
        };
        let mut objects = Objects::default();
        assert!(objects.insert(service("ClusterIP")));
        let first = objects.services[&key("web")].clone();
        assert!(!objects.insert(service("ClusterIP")));
        assert!(!objects.replace_all(Kind::Service, [service("ClusterIP")]));
        assert!(Arc::ptr_eq(&first, &objects.services[&key("web")]));
        assert!(objects.insert(service("LoadBalancer")));
        assert!(objects.replace_all::<Service>(Kind::Service, []) && objects.is_empty());
    }

    #[test]
    fn services_that_changed() {
        let mut old = Objects::default();
        for n in 0..1000 {
            old.insert(slice(&format!("slice-{n}"), Some(&format!("service-{n}"))));
        }
        let mut new = old.clone();
        assert_eq!(new.changed_services(&old), []);
        new.insert(slice("slice-7", Some("service-8")));
        new.insert(slice("more", Some("service-900")));
        new.remove(Kind::EndpointSlice, &key("slice-500"));
        let mut service = Service::default();
        service.metadata.name = Some("service-900".into());
        new.insert(service);
        let expect = ["service-500", "service-7", "service-8", "service-900"].map(key);
        assert_eq!(new.changed_services(&old), expect);
        assert_eq!(old.changed_services(&new), expect);
    }
}
