//! Answers that send the client elsewhere, or end its request.

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Response, StatusCode};

use super::facts::Facts;
use super::template::Place;
use crate::model::RoutePolicy;
use crate::proxy::respond;

/// The answer in the endpoint's place, if the policy has one for this request.
pub(super) fn answer(rules: &RoutePolicy, facts: &Facts<'_>) -> Option<Response<Bytes>> {
    if let Some(redirect) = &rules.redirect {
        let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if !status.is_redirection() {
            let text = String::from_utf8_lossy(&facts.fill(&redirect.to, Place::Text)).into_owned();
            return Some(respond::plain(status, text));
        }
        let url = facts.fill_url(&redirect.to);
        return Some(to(status, url));
    }
    let root = rules.app_root.as_deref().filter(|root| facts.target.path() == "/" && **root != *"/")?;
    // Of HTTP/1.0, which may name no host; the path alone says the same (RFC 9110 section 10.2.2).
    let url = match facts.host {
        "" => root.to_owned(),
        host => format!("{}://{host}{root}", facts.scheme()),
    };
    Some(to(StatusCode::FOUND, Some(url)))
}

/// Sends the client to `url`. Where what it sent made something that is no URL: 400.
pub(super) fn to(status: StatusCode, url: Option<String>) -> Response<Bytes> {
    match url.and_then(|url| HeaderValue::try_from(url).ok()) {
        Some(location) => respond::redirect(status, location, "this is somewhere else\n"),
        None => respond::plain(StatusCode::BAD_REQUEST, "the request makes no valid redirect\n".to_owned()),
    }
}
