//! Where requests are sent instead.

use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::{self, RoutePolicy};

/// When plain requests are sent to https.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::translate) enum Redirect {
    #[default]
    Never,
    /// Where an Ingress has TLS for the host.
    WithTls,
    Always,
}

/// Reads `ssl-redirect` and `force-ssl-redirect`, of annotations as of settings.
pub(super) fn to_https(reader: &mut Reader<'_>, default: Redirect) -> Redirect {
    let ssl = reader.get("ssl-redirect", values::boolean);
    let force = reader.get("force-ssl-redirect", values::boolean);
    match (force, ssl, default) {
        (Some(true), ..) | (None, _, Redirect::Always) => Redirect::Always,
        (_, Some(true), _) | (_, None, Redirect::WithTls | Redirect::Always) => Redirect::WithTls,
        (_, Some(false), _) | (_, None, Redirect::Never) => Redirect::Never,
    }
}

/// Reads `permanent-redirect`, `temporal-redirect` and `app-root`.
pub(super) fn read(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    let permanent = reader.get("permanent-redirect", values::url);
    let permanent_code = reader.get("permanent-redirect-code", status);
    let temporal = reader.get("temporal-redirect", values::url);
    let temporal_code = reader.get("temporal-redirect-code", status);
    let redirect = match (temporal, permanent) {
        (Some(to), _) => Some(model::Redirect { status: temporal_code.unwrap_or(302), to }),
        (None, Some(to)) => Some(model::Redirect { status: permanent_code.unwrap_or(301), to }),
        (None, None) => None,
    };
    policy.redirect = redirect.or_else(|| policy.redirect.take());
    if let Some(root) = reader.get("app-root", app_root) {
        policy.app_root = Some(root);
    }
}

fn app_root(text: &str) -> Read<std::sync::Arc<str>> {
    match text.split_once('?') {
        // A query may hold what a path may, and question marks.
        Some((path, query))
            if values::is_path(path) && values::is_path(&format!("/{}", query.replace('?', ""))) =>
        {
            Ok(text.into())
        }
        Some(_) => Err(Bad::new("is no absolute path", "begin it with /")),
        None if text == "/" => Err(Bad::new("leads to itself", "name another path")),
        None => values::path(text),
    }
}

/// A status that sends a client elsewhere.
pub(super) fn status(text: &str) -> Read<u16> {
    match text.trim().parse() {
        Ok(status @ (300..=303 | 307 | 308)) => Ok(status),
        _ => Err(Bad::new("is no status that redirects", "write 301, 302, 303, 307 or 308")),
    }
}
