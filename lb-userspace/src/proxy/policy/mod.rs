//! Policies as the workers apply them: [`RoutePolicy`] with what is computed once for it.
//!
//! A request that took a route passes these steps, in this order; whoever has an answer ends it:
//!
//! 1. https instead of http;
//! 2. the client's certificate ([`certificate`]);
//! 3. preflights of cross-origin requests ([`cors`]): browsers send no passwords with them;
//! 4. [`redirect`]s, also that of `/` to the application's root;
//! 5. [`limits`], before the checks that cost something;
//! 6. addresses, [`basic`] authentication and another server's word ([`access`], [`external`]);
//! 7. the body's size, the rewrite, [`headers`] of the request, the endpoint: no business of this
//!    module, which only says what is changed in the head;
//! 8. [`errors`]: answers that another backend gives;
//! 9. headers of the answer, whoever gave it.
//!
//! It is nginx's order: what its rewrite phase answers (3, 4) is asked for no password and booked
//! on no limit, and limits (its preaccess phase) come before access.
//!
//! A policy without any of this costs a request one look at a flag. What several workers write is
//! in the [`ledger`] and touched by requests of routes with limits only.

mod access;
mod ask;
mod basic;
mod certificate;
mod cors;
mod errors;
mod external;
mod facts;
mod headers;
mod htpasswd;
mod ledger;
mod limits;
mod pace;
mod redirect;
mod resolve;
mod template;
mod throttle;
mod verdicts;
mod verifier;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, ORIGIN, SET_COOKIE};
use http::{Response, StatusCode};

pub(super) use ask::{AskError, Asker};
pub(super) use errors::{describe, page, stands_in};
pub(super) use facts::Facts;
pub(super) use headers::Edits;
pub(super) use ledger::Held;
pub(super) use template::Place;
pub(super) use throttle::Throttled;

use super::body::{Content, ResponseBody};
use super::offences::Offence;
use super::respond;
use super::upstream::Rewrites;
use crate::model::RoutePolicy;
use basic::Basic;
use certificate::Certificate;
use cors::Cors;
use external::External;
use headers::Rules;
use ledger::Ledger;
use limits::Limits;
use throttle::Rate;
use verifier::Verifier;

/// A route's policy, ready to be applied. Lives as long as any configuration has a route with it.
pub(super) struct Policy {
    pub(super) rules: Arc<RoutePolicy>,
    /// No step but those of the way to the endpoint has anything to do.
    is_plain: bool,
    certificate: Option<Arc<Certificate>>,
    cors: Option<Cors>,
    limits: Option<Limits>,
    basic: Option<Basic>,
    external: Option<External>,
    request_headers: Rules,
    hsts: Option<(HeaderName, HeaderValue)>,
    response_headers: Rules,
    /// What is changed in answers that name the endpoint's own address or path.
    pub(super) rewrites: Rewrites,
    rate: Option<Rate>,
}

/// What a request that was let in takes with it.
#[derive(Debug, Default)]
pub(super) struct Passage {
    /// What is changed in its head.
    pub(super) edits: Edits,
    /// Counts as in use until the answer's last byte.
    pub(super) held: Option<Held>,
    /// `Set-Cookie` of the server that let it in.
    cookies: Vec<HeaderValue>,
    /// They go with every answer, not only with those that nginx adds headers to.
    always_cookies: bool,
}

/// The answer in the endpoint's place.
#[derive(Debug)]
pub(super) struct Refusal {
    /// In a box, for it is the rare outcome.
    pub(super) response: Box<Response<Bytes>>,
    /// For the log; `None` where nothing was refused, as in a redirect.
    pub(super) why: Option<Cow<'static, str>>,
}

impl Refusal {
    fn new(status: StatusCode, text: &str, why: impl Into<Cow<'static, str>>) -> Self {
        Self { response: Box::new(respond::plain(status, format!("{text}\n"))), why: Some(why.into()) }
    }
}

impl From<Response<Bytes>> for Refusal {
    fn from(response: Response<Bytes>) -> Self {
        Self { response: Box::new(response), why: None }
    }
}

impl Policy {
    fn new(rules: Arc<RoutePolicy>, shared: &Shared) -> Self {
        let access = &rules.access;
        let certificate = access.certificate.as_deref().map(|rules| Arc::new(Certificate::new(rules)));
        let basic = access.basic.as_ref().map(|rules| Basic::new(rules, &shared.verifier, &shared.ledger));
        let external = access
            .external
            .as_ref()
            .map(|external| External::new(external, &rules.upstream, certificate.as_ref()));
        let rate = rules.limits.bytes_per_second.filter(|rate| *rate > 0);
        Self {
            is_plain: is_plain(&rules),
            certificate,
            cors: rules.cors.as_deref().map(Cors::new),
            limits: Limits::new(&rules.limits, &shared.ledger),
            basic,
            external,
            request_headers: Rules::new(&rules.request_headers),
            hsts: rules.hsts.as_ref().map(headers::hsts),
            response_headers: Rules::new(&rules.response_headers),
            rewrites: Rewrites::new(&rules.upstream.response),
            rate: rate.map(|bytes_per_second| Rate { bytes_per_second, free: rules.limits.bytes_free }),
            rules,
        }
    }

    /// Steps 1 to 6: whether the request may go to the endpoint, and how.
    pub(super) async fn admit(
        &self,
        facts: &Facts<'_>,
        https_port: impl FnOnce() -> u16,
    ) -> Result<Passage, Refusal> {
        let mut pass = Passage::default();
        if self.is_plain {
            return Ok(pass);
        }
        if let Some(status) = self.rules.https_redirect.filter(|_| !facts.is_https()) {
            return Err(respond::to_https(status, facts.host, https_port(), facts.target).into());
        }
        if let Some(certificate) = &self.certificate {
            certificate.check(facts)?;
        }
        if let Some(preflight) = self.cors.as_ref().and_then(|cors| cors.preflight(facts)) {
            return Err(preflight.into());
        }
        if let Some(elsewhere) = redirect::answer(&self.rules, facts) {
            return Err(elsewhere.into());
        }
        let client = facts.address();
        if let Some(limits) = &self.limits {
            pass.held =
                limits.admit(facts, client).inspect_err(|_| facts.client.offend(Offence::Requests))?;
        }
        if let Some(external) = &self.external {
            external.guard(&mut pass.edits);
        }
        if self.basic.is_some() {
            // The password was for us.
            pass.edits.remove(&AUTHORIZATION);
        }
        self.check_access(facts, client, &mut pass).await?;
        if let Some(certificate) = &self.certificate {
            certificate.pass_on(facts, &mut pass.edits);
        }
        if let Some(host) = &self.rules.upstream.host
            && let Some(host) = facts.fill_header(host)
        {
            pass.edits.set(&http::header::HOST, host);
        }
        self.request_headers.edit_request(facts, &mut pass.edits);
        Ok(pass)
    }

    /// Step 9: the head of an answer on its way to the client. `pass` is `None` if the request was
    /// not let in.
    pub(super) fn dress(
        &self,
        facts: &Facts<'_>,
        pass: Option<&Passage>,
        status: StatusCode,
        headers: &mut HeaderMap,
    ) {
        if self.is_plain {
            return;
        }
        if let Some(pass) = pass
            && (pass.always_cookies || gets_added_headers(status))
        {
            for cookie in &pass.cookies {
                headers.append(SET_COOKIE, cookie.clone());
            }
        }
        if let Some(cors) = &self.cors {
            cors.write(facts.header(ORIGIN.as_str()), headers);
        }
        if let Some((name, value)) = self.hsts.as_ref().filter(|_| facts.is_https()) {
            headers.insert(name, value.clone());
        }
        self.response_headers.edit_response(facts, status, headers);
    }

    /// `Strict-Transport-Security` of answers over TLS.
    pub(super) fn hsts(&self) -> Option<&HeaderValue> {
        self.hsts.as_ref().map(|(_, value)| value)
    }

    /// An answer's body, no faster than the policy allows. A text of our own is short.
    pub(super) fn throttle(&self, content: Content) -> Content {
        match self.rate.filter(|_| !matches!(content, Content::Own(_))) {
            Some(rate) => {
                Content::Throttled(Box::new(Throttled::new(ResponseBody::uncounted(content), rate)))
            }
            None => content,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Whether nothing of a policy concerns this module.
fn is_plain(rules: &RoutePolicy) -> bool {
    rules.https_redirect.is_none()
        && rules.redirect.is_none()
        && rules.app_root.is_none()
        && rules.access == Default::default()
        && rules.limits == Default::default()
        && rules.cors.is_none()
        && rules.request_headers.is_empty()
        && rules.upstream.host.is_none()
        && rules.hsts.is_none()
        && rules.response_headers.is_empty()
}

/// nginx's `add_header` without `always`.
fn gets_added_headers(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// What all policies use together, for as long as the proxy runs.
#[derive(Debug, Default)]
struct Shared {
    ledger: Arc<Ledger>,
    verifier: Arc<Verifier>,
}

/// The policies of a configuration, one for each that differs.
#[derive(Debug, Default)]
pub(super) struct Policies {
    shared: Arc<Shared>,
    known: AHashMap<Arc<RoutePolicy>, Arc<Policy>>,
}

impl Policies {
    /// No policies yet, to be filled for the configuration after that of `previous`.
    pub(super) fn after(previous: Option<&Self>) -> Self {
        let shared = previous.map(|previous| Arc::clone(&previous.shared)).unwrap_or_default();
        Self { shared, known: AHashMap::new() }
    }

    /// The policy for `rules`: the one that is there, or that `previous` has, so that what a policy
    /// remembers outlives changes of other routes.
    pub(super) fn get(&mut self, rules: &Arc<RoutePolicy>, previous: Option<&Self>) -> Arc<Policy> {
        if let Some(known) = self.known.get(rules) {
            return Arc::clone(known);
        }
        let kept = previous.and_then(|previous| previous.known.get(rules)).cloned();
        let policy = kept.unwrap_or_else(|| Arc::new(Policy::new(Arc::clone(rules), &self.shared)));
        self.known.insert(Arc::clone(rules), Arc::clone(&policy));
        policy
    }
}
