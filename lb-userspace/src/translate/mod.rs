//! From Kubernetes objects to a snapshot. Pure: time is an argument, trouble is an [`Issue`].
//!
//! ```text
//! class (is it ours?) ─► ingress (one Ingress by itself) ─► merge (hosts of all Ingresses) ─┐
//!                                      service (ports, endpoints) ─► clusters               ├─► Snapshot
//!                                      secrets (certificates) ─► tls                        ┘
//! ```
//!
//! What does not differ from the previous snapshot keeps its `Arc`; readers compare by pointer.

pub mod annotations;
mod class;
mod config_map;
mod ingress;
mod merge;
mod report;
mod secrets;
mod service;
mod tls;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ClusterKey, Compat, Issue, Listener, ObjectKey, Snapshot};
use crate::objects::Objects;

pub use config_map::{ClassDefaults, ClusterSettings};

/// The name that an IngressClass's `spec.controller` has for its Ingresses to be ours.
pub const CONTROLLER: &str = "sluice.dev/ingress-controller";

/// What to do with an Ingress whose class no IngressClass object defines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownClass {
    /// It is some other controller's.
    #[default]
    Ignore,
    /// It is ours: in a manifest directory nobody else could claim it.
    Serve,
}

/// What the node's settings say about translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which VIPs to answer for; any order.
    pub listeners: Vec<Listener>,
    /// `spec.controller` of the IngressClasses that are ours: [`CONTROLLER`].
    pub controller: String,
    /// Class names to serve besides, whoever controls them: `nginx` during a migration.
    pub adopt: Vec<String>,
    /// Serve Ingresses that name no class, although no default class is ours.
    pub serve_classless: bool,
    /// What to do with classes that no IngressClass object defines.
    pub unknown_class: UnknownClass,
    /// Whose defaults Ingresses get, unless their IngressClass says so by the annotation
    /// `sluice.dev/compat: kubernetes | ingress-nginx`.
    pub compat: Compat,
    /// What applies where annotations say nothing, for either behaviour.
    pub defaults: ClassDefaults,
    /// Takes what no rule and no Ingress's `defaultBackend` takes.
    pub default_backend: Option<ClusterKey>,
    /// The Secret whose certificate is for server names without one.
    pub default_certificate: Option<ObjectKey>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            controller: CONTROLLER.into(),
            adopt: Vec::new(),
            serve_classless: false,
            unknown_class: UnknownClass::default(),
            compat: Compat::default(),
            defaults: ClassDefaults::default(),
            default_backend: None,
            default_certificate: None,
        }
    }
}

/// The desired state of the node that `objects` ask for.
///
/// `source_issues` are passed on into the snapshot; `now_unix` (seconds since 1970) judges
/// certificates. The generation rises by one over `previous` if anything but issues differs.
pub fn translate(
    objects: &Objects,
    settings: &Settings,
    source_issues: &[Issue],
    now_unix: i64,
    previous: &Snapshot,
) -> Snapshot {
    let mut issues = source_issues.to_vec();

    let classes = class::Classes::new(objects, settings, &mut issues);
    let mut ingresses = Vec::new();
    for (key, ingress) in &objects.ingresses {
        if let Some(compat) = classes.claim(key, ingress, &mut issues) {
            ingresses.push(ingress::Draft::new(key, ingress, settings.defaults.of(compat)));
        }
    }
    // From here on, who comes first wins.
    ingresses.sort_by(|a, b| a.rank().cmp(&b.rank()));
    for draft in &ingresses {
        issues.extend_from_slice(&draft.issues);
    }

    let mut services = service::Services::new(objects);
    let routing =
        merge::merge(&ingresses, settings.default_backend.as_ref(), objects, &mut services, &mut issues);
    let clusters: BTreeMap<_, _> = services
        .into_clusters(&mut issues)
        .map(|cluster| {
            let old = previous.clusters.get(&cluster.key).filter(|old| ***old == cluster);
            (cluster.key.clone(), old.cloned().unwrap_or_else(|| Arc::new(cluster)))
        })
        .collect();

    let mut certificates = secrets::Certificates::new(objects, now_unix, &previous.tls);
    let tls = tls::config(&ingresses, settings.default_certificate.as_ref(), &mut certificates, &mut issues);

    let mut listeners = settings.listeners.clone();
    listeners.sort_unstable();
    listeners.dedup();

    let mut next = Snapshot {
        generation: previous.generation,
        listeners: keep(&previous.listeners, listeners),
        routing: if *previous.routing == routing { previous.routing.clone() } else { Arc::new(routing) },
        clusters,
        tls: if *previous.tls == tls { previous.tls.clone() } else { Arc::new(tls) },
        issues: keep(&previous.issues, report::finish(issues)),
    };
    if differs(previous, &next) {
        next.generation += 1;
    }
    next
}

/// The Ingresses that are ours by their class, whether or not all they ask for can be served.
pub fn owned(objects: &Objects, settings: &Settings) -> BTreeSet<ObjectKey> {
    let mut issues = Vec::new();
    let classes = class::Classes::new(objects, settings, &mut issues);
    let ours = objects.ingresses.iter().filter(|(key, ingress)| {
        // Said by `translate`.
        issues.clear();
        classes.claim(key, ingress, &mut issues).is_some()
    });
    ours.map(|(key, _)| key.clone()).collect()
}

/// The old slice if it says the same.
fn keep<T: PartialEq>(old: &Arc<[T]>, new: Vec<T>) -> Arc<[T]> {
    if **old == *new { old.clone() } else { new.into() }
}

/// Whether anything but issues differs. Equal parts are the same `Arc` by now.
fn differs(a: &Snapshot, b: &Snapshot) -> bool {
    !Arc::ptr_eq(&a.listeners, &b.listeners)
        || !Arc::ptr_eq(&a.routing, &b.routing)
        || !Arc::ptr_eq(&a.tls, &b.tls)
        || a.clusters.len() != b.clusters.len()
        || a.clusters.values().zip(b.clusters.values()).any(|(a, b)| !Arc::ptr_eq(a, b))
}
