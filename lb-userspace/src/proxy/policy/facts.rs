//! What is known of a request that took a route, borrowed from where it lies.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderValue};
use http::request::Parts;

use crate::model::{Backend, ClusterKey, ObjectKey, PortRef};
use crate::proxy::config::Served;
use crate::proxy::connection::Client;
use crate::proxy::forwarded;
use crate::proxy::headers;
use crate::route::{Found, Target};

/// What is known of a request that took a route.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Facts<'a> {
    pub(in crate::proxy) client: &'a Client,
    pub(in crate::proxy) parts: &'a Parts,
    /// As the client wrote it, with the port. It was checked: it can stand in a URL.
    pub(in crate::proxy) host: &'a str,
    pub(in crate::proxy) target: &'a Target,
    /// The id that the proxy gave it.
    pub(in crate::proxy) request_id: &'a str,
    /// Its route, and how that was found.
    pub(in crate::proxy) found: Found<'a, Served>,
}

impl<'a> Facts<'a> {
    /// The client itself: the peer, or who stands behind the trusted proxies that the request came
    /// through. The same address as the `X-Real-IP` that the endpoint gets.
    pub(in crate::proxy) fn address(&self) -> IpAddr {
        let peer = self.client.peer;
        if !self.client.trusted {
            return peer;
        }
        let worker = &self.client.worker;
        forwarded::real_address(&self.parts.headers, peer, worker.config().trusted_proxies(&worker.settings))
    }

    pub(in crate::proxy) fn is_https(&self) -> bool {
        self.client.is_https(&self.parts.headers)
    }

    pub(in crate::proxy) fn scheme(&self) -> &'static str {
        if self.is_https() { "https" } else { "http" }
    }

    /// The port that the client connected to, as far as anybody knows.
    pub(super) fn port(&self) -> u16 {
        let told = || self.header("x-forwarded-port")?.to_str().ok()?.parse().ok();
        let told = if self.client.trusted { told() } else { None };
        told.unwrap_or(self.client.local.port())
    }

    /// The id that the endpoint gets: a trusted proxy's, or ours.
    pub(in crate::proxy) fn request_id(&self) -> &'a str {
        let theirs = self.header("x-request-id").filter(|_| self.client.trusted);
        theirs.and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty()).unwrap_or(self.request_id)
    }

    /// Path and query; `/` for `OPTIONS *`.
    pub(super) fn request_uri(&self) -> &'a str {
        if self.target.is_asterisk() { "/" } else { self.target.path_and_query() }
    }

    pub(in crate::proxy) fn header(&self, name: &str) -> Option<&'a HeaderValue> {
        self.parts.headers.get(name)
    }

    /// The first cookie of this name.
    pub(in crate::proxy) fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        headers::cookie(&self.parts.headers, name)
    }

    /// The first parameter of this name in the query, as it is written there.
    pub(super) fn argument(&self, name: &str) -> Option<&'a str> {
        let query = self.target.query()?;
        query.split('&').find_map(|pair| {
            let (have, value) = pair.split_once('=')?;
            have.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Name and password of basic authentication (RFC 7617), whether they are right or not.
    pub(super) fn credentials(&self) -> Option<(String, Vec<u8>)> {
        let (scheme, token) = self.parts.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let mut pair = STANDARD.decode(token.trim()).ok()?;
        let colon = memchr::memchr(b':', &pair)?;
        let password = pair.split_off(colon + 1);
        pair.pop();
        Some((String::from_utf8(pair).ok()?, password))
    }

    /// The Ingress that its route comes from.
    pub(super) fn ingress(&self) -> &'a ObjectKey {
        &self.found.route.ingress
    }

    pub(super) fn service(&self) -> Option<&'a ClusterKey> {
        match &self.found.route.backend {
            Backend::Cluster(key) => Some(key),
            Backend::Answered | Backend::Unavailable(_) => None,
        }
    }

    pub(super) fn service_name(&self) -> &'a str {
        self.service().map_or("", |key| &key.service.name)
    }

    pub(super) fn service_port(&self) -> Cow<'a, str> {
        match self.service().map(|key| &key.port) {
            None => Cow::Borrowed(""),
            Some(PortRef::Name(name)) => Cow::Borrowed(name),
            Some(PortRef::Number(number)) => Cow::Owned(number.to_string()),
        }
    }
}
