//! Snippets of nginx's configuration: never passed on, but understood as far as they say what a policy
//! can hold. What restricts access and is not understood closes the routes.

mod closing;
mod edit;
mod networks;
mod rewrite;
mod syntax;

use std::collections::BTreeSet;

use super::reader::Reader;
use super::values::{Bad, Read};
use crate::model::{HeaderEdit, RoutePolicy};
use crate::objects::excerpt;

use edit::{Edit, Understood};
pub(super) use syntax::{Directive, parse};

/// For whom a snippet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The Ingress's own routes (`configuration-snippet`).
    Routes,
    /// All routes of its hosts (`server-snippet`). What ingress-nginx writes for every location
    /// itself has no effect here.
    Hosts,
}

/// What a snippet changes in the policies of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::translate) struct Edits(Vec<Edit>);

impl Edits {
    /// Changes a policy as the snippet says.
    pub(in crate::translate) fn apply(&self, policy: &mut RoutePolicy) {
        self.0.iter().for_each(|edit| edit.apply(policy));
    }
}

/// Reads a snippet; what it holds that is not understood is said, once for each directive.
pub(super) fn read(reader: &mut Reader<'_>, name: &str, scope: Scope, allowed: bool) -> Edits {
    let Some(text) = reader.text(name) else { return Edits::default() };
    if !allowed {
        if closing::in_text(text) {
            reader.close(name, "restricts access, and snippets are off in the settings", REMEDY);
        } else {
            reader.unsupported(name, "is not followed: snippets are off in the settings. Use annotations.");
        }
        return Edits::default();
    }
    let directives = match parse(text) {
        Ok(directives) => directives,
        Err(error) if closing::in_text(text) => {
            reader.close(name, format_args!("can't be read ({error}) and restricts access"), REMEDY);
            return Edits::default();
        }
        Err(error) => {
            reader.unsupported(name, format!("can't be read ({error}) and is ignored. Correct it."));
            return Edits::default();
        }
    };
    let mut edits = Vec::new();
    let mut said = BTreeSet::new();
    let mut lists = Vec::new();
    for directive in &directives {
        match edit::understand(directive, scope) {
            Understood::Edits(found) => edits.extend(found),
            Understood::Network(rule) => lists.push(rule),
            Understood::Needless => {}
            Understood::Bad(bad) if closing::is(directive) => close(reader, name, directive, &bad),
            Understood::Bad(bad) => {
                let message =
                    format!("{} {} and is ignored; {}.", excerpt(directive.name()), bad.is, bad.remedy);
                if said.insert(message.clone()) {
                    reader.unsupported(name, message);
                }
            }
            Understood::Nothing if closing::is(directive) => {
                close(
                    reader,
                    name,
                    directive,
                    &Bad::new("restricts access in a way that is not supported", ""),
                );
            }
            Understood::Nothing => {
                let message = format!(
                    "{} is not supported and is ignored; remove it if nothing depends on it.",
                    excerpt(directive.name())
                );
                if said.insert(message.clone()) {
                    reader.unsupported(name, message);
                }
            }
        }
    }
    if !lists.is_empty() {
        match networks::networks(&lists) {
            Some(networks) => edits.push(Edit::Networks(networks)),
            None => reader.close(
                name,
                "denies a part of a network that it allowed before",
                "Put deny before allow, or use allowlist-source-range and denylist-source-range.",
            ),
        }
    }
    Edits(edits)
}

const REMEDY: &str = "Use annotations for it, or remove it if the routes may be open.";

fn close(reader: &mut Reader<'_>, name: &str, directive: &Directive, bad: &Bad) {
    reader.close(name, format_args!("{} {}", excerpt(directive.name()), bad.is), REMEDY);
}

/// `proxy_set_header`, if the directive is one.
pub(super) fn request_header(directive: &Directive) -> Option<Read<HeaderEdit>> {
    (directive.name() == "proxy_set_header").then(|| edit::set_header(directive.arguments()))
}

/// What an entry of `proxy-set-headers` changes, which means what the directive proxy_set_header does.
pub(in crate::translate) fn endpoint_header(name: &str, value: &str) -> Read<Edits> {
    match edit::request_edit(&[name.into(), value.into()]) {
        Understood::Edits(edits) => Ok(Edits(edits)),
        Understood::Bad(bad) => Err(bad),
        _ => Ok(Edits::default()),
    }
}

/// Rules of a firewall that is not there. Detection alone costs nobody anything when it is left out.
pub(super) fn modsecurity(reader: &mut Reader<'_>) {
    let name = "modsecurity-snippet";
    let Some(text) = reader.text(name) else { return };
    let text = text.to_ascii_lowercase();
    let blocks = ["deny", "drop", "block", "redirect", "secruleengine on"];
    let words = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    if blocks.iter().any(|action| words.contains(action)) {
        reader.close(name, "holds rules that block requests, which are not supported", REMEDY);
    } else {
        reader.unsupported(name, "is ignored: there is no web application firewall.");
    }
}
