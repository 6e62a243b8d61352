//! Request targets and their one normalised form.
//!
//! What is matched must be what is forwarded, or a client can ask for one path and get another.
//! So a target is brought to one form before anybody looks at it (RFC 3986, section 6.2.2):
//!
//! - escapes of unreserved characters are decoded (`%2e` is `.`), all others are kept with upper-case
//!   digits: `%2F` and `%5C` never become separators;
//! - characters that may not stand in a path are escaped, a raw backslash among them;
//! - `.` and `..` segments are resolved and never leave the root, runs of `/` become one;
//! - `;` and what follows it in a segment stay. Some servers cut it off before they resolve dots,
//!   so a segment `..;x` could mean another path there than here: such targets are refused.
//!
//! The query is passed on byte by byte.

/// Why a request target is refused (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Neither a path, nor `*`, nor an http URL.
    #[error("the request target is neither a path nor an http URL")]
    NoPath,
    /// `%` without two hexadecimal digits.
    #[error("the path has a % that starts no escape")]
    BadEscape,
    /// `%00`.
    #[error("the path has an escaped NUL")]
    Nul,
    /// A raw control character or space.
    #[error("the request target has a control character or a space")]
    BadByte,
    /// `#`: fragments are never sent.
    #[error("the request target has a fragment")]
    Fragment,
    /// `..;` or `.;`: a dot segment for servers that cut path parameters off.
    #[error("the path hides a dot segment behind a path parameter")]
    HiddenDots,
}

/// A request target in its normalised form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Path, and `?` with the query if there is one.
    text: String,
    /// Where the path ends in `text`.
    path_len: usize,
}

impl Target {
    /// Reads origin-form (`/path?query`), absolute-form (`http://host/path?query`, whose authority
    /// is the caller's to read) and asterisk-form (`*`).
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        let text = match text.as_bytes() {
            [b'/', ..] => text,
            b"*" => return Ok(Self { text: "*".to_owned(), path_len: 1 }),
            _ => after_authority(text).ok_or(BadTarget::NoPath)?,
        };
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        if let Some(query) = query {
            check_query(query)?;
        }
        let mut normal = String::with_capacity(text.len() + 1);
        if is_normal(path) {
            normal.push_str(path);
        } else {
            normalise(path, &mut normal)?;
        }
        let path_len = normal.len();
        if let Some(query) = query {
            normal.push('?');
            normal.push_str(query);
        }
        Ok(Self { text: normal, path_len })
    }

    /// The path: starts with `/`, or is `*`.
    pub fn path(&self) -> &str {
        &self.text[..self.path_len]
    }

    /// What follows the first `?`; may be empty.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len + 1..)
    }

    /// Path and query as they go upstream.
    pub fn path_and_query(&self) -> &str {
        &self.text
    }

    /// `OPTIONS *`: asks about the server, not about a path.
    pub fn is_asterisk(&self) -> bool {
        self.text == "*"
    }
}

/// A rule's path in the form of a target's. What can't be a target's path stays as it is: it then
/// matches nothing.
pub(crate) fn normalise_rule(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    match normalise(path, &mut normal) {
        Ok(()) if path.starts_with('/') => normal,
        _ => path.to_owned(),
    }
}

fn after_authority(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    match rest.find(['/', '?', '#']) {
        Some(0) => None,
        Some(at) => Some(&rest[at..]),
        None if rest.is_empty() => None,
        None => Some("/"),
    }
}

fn check_query(query: &str) -> Result<(), BadTarget> {
    for byte in query.bytes() {
        match byte {
            b'#' => return Err(BadTarget::Fragment),
            0..=b' ' | 0x7f => return Err(BadTarget::BadByte),
            _ => {}
        }
    }
    Ok(())
}

/// RFC 3986's unreserved characters: an escape of one means the same as the character.
fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a path unescaped, `/` included.
pub(super) fn path_byte(byte: u8) -> bool {
    unreserved(byte)
        || matches!(
            byte,
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// The character that `%` and two digits stand for, if it has none in a normalised path.
pub(super) fn unescaped(escape: &[u8]) -> Option<u8> {
    let digits = escape.strip_prefix(b"%").filter(|digits| digits.len() == 2)?;
    hex_pair(digits).filter(|byte| unreserved(*byte))
}

/// Whether the path surely is its own normal form; most are, and then it is only copied.
fn is_normal(path: &str) -> bool {
    let mut last = 0;
    for byte in path.bytes() {
        if !path_byte(byte) || (last == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        last = byte;
    }
    path.starts_with('/')
}

fn normalise(path: &str, out: &mut String) -> Result<(), BadTarget> {
    let bytes = path.as_bytes();
    out.push('/');
    let mut segment = out.len();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        at += 1;
        match byte {
            b'/' => {
                end_segment(out, segment, true)?;
                segment = out.len();
            }
            b'%' => {
                let escaped = bytes.get(at..at + 2).and_then(hex_pair).ok_or(BadTarget::BadEscape)?;
                at += 2;
                match escaped {
                    0 => return Err(BadTarget::Nul),
                    _ if unreserved(escaped) => out.push(char::from(escaped)),
                    _ => push_escaped(out, escaped),
                }
            }
            b'#' => return Err(BadTarget::Fragment),
            0..=b' ' | 0x7f => return Err(BadTarget::BadByte),
            _ if path_byte(byte) => out.push(char::from(byte)),
            _ => push_escaped(out, byte),
        }
    }
    end_segment(out, segment, false)
}

/// `out[start..]` is a complete segment: resolves it if it is empty or made of dots, else closes it
/// with `/` where one followed.
fn end_segment(out: &mut String, start: usize, slash: bool) -> Result<(), BadTarget> {
    match &out[start..] {
        "" => {}
        "." => out.truncate(start),
        ".." => {
            // The text before `start` ends with the slash that opened this segment.
            let parent = out[..start - 1].rfind('/').map_or(1, |slash| slash + 1);
            out.truncate(parent);
        }
        segment if segment.starts_with(".;") || segment.starts_with("..;") => {
            return Err(BadTarget::HiddenDots);
        }
        _ if slash => out.push('/'),
        _ => {}
    }
    Ok(())
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(pair[0])? * 16 + digit(pair[1])?;
    u8::try_from(value).ok()
}

fn push_escaped(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets() {
        use BadTarget::*;
        for (text, expect) in [
            ("/", Ok("/")),
            ("/foo/bar", Ok("/foo/bar")),
            ("/foo/", Ok("/foo/")),
            ("/a?b=c", Ok("/a?b=c")),
            ("/a?", Ok("/a?")),
            ("/a?b?c%zz/../", Ok("/a?b?c%zz/../")),
            // dots
            ("/a/./b", Ok("/a/b")),
            ("/a/../b", Ok("/b")),
            ("/a/b/..", Ok("/a/")),
            ("/a/b/../", Ok("/a/")),
            ("/a/.", Ok("/a/")),
            ("/..", Ok("/")),
            ("/../../a", Ok("/a")),
            ("/%2e%2E/a", Ok("/a")),
            ("/a/.%2e/b", Ok("/b")),
            ("/a/...", Ok("/a/...")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/a/..b", Ok("/a/..b")),
            // slashes
            ("//", Ok("/")),
            ("//a///b//", Ok("/a/b/")),
            ("/a//../b", Ok("/b")),
            ("/%2f/a", Ok("/%2F/a")),
            ("/a%2fb/../c", Ok("/c")),
            ("/a/..%2fb", Ok("/a/..%2Fb")),
            ("/a\\..\\b", Ok("/a%5C..%5Cb")),
            ("/a%5cb", Ok("/a%5Cb")),
            // escapes
            ("/%61%7e", Ok("/a~")),
            ("/%41", Ok("/A")),
            ("/%c3%a9", Ok("/%C3%A9")),
            ("/é", Ok("/%C3%A9")),
            ("/a%20b", Ok("/a%20b")),
            ("/%252e%252e/a", Ok("/%252e%252e/a")),
            ("/a|{b}", Ok("/a%7C%7Bb%7D")),
            ("/a%3Fb", Ok("/a%3Fb")),
            ("/a;v=1/b", Ok("/a;v=1/b")),
            ("/a..;/b", Ok("/a..;/b")),
            // other forms
            ("*", Ok("*")),
            ("http://foo.com", Ok("/")),
            ("HTTPS://foo.com:8443/a/../b?c", Ok("/b?c")),
            ("http://foo.com?x", Ok("/?x")),
            // refused
            ("", Err(NoPath)),
            ("foo", Err(NoPath)),
            ("foo.com:443", Err(NoPath)),
            ("ftp://foo.com/", Err(NoPath)),
            ("http:///a", Err(NoPath)),
            ("**", Err(NoPath)),
            ("/%", Err(BadEscape)),
            ("/%2", Err(BadEscape)),
            ("/%zz", Err(BadEscape)),
            ("/%+1", Err(BadEscape)),
            ("/%é", Err(BadEscape)),
            ("/a%00b", Err(Nul)),
            ("/a\0b", Err(BadByte)),
            ("/a b", Err(BadByte)),
            ("/a\r\nb", Err(BadByte)),
            ("/a?b\nc", Err(BadByte)),
            ("/a#b", Err(Fragment)),
            ("/a?b#c", Err(Fragment)),
            ("http://foo.com#x", Err(Fragment)),
            ("/a/..;/b", Err(HiddenDots)),
            ("/a/.;x", Err(HiddenDots)),
            ("/a/%2e.;x=1/b", Err(HiddenDots)),
        ] {
            let got = Target::parse(text);
            assert_eq!(got.as_ref().map(Target::path_and_query), expect.as_ref().copied(), "{text:?}");
        }
    }

    #[test]
    fn path_and_query_are_apart() {
        for (text, path, query) in
            [("/a", "/a", None), ("/a?", "/a", Some("")), ("/%61/..?x?y", "/", Some("x?y")), ("*", "*", None)]
        {
            let target = Target::parse(text).expect(text);
            assert_eq!((target.path(), target.query()), (path, query), "{text}");
        }
    }

    #[test]
    fn rules_get_the_form_of_targets() {
        for (rule, expect) in [
            ("/a b", "/a b"),
            ("/a%2Db/", "/a-b/"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("", ""),
            ("foo", "foo"),
            ("/", "/"),
        ] {
            assert_eq!(normalise_rule(rule), expect, "{rule}");
        }
    }

    /// Segments that mean something, in any order.
    fn tricky() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "/", "//", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", ";", "a", "b", "é", "%61", "%25", "?",
            "|",
        ]);
        prop::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
    }

    fn holds(text: &str) -> Result<(), TestCaseError> {
        let Ok(target) = Target::parse(text) else { return Ok(()) };
        prop_assert_eq!(Target::parse(target.path_and_query()), Ok(target.clone()), "idempotent");
        let path = target.path();
        prop_assert!(path == "*" || path.starts_with('/'));
        prop_assert!(!path.contains("//") && path.bytes().all(|b| b == b'%' || path_byte(b)));
        prop_assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
        prop_assert_eq!(target.query(), text.split_once('?').map(|(_, query)| query));
        Ok(())
    }

    proptest! {
        #[test]
        fn normal_forms_are_stable(text in tricky()) { holds(&text)?; }

        #[test]
        fn any_text_is_no_panic(text in "\\PC{0,40}|/[ -~]{0,40}") { holds(&text)?; }
    }
}
