//! Templates filled with what is known of a request.
//!
//! A value only ever fills its place. What comes from the client was read as HTTP, so it has no
//! line ends; what becomes a header is checked once more by [`HeaderValue`]. In a URL, headers,
//! cookies and user names are percent-encoded down to letters, digits and `-._~`, so that they
//! can't end a path, add a parameter or name another host. Path, query and host were checked when
//! the request was read and stand as they are.

use std::borrow::Cow;

use http::HeaderValue;

use super::facts::Facts;
use crate::model::{Template, TemplatePart, Variable};
use crate::proxy::respond;

/// Where a template's text will stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Place {
    /// In a URL.
    Url,
    /// In a header or a body: values as they are.
    Text,
}

impl Facts<'_> {
    /// The template's text for this request. What is not known is empty, as in nginx.
    pub(in crate::proxy) fn fill(&self, template: &Template, place: Place) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &template.0 {
            match part {
                TemplatePart::Text(text) => out.extend_from_slice(text.as_bytes()),
                TemplatePart::Variable(variable) => self.append(variable, place, &mut out),
            }
        }
        out
    }

    /// Appends what a variable stands for in a URL.
    pub(in crate::proxy) fn fill_variable(&self, variable: &Variable, out: &mut String) {
        let mut value = Vec::new();
        self.append(variable, Place::Url, &mut value);
        out.push_str(&String::from_utf8_lossy(&value));
    }

    /// A URL as text, with what is not ASCII percent-encoded; `None` if something in it can't stand
    /// in one.
    pub(in crate::proxy) fn fill_url(&self, template: &Template) -> Option<String> {
        let mut text = String::new();
        for byte in self.fill(template, Place::Url) {
            match byte {
                b'!'..=b'~' => text.push(byte.into()),
                0x80.. => text.push_str(&format!("%{byte:02X}")),
                _ => return None,
            }
        }
        Some(text)
    }

    /// A header's value; `None` if it is empty or can't be one.
    pub(in crate::proxy) fn fill_header(&self, template: &Template) -> Option<HeaderValue> {
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(self.fill(template, Place::Text)));
        value.ok().filter(|value| !value.is_empty())
    }

    fn append(&self, variable: &Variable, place: Place, out: &mut Vec<u8>) {
        let is_foreign = matches!(variable, Variable::Header(_) | Variable::Cookie(_) | Variable::User);
        let value = self.value(variable);
        if *variable == Variable::EscapedRequestUri || (is_foreign && place == Place::Url) {
            escape(&value, out);
        } else {
            out.extend_from_slice(&value);
        }
    }

    fn value(&self, variable: &Variable) -> Cow<'_, [u8]> {
        let text = match variable {
            Variable::Scheme => self.scheme(),
            // nginx's `$host`, the usual one. It has no port, for the one that the client came to is
            // rarely the one that a URL of another scheme needs.
            Variable::Host => respond::without_port(self.host),
            Variable::Port => return owned(self.port()),
            Variable::RequestUri | Variable::EscapedRequestUri => self.request_uri(),
            Variable::Path => self.target.path(),
            Variable::Query => self.target.query().unwrap_or_default(),
            Variable::IsArgs => self.target.query().filter(|query| !query.is_empty()).map_or("", |_| "?"),
            Variable::Method => self.parts.method.as_str(),
            Variable::ClientAddress => return owned(self.address()),
            Variable::RequestId => self.request_id(),
            Variable::User => return owned(self.credentials().map(|(name, _)| name).unwrap_or_default()),
            Variable::Header(name) => {
                return Cow::Borrowed(self.header(name).map_or(&[], HeaderValue::as_bytes));
            }
            Variable::Cookie(name) => return Cow::Borrowed(self.cookie(name).unwrap_or_default()),
            Variable::Argument(name) => self.argument(name).unwrap_or_default(),
            Variable::Namespace => &self.ingress().namespace,
            Variable::Ingress => &self.ingress().name,
            Variable::Service => self.service_name(),
            Variable::ServicePort => return owned(self.service_port()),
            Variable::Capture(number) => self.found.captures(self.target.path()).get(*number),
        };
        Cow::Borrowed(text.as_bytes())
    }
}

fn owned(value: impl ToString) -> Cow<'static, [u8]> {
    Cow::Owned(value.to_string().into_bytes())
}

/// Percent-encodes everything that RFC 3986 does not call unreserved.
pub(super) fn escape(value: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}
