//! A text that a regular expression matches, to show what it does.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Longer samples say nothing more to a reader.
const LONGEST: usize = 200;

/// A short text that `pattern` matches from its begin, if one is easily made. It is only a proposal:
/// look-around is passed over.
pub(super) fn sample(pattern: &str) -> Option<String> {
    let hir = regex_syntax::parse(pattern).ok()?;
    let mut text = String::new();
    write(&hir, &mut text)?;
    Some(text)
}

fn write(hir: &Hir, out: &mut String) -> Option<()> {
    if out.len() > LONGEST {
        return None;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(Class::Unicode(class)) => {
            // A letter if there is one: paths are made of them.
            let ranges = || class.ranges().iter();
            let letter = ranges().find_map(|range| {
                let from = range.start().max('a');
                (from <= range.end().min('z')).then_some(from)
            });
            let any = || ranges().map(|range| range.start().max('-')).next();
            out.push(letter.or_else(any)?);
        }
        HirKind::Class(Class::Bytes(class)) => out.push(char::from(class.ranges().first()?.start())),
        HirKind::Repetition(repetition) => {
            let at_least_one = repetition.max.is_none_or(|max| max > 0);
            let times = repetition.min.max(u32::from(at_least_one));
            for _ in 0..times {
                write(&repetition.sub, out)?;
            }
        }
        HirKind::Capture(capture) => write(&capture.sub, out)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write(part, out))?,
        HirKind::Alternation(choices) => write(choices.first()?, out)?,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_match() {
        for (pattern, expect) in [
            ("/foo", Some("/foo")),
            ("/foo(/|$)(.*)", Some("/foo/a")),
            ("/[A-Z]{3}", Some("/AAA")),
            ("/v[0-9]+/items", Some("/v0/items")),
            ("/(?:a|b)/?", Some("/a/")),
            ("/a{0}b", Some("/b")),
            ("/(", None),
            ("/x{1000}", None),
        ] {
            let got = sample(pattern);
            assert_eq!(got.as_deref(), expect, "{pattern}");
            if let Some(text) = got {
                assert!(
                    regex::Regex::new(&format!("^{pattern}")).expect(pattern).is_match(&text),
                    "{pattern}"
                );
            }
        }
    }
}
