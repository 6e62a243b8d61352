//! Headers from ConfigMaps.

use k8s_openapi::api::core::v1::ConfigMap;

use super::access::within;
use super::reader::Reader;
use super::values::{self, Read};
use crate::model::{HeaderEdit, Hsts, Issue, IssueReason, ObjectKey, RoutePolicy, Severity};
use crate::objects::excerpt;
use crate::translate::report::issue;

/// Reads `custom-headers`: a ConfigMap with headers of answers.
pub(super) fn config_map(reader: &mut Reader<'_>, cross_namespace: bool) -> Option<ObjectKey> {
    let own = reader.key.namespace.clone();
    reader.get("custom-headers", |text| within(&own, text, cross_namespace))
}

/// What the entries of a ConfigMap come to, each read by `read`. Those that can't be followed are said
/// and left out.
pub(in crate::translate) fn of_config_map<T>(
    key: &ObjectKey,
    map: &ConfigMap,
    read: impl Fn(&str, &str) -> Read<T>,
    issues: &mut Vec<Issue>,
) -> Vec<T> {
    let mut edits = Vec::new();
    for (header, value) in map.data.iter().flatten() {
        match read(header, value) {
            Ok(edit) => edits.push(edit),
            Err(bad) => issues.push(issue(
                Severity::Warning,
                IssueReason::InvalidField,
                "ConfigMap",
                key,
                format!("data[{}]", excerpt(header)),
                format!("{} and is ignored as a header; {}.", bad.is, bad.remedy),
            )),
        }
    }
    edits
}

/// A header that answers get.
pub(in crate::translate) fn for_clients(name: &str, value: &str) -> Read<HeaderEdit> {
    let (name, value) = (values::editable_header(name)?, values::header_value(value)?);
    Ok(HeaderEdit::Set { name, value, statuses: Vec::new() })
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
