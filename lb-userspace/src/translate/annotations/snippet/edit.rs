//! What single directives change in a policy.

use std::sync::Arc;
use std::time::Duration;

use super::Scope;
use super::networks::{Networks, Rule};
use super::rewrite::{Rewrite, returned, rewritten};
use super::syntax::Directive;
use crate::model::{
    HeaderEdit, Redirect, RetryOn, RewriteTarget, RoutePolicy, Satisfy, Substitution, Template,
};
use crate::objects::excerpt;
use crate::translate::annotations::values::{self, Bad, Read};
use crate::translate::annotations::{bodies, upstream};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Edit {
    Answer(HeaderEdit),
    /// Before headers are added, as nginx hides an endpoint's headers.
    Hide(Arc<str>),
    Request(HeaderEdit),
    Host(Template),
    Redirect(Redirect),
    Path(RewriteTarget),
    MaxBody(Option<u64>),
    BufferRequest(bool),
    HeadSize(u32),
    Connect(Duration),
    Send(Duration),
    Read(Duration),
    RetryOn(Vec<RetryOn>),
    RetryTries(u32),
    RetryTimeout(Duration),
    Http10(bool),
    CookieDomain(Vec<Substitution>),
    CookiePath(Vec<Substitution>),
    LimitRate(u64),
    Networks(Networks),
    Satisfy(Satisfy),
    Log(bool),
}

impl Edit {
    pub(super) fn apply(&self, policy: &mut RoutePolicy) {
        let upstream = &mut policy.upstream;
        match self.clone() {
            Self::Answer(edit) => policy.response_headers.push(edit),
            Self::Hide(name) => policy.response_headers.insert(0, HeaderEdit::Remove { name }),
            Self::Request(edit) => policy.request_headers.push(edit),
            Self::Host(host) => upstream.host = Some(host),
            Self::Redirect(redirect) => policy.redirect = Some(redirect),
            Self::Path(path) => policy.rewrite = Some(path),
            Self::MaxBody(most) => policy.body.max_request = most,
            Self::BufferRequest(on) => policy.body.buffer_request = on,
            Self::HeadSize(size) => policy.body.max_response_head = Some(size),
            Self::Connect(limit) => upstream.connect_timeout = Some(limit),
            Self::Send(limit) => upstream.send_timeout = Some(limit),
            Self::Read(limit) => upstream.read_timeout = Some(limit),
            Self::RetryOn(on) => upstream.retry.on = on,
            Self::RetryTries(tries) => upstream.retry.tries = tries,
            Self::RetryTimeout(timeout) => upstream.retry.timeout = timeout,
            Self::Http10(on) => upstream.http10 = on,
            Self::CookieDomain(pairs) => upstream.response.cookie_domain = pairs,
            Self::CookiePath(pairs) => upstream.response.cookie_path = pairs,
            Self::LimitRate(rate) => policy.limits.bytes_per_second = Some(rate).filter(|rate| *rate > 0),
            Self::Networks(networks) => restrict(networks, policy),
            Self::Satisfy(satisfy) => policy.access.satisfy = satisfy,
            Self::Log(on) => policy.unlogged = !on,
        }
    }
}

/// Both lists count where a route has two: nobody gets in whom one of them keeps out.
fn restrict(networks: Networks, policy: &mut RoutePolicy) {
    let access = &mut policy.access;
    if let Some(also) = networks.allow {
        access.allow = Some(match &access.allow {
            None => also.into(),
            Some(own) => {
                let mut both: Vec<_> = own
                    .iter()
                    .flat_map(|a| also.iter().map(move |b| (a, b)))
                    .filter_map(|(a, b)| match (a.contains(b), b.contains(a)) {
                        (true, _) => Some(*b),
                        (_, true) => Some(*a),
                        _ => None,
                    })
                    .collect();
                both.sort_unstable();
                both.dedup();
                both.into()
            }
        });
    }
    if !networks.deny.is_empty() {
        let mut all = networks.deny;
        all.extend(access.deny.iter().flat_map(|own| own.iter().copied()));
        all.sort_unstable();
        all.dedup();
        access.deny = Some(all.into());
    }
}

/// What became of a directive.
pub(super) enum Understood {
    Edits(Vec<Edit>),
    Network(Rule),
    /// Says what is so anyway, or tunes what is not there.
    Needless,
    /// Known, but not written so that it can be followed.
    Bad(Bad),
    Nothing,
}

impl<T: Into<Vec<Edit>>> From<Read<T>> for Understood {
    fn from(read: Read<T>) -> Self {
        match read {
            Ok(edits) => Self::Edits(edits.into()),
            Err(bad) => Self::Bad(bad),
        }
    }
}

impl From<Edit> for Vec<Edit> {
    fn from(edit: Edit) -> Self {
        vec![edit]
    }
}

/// What a directive changes.
pub(super) fn understand(directive: &Directive, scope: Scope) -> Understood {
    if directive.block.is_some() {
        return Understood::Nothing;
    }
    let arguments = directive.arguments();
    let one = || match arguments {
        [one] => Ok(one.as_str()),
        _ => Err(Bad::new("does not have one argument", "correct it")),
    };
    match directive.name() {
        "add_header" => add_header(arguments).map(Edit::Answer).into(),
        "more_set_headers" => more_headers(arguments, Edit::Answer, set_line).into(),
        "more_clear_headers" => more_headers(arguments, Edit::Answer, clear_name).into(),
        "return" => returned(arguments).map(Edit::Redirect).into(),
        "rewrite" => rewritten(arguments)
            .and_then(|found| match (found, scope) {
                (Rewrite::Redirect(redirect), _) => Ok(Edit::Redirect(redirect)),
                (Rewrite::Path(path), Scope::Routes) => Ok(Edit::Path(path)),
                (Rewrite::Path(_), Scope::Hosts) => Err(Bad::new(
                    "rewrites the path before its rule is chosen",
                    "use rewrite-target on the Ingress that it is for",
                )),
            })
            .into(),
        "allow" | "deny" => match network_rule(directive.name() == "allow", arguments) {
            Ok(rule) => Understood::Network(rule),
            Err(bad) => Understood::Bad(bad),
        },
        "satisfy" => {
            let words = values::one_of(&[("all", Satisfy::All), ("any", Satisfy::Any)]);
            one().and_then(words).map(Edit::Satisfy).into()
        }
        "access_log" if arguments == ["off"] => Understood::Edits(vec![Edit::Log(false)]),
        name if NEEDLESS.contains(&name) => Understood::Needless,
        name => match (for_route(name, arguments, &one), scope) {
            (Understood::Nothing, _) => Understood::Nothing,
            (_, Scope::Hosts) => Understood::Bad(Bad::new(
                "does nothing in a server-snippet, since each route has its own",
                "use configuration-snippet or an annotation",
            )),
            (understood, Scope::Routes) => understood,
        },
    }
}

/// What tunes buffers and sockets that are not there, or says what is so anyway.
const NEEDLESS: [&str; 31] = [
    "brotli",
    "brotli_comp_level",
    "brotli_types",
    "chunked_transfer_encoding",
    "client_body_buffer_size",
    "client_body_timeout",
    "client_header_buffer_size",
    "client_header_timeout",
    "etag",
    "gzip",
    "gzip_comp_level",
    "gzip_min_length",
    "gzip_proxied",
    "gzip_types",
    "gzip_vary",
    "http2_push_preload",
    "keepalive_timeout",
    "large_client_header_buffers",
    "log_not_found",
    "port_in_redirect",
    "proxy_busy_buffers_size",
    "proxy_max_temp_file_size",
    "proxy_pass_header",
    "proxy_pass_request_headers",
    "proxy_temp_file_write_size",
    "reset_timedout_connection",
    "send_timeout",
    "server_tokens",
    "tcp_nodelay",
    "tcp_nopush",
    "underscores_in_headers",
];

/// Directives that ingress-nginx writes for each location itself, so that they count in a
/// configuration-snippet alone.
fn for_route<'a>(name: &str, arguments: &'a [String], one: &dyn Fn() -> Read<&'a str>) -> Understood {
    match name {
        "proxy_set_header" => request_edit(arguments),
        "more_set_input_headers" => more_headers(arguments, Edit::Request, set_line).into(),
        "more_clear_input_headers" => more_headers(arguments, Edit::Request, clear_name).into(),
        "proxy_hide_header" => one().and_then(values::editable_header).map(Edit::Hide).into(),
        "client_max_body_size" => one().and_then(bodies::body_size).map(Edit::MaxBody).into(),
        "proxy_request_buffering" => one().and_then(values::on_off).map(Edit::BufferRequest).into(),
        "proxy_buffer_size" => one().and_then(bodies::head_size).map(Edit::HeadSize).into(),
        "proxy_connect_timeout" => one().and_then(values::timeout).map(Edit::Connect).into(),
        "proxy_send_timeout" | "grpc_send_timeout" => one().and_then(values::timeout).map(Edit::Send).into(),
        "proxy_read_timeout" | "grpc_read_timeout" => one().and_then(values::timeout).map(Edit::Read).into(),
        "proxy_next_upstream" => upstream::retry_on(&arguments.join(" ")).map(Edit::RetryOn).into(),
        "proxy_next_upstream_tries" => one().and_then(values::count).map(Edit::RetryTries).into(),
        "proxy_next_upstream_timeout" => one().and_then(values::duration).map(Edit::RetryTimeout).into(),
        "proxy_http_version" => {
            one().and_then(values::one_of(&[("1.0", true), ("1.1", false)])).map(Edit::Http10).into()
        }
        "proxy_cookie_domain" => upstream::pair(&arguments.join(" ")).map(Edit::CookieDomain).into(),
        "proxy_cookie_path" => upstream::pair(&arguments.join(" ")).map(Edit::CookiePath).into(),
        "limit_rate" => one().and_then(values::size).map(Edit::LimitRate).into(),
        _ => Understood::Nothing,
    }
}

/// `NAME VALUE [always]`. Without `always` nginx adds headers to answers of some statuses alone.
fn add_header(arguments: &[String]) -> Read<HeaderEdit> {
    let (name, value, always) = match arguments {
        [name, value] => (name, value, false),
        [name, value, always] if always == "always" => (name, value, true),
        _ => return Err(Bad::new("needs a name and a value", "write add_header NAME \"VALUE\" always")),
    };
    let statuses = if always { vec![] } else { vec![200, 201, 204, 206, 301, 302, 303, 304, 307, 308] };
    Ok(HeaderEdit::Add {
        name: values::editable_header(name)?,
        value: values::header_value(value)?,
        statuses,
    })
}

/// `NAME VALUE` of `proxy_set_header`.
pub(super) fn set_header(arguments: &[String]) -> Read<HeaderEdit> {
    let [name, value] = arguments else {
        return Err(Bad::new("needs a name and a value", "write proxy_set_header NAME \"VALUE\""));
    };
    Ok(HeaderEdit::Set {
        name: values::editable_header(name)?,
        value: values::header_value(value)?,
        statuses: vec![],
    })
}

pub(super) fn request_edit(arguments: &[String]) -> Understood {
    match arguments {
        // What every configuration for WebSockets has: upgrades need no leave here.
        [name, _] if ["connection", "upgrade"].iter().any(|own| name.eq_ignore_ascii_case(own)) => {
            Understood::Needless
        }
        [name, value]
            if name.eq_ignore_ascii_case("x-forwarded-for") && value == "$proxy_add_x_forwarded_for" =>
        {
            Understood::Needless
        }
        [name, value] if name.eq_ignore_ascii_case("host") => upstream::host(value).map(Edit::Host).into(),
        _ => set_header(arguments).map(Edit::Request).into(),
    }
}

/// Options and headers of the directives of the headers-more module: `-s '404 500' 'A: b' 'C: d'`.
fn more_headers(
    arguments: &[String],
    wrap: impl Fn(HeaderEdit) -> Edit,
    read: impl Fn(&str, &[u16]) -> Read<HeaderEdit>,
) -> Read<Vec<Edit>> {
    let (mut statuses, mut edits) = (Vec::new(), Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-s" => {
                let list = words.next().map(String::as_str).unwrap_or_default();
                for status in list.split([' ', ',']).filter(|status| !status.is_empty()) {
                    let status = values::number(100, 599)(status)?;
                    statuses.push(u16::try_from(status).unwrap_or(u16::MAX));
                }
            }
            option if option.starts_with('-') => {
                return Err(Bad::new(
                    format!("has the option {}, which is not supported", excerpt(option)),
                    "leave it out",
                ));
            }
            header => edits.push(header),
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    if edits.is_empty() {
        return Err(Bad::new("names no header", "write 'NAME: VALUE'"));
    }
    edits.into_iter().map(|header| read(header, &statuses).map(&wrap)).collect()
}

/// `NAME: VALUE`.
fn set_line(text: &str, statuses: &[u16]) -> Read<HeaderEdit> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    Ok(HeaderEdit::Set {
        name: values::editable_header(name)?,
        value: values::header_value(value.trim())?,
        statuses: statuses.to_vec(),
    })
}

fn clear_name(text: &str, statuses: &[u16]) -> Read<HeaderEdit> {
    let name = values::editable_header(text.trim_end_matches(':'))?;
    if name.contains('*') {
        return Err(Bad::new("has a wildcard, which is not supported", "name each header"));
    }
    Ok(match statuses {
        [] => HeaderEdit::Remove { name },
        some => HeaderEdit::Set { name, value: Template::default(), statuses: some.to_vec() },
    })
}

fn network_rule(allow: bool, arguments: &[String]) -> Read<Rule> {
    match arguments {
        [all] if all == "all" => Ok(if allow { Rule::AllowAll } else { Rule::DenyAll }),
        [network] => values::network(network)
            .map(|network| if allow { Rule::Allow(network) } else { Rule::Deny(network) }),
        _ => Err(Bad::new("needs one network", "write an address, a CIDR or all")),
    }
}
