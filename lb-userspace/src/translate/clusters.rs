//! The Service ports that Ingresses name, kept from one translation to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::Settings;
use super::service::Services;
use crate::model::{Backend, Cluster, ClusterKey, Issue, ObjectKey, Unavailable};
use crate::objects::Objects;

/// Every Service port that somebody names.
#[derive(Default)]
pub(super) struct Clusters {
    services: BTreeMap<ObjectKey, Service>,
    /// Those that can be served, by key.
    served: OrdMap<Arc<ClusterKey>, Arc<Cluster>>,
    /// Services to look at again.
    stale: BTreeSet<ObjectKey>,
}

/// Most Services have one port that one Ingress names: a tree for each would be ten times the size.
#[derive(Default)]
struct Service {
    /// Sorted by key.
    ports: Vec<Port>,
    issues: Vec<Issue>,
}

struct Port {
    key: Arc<ClusterKey>,
    /// The Ingresses that name it, sorted.
    users: Vec<ObjectKey>,
    cluster: Result<Arc<Cluster>, Box<Unavailable>>,
}

/// What differs after a [`Clusters::refresh`].
#[derive(Default)]
pub(super) struct Refreshed {
    /// The users of ports that can be served now and could not before, or the other way round.
    pub(super) users: BTreeSet<ObjectKey>,
    /// Clusters or issues differ.
    pub(super) changed: bool,
}

impl Clusters {
    /// `user` names this port.
    pub(super) fn ask(&mut self, key: &ClusterKey, user: &ObjectKey) {
        let service = self.services.entry(key.service.clone()).or_default();
        let free = match service.find(key) {
            Ok(at) => {
                let users = &mut service.ports[at].users;
                if let Err(free) = users.binary_search(user) {
                    users.insert(free, user.clone());
                }
                return;
            }
            Err(free) => free,
        };
        let port = Port {
            key: Arc::new(key.clone()),
            users: vec![user.clone()],
            // Until it is looked at.
            cluster: Err(Box::new(Unavailable::NoService(key.service.clone()))),
        };
        service.ports.reserve_exact(1);
        service.ports.insert(free, port);
        self.stale.insert(key.service.clone());
    }

    /// `user` names this port no more.
    pub(super) fn forget(&mut self, key: &ClusterKey, user: &ObjectKey) {
        let Some(service) = self.services.get_mut(&key.service) else { return };
        let Ok(at) = service.find(key) else { return };
        let users = &mut service.ports[at].users;
        if let Ok(at) = users.binary_search(user) {
            users.remove(at);
        }
        if users.is_empty() {
            self.stale.insert(key.service.clone());
        }
    }

    /// The Service or its endpoints differ.
    pub(super) fn touch(&mut self, service: ObjectKey) {
        if self.services.contains_key(&service) {
            self.stale.insert(service);
        }
    }

    /// Looks at what is new, and at Services that were touched. Clusters that are as in `previous`
    /// are taken from there.
    pub(super) fn refresh(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        previous: &OrdMap<Arc<ClusterKey>, Arc<Cluster>>,
    ) -> Refreshed {
        let mut refreshed = Refreshed::default();
        for name in std::mem::take(&mut self.stale) {
            let Some(service) = self.services.get_mut(&name) else { continue };
            for gone in service.ports.extract_if(.., |port| port.users.is_empty()) {
                self.served.remove(&gone.key);
                refreshed.changed = true;
            }
            let mut asked = Services::new(objects, settings);
            let outcomes: Vec<_> = service.ports.iter().map(|port| asked.ask(&port.key)).collect();
            let mut issues = Vec::new();
            let mut clusters: BTreeMap<_, _> =
                asked.into_clusters(&mut issues).map(|cluster| (cluster.key.clone(), cluster)).collect();
            for (port, outcome) in service.ports.iter_mut().zip(outcomes) {
                let key = &port.key;
                let cluster = match (outcome, clusters.remove(key)) {
                    (Err(why), _) => Err(Box::new(why)),
                    (Ok(()), None) => Err(Box::new(Unavailable::NoPort(ClusterKey::clone(key)))),
                    (Ok(()), Some(cluster)) => {
                        let known = port.cluster.as_ref().ok().or_else(|| previous.get(key));
                        Ok(match known.filter(|known| ***known == cluster) {
                            Some(known) => Arc::clone(known),
                            None => Arc::new(cluster),
                        })
                    }
                };
                if port.cluster.as_ref().err() != cluster.as_ref().err() {
                    refreshed.users.extend(port.users.iter().cloned());
                }
                if !same(&port.cluster, &cluster) {
                    refreshed.changed = true;
                    match &cluster {
                        Ok(cluster) => drop(self.served.insert(key.clone(), Arc::clone(cluster))),
                        Err(_) => drop(self.served.remove(key)),
                    }
                }
                port.cluster = cluster;
            }
            refreshed.changed |= service.issues != issues;
            service.issues = issues;
            if service.ports.is_empty() {
                self.services.remove(&name);
            }
        }
        refreshed
    }

    /// What a route has that names this port.
    pub(super) fn backend(&self, key: &ClusterKey) -> Backend {
        match self.port(key) {
            Some(Port { cluster: Ok(_), key, .. }) => Backend::Cluster(Arc::clone(key)),
            Some(Port { cluster: Err(why), .. }) => Backend::Unavailable((**why).clone()),
            None => Backend::Unavailable(Unavailable::NoService(key.service.clone())),
        }
    }

    /// Why the port can't be served, if it can't.
    pub(super) fn problem(&self, key: &ClusterKey) -> Option<&Unavailable> {
        self.port(key)?.cluster.as_ref().err().map(|why| &**why)
    }

    /// Those that can be served, by key.
    pub(super) fn served(&self) -> OrdMap<Arc<ClusterKey>, Arc<Cluster>> {
        self.served.clone()
    }

    /// What is wrong with the Services and their endpoints.
    pub(super) fn issues(&self) -> impl Iterator<Item = &Issue> {
        self.services.values().flat_map(|service| &service.issues)
    }

    fn port(&self, key: &ClusterKey) -> Option<&Port> {
        let service = self.services.get(&key.service)?;
        service.find(key).ok().map(|at| &service.ports[at])
    }
}

impl Service {
    /// Where the port is, or would have to be.
    fn find(&self, key: &ClusterKey) -> Result<usize, usize> {
        self.ports.binary_search_by(|port| (*port.key).cmp(key))
    }
}

fn same(a: &Result<Arc<Cluster>, Box<Unavailable>>, b: &Result<Arc<Cluster>, Box<Unavailable>>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
        (Err(a), Err(b)) => a == b,
        _ => false,
    }
}
