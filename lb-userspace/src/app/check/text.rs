//! The migration report for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::app::render::plural;
use crate::migrate::{AnnotationUse, Changes, Kind, Migration, Place, Surprise, Verdict};

use super::Report;

/// How many Ingresses, hosts or paths a line names; `-o json` has them all.
const NAMED: usize = 4;

/// The report's part about the move from ingress-nginx; empty if there is none.
pub fn migration(report: &Report) -> String {
    let Some(migration) = &report.migration else { return String::new() };
    let mut text = String::new();
    let ingresses: BTreeSet<_> = migration.annotations.iter().map(|one| &one.ingress).collect();
    let _ = writeln!(
        text,
        "\nFrom ingress-nginx: {} on {}",
        plural(migration.annotations.len(), "annotation"),
        plural(ingresses.len(), "Ingress")
    );
    if !report.adopted.is_empty() {
        let _ = writeln!(text, "  served as with --adopt-class {}", report.adopted.join(","));
    }
    annotations(&mut text, migration);
    for kind in migration.surprises.chunk_by(|a, b| a.kind == b.kind) {
        surprises(&mut text, kind);
    }
    let _ = writeln!(text, "\n{}", verdict(report, migration));
    text
}

/// One paragraph for each annotation and note, the worst first; those that stay the same on one line.
fn annotations(text: &mut String, migration: &Migration) {
    let mut groups: BTreeMap<(Verdict, &str, &str), Vec<&AnnotationUse>> = BTreeMap::new();
    for one in &migration.annotations {
        groups.entry((one.verdict, &one.annotation, &one.note)).or_default().push(one);
    }
    for ((verdict, name, note), uses) in &groups {
        let word = match verdict {
            Verdict::Closed => "REFUSED (503)",
            Verdict::Refused => "REFUSED",
            Verdict::Unknown => "unknown",
            Verdict::Differs => "differs",
            Verdict::Ignored => "not needed",
            Verdict::Supported => continue,
        };
        let whose = named(uses.iter().map(|one| one.ingress.as_str()));
        let _ = writeln!(text, "  {word:<14} {name} ({whose})\n{:17}{note}", "");
    }
    let same: BTreeSet<_> = migration
        .annotations
        .iter()
        .filter(|one| one.verdict == Verdict::Supported)
        .map(|one| one.annotation.as_str())
        .collect();
    if !same.is_empty() {
        let _ = writeln!(text, "  {:<14} {}", "the same", same.into_iter().collect::<Vec<_>>().join(", "));
    }
}

/// The words once, then each host with the paths that it is about.
fn surprises(text: &mut String, surprises: &[Surprise]) {
    let first = &surprises[0];
    let hosts = named(surprises.iter().map(|one| one.host.as_str()));
    let _ = writeln!(text, "\n{} ({hosts})", title(first.kind));
    let mut row = |who: &str, what: &str| {
        let _ = writeln!(text, "  {who:<16} {what}");
    };
    let shared = |what: fn(&Surprise) -> &str| what(first).split(" Here: ").next().unwrap_or_default();
    row("ingress-nginx", shared(|one| &one.ingress_nginx));
    row("Sluice", &first.sluice_kubernetes);
    row("Sluice, compat", &first.sluice_ingress_nginx);
    row("what to do", &first.remedy);
    if first.kind == Kind::Defaults {
        return defaults(text, surprises);
    }
    for one in surprises {
        let _ = writeln!(text, "  {}: {}", one.host, changes(one.changes));
        if let Some((_, here)) = one.ingress_nginx.split_once(" Here: ") {
            let _ = writeln!(text, "    {here}");
        }
        for cause in &one.causes {
            let _ = writeln!(text, "    because of {cause}");
        }
        for place in one.places.iter().take(NAMED) {
            self::place(text, place);
        }
        let more = one.places.len().saturating_sub(NAMED) + one.more;
        if more > 0 {
            let _ = writeln!(text, "    … and {} (-o json lists them)", plural(more, "more path"));
        }
    }
}

/// A default holds for a host, whatever its paths are, and mostly for all hosts alike.
fn defaults(text: &mut String, surprises: &[Surprise]) {
    let mut groups: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for one in surprises {
        let here = one.ingress_nginx.split_once(" Here: ").map_or("", |(_, here)| here);
        groups.entry((here, changes(one.changes))).or_default().push(&one.host);
    }
    for ((here, changes), hosts) in groups {
        let _ = writeln!(text, "  {}: {changes}\n    {here}", named(hosts.into_iter()));
    }
}

fn place(text: &mut String, place: &Place) {
    let Place { ingress, field, path, path_type, example } = place;
    let _ = writeln!(text, "    {ingress} {field}: {path} ({path_type})");
    let Some(example) = example else { return };
    let _ = write!(text, "      {} → ingress-nginx: {}", example.path, example.ingress_nginx);
    let (plain, compat) = (&example.sluice_kubernetes, &example.sluice_ingress_nginx);
    let _ = match (example.changes(), plain == compat) {
        (changes, _) if changes == Changes::default() => writeln!(text, "; Sluice the same"),
        (_, true) => writeln!(text, "; Sluice: {plain}"),
        (Changes { ingress_nginx: false, .. }, _) => {
            writeln!(text, "; Sluice: {plain}, with compat the same")
        }
        (Changes { kubernetes: false, .. }, _) => writeln!(text, "; Sluice the same, with compat {compat}"),
        _ => writeln!(text, "; Sluice: {plain}, with compat {compat}"),
    };
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::HostWideRegex => "One Ingress makes every path of its host a regular expression",
        Kind::RegexPrefix => "Regular expressions match any path that begins so, in upper and lower case",
        Kind::RewriteImpliesRegex => "rewrite-target implies a regular expression",
        Kind::TrailingSlash => "Redirects to paths with a slash at the end",
        Kind::Normalisation => "Paths are decoded before they are compared",
        Kind::PrefixByLetters => "Paths that cover what begins with their letters",
        Kind::HostFallThrough => "Requests that fall through to rules of other hosts",
        Kind::PathParameters => "Path parameters lead around restricted paths",
        Kind::OtherRule => "Other requests that another rule takes",
        Kind::Defaults => "Settings that nobody asked for",
    }
}

fn changes(changes: Changes) -> &'static str {
    match (changes.kubernetes, changes.ingress_nginx) {
        (false, false) => "nothing changes",
        (true, false) => "changes, unless with compat: ingress-nginx",
        (false, true) => "changes with compat: ingress-nginx",
        (true, true) => "changes",
    }
}

fn verdict(report: &Report, migration: &Migration) -> String {
    let count = |verdict| migration.annotations.iter().filter(|one| one.verdict == verdict).count();
    let changing =
        |select: fn(&Changes) -> bool| migration.surprises.iter().filter(|one| select(&one.changes)).count();
    let refused = migration.refused().count();
    format!(
        "{} refused, {} differ, {} the same; surprises that change answers: {} with compat kubernetes, {} with \
         ingress-nginx{}",
        refused,
        count(Verdict::Differs) + count(Verdict::Unknown),
        count(Verdict::Supported) + count(Verdict::Ignored),
        changing(|c| c.kubernetes),
        changing(|c| c.ingress_nginx),
        if report.passes(false) { "" } else { "\nnot ready to move: errors or refused annotations above" }
    )
}

/// The first few, and how many more.
fn named<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: BTreeSet<_> = names.collect();
    let more = all.len().saturating_sub(NAMED);
    let first = all.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}
