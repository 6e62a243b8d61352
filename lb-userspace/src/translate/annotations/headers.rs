//! Headers from ConfigMaps.

use std::collections::BTreeMap;

use super::access::within;
use super::reader::Reader;
use super::values::{self, Read};
use crate::model::{HeaderEdit, Hsts, ObjectKey, RoutePolicy};

/// Reads `custom-headers`: a ConfigMap with headers of answers.
pub(super) fn config_map(reader: &mut Reader<'_>, cross_namespace: bool) -> Option<ObjectKey> {
    let own = reader.key.namespace.clone();
    reader.get("custom-headers", |text| within(&own, text, cross_namespace))
}

/// The headers that a ConfigMap's entries set, and the keys of those that can't be.
pub(super) fn entries(data: &BTreeMap<String, String>) -> Vec<(&str, Read<HeaderEdit>)> {
    let edit = |name: &str, value: &str| {
        let (name, value) = (values::editable_header(name)?, values::header_value(value)?);
        Ok(HeaderEdit::Set { name, value, statuses: Vec::new() })
    };
    data.iter().map(|(name, value)| (name.as_str(), edit(name, value))).collect()
}

/// Reads what only a cluster's settings have: `hsts*` and `hide-headers`.
pub(super) fn settings(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    let before = policy.hsts;
    let on = reader.get("hsts", values::boolean).unwrap_or(before.is_some());
    let max_age = reader.get("hsts-max-age", values::number(0, u64::from(u32::MAX)));
    let subdomains = reader.get("hsts-include-subdomains", values::boolean);
    let preload = reader.get("hsts-preload", values::boolean);
    let base = before.unwrap_or(Hsts { max_age: 31_536_000, include_subdomains: true, preload: false });
    policy.hsts = on.then_some(Hsts {
        max_age: max_age.unwrap_or(base.max_age),
        include_subdomains: subdomains.unwrap_or(base.include_subdomains),
        preload: preload.unwrap_or(base.preload),
    });
    let hidden = |text: &str| values::list(text).map(values::editable_header).collect::<Read<Vec<_>>>();
    for name in reader.get("hide-headers", hidden).into_iter().flatten() {
        policy.response_headers.push(HeaderEdit::Remove { name });
    }
}
