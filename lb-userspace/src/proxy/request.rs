//! One request: checked, routed, sent to an endpoint, answered.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};

use super::access_log::clip;
use super::body::{Content, ResponseBody};
use super::connection::Client;
use super::error::Error;
use super::finish::Finish;
use super::forward::forward;
use super::incoming::{expects_continue, host_of, target_of, wants_upgrade};
use super::incoming_body::RequestBody;
use super::outgoing::{Framing, write_head};
use super::respond;
use super::upgrade;
use super::upstream::{Answer, Request as UpstreamRequest};
use crate::model::Backend;
use crate::route::normalise_host;

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
            client.gate.open_tunnel();
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
    let (mut parts, body) = request.into_parts();
    let request_id = worker.ids.next();
    if let Some(entry) = &mut finish.entry {
        entry.method = parts.method.to_string();
        entry.path = clip(parts.uri.path());
        entry.protocol = protocol_name(parts.version);
        entry.request_id = String::from_utf8_lossy(&request_id).into_owned();
    }
    if parts.method == Method::CONNECT {
        return Err(Error::Connect);
    }
    let host = host_of(&parts)?;
    let target = target_of(&parts)?;
    if let Some(entry) = &mut finish.entry {
        entry.host = clip(&host);
        entry.path = clip(target.path_and_query());
    }

    let config = worker.config();
    let name = match host.as_str() {
        "" => None,
        name => Some(normalise_host(name).map_err(|bad| Error::BadRequest(bad.to_string()))?),
    };
    if client.handshake.as_ref().is_some_and(|tls| config.tls.is_misdirected(tls, name.as_deref())) {
        return Err(Error::Misdirected);
    }
    let found = config.table.find(name.as_deref(), target.path()).ok_or(Error::NoRoute)?;
    let route = found.route;
    let policy = &found.served.policy.rules;
    if let Some(entry) = &mut finish.entry {
        entry.route = Some(route.ingress.to_string());
    }
    if let Some(status) = policy.https_redirect.filter(|_| !client.is_https(&parts.headers)) {
        let port = config.https_port(client.local);
        return Ok(Reply::Own(respond::to_https(status, &host, port, &target)?));
    }
    let slot = match (&route.backend, &found.served.cluster) {
        (Backend::Unavailable(why), _) => return Err(Error::Unavailable(why.clone())),
        (_, Some(slot)) => slot,
        (_, None) => return Err(Error::NoRoute),
    };
    if let Some(entry) = &mut finish.entry {
        entry.cluster = Some(slot.key.to_string());
    }

    let body = RequestBody::receive(worker, &mut parts, body, policy).await?;
    let upgrading = on_upgrade.is_some() && body.is_end_stream();
    let framing = Framing::of(&parts, &body);
    let head = write_head(client, &parts, &host, &target, policy, &request_id, &framing, upgrading);
    let outgoing = UpstreamRequest {
        head,
        body: body,
        chunked: framing == Framing::Chunked,
        expects_continue: expects_continue(&parts),
        wants_upgrade: upgrading,
        method: parts.method,
    };
    let (answer, address) = forward(client, slot, outgoing).await?;
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
        (Answer::Response(head, body), _) => {
            let mut response = Response::new(Content::Upstream(body));
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            Reply::Upstream(response)
        }
    })
}

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
