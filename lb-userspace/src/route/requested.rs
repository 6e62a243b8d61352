//! Whether a regular expression has anything to match: paths arrive in their normalised form, in which
//! many characters are only there percent-encoded.

use regex_automata::util::syntax;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::target::{path_byte, unescaped};

/// What `pattern` asks of every path and no normalised path has, and how paths have it instead. `None`: some
/// path may match.
pub(crate) fn unmatchable(pattern: &str) -> Option<(String, String)> {
    let config = syntax::Config::new().unicode(false).utf8(false);
    missing(&syntax::parse_with(pattern, &config).ok()?)
}

fn missing(expression: &Hir) -> Option<(String, String)> {
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) => None,
        HirKind::Literal(literal) => foreign(&literal.0),
        HirKind::Class(class) => {
            let class = match class {
                Class::Bytes(class) => class.clone(),
                Class::Unicode(class) => class.to_byte_class()?,
            };
            let mut bytes = class.ranges().iter().flat_map(|range| range.start()..=range.end());
            let first = bytes.clone().next()?;
            (!bytes.any(arrives)).then(|| escaped(first))
        }
        HirKind::Repetition(repetition) if repetition.min == 0 => None,
        HirKind::Repetition(repetition) => missing(&repetition.sub),
        HirKind::Capture(capture) => missing(&capture.sub),
        HirKind::Concat(parts) => parts.iter().find_map(missing),
        // One that some path may match is enough.
        HirKind::Alternation(branches) => {
            branches.iter().map(missing).collect::<Option<Vec<_>>>()?.into_iter().next()
        }
    }
}

/// The same of a text.
fn foreign(text: &[u8]) -> Option<(String, String)> {
    let byte = text.iter().find(|byte| !arrives(**byte)).map(|byte| escaped(*byte));
    let run = || {
        let has = |part: &str| text.windows(part.len()).any(|window| window == part.as_bytes());
        ["//", "/./", "/../"].into_iter().find(|part| has(part)).map(|part| (part.to_owned(), "/".to_owned()))
    };
    let plain = || {
        text.windows(3).find_map(|window| {
            let plain = unescaped(window)?;
            Some((String::from_utf8_lossy(window).into_owned(), char::from(plain).to_string()))
        })
    };
    byte.or_else(run).or_else(plain)
}

fn arrives(byte: u8) -> bool {
    path_byte(byte) || byte == b'%'
}

fn escaped(byte: u8) -> (String, String) {
    (char::from(byte).to_string(), format!("%{byte:02X}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_path_has() {
        for (pattern, expect) in [
            ("/foo(/|$)(.*)", None),
            ("/a[^\"]b", None),
            ("/[\"a]", None),
            ("/(\"|a)", None),
            ("/x\"?", None),
            ("/x{2}", None),
            (r"/a\.\./b", None),
            (r"/[a-z]+\./b", None),
            ("/caf%C3%A9", None),
            ("/a%2Fb;v=1,2!$&'()*+:@~", None),
            (r"/%[0-9a-f]{2}", None),
            (r"[^\s\S]", None),
            ("/a)(", None),
            ("/say\"hi\"", Some(("\"", "%22"))),
            ("/x\"+", Some(("\"", "%22"))),
            (r"/a\\b", Some((r"\", "%5C"))),
            (r"/v\{2\}", Some(("{", "%7B"))),
            ("/[<>]/x", Some(("<", "%3C"))),
            (r"/a\sb", Some(("\t", "%09"))),
            ("/(<|>)x", Some(("<", "%3C"))),
            ("/a(//b)c", Some(("//", "/"))),
            (r"/a/\.\./b", Some(("/../", "/"))),
            ("/%7Euser", Some(("%7E", "~"))),
        ] {
            let got = unmatchable(pattern);
            let got = got.as_ref().map(|(text, instead)| (text.as_str(), instead.as_str()));
            assert_eq!(got, expect, "{pattern}");
        }
    }
}
