//! Texts with variables, in nginx's notation: `https://$host/login?rd=$escaped_request_uri`.
//!
//! Read once into parts, so that a value can only ever fill a place, never make one.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A text with places for what is known of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Template(pub Vec<TemplatePart>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TemplatePart {
    /// As it is.
    Text(Arc<str>),
    /// What is known of the request.
    Variable(Variable),
}

/// What is known of a request. Named as in nginx.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Variable {
    /// `$scheme`, `$pass_access_scheme`: http or https.
    Scheme,
    /// `$host`, `$best_http_host`, `$http_host`, `$server_name`: the request's host.
    Host,
    /// `$server_port`, `$pass_server_port`.
    Port,
    /// `$request_uri`: path and query as they are matched and sent on.
    RequestUri,
    /// `$escaped_request_uri`: the same, percent-encoded to stand in a query.
    EscapedRequestUri,
    /// `$uri`: the path.
    Path,
    /// `$args`, `$query_string`: the query.
    Query,
    /// `$is_args`: `?` if there is a query.
    IsArgs,
    /// `$request_method`.
    Method,
    /// `$remote_addr`, `$the_real_ip`: the client's address.
    ClientAddress,
    /// `$request_id`, `$req_id`.
    RequestId,
    /// `$remote_user`: the name of basic authentication.
    User,
    /// `$http_NAME`: a header of the request; lower case with hyphens.
    Header(Arc<str>),
    /// `$cookie_NAME`.
    Cookie(Arc<str>),
    /// `$arg_NAME`: a parameter of the query.
    Argument(Arc<str>),
    /// `$namespace`: of the Ingress.
    Namespace,
    /// `$ingress_name`.
    Ingress,
    /// `$service_name`.
    Service,
    /// `$service_port`.
    ServicePort,
    /// `$1` to `$9`: a capture of the route's regular expression.
    Capture(u8),
}

/// A variable that can't be known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("${0} is no variable that Sluice knows")]
pub struct UnknownVariable(pub String);

impl Template {
    /// A text without variables, whatever it holds.
    pub fn literal(text: &str) -> Self {
        Self(if text.is_empty() { Vec::new() } else { vec![TemplatePart::Text(text.into())] })
    }

    /// Reads nginx's notation: `$name`, `${name}`; a `$` that begins no name is itself.
    ///
    /// # Errors
    /// For a variable that is none of [`Variable`].
    pub fn parse(text: &str) -> Result<Self, UnknownVariable> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            plain.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let (name, next) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some((name, next)) => (name, next),
                None => {
                    let end = match after.bytes().next() {
                        // `$10` is `$1` and a zero, as in nginx.
                        Some(digit) if digit.is_ascii_digit() => 1,
                        _ => after.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count(),
                    };
                    after.split_at(end)
                }
            };
            if name.is_empty() {
                plain.push('$');
            } else {
                let variable = Variable::parse(name).ok_or_else(|| UnknownVariable(name.to_owned()))?;
                if !plain.is_empty() {
                    parts.push(TemplatePart::Text(std::mem::take(&mut plain).into()));
                }
                parts.push(TemplatePart::Variable(variable));
            }
            rest = next;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(TemplatePart::Text(plain.into()));
        }
        Ok(Self(parts))
    }

    /// The text, if there are no variables in it.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [TemplatePart::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it is a URL whose host is the one that the request asks for.
    pub fn leads_to_asked_host(&self) -> bool {
        // What is written so far behind the scheme.
        let mut authority: Option<&str> = None;
        for part in &self.0 {
            match (part, authority) {
                (TemplatePart::Text(text), None) => authority = text.split_once("://").map(|(_, rest)| rest),
                (TemplatePart::Text(text), Some(_)) => authority = Some(text),
                (TemplatePart::Variable(Variable::Host), Some(_)) => return true,
                (TemplatePart::Variable(_), _) => {}
            }
            if authority.is_some_and(|text| text.contains(['/', '?', '#'])) {
                return false;
            }
        }
        false
    }

    /// The variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.0.iter().filter_map(|part| match part {
            TemplatePart::Text(_) => None,
            TemplatePart::Variable(variable) => Some(variable),
        })
    }
}

impl Variable {
    /// The variable of this name, without `$`.
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "scheme" | "pass_access_scheme" => Self::Scheme,
            "host" | "best_http_host" | "http_host" | "server_name" => Self::Host,
            "server_port" | "pass_server_port" => Self::Port,
            "request_uri" => Self::RequestUri,
            "escaped_request_uri" => Self::EscapedRequestUri,
            "uri" | "document_uri" => Self::Path,
            "args" | "query_string" => Self::Query,
            "is_args" => Self::IsArgs,
            "request_method" => Self::Method,
            "remote_addr" | "the_real_ip" => Self::ClientAddress,
            "request_id" | "req_id" => Self::RequestId,
            "remote_user" => Self::User,
            "namespace" => Self::Namespace,
            "ingress_name" => Self::Ingress,
            "service_name" => Self::Service,
            "service_port" => Self::ServicePort,
            _ => {
                if let [digit @ b'1'..=b'9'] = name.as_bytes() {
                    return Some(Self::Capture(digit - b'0'));
                }
                let (kind, name) = name.split_once('_')?;
                if name.is_empty() {
                    return None;
                }
                match kind {
                    "http" => Self::Header(name.to_ascii_lowercase().replace('_', "-").into()),
                    "cookie" => Self::Cookie(name.into()),
                    "arg" => Self::Argument(name.into()),
                    _ => return None,
                }
            }
        })
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("scheme"),
            Self::Host => f.write_str("host"),
            Self::Port => f.write_str("server_port"),
            Self::RequestUri => f.write_str("request_uri"),
            Self::EscapedRequestUri => f.write_str("escaped_request_uri"),
            Self::Path => f.write_str("uri"),
            Self::Query => f.write_str("args"),
            Self::IsArgs => f.write_str("is_args"),
            Self::Method => f.write_str("request_method"),
            Self::ClientAddress => f.write_str("remote_addr"),
            Self::RequestId => f.write_str("request_id"),
            Self::User => f.write_str("remote_user"),
            Self::Header(name) => write!(f, "http_{}", name.replace('-', "_")),
            Self::Cookie(name) => write!(f, "cookie_{name}"),
            Self::Argument(name) => write!(f, "arg_{name}"),
            Self::Namespace => f.write_str("namespace"),
            Self::Ingress => f.write_str("ingress_name"),
            Self::Service => f.write_str("service_name"),
            Self::ServicePort => f.write_str("service_port"),
            Self::Capture(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            TemplatePart::Text(text) => f.write_str(text),
            TemplatePart::Variable(variable) => write!(f, "${{{variable}}}"),
        })
    }
}

impl Serialize for Template {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        for (text, expect) in [
            ("", Ok("")),
            ("/plain", Ok("/plain")),
            ("https://$host/a", Ok("https://${host}/a")),
            ("$scheme://${host}$request_uri", Ok("${scheme}://${host}${request_uri}")),
            ("/$1/$2", Ok("/${1}/${2}")),
            ("/$10", Ok("/${1}0")),
            ("$http_X_Forwarded_For", Ok("${http_x_forwarded_for}")),
            ("$cookie_Session-x", Ok("${cookie_Session}-x")),
            ("cost $ 5", Ok("cost $ 5")),
            ("$", Ok("$")),
            ("${host", Err("")),
            ("$http_", Err("http_")),
            ("$0", Err("0")),
            ("$upstream_addr", Err("upstream_addr")),
        ] {
            let read = Template::parse(text).map(|template| template.to_string());
            match expect {
                Err("") => assert!(read.is_ok(), "{text}: a brace that never closes is text"),
                Err(name) => assert_eq!(read, Err(UnknownVariable(name.into())), "{text}"),
                Ok(expect) => assert_eq!(read.as_deref(), Ok(expect), "{text}"),
            }
        }
    }
}
