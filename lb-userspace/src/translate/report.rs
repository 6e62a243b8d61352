//! Issues: how they are made, ordered and bounded.

use std::cmp::Reverse;

use crate::model::{Issue, IssueReason, ObjectKey, ObjectRef, Severity};

/// How many issues of one object are listed. An Ingress of 10,000 rules can have as many; nobody
/// reads them all, and every snapshot holds them.
const MAX_PER_OBJECT: usize = 100;

/// An issue of an object of this kind.
pub(super) fn issue(
    severity: Severity,
    reason: IssueReason,
    kind: &'static str,
    key: &ObjectKey,
    field: impl Into<String>,
    message: impl Into<String>,
) -> Issue {
    let object = ObjectRef { kind, key: key.clone() };
    Issue { severity, object, reason, field: field.into(), message: message.into() }
}

/// Sorted by object, the worst first; without duplicates; at most [`MAX_PER_OBJECT`] of each
/// object and one that counts the rest.
pub(super) fn finish(mut issues: Vec<Issue>) -> Vec<Issue> {
    issues.sort_unstable_by(|a, b| {
        let key = |issue: &Issue| Reverse(issue.severity);
        a.object.cmp(&b.object).then_with(|| key(a).cmp(&key(b))).then_with(|| a.cmp(b))
    });
    issues.dedup();
    let mut kept = Vec::with_capacity(issues.len());
    for same in issues.chunk_by(|a, b| a.object == b.object) {
        let (listed, rest) = same.split_at(same.len().min(MAX_PER_OBJECT));
        kept.extend_from_slice(listed);
        if let Some(worst) = rest.first() {
            kept.push(Issue {
                field: String::new(),
                message: format!(
                    "{} more issues of this object are not listed; correct those above first.",
                    rest.len()
                ),
                ..worst.clone()
            });
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_in_order() {
        let key = ObjectKey::new("default", "web");
        let one = |severity, n: usize| {
            issue(severity, IssueReason::InvalidField, "Ingress", &key, format!("f{n:04}"), "wrong")
        };
        let mut issues: Vec<_> = (0..500).map(|n| one(Severity::Warning, n)).collect();
        issues.push(one(Severity::Error, 900));
        issues.push(one(Severity::Error, 900));
        let done = finish(issues);
        assert_eq!(done.len(), MAX_PER_OBJECT + 1);
        assert_eq!((done[0].severity, done[0].field.as_str()), (Severity::Error, "f0900"));
        assert!(done[MAX_PER_OBJECT].message.starts_with("401 more"), "{}", done[MAX_PER_OBJECT].message);
    }
}
