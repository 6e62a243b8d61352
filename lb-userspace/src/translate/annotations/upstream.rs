//! How endpoints are spoken with.

use std::sync::Arc;

use super::access::secret;
use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::{
    HeaderEdit, ObjectKey, ProxyVersion, RetryOn, RoutePolicy, Substitution, Template, TemplatePart,
    UpstreamProtocol, UpstreamTls, Variable, Wanted,
};

/// A Secret for TLS towards endpoints, before it is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TlsRef {
    pub(super) secret: ObjectKey,
    /// The annotation, as it is written.
    pub(super) annotation: Arc<str>,
}

/// Reads what is about endpoints but their choice. The result is the Secret of `proxy-ssl-secret`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    cross_namespace: bool,
    policy: &mut RoutePolicy,
) -> Option<TlsRef> {
    if let Some(protocol) = reader.get("backend-protocol", protocol) {
        policy.upstream.protocol = Some(protocol);
    }
    if matches!(policy.upstream.protocol, Some(UpstreamProtocol::Grpc | UpstreamProtocol::Grpcs)) {
        // Calls send while they receive; nginx never waits for their bodies either.
        policy.body.buffer_request = false;
    }
    timing(reader, policy);
    if let Some(http10) = reader.get("proxy-http-version", values::one_of(&[("1.0", true), ("1.1", false)])) {
        policy.upstream.http10 = http10;
    }
    let versions = [("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
    if let Some(version) = reader.get("upstream-proxy-protocol", values::one_of(&versions)) {
        policy.upstream.proxy_protocol = version;
    }
    if let Some(host) = reader.get("upstream-vhost", host) {
        policy.upstream.host = Some(host);
    }
    if let Some(connection) = reader.get("connection-proxy-header", connection) {
        policy.upstream.connection = Some(connection);
    }
    if let Some((name, value)) = super::matching::forwarded_prefix(reader) {
        policy.request_headers.push(HeaderEdit::Set { name, value, statuses: Vec::new() });
    }
    answers(reader, policy);
    tls(reader, cross_namespace, policy)
}

/// Reads time limits and retries.
fn timing(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    let upstream = &mut policy.upstream;
    for (name, limit) in [
        ("proxy-connect-timeout", &mut upstream.connect_timeout),
        ("proxy-send-timeout", &mut upstream.send_timeout),
        ("proxy-read-timeout", &mut upstream.read_timeout),
    ] {
        *limit = reader.get(name, values::timeout).or(*limit);
    }
    if let Some(on) = reader.get("proxy-next-upstream", retry_on) {
        upstream.retry.on = on;
    }
    if let Some(tries) = reader.get("proxy-next-upstream-tries", values::count) {
        upstream.retry.tries = tries;
    }
    if let Some(timeout) = reader.get("proxy-next-upstream-timeout", values::duration) {
        upstream.retry.timeout = timeout;
    }
}

/// Reads what of it a cluster's settings have.
pub(super) fn settings(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    timing(reader, policy);
    answers(reader, policy);
    let on = &mut policy.upstream.retry.on;
    if reader.get("retry-non-idempotent", values::boolean) == Some(true)
        && !on.is_empty()
        && !on.contains(&RetryOn::NonIdempotent)
    {
        on.push(RetryOn::NonIdempotent);
    }
}

/// `proxy-redirect-*` and `proxy-cookie-*`.
fn answers(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    let from = reader.get("proxy-redirect-from", |text| match text.trim() {
        "off" | "default" => Ok(None),
        text => wanted(text, values::header_value).map(Some),
    });
    let to = reader.get("proxy-redirect-to", |text| match text.trim() {
        "off" | "default" => Ok(Template::default()),
        text => replacement(text, from.as_ref().and_then(Option::as_ref)),
    });
    match (from, to) {
        (Some(Some(from)), Some(to)) => {
            policy.upstream.response.location = vec![Substitution { from, to }];
        }
        (Some(Some(_)), None) if reader.text("proxy-redirect-to").is_none() => {
            let bad = Bad::new("needs proxy-redirect-to", "add it, or write off");
            reader.bad("proxy-redirect-from", &bad);
        }
        _ => {}
    }
    if let Some(pairs) = reader.get("proxy-cookie-domain", pair) {
        policy.upstream.response.cookie_domain = pairs;
    }
    if let Some(pairs) = reader.get("proxy-cookie-path", pair) {
        policy.upstream.response.cookie_path = pairs;
    }
}

fn tls(reader: &mut Reader<'_>, cross_namespace: bool, policy: &mut RoutePolicy) -> Option<TlsRef> {
    let key = secret(reader, "proxy-ssl-secret", cross_namespace);
    let verify = reader.get("proxy-ssl-verify", values::on_off);
    let depth = reader.get("proxy-ssl-verify-depth", values::number(0, 16)).unwrap_or(1);
    let name = reader.get("proxy-ssl-name", server_name);
    let send_name = reader.get("proxy-ssl-server-name", values::on_off);
    if verify == Some(true) && reader.text("proxy-ssl-secret").is_none() {
        let bad = Bad::new(
            "has nothing to verify certificates with",
            "name a Secret with ca.crt in proxy-ssl-secret",
        );
        reader.bad("proxy-ssl-verify", &bad);
    }
    if key.is_some() || name.is_some() || send_name.is_some() {
        policy.upstream.tls = Some(Arc::new(UpstreamTls {
            verify: key.is_some() && verify.unwrap_or_default(),
            roots: Vec::new(),
            depth: u32::try_from(depth).unwrap_or(1),
            name,
            send_name: send_name.unwrap_or_default(),
            certificate: None,
        }));
    }
    let annotation = reader.written("proxy-ssl-secret").into();
    key.map(|secret| TlsRef { secret, annotation })
}

fn protocol(text: &str) -> Read<UpstreamProtocol> {
    match text.trim().to_ascii_uppercase().as_str() {
        "HTTP" => Ok(UpstreamProtocol::Http),
        "HTTPS" => Ok(UpstreamProtocol::Https),
        "GRPC" => Ok(UpstreamProtocol::Grpc),
        "GRPCS" => Ok(UpstreamProtocol::Grpcs),
        "AUTO_HTTP" => Ok(UpstreamProtocol::Auto),
        "FCGI" | "AJP" => {
            Err(Bad::new("is not spoken here", "put a server in front of the application that speaks HTTP"))
        }
        _ => Err(Bad::new("is no protocol of endpoints", "write HTTP, HTTPS, GRPC, GRPCS or AUTO_HTTP")),
    }
}

/// nginx's words for what a request is tried again after.
pub(super) fn retry_on(text: &str) -> Read<Vec<RetryOn>> {
    let mut on = Vec::new();
    for word in text.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        on.push(match word {
            "off" => return Ok(Vec::new()),
            "error" => RetryOn::Error,
            "timeout" => RetryOn::Timeout,
            "invalid_header" => RetryOn::InvalidHeader,
            "non_idempotent" => RetryOn::NonIdempotent,
            _ => match word.strip_prefix("http_").and_then(|code| code.parse().ok()) {
                Some(code @ (500 | 502 | 503 | 504 | 403 | 404 | 429)) => RetryOn::Status(code),
                _ => {
                    return Err(Bad::new(
                        "holds a word that is no reason to try again",
                        "write error, timeout, invalid_header, http_502, non_idempotent or off",
                    ));
                }
            },
        });
    }
    on.sort_unstable();
    on.dedup();
    if on.is_empty() { Err(Bad::new("is empty", "write off, or what to try again after")) } else { Ok(on) }
}

/// A host with variables of which clients choose at most the host itself.
pub(super) fn host(text: &str) -> Read<Template> {
    let text = text.trim();
    let template = values::template(text)?;
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    let fits = |part: &TemplatePart| match part {
        TemplatePart::Text(text) => text.bytes().all(letter),
        TemplatePart::Variable(variable) => {
            use Variable::{Header, Host, Ingress, Namespace, Port, Service, ServicePort};
            matches!(variable, Host | Port | Namespace | Ingress | Service | ServicePort | Header(_))
        }
    };
    if text.is_empty() || text.len() > 512 || !template.0.iter().all(fits) {
        return Err(Bad::new("is no host", "write a DNS name, $host or $service_name.$namespace.svc"));
    }
    Ok(template)
}

/// What `Connection` may say to an endpoint.
fn connection(text: &str) -> Read<Arc<str>> {
    let value = text.trim();
    if value.len() <= 64 && values::list(value).all(|option| option.bytes().all(values::is_token)) {
        return Ok(value.into());
    }
    Err(Bad::new("is no value of Connection", "write keep-alive or close"))
}

/// `~` begins a regular expression, `~*` one that is the same whatever the case; all else is what
/// `plain` makes of it.
fn wanted(text: &str, plain: impl FnOnce(&str) -> Read<Template>) -> Read<Wanted> {
    let regex = match (text.strip_prefix("~*"), text.strip_prefix('~')) {
        (Some(regex), _) => format!("(?i){}", regex.trim_start()),
        (None, Some(regex)) => regex.trim_start().to_owned(),
        (None, None) => return plain(text).map(Wanted::Plain),
    };
    values::pattern(&regex).map(Wanted::Regex)
}

/// What takes the place of `from`, whose captures it may name.
fn replacement(text: &str, from: Option<&Wanted>) -> Read<Template> {
    let Some(Wanted::Regex(regex)) = from else { return values::header_value(text) };
    let groups = regex::Regex::new(regex).map_or(0, |regex| regex.captures_len() - 1);
    let to = values::with_captures(text)?;
    let missing = to.variables().find_map(|variable| match variable {
        Variable::Capture(number) if usize::from(*number) > groups => Some(*number),
        _ => None,
    });
    match missing {
        Some(number) => Err(Bad::new(
            format!("uses ${number}, for which the regular expression has no group"),
            "add one to it, or correct the number",
        )),
        None => Ok(to),
    }
}

/// `from to`. `off` is none.
pub(super) fn pair(text: &str) -> Read<Vec<Substitution>> {
    let bad = || Bad::new("is not two plain words", "write what there is and what takes its place, or off");
    // What could end an attribute of a cookie.
    let fits = |word: &str| word.bytes().all(|b| b.is_ascii_graphic() && !b";,\"\\".contains(&b));
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    match words.as_slice() {
        ["off"] => Ok(Vec::new()),
        [from, to] if fits(to) => {
            let plain = |from: &str| match fits(from) && !from.contains('$') {
                true => Ok(Template::literal(from)),
                false => Err(bad()),
            };
            let from = wanted(from, plain)?;
            Ok(vec![Substitution { to: replacement(to, Some(&from))?, from }])
        }
        _ => Err(bad()),
    }
}

/// A DNS name.
fn server_name(text: &str) -> Read<Arc<str>> {
    use crate::model::HostPattern;
    match HostPattern::parse(text.trim()) {
        Ok(HostPattern::Exact(name)) => Ok(name),
        _ => Err(Bad::new("is no DNS name", "write the name in the endpoint's certificate")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_next_upstream() {
        use RetryOn::{Error, NonIdempotent, Status, Timeout};
        for (text, expect) in [
            ("error timeout", Some(vec![Error, Timeout])),
            ("timeout error error", Some(vec![Error, Timeout])),
            ("error http_502,http_503", Some(vec![Error, Status(502), Status(503)])),
            ("error non_idempotent", Some(vec![Error, NonIdempotent])),
            ("off", Some(vec![])),
            ("http_418", None),
            ("http_", None),
            ("sometimes", None),
            (" ", None),
        ] {
            assert_eq!(retry_on(text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn hosts_for_endpoints() {
        for (text, expect) in [
            ("internal.example.com:8080", true),
            ("$service_name.$namespace.svc.cluster.local", true),
            ("$host", true),
            ("", false),
            ("a b", false),
            ("a/b", false),
            ("$request_uri", false),
            ("a\r\nX: y", false),
        ] {
            assert_eq!(host(text).is_ok(), expect, "{text}");
        }
    }
}
