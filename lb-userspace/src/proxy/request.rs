//! One request: checked, routed, sent to an endpoint, answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};

use super::body::{Content, ResponseBody};
use super::cluster::ClusterSlot;
use super::connection::Client;
use super::error::Error;
use super::finish::Finish;
use super::forwarded;
use super::headers::{Connection, write_line};
use super::respond;
use super::upgrade;
use super::upstream::{Answer, Exchange, Failure, Upstream};
use crate::model::{Backend, RewriteTarget, RoutePolicy};
use crate::route::{Target, normalise_host};

/// How many endpoints a request may be tried on.
const TRIES: usize = 3;

/// Answers one request of `client`.
pub(super) async fn serve(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    client.last_active.set(Instant::now());
    let mut finish = Finish::new(&client);
    let is_head = request.method() == Method::HEAD;
    let own = match answer(&client, request, &mut finish).await {
        Ok(Reply::Upstream(mut response)) => {
            finish.status = Some(response.status().as_u16());
            response.headers_mut().entry(header::SERVER).or_insert(respond::SERVER_NAME);
            return Ok(response.map(|content| ResponseBody::new(content, finish)));
        }
        Ok(Reply::Switched(response, tunnel)) => {
            finish.status = Some(response.status().as_u16());
            let worker = Rc::clone(&client.worker);
            tokio::task::spawn_local(tunnel.run(worker, finish));
            return Ok(response.map(|()| {
                // The tunnel's end is what is logged and counted.
                ResponseBody::empty()
            }));
        }
        Ok(Reply::Own(response)) => response,
        Err(error) => {
            if let Some(entry) = &mut finish.entry {
                entry.error = Some(error.to_string());
            }
            let mut response = respond::failure(&error);
            if client.closes_after(&error) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    finish.status = Some(own.status().as_u16());
    Ok(own.map(|text| {
        let text = if is_head { Bytes::new() } else { text };
        ResponseBody::new(Content::Own(text), finish)
    }))
}

enum Reply {
    Upstream(Response<Content>),
    Switched(Response<()>, upgrade::Tunnel),
    Own(Response<Bytes>),
}

async fn answer(
    client: &Rc<Client>,
    mut request: Request<Incoming>,
    finish: &mut Finish,
) -> Result<Reply, Error> {
    let worker = &client.worker;
    let on_upgrade = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let request_id = worker.ids.next();
    if let Some(entry) = &mut finish.entry {
        entry.method = parts.method.to_string();
        entry.path = parts.uri.path().to_owned();
        entry.protocol = protocol_name(parts.version);
        entry.request_id = String::from_utf8_lossy(&request_id).into_owned();
    }
    if parts.method == Method::CONNECT {
        return Err(Error::Connect);
    }
    let host = host_of(&parts)?;
    let target = target_of(&parts)?;
    if let Some(entry) = &mut finish.entry {
        entry.host = host.clone();
        entry.path = target.path_and_query().to_owned();
    }

    let config = worker.config();
    let routed = match host.as_str() {
        "" => config.table.find(None, target.path()),
        name => {
            let name = normalise_host(name).map_err(|bad| Error::BadRequest(bad.to_string()))?;
            config.table.find(Some(&name), target.path())
        }
    };
    let route = routed.ok_or(Error::NoRoute)?.route;
    if let Some(entry) = &mut finish.entry {
        entry.route = Some(route.ingress.to_string());
    }
    if let Some(status) = route.policy.https_redirect.filter(|_| !client.is_https(&parts.headers)) {
        let port = config.https_port(client.local);
        return Ok(Reply::Own(redirect(status, &host, port, &target)?));
    }
    let slot = match &route.backend {
        Backend::Unavailable(why) => return Err(Error::Unavailable(why.clone())),
        Backend::Cluster(index) => &config.clusters[*index],
    };
    if let Some(entry) = &mut finish.entry {
        entry.cluster = Some(slot.key.to_string());
    }

    let upgrading = on_upgrade.is_some() && body.is_end_stream();
    let framing = Framing::of(&parts, &body);
    let head = write_head(client, &parts, &host, &target, &route.policy, &request_id, &framing, upgrading);
    let exchange = Exchange {
        head,
        body: (!body.is_end_stream()).then_some(body),
        chunked: framing == Framing::Chunked,
        expects_continue: expects_continue(&parts),
        wants_upgrade: upgrading,
        method: parts.method,
    };
    let (answer, address) = forward(client, slot, exchange).await?;
    if let Some(entry) = &mut finish.entry {
        entry.upstream = Some(address.to_string());
    }
    Ok(match (answer, on_upgrade) {
        (Answer::Switched(head, upstream), Some(on_upgrade)) => {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = head.headers;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.extend(head.upgrade.map(|protocol| (header::UPGRADE, protocol)));
            Reply::Switched(response, upgrade::Tunnel { on_upgrade, upstream })
        }
        (Answer::Switched(..), None) => {
            return Err(Error::Protocol { address, what: "101 that nobody asked for" });
        }
        (Answer::Response(head, body), on_upgrade) => {
            let mut response = Response::new(Content::Upstream(body));
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            if on_upgrade.is_some() {
                // What follows the head was not looked at as a request (see `guard`).
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Reply::Upstream(response)
        }
    })
}

/// Sends the request to an endpoint, and to another while nothing of it can have arrived.
async fn forward(
    client: &Client,
    slot: &ClusterSlot,
    mut exchange: Exchange,
) -> Result<(Answer, SocketAddr), Error> {
    let worker = &client.worker;
    let counters = &worker.counters;
    let timeouts = &worker.settings.timeouts;
    let place = slot.begin(worker.index);
    let mut fresh = false;
    let mut attempt = 0;
    let mut last = None;
    while attempt < TRIES {
        let Some(address) = slot.endpoint(place, attempt) else { break };
        let kept = if fresh { None } else { worker.pool.take(address) };
        let upstream = match kept {
            Some(upstream) => {
                counters.upstream_reuses.add(1);
                upstream
            }
            None => match Upstream::connect(address, timeouts.connect).await {
                Ok(upstream) => {
                    counters.upstream_connects.add(1);
                    upstream
                }
                Err(error) => {
                    tracing::debug!(%error, cluster = %slot.key, "connecting failed");
                    counters.upstream_failures.add(1);
                    debug_assert!(error.is_before_sending());
                    last = Some(error);
                    attempt += 1;
                    continue;
                }
            },
        };
        let (head, method) = (exchange.head.clone(), exchange.method.clone());
        let (chunked, expects_continue, wants_upgrade) =
            (exchange.chunked, exchange.expects_continue, exchange.wants_upgrade);
        match exchange.run(upstream, &worker.pool, timeouts).await {
            Ok(answer) => return Ok((answer, address)),
            Err(Failure { error, untouched, stale }) => {
                if error.fault() == super::error::Fault::Upstream {
                    counters.upstream_failures.add(1);
                }
                match untouched {
                    // Only where a second arrival would do no harm (RFC 9110 section 9.2.2).
                    Some(body) if stale && method.is_idempotent() => {
                        counters.upstream_retries.add(1);
                        fresh = true;
                        exchange = Exchange { head, method, body, chunked, expects_continue, wants_upgrade };
                    }
                    _ => return Err(error),
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::NoEndpoint(slot.key.clone())))
}

/// How the request's body is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    fn of(parts: &Parts, body: &Incoming) -> Self {
        match body.size_hint().exact() {
            Some(0) if !parts.headers.contains_key(header::CONTENT_LENGTH) => Self::None,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }
}

/// The request's head as the endpoint gets it.
#[expect(
    clippy::too_many_arguments,
    reason = "each is one fact of the request; a struct would only rename them"
)]
fn write_head(
    client: &Client,
    parts: &Parts,
    host: &str,
    target: &Target,
    policy: &RoutePolicy,
    request_id: &[u8; 32],
    framing: &Framing,
    upgrading: bool,
) -> Bytes {
    let worker = &client.worker;
    let mut scratch = worker.heads.borrow_mut();
    scratch.reserve(1024);
    let out: &mut BytesMut = &mut scratch;
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    match &policy.rewrite {
        Some(RewriteTarget::Replace(path)) if !target.is_asterisk() => {
            out.extend_from_slice(path.as_bytes());
            if let Some(query) = target.query() {
                out.extend_from_slice(b"?");
                out.extend_from_slice(query.as_bytes());
            }
        }
        _ => out.extend_from_slice(target.path_and_query().as_bytes()),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_line(out, "host", host.as_bytes());

    let connections = parts.headers.get_all(header::CONNECTION);
    let connection = Connection::parse(connections.iter().map(HeaderValue::as_bytes));
    let mut cookies = 0;
    for (name, value) in &parts.headers {
        match *name {
            header::HOST | header::CONTENT_LENGTH => {}
            header::EXPECT if parts.version == Version::HTTP_2 => {}
            // Crumbs are joined below (RFC 9113 section 8.2.3).
            header::COOKIE => cookies += 1,
            header::TE if has_trailers_token(value) => out.extend_from_slice(b"te: trailers\r\n"),
            _ if connection.drops(name) || forwarded::is_ours(name) || is_unsafe(name) => {}
            _ => write_line(out, name.as_str(), value.as_bytes()),
        }
    }
    if cookies > 0 {
        let crumbs: Vec<&[u8]> =
            parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        write_line(out, "cookie", &crumbs.join(&b"; "[..]));
    }
    let about = forwarded::Client {
        ip: &client.ip,
        scheme: if client.tls { "https" } else { "http" },
        port: client.local.port(),
        host,
        request_id: std::str::from_utf8(request_id).unwrap_or_default(),
        trusted: client.trusted,
    };
    about.write(&parts.headers, &worker.settings.trusted_proxies, out);
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            let mut digits = itoa::Buffer::new();
            write_line(out, "content-length", digits.format(*length).as_bytes());
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if let Some(protocol) = parts.headers.get(header::UPGRADE).filter(|_| upgrading) {
        out.extend_from_slice(b"connection: upgrade\r\n");
        write_line(out, "upgrade", protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    scratch.split().freeze()
}

/// `Proxy` becomes `HTTP_PROXY` in CGI programs, which then send their own requests there.
fn is_unsafe(name: &HeaderName) -> bool {
    name.as_str() == "proxy"
}

fn has_trailers_token(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// The host that the client wrote, from `Host` or `:authority`; they must agree. Empty only for HTTP/1.0
/// without one.
fn host_of(parts: &Parts) -> Result<String, Error> {
    let bad = |what: &str| Error::BadRequest(what.to_owned());
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(bad("more than one Host header")),
        (Some(host), None) => Some(host.to_str().map_err(|_| bad("Host is not text"))?),
        (None, _) => None,
    };
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(bad("user information in the request target"));
    }
    match (authority, header) {
        (Some(authority), Some(header)) if !authority.eq_ignore_ascii_case(header) => {
            Err(bad("Host and the request target disagree"))
        }
        (Some(authority), _) => Ok(authority.to_owned()),
        (None, Some("")) => Err(bad("Host is empty")),
        (None, Some(header)) => Ok(header.to_owned()),
        (None, None) if parts.version == Version::HTTP_10 => Ok(String::new()),
        (None, None) => Err(bad("Host is missing")),
    }
}

fn target_of(parts: &Parts) -> Result<Target, Error> {
    let text = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    if text == "*" && parts.method != Method::OPTIONS {
        return Err(Error::BadRequest("* is a target for OPTIONS only".to_owned()));
    }
    Target::parse(text).map_err(|bad| Error::BadRequest(bad.to_string()))
}

/// Whether the request asks for another protocol in a form that can be given: HTTP/1.1, no body.
fn wants_upgrade(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let Some(protocol) = headers.get(header::UPGRADE) else { return false };
    let connections = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    request.version() == Version::HTTP_11
        && !protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2")
        && Connection::parse(connections).upgrade
        && request.body().is_end_stream()
}

fn expects_continue(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn redirect(status: u16, host: &str, port: u16, target: &Target) -> Result<Response<Bytes>, Error> {
    let bare = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let path = if target.is_asterisk() { "/" } else { target.path_and_query() };
    let location = match port {
        443 => format!("https://{bare}{path}"),
        port => format!("https://{bare}:{port}{path}"),
    };
    let location = HeaderValue::from_str(&location)
        .map_err(|_| Error::BadRequest("the host can't stand in a URL".to_owned()))?;
    Ok(respond::redirect(StatusCode::from_u16(status).unwrap_or(StatusCode::PERMANENT_REDIRECT), location))
}

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
