//! What a line of the access log looks like: one JSON object, or a template with nginx's names.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use super::access_log::Entry;

/// What a line of the access log looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object with all that is known.
    #[default]
    Json,
    /// Text with variables in it.
    Template(Arc<[Part]>),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it is.
    Text(String),
    /// Filled in for each request.
    Variable(LogVariable),
}

/// A template can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFormat {
    /// A variable that nobody knows.
    #[error("${0} is no variable of the access log; there are {list}", list = known())]
    Unknown(String),
    /// A `$` without a name, or a `{` without its end.
    #[error("a $ is not followed by a name: write $status or ${{status}}")]
    NoName,
    /// There is nothing to write.
    #[error("the format is empty: write json, or text with variables such as $status")]
    Empty,
}

macro_rules! variables {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What is known of a request when it has ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum LogVariable {
            $($(#[$doc])* $name,)*
        }

        const VARIABLES: &[(&str, LogVariable)] = &[$(($text, LogVariable::$name),)*];
    };
}

variables! {
    /// The client's address.
    RemoteAddr = "remote_addr",
    /// When the request came, RFC 3339.
    TimeIso8601 = "time_iso8601",
    /// Method, target and protocol, as the request line had them.
    Request = "request",
    /// The method.
    RequestMethod = "request_method",
    /// The host that was asked for.
    Host = "host",
    /// Path and query as they were routed: normalised.
    RequestUri = "request_uri",
    /// `HTTP/1.1` or `HTTP/2`.
    ServerProtocol = "server_protocol",
    /// `http` or `https`.
    Scheme = "scheme",
    /// The answer's status; 499 where the client left before it.
    Status = "status",
    /// Bytes of the answer's body.
    BodyBytesSent = "body_bytes_sent",
    /// Until the last byte of the answer, in seconds with milliseconds.
    RequestTime = "request_time",
    /// The request's id.
    RequestId = "req_id",
    /// The Ingress of its route.
    Ingress = "ingress",
    /// The Service port it went to.
    Upstream = "proxy_upstream_name",
    /// The endpoint it went to.
    UpstreamAddr = "upstream_addr",
    /// Where the client says that it came from.
    Referer = "http_referer",
    /// What the client says that it is.
    UserAgent = "http_user_agent",
    /// The trace that it is part of, 32 hexadecimal digits.
    TraceId = "trace_id",
    /// Why the proxy answered in the endpoint's place.
    Error = "error",
}

fn known() -> String {
    VARIABLES.iter().map(|(name, _)| format!("${name}")).collect::<Vec<_>>().join(", ")
}

impl FromStr for LogFormat {
    type Err = BadFormat;

    /// `json`, or a template with `$name` and `${name}`.
    fn from_str(text: &str) -> Result<Self, BadFormat> {
        match text {
            "" => return Err(BadFormat::Empty),
            "json" => return Ok(Self::Json),
            _ => {}
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (name, behind) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}').ok_or(BadFormat::NoName)?,
                None => {
                    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                    after.split_at(after.bytes().take_while(is_letter).count())
                }
            };
            if name.is_empty() {
                return Err(BadFormat::NoName);
            }
            let known = VARIABLES.iter().find(|(have, _)| *have == name);
            let (_, variable) = known.ok_or_else(|| BadFormat::Unknown(name.to_owned()))?;
            parts.push(Part::Variable(*variable));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self::Template(parts.into()))
    }
}

impl LogFormat {
    /// One line with its end; `None` where that can't be.
    pub(super) fn line(&self, entry: &Entry) -> Option<Vec<u8>> {
        let mut line = match self {
            Self::Json => serde_json::to_vec(entry).ok()?,
            Self::Template(parts) => {
                let mut line = Vec::with_capacity(256);
                for part in parts.iter() {
                    match part {
                        Part::Text(text) => line.extend_from_slice(text.as_bytes()),
                        Part::Variable(variable) => variable.write(entry, &mut line),
                    }
                }
                line
            }
        };
        line.push(b'\n');
        Some(line)
    }
}

impl LogVariable {
    fn write(self, entry: &Entry, line: &mut Vec<u8>) {
        // Writing to a Vec can't fail.
        let mut number = |args: fmt::Arguments<'_>| drop(line.write_fmt(args));
        let text: &str = match self {
            Self::Status => return number(format_args!("{}", entry.status)),
            Self::BodyBytesSent => return number(format_args!("{}", entry.bytes)),
            Self::RequestTime => {
                let millis = entry.duration_us / 1000;
                return number(format_args!("{}.{:03}", millis / 1000, millis % 1000));
            }
            Self::Request => {
                for (n, text) in [&entry.method, &entry.path, entry.protocol].into_iter().enumerate() {
                    if n > 0 {
                        line.push(b' ');
                    }
                    escape(text, line);
                }
                return;
            }
            Self::RemoteAddr => &entry.client,
            Self::TimeIso8601 => &entry.time,
            Self::RequestMethod => &entry.method,
            Self::Host => &entry.host,
            Self::RequestUri => &entry.path,
            Self::ServerProtocol => entry.protocol,
            Self::Scheme => {
                if entry.tls {
                    "https"
                } else {
                    "http"
                }
            }
            Self::RequestId => &entry.request_id,
            Self::Ingress => entry.route.as_deref().unwrap_or_default(),
            Self::Upstream => entry.cluster.as_deref().unwrap_or_default(),
            Self::UpstreamAddr => entry.upstream.as_deref().unwrap_or_default(),
            Self::Referer => entry.referer.as_deref().unwrap_or_default(),
            Self::UserAgent => entry.user_agent.as_deref().unwrap_or_default(),
            Self::TraceId => entry.trace_id.as_deref().unwrap_or_default(),
            Self::Error => entry.error.as_deref().unwrap_or_default(),
        };
        match text {
            "" => line.push(b'-'),
            text => escape(text, line),
        }
    }
}

/// As nginx writes it: what could end a quoted word or a line becomes `\xXX`.
fn escape(text: &str, line: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => drop(write!(line, "\\x{byte:02X}")),
            byte => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            client: "192.0.2.1".to_owned(),
            method: "GET".to_owned(),
            host: "a.test".to_owned(),
            path: "/x?y=\"1\"".to_owned(),
            protocol: "HTTP/1.1",
            status: 200,
            bytes: 5,
            duration_us: 1_234_567,
            cluster: Some("d/web:80".to_owned()),
            user_agent: Some("a\r\n\\é".to_owned()),
            ..Entry::default()
        }
    }

    #[test]
    fn lines() {
        for (format, expect) in [
            ("$remote_addr $status", "192.0.2.1 200"),
            ("${status}x$status", "200x200"),
            ("\"$request\"", "\"GET /x?y=\\x221\\x22 HTTP/1.1\""),
            ("$request_time $body_bytes_sent", "1.234 5"),
            ("$http_user_agent", "a\\x0D\\x0A\\x5C\\xC3\\xA9"),
            ("$http_referer|$proxy_upstream_name|$upstream_addr", "-|d/web:80|-"),
            ("$scheme://$host", "http://a.test"),
            ("plain", "plain"),
        ] {
            let format: LogFormat = format.parse().expect("a format");
            let line = String::from_utf8(format.line(&entry()).expect("a line")).expect("text");
            assert_eq!(line, format!("{expect}\n"));
        }
        let json = LogFormat::Json.line(&entry()).expect("a line");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json["status"], 200);
    }

    #[test]
    fn every_variable_has_a_value() {
        for (name, variable) in VARIABLES {
            let format: LogFormat = format!("${name}").parse().expect("a format");
            assert_eq!(format, LogFormat::Template(Arc::new([Part::Variable(*variable)])));
            assert!(format.line(&Entry::default()).is_some_and(|line| line.len() > 1), "{name}");
        }
    }

    #[test]
    fn formats_that_can_not_be_used() {
        for (format, expect) in [
            ("", BadFormat::Empty),
            ("$", BadFormat::NoName),
            ("$ status", BadFormat::NoName),
            ("${status", BadFormat::NoName),
            ("$statuses", BadFormat::Unknown("statuses".to_owned())),
            ("$Status", BadFormat::Unknown("Status".to_owned())),
        ] {
            assert_eq!(format.parse::<LogFormat>(), Err(expect), "{format}");
        }
        assert!(BadFormat::Unknown("x".to_owned()).to_string().contains("$remote_addr, "));
    }
}
