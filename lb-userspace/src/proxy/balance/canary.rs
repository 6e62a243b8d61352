//! Whether a request takes a route's canary.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::bytes::Regex;

use crate::model::{Canary, CanaryValue};
use crate::proxy::cluster::ClusterSlot;
use crate::proxy::headers::cookie;

/// A route's canary, ready to decide.
#[derive(Debug)]
pub(in crate::proxy) struct CanarySlot {
    pub(super) cluster: Arc<ClusterSlot>,
    rule: Rule,
}

/// What decides, in this order: header, cookie, weight.
#[derive(Debug)]
struct Rule {
    header: Option<(HeaderName, Value)>,
    cookie: Option<Arc<str>>,
    weight: u32,
    total: u32,
}

#[derive(Debug)]
enum Value {
    AlwaysOrNever,
    Exact(Arc<str>),
    Pattern(Regex),
}

impl CanarySlot {
    pub(in crate::proxy) fn new(canary: &Canary, cluster: Arc<ClusterSlot>) -> Self {
        Self { cluster, rule: Rule::new(canary) }
    }

    /// Whether a request with these headers takes the canary. `random` gives a number below its
    /// argument.
    pub(super) fn takes(&self, headers: &HeaderMap, random: impl FnOnce(u32) -> u32) -> bool {
        self.rule.takes(headers, random)
    }
}

impl Rule {
    fn new(canary: &Canary) -> Self {
        let header = canary.header.as_ref().and_then(|header| {
            let value = match &header.value {
                CanaryValue::AlwaysOrNever => Value::AlwaysOrNever,
                CanaryValue::Exact(value) => Value::Exact(Arc::clone(value)),
                // Both compile, as the model promises; where not, the header decides nothing.
                CanaryValue::Pattern(pattern) => Value::Pattern(Regex::new(pattern).ok()?),
            };
            Some((HeaderName::from_bytes(header.name.as_bytes()).ok()?, value))
        });
        let total = canary.weight_total.max(1);
        Self { header, cookie: canary.cookie.clone(), weight: canary.weight, total }
    }

    fn takes(&self, headers: &HeaderMap, random: impl FnOnce(u32) -> u32) -> bool {
        self.by_header(headers)
            .or_else(|| self.by_cookie(headers))
            .unwrap_or_else(|| self.weight > 0 && random(self.total) < self.weight)
    }

    fn by_header(&self, headers: &HeaderMap) -> Option<bool> {
        let (name, value) = self.header.as_ref()?;
        let sent: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if sent.is_empty() {
            return None;
        }
        let sent = sent.join(&b", "[..]);
        match value {
            Value::AlwaysOrNever => always_or_never(&sent),
            Value::Exact(value) => (sent == value.as_bytes()).then_some(true),
            Value::Pattern(pattern) => pattern.is_match(&sent).then_some(true),
        }
    }

    fn by_cookie(&self, headers: &HeaderMap) -> Option<bool> {
        always_or_never(cookie(headers, self.cookie.as_deref()?)?)
    }
}

fn always_or_never(value: &[u8]) -> Option<bool> {
    match value {
        b"always" => Some(true),
        b"never" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, CanaryHeader, ObjectKey};

    /// Whether a request with these headers takes the canary when chance says `random`.
    fn check(
        header: Option<CanaryValue>,
        cookie: Option<&str>,
        weight: u32,
        sent: &str,
        random: u32,
    ) -> bool {
        let canary = Canary {
            ingress: ObjectKey::new("default", "canary"),
            backend: Backend::Answered,
            header: header.map(|value| CanaryHeader { name: "x-canary".into(), value }),
            cookie: cookie.map(Arc::from),
            weight,
            weight_total: 100,
        };
        let mut headers = HeaderMap::new();
        for line in sent.lines() {
            let (name, value) = line.split_once(": ").expect("a header");
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                value.parse().expect("a value"),
            );
        }
        Rule::new(&canary).takes(&headers, |total| {
            assert_eq!(total, 100);
            random
        })
    }

    #[test]
    fn what_decides() {
        let word = || Some(CanaryValue::AlwaysOrNever);
        let exact = || Some(CanaryValue::Exact("yes".into()));
        let pattern = || Some(CanaryValue::Pattern("^de|at$".into()));
        for (header, cookie, weight, sent, expect) in [
            // Nothing decides.
            (None, None, 0, "", false),
            // Weight alone; chance says 30.
            (None, None, 31, "", true),
            (None, None, 30, "", false),
            (None, None, 100, "", true),
            // The header's words.
            (word(), None, 0, "x-canary: always", true),
            (word(), None, 100, "x-canary: never", false),
            (word(), None, 0, "x-canary: Always", false),
            (word(), None, 100, "x-canary: Never", true),
            (word(), None, 31, "x-canary: maybe", true),
            (word(), None, 0, "", false),
            // A value: only that one, and no word.
            (exact(), None, 0, "x-canary: yes", true),
            (exact(), None, 0, "x-canary: Yes", false),
            (exact(), None, 0, "x-canary: always", false),
            (exact(), None, 100, "x-canary: never", true),
            (exact(), None, 100, "x-canary: no", true),
            // A pattern is found anywhere.
            (pattern(), None, 0, "x-canary: de-CH", true),
            (pattern(), None, 0, "x-canary: flat", true),
            (pattern(), None, 0, "x-canary: fr-de", false),
            (pattern(), None, 0, "x-canary: DE", false),
            (pattern(), None, 31, "x-canary: fr", true),
            // The cookie's words.
            (None, Some("c"), 0, "cookie: c=always", true),
            (None, Some("c"), 100, "cookie: c=never", false),
            (None, Some("c"), 0, "cookie: a=1; c=always; d=2", true),
            (None, Some("c"), 0, "cookie: cc=always", false),
            (None, Some("c"), 31, "cookie: c=perhaps", true),
            (None, Some("c"), 0, "cookie: C=always", false),
            // Header before cookie before weight.
            (word(), Some("c"), 0, "x-canary: always\ncookie: c=never", true),
            (word(), Some("c"), 100, "x-canary: never\ncookie: c=always", false),
            (word(), Some("c"), 0, "x-canary: other\ncookie: c=always", true),
            (exact(), Some("c"), 100, "x-canary: no\ncookie: c=never", false),
            (pattern(), Some("c"), 0, "x-canary: fr\ncookie: c=always", true),
            // Two headers are one list.
            (word(), None, 0, "x-canary: always\nx-canary: always", false),
        ] {
            let text = format!("{header:?} {cookie:?} {weight} {sent:?}");
            assert_eq!(check(header, cookie, weight, sent, 30), expect, "{text}");
        }
    }
}
