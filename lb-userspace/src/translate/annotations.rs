//! Annotations of ingress-nginx, read into types.
//!
//! What can't be followed is said and left out, unless leaving it out would open what it closes:
//! then the Ingress's routes answer 503.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::report::issue;
use crate::model::{Compat, Issue, IssueReason, ObjectKey, RewriteTarget, Severity};
use crate::objects::excerpt;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Annotations that restrict who gets in. Every name that starts like one of these.
const CLOSING: [&str; 4] =
    ["auth-", "whitelist-source-range", "allowlist-source-range", "denylist-source-range"];

/// When plain requests are sent to https.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Never,
    /// Where an Ingress has TLS for the host.
    WithTls,
    Always,
}

/// What an Ingress's annotations ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) redirect: Redirect,
    pub(super) rewrite: Option<RewriteTarget>,
    /// An annotation that closes access and can't be followed.
    pub(super) closed_by: Option<Arc<str>>,
}

impl Annotations {
    pub(super) fn read(
        key: &ObjectKey,
        annotations: Option<&BTreeMap<String, String>>,
        compat: Compat,
        issues: &mut Vec<Issue>,
    ) -> Self {
        let (mut ssl, mut force, mut rewrite, mut closed_by) = (None, None, None, None);
        for (full, value) in annotations.into_iter().flatten() {
            let Some(name) = full.strip_prefix(PREFIX) else { continue };
            let full = excerpt(full);
            let mut say = |severity, reason, message: String| {
                let field = format!("metadata.annotations[{full}]");
                issues.push(issue(severity, reason, "Ingress", key, field, message));
            };
            match name {
                "ssl-redirect" | "force-ssl-redirect" => match parse_bool(value) {
                    Some(on) if name == "ssl-redirect" => ssl = Some(on),
                    Some(on) => force = Some(on),
                    None => say(
                        Severity::Warning,
                        IssueReason::InvalidAnnotation,
                        format!(
                            "{:?} is neither true nor false and is ignored; write one of them.",
                            excerpt(value)
                        ),
                    ),
                },
                "rewrite-target" if value.is_empty() => {}
                "rewrite-target" if value.contains('$') => say(
                    Severity::Warning,
                    IssueReason::UnsupportedAnnotation,
                    format!(
                        "{:?} uses captures, which are not supported yet; the path is not rewritten. \
                         Use a target without $.",
                        excerpt(value)
                    ),
                ),
                "rewrite-target" if !is_path(value) => say(
                    Severity::Warning,
                    IssueReason::InvalidAnnotation,
                    format!("{:?} is no absolute path and is ignored; begin it with /.", excerpt(value)),
                ),
                "rewrite-target" => rewrite = Some(RewriteTarget::Replace(value.as_str().into())),
                _ if CLOSING.iter().any(|closing| name.starts_with(closing)) => {
                    closed_by.get_or_insert_with(|| Arc::from(&*full));
                    say(
                        Severity::Error,
                        IssueReason::UnsupportedAnnotation,
                        "restricts access in a way that is not supported yet; the routes of this Ingress answer \
                         503 rather than let everyone in. Remove the annotation if they may be open."
                            .into(),
                    );
                }
                _ => say(
                    Severity::Warning,
                    IssueReason::UnsupportedAnnotation,
                    "is not supported and is ignored; remove it if nothing depends on it.".into(),
                ),
            }
        }
        let redirect = match (force, ssl, compat) {
            (Some(true), ..) => Redirect::Always,
            (_, Some(true), _) | (_, None, Compat::IngressNginx) => Redirect::WithTls,
            _ => Redirect::Never,
        };
        Self { redirect, rewrite, closed_by }
    }
}

/// As ingress-nginx reads booleans (Go's `strconv.ParseBool`).
fn parse_bool(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A path that can stand in a request line as it is.
fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= 4096
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
}
