//! Which requests the Ingress's rules take, and under which path they go on.

use std::sync::Arc;

use super::alias;
use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::{
    Compat, HostPattern, RewriteTarget, RoutePolicy, Template, TemplatePart, Variable, WorkerPool,
};

/// What annotations say about hosts and paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Matching {
    pub(super) regex: bool,
    pub(super) rewrite: Option<RewriteTarget>,
    pub(super) aliases: Vec<HostPattern>,
    pub(super) passthrough: bool,
    pub(super) worker_pool: Option<Arc<str>>,
    pub(super) trailing_slash_redirect: bool,
}

impl Matching {
    /// What applies without annotations.
    pub(super) fn new(compat: Compat) -> Self {
        Self { trailing_slash_redirect: compat == Compat::IngressNginx, ..Self::default() }
    }
}

/// Reads `use-regex`, `rewrite-target`, `x-forwarded-prefix`, `server-alias`, `ssl-passthrough` and
/// `worker-pool`.
pub(super) fn read(reader: &mut Reader<'_>, compat: Compat, policy: &mut RoutePolicy) -> Matching {
    // In doubt it is one: a regular expression taken for a path would leave requests to shorter paths.
    let regex = match reader.text("use-regex") {
        Some(_) => reader.get("use-regex", values::boolean).unwrap_or(true),
        None => false,
    };
    let rewrite = reader.get("rewrite-target", rewrite_target);
    policy.rewrite.clone_from(&rewrite);
    let rewrites = reader.text("rewrite-target").is_some();
    Matching {
        regex: regex || rewrites,
        rewrite,
        aliases: alias::aliases(reader),
        passthrough: reader.get("ssl-passthrough", values::boolean).unwrap_or_default(),
        worker_pool: reader.get("worker-pool", pool),
        ..Matching::new(compat)
    }
}

/// A path and perhaps a query, with captures of the rule's regular expression; or a URL, which ends
/// the request as a redirect.
pub(super) fn rewrite_target(text: &str) -> Read<RewriteTarget> {
    let no_path = || Bad::new("is no absolute path", "begin it with / or a capture like $1");
    if text.contains("://") {
        return values::url_with_captures(text).map(RewriteTarget::Captures);
    }
    let template = values::with_captures(text)?;
    if let Some(path) = template.as_literal().filter(|path| !path.contains('?')) {
        return values::path(path).map(RewriteTarget::Replace);
    }
    let rooted = template.0.iter().enumerate().all(|(at, part)| match part {
        TemplatePart::Text(text) if at == 0 && !text.starts_with('/') => false,
        TemplatePart::Text(text) => values::is_path(&format!("/{}", text.replace('?', ""))),
        TemplatePart::Variable(Variable::Capture(_) | Variable::Path) => true,
        TemplatePart::Variable(_) => at > 0,
    });
    if rooted { Ok(RewriteTarget::Captures(template)) } else { Err(no_path()) }
}

/// The name of a pool of workers, as `--worker-pool` takes it.
fn pool(text: &str) -> Read<Arc<str>> {
    let name = text.trim();
    if WorkerPool::is_name(name) {
        return Ok(name.into());
    }
    Err(Bad::new("is no name of a pool", "use a name that nodes are started with: --worker-pool NAME=N"))
}

/// What endpoints are told of the part of the path that `rewrite-target` took away.
pub(super) fn forwarded_prefix(reader: &mut Reader<'_>) -> Option<(Arc<str>, Template)> {
    let value = reader.get("x-forwarded-prefix", |text| match text.trim() {
        path if path.starts_with('/') => values::header_value(path),
        _ => Err(Bad::new("is no absolute path", "begin it with /")),
    })?;
    Some(("x-forwarded-prefix".into(), value))
}
