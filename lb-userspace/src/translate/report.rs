//! Issues: how they are made, ordered and bounded.

use std::cmp::{Ordering, Reverse};

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
        a.object
            .cmp(&b.object)
            .then_with(|| key(a).cmp(&key(b)))
            .then_with(|| a.reason.cmp(&b.reason))
            .then_with(|| by_number(&a.field, &b.field))
            .then_with(|| a.cmp(b))
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

/// As people count: `paths[9]` before `paths[10]`. Runs of digits are compared as numbers, all else
/// by bytes.
fn by_number(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        if !digits_a.is_empty() && !digits_b.is_empty() {
            let (short_a, short_b) = (without_zeros(digits_a), without_zeros(digits_b));
            let order = short_a.len().cmp(&short_b.len()).then_with(|| short_a.cmp(short_b));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[digits_a.len()..], &b[digits_b.len()..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest_a)), Some((y, rest_b))) if x == y => (a, b) = (rest_a, rest_b),
            _ => return a.cmp(b),
        }
    }
}

/// The digits that `text` starts with.
fn digits(text: &[u8]) -> &[u8] {
    &text[..text.iter().take_while(|byte| byte.is_ascii_digit()).count()]
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|byte| **byte == b'0').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_the_order_of_their_numbers() {
        for (a, b, expect) in [
            ("paths[9]", "paths[10]", Ordering::Less),
            ("rules[2].paths[10]", "rules[10].paths[9]", Ordering::Less),
            ("paths[10]", "paths[10].backend", Ordering::Less),
            ("a", "b", Ordering::Less),
            ("", "paths[0]", Ordering::Less),
            ("x007", "x7", Ordering::Equal),
            ("x99999999999999999999", "x100000000000000000000", Ordering::Less),
            ("x1", "xa", Ordering::Less),
        ] {
            assert_eq!(by_number(a, b), expect, "{a} {b}");
            assert_eq!(by_number(b, a), expect.reverse(), "{b} {a}");
        }
    }

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
