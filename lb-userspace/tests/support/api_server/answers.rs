//! Requests and their answers, watches apart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::discovery;
use super::rbac::authorize;
use super::store::Shared;
use super::validation;
use super::watches::open_watch;
use super::writes::write;
use super::{Fault, Seen};

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // As Go's servers do: a small event must not wait for the answer to the one before.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        let service = hyper::service::service_fn(move |request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(answer(request, shared).await) }
        });
        connections.spawn(async move {
            // A client that goes away is part of the play.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// What a path names.
pub(super) struct Target {
    pub(super) collection: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
        let root = parts.next()?;
        let version = match root.as_str() {
            "api" => parts.next()?,
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<String> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            [word, namespace, rest @ ..] if word == "namespaces" && !rest.is_empty() => {
                (Some(namespace.clone()), rest)
            }
            rest => (None, rest),
        };
        let collection = format!("/{root}/{version}/{}", rest.first()?);
        Some(Self { collection, namespace, name: rest.get(1).cloned(), subresource: rest.get(2).cloned() })
    }

    pub(super) fn resource(&self) -> String {
        let plural = self.collection.rsplit('/').next().unwrap_or_default();
        match &self.subresource {
            Some(subresource) => format!("{plural}/{subresource}"),
            None => plural.to_owned(),
        }
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    if let Some(document) = discovery::document(request.uri().path()) {
        return reply(StatusCode::OK, &document);
    }
    let Some(target) = Target::parse(request.uri().path()) else { return status(404, "no such path") };
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), unescape(value)))
        .collect();
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (accept, agent) = (header("accept"), header("user-agent"));
    let names_only = accept.contains("as=PartialObjectMetadata");
    let watched = query.get("watch").is_some_and(|value| value == "true" || value == "1");
    let verb = match (request.method(), &target.name) {
        (&Method::GET, None) if watched => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        _ => "delete",
    };
    let resource = target.resource();
    if let Some(refusal) = authorize(&shared, verb, &target, &query) {
        return refusal;
    }
    let (outage, fault) = {
        let mut state = shared.lock();
        state.seen.push(Seen { verb, resource: resource.clone(), names_only, query: query.clone(), agent });
        let fits = state.faults.iter().position(|(v, r, _)| *v == verb && *r == resource);
        let fault = fits.and_then(|index| state.faults.remove(index)).map(|(_, _, fault)| fault);
        (state.outage, fault)
    };
    match (outage, fault) {
        (Some(code), _) | (None, Some(Fault::Status(code))) => return status(code, "this is a test"),
        (None, Some(Fault::RetryAfter(seconds))) => {
            let mut response = status(429, "this is a test");
            response.headers_mut().insert("retry-after", seconds.into());
            return response;
        }
        (None, Some(Fault::Body(text))) => return with_body(StatusCode::OK, text),
        (None, Some(Fault::Slow(wait))) => tokio::time::sleep(wait).await,
        (None, None) => {}
    }
    // A list of names has a form of its own, the events of a watch and single objects have another.
    if names_only && accept.contains("as=PartialObjectMetadataList") != (verb == "list") {
        return status(406, "a list was asked for that is none, or the other way round");
    }
    if let ("list" | "watch", Err((code, reason, message))) = (verb, validation::listing(verb, &query)) {
        let mut object = status_object(code, &message);
        object["reason"] = reason.into();
        return reply(StatusCode::from_u16(code).expect("a status"), &object);
    }
    match verb {
        "list" => list(&shared, &target, &query, names_only),
        "watch" => open_watch(shared, target, &query, names_only),
        "get" => match shared.lock().objects.get(&target.collection).and_then(|all| all.get(&key(&target))) {
            Some(object) => reply(StatusCode::OK, object),
            None => status(404, "not found"),
        },
        _ => write(verb, request, &shared, &target, &query).await,
    }
}

pub(super) fn key(target: &Target) -> (String, String) {
    (target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default())
}

fn list(
    shared: &Shared,
    target: &Target,
    query: &BTreeMap<String, String>,
    names_only: bool,
) -> Response<Body> {
    let mut state = shared.lock();
    // Version of the first page, namespace and name: changes since then are for the watch to tell.
    let (version, after) = match query.get("continue").map(|token| token.splitn(3, '\n')) {
        Some(_) if state.expired_tokens > 0 => {
            state.expired_tokens -= 1;
            return status(410, "The provided continue parameter is too old");
        }
        Some(mut parts) => {
            let mut part = || parts.next().unwrap_or_default().to_owned();
            (part(), Some((part(), part())))
        }
        None => (state.version.to_string(), None),
    };
    let limit =
        query.get("limit").and_then(|limit| limit.parse().ok()).filter(|n| *n > 0).unwrap_or(usize::MAX);
    let none = BTreeMap::new();
    let all = state.objects.get(&target.collection).unwrap_or(&none);
    let mut rest = all
        .iter()
        .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after))
        .filter(|(_, object)| fits(object, target, query))
        .peekable();
    // Written as text at once: big lists are served often.
    let (mut items, mut count, mut last) = (String::new(), 0, None);
    while let Some((name, object)) = rest.next_if(|_| count < limit) {
        items.push_str(if count > 0 { "," } else { "" });
        items.push_str(&shown(object, names_only).to_string());
        count += 1;
        last = Some(name);
    }
    let token = match (rest.peek(), last) {
        (Some(_), Some((namespace, name))) => format!("{version}\n{namespace}\n{name}"),
        _ => String::new(),
    };
    let metadata = json!({"resourceVersion": version, "continue": token});
    with_body(
        StatusCode::OK,
        format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{metadata},"items":[{items}]}}"#),
    )
}

/// The object, or what is left of it for who asks for names only.
pub(super) fn shown(object: &Value, names_only: bool) -> Cow<'_, Value> {
    if !names_only {
        return Cow::Borrowed(object);
    }
    Cow::Owned(
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]}),
    )
}

/// Whether an object is in the namespace and matches the selectors of fields (`a.b=c`, joined by commas)
/// and of labels.
pub(super) fn fits(object: &Value, target: &Target, query: &BTreeMap<String, String>) -> bool {
    let in_namespace = target.namespace.as_ref().is_none_or(|n| object["metadata"]["namespace"] == **n);
    let terms = |selector: &str| -> Vec<(String, String)> {
        let text = query.get(selector).map(String::as_str).unwrap_or_default();
        let terms = text.split(',').filter_map(|term| term.split_once('='));
        terms.map(|(name, value)| (name.to_owned(), value.trim_start_matches('=').to_owned())).collect()
    };
    in_namespace
        && terms("fieldSelector").iter().all(|(field, value)| {
            let pointer = format!("/{}", field.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(value)
        })
        && terms("labelSelector").iter().all(|(label, value)| object["metadata"]["labels"][label] == **value)
}

pub(super) fn reply(code: StatusCode, value: &Value) -> Response<Body> {
    with_body(code, value.to_string())
}

fn with_body(code: StatusCode, text: String) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .expect("valid parts")
}

pub(super) fn status(code: u16, message: &str) -> Response<Body> {
    reply(StatusCode::from_u16(code).expect("a status"), &status_object(code, message))
}

pub(super) fn status_object(code: u16, message: &str) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message})
}

/// Undoes the escapes of a query value.
fn unescape(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'%').then(|| [bytes.next(), bytes.next()]);
        out.push(match escaped {
            Some([Some(high), Some(low)]) => {
                u8::from_str_radix(&format!("{}{}", high as char, low as char), 16).expect("an escape")
            }
            _ if byte == b'+' => b' ',
            _ => byte,
        });
    }
    String::from_utf8(out).expect("UTF-8")
}
