//! How an endpoint is chosen, and whom a client stays with.

use std::sync::Arc;

use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::{
    Balance, CanaryStickiness, CookieAffinity, RoutePolicy, SameSite, Template, TemplatePart, Variable,
};

/// The name of the cookie, unless said otherwise.
const COOKIE: &str = "INGRESSCOOKIE";
/// How many endpoints a key has with `upstream-hash-by-subset`, unless said otherwise.
const SUBSET: u32 = 3;
/// Cookies live four hundred days at most in today's browsers; ten years are forever.
const FOREVER: u64 = 315_360_000;

/// Reads `load-balance`, `upstream-hash-by*`, `affinity*` and `session-cookie-*`.
pub(super) fn read(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    algorithm(reader, policy);
    let key = reader.get("upstream-hash-by", hash_key);
    let in_subset = reader.get("upstream-hash-by-subset", values::boolean).unwrap_or_default();
    let size = reader.get("upstream-hash-by-subset-size", values::count).unwrap_or(SUBSET);
    if let Some(key) = key {
        policy.balance = Balance::Hash { key, subset: if in_subset { size } else { 0 } };
    }
    policy.affinity = cookie(reader);
}

/// Reads `load-balance`, of annotations as of settings.
pub(super) fn algorithm(reader: &mut Reader<'_>, policy: &mut RoutePolicy) {
    if let Some(balance) = reader.get("load-balance", balance) {
        policy.balance = balance;
    }
}

fn balance(text: &str) -> Read<Balance> {
    let by_address =
        || Balance::Hash { key: Template(vec![TemplatePart::Variable(Variable::ClientAddress)]), subset: 0 };
    match text.trim() {
        "round_robin" => Ok(Balance::RoundRobin),
        "ewma" => Ok(Balance::Ewma),
        "least_conn" | "least_request" => Ok(Balance::LeastRequest),
        "ip_hash" => Ok(by_address()),
        _ => Err(Bad::new("is no way to balance", "write round_robin, ewma, least_request or ip_hash")),
    }
}

/// A key without anything of the request would send all of them to one endpoint.
fn hash_key(text: &str) -> Read<Template> {
    let text = match text.trim() {
        "$binary_remote_addr" => "$remote_addr",
        text => text,
    };
    let key = values::template(text)?;
    match key.as_literal() {
        Some(_) => Err(Bad::new("is the same for every request", "use a variable like $request_uri")),
        None => Ok(key),
    }
}

fn cookie(reader: &mut Reader<'_>) -> Option<Arc<CookieAffinity>> {
    let kind = reader.get("affinity", |text| match text.trim() {
        "cookie" => Ok(()),
        _ => Err(Bad::new("is no way to keep a client", "write cookie")),
    });
    let mode = reader.get("affinity-mode", values::one_of(&[("balanced", false), ("persistent", true)]));
    let canary =
        values::one_of(&[("sticky", CanaryStickiness::Sticky), ("legacy", CanaryStickiness::Legacy)]);
    let canary = reader.get("affinity-canary-behavior", canary).unwrap_or_default();
    let name = reader.get("session-cookie-name", cookie_name).unwrap_or_else(|| COOKIE.into());
    let path = reader.get("session-cookie-path", attribute);
    let domain = reader.get("session-cookie-domain", attribute);
    let max_age = reader.get("session-cookie-max-age", values::number(0, FOREVER));
    let expires = reader.get("session-cookie-expires", values::number(0, FOREVER));
    let secure = reader.get("session-cookie-secure", values::boolean);
    let same_site =
        values::one_of(&[("Strict", SameSite::Strict), ("Lax", SameSite::Lax), ("None", SameSite::None)]);
    let same_site = reader.get("session-cookie-samesite", same_site);
    let conditional_none =
        reader.get("session-cookie-conditional-samesite-none", values::boolean).unwrap_or_default();
    let change_on_failure =
        reader.get("session-cookie-change-on-failure", values::boolean).unwrap_or_default();
    kind.map(|()| {
        Arc::new(CookieAffinity {
            name,
            path,
            domain,
            max_age,
            expires,
            secure,
            same_site,
            conditional_none,
            change_on_failure,
            persistent: mode.unwrap_or_default(),
            canary,
        })
    })
}

/// A token (RFC 6265 section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Read<Arc<str>> {
    let name = text.trim();
    if !name.is_empty() && name.len() <= 256 && name.bytes().all(values::is_token) {
        return Ok(name.into());
    }
    Err(Bad::new("is no cookie's name", "use letters, digits, hyphens and underscores"))
}

/// What may stand in an attribute of a cookie: nothing that ends it.
fn attribute(text: &str) -> Read<Arc<str>> {
    let text = text.trim();
    if text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic() && b != b';' && b != b',') {
        return Ok(text.into());
    }
    Err(Bad::new("can't stand in a cookie", "remove spaces, commas and semicolons"))
}
