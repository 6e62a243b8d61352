//! Answers that Sluice gives itself.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION, SERVER};
use http::{Response, StatusCode};

use super::error::Error;

/// What `Server` says in answers that no endpoint gave. `Date` is added by hyper.
pub(super) const SERVER_NAME: HeaderValue = HeaderValue::from_static("sluice");

/// The answer to a request that failed, with a sentence for a person.
pub(super) fn failure(error: &Error) -> Response<Bytes> {
    plain(error.status(), error.public_text())
}

/// A redirect to `location`.
pub(super) fn redirect(status: StatusCode, location: HeaderValue) -> Response<Bytes> {
    let mut response = plain(status, "this is served over https\n".to_owned());
    response.headers_mut().insert(LOCATION, location);
    response
}

fn plain(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(SERVER, SERVER_NAME);
    response
}
