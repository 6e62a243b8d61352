//! `server-alias`: more names for what an Ingress serves.
//!
//! nginx takes regular expressions there (`~^www\d\.example\.com$`). Hosts here are looked up by a hash
//! and by SNI in the kernel, neither of which an expression has a place in; but most expressions that
//! people write stand for a few names, or for all names of one label below a domain. Those are read as
//! what they stand for, and cost what names cost. The others are refused, with the wildcard that comes
//! nearest.

use std::collections::BTreeMap;

use regex_syntax::hir::literal::{Extractor, Seq};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::reader::Reader;
use super::values;
use crate::model::HostPattern;

/// Each rule is there once for each alias.
const MOST_ALIASES: usize = 256;
/// Longer expressions are refused unread.
const LONGEST: usize = 1024;
/// So many remedies are told of one annotation.
const MOST_REMEDIES: usize = 4;

/// Reads `server-alias`.
pub(super) fn aliases(reader: &mut Reader<'_>) -> Vec<HostPattern> {
    let (mut aliases, mut bad) = (Vec::new(), Vec::new());
    let mut refused: BTreeMap<Option<String>, Vec<&str>> = BTreeMap::new();
    for name in reader.text("server-alias").into_iter().flat_map(values::list) {
        let room = MOST_ALIASES.saturating_sub(aliases.len());
        if let Some(regex) = name.strip_prefix('~') {
            match hosts(regex) {
                Ok(hosts) if hosts.len() <= room => aliases.extend(hosts),
                Ok(_) => bad.push(name),
                Err(nearest) if refused.len() < MOST_REMEDIES || refused.contains_key(&nearest) => {
                    refused.entry(nearest).or_default().push(name);
                }
                Err(_) => refused.entry(None).or_default().push(name),
            }
            continue;
        }
        match HostPattern::parse(name) {
            Ok(host) if host != HostPattern::Any && room > 0 => aliases.push(host),
            _ => bad.push(name),
        }
    }
    reader.bad_items(
        "server-alias",
        &bad,
        "is no DNS name or wildcard like *.example.com, or comes after 256 others,",
        "write each name out",
    );
    for (nearest, regexes) in refused {
        let wildcard = nearest.unwrap_or_else(|| "a wildcard like *.example.com".to_owned());
        let remedy = format!("write each name out, or {wildcard}, which takes one label in the star's place");
        let is = "is a regular expression that comes neither to a list of at most 256 names nor to any one label \
                   (^[^.]+\\.example\\.com$), and hosts are compared with no others,";
        reader.bad_items("server-alias", &regexes, is, &remedy);
    }
    aliases.sort_unstable();
    aliases.dedup();
    aliases
}

/// The hosts that an expression stands for: no more and no fewer. Otherwise the wildcard that comes
/// nearest, if one does.
fn hosts(regex: &str) -> Result<Vec<HostPattern>, Option<String>> {
    if regex.len() > LONGEST {
        return Err(None);
    }
    // nginx compares whatever the case of letters; hosts are compared in lower case.
    let mut parser = regex_syntax::ParserBuilder::new();
    let hir = parser.utf8(false).unicode(false).build().parse(regex).map_err(|_| None)?;
    let parts = match hir.kind() {
        HirKind::Concat(parts) => &parts[..],
        _ => return Err(None),
    };
    let nearest = || parts.iter().rev().find_map(domain).map(|domain| format!("*.{domain}"));
    let [first, inner @ .., last] = parts else { return Err(None) };
    // Without both anchors any name that contains the expression matches.
    let anchored = [(first, Look::Start), (last, Look::End)]
        .into_iter()
        .all(|(part, look)| matches!(part.kind(), HirKind::Look(at) if *at == look));
    if !anchored || inner.iter().any(|part| !part.properties().look_set().is_empty()) {
        return Err(nearest());
    }
    if let [label, domain] = inner
        && is_any_label(label)
        && let HirKind::Literal(literal) = domain.kind()
        && let Some(domain) = std::str::from_utf8(&literal.0).ok().and_then(|text| text.strip_prefix('.'))
    {
        return HostPattern::parse(&format!("*.{domain}")).map(|host| vec![host]).map_err(|_| None);
    }
    let names = names(&Hir::concat(inner.to_vec()));
    let names = names.literals().filter(|_| names.is_exact()).ok_or_else(nearest)?;
    let name = |literal: &regex_syntax::hir::literal::Literal| {
        let text = std::str::from_utf8(literal.as_bytes()).ok()?;
        // What is no name is nobody's host; `*.` would become a wildcard that the expression is not.
        HostPattern::parse(text).ok().filter(|host| matches!(host, HostPattern::Exact(_)))
    };
    let mut hosts: Vec<_> = names.iter().filter_map(name).collect();
    hosts.sort_unstable();
    hosts.dedup();
    if hosts.is_empty() { Err(None) } else { Ok(hosts) }
}

/// All texts that an expression matches, if they are few.
fn names(hir: &Hir) -> Seq {
    Extractor::new()
        .limit_class(64)
        .limit_repeat(8)
        .limit_literal_len(254)
        .limit_total(MOST_ALIASES)
        .extract(hir)
}

/// Whether it matches any label of a name and nothing with a dot: `[^.]+`, `[a-z0-9-]+`.
fn is_any_label(part: &Hir) -> bool {
    match part.kind() {
        HirKind::Capture(group) => is_any_label(&group.sub),
        HirKind::Repetition(many) if many.min == 1 && many.max.is_none() => {
            let HirKind::Class(Class::Bytes(class)) = many.sub.kind() else { return false };
            let has = |byte: u8| class.iter().any(|range| (range.start()..=range.end()).contains(&byte));
            let letter = |byte: u8| has(byte) || has(byte.to_ascii_uppercase());
            !has(b'.') && has(b'-') && (b'0'..=b'9').all(has) && (b'a'..=b'z').all(letter)
        }
        _ => false,
    }
}

/// The domain that names end with, by the literal text at the end of an expression: two labels or more.
fn domain(part: &Hir) -> Option<String> {
    let HirKind::Literal(literal) = part.kind() else { return None };
    let (_, domain) = std::str::from_utf8(&literal.0).ok()?.split_once('.')?;
    match HostPattern::parse(domain) {
        Ok(HostPattern::Exact(name)) if name.contains('.') => Some(name.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expressions_stand_for() {
        for (regex, expect) in [
            (r"^www\.example\.com$", Ok(vec!["www.example.com"])),
            (r"^(www\.)?example\.com$", Ok(vec!["example.com", "www.example.com"])),
            (
                r"^(?<who>a|b|WWW)\.example\.(com|org)$",
                Ok(vec![
                    "a.example.com",
                    "a.example.org",
                    "b.example.com",
                    "b.example.org",
                    "www.example.com",
                    "www.example.org",
                ]),
            ),
            (
                r"^www[1-3]\.example\.com$",
                Ok(vec!["www1.example.com", "www2.example.com", "www3.example.com"]),
            ),
            // The case of letters does not matter.
            (r"^[aA]\.Example\.com$", Ok(vec!["a.example.com"])),
            (r"^[^.]+\.example\.com$", Ok(vec!["*.example.com"])),
            (r"^(?P<tenant>[a-z0-9-]+)\.example\.com$", Ok(vec!["*.example.com"])),
            // A dot is any byte, and of those only names count.
            (r"^a.c\.example\.com$", Err(Some("*.example.com"))),
            (r"^.+\.example\.com$", Err(Some("*.example.com"))),
            (r"^[a-z]+\.example\.com$", Err(Some("*.example.com"))),
            (r"^\d\d\d\.example\.com$", Err(Some("*.example.com"))),
            // Whatever comes before or after.
            (r"www\.example\.com$", Err(Some("*.example.com"))),
            (r"^www\.example\.com", Err(Some("*.example.com"))),
            (r"^www\.", Err(None)),
            (r"^a$|^b\.example\.com$", Err(None)),
            (r"^\bwww\.example\.com$", Err(Some("*.example.com"))),
            (r"^(?!www)[a-z]+\.example\.com$", Err(None)),
            (r"^(", Err(None)),
            ("", Err(None)),
            ("x", Err(None)),
            (r"^\*\.example\.com$", Err(None)),
        ] {
            let got = hosts(regex).map(|hosts| hosts.iter().map(ToString::to_string).collect::<Vec<_>>());
            let expect = expect.map(|all| all.into_iter().map(str::to_owned).collect());
            assert_eq!(got, expect.map_err(|wildcard| wildcard.map(str::to_owned)), "{regex}");
        }
        assert_eq!(hosts(&format!("^{}$", "a?".repeat(600))), Err(None), "too long to be read");
        assert_eq!(hosts(&format!("^{}$", "[ab]{8}".repeat(100))), Err(None));
    }
}
