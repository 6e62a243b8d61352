//! Cross-origin requests (fetch.spec.whatwg.org, "HTTP-CORS protocol"), answered as ingress-nginx does.
//!
//! `OPTIONS` from an origin that is let in gets 204 here and never reaches the endpoint. All other
//! answers get the headers, in place of those that the endpoint gave. Requests from other origins
//! pass without them: it is the browser that keeps their answers from the page.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONTENT_TYPE,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Response, StatusCode};

use super::facts::Facts;
use crate::model::{Cors as Rules, Origin};

/// A route's rules, as the headers that they become.
#[derive(Debug)]
pub(super) struct Cors {
    origins: Vec<Origin>,
    any: bool,
    fixed: Vec<(HeaderName, HeaderValue)>,
    max_age: HeaderValue,
}

impl Cors {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut fixed = Vec::new();
        let mut add = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value)
                && !value.is_empty()
            {
                fixed.push((name, value));
            }
        };
        if rules.credentials {
            add(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        add(ACCESS_CONTROL_ALLOW_METHODS, &rules.methods);
        add(ACCESS_CONTROL_ALLOW_HEADERS, &rules.headers);
        add(ACCESS_CONTROL_EXPOSE_HEADERS, rules.expose.as_deref().unwrap_or_default());
        Self {
            any: rules.origins.contains(&Origin::Any),
            origins: rules.origins.clone(),
            fixed,
            max_age: rules.max_age.into(),
        }
    }

    /// The answer to a preflight.
    pub(super) fn preflight(&self, facts: &Facts<'_>) -> Option<Response<Bytes>> {
        if facts.parts.method != Method::OPTIONS {
            return None;
        }
        self.origin(facts.header(ORIGIN.as_str()))?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Some(response)
    }

    /// Writes the headers of an answer.
    pub(super) fn write(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if !self.any {
            // The answer differs by origin even if this one is not let in.
            headers.append(VARY, HeaderValue::from_name(ORIGIN));
        }
        let Some(allowed) = self.origin(origin) else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        for (name, value) in &self.fixed {
            headers.insert(name, value.clone());
        }
    }

    /// `Access-Control-Allow-Origin` for a request; `None` if its origin is not let in.
    fn origin(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = origin?;
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        self.origins.iter().any(|one| matches(one, &text)).then(|| origin.clone())
    }
}

fn matches(rule: &Origin, origin: &str) -> bool {
    match rule {
        Origin::Any => true,
        Origin::Exact(text) => **text == *origin,
        Origin::Between(begin, end) => {
            let Some(labels) = origin.strip_prefix(&**begin).and_then(|rest| rest.strip_suffix(&**end))
            else {
                return false;
            };
            labels.split('.').all(|label| {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
                !label.is_empty() && label.bytes().all(fits)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let exact = Origin::Exact("https://example.com".into());
        let below = Origin::Between("https://".into(), ".example.com".into());
        let port = Origin::Between("http://".into(), ".example.com:8080".into());
        for (rule, origin, expect) in [
            (&exact, "https://example.com", true),
            (&exact, "http://example.com", false),
            (&exact, "https://example.com:8443", false),
            (&exact, "https://example.com.evil.org", false),
            (&exact, "null", false),
            (&below, "https://a.example.com", true),
            (&below, "https://a.b.example.com", true),
            (&below, "https://example.com", false),
            (&below, "https://.example.com", false),
            (&below, "https://a..example.com", false),
            (&below, "https://evil.org/.example.com", false),
            (&below, "https://evil.org:1.example.com", false),
            (&below, "https://u@a.example.com", false),
            (&below, "https://aexample.com", false),
            (&below, "https://.example.co", false),
            (&port, "http://a.example.com:8080", true),
            (&port, "http://a.example.com", false),
            (&Origin::Any, "null", true),
        ] {
            assert_eq!(matches(rule, origin), expect, "{rule:?} {origin}");
        }
    }
}
