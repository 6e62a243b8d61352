//! Another server decides who gets in.

use std::sync::Arc;
use std::time::Duration;

use super::access::within;
use super::reader::Reader;
use super::snippet;
use super::values::{self, Bad, Read};
use crate::model::{ExternalAuth, HeaderEdit, ObjectKey, Template};

/// The parameter of the sign-in page that gets the address the client wanted.
const REDIRECT_PARAM: &str = "rd";
/// How long answers are kept, where they are and nothing else is said.
const CACHE: [(u16, Duration); 3] =
    [(200, Duration::from_secs(300)), (202, Duration::from_secs(300)), (401, Duration::from_secs(300))];

/// What is asked, and the ConfigMap with more headers of the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct External {
    pub(super) auth: Option<Arc<ExternalAuth>>,
    pub(super) headers: Option<ObjectKey>,
}

/// Reads `auth-url` and what belongs to it. `prefix` is `auth-`, or `global-auth-` in settings.
pub(super) fn read(reader: &mut Reader<'_>, prefix: &str, cross_namespace: bool) -> External {
    let name = |rest: &str| format!("{prefix}{rest}");
    let url = reader.get_closing(&name("url"), values::url);
    let method = reader.get(&name("method"), method);
    let signin = reader.get(&name("signin"), values::url);
    let param = reader.get(&name("signin-redirect-param"), parameter);
    // An endpoint that believes these headers would believe the client's own without them.
    let response_headers = reader.get_closing(&name("response-headers"), values::header_names);
    let request_redirect = reader.get(&name("request-redirect"), values::header_value);
    let always_set_cookie = reader.get(&name("always-set-cookie"), values::boolean).unwrap_or_default();
    let key = reader.get(&name("cache-key"), cache_key);
    let durations = match reader.text(&name("cache-duration")) {
        // Nothing is kept rather than for longer than was asked.
        Some(_) => reader.get(&name("cache-duration"), durations),
        None => Some(CACHE.to_vec()),
    };
    let own = reader.key.namespace.clone();
    let headers = reader.get_closing(&name("proxy-set-headers"), |text| within(&own, text, cross_namespace));
    let request_headers = question_headers(reader, &name("snippet"));
    let auth = url.map(|url| {
        Arc::new(ExternalAuth {
            url,
            method,
            signin,
            signin_redirect_param: param.unwrap_or_else(|| REDIRECT_PARAM.into()),
            response_headers: response_headers.unwrap_or_default(),
            request_redirect,
            request_headers,
            always_set_cookie,
            cache: key.zip(durations),
        })
    });
    External { headers: headers.filter(|_| auth.is_some()), auth }
}

/// `auth-snippet`: headers of the question, and nothing else.
fn question_headers(reader: &mut Reader<'_>, name: &str) -> Vec<(Arc<str>, Template)> {
    let Some(text) = reader.text(name) else { return Vec::new() };
    let mut headers = Vec::new();
    let directives = match snippet::parse(text) {
        Ok(directives) => directives,
        Err(error) => {
            reader.close(name, error, "Write proxy_set_header alone.");
            return headers;
        }
    };
    for directive in directives {
        match snippet::request_header(&directive) {
            Some(Ok(HeaderEdit::Set { name, value, .. })) => headers.push((name, value)),
            Some(Err(bad)) => reader.close_bad(name, &bad),
            _ => reader.close(
                name,
                format_args!("{} may decide who gets in and is not supported", directive.name()),
                "Use proxy_set_header alone, or ask another URL.",
            ),
        }
    }
    headers
}

fn method(text: &str) -> Read<Arc<str>> {
    let method = text.trim();
    if ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method) {
        return Ok(method.into());
    }
    Err(Bad::new("is no method that can be asked with", "write GET, HEAD or POST"))
}

/// The name of a parameter in a query.
fn parameter(text: &str) -> Read<Arc<str>> {
    let name = text.trim();
    if !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    {
        return Ok(name.into());
    }
    Err(Bad::new("is no name of a parameter", "use letters, digits, hyphens and underscores"))
}

/// With a key that is the same for everybody, one client's permission would be everybody's.
fn cache_key(text: &str) -> Read<Template> {
    let key = values::template(text)?;
    match key.as_literal() {
        Some(_) => Err(Bad::new(
            "is the same for every client",
            "use variables like $remote_user$http_authorization",
        )),
        None => Ok(key),
    }
}

/// `200 202 10m, 401 5m`, as nginx's `proxy_cache_valid`; without a status, 200, 301 and 302.
fn durations(text: &str) -> Read<Vec<(u16, Duration)>> {
    let bad = || Bad::new("is no list of statuses and times", "write `200 202 10m, 401 5m`");
    let mut all = Vec::new();
    for part in values::list(text) {
        let mut words: Vec<_> = part.split_ascii_whitespace().collect();
        let time = words.pop().ok_or_else(bad).and_then(values::duration)?;
        if words.is_empty() {
            words = vec!["200", "301", "302"];
        }
        for word in words {
            let status = match word {
                "any" => 0,
                _ => word.parse().ok().filter(|status| (100..=599).contains(status)).ok_or_else(bad)?,
            };
            all.push((status, time));
        }
    }
    if all.is_empty() || all.len() > 64 { Err(bad()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_durations() {
        for (text, expect) in [
            ("200 202 10m, 401 5m", Some("200:600 202:600 401:300")),
            ("5m", Some("200:300 301:300 302:300")),
            ("any 1s", Some("0:1")),
            ("200 0", Some("200:0")),
            ("200 x", None),
            ("x 5m", None),
            ("99 5m", None),
            (",", None),
        ] {
            let read = durations(text).ok().map(|all| {
                let parts: Vec<_> =
                    all.iter().map(|(status, time)| format!("{status}:{}", time.as_secs())).collect();
                parts.join(" ")
            });
            assert_eq!(read.as_deref(), expect, "{text}");
        }
    }
}
