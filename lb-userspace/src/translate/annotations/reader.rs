//! Asks for annotations by name, and says what is wrong with them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use super::super::report::issue;
use super::catalogue::{CATALOGUE, Support, entry};
use super::values::{Bad, Read};
use crate::model::{Issue, IssueReason, ObjectKey, Severity};
use crate::objects::{ANNOTATION_PREFIXES, AnnotationMap, excerpt};

/// What an unknown annotation begins with if it most likely restricts access.
const CLOSING: [&str; 4] = ["auth-", "whitelist-", "allowlist-", "denylist-"];

/// Annotations that ingress-nginx has not, with Sluice's own prefix only.
const OWN: [&str; 1] = ["worker-pool"];

/// What ingress-nginx applies to all of a host when it restricts access.
const FOR_HOSTS: [&str; 2] = ["auth-tls-", "server-snippet"];

/// The values of one object, and what is wrong with them.
pub(in crate::translate) struct Reader<'a> {
    pub(in crate::translate) key: &'a ObjectKey,
    kind: &'static str,
    place: &'static str,
    /// By name without prefix: the name as it is written, and the value.
    values: BTreeMap<&'a str, (&'a str, &'a str)>,
    issues: &'a mut Vec<Issue>,
    /// An annotation that closes access and can't be followed.
    pub(in crate::translate) closed_by: Option<Arc<str>>,
    /// The same for all of the Ingress's hosts.
    pub(in crate::translate) closes_hosts: Option<Arc<str>>,
}

impl<'a> Reader<'a> {
    /// Reads an Ingress's annotations. Says which nobody knows or follows.
    pub(in crate::translate) fn of_ingress(
        key: &'a ObjectKey,
        annotations: &'a AnnotationMap,
        issues: &'a mut Vec<Issue>,
    ) -> Self {
        let mut reader = Self::new(key, "Ingress", "metadata.annotations", issues);
        for prefix in ANNOTATION_PREFIXES {
            for (full, value) in annotations.iter() {
                let Some(name) = full.strip_prefix(prefix) else { continue };
                reader.values.entry(name).or_insert((full, value));
            }
        }
        reader.say_unknown();
        reader
    }

    /// Reads a Service's annotations that are ours. Those that nobody here knows may be others'.
    pub(in crate::translate) fn of_service(
        key: &'a ObjectKey,
        annotations: &'a AnnotationMap,
        issues: &'a mut Vec<Issue>,
    ) -> Self {
        let mut reader = Self::new(key, "Service", "metadata.annotations", issues);
        let ours = annotations
            .iter()
            .filter_map(|(full, value)| Some((full.strip_prefix(ANNOTATION_PREFIXES[0])?, (full, value))));
        reader.values = ours.collect();
        reader
    }

    /// Reads a ConfigMap's entries, which are `known`, by name.
    pub(in crate::translate) fn of_config_map(
        key: &'a ObjectKey,
        data: &'a BTreeMap<String, String>,
        issues: &'a mut Vec<Issue>,
    ) -> Self {
        let mut reader = Self::new(key, "ConfigMap", "data", issues);
        reader.values =
            data.iter().map(|(name, value)| (name.as_str(), (name.as_str(), value.as_str()))).collect();
        reader
    }

    /// Says which settings are not among `known`: those that mean nothing here, those that mean
    /// something and are not followed, and those that nobody knows.
    pub(in crate::translate) fn say_unknown_settings(
        &mut self,
        known: &[&str],
        needless: &[&str],
        refused: &[(&str, &str)],
    ) {
        let names: Vec<_> = self.values.keys().copied().collect();
        for name in names.into_iter().filter(|name| !known.contains(name)) {
            if needless.contains(&name) {
                self.note(name, "means nothing here and is ignored; see what the node's own options offer.");
            } else if let Some((_, instead)) = refused.iter().find(|(refused, _)| *refused == name) {
                self.unsupported(name, format!("is not followed. {instead}"));
            } else {
                let near = nearest(name, known.iter().copied());
                let near = near.map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
                self.unsupported(name, format!("is no setting and is ignored.{near}"));
            }
        }
    }

    fn new(key: &'a ObjectKey, kind: &'static str, place: &'static str, issues: &'a mut Vec<Issue>) -> Self {
        Self { key, kind, place, values: BTreeMap::new(), issues, closed_by: None, closes_hosts: None }
    }

    /// Whether there is no annotation at all.
    pub(in crate::translate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value, if it is there and not empty: ingress-nginx takes empty ones for absent.
    pub(in crate::translate) fn text(&self, name: &str) -> Option<&'a str> {
        self.values.get(name).map(|(_, value)| *value).filter(|value| !value.is_empty())
    }

    /// Whether it is there, if only empty.
    pub(in crate::translate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// `name` if it is there and not empty, else its other name if that is there.
    pub(in crate::translate) fn either(&mut self, name: &'static str, other: &'static str) -> &'static str {
        let (value, other_value) = (self.text(name), self.text(other));
        if value.is_none() && self.has(other) {
            return other;
        }
        if other_value.is_some_and(|other| Some(other) != value) {
            let message = format!("{name} says something else, which counts; remove one of the two.");
            self.say(Severity::Warning, IssueReason::InvalidAnnotation, other, message);
        }
        name
    }

    /// Says which items of a list are ignored, `is` and `remedy` as in [`Bad`]: the first, and how many
    /// there are, since a list may be a megabyte long.
    pub(in crate::translate) fn bad_items(&mut self, name: &str, items: &[&str], is: &str, remedy: &str) {
        let Some(first) = items.first() else { return };
        let more = match items.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let message = format!("{:?}{more} {is} and is ignored; {remedy}.", excerpt(first));
        self.say(Severity::Warning, IssueReason::InvalidAnnotation, name, message);
    }

    /// The value as `read` understands it. A bad one is said and ignored.
    pub(in crate::translate) fn get<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&'a str) -> Read<T>,
    ) -> Option<T> {
        let value = self.text(name)?;
        read(value).map_err(|bad| self.bad(name, &bad)).ok()
    }

    /// The same where ignoring a bad value would let requests in that it keeps out: closes instead.
    pub(in crate::translate) fn get_closing<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&'a str) -> Read<T>,
    ) -> Option<T> {
        let value = self.text(name)?;
        read(value).map_err(|bad| self.close_bad(name, &bad)).ok()
    }

    /// Says that the value is ignored.
    pub(in crate::translate) fn bad(&mut self, name: &str, bad: &Bad) {
        let value = excerpt(self.text(name).unwrap_or_default());
        let message = format!("{value:?} {} and is ignored; {}.", bad.is, bad.remedy);
        self.say(Severity::Warning, IssueReason::InvalidAnnotation, name, message);
    }

    /// Says that something about it is not followed, and what to do.
    pub(in crate::translate) fn unsupported(&mut self, name: &str, message: impl Into<String>) {
        self.say(Severity::Warning, IssueReason::UnsupportedAnnotation, name, message.into());
    }

    /// Says something about it that costs nobody anything.
    pub(in crate::translate) fn note(&mut self, name: &str, message: impl Into<String>) {
        self.say(Severity::Note, IssueReason::UnsupportedAnnotation, name, message.into());
    }

    /// The value can't be used, and nobody may get in without it.
    pub(in crate::translate) fn close_bad(&mut self, name: &str, bad: &Bad) {
        self.mark_closed(name);
        self.close_part(name, bad, self.closed());
    }

    /// The same where `closed` says what nobody gets because of it, and all else is open.
    pub(in crate::translate) fn close_part(&mut self, name: &str, bad: &Bad, closed: &str) {
        let value = excerpt(self.text(name).unwrap_or_default());
        let message = format!("{value:?} {}; {closed}; {}.", bad.is, bad.remedy);
        self.say(Severity::Error, IssueReason::InvalidAnnotation, name, message);
    }

    /// The annotation can't be followed, and nobody may get in without it. `what` begins the sentence,
    /// `remedy` ends it.
    pub(in crate::translate) fn close(&mut self, name: &str, what: impl Display, remedy: impl Display) {
        self.mark_closed(name);
        let message = format!("{what}; {}. {remedy}", self.closed());
        self.say(Severity::Error, IssueReason::UnsupportedAnnotation, name, message);
    }

    fn closed(&self) -> &'static str {
        match self.kind {
            "ConfigMap" => "all routes answer 503 rather than let everyone in",
            _ => "the routes of this Ingress answer 503 rather than let everyone in",
        }
    }

    fn mark_closed(&mut self, name: &str) {
        let full: Arc<str> = excerpt(self.written(name)).into();
        if FOR_HOSTS.iter().any(|host_wide| name.starts_with(host_wide)) {
            self.closes_hosts.get_or_insert_with(|| full.clone());
        }
        self.closed_by.get_or_insert(full);
    }

    fn say(&mut self, severity: Severity, reason: IssueReason, name: &str, message: String) {
        let reason = match (self.kind, reason) {
            ("ConfigMap", IssueReason::InvalidAnnotation) => IssueReason::InvalidField,
            ("ConfigMap", IssueReason::UnsupportedAnnotation) => IssueReason::Unsupported,
            _ => reason,
        };
        let field = format!("{}[{}]", self.place, excerpt(self.written(name)));
        self.issues.push(issue(severity, reason, self.kind, self.key, field, message));
    }

    /// The name with its prefix.
    pub(in crate::translate) fn written<'n>(&self, name: &'n str) -> &'n str
    where
        'a: 'n,
    {
        self.values.get(name).map_or(name, |(full, _)| full)
    }

    fn say_unknown(&mut self) {
        let names: Vec<_> = self.values.keys().copied().collect();
        for name in names {
            if OWN.contains(&name) && self.written(name).starts_with(ANNOTATION_PREFIXES[0]) {
                continue;
            }
            match entry(name).map(|entry| entry.support) {
                Some(Support::Full | Support::Differs(_) | Support::Closes(_)) => {}
                Some(Support::Ignored(why)) => self.note(name, format!("is ignored. {why}")),
                Some(Support::Refused(instead)) => {
                    self.unsupported(name, format!("is not followed. {instead}"));
                }
                None if CLOSING.iter().any(|closing| name.starts_with(closing)) => self.close(
                    name,
                    "is not known and most likely restricts access",
                    format!("{}Remove the annotation if they may be open.", similar(name)),
                ),
                None => {
                    let message = format!(
                        "is not known and is ignored. {}Remove it if nothing depends on it.",
                        similar(name)
                    );
                    self.unsupported(name, message);
                }
            }
        }
    }
}

/// `Did you mean …? ` if some annotation is called nearly so.
fn similar(name: &str) -> String {
    let names = CATALOGUE.iter().map(|entry| entry.name);
    nearest(name, names).map(|near| format!("Did you mean {near}? ")).unwrap_or_default()
}

/// Which of `names` differs from `name` by no more than a quarter of its letters.
pub(in crate::translate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // Nothing known is longer, and comparing costs the product of both lengths.
    if name.len() > 64 {
        return None;
    }
    let (distance, near) = names.map(|known| (distance(name, known), known)).min()?;
    (distance <= (name.len() / 4).max(1)).then_some(near)
}

/// How many letters to insert, remove or exchange (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        for (name, expect) in [
            ("proxy-bodysize", Some("proxy-body-size")),
            ("ssl-redirct", Some("ssl-redirect")),
            ("whatever", None),
            ("", None),
        ] {
            let near = nearest(name, CATALOGUE.iter().map(|entry| entry.name));
            assert_eq!(near, expect, "{name}");
        }
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("ab", "ab")), (3, 2, 0));
    }
}
