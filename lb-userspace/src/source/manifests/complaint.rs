//! What is wrong with a document that is no YAML, in words for whoever wrote it.
//!
//! The library's own words name the place and what its grammar wanted; what people did in most cases is
//! something else, and can be seen in the line.

use serde_saphyr::Error;

/// What is wrong, with line and column and what to do about it if that can be told. `text` is all that was
/// read.
pub(super) fn complaint(error: &Error, text: &str) -> String {
    let error = error.without_snippet();
    let place = error.location().map(|at| (at.line(), at.column()));
    let at = place.map(|(line, column)| format!(" at line {line}, column {column}")).unwrap_or_default();
    let what = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("key {key:?} is there twice{at}"),
        Error::DuplicateMappingKey { key: None, .. } => format!("a key is there twice{at}"),
        Error::UnknownAnchor { .. } => format!("*… refers to an anchor &… that is not there{at}"),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    let line = place.and_then(|(line, _)| text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?));
    match remedy(text, line.unwrap_or_default()) {
        Some(remedy) => format!("{what} ({remedy})"),
        None => what,
    }
}

/// What was most likely meant, by the line that can't be read.
fn remedy(text: &str, line: &str) -> Option<&'static str> {
    let value = || line.split_once(": ").map_or(line, |(_, value)| value).trim_start_matches(['-', ' ']);
    if text.lines().any(|line| line.starts_with("<<<<<<<") || line.starts_with(">>>>>>>")) {
        Some("a merge left its conflict marks in the file: resolve them")
    } else if line.contains("{{") {
        Some("this looks like a template: render it first, as `helm template` does")
    } else if line.trim_start_matches(' ').starts_with('\t') {
        Some("indent with spaces")
    } else if value().starts_with('*') {
        Some("what begins with * is a reference in YAML: write \"*.example.com\" in quotes")
    } else if value().starts_with(['@', '`', '%']) {
        Some("a value that begins with this character has to stand in quotes")
    } else if line.matches(": ").count() > 1 && !line.contains(['{', '"', '\'']) {
        Some("a value with a colon and a space in it has to stand in quotes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, expect) in [
            ("a: x\na: y\n", "key \"a\" is there twice at line 2, column 1"),
            (
                "host: *.example.com\n",
                "at line 1, column 7 (what begins with * is a reference in YAML: write",
            ),
            ("hosts:\n- *.example.com\n", "at line 2, column 3 (what begins with *"),
            ("a:\n  b: {{ .Values.b }}\n", "(this looks like a template"),
            ("<<<<<<< HEAD\na: x\n=======\na: y\n>>>>>>> b\n", "(a merge left its conflict marks"),
            ("a:\n\tb: c\n", "(indent with spaces)"),
            (
                "a: @b\n",
                "at line 1, column 4 (a value that begins with this character has to stand in quotes)",
            ),
            ("a: b: c\n", "(a value with a colon and a space in it has to stand in quotes)"),
            ("a: {b: c\n", "at line 1, column 4"),
            ("a: [b: c, d: e\n", "at line 1, column 4"),
        ] {
            let error = serde_saphyr::from_str::<serde_json::Value>(text).expect_err(text);
            let told = complaint(&error, text);
            assert!(told.contains(expect), "{text:?}: {told}");
            assert!(!told.contains("Options") && !told.contains('\n'), "{text:?}: {told}");
        }
    }
}
