//! Answers that another backend gives in the place of failures.
//!
//! ingress-nginx's `custom-http-errors` and `default-backend`: the backend is asked with GET for `/`
//! and told by headers what went wrong; its answer goes to the client as it is, with its own
//! status. While the route has no endpoint at all, the requests themselves go there.

use http::header::{self, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode};

use super::Policy;
use super::facts::Facts;
use super::headers::Edits;
use crate::model::{RoutePolicy, Unavailable};
use crate::proxy::balance::Choice;
use crate::proxy::body::Content;
use crate::proxy::cluster::ClusterSlot;
use crate::proxy::forward::forward;
use crate::proxy::hops;
use crate::proxy::incoming_body::RequestBody;
use crate::proxy::outgoing::{Framing, write_head};
use crate::proxy::upstream::{Answer, Request};
use crate::route::Target;

impl Policy {
    /// Whether an answer of this status is replaced.
    pub(in crate::proxy) fn replaces(&self, status: StatusCode) -> bool {
        let pages = self.rules.error_pages.as_ref();
        pages.is_some_and(|pages| pages.statuses.binary_search(&status.as_u16()).is_ok())
    }
}

/// Whether the backend for failures takes the requests of a route that can't be served. It must
/// not where serving would open what the route's author closed.
pub(in crate::proxy) fn stands_in(why: &Unavailable) -> bool {
    !matches!(why, Unavailable::AccessControl(_))
}

/// The answer of the backend for failures to one of this status; `None` if it gives none, too.
/// `original` is the head of the answer that it takes the place of.
pub(in crate::proxy) async fn page(
    facts: &Facts<'_>,
    backend: &ClusterSlot,
    status: StatusCode,
    original: &HeaderMap,
) -> Option<Response<Content>> {
    let mut parts = facts.parts.clone();
    // Without a body for HEAD, and else with one that anybody may ask for.
    parts.method = if parts.method == Method::HEAD { Method::HEAD } else { Method::GET };
    for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::RANGE] {
        parts.headers.remove(name);
    }
    for name in [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::EXPECT] {
        parts.headers.remove(name);
    }
    let mut edits = Edits::default();
    describe(facts, status, &mut edits);
    hops::next(&parts.headers)?;
    let target = Target::parse("/").expect("a path");
    let request_id: &[u8; 32] = facts.request_id.as_bytes().try_into().ok()?;
    let method = parts.method.clone();
    let rules = RoutePolicy::default();
    let head = write_head(
        facts.client,
        &parts,
        facts.host,
        &target,
        &rules,
        request_id,
        &Framing::None,
        false,
        &edits,
    );
    let question = Request {
        head,
        body: RequestBody::None,
        chunked: false,
        expects_continue: false,
        wants_upgrade: false,
        early: None,
        takes_lines: false,
        method,
    };
    let mut choice = Choice::in_turn(&facts.client.worker, backend);
    match forward(facts.client, &mut choice, &rules, facts.host, question).await {
        Ok((Answer::Response(head, body), _)) => {
            let mut response = Response::new(Content::Upstream(body));
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            // A page for 401 is of no use if the browser does not ask for a password.
            if let Some(challenge) = original.get(WWW_AUTHENTICATE) {
                response.headers_mut().entry(WWW_AUTHENTICATE).or_insert_with(|| challenge.clone());
            }
            Some(response)
        }
        Ok((Answer::Switched(..), _)) => None,
        Err(error) => {
            tracing::debug!(%error, cluster = %backend.key, "no error page");
            None
        }
    }
}

/// Tells the backend for failures what went wrong.
pub(in crate::proxy) fn describe(facts: &Facts<'_>, status: StatusCode, edits: &mut Edits) {
    let mut set = |name: &'static str, value: &[u8]| {
        let name = HeaderName::from_static(name);
        match HeaderValue::from_bytes(value) {
            Ok(value) => edits.set(&name, value),
            Err(_) => edits.remove(&name),
        }
    };
    let ingress = facts.ingress();
    set("x-code", status.as_str().as_bytes());
    set("x-format", facts.header("accept").map_or(b"", HeaderValue::as_bytes));
    set("x-original-uri", facts.request_uri().as_bytes());
    set("x-namespace", ingress.namespace.as_bytes());
    set("x-ingress-name", ingress.name.as_bytes());
    set("x-service-name", facts.service_name().as_bytes());
    set("x-service-port", facts.service_port().as_bytes());
    set("x-request-id", facts.request_id().as_bytes());
}
