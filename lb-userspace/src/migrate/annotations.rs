//! What becomes of each annotation of each Ingress.

use std::collections::BTreeMap;

use super::{AnnotationUse, Nginx, PREFIX, Study, Verdict};
use crate::model::{Issue, IssueReason, ObjectKey, Severity};
use crate::objects::excerpt;
use crate::translate::annotations::Support;

/// Unknown to ingress-nginx as well, so that nothing changes; most are misspelt.
const UNKNOWN: &str = "ingress-nginx has no such annotation; correct its name or remove it.";

/// One entry for each annotation of ingress-nginx on the Ingresses that it serves.
pub(super) fn uses(study: &Study<'_>, nginx: &Nginx) -> Vec<AnnotationUse> {
    let said = said_of_values(study);
    let mut uses = Vec::new();
    for (key, ingress) in nginx.ingresses() {
        let ingress_name = key.to_string();
        for (full, value) in ingress.metadata.annotations.iter() {
            let Some(name) = full.strip_prefix(PREFIX) else { continue };
            let (mut verdict, mut note) = of_the_name(study, name);
            let field = format!("metadata.annotations[{}]", excerpt(full));
            if let Some(issue) = said.get(&(key, field.as_str())) {
                let of_value = of_the_value(issue);
                // Of what is ignored for good, or unknown, no value is worse than another; but any
                // annotation may close a route.
                let settled = matches!(verdict, Verdict::Ignored | Verdict::Unknown);
                if of_value < verdict && (!settled || of_value == Verdict::Closed) {
                    (verdict, note) = (of_value, issue.message.clone());
                }
            }
            uses.push(AnnotationUse {
                ingress: ingress_name.clone(),
                annotation: excerpt(name).into_owned(),
                value: excerpt(value).into_owned(),
                verdict,
                note,
            });
        }
    }
    uses.sort_by(|a, b| (&a.ingress, &a.annotation).cmp(&(&b.ingress, &b.annotation)));
    uses
}

fn of_the_name(study: &Study<'_>, name: &str) -> (Verdict, String) {
    let Some(entry) = study.catalogue.iter().find(|entry| entry.name == name) else {
        return (Verdict::Unknown, UNKNOWN.to_owned());
    };
    match entry.support {
        Support::Full => (Verdict::Supported, String::new()),
        Support::Differs(note) => (Verdict::Differs, note.to_owned()),
        Support::Ignored(note) => (Verdict::Ignored, note.to_owned()),
        Support::Refused(note) => (Verdict::Refused, note.to_owned()),
        // Whether this very value closes anything is the parser's to say.
        Support::Closes(note) => (Verdict::Refused, note.to_owned()),
    }
}

/// What the parser said of annotations' values, by Ingress and field; the worst where it said more.
fn said_of_values<'a>(study: &Study<'a>) -> BTreeMap<(&'a ObjectKey, &'a str), &'a Issue> {
    let mut said: BTreeMap<(&ObjectKey, &str), &Issue> = BTreeMap::new();
    for issue in study.ingress_nginx.issues.iter() {
        if issue.object.kind == "Ingress" && issue.field.starts_with("metadata.annotations[") {
            let worst = said.entry((&issue.object.key, issue.field.as_str())).or_insert(issue);
            if issue.severity > worst.severity {
                *worst = issue;
            }
        }
    }
    said
}

fn of_the_value(issue: &Issue) -> Verdict {
    match (issue.severity, issue.reason) {
        (Severity::Error, _) => Verdict::Closed,
        (Severity::Warning, IssueReason::UnsupportedAnnotation | IssueReason::InvalidAnnotation) => {
            Verdict::Refused
        }
        _ => Verdict::Differs,
    }
}
