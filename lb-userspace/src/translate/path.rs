//! Paths of rules, read without looking at other Ingresses.

use std::sync::Arc;

use super::annotations::Annotations;
use super::ingress::Slot;
use crate::model::{Compat, PathMatch, Severity};
use crate::objects::{IngressPath, excerpt};
use crate::route::{Pattern, Target, normalise_rule, unmatchable};

/// `pathType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PathType {
    Exact,
    Prefix,
    Implementation,
}

/// A path as its rule writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RulePath {
    pub(super) path_type: PathType,
    pub(super) text: Arc<str>,
    /// It is a regular expression, whatever else the host has.
    pub(super) regex: bool,
}

/// What to close in place of a path that can't be served, so that its requests don't go to a
/// shorter path of an open Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    /// A prefix.
    pub(super) path: Arc<str>,
    /// Nothing but `/` was left of what was written. A single `/` might lose to an older one, so all
    /// of the host is closed as by a server-snippet.
    pub(super) host: bool,
}

/// What was read of a path.
pub(super) struct Read {
    /// `None`: nothing, not even to close.
    pub(super) slot: Option<Slot>,
    /// How bad, in which field of the path, and a sentence.
    pub(super) wrong: Option<(Severity, &'static str, String)>,
}

impl RulePath {
    /// `/` as a prefix.
    pub(super) fn everything() -> Self {
        Self { path_type: PathType::Prefix, text: "/".into(), regex: false }
    }

    /// How it is compared where it is no regular expression.
    pub(super) fn plain(&self) -> PathMatch {
        match self.path_type {
            PathType::Exact => PathMatch::Exact(self.text.clone()),
            PathType::Prefix | PathType::Implementation => PathMatch::Prefix(self.text.clone()),
        }
    }
}

/// Reads a rule's path.
pub(super) fn read(path: &IngressPath, compat: Compat, annotations: &Annotations) -> Read {
    let text = if path.path.is_empty() { "/" } else { &*path.path };
    let unservable = || closing(text).map(Slot::Unservable);
    let wrong = if !text.starts_with('/') {
        Some("does not begin with /")
    } else if path.path_type != "ImplementationSpecific" && never_requested(text) {
        Some("holds //, /./, /../ or %2f, which no request's path has")
    } else if text.len() > MAX_PATH {
        Some("is longer than 4096 bytes")
    } else if !requestable(text) {
        Some("holds a space, a # or a % without two digits, which no request's path has unescaped")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        let message = format!("{:?} {wrong}; this path is not served. Correct the path.", excerpt(text));
        return Read { slot: unservable(), wrong: Some((Severity::Error, "path", message)) };
    }
    let missing = "is missing, which the Kubernetes API refuses; read as ImplementationSpecific. Add it.";
    let (path_type, wrong) = match &*path.path_type {
        "Exact" => (PathType::Exact, None),
        "Prefix" => (PathType::Prefix, None),
        "ImplementationSpecific" => (PathType::Implementation, None),
        "" => (PathType::Implementation, Some((Severity::Warning, "pathType", missing.to_owned()))),
        other => {
            let message = format!(
                "{:?} is none of Exact, Prefix and ImplementationSpecific; this path is not served. \
                 Write one of them.",
                excerpt(other)
            );
            return Read { slot: unservable(), wrong: Some((Severity::Error, "pathType", message)) };
        }
    };
    if annotations.closed_by.is_some() && (annotations.regex || text.contains(REGEX)) {
        return Read { slot: unservable(), wrong };
    }
    // In Kubernetes' own behaviour only what says so is a regular expression: this path, of a type
    // that leaves it to the controller. A rewrite alone makes one of what looks like one.
    let regex = compat == Compat::Kubernetes
        && path_type == PathType::Implementation
        && annotations.regex
        && (annotations.rewrite.is_none() || text.contains(REGEX));
    Read { slot: Some(Slot::Path(RulePath { path_type, text: text.into(), regex })), wrong }
}

/// What to close in place of a path that can't be served as it is written. The path is read
/// generously, up to the last whole element before a regular expression begins. `None` for a path
/// that no request can have in any spelling.
pub(super) fn closing(text: &str) -> Option<Closing> {
    let mut path = format!("/{}", text.trim_start_matches(['/', '^']));
    if let Some(at) = path.find(REGEX) {
        // `/a(/|$)` is how ingress-nginx users write "a and all below".
        let whole = path[at..].starts_with("(/|$)");
        path.truncate(at);
        if !whole {
            path.truncate(path.rfind('/').map_or(0, |slash| slash + 1));
        }
    }
    if path.len() > MAX_PATH {
        let end = path.floor_char_boundary(MAX_PATH);
        path.truncate(path[..end].rfind('/').map_or(0, |slash| slash + 1));
    }
    let path = normalise_rule(&path.replace(' ', "%20").replace('#', "%23"));
    requestable(&path).then(|| Closing { host: path == "/" && text != "/", path: path.into() })
}

/// The pattern for exactly this text and all that begins with it, whatever the case.
pub(super) fn literal_pattern(text: &str) -> String {
    let trimmed = text.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(text);
    regex_syntax::escape(&normalise_rule(trimmed))
}

/// Why the text can't be a regular expression, with the remedy.
pub(super) fn compile(text: &str) -> Result<Arc<Pattern>, String> {
    let pattern = Pattern::new(text).map_err(|bad| {
        format!(
            "{:?} {bad}; this path is not served. Write one that RE2 understands, or split it into several paths.",
            excerpt(text)
        )
    })?;
    match unmatchable(text) {
        None => Ok(pattern),
        Some((never, instead)) => Err(format!(
            "{:?} asks for {never:?}, which requests' paths only have as {instead}: they are normalised before they \
             are compared; this path is not served. Write one with {instead}.",
            excerpt(text)
        )),
    }
}

/// Longer paths are not served. Looking up a request's path costs a step for each of its elements
/// up to the longest rule, so one rule must not make all requests slow.
const MAX_PATH: usize = 4096;

/// What hardly is in a path unless it is a regular expression.
const REGEX: [char; 10] = ['(', '[', '{', '*', '+', '?', '^', '$', '|', '\\'];

/// Whether a request can have this path, after both are normalised.
fn requestable(path: &str) -> bool {
    Target::parse(&normalise_rule(path)).is_ok()
}

/// What the API server refuses in Exact and Prefix paths: requests are normalised before they are
/// compared, so such a path never matches.
fn never_requested(path: &str) -> bool {
    ["//", "/./", "/../", "%2f", "%2F"].iter().any(|part| path.contains(part))
        || path.ends_with("/..")
        || path.ends_with("/.")
}
