//! How often and how much each client may.

use super::reader::Reader;
use super::values;
use crate::model::{RateLimits, RoutePolicy};

/// How many times the rate may come at once, unless said otherwise.
const BURST: u32 = 5;

/// Reads `limit-*`. Zero is no limit, everywhere.
pub(super) fn read(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    let exempt = reader.either("limit-allowlist", "limit-whitelist");
    let some = |limit: Option<u32>| limit.filter(|limit| *limit > 0);
    let per_second = some(reader.get("limit-rps", values::count));
    let per_minute = some(reader.get("limit-rpm", values::count));
    let burst = some(reader.get("limit-burst-multiplier", values::count)).unwrap_or(BURST);
    let connections = some(reader.get("limit-connections", values::count));
    let exempt = reader.get(exempt, values::networks);
    bandwidth(reader, policy);
    let limited = per_second.or(per_minute).is_some();
    let limits = &mut policy.limits;
    *limits = RateLimits {
        per_second,
        per_minute,
        burst: if limited { burst } else { 0 },
        connections,
        exempt: exempt.filter(|_| limited || connections.is_some() || limits.bytes_per_second.is_some()),
        ..limits.clone()
    };
}

/// Reads what of it a cluster's settings have, and the status of what is too much.
pub(super) fn settings(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    bandwidth(reader, policy);
    let status = values::number(400, 599);
    for name in ["limit-conn-status-code", "limit-req-status-code"] {
        if let Some(code) = reader.get(name, &status).and_then(|code| u16::try_from(code).ok()) {
            policy.limits.status = code;
        }
    }
}

/// Bytes each second; written in kilobytes.
fn bandwidth(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    let kilobytes = |number: u32| u64::from(number) << 10;
    if let Some(rate) = reader.get("limit-rate", values::count) {
        policy.limits.bytes_per_second = Some(kilobytes(rate)).filter(|rate| *rate > 0);
    }
    if let Some(after) = reader.get("limit-rate-after", values::count) {
        policy.limits.bytes_free = kilobytes(after);
    }
}
