//! How a host's paths are compared, and in which order.

use std::cmp::Reverse;
use std::sync::Arc;

use super::Host;
use crate::model::{Backend, Compat, IssueReason, PathMatch, RewriteTarget, Severity, Unavailable};
use crate::objects::excerpt;
use crate::route::normalise_rule;
use crate::translate::ingress::{Rule, Slot};
use crate::translate::member::Member;
use crate::translate::path::{self, PathType, RulePath};
use crate::translate::report::issue;

/// How much memory the regular expressions of one host may need when compiled.
const HOST_PATTERN_BYTES: usize = 8 << 20;

impl Host {
    /// In ingress-nginx one path with a rewrite or `use-regex` makes all paths of the host regular
    /// expressions, those of other Ingresses too. A rewrite to the path itself is none.
    pub(super) fn read_regexes(&mut self, members: &[&Member]) {
        let ours = |member: &&&Member| {
            member.draft.compat == Compat::IngressNginx && member.draft.annotations.canary.is_none()
        };
        let paths = |member: &Member| {
            let rules = member.draft.rules.get(&self.rules.host).into_iter().flatten();
            let paths = rules.filter_map(|rule| match &rule.slot {
                Slot::Path(path) => Some(path.clone()),
                _ => None,
            });
            paths.collect::<Vec<_>>()
        };
        self.regex = members.iter().filter(ours).any(|member| {
            member.draft.annotations.regex
                && paths(member).iter().any(|path| !rewrites_to_itself(member, path))
        });
        if self.regex {
            let paths = members.iter().filter(ours).flat_map(|member| paths(member));
            let exact = paths.filter(|path| path.path_type == PathType::Exact).map(|path| path.text);
            self.exact = exact.collect();
        }
    }

    /// How the path is compared on this host; if it can't be served, what to close instead.
    pub(super) fn path_match(
        &mut self,
        member: &Member,
        rule: &Rule,
        path: &RulePath,
    ) -> Result<PathMatch, Option<path::Closing>> {
        let draft = &member.draft;
        let enforced = self.regex && draft.compat == Compat::IngressNginx;
        if !path.regex && !enforced {
            return Ok(path.plain());
        }
        if self.closed_by.is_some() {
            return Ok(PathMatch::Regex(path::literal_pattern(&path.text).into()));
        }
        // Beside an Exact path ingress-nginx writes the same Prefix path with a slash.
        let beside = path.path_type == PathType::Prefix
            && !draft.annotations.regex
            && self.exact.contains(&path.text)
            && !path.text.ends_with('/');
        let text: Arc<str> = if beside { format!("{}/", path.text).into() } else { path.text.clone() };
        let wrong = match self.patterns.contains_key(&text) {
            true => return Ok(PathMatch::Regex(text)),
            false => match path::compile(&text) {
                Ok(pattern) if self.pattern_bytes + pattern.bytes() <= HOST_PATTERN_BYTES => {
                    self.pattern_bytes += pattern.bytes();
                    self.patterns.insert(text.clone(), pattern);
                    return Ok(PathMatch::Regex(text));
                }
                Ok(_) => format!(
                    "the regular expressions of host {} need more than 8 MiB when compiled, so {:?} is not served. \
                     Use fewer or shorter ones.",
                    self.rules.host,
                    excerpt(&text)
                ),
                Err(wrong) => wrong,
            },
        };
        let field = format!("spec.{}.path", rule.place);
        self.issues.push(issue(
            Severity::Error,
            IssueReason::InvalidField,
            "Ingress",
            &draft.key,
            field,
            wrong,
        ));
        Err(path::closing(&path.text))
    }

    /// What takes the place of a path that can't be served, if access to its Ingress is restricted.
    pub(super) fn close_path(
        &mut self,
        member: &Member,
        closing: Option<&path::Closing>,
    ) -> Option<(PathMatch, Backend)> {
        let by = self.closed_by.clone().or_else(|| member.refers.restricted_by.clone())?;
        let closing = closing?;
        if closing.host {
            self.closed.push((member.draft.key.clone(), by.clone()));
        }
        let path = if self.regex && member.draft.compat == Compat::IngressNginx {
            PathMatch::Regex(path::literal_pattern(&closing.path).into())
        } else {
            PathMatch::Prefix(closing.path.clone())
        };
        Some((path, Backend::Unavailable(Unavailable::AccessControl(by))))
    }
}

/// Longest path first, then Exact before Prefix before Regex. Where neither decides, by text: of
/// regular expressions the greater one is first, as ingress-nginx sorts them.
pub(super) fn preference(path: &PathMatch) -> (Reverse<usize>, u8, String, Reverse<Arc<str>>) {
    let normal = normalise_rule(path.text());
    let none = || Reverse(Arc::from(""));
    match path {
        PathMatch::Exact(_) => (Reverse(normal.len()), 0, normal, none()),
        PathMatch::Prefix(_) => (Reverse(normal.len()), 1, normal, none()),
        PathMatch::Regex(text) => (Reverse(text.len()), 2, String::new(), Reverse(text.clone())),
    }
}

pub(super) fn normal(path: &PathMatch) -> PathMatch {
    let text = || normalise_rule(path.text()).into();
    match path {
        PathMatch::Exact(_) => PathMatch::Exact(text()),
        PathMatch::Prefix(_) => PathMatch::Prefix(text()),
        PathMatch::Regex(pattern) => PathMatch::Regex(pattern.clone()),
    }
}

pub(super) fn rewrites_to_itself(member: &Member, path: &RulePath) -> bool {
    matches!(&member.draft.annotations.rewrite, Some(RewriteTarget::Replace(target)) if **target == *path.text)
}
