//! Translation that remembers: an edit costs what it touches.
//!
//! Everything is kept by what it was made from. An Ingress is read again when it, its class or a Secret
//! changes; a host is put together again when one of its Ingresses, its TLS or the existence of a
//! Service port changes; endpoints touch nothing but their cluster. The result is always what a
//! translation from nothing gives: nothing depends on the order of edits.

mod build;
mod read;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Settings;
use super::annotations::Annotations;
use super::class::Classes;
use super::clusters::Clusters;
use super::config_map::cluster_settings;
use super::forwarding;
use super::ingress::Rank;
use super::l4::L4Services;
use super::member::Member;
use super::merge::Built;
use super::report::{self, issue};
use super::shared::Shared;
use super::standin::StandIns;
use super::tls::TlsHosts;
use crate::model::{
    HostPattern, Issue, IssueReason, Nodes, ObjectKey, RoutePolicy, Routing, Severity, Snapshot, TlsConfig,
    Unavailable, VirtualHost,
};
use crate::objects::Objects;

/// Translates, and remembers how, so that the next time costs in proportion to what has changed.
#[derive(Default)]
pub struct Translator {
    settings: Settings,
    /// Of the last time.
    objects: Objects,
    classes: Classes,
    /// In boxes: a tree's nodes are half empty, and what is known is large.
    ingresses: BTreeMap<ObjectKey, Box<Known>>,
    hosts: BTreeMap<HostPattern, Box<Host>>,
    tls_hosts: TlsHosts,
    clusters: Clusters,
    l4: L4Services,
    /// Of Services that ask for the same VIP, or for more than there is room for.
    l4_conflicts: Vec<Issue>,
    /// The Ingresses that ask for aliases or `www` redirects.
    standing_in: BTreeSet<Rank>,
    stand_ins: StandIns,
    /// Service → the Ingresses that name it without a port.
    named: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    annotations: Shared<Annotations>,
    policies: Shared<RoutePolicy>,
    tls: Option<Tls>,
    routing: Arc<Routing>,
    /// The generation of the snapshot that the last call gave.
    made: Option<u64>,
    /// What was wrong with classes and with the source.
    outer_issues: Vec<Issue>,
    /// The whole list.
    issues: Arc<[Issue]>,
}

/// An Ingress.
#[derive(Default)]
struct Known {
    /// Of its class.
    issues: Box<[Issue]>,
    /// Of its backends.
    problems: Box<[Issue]>,
    /// `None`: it is not ours.
    member: Option<Member>,
}

/// A host that Ingresses have rules for.
#[derive(Default)]
struct Host {
    /// Sorted.
    members: Vec<Rank>,
    built: Option<Built>,
}

/// Certificates.
struct Tls {
    config: Arc<TlsConfig>,
    issues: Vec<Issue>,
    /// It depends on the routes: whose connections are passed on or belong to a pool, and where to, or whose names
    /// a certificate without hosts may take.
    by_routes: bool,
    /// Certificates become valid and expire: how long this holds, seconds since 1970.
    since: i64,
    until: i64,
}

/// What has to be done again.
#[derive(Default)]
struct Work {
    hosts: BTreeSet<HostPattern>,
    /// Ingresses whose backends' existence changed.
    backends: BTreeSet<ObjectKey>,
    stand_ins: bool,
    secrets: bool,
    tls: bool,
    issues: bool,
    l4: bool,
    nodes: bool,
}

/// Names the node's settings among the users of clusters.
const CONTROLLER: &str = "controller";

impl Translator {
    /// As [`super::translate()`]. Where `previous` is not what the last call gave, nothing that is
    /// remembered counts.
    pub fn translate(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        source_issues: &[Issue],
        now_unix: i64,
        previous: &Snapshot,
    ) -> Snapshot {
        let mut outer_issues = source_issues.to_vec();
        let cluster = cluster_settings(objects, settings, &mut outer_issues);
        let settings = &settings.with(&cluster);
        if self.settings != *settings || !self.made(previous) {
            *self = Self { settings: settings.clone(), ..Self::default() };
        }
        let mut work = Work::default();
        if let Some(key) = &settings.default_backend {
            self.clusters.ask(key, &controller());
            if let Entry::Vacant(any) = self.hosts.entry(HostPattern::Any) {
                any.insert(Box::default());
                work.hosts.insert(HostPattern::Any);
            }
        }
        let classes = Classes::new(objects, settings, &mut outer_issues);
        let other_classes = self.classes != classes;
        self.classes = classes;
        let before = std::mem::replace(&mut self.objects, objects.clone());

        self.read_changes(&before, other_classes, &mut work);
        let refreshed = self.clusters.refresh(&self.objects, settings, &previous.clusters);
        work.issues |= refreshed.changed || self.outer_issues != outer_issues;
        self.outer_issues = outer_issues;
        work.backends.extend(refreshed.users);
        self.check_backends(&mut work);
        let rerouted = self.build_hosts(&mut work);
        self.build_stand_ins(rerouted, &mut work);
        self.build_tls(rerouted, now_unix, previous, &mut work);
        if rerouted || work.stand_ins || self.made.is_none() {
            self.routing = self.build_routing(&previous.routing);
        }
        let mut listeners = settings.listeners.clone();
        listeners.sort_unstable();
        listeners.dedup();
        let mut services = Arc::clone(&previous.services);
        let mut health_ports = Arc::clone(&previous.health_ports);
        if work.l4 || self.made.is_none() {
            self.l4_conflicts.clear();
            services = keep(
                &previous.services,
                self.l4.services(&listeners, self.settings.service_vips.as_deref(), &mut self.l4_conflicts),
            );
            health_ports = keep(&previous.health_ports, self.l4.health_ports(&mut self.l4_conflicts));
            work.issues = true;
        }
        let mut nodes = Arc::clone(&previous.nodes);
        if work.l4 || work.nodes || self.made.is_none() {
            let now = if services.iter().any(|service| service.direct.is_some()) {
                forwarding::nodes(&self.objects, self.settings.node.as_deref())
            } else {
                Nodes::default()
            };
            nodes = if *nodes == now { nodes } else { Arc::new(now) };
        }
        if work.issues || self.made.is_none() {
            self.issues = keep(&previous.issues, self.all_issues());
        }
        self.annotations.sweep();
        self.policies.sweep();

        let mut next = Snapshot {
            generation: previous.generation,
            listeners: keep(&previous.listeners, listeners),
            services,
            health_ports,
            nodes,
            routing: self.routing.clone(),
            clusters: self.clusters.served(),
            tls: self.tls.as_ref().map(|tls| tls.config.clone()).unwrap_or_default(),
            trusted_proxies: cluster.trusted_proxies.map(|peers| match &previous.trusted_proxies {
                Some(old) => keep(old, peers),
                None => peers.into(),
            }),
            proxy_protocol: cluster.proxy_protocol.map(|rules| match &previous.proxy_protocol {
                Some(old) if **old == rules => old.clone(),
                _ => Arc::new(rules),
            }),
            ban: cluster.ban,
            issues: self.issues.clone(),
        };
        if differs(previous, &next) {
            next.generation += 1;
        }
        self.made = Some(next.generation);
        next
    }

    /// Whether the last call gave this snapshot.
    fn made(&self, snapshot: &Snapshot) -> bool {
        self.made == Some(snapshot.generation)
            && Arc::ptr_eq(&self.routing, &snapshot.routing)
            && Arc::ptr_eq(&self.issues, &snapshot.issues)
            && self.tls.as_ref().is_some_and(|tls| Arc::ptr_eq(&tls.config, &snapshot.tls))
    }

    fn all_issues(&self) -> Vec<Issue> {
        let default = self.settings.default_backend.as_ref();
        let default = default.and_then(|key| {
            // Nobody's Ingress is to blame for the node's setting.
            let mut problem = unavailable(&key.service, String::new(), self.clusters.problem(key)?);
            problem.object.kind = "Service";
            problem.message = format!("the controller's default backend: {}", problem.message);
            Some(problem)
        });
        let known = self.ingresses.values().flat_map(|known| {
            let member = known.member.iter();
            let members = member.flat_map(|member| member.draft.issues.iter().chain(&member.refers.issues));
            known.issues.iter().chain(&known.problems).chain(members)
        });
        let hosts =
            self.hosts.values().filter_map(|host| host.built.as_ref()).flat_map(|built| &built.issues);
        let all = self.outer_issues.iter().chain(known).chain(hosts).chain(&self.stand_ins.issues);
        let all = all.chain(self.clusters.issues()).chain(self.tls.iter().flat_map(|tls| &tls.issues));
        let all = all.chain(self.l4.issues()).chain(&self.l4_conflicts);
        report::finish(all.cloned().chain(default).collect())
    }
}

impl Known {
    fn has_issues(&self) -> bool {
        let of_member = |member: &Member| !member.draft.issues.is_empty() || !member.refers.issues.is_empty();
        !self.issues.is_empty() || !self.problems.is_empty() || self.member.as_ref().is_some_and(of_member)
    }
}

impl Host {
    /// What it serves, if anything.
    fn rules(&self) -> Option<&Arc<VirtualHost>> {
        self.built.as_ref().map(|built| &built.rules).filter(|rules| !is_empty(rules))
    }
}

fn is_empty(rules: &VirtualHost) -> bool {
    rules.routes.is_empty() && rules.fallback.is_none()
}

fn controller() -> ObjectKey {
    ObjectKey::new("", CONTROLLER)
}

/// The old slice if it says the same.
fn keep<T: PartialEq>(old: &Arc<[T]>, new: Vec<T>) -> Arc<[T]> {
    if **old == *new { old.clone() } else { new.into() }
}

/// Whether anything but issues differs. Equal parts are the same `Arc` by now.
fn differs(a: &Snapshot, b: &Snapshot) -> bool {
    !Arc::ptr_eq(&a.listeners, &b.listeners)
        || !Arc::ptr_eq(&a.services, &b.services)
        || !Arc::ptr_eq(&a.health_ports, &b.health_ports)
        || !Arc::ptr_eq(&a.nodes, &b.nodes)
        || !Arc::ptr_eq(&a.routing, &b.routing)
        || !Arc::ptr_eq(&a.tls, &b.tls)
        || a.trusted_proxies != b.trusted_proxies
        || a.proxy_protocol != b.proxy_protocol
        || a.ban != b.ban
        || a.clusters.diff(&b.clusters).next().is_some()
}

fn unavailable(ingress: &ObjectKey, field: String, why: &Unavailable) -> Issue {
    let (reason, remedy) = match why {
        Unavailable::NoService(_) => {
            (IssueReason::ServiceNotFound, "Create the Service or correct the name.")
        }
        Unavailable::NoPort(_) => {
            (IssueReason::PortNotFound, "Name one of the Service's TCP ports by number or name.")
        }
        Unavailable::ExternalName(_) => (
            IssueReason::Unsupported,
            "Use a Service with endpoints, which an EndpointSlice may list by hand.",
        ),
        _ => (IssueReason::InvalidField, "Correct the backend."),
    };
    let message = format!("{why}; requests get 503. {remedy}");
    issue(Severity::Error, reason, "Ingress", ingress, field, message)
}
