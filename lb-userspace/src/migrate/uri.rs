//! How nginx reads a request's path before it looks for a location.

/// The decoded path without dot segments and empty ones, as nginx compares it (`merge_slashes on`).
/// Unlike in Sluice, an escaped slash becomes a slash. `None`: nginx answers 400.
pub(super) fn decode(target: &str) -> Option<String> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    if rest.first() != Some(&b'/') {
        return None;
    }
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let decoded = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
        if decoded == 0 {
            return None;
        }
        bytes.push(decoded);
        rest = after;
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut segments: Vec<&str> = Vec::new();
    // A path that ends in a slash or a dot segment keeps a slash at its end.
    let mut open = false;
    for segment in text.split('/').skip(1) {
        open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            // Unlike in Sluice, leaving the root is refused.
            ".." => drop(segments.pop()?),
            _ => segments.push(segment),
        }
    }
    let mut path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
    if open || path.is_empty() {
        path.push('/');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (target, expect) in [
            ("/", Some("/")),
            ("/foo", Some("/foo")),
            ("/foo/", Some("/foo/")),
            ("/foo?a=/b", Some("/foo")),
            ("//a///b", Some("/a/b")),
            ("/a/./b/../c", Some("/a/c")),
            ("/a/..", Some("/")),
            ("/a/b/..", Some("/a/")),
            ("/a%2fb", Some("/a/b")),
            ("/a/%2e%2e/b", Some("/b")),
            ("/a%20b", Some("/a b")),
            ("/caf%C3%A9", Some("/café")),
            ("/..", None),
            ("/%00", None),
            ("/%zz", None),
            ("/%4", None),
            ("foo", None),
            ("", None),
        ] {
            assert_eq!(decode(target).as_deref(), expect, "{target}");
        }
    }
}
