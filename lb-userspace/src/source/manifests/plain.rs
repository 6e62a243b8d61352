//! The YAML that nearly all manifests are written in, read many times faster than YAML in general.
//!
//! With thousands of documents, reading them decides how long the start takes. Here are block and
//! one-line flow collections, scalars of one line and literal blocks of printable ASCII. Whatever
//! goes beyond that, or might be wrong, is left to the YAML library: so what is read here has to
//! be exactly what the library reads, which the tests try with random documents, and what can't be
//! read has the library's words.

use serde_json::{Map, Value};

/// Collections in collections; manifests have about ten.
const MAX_DEPTH: usize = 32;

/// YAML gives up looking for the colon of a key after 1,024 characters.
const MAX_KEY: usize = 512;

/// Reads one document. `None`: it takes a whole YAML reader to say what it is.
pub fn read(document: &str) -> Option<Value> {
    if !document.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)) {
        return None;
    }
    let mut reader = Reader { rest: document, line: None, depth: 0 };
    reader.advance();
    if reader.line?.text == "---" {
        reader.advance();
    }
    let value = reader.block(reader.line?.indent)?;
    reader.line.is_none().then_some(value)
}

/// A line that is neither blank nor a comment.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Spaces before the text; inside of a sequence's entry, what stands before its first key, too.
    indent: usize,
    /// Without spaces around it; never empty.
    text: &'a str,
}

struct Reader<'a> {
    /// What comes after `line`.
    rest: &'a str,
    /// The next line to be read; `None` at the end.
    line: Option<Line<'a>>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn advance(&mut self) {
        self.line = None;
        while self.line.is_none() && !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            let text = line.trim_start_matches(' ');
            if !text.is_empty() && !text.starts_with('#') {
                let indent = line.len() - text.len();
                self.line = Some(Line { indent, text: text.trim_end_matches(' ') });
            }
        }
    }

    /// The collection that starts with this line.
    fn block(&mut self, indent: usize) -> Option<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = match is_entry(self.line?.text) {
            true => self.sequence(indent),
            false => self.mapping(indent),
        };
        self.depth -= 1;
        value
    }

    fn mapping(&mut self, indent: usize) -> Option<Value> {
        let mut fields = Map::new();
        while let Some(line) = self.line.filter(|line| line.indent >= indent) {
            if line.indent > indent {
                return None;
            }
            let (key, rest) = key(line.text)?;
            let value = match rest {
                "" => {
                    self.advance();
                    match self.line {
                        Some(next) if next.indent > indent => self.block(next.indent)?,
                        // A list may stand as far left as the key that it belongs to.
                        Some(next) if next.indent == indent && is_entry(next.text) => self.block(indent)?,
                        _ => Value::Null,
                    }
                }
                "|" | "|-" => self.literal(indent, rest == "|")?,
                _ => self.inline(rest)?,
            };
            // The library says which key stands there twice.
            if fields.insert(key.to_owned(), value).is_some() {
                return None;
            }
        }
        Some(Value::Object(fields))
    }

    fn sequence(&mut self, indent: usize) -> Option<Value> {
        let mut items = Vec::new();
        while let Some(line) = self.line.filter(|line| line.indent >= indent) {
            if line.indent > indent {
                return None;
            }
            if !is_entry(line.text) {
                break;
            }
            let text = line.text[1..].trim_start_matches(' ');
            items.push(if text.is_empty() {
                self.advance();
                match self.line {
                    Some(next) if next.indent > indent => self.block(next.indent)?,
                    _ => Value::Null,
                }
            } else if key(text).is_some() {
                let indent = indent + line.text.len() - text.len();
                self.line = Some(Line { indent, text });
                self.block(indent)?
            } else {
                self.inline(text)?
            });
        }
        Some(Value::Array(items))
    }

    /// A value that stands behind its key or dash. Were it continued, the next line would be
    /// indented, which no collection accepts.
    fn inline(&mut self, text: &str) -> Option<Value> {
        let (value, rest) = value(text, None, MAX_DEPTH.checked_sub(self.depth)?)?;
        self.advance();
        rest.is_empty().then_some(value)
    }

    /// The lines of a literal block below a key at `indent`. `clip`: its last line ends, too.
    fn literal(&mut self, indent: usize, clip: bool) -> Option<Value> {
        let mut text = String::new();
        let mut inner = None;
        // Blank lines count only if another one follows.
        let mut blank = 0;
        while !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            let spaces = line.len() - line.trim_start_matches(' ').len();
            if spaces == line.len() {
                if inner.is_none_or(|inner| spaces > inner) {
                    return None;
                }
                blank += 1;
                self.rest = rest;
                continue;
            }
            if spaces <= indent {
                break;
            }
            let inner = *inner.get_or_insert(spaces);
            // Such a line belongs to nothing; a text without an end of its last line has none.
            if spaces < inner || self.rest.len() == line.len() {
                return None;
            }
            text.extend(std::iter::repeat_n('\n', blank));
            blank = 0;
            text.push_str(&line[inner..]);
            text.push('\n');
            self.rest = rest;
        }
        inner?;
        if !clip {
            text.pop();
        }
        self.advance();
        Some(Value::String(text))
    }
}

/// Whether the line is one of a sequence.
fn is_entry(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

/// A key, and what stands behind its colon.
fn key(text: &str) -> Option<(&str, &str)> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    let end = text.bytes().take(MAX_KEY).position(|byte| !is_inner(byte))?;
    let (key, rest) = (&text[..end], text[end..].strip_prefix(':')?);
    if !key.starts_with(|first: char| first.is_ascii_alphabetic())
        || word(key).is_none_or(|word| !word.is_string())
    {
        return None;
    }
    let value = rest.trim_start_matches(' ');
    (value.is_empty() || value.len() < rest.len()).then_some((key, value))
}

/// The value that `text` starts with, and what comes behind it and the spaces there. `within` is the
/// bracket that closes the flow collection around it; without, all of `text` is the value.
fn value(text: &str, within: Option<char>, depth: usize) -> Option<(Value, &str)> {
    let first = text.chars().next()?;
    match first {
        '"' | '\'' => {
            let (inner, rest) = text[1..].split_once(first)?;
            // Escapes; of these '' shows as a quote behind the quote.
            if inner.contains('\\') && first == '"' || rest.starts_with(first) {
                return None;
            }
            Some((Value::String(inner.to_owned()), rest.trim_start_matches(' ')))
        }
        '{' => flow_mapping(text, depth.checked_sub(1)?),
        '[' => flow_sequence(text, depth.checked_sub(1)?),
        _ => {
            let end = match within {
                Some(_) => text.find([',', '[', ']', '{', '}'])?,
                None => text.len(),
            };
            let (scalar, rest) = (text[..end].trim_end_matches(' '), &text[end..]);
            // Those two start another thing, and whoever has a colon elsewhere has to be looked at twice.
            let mut around = scalar.as_bytes().windows(2);
            if around.any(|pair| {
                pair == b" #" || (pair[0] == b':' && !pair[1].is_ascii_alphanumeric() && pair[1] != b'/')
            }) || scalar.ends_with(':')
            {
                return None;
            }
            Some((word(scalar)?, rest))
        }
    }
}

/// `{key: value, …}`.
fn flow_mapping(text: &str, depth: usize) -> Option<(Value, &str)> {
    let mut fields = Map::new();
    let mut rest = text[1..].trim_start_matches(' ');
    while !(fields.is_empty() && rest.starts_with('}')) {
        let (key, behind) = key(rest)?;
        let (value, behind) = value(behind, Some('}'), depth)?;
        if fields.insert(key.to_owned(), value).is_some() {
            return None;
        }
        match behind.strip_prefix(',') {
            Some(next) => rest = next.trim_start_matches(' '),
            None => {
                rest = behind;
                break;
            }
        }
    }
    Some((Value::Object(fields), rest.strip_prefix('}')?.trim_start_matches(' ')))
}

/// `[value, …]`.
fn flow_sequence(text: &str, depth: usize) -> Option<(Value, &str)> {
    let mut items = Vec::new();
    let mut rest = text[1..].trim_start_matches(' ');
    while !(items.is_empty() && rest.starts_with(']')) {
        let (value, behind) = value(rest, Some(']'), depth)?;
        items.push(value);
        match behind.strip_prefix(',') {
            Some(next) => rest = next.trim_start_matches(' '),
            None => {
                rest = behind;
                break;
            }
        }
    }
    Some((Value::Array(items), rest.strip_prefix(']')?.trim_start_matches(' ')))
}

/// A scalar without quotes, if there is no doubt about its type.
fn word(text: &str) -> Option<Value> {
    let first = text.bytes().next()?;
    if first.is_ascii_digit() {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            // With a zero before it, it may be octal or an error.
            let whole = text.len() < 16 && (first != b'0' || text.len() == 1);
            return text.parse::<u64>().ok().filter(|_| whole).map(Value::from);
        }
        // An address or a network: no number has two dots.
        let is_address = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'/'));
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        return (is_address && dots > 1).then(|| text.into());
    }
    if !first.is_ascii_alphabetic() && !matches!(first, b'/' | b'^' | b'$' | b'(') {
        return None;
    }
    match text {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        "null" => Some(Value::Null),
        _ if ["true", "false", "null"].iter().any(|word| text.eq_ignore_ascii_case(word)) => None,
        _ => Some(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::document::library;
    use super::*;

    /// What is read must be what the library reads.
    #[track_caller]
    fn same(text: &str) -> bool {
        let Some(value) = read(text) else { return false };
        assert_eq!(library(text).ok(), Some(value), "{text:?}");
        true
    }

    const SERVICE: &str = "# made by hand\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  \
        namespace: default\n  annotations:\n    sluice.dev/load-balance: ewma\n    note: |\n      {\"a\": 1}\n\n      \
        # no comment\n  labels: {app: web, tier: 'front end'}\nspec:\n  # two\n  ports:\n  - name: http\n    \
        port: 80\n  -   port: 443\n      name: \"https\"\n  clusterIPs: [10.0.0.1, \"fd00::1\"]\n  selector:\n";

    const INGRESS: &str = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i1, annotations: \
        {nginx.ingress.kubernetes.io/ssl-redirect: \"false\"}}\nspec:\n  tls: [{hosts: [a.example], secretName: tls}]\n  \
        rules:\n    - host: a.example\n      http:\n        paths:\n        - {path: /a/, pathType: Prefix, backend: \
        {service: {name: s1, port: {number: 80}}}}\n        - path: /b(/|$)(.*)\n          pathType: Exact\n          \
        backend: {resource: null}\n    -\n      host: b.example\nstatus:\n  loadBalancer: {}\n";

    #[test]
    fn manifests_are_plain() {
        for text in [
            SERVICE,
            INGRESS,
            "a: b",
            "a:\n- 1\n- two\nb:\n  - c: d\n    e: f\n  - g\n",
            "a: http://b.example:80/c#d\nb: x y\n",
            "a: []\nb: {}\nc: [ 1 , x ]\nd: { e: f , g: [] }\n",
            "a: \"it's\"\nb: 'say \\ \"x\"'\nc: don't\n",
            "- a\n- b: c\n",
            "a: |-\n  x\n\n   y\n\nb: |\n  z\n",
            "a:\nb: true\nc: 10.1.0.0/16\nd: 0\n",
            "a:\n  - b:\n    - c\n    d: e\n  -\n",
        ] {
            assert!(same(text), "{text:?} is left to the library");
        }
    }

    #[test]
    fn the_rest_is_the_library_s() {
        for text in [
            "",
            "# nothing\n",
            "a: [b\n",
            "a: b\n c\n",
            "a: b\n  c: d\n",
            "a: b: c\n",
            "a: b # c\n",
            "a: &x b\n",
            "a: *x\n",
            "a: !!str 1\n",
            "a: >\n  b\n",
            "a: \"\\n\"\n",
            "a: 'it''s'\n",
            "a: \"x\n  y\"\n",
            "a: 010\nb: 1.5\n",
            "a: 1e3\n",
            "a: True\n",
            "true: a\n",
            "1: a\n",
            "? a\n: b\n",
            "a: b\na: c\n",
            "{a: b, a: c}\n",
            "a: {b: c, b: d}\n",
            "a: {b}\n",
            "a: [b: c]\n",
            "a: [b,]\n",
            "a: {b: c,}\n",
            "a:\tb\n",
            "a: b\r\n",
            "a: \u{e9}\n",
            "<<: {a: b}\n",
            "a: b\n---\nc: d\n",
            "a: b\n...\n",
            "a: |\n\n  b\n",
            "a: |\n  b\n c\n",
            "a: |2\n   b\n",
            "a: - b\n",
            "- - a\n",
            "a:\n- b\n c: d\n",
            "- a\nb: c\n",
            "a: ~\n",
            "a: \"b\" c\n",
            "a: {b: \"c\"d}\n",
            "%YAML 1.2\n---\na: b\n",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
        let deep = format!("a: {}{}\n", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(read(&deep), None);
        let deep: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert_eq!(read(&deep), None);
    }

    /// A manifest with a few of its pieces exchanged for others that mean something in YAML.
    fn damaged() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "", " ", "  ", "\n", "\n\n", "\n  ", "\n      ", ":", ": ", "- ", "-", "\n- ", "#", " #", "# ",
            ",", ", ", "[", "]", "{", "}", "{}", "[]", "\"", "'", "''", "|", "|\n", "|-\n  ", ">", "&a ",
            "*a", "!", "? ", "%", "@", "`", "~", "null", "true", "0", "1", "0x1", "1.5", "1.2.3", "1_0", ".",
            "...", "---", "---\n", "\\", "a: b", "a:", "/", "$", "(", "<<: ", "=", "+", "y", "inf", "e",
        ]);
        let edit = (any::<prop::sample::Index>(), 0..4usize, piece);
        let base = prop::sample::select(vec![
            SERVICE,
            INGRESS,
            "a: {b: [c, d]}\n",
            "a: |\n  x\nb:\n- c\n- d: e\n  f: g\n",
        ]);
        (base, prop::collection::vec(edit, 1..5)).prop_map(|(base, edits)| {
            let mut text = base.to_owned();
            for (at, gone, piece) in edits {
                let at = at.index(text.len() + 1);
                let end = (at + gone).min(text.len());
                text.replace_range(at..end, piece);
            }
            text
        })
    }

    proptest! {
        #[test]
        fn damaged_manifests_read_alike(text in damaged()) {
            same(&text);
        }
    }
}
