//! What follows from what has changed: backends, hosts, certificates, put together again.

use std::sync::Arc;

use super::{Tls, Translator, Work, controller, is_empty, unavailable};
use crate::model::{ClusterKey, HostPattern, Routing, Snapshot};
use crate::translate::member::Field;
use crate::translate::merge::{self, Built, Ground};
use crate::translate::secrets::Certificates;
use crate::translate::standin::StandIns;
use crate::translate::tls;

/// Certificates are looked at again this often.
const TLS_SECONDS: i64 = 60;

impl Translator {
    pub(super) fn check_backends(&mut self, work: &mut Work) {
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
            let problems: Box<[_]> = member.clusters().filter_map(problem).collect();
            work.issues |= problems != known.problems;
            work.hosts.extend(member.draft.rules.hosts().cloned());
            known.problems = problems;
        }
    }

    /// Puts hosts together; whether any differs.
    pub(super) fn build_hosts(&mut self, work: &mut Work) -> bool {
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

    pub(super) fn build_stand_ins(&mut self, rerouted: bool, work: &mut Work) {
        if !work.stand_ins && (!rerouted || self.standing_in.is_empty()) {
            return;
        }
        let members = self.standing_in.iter().filter_map(|(_, key)| self.ingresses.get(key)?.member.as_ref());
        let members: Vec<_> = members.collect();
        let hosts = &self.hosts;
        let find = |pattern: &HostPattern| hosts.get(pattern).and_then(|host| host.rules());
        self.stand_ins = StandIns::new(&members, &find, &mut self.policies, &self.stand_ins);
        work.stand_ins = true;
        work.issues = true;
    }

    pub(super) fn build_tls(&mut self, rerouted: bool, now_unix: i64, previous: &Snapshot, work: &mut Work) {
        if let Some(known) = &self.tls {
            let routed = rerouted && known.by_routes;
            let timely = (known.since..known.until).contains(&now_unix);
            if timely && !work.tls && !work.secrets && !work.stand_ins && !routed {
                return;
            }
        }
        let mut members: Vec<_> = self.ingresses.values().filter_map(|known| known.member.as_ref()).collect();
        members.sort_by_cached_key(|member| member.draft.rank());
        let hosts = &self.hosts;
        let find = |pattern: &HostPattern| hosts.get(pattern).and_then(|host| host.rules());
        let mut certificates = Certificates::new(&self.objects, now_unix, &previous.tls);
        let mut issues = Vec::new();
        let default = self.settings.default_certificate.as_ref();
        let pools = self.settings.worker_pools.as_deref();
        let stand_ins = &self.stand_ins;
        let config = tls::config(&members, &find, stand_ins, default, &mut certificates, pools, &mut issues);
        let config = if *previous.tls == config { Arc::clone(&previous.tls) } else { Arc::new(config) };
        work.issues |= self.tls.as_ref().is_none_or(|tls| tls.issues != issues);
        let by_routes = members.iter().any(|member| {
            let (annotations, tls) = (&member.draft.annotations, &member.draft.tls);
            annotations.passthrough
                || annotations.worker_pool.is_some()
                || tls.iter().any(|tls| tls.hosts.contains(&HostPattern::Any))
        });
        self.tls = Some(Tls { config, issues, by_routes, since: now_unix, until: now_unix + TLS_SECONDS });
    }

    /// All hosts, those that `previous` has too by the same `Arc`.
    pub(super) fn build_routing(&mut self, previous: &Arc<Routing>) -> Arc<Routing> {
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
}
