//! One line of a replayed file: a request.
//!
//! Two forms are read, told apart by how a line begins:
//!
//! - a JSON object with `path` (and its query), and as far as they are known `method`, `host`, `headers`
//!   and `tls`; nginx's names for them work too (`request_uri`, `request_method`, …), and so do the lines
//!   of Sluice's own access log;
//! - nginx's `combined` log format, whatever follows it, with `$host` before it or not. Where
//!   ingress-nginx's own format names the upstream (`[namespace-service-port]`), that is kept.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A request as somebody once made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// As sent.
    pub method: String,
    /// As sent; `None` when the line doesn't say.
    pub host: Option<String>,
    /// Path and query as sent.
    pub target: String,
    /// Whether it came over TLS; `None` when the line doesn't say.
    pub tls: Option<bool>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// ingress-nginx's name for where it sent the request: `namespace-service-port`.
    pub upstream: Option<String>,
}

/// Why a line holds no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// More than a request can be.
    #[error("longer than {} KiB", super::LONGEST_LINE / 1024)]
    TooLong,
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotText,
    /// It begins like JSON.
    #[error("no JSON object of a request: {0}")]
    Json(String),
    /// It has no quoted request line.
    #[error("neither a JSON object nor a line of nginx's format combined")]
    NoRequest,
    /// What is quoted is no request line: a client that spoke something else.
    #[error("the request line {0:?} is no \"METHOD /path HTTP/x\"")]
    BadRequestLine(String),
}

/// A value that may be given once or more times.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct Json {
    #[serde(alias = "request_method", default)]
    method: Option<String>,
    #[serde(alias = "http_host", alias = "vhost", alias = "server_name", default)]
    host: Option<String>,
    #[serde(alias = "request_uri", alias = "uri")]
    path: String,
    #[serde(default)]
    tls: Option<bool>,
    #[serde(default)]
    scheme: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, OneOrMore>,
    #[serde(alias = "proxy_upstream_name", default)]
    upstream_name: Option<String>,
}

impl Request {
    /// Reads a line without its end. `None`: it is empty, or a comment.
    pub fn parse(line: &[u8]) -> Result<Option<Self>, BadLine> {
        let text = std::str::from_utf8(line).map_err(|_| BadLine::NotText)?.trim();
        match text.bytes().next() {
            None | Some(b'#') => Ok(None),
            Some(b'{') => json(text).map(Some),
            Some(_) => combined(text).map(Some),
        }
    }
}

fn json(text: &str) -> Result<Request, BadLine> {
    let json: Json = serde_json::from_str(text).map_err(|error| BadLine::Json(error.to_string()))?;
    let headers = json.headers.into_iter().map(|(name, value)| {
        let value = match value {
            OneOrMore::One(value) => value,
            OneOrMore::More(values) => values.join(", "),
        };
        (name.to_ascii_lowercase(), value)
    });
    let headers: BTreeMap<_, _> = headers.collect();
    Ok(Request {
        method: json.method.unwrap_or_else(|| "GET".into()),
        host: json.host.or_else(|| headers.get("host").cloned()).filter(|host| is_given(host)),
        target: json.path,
        tls: json.tls.or_else(|| json.scheme.map(|scheme| scheme.eq_ignore_ascii_case("https"))),
        headers,
        upstream: json.upstream_name.filter(|name| is_given(name)),
    })
}

/// `[host ]address - user [time] "METHOD target HTTP/x" status bytes "referer" "agent"…`
fn combined(text: &str) -> Result<Request, BadLine> {
    let (before, rest) = text.split_once('"').ok_or(BadLine::NoRequest)?;
    let (quoted, after) = rest.split_once('"').ok_or(BadLine::NoRequest)?;
    // Without a time in brackets and a dash it could be any quotation.
    let (front, _) = before.split_once(" - ").ok_or(BadLine::NoRequest)?;
    if !before.trim_end().ends_with(']') {
        return Err(BadLine::NoRequest);
    }
    let mut front = front.split_ascii_whitespace();
    let host = match (front.next(), front.next(), front.next()) {
        (Some(host), Some(_), None) => Some(host.to_owned()),
        (Some(_), None, None) => None,
        _ => return Err(BadLine::NoRequest),
    };
    let bad = || BadLine::BadRequestLine(crate::objects::excerpt(quoted).into_owned());
    let line = unescape(quoted).ok_or_else(bad)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(bad()) };
    // HTTP/0.9 has no version; nobody means it.
    let version = words.next().is_some_and(|version| version.starts_with("HTTP/"));
    if !version || words.next().is_some() || method.is_empty() || target.is_empty() {
        return Err(bad());
    }
    let mut quotations = after.split('"').skip(1).step_by(2);
    let named = [("referer", quotations.next()), ("user-agent", quotations.next())];
    let headers = named.into_iter().filter_map(|(name, value)| {
        let value = unescape(value?).filter(|value| is_given(value))?;
        Some((name.to_owned(), value))
    });
    Ok(Request {
        method: method.to_owned(),
        host: host.filter(|host| is_given(host)),
        target: target.to_owned(),
        tls: None,
        headers: headers.collect(),
        upstream: upstream(after),
    })
}

/// What ingress-nginx's format has in brackets first, after the last quotation.
fn upstream(after: &str) -> Option<String> {
    let (_, tail) = after.rsplit_once('"')?;
    let (_, name) = tail.split_once('[')?;
    let (name, _) = name.split_once(']')?;
    is_given(name).then(|| name.to_owned())
}

/// nginx writes `-` for what isn't there.
fn is_given(text: &str) -> bool {
    !matches!(text, "" | "-" | "_")
}

/// nginx writes quotes, backslashes and what can't be printed as `\xHH`. `None`: not UTF-8 after that.
fn unescape(text: &str) -> Option<String> {
    if !text.contains('\\') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `METHOD scheme host target headers upstream` of a line, or why there is none.
    fn read(line: &str) -> String {
        match Request::parse(line.as_bytes()) {
            Ok(None) => "nothing".into(),
            Ok(Some(request)) => {
                let tls = request.tls.map_or("?", |tls| if tls { "https" } else { "http" });
                let host = request.host.as_deref().unwrap_or("?");
                let headers: Vec<_> = request.headers.iter().map(|(n, v)| format!("{n}={v}")).collect();
                let upstream = request.upstream.as_deref().unwrap_or("?");
                format!(
                    "{} {tls} {host} {} [{}] {upstream}",
                    request.method,
                    request.target,
                    headers.join(" ")
                )
            }
            Err(error) => format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn lines() {
        for (line, expect) in [
            ("", "nothing"),
            ("  # a comment", "nothing"),
            (r#"{"path": "/a?b"}"#, "GET ? ? /a?b [] ?"),
            (r#"{"method":"POST","host":"a.test","path":"/","tls":true}"#, "POST https a.test / [] ?"),
            (
                r#"{"path":"/","scheme":"http","headers":{"Host":"a.test","Cookie":["a=1","b=2"]}}"#,
                "GET http a.test / [cookie=a=1, b=2 host=a.test] ?",
            ),
            (
                r#"{"request_method":"GET","http_host":"a.test","request_uri":"/x","proxy_upstream_name":"d-web-80"}"#,
                "GET ? a.test /x [] d-web-80",
            ),
            // Sluice's own.
            (
                r#"{"time":"t","client":"::1","method":"GET","host":"a.test","path":"/","protocol":"HTTP/2","tls":false,"route":"d/web","status":200}"#,
                "GET http a.test / [] ?",
            ),
            (r#"{"method":"GET"}"#, "Json"),
            (r#"{"path":"/""#, "Json"),
            (r#"{"path":7}"#, "Json"),
            (
                r#"192.0.2.1 - - [10/Oct/2026:13:55:36 +0000] "GET /a?b HTTP/1.1" 200 12 "-" "curl/8""#,
                "GET ? ? /a?b [user-agent=curl/8] ?",
            ),
            (
                r#"shop.test 192.0.2.1 - bob [10/Oct/2026:13:55:36 +0000] "PUT /a HTTP/2.0" 200 12 "https://r/" "-""#,
                "PUT ? shop.test /a [referer=https://r/] ?",
            ),
            (
                r#"192.0.2.1 - - [10/Oct/2026:13:55:36 +0000] "GET / HTTP/1.1" 200 1 "-" "a" 90 0.01 [shop-web-80] [] 10.0.0.1:80 1 0.01 200 7f"#,
                "GET ? ? / [user-agent=a] shop-web-80",
            ),
            (r#"192.0.2.1 - - [t] "GET /\xC3\xA9\x22 HTTP/1.1" 404 0 "-" "-""#, "GET ? ? /é\" [] ?"),
            (r#"192.0.2.1 - - [t] "\x16\x03\x01" 400 0 "-" "-""#, "BadRequestLine"),
            (r#"192.0.2.1 - - [t] "-" 400 0 "-" "-""#, "BadRequestLine"),
            (r#"192.0.2.1 - - [t] "GET /a b HTTP/1.1" 400 0 "-" "-""#, "BadRequestLine"),
            (r#"192.0.2.1 - - [t] "GET /\xZZ HTTP/1.1" 400 0"#, "BadRequestLine"),
            (r#"192.0.2.1 - - [t] "GET /"#, "NoRequest"),
            (r#"he said "GET / HTTP/1.1" once"#, "NoRequest"),
            ("GET / HTTP/1.1", "NoRequest"),
        ] {
            assert_eq!(read(line), expect, "{line}");
        }
        assert_eq!(Request::parse(b"\xff\xfe"), Err(BadLine::NotText));
    }

    /// Whatever is cut off: a request or a reason, never a panic.
    #[test]
    fn every_prefix() {
        for line in [
            r#"{"method":"POST","host":"a.test","path":"/é","headers":{"a":["b"]}}"#,
            r#"a.test 192.0.2.1 - - [t] "GET /\xC3\xA9 HTTP/1.1" 200 1 "-" "é\x22" 90 0.01 [shop-web-80] [] x"#,
        ] {
            for end in 0..line.len() {
                let _ = Request::parse(&line.as_bytes()[..end]);
            }
        }
    }
}
