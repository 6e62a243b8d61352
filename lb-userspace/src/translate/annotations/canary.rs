//! Canaries: Ingresses whose rules take a share of others' requests.

use std::sync::Arc;

use super::balance::cookie_name;
use super::reader::Reader;
use super::values::{self, Bad};
use crate::model::{CanaryHeader, CanaryValue};

/// What makes an Ingress's rules canaries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::translate) struct CanaryRule {
    pub(in crate::translate) header: Option<CanaryHeader>,
    pub(in crate::translate) cookie: Option<Arc<str>>,
    pub(in crate::translate) weight: u32,
    pub(in crate::translate) weight_total: u32,
}

/// Reads `canary` and `canary-*`.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<CanaryRule> {
    let on = reader.get("canary", values::boolean).unwrap_or_default();
    let total = reader.get("canary-weight-total", values::number(1, u32::MAX.into())).unwrap_or(100);
    let weight = reader.get("canary-weight", |text| {
        let weight = values::number(0, total)(text);
        weight.map_err(|_| Bad::new("is no weight", format!("write a number from 0 to {total}")))
    });
    let rule = CanaryRule {
        header: header(reader),
        cookie: reader.get("canary-by-cookie", cookie_name),
        weight: u32::try_from(weight.unwrap_or_default()).unwrap_or(u32::MAX),
        weight_total: u32::try_from(total).unwrap_or(u32::MAX),
    };
    on.then_some(rule)
}

fn header(reader: &mut Reader<'_>) -> Option<CanaryHeader> {
    let name = reader.get("canary-by-header", values::header_name);
    let exact =
        reader.get("canary-by-header-value", |text| match text.bytes().any(|b| b.is_ascii_control()) {
            false => Ok(text),
            true => Err(Bad::new("holds control characters", "remove them")),
        });
    let wanted = reader.text("canary-by-header-pattern");
    let pattern = reader.get("canary-by-header-pattern", values::pattern);
    let value = match (exact, wanted, pattern) {
        (Some(value), ..) => CanaryValue::Exact(value.into()),
        (None, _, Some(pattern)) => CanaryValue::Pattern(pattern),
        // Never matches, as in ingress-nginx; `always` and `never` were not asked for.
        (None, Some(_), None) => return None,
        (None, None, None) => CanaryValue::AlwaysOrNever,
    };
    name.map(|name| CanaryHeader { name, value })
}
