//! One request: checked, routed, let in, sent to an endpoint, answered.

use std::borrow::Cow;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use super::access_log::clip;
use super::balance::{Choice, CookieFacts};
use super::body::{Content, ResponseBody};
use super::cluster::ClusterSlot;
use super::config::{Config, Served};
use super::connection::Client;
use super::error::{Error, Fault};
use super::finish::Finish;
use super::forward::forward;
use super::grpc;
use super::hops;
use super::incoming::{check_size, expects_continue, host_of, target_of, wants_upgrade};
use super::incoming_body::{RequestBody, linger};
use super::mirror::mirror;
use super::outgoing::{Framing, write_head};
use super::policy::{Edits, Facts, Passage, Place, describe, page, stands_in};
use super::respond;
use super::trace;
use super::upgrade;
use super::upstream::{Answer, Request as UpstreamRequest};
use super::websocket::Handshake;
use crate::model::{Backend, RoutePolicy, Variable};
use crate::route::{Found, Rewritten, Target, normalise_host};

/// Answers one request of `client`. What few requests need is in boxes of its own: a request over
/// HTTP/2 is copied several times until it is a task.
pub(super) async fn serve(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut finish = Finish::new(&client);
    let is_head = request.method() == Method::HEAD;
    let is_grpc = grpc::is_call(request.headers());
    let has_body = !request.body().is_end_stream();
    let expects = request.headers().contains_key(header::EXPECT);
    let mut untaken = None;
    let reply = match answer(&client, request, &mut untaken, &mut finish).await {
        Ok(reply) => reply,
        Err(error) => Reply::Own(fail(&client, &error, &mut finish)),
    };
    // Where nobody takes the rest of a body, the connection ends behind the answer: a client that is not told
    // sends its next request in vain.
    let leaves_body = match &reply {
        Reply::Answer(_, leaves_body) => *leaves_body,
        Reply::Own(response) => {
            has_body && (expects || closes(response) || !discard(&client, response.status(), untaken))
        }
        Reply::Switched(..) => false,
    };
    Ok(match reply {
        Reply::Answer(mut response, _) | Reply::Own(mut response) => {
            finish.status = Some(response.status().as_u16());
            response.headers_mut().entry(header::SERVER).or_insert(respond::SERVER_NAME);
            let mut response = if is_grpc { for_grpc(response) } else { response };
            if is_head {
                without_own_body(&mut response);
            }
            let is_h2 = client.is_h2();
            if (leaves_body || client.is_last()) && !is_h2 {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(|content| match ResponseBody::new(content, finish) {
                body if is_grpc && is_h2 => body.for_grpc(),
                body => body,
            })
        }
        Reply::Switched(response, tunnel) => {
            // Over HTTP/2 the client gets 200; it is the same to whoever reads logs and counters.
            finish.status = Some(StatusCode::SWITCHING_PROTOCOLS.as_u16());
            let worker = Rc::clone(&client.worker);
            if !client.is_h2() {
                client.gate.open_tunnel();
            }
            tokio::task::spawn_local(tunnel.run(worker, finish));
            // The tunnel's end is what is logged and counted.
            response.map(|()| ResponseBody::empty())
        }
    })
}

/// Leaves only the length that the body would have.
fn without_own_body(response: &mut Response<Content>) {
    if let Content::Own(body) = response.body_mut()
        && !body.is_empty()
    {
        let length = std::mem::take(body).len();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
}

/// What is read at most of a body that nobody wants, so that its connection can be used again: what a client
/// may send over HTTP/2 without being asked for more.
const MOST_DISCARDED: u64 = 256 * 1024;

/// Has a short body that nobody wants read to its end. False where it is longer, or its length is not known.
fn discard(client: &Client, status: StatusCode, untaken: Option<Incoming>) -> bool {
    let Some(mut body) = untaken else { return false };
    let is_short = body.size_hint().exact().is_some_and(|length| length <= MOST_DISCARDED);
    if is_short {
        let patience = client.worker.settings.timeouts.client;
        // Dropped before its end, it ends the connection, or the stream.
        tokio::task::spawn_local(tokio::time::timeout(patience, async move {
            while let Some(Ok(_)) = body.frame().await {}
        }));
    } else if client.is_h2() && (status.is_client_error() || status.is_server_error()) {
        linger(body);
    }
    is_short
}

/// Whether the connection ends behind an answer.
fn closes(response: &Response<Content>) -> bool {
    response.headers().contains_key(header::CONNECTION)
}

enum Reply {
    /// The endpoint's. True where it leaves the rest of the request's body to nobody.
    Answer(Response<Content>, bool),
    /// Ours, in its place.
    Own(Response<Content>),
    Switched(Response<()>, upgrade::Tunnel),
}

/// What a request asks for, checked.
struct Asked {
    parts: Parts,
    /// As the client wrote it.
    host: String,
    target: Target,
    request_id: [u8; 32],
    on_upgrade: Option<OnUpgrade>,
    /// With an endpoint that is asked for a WebSocket for a client that speaks HTTP/2.
    handshake: Option<Handshake>,
}

/// The whole way of a request.
async fn answer(
    client: &Rc<Client>,
    request: Request<Incoming>,
    untaken: &mut Option<Incoming>,
    finish: &mut Finish,
) -> Result<Reply, Error> {
    let (mut asked, body) = Asked::read(client, request, finish)?;
    *untaken = Some(body);
    let config = client.worker.config();
    let found = route(client, &config, &asked)?;
    let policy = &found.served.policy;
    finish.place = found.served.place.index();
    if let Some(span) = &mut finish.span {
        span.route = Some((found.route.path.text().to_owned(), found.route.ingress.to_string()));
        span.client = Some(asked.facts(client, &found).address());
    }
    if policy.rules.unlogged {
        finish.entry = None;
    }
    if let Some(entry) = &mut finish.entry {
        entry.route = Some(found.route.ingress.to_string());
        if client.trusted {
            let facts = asked.facts(client, &found);
            entry.client = facts.address().to_string();
            entry.request_id = clip(facts.request_id());
        }
    }

    let admitted = policy.admit(&asked.facts(client, &found), || config.https_port(client.local)).await;
    let (reply, pass) = match admitted {
        Ok(mut pass) => {
            finish.held = pass.held.take();
            let sent = send(client, &mut asked, untaken, &found, &mut pass, finish).await;
            (sent.unwrap_or_else(|error| Reply::Own(fail(client, &error, finish))), Some(pass))
        }
        Err(refusal) => {
            if let (Some(entry), Some(why)) = (&mut finish.entry, refusal.why) {
                entry.error = Some(why.into_owned());
            }
            (Reply::Own((*refusal.response).map(Content::Own)), None)
        }
    };
    let finished = |response| finished(asked.facts(client, &found), found.served, pass.as_ref(), response);
    Ok(match reply {
        Reply::Answer(response, leaves_body) => Reply::Answer(finished(response).await, leaves_body),
        Reply::Own(response) => Reply::Own(finished(response).await),
        Reply::Switched(mut response, tunnel) => {
            let facts = asked.facts(client, &found);
            policy.dress(&facts, pass.as_ref(), response.status(), response.headers_mut());
            Reply::Switched(response, tunnel)
        }
    })
}

impl Asked {
    /// Takes a request apart and refuses what is not valid.
    fn read(
        client: &Client,
        mut request: Request<Incoming>,
        finish: &mut Finish,
    ) -> Result<(Self, Incoming), Error> {
        let request_id = client.worker.ids.next();
        if let Some(entry) = &mut finish.entry {
            entry.method = clip(request.method().as_str());
            entry.path = clip(request.uri().path());
            entry.protocol = protocol_name(request.version());
            entry.request_id = String::from_utf8_lossy(&request_id).into_owned();
            entry.take(request.headers());
        }
        if let Some(tracer) = &client.worker.tracer {
            let mut span = tracer.begin(request.headers());
            span.method = request.method().clone();
            span.path = clip(request.uri().path());
            span.client = Some(client.peer);
            if let Some(entry) = &mut finish.entry {
                entry.trace_id = Some(span.trace_id());
            }
            if !trace::is_valid(request.headers()) {
                request.headers_mut().remove(&trace::TRACESTATE);
            }
            request.headers_mut().insert(&trace::TRACEPARENT, span.traceparent());
            finish.span = Some(span);
        }
        check_size(&request)?;
        if *request.method() == Method::TRACE {
            // The answer would tell the client what was written into the request for its endpoint only.
            return Err(Error::Method("TRACE"));
        }
        let handshake = Handshake::begin(&mut request)?;
        let upgrades = handshake.is_some() || wants_upgrade(&request);
        let on_upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let host = host_of(&parts)?;
        let target = target_of(&parts)?;
        if let Some(span) = &mut finish.span {
            span.host = clip(&host);
            span.path = clip(target.path());
        }
        if let Some(entry) = &mut finish.entry {
            entry.host = clip(&host);
            entry.path = clip(target.path_and_query());
        }
        Ok((Self { parts, host, target, request_id, on_upgrade, handshake }, body))
    }

    fn facts<'a>(&'a self, client: &'a Client, found: &Found<'a, Served>) -> Facts<'a> {
        Facts {
            client,
            parts: &self.parts,
            host: &self.host,
            target: &self.target,
            request_id: std::str::from_utf8(&self.request_id).unwrap_or_default(),
            found: *found,
        }
    }
}

/// The route that takes the request, on a connection that may ask for its host.
fn route<'a>(client: &Client, config: &'a Config, asked: &Asked) -> Result<Found<'a, Served>, Error> {
    let name = match asked.host.as_str() {
        "" => None,
        name => Some(normalise_host(name).map_err(|bad| Error::BadRequest(bad.to_string()))?),
    };
    if client.handshake.as_ref().is_some_and(|tls| config.tls.is_misdirected(tls, name.as_deref())) {
        return Err(Error::Misdirected);
    }
    config.table.find(name.as_deref(), asked.target.path()).ok_or(Error::NoRoute)
}

/// Where the request goes: the route's cluster, or the backend that stands in for it while it has
/// no endpoint; true for that.
fn destination<'a>(found: &Found<'a, Served>) -> Result<(&'a ClusterSlot, bool), Error> {
    let pages = found.served.pages.as_deref();
    match (&found.route.backend, &found.served.cluster) {
        (Backend::Unavailable(why), _) => match pages {
            Some(pages) if stands_in(why) => Ok((pages, true)),
            _ => Err(Error::Unavailable(why.clone())),
        },
        (_, Some(slot)) => Ok(match pages {
            Some(pages) if slot.is_empty() => (pages, true),
            _ => (slot, false),
        }),
        (_, None) => Err(Error::NoRoute),
    }
}

/// Sends the request to an endpoint and waits for the head of the answer.
async fn send(
    client: &Rc<Client>,
    asked: &mut Asked,
    untaken: &mut Option<Incoming>,
    found: &Found<'_, Served>,
    pass: &mut Passage,
    finish: &mut Finish,
) -> Result<Reply, Error> {
    let worker = &client.worker;
    let rules = &found.served.policy.rules;
    let rewritten = match rewritten(client, asked, found)? {
        Rewritten::Target(Cow::Borrowed(_)) => None,
        Rewritten::Target(Cow::Owned(target)) => Some(target),
        Rewritten::Redirect(url) => return Ok(Reply::Own(respond::elsewhere(&url)?.map(Content::Own))),
    };
    let (slot, stands_in) = destination(found)?;
    if stands_in {
        describe(&asked.facts(client, found), StatusCode::SERVICE_UNAVAILABLE, &mut pass.edits);
    }
    let facts = asked.facts(client, found);
    let mut choice = match stands_in {
        true => Choice::in_turn(worker, slot),
        false => {
            let fill = |template: &_| facts.fill(template, Place::Text);
            Choice::of(worker, found.served, &asked.parts.headers, fill).ok_or(Error::NoRoute)?
        }
    };
    if let Some(place) = &found.served.canary_place
        && !stands_in
        && found.served.cluster.as_deref().is_some_and(|own| !std::ptr::eq(choice.slot(), own))
    {
        finish.place = place.index();
    }
    if let Some(entry) = &mut finish.entry {
        entry.cluster = Some(choice.slot().key.to_string());
    }
    if hops::next(&asked.parts.headers).is_none() {
        return Err(Error::Loop(choice.slot().key.clone()));
    }
    let mut body = RequestBody::receive(worker, &mut asked.parts, untaken, rules).await?;
    if let Some(rules) = &rules.mirror {
        mirror(rules, &asked.facts(client, found), &pass.edits, &mut body);
    }
    let target = rewritten.as_ref().unwrap_or(&asked.target);
    let request = outgoing(client, asked, target, body, rules, &pass.edits)?;
    let host = pass.edits.host().and_then(|host| host.to_str().ok()).unwrap_or(&asked.host);
    let answer = forward(client, &mut choice, rules, host, request).await;
    let (answer, address) = answer.inspect_err(|error| {
        if error.fault() == Fault::Upstream {
            choice.failed();
        }
        if let Some(entry) = &mut finish.entry {
            entry.upstream = error.endpoint().map(|address| address.to_string());
        }
    })?;
    let on_upgrade = asked.on_upgrade.take();
    let facts = asked.facts(client, found);
    let chosen = choice.answered(|| CookieFacts {
        path: found.route.path.text(),
        https: facts.is_https(),
        user_agent: facts.header("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default(),
    });
    finish.lease = chosen.lease;
    if let Some(entry) = &mut finish.entry {
        entry.upstream = Some(address.to_string());
    }
    Ok(match (answer, on_upgrade) {
        (Answer::Switched(head, upstream), Some(on_upgrade)) => {
            let mut response = match &asked.handshake {
                Some(handshake) => handshake
                    .end(head.headers, head.upgrade.as_ref())
                    .map_err(|what| Error::Protocol { address, what })?,
                None => {
                    let mut response = Response::new(());
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    *response.headers_mut() = head.headers;
                    let headers = response.headers_mut();
                    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                    headers.extend(head.upgrade.map(|protocol| (header::UPGRADE, protocol)));
                    response
                }
            };
            if let Some(cookie) = chosen.cookie {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            Reply::Switched(response, upgrade::Tunnel { on_upgrade, upstream })
        }
        (Answer::Switched(..), None) => {
            return Err(Error::Protocol { address, what: "101 that nobody asked for" });
        }
        // To a CONNECT it would mean that there is a tunnel.
        (Answer::Response(head, _), _) if asked.handshake.is_some() && head.status.is_success() => {
            return Err(Error::Protocol { address, what: "an answer where a WebSocket was asked for" });
        }
        (Answer::Response(head, body), _) => {
            let leaves_body = body.leaves_request();
            let mut response = Response::new(Content::of_upstream(body, rules.body.buffer_response, worker));
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            let rewrites = &found.served.policy.rewrites;
            rewrites.apply(response.headers_mut(), |template| facts.fill(template, Place::Text));
            if let Some(cookie) = chosen.cookie {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            Reply::Answer(response, leaves_body)
        }
    })
}

/// What the endpoint is asked for.
fn rewritten<'a>(
    client: &Client,
    asked: &'a Asked,
    found: &Found<'_, Served>,
) -> Result<Rewritten<'a>, Error> {
    let facts = asked.facts(client, found);
    let known = |variable: &Variable, text: &mut String| facts.fill_variable(variable, text);
    found.rewrite(&asked.target, known).map_err(|bad| Error::BadRequest(bad.to_string()))
}

/// The request as its endpoint gets it; `target` is what it is asked for.
fn outgoing(
    client: &Client,
    asked: &Asked,
    target: &Target,
    body: RequestBody,
    rules: &RoutePolicy,
    edits: &Edits,
) -> Result<UpstreamRequest, Error> {
    let Asked { parts, host, request_id, on_upgrade, .. } = asked;
    let upgrading = on_upgrade.is_some() && body.is_end_stream();
    let framing = Framing::of(parts, &body);
    if rules.upstream.http10 && framing == Framing::Chunked {
        return Err(Error::LengthRequired);
    }
    let head = write_head(client, parts, host, target, rules, request_id, &framing, upgrading, edits);
    Ok(UpstreamRequest {
        head,
        body,
        chunked: framing == Framing::Chunked,
        expects_continue: expects_continue(parts),
        wants_upgrade: upgrading,
        takes_lines: false,
        early: (parts.version == Version::HTTP_11).then(|| Arc::clone(&client.gate)),
        method: parts.method.clone(),
    })
}

/// An answer as the client gets it: another backend's if it is a failure that has a page, with
/// the headers that the route's policy wants, and no faster than that says.
async fn finished(
    facts: Facts<'_>,
    served: &Served,
    pass: Option<&Passage>,
    mut response: Response<Content>,
) -> Response<Content> {
    if let Some(backend) = served.pages.as_deref().filter(|_| served.policy.replaces(response.status()))
        && let Some(page) = Box::pin(page(&facts, backend, response.status(), response.headers())).await
    {
        response = page;
    }
    let status = response.status();
    served.policy.dress(&facts, pass, status, response.headers_mut());
    response.map(|content| served.policy.throttle(content))
}

/// The answer to a request that failed.
fn fail(client: &Client, error: &Error, finish: &mut Finish) -> Response<Content> {
    if let Some(entry) = &mut finish.entry {
        entry.error = Some(error.to_string());
    }
    let mut response = respond::failure(error);
    if client.closes_after(error) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(Content::Own)
}

/// An answer of the proxy's own as gRPC clients understand it.
fn for_grpc(response: Response<Content>) -> Response<Content> {
    match response.into_parts() {
        (parts, Content::Own(text)) => grpc::answer(Response::from_parts(parts, text)).map(Content::Own),
        (parts, content) => Response::from_parts(parts, content),
    }
}

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
