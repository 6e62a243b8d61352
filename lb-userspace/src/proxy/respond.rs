//! Answers that Sluice gives itself.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION, SERVER};
use http::{Response, StatusCode};

use super::date;
use super::error::Error;
use crate::route::Target;

/// What `Server` says in answers that no endpoint gave. `Date` is added by hyper.
pub(super) const SERVER_NAME: HeaderValue = HeaderValue::from_static("sluice");

/// The answer to a request that failed, with a sentence for a person.
pub(super) fn failure(error: &Error) -> Response<Bytes> {
    plain(error.status(), error.public_text())
}

/// The same host and path over https.
pub(super) fn to_https(status: u16, host: &str, port: u16, target: &Target) -> Response<Bytes> {
    let bare = without_port(host);
    if bare.is_empty() {
        return failure(&Error::BadRequest("Host is missing".to_owned()));
    }
    let path = if target.is_asterisk() { "/" } else { target.path_and_query() };
    let location = match port {
        443 => format!("https://{bare}{path}"),
        port => format!("https://{bare}:{port}{path}"),
    };
    match HeaderValue::from_str(&location) {
        Ok(location) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
            redirect(status, location, "this is served over https\n")
        }
        Err(_) => failure(&Error::BadRequest("the host can't stand in a URL".to_owned())),
    }
}

/// A host as a client wrote it, without the port.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Sends the client to `location`, with a sentence for a person.
pub(super) fn redirect(status: StatusCode, location: HeaderValue, text: &str) -> Response<Bytes> {
    let mut response = plain(status, text.to_owned());
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Sends the client to another URL for now (302): where a rewrite leads out of the host.
///
/// # Errors
/// Where the URL can't stand in a header.
pub(super) fn elsewhere(url: &str) -> Result<Response<Bytes>, Error> {
    let location = HeaderValue::from_str(url)
        .map_err(|_| Error::BadRequest("the rewritten URL can't stand in a header".to_owned()))?;
    Ok(redirect(StatusCode::FOUND, location, "this is served elsewhere\n"))
}

/// An answer on the wire, for requests that never became one. The connection ends with it.
pub(super) fn refusal(status: StatusCode) -> Bytes {
    let reason = status.canonical_reason().unwrap_or_default();
    let date = date::text();
    let text = format!("the request is not valid: {}\n", reason.to_ascii_lowercase());
    Bytes::from(format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\nserver: sluice\r\n\
         content-length: {}\r\nconnection: close\r\ndate: {date}\r\n\r\n{text}",
        status.as_str(),
        text.len(),
    ))
}

/// A text of our own.
pub(super) fn plain(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(SERVER, SERVER_NAME);
    response
}
