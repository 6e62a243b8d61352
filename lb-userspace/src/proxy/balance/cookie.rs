//! Cookies, written.

use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};

use super::same_site::understands_none;
use crate::model::{CookieAffinity, SameSite};

/// What a cookie's attributes depend on.
pub(in crate::proxy) struct Facts<'a> {
    /// The route's path.
    pub(in crate::proxy) path: &'a str,
    /// The request came over https.
    pub(in crate::proxy) https: bool,
    /// The client's `User-Agent`.
    pub(in crate::proxy) user_agent: &'a str,
}

/// `Set-Cookie` as a route's policy has it; `None` if what the policy says can't stand in one.
pub(super) fn write(
    rules: &CookieAffinity,
    value: &str,
    facts: &Facts<'_>,
    now: Timestamp,
) -> Option<HeaderValue> {
    let mut text = format!("{}={value}", rules.name);
    let mut add = |attribute: &str, value: &str| {
        // One that ends early would begin another attribute.
        if !value.contains(';') {
            text.push_str("; ");
            text.push_str(attribute);
            text.push_str(value);
        }
    };
    if let Some(seconds) = rules.expires.or(rules.max_age) {
        let after = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        let end = now.checked_add(after).unwrap_or(Timestamp::MAX);
        add("Expires=", &end.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    }
    if let Some(seconds) = rules.max_age {
        add("Max-Age=", itoa::Buffer::new().format(seconds));
    }
    if let Some(domain) = &rules.domain {
        add("Domain=", domain);
    }
    add("Path=", rules.path.as_deref().unwrap_or(facts.path));
    if rules.secure.unwrap_or(facts.https) {
        add("Secure", "");
    }
    add("HttpOnly", "");
    match rules.same_site {
        None => {}
        Some(SameSite::Strict) => add("SameSite=", "Strict"),
        Some(SameSite::Lax) => add("SameSite=", "Lax"),
        Some(SameSite::None) if rules.conditional_none && !understands_none(facts.user_agent) => {}
        Some(SameSite::None) => add("SameSite=", "None"),
    }
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CanaryStickiness;

    #[test]
    fn attributes() {
        let plain = || CookieAffinity {
            name: "INGRESSCOOKIE".into(),
            path: None,
            domain: None,
            max_age: None,
            expires: None,
            secure: None,
            same_site: None,
            conditional_none: false,
            change_on_failure: false,
            persistent: false,
            canary: CanaryStickiness::Sticky,
        };
        let none = |conditional_none| CookieAffinity {
            same_site: Some(SameSite::None),
            conditional_none,
            ..plain()
        };
        let old = "Mozilla/5.0 Chrome/60.0";
        for (rules, https, user_agent, expect) in [
            (plain(), false, "", "Path=/shop; HttpOnly"),
            (plain(), true, "", "Path=/shop; Secure; HttpOnly"),
            (CookieAffinity { secure: Some(true), ..plain() }, false, "", "Path=/shop; Secure; HttpOnly"),
            (CookieAffinity { secure: Some(false), ..plain() }, true, "", "Path=/shop; HttpOnly"),
            (CookieAffinity { path: Some("/".into()), ..plain() }, false, "", "Path=/; HttpOnly"),
            (
                CookieAffinity { domain: Some("example.com".into()), ..plain() },
                false,
                "",
                "Domain=example.com; Path=/shop; HttpOnly",
            ),
            (
                CookieAffinity { max_age: Some(60), ..plain() },
                false,
                "",
                "Expires=Thu, 01 Jan 1970 00:01:00 GMT; Max-Age=60; Path=/shop; HttpOnly",
            ),
            (
                CookieAffinity { max_age: Some(60), expires: Some(86_400), ..plain() },
                false,
                "",
                "Expires=Fri, 02 Jan 1970 00:00:00 GMT; Max-Age=60; Path=/shop; HttpOnly",
            ),
            (
                CookieAffinity { expires: Some(86_400), ..plain() },
                false,
                "",
                "Expires=Fri, 02 Jan 1970 00:00:00 GMT; Path=/shop; HttpOnly",
            ),
            (
                CookieAffinity { expires: Some(u64::MAX), ..plain() },
                false,
                "",
                "Expires=Thu, 30 Dec 9999 22:00:00 GMT; Path=/shop; HttpOnly",
            ),
            (
                CookieAffinity { same_site: Some(SameSite::Lax), ..plain() },
                false,
                old,
                "Path=/shop; HttpOnly; SameSite=Lax",
            ),
            (
                CookieAffinity { same_site: Some(SameSite::Strict), ..plain() },
                false,
                "",
                "Path=/shop; HttpOnly; SameSite=Strict",
            ),
            (none(false), true, old, "Path=/shop; Secure; HttpOnly; SameSite=None"),
            (none(true), true, old, "Path=/shop; Secure; HttpOnly"),
            (none(true), true, "curl/8", "Path=/shop; Secure; HttpOnly; SameSite=None"),
            // What would begin another attribute is left out.
            (CookieAffinity { path: Some("/;Domain=evil".into()), ..plain() }, false, "", "HttpOnly"),
        ] {
            let facts = Facts { path: "/shop", https, user_agent };
            let got = write(&rules, "v", &facts, Timestamp::UNIX_EPOCH).expect("a cookie");
            assert_eq!(got.to_str().expect("text"), format!("INGRESSCOOKIE=v; {expect}"), "{rules:?}");
        }
        let broken = CookieAffinity { name: "a\r\nb".into(), ..plain() };
        let facts = Facts { path: "/", https: false, user_agent: "" };
        assert_eq!(write(&broken, "v", &facts, Timestamp::UNIX_EPOCH), None);
    }
}
