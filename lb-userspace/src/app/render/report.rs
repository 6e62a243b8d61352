//! `sluice check` and `sluice doctor`: what is wrong, and with what.

use std::fmt::Write as _;

use super::{lines, plural, table};
use crate::app::admin::views::Issue;
use crate::app::check::Report as CheckReport;
use crate::app::doctor::{Finding, Level};

/// `sluice doctor`.
pub fn findings(findings: &[Finding]) -> String {
    let mut rows = table(&["", "AREA", "WHAT", "FOUND", "WHAT TO DO"]);
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        rows.add_row([level, &finding.area, &finding.what, &finding.found, &finding.remedy]);
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let end = match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("fit, with {}", plural(warnings, "warning")),
        (failures, _) => format!("not fit for XDP: {}", plural(failures, "failure")),
    };
    format!("{}\n{end}\n", lines(&rows))
}

/// `sluice check`.
pub fn report(report: &CheckReport) -> String {
    let mut text = String::new();
    if !report.issues.is_empty() {
        let _ = writeln!(text, "{}", issues(&report.issues));
    }
    let serving = &report.serving;
    if report.objects == 0 && report.issues.is_empty() {
        let _ = writeln!(
            text,
            "{}: no Kubernetes objects in it; Sluice would serve nothing yet",
            report.directory
        );
        return text;
    }
    let _ = writeln!(
        text,
        "{}: {} → {}, {}, {}, {}",
        report.directory,
        plural(report.objects, "object"),
        plural(serving.hosts, "host"),
        plural(serving.routes, "route"),
        plural(serving.endpoints, "endpoint"),
        plural(serving.certificates, "certificate")
    );
    let _ = writeln!(
        text,
        "{}, {}, {}",
        plural(report.errors, "error"),
        plural(report.warnings, "warning"),
        plural(report.notes, "note")
    );
    text
}

/// Issues under the object that they are about, by which they come sorted. What is wrong in the
/// same way in many places of an object (a Service of many paths that isn't there) is said once.
pub(super) fn issues(issues: &[Issue]) -> String {
    let mut text = String::new();
    for object in issues.chunk_by(|a, b| a.object == b.object) {
        let _ = writeln!(text, "{}", object[0].object);
        let same = |a: &Issue, b: &Issue| (&a.reason, &a.message) == (&b.reason, &b.message);
        for (at, issue) in object.iter().enumerate() {
            if object[..at].iter().any(|earlier| same(earlier, issue)) {
                continue;
            }
            let more = object[at + 1..].iter().filter(|later| same(later, issue)).count();
            let more =
                if more == 0 { String::new() } else { format!(" and {}", plural(more, "other place")) };
            let field =
                if issue.field.is_empty() { String::new() } else { format!("{}{more}: ", issue.field) };
            let _ = writeln!(text, "  {:<7} {:<22} {field}{}", issue.severity, issue.reason, issue.message);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(object: &str, field: &str, message: &str) -> Issue {
        Issue {
            severity: "error".to_owned(),
            object: object.to_owned(),
            reason: "missing-service".to_owned(),
            field: field.to_owned(),
            message: message.to_owned(),
        }
    }
    #[test]
    fn the_same_issue_in_many_places_is_said_once() {
        let text = issues(&[
            issue("Ingress d/a", "p[0]", "x is not there"),
            issue("Ingress d/a", "p[1]", "y is not there"),
            issue("Ingress d/a", "p[2]", "x is not there"),
            issue("Ingress d/a", "p[3]", "x is not there"),
            issue("Ingress d/b", "p[0]", "x is not there"),
        ]);
        let expect = [
            "Ingress d/a",
            "  error   missing-service        p[0] and 2 other places: x is not there",
            "  error   missing-service        p[1]: y is not there",
            "Ingress d/b",
            "  error   missing-service        p[0]: x is not there",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expect);
    }
}
