//! Translation that remembers: an edit costs what it touches.
//!
//! Everything is kept by what it was made from. An Ingress is read again when it, its class or a Secret
//! changes; a host is put together again when one of its Ingresses, its TLS or the existence of a
//! Service port changes; endpoints touch nothing but their cluster. The result is always what a
//! translation from nothing gives: nothing depends on the order of edits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::Settings;
use super::class::Classes;
use super::clusters::Clusters;
use super::config_map::cluster_settings;
use super::ingress::{Draft, Rank};
use super::member::{Field, Member};
use super::merge::{self, Built, Ground};
use super::policies::Policies;
use super::report::{self, issue};
use super::secrets::Certificates;
use super::standin::StandIns;
use super::tls::{self, TlsHosts};
use crate::model::{
    ClusterKey, HostPattern, Issue, IssueReason, ObjectKey, Routing, Severity, Snapshot, TlsConfig,
    Unavailable, VirtualHost,
};
use crate::objects::{ObjectMap, Objects};

/// Translates, and remembers how, so that the next time costs in proportion to what has changed.
#[derive(Default)]
pub struct Translator {
    settings: Settings,
    /// Of the last time.
    objects: Objects,
    classes: Classes,
    ingresses: BTreeMap<ObjectKey, Known>,
    hosts: BTreeMap<HostPattern, Host>,
    tls_hosts: TlsHosts,
    clusters: Clusters,
    /// The Ingresses that ask for aliases or `www` redirects.
    standing_in: BTreeSet<Rank>,
    stand_ins: StandIns,
    /// Service → the Ingresses that name it without a port.
    named: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    policies: Policies,
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
    issues: Vec<Issue>,
    /// Of its backends.
    problems: Vec<Issue>,
    /// `None`: it is not ours.
    member: Option<Member>,
}

/// A host that Ingresses have rules for.
#[derive(Default)]
struct Host {
    members: BTreeSet<Rank>,
    built: Option<Built>,
}

/// Certificates.
struct Tls {
    config: Arc<TlsConfig>,
    issues: Vec<Issue>,
    /// Certificates become valid and expire: how long this holds, seconds since 1970.
    since: i64,
    until: i64,
}

/// Certificates are looked at again this often.
const TLS_SECONDS: i64 = 60;

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
            if !self.hosts.contains_key(&HostPattern::Any) {
                self.hosts.insert(HostPattern::Any, Host::default());
                work.hosts.insert(HostPattern::Any);
            }
        }
        let classes = Classes::new(objects, settings, &mut outer_issues);
        let other_classes = self.classes != classes;
        self.classes = classes;
        let before = std::mem::replace(&mut self.objects, objects.clone());

        self.read_changes(&before, other_classes, &mut work);
        let refreshed = self.clusters.refresh(&self.objects, &previous.clusters);
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
        if work.issues || self.made.is_none() {
            self.issues = keep(&previous.issues, self.all_issues());
        }
        self.policies.sweep();

        let mut listeners = settings.listeners.clone();
        listeners.sort_unstable();
        listeners.dedup();
        let mut next = Snapshot {
            generation: previous.generation,
            listeners: keep(&previous.listeners, listeners),
            routing: self.routing.clone(),
            clusters: self.clusters.served(),
            tls: self.tls.as_ref().map(|tls| tls.config.clone()).unwrap_or_default(),
            trusted_proxies: cluster.trusted_proxies.map(|peers| match &previous.trusted_proxies {
                Some(old) => keep(old, peers),
                None => peers.into(),
            }),
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

    fn read_changes(&mut self, before: &Objects, other_classes: bool, work: &mut Work) {
        let mut ingresses: BTreeSet<ObjectKey> =
            differing(&before.ingresses, &self.objects.ingresses).collect();
        if other_classes {
            ingresses.extend(self.ingresses.keys().chain(self.objects.ingresses.keys()).cloned());
        }
        for key in &ingresses {
            self.read(key, work);
        }
        work.secrets = differing(&before.secrets, &self.objects.secrets).next().is_some();
        let maps = differing(&before.config_maps, &self.objects.config_maps).next().is_some();
        let mut references: BTreeSet<ObjectKey> = BTreeSet::new();
        if work.secrets || maps {
            references.extend(self.ingresses.keys().cloned());
        }
        for service in self.objects.changed_services(before) {
            references.extend(self.named.get(&service).into_iter().flatten().cloned());
            self.clusters.touch(service);
        }
        for key in references.difference(&ingresses) {
            self.refer(key, work);
        }
    }

    /// Reads an Ingress that is new, gone or not as it was.
    fn read(&mut self, key: &ObjectKey, work: &mut Work) {
        let old = self.ingresses.remove(key);
        let new = self.objects.ingresses.get(key).map(|ingress| {
            let mut issues = Vec::new();
            let compat = self.classes.claim(key, ingress, &mut issues);
            let default = self.settings.default_backend.as_ref();
            let member = compat.map(|compat| {
                let draft = Draft::new(key, ingress, self.settings.defaults.of(compat));
                Member::new(draft, &self.objects, default)
            });
            Known { issues, problems: Vec::new(), member }
        });
        work.issues |= [&old, &new].into_iter().flatten().any(Known::has_issues);
        work.backends.insert(key.clone());
        let old = old.as_ref().and_then(|known| known.member.as_ref());
        let member = new.as_ref().and_then(|known| known.member.as_ref());
        // What both have is entered before it is left, so that nothing is forgotten in between.
        if let Some(member) = member {
            self.enter(member, work);
        }
        match (old, member) {
            (Some(old), _) => self.leave(old, member, work),
            (None, Some(new)) => work.tls |= !new.draft.tls.is_empty() || new.shapes_tls(),
            (None, None) => {}
        }
        if let Some(new) = new {
            self.ingresses.insert(key.clone(), new);
        }
    }

    /// Reads again what an Ingress refers to.
    fn refer(&mut self, key: &ObjectKey, work: &mut Work) {
        let Some(member) = self.ingresses.get_mut(key).and_then(|known| known.member.as_mut()) else {
            return;
        };
        let default = self.settings.default_backend.as_ref();
        let Some(old) = member.read_again(&self.objects, default) else { return };
        let new = &member.refers;
        work.issues |= old.issues != new.issues;
        work.tls |= old.client_auth != new.client_auth;
        work.hosts.extend(member.draft.rules.keys().cloned());
        work.backends.insert(key.clone());
        if let Some((_, cluster)) = &new.error_pages {
            self.clusters.ask(cluster, key);
        }
        let named = |cluster: &ClusterKey| member.clusters().any(|(key, _)| key == cluster);
        if let Some((_, cluster)) = old.error_pages.filter(|(_, cluster)| !named(cluster)) {
            self.clusters.forget(&cluster, key);
        }
    }

    fn enter(&mut self, member: &Member, work: &mut Work) {
        let draft = &member.draft;
        for (cluster, _) in member.clusters() {
            self.clusters.ask(cluster, &draft.key);
        }
        for host in draft.rules.keys() {
            self.hosts.entry(host.clone()).or_default().members.insert(draft.rank());
            work.hosts.insert(host.clone());
        }
        for host in draft.tls.iter().flat_map(|tls| &tls.hosts) {
            if self.tls_hosts.add(host) {
                self.tls_differs(host, work);
            }
        }
        if let Some(service) = member.named_service() {
            self.named.entry(service).or_default().insert(draft.key.clone());
        }
        if member.stands_in() {
            self.standing_in.insert(draft.rank());
            work.stand_ins = true;
        }
    }

    /// `now` is what takes the member's place, and was entered.
    fn leave(&mut self, member: &Member, now: Option<&Member>, work: &mut Work) {
        let draft = &member.draft;
        let same_rank = now.is_some_and(|now| now.draft.rank() == draft.rank());
        let clusters: BTreeSet<_> = now.into_iter().flat_map(Member::clusters).map(|(key, _)| key).collect();
        for (cluster, _) in member.clusters().filter(|(key, _)| !clusters.contains(key)) {
            self.clusters.forget(cluster, &draft.key);
        }
        for host in draft.rules.keys() {
            work.hosts.insert(host.clone());
            let stays = same_rank && now.is_some_and(|now| now.draft.rules.contains_key(host));
            if let Some(host) = self.hosts.get_mut(host).filter(|_| !stays) {
                host.members.remove(&draft.rank());
            }
        }
        for host in draft.tls.iter().flat_map(|tls| &tls.hosts) {
            if self.tls_hosts.remove(host) {
                self.tls_differs(host, work);
            }
        }
        let service = member.named_service();
        if let Some(service) =
            service.filter(|service| now.and_then(Member::named_service).as_ref() != Some(service))
            && let Some(users) = self.named.get_mut(&service)
        {
            users.remove(&draft.key);
            if users.is_empty() {
                self.named.remove(&service);
            }
        }
        if member.stands_in() {
            work.stand_ins = true;
            if !same_rank || !now.is_some_and(Member::stands_in) {
                self.standing_in.remove(&draft.rank());
            }
        }
        let tls = now.map_or(&[][..], |now| &now.draft.tls);
        work.tls |= draft.tls != tls || (!same_rank && !tls.is_empty());
        work.tls |= member.shapes_tls() || now.is_some_and(Member::shapes_tls);
    }

    /// Some Ingress has TLS for the host now and none had, or the other way round.
    fn tls_differs(&self, host: &HostPattern, work: &mut Work) {
        work.hosts.insert(host.clone());
        if let HostPattern::Wildcard(suffix) = host {
            let below = self.hosts.keys().filter(|below| match below {
                HostPattern::Exact(name) => name.split_once('.').is_some_and(|(_, rest)| *rest == **suffix),
                _ => false,
            });
            work.hosts.extend(below.cloned());
        }
    }

    fn check_backends(&mut self, work: &mut Work) {
        for key in std::mem::take(&mut work.backends) {
            if key == controller() {
                work.hosts.extend(self.hosts.keys().cloned());
                work.issues = true;
                continue;
            }
            let Some(known) = self.ingresses.get_mut(&key) else { continue };
            let Some(member) = &known.member else { continue };
            let problem = |(cluster, field): (&ClusterKey, Field<'_>)| {
                let why = self.clusters.problem(cluster)?;
                Some(unavailable(&key, field.to_string(), why))
            };
            let problems: Vec<_> = member.clusters().filter_map(problem).collect();
            work.issues |= problems != known.problems;
            work.hosts.extend(member.draft.rules.keys().cloned());
            known.problems = problems;
        }
    }

    /// Puts hosts together; whether any differs.
    fn build_hosts(&mut self, work: &mut Work) -> bool {
        let mut rerouted = false;
        let default = self.settings.default_backend.as_ref();
        for pattern in std::mem::take(&mut work.hosts) {
            let Some(host) = self.hosts.get_mut(&pattern) else { continue };
            let members = host.members.iter().filter_map(|(_, key)| self.ingresses.get(key)?.member.as_ref());
            let members: Vec<_> = members.collect();
            let mut ground = Ground {
                clusters: &self.clusters,
                has_tls: self.tls_hosts.covers(&pattern),
                default,
                policies: &mut self.policies,
            };
            let mut built = merge::host(&pattern, &members, &mut ground);
            let issues = |built: &Option<Built>| built.as_ref().map_or(0, |built| built.issues.len());
            work.issues |= issues(&built) > 0 || issues(&host.built) > 0;
            match (&mut built, &host.built) {
                (Some(new), Some(old)) if new.rules == old.rules => new.rules = Arc::clone(&old.rules),
                (None, None) => {}
                _ => rerouted = true,
            }
            host.built = built;
            if host.members.is_empty() && host.built.is_none() {
                self.hosts.remove(&pattern);
            }
        }
        rerouted
    }

    fn build_stand_ins(&mut self, rerouted: bool, work: &mut Work) {
        if !work.stand_ins && (!rerouted || self.standing_in.is_empty()) {
            return;
        }
        let members = self.standing_in.iter().filter_map(|(_, key)| self.ingresses.get(key)?.member.as_ref());
        let members: Vec<_> = members.collect();
        let hosts = &self.hosts;
        let find = |pattern: &HostPattern| hosts.get(pattern).and_then(Host::rules);
        self.stand_ins = StandIns::new(&members, &find, &mut self.policies, &self.stand_ins);
        work.stand_ins = true;
        work.issues = true;
    }

    fn build_tls(&mut self, rerouted: bool, now_unix: i64, previous: &Snapshot, work: &mut Work) {
        if let Some(known) = &self.tls {
            let passing = rerouted && !known.config.passthrough.is_empty();
            let timely = (known.since..known.until).contains(&now_unix);
            if timely && !work.tls && !work.secrets && !work.stand_ins && !passing {
                return;
            }
        }
        let mut members: Vec<_> = self.ingresses.values().filter_map(|known| known.member.as_ref()).collect();
        members.sort_by_cached_key(|member| member.draft.rank());
        let hosts = &self.hosts;
        let find = |pattern: &HostPattern| hosts.get(pattern).and_then(Host::rules);
        let mut certificates = Certificates::new(&self.objects, now_unix, &previous.tls);
        let mut issues = Vec::new();
        let default = self.settings.default_certificate.as_ref();
        let config = tls::config(&members, &find, &self.stand_ins, default, &mut certificates, &mut issues);
        let config = if *previous.tls == config { Arc::clone(&previous.tls) } else { Arc::new(config) };
        work.issues |= self.tls.as_ref().is_none_or(|tls| tls.issues != issues);
        self.tls = Some(Tls { config, issues, since: now_unix, until: now_unix + TLS_SECONDS });
    }

    /// All hosts, those that `previous` has too by the same `Arc`.
    fn build_routing(&mut self, previous: &Arc<Routing>) -> Arc<Routing> {
        let own = self.hosts.iter_mut().filter_map(|(_, host)| host.built.as_mut());
        let own = own.map(|built| &mut built.rules).filter(|rules| !is_empty(rules));
        let mut all: Vec<_> =
            own.chain(self.stand_ins.hosts.values_mut().map(|host| &mut host.rules)).collect();
        all.sort_by(|a, b| a.host.cmp(&b.host));
        let mut old = previous.hosts.iter().peekable();
        let mut hosts = Vec::with_capacity(all.len());
        for rules in all {
            // Most are the same, which is seen without comparing names.
            while old.next_if(|old| !Arc::ptr_eq(old, rules) && old.host < rules.host).is_some() {}
            if let Some(same) = old.next_if(|old| Arc::ptr_eq(old, rules) || old.host == rules.host)
                && !Arc::ptr_eq(same, rules)
                && same == rules
            {
                *rules = Arc::clone(same);
            }
            hosts.push(Arc::clone(rules));
        }
        let same = hosts.len() == previous.hosts.len();
        if same && hosts.iter().zip(&previous.hosts).all(|(new, old)| Arc::ptr_eq(new, old)) {
            return Arc::clone(previous);
        }
        Arc::new(Routing { hosts })
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

/// The keys under which two maps differ. Costs as much as there are differences, where one was made
/// from the other.
fn differing<'a, T: PartialEq>(
    old: &'a ObjectMap<T>,
    new: &'a ObjectMap<T>,
) -> impl Iterator<Item = ObjectKey> + 'a {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => {
            key.clone()
        }
    })
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
        || a.trusted_proxies != b.trusted_proxies
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
