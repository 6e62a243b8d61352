//! Another server decides about each request, as with nginx's `auth_request`.
//!
//! The question is the request's head, without its body, to another URL. 2xx lets the request in;
//! 401 and 403 are the client's answer, as they came, or 302 to where it can sign in; all else is
//! 500: a server that can't say yes has not said yes.
//!
//! A question that comes back as a request to the same kind of route would be asked for ever.
//! Questions carry `X-Sent-From: sluice`; a request that has it is not asked about, it gets 500.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    self, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;

use super::ask::{Answer, Patience};
use super::certificate::Certificate;
use super::facts::Facts;
use super::headers::Edits;
use super::template::{Place, escape};
use super::verdicts::{Key, Verdicts};
use super::{Passage, Refusal};
use crate::model::{ExternalAuth, Template, UpstreamPolicy};
use crate::proxy::forwarded::{dashed, is_ours};
use crate::proxy::headers::{Connection, is_of_connection, passes_for_framing};
use crate::proxy::respond;

const SENT_FROM: HeaderName = HeaderName::from_static("x-sent-from");
const OURSELVES: HeaderValue = HeaderValue::from_static("sluice");

/// A route's other server.
#[derive(Debug)]
pub(super) struct External {
    rules: Arc<ExternalAuth>,
    method: Method,
    /// Headers of its answer that go on to the endpoint.
    taken: Vec<HeaderName>,
    added: Vec<(HeaderName, Template)>,
    certificate: Option<Arc<Certificate>>,
    connect: Option<std::time::Duration>,
    read: Option<std::time::Duration>,
    verdicts: Verdicts,
}

impl External {
    pub(super) fn new(
        rules: &Arc<ExternalAuth>,
        upstream: &UpstreamPolicy,
        certificate: Option<&Arc<Certificate>>,
    ) -> Self {
        let name = |text: &Arc<str>| {
            HeaderName::from_bytes(text.as_bytes()).ok().filter(|name| !is_of_connection(name))
        };
        let method = rules.method.as_deref().and_then(|method| Method::from_bytes(method.as_bytes()).ok());
        Self {
            method: method.unwrap_or(Method::GET),
            taken: rules.response_headers.iter().filter_map(name).collect(),
            added: rules
                .request_headers
                .iter()
                .filter_map(|(key, value)| Some((name(key)?, value.clone())))
                .collect(),
            certificate: certificate.cloned(),
            connect: upstream.connect_timeout,
            read: upstream.read_timeout,
            verdicts: Verdicts::default(),
            rules: Arc::clone(rules),
        }
    }

    /// Headers that only the other server may set: the client's own never go on, whether it was
    /// asked or not.
    pub(super) fn guard(&self, edits: &mut Edits) {
        self.taken.iter().for_each(|name| edits.remove(name));
    }

    pub(super) async fn check(
        &self,
        facts: &Facts<'_>,
        client: IpAddr,
        pass: &mut Passage,
    ) -> Result<(), Refusal> {
        if facts.header(SENT_FROM.as_str()) == Some(&OURSELVES) {
            return Err(failed("the authentication URL leads back to this proxy"));
        }
        let Some(url) = facts.fill_url(&self.rules.url) else {
            return Err(failed("the request makes no valid authentication URL"));
        };
        let cached = self.rules.cache.as_ref().map(|(key, times)| {
            let key = facts.fill(key, Place::Text);
            (Key::new(&url, &key), times)
        });
        if let Some(answer) = cached.as_ref().and_then(|(key, _)| self.verdicts.get(key)) {
            return self.judge(&answer, facts, pass);
        }
        let question = self.question(facts, client);
        let worker = &facts.client.worker;
        let timeouts = &worker.settings.timeouts;
        let patience = Patience {
            connect: self.connect.unwrap_or(timeouts.connect),
            all: self.read.unwrap_or(timeouts.read),
        };
        let answer = match worker.asker.ask(&url, question, patience).await {
            Ok(answer) => answer,
            Err(error) => return Err(failed(format!("the authentication server: {error}"))),
        };
        if let Some((key, times)) = cached {
            self.verdicts.put(key, times, &answer);
        }
        self.judge(&answer, facts, pass)
    }

    /// The request's head with what the other server wants to know.
    fn question(&self, facts: &Facts<'_>, client: IpAddr) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        let theirs = &facts.parts.headers;
        let connection =
            Connection::parse(theirs.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes));
        let headers = request.headers_mut();
        for (name, value) in theirs {
            let is_of_body = matches!(
                *name,
                CONTENT_LENGTH | CONTENT_TYPE | header::CONTENT_ENCODING | header::EXPECT | header::TE
            );
            if !(is_of_body
                || connection.drops(name)
                || is_of_connection(name)
                || passes_for_framing(name)
                || *name == HOST
                || is_told(name))
            {
                headers.append(name, value.clone());
            }
        }
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        let uri = facts.request_uri();
        let (scheme, host) = (facts.scheme(), facts.host);
        set("x-original-url", format!("{scheme}://{host}{uri}"));
        set("x-original-uri", uri.to_owned());
        set("x-original-method", facts.parts.method.to_string());
        set("x-scheme", scheme.to_owned());
        set("x-real-ip", client.to_string());
        set("x-forwarded-for", client.to_string());
        set("x-forwarded-proto", scheme.to_owned());
        set("x-forwarded-host", host.to_owned());
        set("x-request-id", facts.request_id().to_owned());
        let redirect = match &self.rules.request_redirect {
            Some(template) => facts.fill_url(template).unwrap_or_default(),
            None => uri.to_owned(),
        };
        set("x-auth-request-redirect", redirect);
        headers.insert(SENT_FROM, OURSELVES);
        let mut edits = Edits::default();
        if let Some(certificate) = &self.certificate {
            certificate.pass_on(facts, &mut edits);
        }
        for (name, template) in &self.added {
            match facts.fill_header(template) {
                Some(value) => edits.set(name, value),
                None => edits.remove(name),
            }
        }
        edits.apply(headers);
        request
    }

    fn judge(&self, answer: &Answer, facts: &Facts<'_>, pass: &mut Passage) -> Result<(), Refusal> {
        match answer.status {
            status if status.is_success() => {
                for name in &self.taken {
                    for value in answer.headers.get_all(name) {
                        pass.edits.add(name, value.clone());
                    }
                }
                pass.cookies.extend(answer.headers.get_all(SET_COOKIE).iter().cloned());
                pass.always_cookies = self.rules.always_set_cookie;
                Ok(())
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.refuse(answer, facts)),
            status => Err(failed(format!("the authentication server answered {status}"))),
        }
    }

    fn refuse(&self, answer: &Answer, facts: &Facts<'_>) -> Refusal {
        let why = "the authentication server does not let the request in";
        if let Some(signin) = &self.rules.signin
            && answer.status == StatusCode::UNAUTHORIZED
        {
            let mut response = super::redirect::to(StatusCode::FOUND, self.signin_url(signin, facts));
            for cookie in answer.headers.get_all(SET_COOKIE) {
                response.headers_mut().append(SET_COOKIE, cookie.clone());
            }
            return Refusal { response: Box::new(response), why: Some(why.into()) };
        }
        let mut response = Response::new(answer.body.clone());
        *response.status_mut() = answer.status;
        *response.headers_mut() = end_to_end(&answer.headers);
        if answer.body.is_empty() {
            response.headers_mut().remove(CONTENT_TYPE);
        }
        response.headers_mut().insert(header::SERVER, respond::SERVER_NAME);
        Refusal { response: Box::new(response), why: Some(why.into()) }
    }

    /// Where the client can sign in, with the address that it wanted.
    fn signin_url(&self, signin: &Template, facts: &Facts<'_>) -> Option<String> {
        let mut url = facts.fill_url(signin)?;
        let param = &*self.rules.signin_redirect_param;
        let query = url.split_once('?').map(|(_, query)| query);
        let has = |query: &str| query.split('&').any(|pair| pair.split('=').next() == Some(param));
        if query.is_some_and(has) {
            return Some(url);
        }
        let mut wanted = Vec::new();
        escape(facts.request_uri().as_bytes(), &mut wanted);
        url.push(if query.is_some() { '&' } else { '?' });
        url.push_str(param);
        url.push_str(&format!("={}://{}", facts.scheme(), facts.host));
        url.push_str(std::str::from_utf8(&wanted).ok()?);
        Some(url)
    }
}

/// Headers that the question has of its own, or must not take over from a client, by whatever spelling.
fn is_told(name: &HeaderName) -> bool {
    let told = |name: &str| {
        matches!(
            name,
            "x-original-url"
                | "x-original-uri"
                | "x-original-method"
                | "x-scheme"
                | "x-auth-request-redirect"
                | "x-sent-from"
                | "proxy"
        )
    };
    is_ours(name) || told(name.as_str()) || dashed(name.as_str()).is_some_and(|name| told(&name))
}

/// The headers of an answer that go further than the connection it came on.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let connection = Connection::parse(headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes));
    let keeps = |name: &HeaderName| !connection.drops(name) && !is_of_connection(name) && *name != LOCATION;
    headers
        .iter()
        .filter(|(name, _)| keeps(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn failed(why: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "it can't be told whether you may see this", why)
}
