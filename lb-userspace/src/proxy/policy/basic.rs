//! Name and password with each request (RFC 7617).

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::hmac;
use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

use super::Refusal;
use super::facts::Facts;
use super::ledger::{Kind, Ledger};
use super::verifier::{Busy, Verifier};
use crate::model::{BasicAuth, Password};

/// How many passwords of one client address may wait to be checked, so that one that guesses
/// can't fill the queue.
const MAX_WAITING: u32 = 4;

/// A route's users.
#[derive(Debug)]
pub(super) struct Basic {
    rules: Arc<BasicAuth>,
    challenge: HeaderValue,
    /// The password that each user was last let in with, as a keyed hash: the next request need
    /// not be checked the slow way. Gone with the policy when the Secret changes.
    verified: Box<[ArcSwapOption<hmac::Tag>]>,
    key: hmac::Key,
    verifier: Arc<Verifier>,
    ledger: Arc<Ledger>,
}

impl Basic {
    /// Must not run on a worker's thread: it starts threads.
    pub(super) fn new(rules: &Arc<BasicAuth>, verifier: &Arc<Verifier>, ledger: &Arc<Ledger>) -> Self {
        verifier.start();
        let mut secret = [0; 32];
        if aws_lc_rs::rand::fill(&mut secret).is_err() {
            // Never seen on Linux; the hash never leaves the process, so it may be a guessable one.
            tracing::warn!("no random bytes for the cache of passwords");
        }
        Self {
            challenge: challenge(&rules.realm),
            verified: rules.users.iter().map(|_| ArcSwapOption::empty()).collect(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            rules: Arc::clone(rules),
            verifier: Arc::clone(verifier),
            ledger: Arc::clone(ledger),
        }
    }

    pub(super) async fn check(&self, facts: &Facts<'_>, client: IpAddr) -> Result<(), Refusal> {
        let Some((name, password)) = facts.credentials() else {
            return Err(self.ask("the client gave no name and password"));
        };
        let users = &self.rules.users;
        let found = users.binary_search_by(|(have, _)| (**have).cmp(&name));
        // Names that are not there take as long, or they could be told from those that are.
        let Some((_, Password(hash))) = users.get(found.unwrap_or(0)) else {
            return Err(self.ask("there are no users"));
        };
        let tag = hmac::sign(&self.key, &password);
        if let Ok(user) = found
            && self.verified[user].load().as_deref().is_some_and(|known| is_same(known, &tag))
        {
            return Ok(());
        }
        let waiting = self.ledger.entry(facts.ingress(), Kind::Passwords, client);
        let Some(_waiting) = self.ledger.hold(waiting, MAX_WAITING) else {
            return Err(later(StatusCode::TOO_MANY_REQUESTS, "the client has too many passwords checked"));
        };
        match (self.verifier.verify(Arc::clone(hash), password).await, found) {
            (Ok(true), Ok(user)) => {
                self.verified[user].store(Some(Arc::new(tag)));
                Ok(())
            }
            (Ok(_), _) => Err(self.ask("name or password is wrong")),
            (Err(Busy), _) => {
                Err(later(StatusCode::SERVICE_UNAVAILABLE, "too many passwords wait to be checked"))
            }
        }
    }

    /// Has the browser ask its user.
    fn ask(&self, why: &'static str) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, "a name and a password are needed", why);
        refusal.response.headers_mut().insert(WWW_AUTHENTICATE, self.challenge.clone());
        refusal
    }
}

fn is_same(one: &hmac::Tag, other: &hmac::Tag) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_ref(), other.as_ref()).is_ok()
}

fn later(status: StatusCode, why: &'static str) -> Refusal {
    let mut refusal = Refusal::new(status, "too many passwords are being checked, try again later", why);
    refusal.response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    refusal
}

/// The realm as a quoted string (RFC 9110 section 5.6.4); what can't stand in one is left out.
fn challenge(realm: &str) -> HeaderValue {
    let mut quoted = String::with_capacity(realm.len());
    for letter in realm.chars().filter(|letter| !letter.is_control()) {
        if matches!(letter, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    HeaderValue::try_from(format!("Basic realm=\"{quoted}\", charset=\"UTF-8\""))
        .unwrap_or_else(|_| HeaderValue::from_static("Basic realm=\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        for (realm, expect) in [
            ("Staff only", "Basic realm=\"Staff only\", charset=\"UTF-8\""),
            ("", "Basic realm=\"\", charset=\"UTF-8\""),
            ("a\"b\\c", "Basic realm=\"a\\\"b\\\\c\", charset=\"UTF-8\""),
            ("a\r\nX: b", "Basic realm=\"aX: b\", charset=\"UTF-8\""),
            ("Zugang für alle", "Basic realm=\"Zugang für alle\", charset=\"UTF-8\""),
        ] {
            assert_eq!(challenge(realm).as_bytes(), expect.as_bytes(), "{realm:?}");
        }
    }
}
