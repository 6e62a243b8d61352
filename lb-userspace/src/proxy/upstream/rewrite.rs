//! Answers that name the endpoint's own address or path, put right for the client.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use regex::bytes::Regex;

use crate::model::{ResponseRewrite, Substitution, Template, TemplatePart, Variable, Wanted};

const REFRESH: HeaderName = header::REFRESH;

/// A route's rules, ready to be applied.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Rewrites {
    location: Vec<Rule>,
    cookie_domain: Vec<Rule>,
    cookie_path: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    from: From,
    to: Template,
}

#[derive(Debug)]
enum From {
    Plain(Template),
    Regex(Regex),
}

impl Rewrites {
    pub(in crate::proxy) fn new(rules: &ResponseRewrite) -> Self {
        let all = |rules: &[Substitution]| rules.iter().filter_map(Rule::new).collect();
        Self {
            location: all(&rules.location),
            cookie_domain: all(&rules.cookie_domain),
            cookie_path: all(&rules.cookie_path),
        }
    }

    /// Applies them to the head of an answer. `fill` fills in a template for the request.
    pub(in crate::proxy) fn apply(&self, headers: &mut HeaderMap, fill: impl Fn(&Template) -> Vec<u8>) {
        if !self.location.is_empty() {
            for name in [header::LOCATION, REFRESH] {
                let Some(value) = headers.get(&name) else { continue };
                // `5; url=http://…`: what stands before the address stays.
                let start = if name == REFRESH { url_of_refresh(value.as_bytes()) } else { Some(0) };
                let Some((before, url)) = start.and_then(|start| value.as_bytes().split_at_checked(start))
                else {
                    continue;
                };
                let new = self.location.iter().find_map(|rule| {
                    let new = rule.replace(url, &fill, |from, url| url.strip_prefix(from))?;
                    HeaderValue::from_bytes(&[before, &new].concat()).ok()
                });
                if let Some(new) = new {
                    headers.insert(name, new);
                }
            }
        }
        if (self.cookie_domain.is_empty() && self.cookie_path.is_empty())
            || !headers.contains_key(header::SET_COOKIE)
        {
            return;
        }
        let cookies: Vec<_> =
            headers.get_all(header::SET_COOKIE).iter().map(|one| self.cookie(one, &fill)).collect();
        headers.remove(header::SET_COOKIE);
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie);
        }
    }

    fn cookie(&self, value: &HeaderValue, fill: &impl Fn(&Template) -> Vec<u8>) -> HeaderValue {
        let mut new = Vec::with_capacity(value.len());
        for (index, part) in value.as_bytes().split(|byte| *byte == b';').enumerate() {
            if index > 0 {
                new.push(b';');
            }
            let replaced = (index > 0).then(|| self.attribute(part, fill)).flatten();
            new.extend_from_slice(replaced.as_deref().unwrap_or(part));
        }
        HeaderValue::from_bytes(&new).unwrap_or_else(|_| value.clone())
    }

    /// ` Domain=…` or ` Path=…` as a rule has it.
    fn attribute(&self, part: &[u8], fill: &impl Fn(&Template) -> Vec<u8>) -> Option<Vec<u8>> {
        let equals = part.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&part[..equals], part[equals + 1..].trim_ascii());
        let new = if name.trim_ascii().eq_ignore_ascii_case(b"domain") {
            let bare = value.strip_prefix(b".").unwrap_or(value);
            let whole: Whole = |from, bare| {
                let from = from.strip_prefix(b".").unwrap_or(from);
                bare.eq_ignore_ascii_case(from).then_some(&[])
            };
            self.cookie_domain.iter().find_map(|rule| rule.replace(bare, fill, whole))
        } else if name.trim_ascii().eq_ignore_ascii_case(b"path") {
            self.cookie_path
                .iter()
                .find_map(|rule| rule.replace(value, fill, |from, path| path.strip_prefix(from)))
        } else {
            None
        };
        // One that ends early would begin another attribute.
        new.filter(|new| !new.contains(&b';')).map(|new| [name, b"=", &new[..]].concat())
    }
}

/// What stays of a text behind `from`, if that is in it.
type Whole = for<'t> fn(&[u8], &'t [u8]) -> Option<&'t [u8]>;

impl Rule {
    fn new(rule: &Substitution) -> Option<Self> {
        let from = match &rule.from {
            Wanted::Plain(text) => From::Plain(text.clone()),
            // It compiles, as the model promises; where not, nothing is replaced.
            Wanted::Regex(regex) => From::Regex(Regex::new(regex).ok()?),
        };
        Some(Self { from, to: rule.to.clone() })
    }

    /// The text with what takes the place of what is looked for; `None` if that is not in it.
    fn replace(&self, text: &[u8], fill: &impl Fn(&Template) -> Vec<u8>, plain: Whole) -> Option<Vec<u8>> {
        match &self.from {
            From::Plain(from) => {
                let rest = plain(&fill(from), text)?;
                Some([&fill(&self.to), rest].concat())
            }
            From::Regex(regex) => {
                let captures = regex.captures(text)?;
                let mut new = Vec::new();
                for part in &self.to.0 {
                    match part {
                        TemplatePart::Variable(Variable::Capture(number)) => {
                            let group = captures.get(usize::from(*number));
                            new.extend_from_slice(group.map_or(&[][..], |group| group.as_bytes()));
                        }
                        part => new.extend(fill(&Template(vec![part.clone()]))),
                    }
                }
                Some(new)
            }
        }
    }
}

/// Where the address of `Refresh` begins.
fn url_of_refresh(value: &[u8]) -> Option<usize> {
    let marker = b"url=";
    value.windows(marker.len()).position(|part| part.eq_ignore_ascii_case(marker)).map(|at| at + marker.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_headers() {
        let rule = |from: &str, to: &str| {
            let from = match from.strip_prefix('~') {
                Some(regex) => Wanted::Regex(regex.into()),
                None => Wanted::literal(from),
            };
            Substitution { from, to: Template::parse(to).expect("a template") }
        };
        let rules = Rewrites::new(&ResponseRewrite {
            location: vec![
                rule("http://inner:8080/", "https://outer/"),
                rule("/app/", "/"),
                rule("~^http://([a-z]+)\\.inner(:[0-9]+)?(/.*)$", "https://outer/$1$3"),
            ],
            cookie_domain: vec![rule("inner.test", "outer.test"), rule("~([a-z]+)\\.inner$", "$1.outer")],
            cookie_path: vec![
                rule("/app", "/web"),
                rule("~^/(v[0-9]+)", "/$1;Domain=evil"),
                rule("~o(.)", "/$1"),
            ],
        });
        for (name, value, expect) in [
            ("location", "http://inner:8080/a?b", "https://outer/a?b"),
            ("location", "/app/x", "/x"),
            ("location", "http://other/", "http://other/"),
            ("location", "http://shop.inner:8080/a?b", "https://outer/shop/a?b"),
            ("location", "http://SHOP.inner/a", "http://SHOP.inner/a"),
            ("refresh", "0;URL=http://shop.inner/", "0;URL=https://outer/shop/"),
            ("set-cookie", "a=b; Domain=x.inner", "a=b; Domain=x.outer"),
            ("set-cookie", "a=b; Path=/v1/x; Secure", "a=b; Path=/v1/x; Secure"),
            ("set-cookie", "a=b; Path=/foo/x", "a=b; Path=/o"),
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
            rules.apply(&mut headers, fill);
            assert_eq!(headers[name], expect, "{name}: {value}");
        }
    }
}
