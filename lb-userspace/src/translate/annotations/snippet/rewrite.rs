//! `return` and `rewrite`, as far as they treat every request alike.

use crate::model::{Redirect, RewriteTarget, TemplatePart, Variable};
use crate::translate::annotations::values::{self, Bad, Read};

/// Statuses of `return` that carry a URL.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// `return STATUS [TEXT|URL]`, `return URL`.
pub(super) fn returned(arguments: &[String]) -> Read<Redirect> {
    let bad = || {
        Bad::new("has a return that is not understood", "write return STATUS and a text or an absolute URL")
    };
    let (status, text) = match arguments {
        [url] if url.contains("://") => (302, Some(url)),
        [status] => (status.parse().map_err(|_| bad())?, None),
        [status, text] => (status.parse().map_err(|_| bad())?, Some(text)),
        _ => return Err(bad()),
    };
    match (status, text) {
        (status, Some(url)) if REDIRECTS.contains(&status) => Ok(Redirect { status, to: values::url(url)? }),
        // nginx's 444 closes the connection; 1xx ends nothing.
        (444 | ..=199 | 600.., _) => Err(bad()),
        (status, None) if REDIRECTS.contains(&status) => Err(bad()),
        (status, text) => {
            Ok(Redirect { status, to: text.map(|text| values::lines(text)).transpose()?.unwrap_or_default() })
        }
    }
}

/// What a `rewrite` does with every request.
#[derive(Debug, PartialEq)]
pub(super) enum Rewrite {
    Redirect(Redirect),
    Path(RewriteTarget),
}

/// `rewrite REGEX REPLACEMENT [FLAG]` whose expression fits every path.
pub(super) fn rewritten(arguments: &[String]) -> Read<Rewrite> {
    let bad = |is: &'static str| Bad::new(is, "use rewrite-target, permanent-redirect or temporal-redirect");
    let (regex, replacement, flag) = match arguments {
        [regex, replacement] => (regex, replacement, ""),
        [regex, replacement, flag] => (regex, replacement, flag.as_str()),
        _ => return Err(bad("has a rewrite that is not understood")),
    };
    // Where in the path the first capture begins, if there is one.
    let captured = match regex.as_str() {
        "^" | ".*" | "^.*$" | "^.*" | "/" | "^/" | "^/.*$" | "^/.*" => None,
        "(.*)" | "^(.*)$" | "^(.*)" => Some(""),
        "/(.*)" | "^/(.*)$" | "^/(.*)" => Some("/"),
        _ => return Err(bad("has a rewrite of some paths alone")),
    };
    let (text, keeps_query) = match replacement.strip_suffix('?') {
        Some(text) => (text, false),
        None => (replacement.as_str(), true),
    };
    let status = match (flag, text.contains("://")) {
        ("permanent", _) => Some(301),
        ("redirect", _) | ("", true) => Some(302),
        ("" | "last" | "break", false) => None,
        _ => return Err(bad("has a rewrite that is not understood")),
    };
    let Some(status) = status else {
        let path = super::super::matching::rewrite_target(text)?;
        return match path {
            RewriteTarget::Replace(_) => Ok(Rewrite::Path(path)),
            RewriteTarget::Captures(_) => Err(bad("has a rewrite with captures")),
        };
    };
    let mut to = values::with_captures(text)?;
    for at in 0..to.0.len() {
        let TemplatePart::Variable(Variable::Capture(number)) = to.0[at] else { continue };
        let (Some(missing), 1) = (captured, number) else {
            return Err(bad("has a rewrite with captures that are not there"));
        };
        if !missing.is_empty() {
            // `/$1` of `^/(.*)` is the path, which begins with the slash.
            let Some(TemplatePart::Text(before)) = at.checked_sub(1).and_then(|at| to.0.get_mut(at)) else {
                return Err(bad("has a rewrite that takes the path without its slash"));
            };
            let Some(short) = before.strip_suffix('/') else {
                return Err(bad("has a rewrite that takes the path without its slash"));
            };
            *before = short.into();
        }
        to.0[at] = TemplatePart::Variable(Variable::Path);
    }
    if keeps_query {
        to.0.extend([Variable::IsArgs, Variable::Query].map(TemplatePart::Variable));
    }
    let shown = to.to_string();
    values::url(&shown)?;
    Ok(Rewrite::Redirect(Redirect { status, to }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn returns() {
        for (text, expect) in [
            ("403", Some("403 ")),
            ("200 ok", Some("200 ok")),
            ("200 $host", Some("200 ${host}")),
            ("301 https://example.com$request_uri", Some("301 https://example.com${request_uri}")),
            ("https://example.com/", Some("302 https://example.com/")),
            ("301 /path", None),
            ("301", None),
            ("444", None),
            ("$status", None),
            ("99", None),
            ("200 a b", None),
            ("", None),
            ("200 $nope", None),
        ] {
            let shown = returned(&words(text)).ok().map(|r| format!("{} {}", r.status, r.to));
            assert_eq!(shown.as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn rewrites() {
        for (text, expect) in [
            (
                "^ https://b.example.com$request_uri? permanent",
                Some("301 https://b.example.com${request_uri}"),
            ),
            (
                "^(.*)$ https://b.example.com$1 permanent",
                Some("301 https://b.example.com${uri}${is_args}${args}"),
            ),
            (
                "^/(.*)$ https://b.example.com/$1 redirect",
                Some("302 https://b.example.com${uri}${is_args}${args}"),
            ),
            ("^/(.*)$ https://b.example.com/x/$1? redirect", Some("302 https://b.example.com/x${uri}")),
            (".* https://b.example.com/", Some("302 https://b.example.com/${is_args}${args}")),
            ("^ /index.html break", Some("/index.html")),
            ("^/(.*)$ https://b.example.com$1 redirect", None),
            ("^/(.*)$ https://b.example.com/$2 redirect", None),
            ("^ https://b.example.com/$1 redirect", None),
            ("^/old/(.*)$ /new/$1 break", None),
            ("^ /x/$1 break", None),
            ("^ /x permanent", None),
            ("^ https://x/ sometimes", None),
            ("^", None),
        ] {
            let shown = rewritten(&words(text)).ok().map(|found| match found {
                Rewrite::Redirect(redirect) => format!("{} {}", redirect.status, redirect.to),
                Rewrite::Path(RewriteTarget::Replace(path)) => path.to_string(),
                Rewrite::Path(RewriteTarget::Captures(template)) => template.to_string(),
            });
            assert_eq!(shown.as_deref(), expect, "{text}");
        }
    }
}
