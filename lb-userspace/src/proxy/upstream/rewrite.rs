//! Answers that name the endpoint's own address or path, put right for the client.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::model::{ResponseRewrite, Template};

const REFRESH: HeaderName = header::REFRESH;

/// Applies a route's rules to the head of an answer. `fill` fills in a template for the request.
pub(in crate::proxy) fn rewrite(
    rules: &ResponseRewrite,
    headers: &mut HeaderMap,
    fill: impl Fn(&Template) -> Vec<u8>,
) {
    if !rules.location.is_empty() {
        for name in [header::LOCATION, REFRESH] {
            let Some(value) = headers.get(&name) else { continue };
            // `5; url=http://…`: what stands before the address stays.
            let start = if name == REFRESH { url_of_refresh(value.as_bytes()) } else { Some(0) };
            let Some((before, url)) = start.and_then(|start| value.as_bytes().split_at_checked(start)) else {
                continue;
            };
            let new = rules.location.iter().find_map(|(from, to)| {
                let rest = url.strip_prefix(&*fill(from))?;
                HeaderValue::from_bytes(&[before, &fill(to), rest].concat()).ok()
            });
            if let Some(new) = new {
                headers.insert(name, new);
            }
        }
    }
    if (rules.cookie_domain.is_empty() && rules.cookie_path.is_empty())
        || !headers.contains_key(header::SET_COOKIE)
    {
        return;
    }
    let cookies: Vec<_> = headers.get_all(header::SET_COOKIE).iter().map(|one| cookie(rules, one)).collect();
    headers.remove(header::SET_COOKIE);
    for cookie in cookies {
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Where the address of `Refresh` begins.
fn url_of_refresh(value: &[u8]) -> Option<usize> {
    let marker = b"url=";
    value.windows(marker.len()).position(|part| part.eq_ignore_ascii_case(marker)).map(|at| at + marker.len())
}

fn cookie(rules: &ResponseRewrite, value: &HeaderValue) -> HeaderValue {
    let mut new = Vec::with_capacity(value.len());
    for (index, part) in value.as_bytes().split(|byte| *byte == b';').enumerate() {
        if index > 0 {
            new.push(b';');
        }
        let replaced = (index > 0).then(|| attribute(rules, part)).flatten();
        new.extend_from_slice(replaced.as_deref().unwrap_or(part));
    }
    HeaderValue::from_bytes(&new).unwrap_or_else(|_| value.clone())
}

/// ` Domain=…` or ` Path=…` as a rule has it.
fn attribute(rules: &ResponseRewrite, part: &[u8]) -> Option<Vec<u8>> {
    let equals = part.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&part[..equals], part[equals + 1..].trim_ascii());
    let new = if name.trim_ascii().eq_ignore_ascii_case(b"domain") {
        let bare = value.strip_prefix(b".").unwrap_or(value);
        rules.cookie_domain.iter().find_map(|(from, to)| {
            let from = from.strip_prefix('.').unwrap_or(from);
            bare.eq_ignore_ascii_case(from.as_bytes()).then(|| to.as_bytes().to_vec())
        })
    } else if name.trim_ascii().eq_ignore_ascii_case(b"path") {
        rules.cookie_path.iter().find_map(|(from, to)| {
            value.strip_prefix(from.as_bytes()).map(|rest| [to.as_bytes(), rest].concat())
        })
    } else {
        None
    };
    new.map(|new| [name, b"=", &new[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_headers() {
        let template = Template::literal;
        let rules = ResponseRewrite {
            location: vec![
                (template("http://inner:8080/"), template("https://outer/")),
                (template("/app/"), template("/")),
            ],
            cookie_domain: vec![("inner.test".into(), "outer.test".into())],
            cookie_path: vec![("/app".into(), "/web".into())],
        };
        for (name, value, expect) in [
            ("location", "http://inner:8080/a?b", "https://outer/a?b"),
            ("location", "/app/x", "/x"),
            ("location", "http://other/", "http://other/"),
            ("refresh", "5; url=http://inner:8080/a", "5; url=https://outer/a"),
            ("refresh", "5", "5"),
            (
                "set-cookie",
                "a=b; Domain=.INNER.test; Path=/app/x; Secure",
                "a=b; Domain=outer.test; Path=/web/x; Secure",
            ),
            ("set-cookie", "a=b; domain=other.test; path=/", "a=b; domain=other.test; path=/"),
            ("set-cookie", "path=/app; x", "path=/app; x"),
            ("x-other", "/app/x", "/app/x"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let fill = |template: &Template| template.as_literal().unwrap_or_default().as_bytes().to_vec();
            rewrite(&rules, &mut headers, fill);
            assert_eq!(headers[name], expect, "{name}: {value}");
        }
    }
}
