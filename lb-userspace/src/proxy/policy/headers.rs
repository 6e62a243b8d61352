//! Edits of header sections, on the way to the endpoint and on the way back.

use http::StatusCode;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY};
use smallvec::SmallVec;

use super::facts::Facts;
use crate::model::{HeaderEdit, Hsts, Template};
use crate::proxy::forwarded::dashed;
use crate::proxy::headers::is_of_connection;

/// What is changed in the head of one request on its way to the endpoint.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Edits {
    dropped: SmallVec<[HeaderName; 4]>,
    lines: Vec<(HeaderName, HeaderValue)>,
    host: Option<HeaderValue>,
}

impl Edits {
    /// Headers of this name come neither from the client nor from the proxy; nor do those that stand in
    /// for them, to readers who take underscores for dashes.
    pub(in crate::proxy) fn drops(&self, name: &str) -> bool {
        let is_dropped = |name: &str| self.dropped.iter().any(|dropped| dropped.as_str() == name);
        !self.dropped.is_empty() && (is_dropped(name) || dashed(name).is_some_and(|name| is_dropped(&name)))
    }

    /// What is written besides.
    pub(in crate::proxy) fn lines(&self) -> &[(HeaderName, HeaderValue)] {
        &self.lines
    }

    /// `Host`, if it is not the client's.
    pub(in crate::proxy) fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    pub(super) fn remove(&mut self, name: &HeaderName) {
        self.lines.retain(|(have, _)| have != name);
        if !self.dropped.contains(name) {
            self.dropped.push(name.clone());
        }
    }

    /// The header has this value and no other.
    pub(in crate::proxy) fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        if *name == HOST {
            self.host = Some(value);
            return;
        }
        self.remove(name);
        self.lines.push((name.clone(), value));
    }

    /// Edits a section as a whole.
    pub(in crate::proxy) fn apply(self, headers: &mut HeaderMap) {
        let dropped = headers.keys().filter(|name| self.drops(name.as_str()));
        for name in dropped.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
        if let Some(host) = self.host {
            headers.insert(HOST, host);
        }
        for (name, value) in self.lines {
            headers.append(name, value);
        }
    }

    /// One more of the name.
    pub(super) fn add(&mut self, name: &HeaderName, value: HeaderValue) {
        if *name != HOST {
            self.lines.push((name.clone(), value));
        }
    }
}

/// Edits of a policy, with names that were read once.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    name: HeaderName,
    action: Action,
    /// Empty: all.
    statuses: Vec<u16>,
}

#[derive(Debug)]
enum Action {
    Set(Value),
    Add(Value),
    Remove,
}

/// A value that was made once, where that is possible.
#[derive(Debug)]
enum Value {
    /// `None`: it is empty.
    Fixed(Option<HeaderValue>),
    Template(Template),
}

impl Value {
    fn new(template: &Template) -> Self {
        match template.as_literal() {
            Some(text) => Self::Fixed(HeaderValue::from_str(text).ok().filter(|value| !value.is_empty())),
            None => Self::Template(template.clone()),
        }
    }

    fn fill(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Template(template) => facts.fill_header(template),
        }
    }
}

impl Rules {
    /// Edits of what frames a message or belongs to one connection are left out: they would let one
    /// message be read as two.
    pub(super) fn new(edits: &[HeaderEdit]) -> Self {
        let rule = |edit: &HeaderEdit| {
            let (name, action, statuses) = match edit {
                HeaderEdit::Set { name, value, statuses } => {
                    (name, Action::Set(Value::new(value)), statuses.clone())
                }
                HeaderEdit::Add { name, value, statuses } => {
                    (name, Action::Add(Value::new(value)), statuses.clone())
                }
                HeaderEdit::Remove { name } => (name, Action::Remove, Vec::new()),
            };
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !is_of_connection(name))?;
            Some(Rule { name, action, statuses })
        };
        Self(edits.iter().filter_map(rule).collect())
    }

    pub(super) fn edit_request(&self, facts: &Facts<'_>, edits: &mut Edits) {
        for Rule { name, action, .. } in &self.0 {
            match action {
                Action::Set(value) => match value.fill(facts) {
                    Some(value) => edits.set(name, value),
                    None => edits.remove(name),
                },
                Action::Add(value) => {
                    if let Some(value) = value.fill(facts) {
                        edits.add(name, value);
                    }
                }
                Action::Remove => edits.remove(name),
            }
        }
    }

    pub(super) fn edit_response(&self, facts: &Facts<'_>, status: StatusCode, headers: &mut HeaderMap) {
        for Rule { name, action, statuses } in &self.0 {
            if !statuses.is_empty() && !statuses.contains(&status.as_u16()) {
                continue;
            }
            match action {
                Action::Set(value) => match value.fill(facts) {
                    Some(value) => drop(headers.insert(name, value)),
                    None => drop(headers.remove(name)),
                },
                Action::Add(value) => {
                    if let Some(value) = value.fill(facts) {
                        headers.append(name, value);
                    }
                }
                Action::Remove => drop(headers.remove(name)),
            }
        }
    }
}

/// `Strict-Transport-Security` as it is sent.
pub(super) fn hsts(rules: &Hsts) -> (HeaderName, HeaderValue) {
    let mut text = format!("max-age={}", rules.max_age);
    if rules.include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if rules.preload {
        text.push_str("; preload");
    }
    let value = HeaderValue::try_from(text).expect("digits and ASCII words are a header's value");
    (STRICT_TRANSPORT_SECURITY, value)
}
