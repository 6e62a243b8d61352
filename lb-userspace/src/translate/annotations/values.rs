//! The values of annotations: text to types. Whoever asks decides what becomes of a bad one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use regex::RegexBuilder;

use crate::model::{ObjectKey, Template, TemplatePart, Variable};
use crate::objects::{excerpt, is_name};

/// Why a value can't be used, as the two ends of a sentence: `"8x"` *is no size* …; *write …*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::translate) struct Bad {
    pub(in crate::translate) is: Cow<'static, str>,
    pub(in crate::translate) remedy: Cow<'static, str>,
}

impl Bad {
    pub(in crate::translate) fn new(
        is: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { is: is.into(), remedy: remedy.into() }
    }
}

/// What a value was read as.
pub(in crate::translate) type Read<T> = Result<T, Bad>;

/// Regular expressions of paths and headers are compiled for each snapshot; one that takes more than
/// this to hold is no sensible one.
const MAX_REGEX: usize = 1 << 20;

/// Longer than anyone waits. Timers of the proxy count to more than that.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// As ingress-nginx reads booleans (Go's `strconv.ParseBool`).
pub(in crate::translate) fn boolean(text: &str) -> Read<bool> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Bad::new("is neither true nor false", "write one of them")),
    }
}

/// nginx's own booleans.
pub(in crate::translate) fn on_off(text: &str) -> Read<bool> {
    match text.trim() {
        on if on.eq_ignore_ascii_case("on") => Ok(true),
        off if off.eq_ignore_ascii_case("off") => Ok(false),
        _ => Err(Bad::new("is neither on nor off", "write one of them")),
    }
}

/// A whole number from `least` to `most`.
pub(in crate::translate) fn number(least: u64, most: u64) -> impl Fn(&str) -> Read<u64> {
    move |text| match text.trim().parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(Bad::new("is no number that fits", format!("write one from {least} to {most}"))),
    }
}

/// A number that a `u32` holds.
pub(in crate::translate) fn count(text: &str) -> Read<u32> {
    number(0, u32::MAX.into())(text).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

/// One of some words.
pub(in crate::translate) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&str) -> Read<T> {
    move |text| {
        let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim()));
        known.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            Bad::new("is no known value", format!("write one of {}", words.join(", ")))
        })
    }
}

/// Bytes, as nginx writes sizes: `1000`, `8k`, `1M`, `1g`.
pub(in crate::translate) fn size(text: &str) -> Read<u64> {
    let bad = || Bad::new("is no size", "write bytes, or a number with k, m or g behind it");
    let text = text.trim();
    let (digits, unit) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'b') => (&text[..text.len() - 1], 1),
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(bad)
}

/// A length of time, zero included: `60` is seconds, `1m30s`, `500ms`.
pub(in crate::translate) fn duration(text: &str) -> Read<Duration> {
    let bad =
        || Bad::new("is no length of time", "write seconds, or numbers with ms, s, m, h or d, up to 366d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let milliseconds = match &rest[digits..digits + letters] {
            "" | "s" => 1000,
            "ms" => 1,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(bad)?;
        total = total.checked_add(part).filter(|total| *total <= LONGEST).ok_or_else(bad)?;
        rest = rest[digits + letters..].trim_start();
    }
    Ok(total)
}

/// A time limit, which zero is not.
pub(in crate::translate) fn timeout(text: &str) -> Read<Duration> {
    match duration(text)? {
        Duration::ZERO => Err(Bad::new("leaves no time at all", "write 1 or more seconds")),
        time => Ok(time),
    }
}

/// The parts of a comma-separated list, without the empty ones.
pub(in crate::translate) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Addresses and CIDRs, sorted. At least one.
pub(in crate::translate) fn networks(text: &str) -> Read<Arc<[IpNet]>> {
    let mut networks = list(text).map(network).collect::<Read<Vec<_>>>()?;
    if networks.is_empty() {
        return Err(Bad::new("names no network", "write addresses and CIDRs, with commas between"));
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(networks.into())
}

/// An address or a CIDR; bits of the host are cut off, as ingress-nginx does.
pub(in crate::translate) fn network(text: &str) -> Read<IpNet> {
    let read = text.parse::<IpNet>().map(|network| network.trunc());
    read.or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| {
        Bad::new(format!("holds {:?}, which is neither an address nor a CIDR", excerpt(text)), "correct it")
    })
}

/// The name of a header (RFC 9110 section 5.1), in lower case.
pub(in crate::translate) fn header_name(text: &str) -> Read<Arc<str>> {
    let name = text.trim();
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token) {
        return Err(Bad::new(
            format!("holds {:?}, which is no header's name", excerpt(name)),
            "use letters, digits and hyphens",
        ));
    }
    Ok(name.to_ascii_lowercase().into())
}

/// Header names with commas between.
pub(in crate::translate) fn header_names(text: &str) -> Read<Vec<Arc<str>>> {
    list(text).map(header_name).collect()
}

/// A token of RFC 9110 section 5.6.2.
pub(in crate::translate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A text for a header's value, with variables.
pub(in crate::translate) fn header_value(text: &str) -> Read<Template> {
    if text.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        return Err(Bad::new("holds control characters", "a header's value is one line"));
    }
    without_captures(variables(text)?)
}

/// A name of a header that may be set and removed: those that frame a message or belong to one
/// connection are the proxy's own.
pub(in crate::translate) fn editable_header(text: &str) -> Read<Arc<str>> {
    let name = header_name(text)?;
    let own = ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
    if own.contains(&&*name) || name.starts_with("proxy-") {
        return Err(Bad::new(format!("sets {name}, which is the connection's own"), "leave it to Sluice"));
    }
    Ok(name)
}

/// A text without control characters, with variables; none of them a capture, which only paths have.
pub(in crate::translate) fn template(text: &str) -> Read<Template> {
    without_captures(with_captures(text)?)
}

/// A text without control characters, with variables and captures.
pub(in crate::translate) fn with_captures(text: &str) -> Read<Template> {
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Err(Bad::new("holds control characters", "remove them"));
    }
    variables(text)
}

/// A text of several lines, with variables.
pub(in crate::translate) fn lines(text: &str) -> Read<Template> {
    without_captures(variables(text)?)
}

fn variables(text: &str) -> Read<Template> {
    Template::parse(text).map_err(|unknown| {
        Bad::new(
            format!("uses ${}, which Sluice does not know", excerpt(&unknown.0)),
            "use $host, $request_uri, $http_NAME or another variable that it does know",
        )
    })
}

fn without_captures(template: Template) -> Read<Template> {
    let capture = template.variables().find(|variable| matches!(variable, Variable::Capture(_)));
    if let Some(capture) = capture {
        return Err(Bad::new(
            format!("uses ${capture}, a capture of a regular expression"),
            "only rewrite-target knows captures",
        ));
    }
    Ok(template)
}

/// An absolute URL with variables: http or https, and a host that no client can choose but by the
/// host it asks for.
pub(in crate::translate) fn url(text: &str) -> Read<Template> {
    without_captures(url_with_captures(text)?)
}

/// The same, with captures behind the host.
pub(in crate::translate) fn url_with_captures(text: &str) -> Read<Template> {
    let text = text.trim();
    let no_url = || Bad::new("is no absolute URL", "write https://host/path");
    if text.len() > 8192 || !text.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`|".contains(&b)) {
        return Err(no_url());
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(no_url)?;
    if !["http", "https", "$scheme", "${scheme}"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(no_url());
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let host = variables(authority)?;
    // `$request_uri` right behind a host brings its own slash.
    let begins_path = |variable: &Variable| matches!(variable, Variable::RequestUri | Variable::Path);
    let mut parts = host.0.iter().take_while(|part| match part {
        TemplatePart::Variable(variable) => !begins_path(variable),
        TemplatePart::Text(_) => true,
    });
    if authority.contains('@') || parts.clone().next().is_none() {
        return Err(no_url());
    }
    let fixed = |variable: &Variable| {
        use Variable::{Host, Ingress, Namespace, Port, Service, ServicePort};
        matches!(variable, Host | Port | Namespace | Ingress | Service | ServicePort)
    };
    if parts.any(|part| matches!(part, TemplatePart::Variable(variable) if !fixed(variable))) {
        return Err(Bad::new(
            "lets clients choose the host",
            "use a fixed host, $host, $service_name or $namespace before the first /",
        ));
    }
    variables(text)
}

/// A path that can stand in a request line as it is.
pub(in crate::translate) fn path(text: &str) -> Read<Arc<str>> {
    if is_path(text) { Ok(text.into()) } else { Err(Bad::new("is no absolute path", "begin it with /")) }
}

/// The characters of a path; the first is `/`.
pub(in crate::translate) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= 4096
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"\\<>".contains(&b))
}

/// A regular expression that compiles, and not into something huge.
pub(in crate::translate) fn pattern(text: &str) -> Read<Arc<str>> {
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Err(Bad::new("holds control characters", "write them as escapes"));
    }
    match RegexBuilder::new(text).size_limit(MAX_REGEX).build() {
        Ok(_) => Ok(text.into()),
        Err(regex::Error::CompiledTooBig(_)) => {
            Err(Bad::new("is too large a regular expression", "write a simpler one"))
        }
        Err(_) => Err(Bad::new(
            "is no regular expression of Rust's regex library",
            "look-around and back-references are not there; write it without",
        )),
    }
}

/// `namespace/name`, or a name in `own` namespace.
pub(in crate::translate) fn reference(own: &str, text: &str) -> Read<ObjectKey> {
    let (namespace, name) = text.trim().split_once('/').unwrap_or((own, text.trim()));
    if is_name(namespace) && is_name(name) {
        return Ok(ObjectKey::new(namespace, name));
    }
    Err(Bad::new("names no object", "write its name, or namespace/name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<f64> {
        duration(text).ok().map(|time| time.as_secs_f64())
    }

    #[test]
    fn sizes() {
        for (text, expect) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("8k", Some(8192)),
            ("8K", Some(8192)),
            ("1m", Some(1 << 20)),
            (" 1g ", Some(1 << 30)),
            ("10b", Some(10)),
            ("", None),
            ("k", None),
            ("-1", None),
            ("+1", None),
            ("1.5m", None),
            ("1mb", None),
            ("99999999999g", None),
        ] {
            assert_eq!(size(text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, expect) in [
            ("60", Some(60.0)),
            ("60s", Some(60.0)),
            ("1m30s", Some(90.0)),
            ("1h 30m", Some(5400.0)),
            ("500ms", Some(0.5)),
            ("0", Some(0.0)),
            ("366d", Some(31_622_400.0)),
            ("367d", None),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1x", None),
            ("1.5s", None),
            ("99999999999999999999", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(seconds(text), expect, "{text}");
        }
        assert!(timeout("0").is_err() && timeout("1").is_ok());
    }

    #[test]
    fn lists_of_networks() {
        for (text, expect) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3/8, 192.0.2.1 ,", Some("10.0.0.0/8 192.0.2.1/32")),
            ("2001:db8::/32,2001:db8::/32", Some("2001:db8::/32")),
            ("", None),
            (" , ", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/8 192.0.2.1", None),
            ("example.com", None),
        ] {
            let read = networks(text)
                .ok()
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(read.as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn urls() {
        for (text, expect) in [
            ("https://auth.example.com/check?a=b", true),
            ("http://auth.default.svc.cluster.local:4180/oauth2/auth", true),
            ("https://$host/oauth2/start?rd=$escaped_request_uri", true),
            ("$scheme://$host$request_uri", true),
            ("https://$service_name.$namespace.svc/x", true),
            ("https://example.com$request_uri", true),
            ("https://[::1]:8080/", true),
            ("https://$http_x_host/", false),
            ("https://$arg_a.example.com/", false),
            ("https://user@example.com/", false),
            ("https://$request_uri", false),
            ("https:///path", false),
            ("//example.com/", false),
            ("/path", false),
            ("ftp://example.com/", false),
            ("javascript:alert(1)", false),
            ("https://example.com/\r\nX: y", false),
            ("https://example.com/ x", false),
            ("https://example.com/$1", false),
            ("https://example.com/$upstream_addr", false),
            ("", false),
        ] {
            assert_eq!(url(text).is_ok(), expect, "{text}");
        }
    }

    #[test]
    fn small_values() {
        assert_eq!((boolean("true"), boolean("0"), boolean("yes").is_err()), (Ok(true), Ok(false), true));
        assert_eq!((on_off("on"), on_off("OFF"), on_off("true").is_err()), (Ok(true), Ok(false), true));
        for (text, expect) in
            [("1", true), ("0", false), ("8", true), ("9", false), ("-1", false), ("x", false)]
        {
            assert_eq!(number(1, 8)(text).is_ok(), expect, "{text}");
        }
        for (text, expect) in [
            ("X-Forwarded-For", true),
            ("x_y", true),
            ("", false),
            ("a b", false),
            ("a:", false),
            ("a\r\nb", false),
            ("é", false),
        ] {
            assert_eq!(header_name(text).is_ok(), expect, "{text:?}");
        }
        for (text, expect) in [
            ("plain", true),
            ("a\tb", true),
            ("$host", true),
            ("a\nb", false),
            ("a\0", false),
            ("$nope", false),
        ] {
            assert_eq!(header_value(text).is_ok(), expect, "{text:?}");
        }
        for (text, expect) in [("^a+$", true), ("(?=x)", false), ("(", false), ("(a{1000}){1000}", false)] {
            assert_eq!(pattern(text).is_ok(), expect, "{text}");
        }
        for (text, expect) in [
            ("web", Some("own/web")),
            ("other/web", Some("other/web")),
            ("/web", None),
            ("a/b/c", None),
            ("", None),
            ("Web", None),
        ] {
            assert_eq!(reference("own", text).ok().map(|key| key.to_string()).as_deref(), expect, "{text}");
        }
    }
}
