//! Answers in the place of endpoints' answers.

use std::sync::Arc;

use super::reader::Reader;
use super::values::{self, Bad, Read};

/// Which answers are replaced, and by whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Errors {
    /// Sorted.
    pub(super) statuses: Vec<u16>,
    /// A Service of the Ingress's namespace.
    pub(super) backend: Option<Arc<str>>,
}

/// Reads `custom-http-errors`, `disable-proxy-intercept-errors` and `default-backend`.
pub(super) fn read(reader: &mut Reader<'_>, default: &[u16]) -> Errors {
    let own = reader.get("custom-http-errors", statuses);
    let off = reader.get("disable-proxy-intercept-errors", values::boolean).unwrap_or_default();
    let statuses = if off { Vec::new() } else { own.unwrap_or_else(|| default.to_vec()) };
    Errors { statuses, backend: reader.get("default-backend", service) }
}

/// Statuses that an endpoint may answer with, sorted.
pub(super) fn statuses(text: &str) -> Read<Vec<u16>> {
    let status = |text: &str| match text.parse() {
        Ok(status @ 300..=599) => Ok(status),
        _ => Err(Bad::new("is no list of statuses", "write numbers from 300 to 599 with commas between")),
    };
    let mut statuses = values::list(text).map(status).collect::<Read<Vec<u16>>>()?;
    statuses.sort_unstable();
    statuses.dedup();
    Ok(statuses)
}

fn service(text: &str) -> Read<Arc<str>> {
    let name = text.trim();
    if crate::objects::is_name(name) && name.len() <= 63 && !name.contains('.') {
        return Ok(name.into());
    }
    Err(Bad::new("is no Service's name", "name a Service of the Ingress's own namespace"))
}
