//! From the text of a file to its documents. One bad document does not spoil its neighbours.

use serde_json::Value;

use super::complaint::complaint;

/// One document of a file, or why it is none.
#[derive(Debug, PartialEq)]
pub struct Document {
    /// The line it starts on, from 1; for an error the line of the error.
    pub line: usize,
    /// The document, or what is wrong as a sentence part without position.
    pub value: Result<Value, String>,
}

/// A document of YAML (and so of JSON) that is yet to be read, with the line it starts on.
pub type Chunk<'a> = (usize, &'a str);

/// The documents of a YAML text.
///
/// The text is cut at the `---` markers before parsing, as kubectl does: YAML does not allow such
/// a line inside of any scalar, so a document that can't be parsed ends where the next begins.
pub fn cut_yaml(text: &str) -> Vec<Chunk<'_>> {
    cut(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Reads one document; `None`: it is empty.
pub fn read_yaml(&(first_line, chunk): &Chunk<'_>) -> Option<Document> {
    match serde_saphyr::from_str_with_options::<Value>(chunk, options()) {
        Ok(Value::Null) => None,
        Ok(value) => Some(Document { line: first_line + lines_before_content(chunk), value: Ok(value) }),
        Err(_) => Some(bad_yaml(first_line, chunk)),
    }
}

/// Reads one or several JSON documents, one after the other. Ends at the first that is bad, since
/// JSON has no mark where the next one starts.
pub fn read_json(text: &str) -> impl Iterator<Item = Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut line, mut seen, mut is_bad) = (1, 0, false);
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    std::iter::from_fn(move || {
        while !is_bad && let Some(next) = stream.next() {
            let end = stream.byte_offset();
            let skipped = &text[seen..end];
            let blank = skipped.len() - skipped.trim_start().len();
            let starts = line + newlines(&skipped[..blank]);
            line += newlines(skipped);
            seen = end;
            match next {
                Ok(Value::Null) => {}
                Ok(value) => return Some(Document { line: starts, value: Ok(value) }),
                Err(error) => {
                    is_bad = true;
                    return Some(Document { line: error.line().max(1), value: Err(error.to_string()) });
                }
            }
        }
        None
    })
}

/// Parses a bad chunk again with the lines before it, blank, so that every position that the
/// error names is one of the file.
fn bad_yaml(first_line: usize, chunk: &str) -> Document {
    let padded = "\n".repeat(first_line - 1) + chunk;
    match serde_saphyr::from_str_with_options::<Value>(&padded, options()) {
        Ok(value) => Document { line: first_line, value: Ok(value) },
        Err(error) => {
            let line = error.location().and_then(|at| usize::try_from(at.line()).ok()).unwrap_or(first_line);
            Document { line: line.max(first_line), value: Err(complaint(&error, &padded)) }
        }
    }
}

/// Limits that a file of many thousand objects stays within. The limits on anchors and aliases
/// stay at the library's: they are what stops a small file from growing into a huge one.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 25_000_000,
        },
        // YAML 1.2: only true and false. A host or a value that reads `on` or `y` is a text.
        strict_booleans: true,
        with_snippet: false,
    }
}

/// The chunks of a text between document markers, each with the line it starts on.
fn cut(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    // `%YAML` directives belong to the document whose `---` comes after them.
    let mut has_content = false;
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && has_content {
            chunks.push((start_line, &text[start..at]));
            (start, start_line) = (at, index + 1);
        }
        if start == at {
            has_content = false;
        }
        let bare = line.trim();
        has_content |=
            is_marker(line) || !(bare.is_empty() || bare.starts_with('#') || line.starts_with('%'));
        at += line.len();
    }
    chunks.push((start_line, &text[start..]));
    chunks
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// How many lines of comments, blanks and markers come before the document itself.
fn lines_before_content(chunk: &str) -> usize {
    let skipped = |line: &&str| {
        let rest = line.strip_prefix("---").unwrap_or(line).trim();
        rest.is_empty() || rest.starts_with('#') || rest.starts_with('%')
    };
    chunk.lines().take_while(skipped).count()
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Vec<Document> {
        cut_yaml(text).iter().filter_map(read_yaml).collect()
    }

    /// `Ok(name)` stands for `{"a": name}`, `Err(part)` for an error that holds the part.
    fn check(documents: Vec<Document>, text: &str, expect: &[(usize, Result<&str, &str>)]) {
        assert_eq!(documents.len(), expect.len(), "{text:?} gave {documents:?}");
        for (document, (line, value)) in documents.iter().zip(expect) {
            assert_eq!(document.line, *line, "{text:?} gave {documents:?}");
            match (&document.value, value) {
                (Ok(got), Ok(want)) => assert_eq!(got["a"], **want, "{text:?}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{text:?}: {got:?}"),
                _ => panic!("{text:?} gave {documents:?}"),
            }
        }
    }

    #[test]
    fn yaml_documents() {
        for (text, expect) in [
            ("", &[][..]),
            ("\n# nothing\n---\n---\n", &[]),
            ("a: x", &[(1, Ok("x"))]),
            ("\u{feff}a: x\r\n---\r\na: y\r\n", &[(1, Ok("x")), (3, Ok("y"))]),
            ("# hello\n---\na: x\n--- # next\n\na: y\n...\n", &[(3, Ok("x")), (6, Ok("y"))]),
            ("%YAML 1.2\n---\na: x\n", &[(3, Ok("x"))]),
            ("--- {a: x}\n---\na: y", &[(1, Ok("x")), (3, Ok("y"))]),
            ("a: |\n  ---\n  b\n", &[(1, Ok("---\nb\n"))]),
            ("a: --- b\n", &[(1, Ok("--- b"))]),
            ("{\"a\": \"x\"}\n", &[(1, Ok("x"))]),
            ("a: x\n---\na: [y\n---\na: z\n", &[(1, Ok("x")), (3, Err("line 3, column 4")), (5, Ok("z"))]),
            ("a: x\n---\na: y\na: z\n---\na: w\n", &[(1, Ok("x")), (4, Err("twice")), (6, Ok("w"))]),
            ("a: x\n---\na: b: c\n", &[(1, Ok("x")), (3, Err(""))]),
        ] {
            check(yaml(text), text, expect);
        }
    }

    #[test]
    fn json() {
        for (text, expect) in [
            ("", &[][..]),
            ("null", &[]),
            ("{\"a\": \"x\"}", &[(1, Ok("x"))]),
            ("\n{\"a\":\n\"x\"}\n\n{\"a\": \"y\"}", &[(2, Ok("x")), (5, Ok("y"))]),
            ("{\"a\": \"x\"}\n{\"a\": ", &[(1, Ok("x")), (2, Err("EOF"))]),
        ] {
            check(read_json(text).collect(), text, expect);
        }
    }

    #[test]
    fn strings_that_look_like_other_types_stay_what_they_are() {
        let documents: Vec<_> = yaml("a: \"80\"\nb: 80\nc: on\nd: \"true\"\ne: 1.0\nf: ~\ng: 0755\n");
        let value = documents[0].value.as_ref().expect("parses");
        assert_eq!(value["a"], "80");
        assert_eq!(value["b"], 80);
        assert_eq!(value["c"], "on");
        assert_eq!(value["d"], "true");
        assert_eq!(value["f"], Value::Null);
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let before = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![before; 10].join(", ")));
        }
        let documents: Vec<_> = yaml(&text);
        assert!(documents.len() == 1 && documents[0].value.is_err());
    }
}
