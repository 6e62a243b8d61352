//! Copies of requests.

use std::sync::Arc;

use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::Mirror;

/// Reads `mirror-*`.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Arc<Mirror>> {
    let target = reader.get("mirror-target", values::url);
    let host = reader.get("mirror-host", host);
    let body = reader.get("mirror-request-body", values::on_off).unwrap_or(true);
    target.map(|target| Arc::new(Mirror { target, host, body }))
}

/// What may stand in `Host`.
fn host(text: &str) -> Read<Arc<str>> {
    let host = text.trim();
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if (1..=260).contains(&host.len()) && host.bytes().all(letter) {
        return Ok(host.to_ascii_lowercase().into());
    }
    Err(Bad::new("is no host", "write a DNS name, and a port if it needs one"))
}
