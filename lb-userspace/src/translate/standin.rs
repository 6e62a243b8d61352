//! Hosts that stand in for others: aliases, and `www.` beside the bare name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::member::Member;
use super::report::issue;
use super::shared::Shared;
use crate::model::{
    Backend, HostPattern, Issue, IssueReason, PathMatch, Redirect, Route, RoutePolicy, Severity, Template,
    TemplatePart, Variable, VirtualHost,
};

const ALIAS: &str = "nginx.ingress.kubernetes.io/server-alias";
const WWW: &str = "nginx.ingress.kubernetes.io/from-to-www-redirect";

/// How many routes the aliases of one Ingress may copy.
const MAX_COPIES: usize = 50_000;

/// The hosts that stand in for others, and what is wrong with what Ingresses ask of them.
#[derive(Default)]
pub(super) struct StandIns {
    pub(super) hosts: BTreeMap<HostPattern, StandIn>,
    pub(super) issues: Vec<Issue>,
}

/// A host that stands in for another.
pub(super) struct StandIn {
    pub(super) source: HostPattern,
    /// It serves what the source serves; else it sends there.
    pub(super) alias: bool,
    /// The source's rules, for aliases.
    copied: Option<Arc<VirtualHost>>,
    pub(super) rules: Arc<VirtualHost>,
}

/// Where hosts are found that Ingresses have rules for.
pub(super) type Hosts<'a> = dyn Fn(&HostPattern) -> Option<&'a Arc<VirtualHost>> + 'a;

impl StandIns {
    /// Those that `members` ask for, in the order of their rank. Hosts with rules go first, then
    /// aliases, then redirects. What did not change since `previous` is taken from there.
    pub(super) fn new(
        members: &[&Member],
        hosts: &Hosts<'_>,
        policies: &mut Shared<RoutePolicy>,
        previous: &Self,
    ) -> Self {
        let mut all = Self::default();
        for member in members {
            all.add_aliases(member, hosts, previous);
        }
        for member in members.iter().filter(|member| member.draft.annotations.www_redirect) {
            for host in member.draft.rules.hosts() {
                all.add_www(member, host, hosts, policies, previous);
            }
        }
        all
    }

    fn add_aliases(&mut self, member: &Member, hosts: &Hosts<'_>, previous: &Self) {
        let aliases = &member.draft.annotations.aliases;
        let mut named = member.draft.rules.hosts().filter(|host| **host != HostPattern::Any);
        let Some((source, rules)) = named.clone().find_map(|host| Some((host, hosts(host)?))) else { return };
        if !aliases.is_empty() && named.nth(1).is_some() {
            self.say(
                member,
                Severity::Warning,
                ALIAS,
                format!("the Ingress has several hosts; the aliases are {source}'s alone. Use an Ingress for each."),
            );
        }
        let size = rules.routes.len() + rules.shadowed.len() + 1;
        for (n, alias) in aliases.iter().enumerate() {
            if member.draft.rules.contains(alias) {
                continue;
            }
            if (n + 1) * size > MAX_COPIES {
                let message = format!(
                    "{} aliases are ignored: with {size} routes each they would be more than {MAX_COPIES}. \
                     Use a wildcard host.",
                    aliases.len() - n
                );
                self.say(member, Severity::Error, ALIAS, message);
                return;
            }
            if hosts(alias).is_some() {
                let message = format!(
                    "{alias} has rules of its own, which go before the alias of {source}; remove one of the two."
                );
                self.say(member, Severity::Warning, ALIAS, message);
                continue;
            }
            if let Some(first) = self.hosts.get(alias).map(|first| first.source.clone()) {
                if first != *source {
                    let message = format!(
                        "{alias} is an alias of {first} already, which came first; remove one of the two."
                    );
                    self.say(member, Severity::Warning, ALIAS, message);
                }
                continue;
            }
            let known = previous.hosts.get(alias).filter(|known| {
                known.source == *source
                    && known.copied.as_ref().is_some_and(|copied| Arc::ptr_eq(copied, rules))
            });
            let copy = match known {
                Some(known) => Arc::clone(&known.rules),
                None => Arc::new(VirtualHost { host: alias.clone(), ..(**rules).clone() }),
            };
            let copied = Some(Arc::clone(rules));
            self.hosts
                .insert(alias.clone(), StandIn { source: source.clone(), alias: true, copied, rules: copy });
        }
    }

    fn add_www(
        &mut self,
        member: &Member,
        host: &HostPattern,
        hosts: &Hosts<'_>,
        policies: &mut Shared<RoutePolicy>,
        previous: &Self,
    ) {
        let HostPattern::Exact(name) = host else { return };
        let other = match name.strip_prefix("www.") {
            Some(bare) if bare.contains('.') => bare.to_owned(),
            Some(_) => return,
            None => format!("www.{name}"),
        };
        let Ok(other) = HostPattern::parse(&other) else { return };
        if hosts(host).is_none() {
            return;
        }
        if hosts(&other).is_some() || self.hosts.contains_key(&other) {
            let message =
                format!("{other} has rules of its own or sends elsewhere, so it is not sent to {host}.");
            self.say(member, Severity::Note, WWW, message);
            return;
        }
        let to = Template(vec![
            TemplatePart::Variable(Variable::Scheme),
            TemplatePart::Text(format!("://{name}").into()),
            TemplatePart::Variable(Variable::RequestUri),
        ]);
        let policy = RoutePolicy { redirect: Some(Redirect { status: 308, to }), ..RoutePolicy::default() };
        let route = Route {
            ingress: member.draft.key.clone(),
            rule: "from-to-www-redirect".into(),
            path: PathMatch::Prefix("/".into()),
            backend: Backend::Answered,
            canary: None,
            policy: policies.get(policy),
        };
        let rules =
            VirtualHost { host: other.clone(), routes: vec![route], fallback: None, shadowed: Vec::new() };
        let known = previous.hosts.get(&other).filter(|known| *known.rules == rules);
        let rules = known.map_or_else(|| Arc::new(rules), |known| Arc::clone(&known.rules));
        self.hosts.insert(other, StandIn { source: host.clone(), alias: false, copied: None, rules });
    }

    fn say(&mut self, member: &Member, severity: Severity, annotation: &str, message: String) {
        let field = format!("metadata.annotations[{annotation}]");
        let reason = IssueReason::Conflict;
        self.issues.push(issue(severity, reason, "Ingress", &member.draft.key, field, message));
    }
}
