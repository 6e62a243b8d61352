//! From Kubernetes objects to a snapshot. Pure: time is an argument, trouble is an [`Issue`].
//!
//! ```text
//! class (is it ours?) ─► ingress (one by itself) ─► member (with what it refers to) ─┐
//!                        service ─► clusters (ports, endpoints) ─────────────────────┤
//!                                                                                    ▼
//!                          Snapshot ◄─ tls (certificates) ◄─ standin (aliases) ◄─ merge (one host)
//! ```
//!
//! A [`Translator`] remembers each of these steps and repeats only what an edit touches. What does
//! not differ from the previous snapshot keeps its `Arc`; readers compare by pointer.

mod addresses;
pub mod annotations;
mod by_host;
mod canary;
mod care;
mod class;
mod clusters;
mod config_map;
mod connections;
mod forwarding;
mod health_port;
mod ingress;
mod l4;
mod loops;
mod member;
mod merge;
mod nameless;
mod path;
mod quic;
mod report;
mod secrets;
mod service;
mod shared;
mod slash;
mod sources;
mod standin;
mod tls;
mod translator;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Care, ClusterKey, Compat, Issue, Listener, ObjectKey, Snapshot, WorkerPool};
use crate::objects::Objects;

pub use addresses::{VIPS, published};
pub use config_map::{ClassDefaults, ClusterSettings};
pub use l4::LOAD_BALANCER_CLASS;
pub use translator::Translator;

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
    /// Whose defaults Ingresses get, unless their IngressClass says so: by the annotation
    /// `sluice.dev/compat: kubernetes | ingress-nginx`, or by `compat` in the ConfigMap that its
    /// `parameters` name.
    pub compat: Compat,
    /// What applies where annotations say nothing, for either behaviour.
    pub defaults: ClassDefaults,
    /// Takes what no rule and no Ingress's `defaultBackend` takes.
    pub default_backend: Option<ClusterKey>,
    /// The Secret whose certificate is for server names without one.
    pub default_certificate: Option<ObjectKey>,
    /// The ConfigMap whose entries go over these settings while it is there: [`ClusterSettings`].
    pub config_map: Option<ObjectKey>,
    /// The topology zone that the node is in: endpoints whose hints name it go first.
    pub zone: Option<Arc<str>>,
    /// The node's name, as EndpointSlices write it.
    pub node: Option<Arc<str>>,
    /// Where VIPs of Services of type LoadBalancer may be; `None`: anywhere.
    pub service_vips: Option<Vec<IpNet>>,
    /// How endpoints are watched and spared where their Service says nothing.
    pub care: Arc<Care>,
    /// The node's pools of workers that Ingresses may name; `None`: nobody knows.
    pub worker_pools: Option<Vec<WorkerPool>>,
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
            config_map: None,
            zone: None,
            node: None,
            service_vips: None,
            care: Arc::default(),
            worker_pools: None,
        }
    }
}

/// The desired state of the node that `objects` ask for.
///
/// `source_issues` are passed on into the snapshot; `now_unix` (seconds since 1970) judges
/// certificates. The generation rises by one over `previous` if anything but issues differs. Starts
/// from nothing; where objects change one by one, a [`Translator`] says the same for less.
pub fn translate(
    objects: &Objects,
    settings: &Settings,
    source_issues: &[Issue],
    now_unix: i64,
    previous: &Snapshot,
) -> Snapshot {
    Translator::default().translate(objects, settings, source_issues, now_unix, previous)
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
