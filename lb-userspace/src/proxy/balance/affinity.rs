//! A cookie that keeps a client at its endpoint.
//!
//! The cookie is `ENDPOINT|CLUSTER`. `CLUSTER` is the cluster's token: it keeps a client with the
//! route's own cluster or with its canary. `ENDPOINT` is the endpoint's token where a client stays
//! as long as its endpoint is there; else a random key for the consistent hash, so that new
//! endpoints take over some clients. Any node can read either.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use super::cookie::{self, Facts};
use super::hash;
use super::token::{Token, token};
use crate::model::{ClusterKey, CookieAffinity};
use crate::proxy::cluster::{Endpoints, Group};
use crate::proxy::headers::cookie as cookie_of;

/// Longest key that is taken from a client.
const MAX_KEY: usize = 128;

/// How many random keys are tried to find one whose endpoint can take requests.
const KEYS: usize = 20;

/// One request's claim to an endpoint.
#[derive(Debug)]
pub(super) struct Affinity<'a> {
    rules: &'a CookieAffinity,
    cluster: &'a ClusterKey,
    cluster_token: Token,
    claim: Claim,
    /// The client has no valid cookie, or gets another.
    is_new: bool,
}

#[derive(Debug)]
enum Claim {
    Nothing,
    Endpoint(Token),
    Key(String),
}

/// What a client's cookie says.
pub(super) struct Sent<'a> {
    endpoint: &'a str,
    cluster: Token,
}

impl<'a> Sent<'a> {
    /// The cookie of an affinity, if the client sent one that Sluice could have written.
    pub(super) fn find(headers: &'a HeaderMap, rules: &CookieAffinity) -> Option<Self> {
        let value = std::str::from_utf8(cookie_of(headers, &rules.name)?).ok()?;
        let (endpoint, cluster) = value.split_once('|')?;
        let is_key = !endpoint.is_empty() && endpoint.len() <= MAX_KEY;
        let cluster = Token::from_str_radix(cluster, 16).ok()?;
        is_key.then_some(Self { endpoint, cluster })
    }

    /// Whether the client was at this cluster before.
    pub(super) fn is_of(&self, cluster: Token) -> bool {
        self.cluster == cluster
    }
}

impl<'a> Affinity<'a> {
    pub(super) fn new(
        rules: &'a CookieAffinity,
        cluster: &'a ClusterKey,
        cluster_token: Token,
        sent: Option<&Sent<'_>>,
    ) -> Self {
        let sent = sent.filter(|sent| sent.is_of(cluster_token)).map(|sent| sent.endpoint);
        let claim = match (sent, rules.persistent) {
            (Some(endpoint), true) => {
                Token::from_str_radix(endpoint, 16).map_or(Claim::Nothing, Claim::Endpoint)
            }
            (Some(key), false) => Claim::Key(key.to_owned()),
            (None, true) => Claim::Nothing,
            (None, false) => Claim::Key(random_key()),
        };
        let is_new = sent.is_none() || matches!(claim, Claim::Nothing);
        Self { rules, cluster, cluster_token, claim, is_new }
    }

    /// The client's own endpoint, if it can take the request. Any other does, otherwise; then the
    /// client keeps its cookie and comes back, unless it has none or changes on failure.
    pub(super) fn pick(
        &mut self,
        endpoints: &Endpoints,
        group: &Group,
        skip: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let may_change = self.is_new || self.rules.change_on_failure;
        match &mut self.claim {
            Claim::Nothing => None,
            Claim::Endpoint(token) => {
                let own = endpoints.by_token(*token);
                // Gone for good, or failed for now.
                self.is_new |= own.is_none_or(|own| may_change && skip(own));
                own.filter(|own| !skip(*own))
            }
            Claim::Key(key) => {
                let hashed = endpoints.hashed(group);
                let owner = |key: &str| hashed.owner(hash::key(key.as_bytes())).map(|at| group.at(at));
                let own = owner(key)?;
                if !skip(own) {
                    return Some(own);
                }
                if may_change {
                    for _ in 0..KEYS {
                        let other = random_key();
                        if let Some(index) = owner(&other).filter(|index| !skip(*index)) {
                            (*key, self.is_new) = (other, true);
                            return Some(index);
                        }
                    }
                }
                let best = hashed.best(hash::key(key.as_bytes()), |at| skip(group.at(at)));
                best.map(|at| group.at(at))
            }
        }
    }

    /// Whether the client gets a cookie.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// The cookie that a client gets with an answer of the endpoint at `address`.
    pub(super) fn set_cookie(&self, address: SocketAddr, facts: &Facts<'_>) -> Option<HeaderValue> {
        let endpoint = match &self.claim {
            Claim::Key(key) => key.clone(),
            Claim::Nothing | Claim::Endpoint(_) => format!("{:032x}", token(self.cluster, address)),
        };
        cookie::write(self.rules, &format!("{endpoint}|{:032x}", self.cluster_token), facts, Timestamp::now())
    }
}

fn random_key() -> String {
    format!("{:032x}", fastrand::u128(..))
}
