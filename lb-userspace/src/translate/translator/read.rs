//! What has changed: Ingresses and what they refer to, read again.

use std::collections::BTreeSet;

use super::{Known, Translator, Work};
use crate::model::{ClusterKey, HostPattern, ObjectKey};
use crate::objects::{Objects, differing};
use crate::translate::ingress::Draft;
use crate::translate::member::Member;

impl Translator {
    pub(super) fn read_changes(&mut self, before: &Objects, other_classes: bool, work: &mut Work) {
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
            work.l4 |= self.l4.read(&self.objects, &service, self.settings.node.as_deref());
            self.clusters.touch(service);
        }
        if differing(&before.nodes, &self.objects.nodes).next().is_some() {
            work.nodes = true;
            for service in self.l4.direct() {
                work.l4 |= self.l4.read(&self.objects, &service, self.settings.node.as_deref());
            }
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
                let draft =
                    Draft::new(key, ingress, self.settings.defaults.of(compat), &mut self.annotations);
                Member::new(draft, &self.objects, default)
            });
            Box::new(Known { issues: issues.into(), problems: Box::default(), member })
        });
        work.issues |= [&old, &new].into_iter().flatten().any(|known| known.has_issues());
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
        work.hosts.extend(member.draft.rules.hosts().cloned());
        work.backends.insert(key.clone());
        if let Some(pages) = &new.error_pages {
            self.clusters.ask(&pages.1, key);
        }
        let named = |cluster: &ClusterKey| member.clusters().any(|(key, _)| key == cluster);
        if let Some(pages) = old.error_pages.filter(|pages| !named(&pages.1)) {
            self.clusters.forget(&pages.1, key);
        }
    }

    fn enter(&mut self, member: &Member, work: &mut Work) {
        let draft = &member.draft;
        for (cluster, _) in member.clusters() {
            self.clusters.ask(cluster, &draft.key);
        }
        for host in draft.rules.hosts() {
            let (members, rank) = (&mut self.hosts.entry(host.clone()).or_default().members, draft.rank());
            if let Err(free) = members.binary_search(&rank) {
                members.reserve_exact(1);
                members.insert(free, rank);
            }
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
        for host in draft.rules.hosts() {
            work.hosts.insert(host.clone());
            let stays = same_rank && now.is_some_and(|now| now.draft.rules.contains(host));
            if let Some(host) = self.hosts.get_mut(host).filter(|_| !stays)
                && let Ok(at) = host.members.binary_search(&draft.rank())
            {
                host.members.remove(at);
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
}
