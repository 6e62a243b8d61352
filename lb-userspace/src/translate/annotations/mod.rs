//! Annotations of ingress-nginx, read into types.
//!
//! What can't be followed is said and left out, unless leaving it out would open what it closes:
//! then the Ingress's routes answer 503. What ingress-nginx applies to a whole server block (a
//! server-snippet, client certificates) closes the routes of other Ingresses on the same host too,
//! if they are of the same namespace: their owner may count on it, and nobody can close the hosts
//! of another namespace.

mod catalogue;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::report::issue;
use crate::model::{
    CanaryHeader, Compat, HostPattern, Issue, IssueReason, ObjectKey, RewriteTarget, RoutePolicy, Severity,
};
use crate::objects::{Objects, excerpt};

pub use catalogue::{CATALOGUE, Entry, Support, entry};

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Annotations that restrict who gets in. Every name that starts like one of these.
const CLOSING: [&str; 4] =
    ["auth-", "whitelist-source-range", "allowlist-source-range", "denylist-source-range"];

/// Of those, what ingress-nginx applies to all of a host.
const CLOSING_HOSTS: [&str; 2] = ["auth-tls-secret", "server-snippet"];

/// What a directive in a snippet begins with if it decides who gets in. `include` may hold any of
/// them.
const CLOSING_DIRECTIVES: [&str; 12] = [
    "access_by_lua",
    "allow",
    "auth",
    "deny",
    "include",
    "internal",
    "limit_except",
    "rewrite_by_lua",
    "satisfy",
    "secure_link",
    "ssl_verify_client",
    "valid_referers",
];

/// When plain requests are sent to https.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Redirect {
    #[default]
    Never,
    /// Where an Ingress has TLS for the host.
    WithTls,
    Always,
}

/// What an Ingress's annotations ask for, read without looking at any other object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) redirect: Redirect,
    /// Captures only make sense with `regex`.
    pub(super) rewrite: Option<RewriteTarget>,
    /// An annotation that closes access and can't be followed.
    pub(super) closed_by: Option<Arc<str>>,
    /// The same for all routes of its hosts, other Ingresses' included.
    pub(super) closes_hosts: Option<Arc<str>>,
    /// Paths are regular expressions (`use-regex`, or implied by `rewrite-target`). In ingress-nginx, so
    /// are then the paths of all other Ingresses on the same hosts.
    pub(super) regex: bool,
    /// More hosts for each rule that has one (`server-alias`).
    pub(super) aliases: Vec<HostPattern>,
    /// `www.x` is sent to `x`, or `x` to `www.x`, whichever has no rules (`from-to-www-redirect`).
    pub(super) www_redirect: bool,
    /// The Ingress's rules are canaries of other Ingresses' rules.
    pub(super) canary: Option<CanaryRule>,
    /// Connections for the Ingress's hosts go to its backends as they are (`ssl-passthrough`).
    pub(super) passthrough: bool,
    /// Requests go to ClusterIPs (`service-upstream`).
    pub(super) service_upstream: bool,
    /// Statuses whose answers come from `default_backend` (`custom-http-errors`), sorted.
    pub(super) error_statuses: Vec<u16>,
    /// A Service of the Ingress's namespace (`default-backend`): takes requests while a backend has no
    /// endpoint, and gives error pages.
    pub(super) default_backend: Option<Arc<str>>,
    /// `trailing slash`: `/foo` is sent to `/foo/` where only the latter has a rule, as nginx does.
    pub(super) trailing_slash_redirect: bool,
}

/// What makes an Ingress's rules canaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CanaryRule {
    pub(super) header: Option<CanaryHeader>,
    pub(super) cookie: Option<Arc<str>>,
    pub(super) weight: u32,
    pub(super) weight_total: u32,
}

impl Annotations {
    pub(super) fn read(
        key: &ObjectKey,
        annotations: Option<&BTreeMap<String, String>>,
        compat: Compat,
        issues: &mut Vec<Issue>,
    ) -> Self {
        let (mut ssl, mut force, mut rewrite) = (None, None, None);
        let (mut closed_by, mut closes_hosts, mut regex): (Option<Arc<str>>, Option<Arc<str>>, _) =
            (None, None, false);
        for (full, value) in annotations.into_iter().flatten() {
            let Some(name) = full.strip_prefix(PREFIX) else { continue };
            let full = excerpt(full);
            let mut say = |severity, reason, message: String| {
                let field = format!("metadata.annotations[{full}]");
                issues.push(issue(severity, reason, "Ingress", key, field, message));
            };
            regex |= match name {
                "use-regex" => parse_bool(value) != Some(false),
                "rewrite-target" => !value.is_empty(),
                _ => false,
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
                _ if CLOSING.iter().any(|closing| name.starts_with(closing))
                    || closing_snippet(name, value) =>
                {
                    let by = closed_by.get_or_insert_with(|| Arc::from(&*full));
                    if CLOSING_HOSTS.contains(&name) {
                        closes_hosts.get_or_insert_with(|| by.clone());
                    }
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
        Self { redirect, rewrite, closed_by, closes_hosts, regex, ..Self::default() }
    }

    /// What of it becomes the policy of the Ingress's routes. `objects` has the Secrets and ConfigMaps that
    /// annotations name; what is wrong with them is said in `issues`. Not in it: redirects to https, since
    /// they depend on the host, and error pages, which need a backend.
    pub(super) fn policy(&self, key: &ObjectKey, objects: &Objects, issues: &mut Vec<Issue>) -> RoutePolicy {
        let _ = (key, objects, issues);
        RoutePolicy { rewrite: self.rewrite.clone(), ..RoutePolicy::default() }
    }
}

/// Whether a snippet holds a directive that decides who gets in. Comments and quotes are not
/// understood: what looks like such a directive inside of them closes too.
fn closing_snippet(name: &str, value: &str) -> bool {
    if !name.ends_with("-snippet") {
        return false;
    }
    if name == "modsecurity-snippet" {
        return ["deny", "drop", "block"].iter().any(|action| value.contains(action));
    }
    value.split(['{', '}', ';', '\n', '\r']).any(|statement| {
        let mut words = statement.split_ascii_whitespace().map(|word| word.trim_matches(['"', '\'']));
        let directive = words.next().unwrap_or_default();
        match directive {
            // A status of refusal, or one that only nginx could work out.
            "return" => words.next().is_some_and(|status| status.starts_with(['4', '5', '$'])),
            _ => CLOSING_DIRECTIVES.iter().any(|closing| directive.starts_with(closing)),
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets_that_restrict_access() {
        for (name, value, expect) in [
            ("configuration-snippet", "deny all;", true),
            ("configuration-snippet", "add_header X-A 1; allow 10.0.0.0/8;", true),
            ("configuration-snippet", "if ($http_x != 1) { return 403; }", true),
            ("configuration-snippet", "if ($http_x != 1) {return 403;}", true),
            ("configuration-snippet", "return $status_of_map;", true),
            ("configuration-snippet", "\"deny\" all;", true),
            ("configuration-snippet", "# note\n\tdeny\tall;", true),
            ("configuration-snippet", "auth_basic \"x\";", true),
            ("configuration-snippet", "auth_request /check;", true),
            ("configuration-snippet", "location /x { satisfy any; }", true),
            ("configuration-snippet", "access_by_lua_block { ngx.exit(403) }", true),
            ("configuration-snippet", "include /etc/nginx/acl.conf;", true),
            ("server-snippet", "deny 192.0.2.0/24;", true),
            ("modsecurity-snippet", "SecRule REMOTE_ADDR \"@ipMatch 192.0.2.1\" \"id:1,deny\"", true),
            ("modsecurity-snippet", "SecRuleEngine DetectionOnly", false),
            ("configuration-snippet", "more_set_headers \"Access-Control-Allow-Origin: *\";", false),
            ("configuration-snippet", "add_header Allow GET;", false),
            ("configuration-snippet", "return 301 https://example.com;", false),
            ("configuration-snippet", "# deny all;", false),
            ("configuration-snippet", "", false),
            ("proxy-body-size", "deny all;", false),
        ] {
            assert_eq!(closing_snippet(name, value), expect, "{name}: {value}");
        }
    }
}
