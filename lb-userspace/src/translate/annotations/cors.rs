//! Cross-origin resource sharing.

use std::sync::Arc;

use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::{Cors, Origin};

const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,\
                       Range,Authorization";
/// Requests are compared with one after the other.
const MOST: usize = 256;
/// Twenty days; browsers cut it to less.
const MAX_AGE: u32 = 1_728_000;

/// Reads `enable-cors` and `cors-*`.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Arc<Cors>> {
    let enabled = reader.get("enable-cors", values::boolean).unwrap_or_default();
    let origins = match reader.text("cors-allow-origin") {
        Some(list) => origins(reader, list),
        None => vec![Origin::Any],
    };
    let methods = reader.get("cors-allow-methods", |text| words(text, |b| b.is_ascii_alphabetic()));
    let headers = reader.get("cors-allow-headers", |text| words(text, values::is_token));
    let expose = reader.get("cors-expose-headers", |text| words(text, values::is_token));
    let credentials = reader.get("cors-allow-credentials", values::boolean).unwrap_or(true);
    let max_age = reader.get("cors-max-age", values::count).unwrap_or(MAX_AGE);
    // Nobody is what remains of origins of which none can be read; that is less than was asked for,
    // where everybody would be more.
    (enabled && !origins.is_empty()).then(|| {
        Arc::new(Cors {
            origins,
            methods: methods.unwrap_or_else(|| METHODS.into()),
            headers: headers.unwrap_or_else(|| HEADERS.into()),
            expose,
            credentials,
            max_age,
        })
    })
}

fn origins(reader: &mut Reader<'_>, list: &str) -> Vec<Origin> {
    let (mut origins, mut bad) = (Vec::new(), Vec::new());
    for text in values::list(list) {
        match origin(text) {
            Some(Origin::Any) => return vec![Origin::Any],
            Some(origin) if origins.len() < MOST => origins.push(origin),
            _ => bad.push(text),
        }
    }
    reader.bad_items(
        "cors-allow-origin",
        &bad,
        "is no origin, or comes after 256 others,",
        "write https://host, https://*.domain or *",
    );
    origins.sort_by_cached_key(|origin| format!("{origin:?}"));
    origins.dedup();
    origins
}

/// `*`, `scheme://host[:port]`, `scheme://*.domain[:port]`.
fn origin(text: &str) -> Option<Origin> {
    if text == "*" {
        return Some(Origin::Any);
    }
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if !scheme_ok || !port_ok || text.len() > 512 || !name.split('.').all(label) {
        return None;
    }
    Some(match authority.strip_prefix('*') {
        Some(end) => Origin::Between(format!("{scheme}://").into(), end.into()),
        None => Origin::Exact(text.into()),
    })
}

/// Words with commas between, as they go into a header.
fn words(text: &str, letter: impl Fn(u8) -> bool) -> Read<Arc<str>> {
    let fits = |word: &str| word.bytes().all(&letter);
    if text.len() > 4096 || values::list(text).next().is_none() || !values::list(text).all(fits) {
        return Err(Bad::new("is no list of names", "write names with commas between"));
    }
    Ok(text.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_that_can_be_read() {
        for (text, expect) in [
            ("*", Some(Origin::Any)),
            ("https://Example.com", Some(Origin::Exact("https://example.com".into()))),
            ("http://example.com:8080", Some(Origin::Exact("http://example.com:8080".into()))),
            (
                "https://*.example.com:8443",
                Some(Origin::Between("https://".into(), ".example.com:8443".into())),
            ),
            ("capacitor://localhost", Some(Origin::Exact("capacitor://localhost".into()))),
            ("example.com", None),
            ("https://", None),
            ("https://a*.example.com", None),
            ("https://*", None),
            ("https://example.com/", None),
            ("https://example.com:0", None),
            ("https://a b", None),
            ("null", None),
            ("https://example.com\r\nx: y", None),
        ] {
            assert_eq!(origin(text), expect, "{text}");
        }
    }
}
