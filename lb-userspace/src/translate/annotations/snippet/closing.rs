//! Which directives decide who gets in.

use super::syntax::{Block, Directive};

/// What such a directive's name begins with. `include` may hold any of them.
const CLOSING: [&str; 13] = [
    "access_by_lua",
    "allow",
    "auth",
    "content_by_lua",
    "deny",
    "include",
    "internal",
    "limit_except",
    "rewrite_by_lua",
    "satisfy",
    "secure_link",
    "ssl_verify_client",
    "valid_referers",
];

/// Whether the directive, or one within it, restricts access.
pub(super) fn is(directive: &Directive) -> bool {
    closes(directive.name(), directive.arguments().first().map(String::as_str))
        || match &directive.block {
            Some(Block::Directives(inner)) => inner.iter().any(is),
            Some(Block::Lua) | None => false,
        }
}

/// The same for a text that can't be read. Comments and quotes are not understood: what looks like
/// such a directive inside of them counts too.
pub(super) fn in_text(text: &str) -> bool {
    text.split(['{', '}', ';', '\n', '\r']).any(|statement| {
        let mut words = statement.split_ascii_whitespace().map(|word| word.trim_matches(['"', '\'']));
        let name = words.next().unwrap_or_default();
        closes(name, words.next())
    })
}

fn closes(name: &str, argument: Option<&str>) -> bool {
    match (name, argument) {
        // A status of refusal, or one that only nginx could work out.
        ("return", Some(status)) => status.starts_with(['4', '5', '$']),
        // What is switched off restricts nobody.
        (name, Some("off")) if name.starts_with("auth_") => false,
        _ => CLOSING.iter().any(|closing| name.starts_with(closing)),
    }
}
