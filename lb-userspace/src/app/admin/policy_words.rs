//! Routes' policies in words, for `sluice routes` and `sluice explain`.

use std::time::Duration;

use ipnet::IpNet;

use crate::model::{
    Access, Balance, BodyLimits, Canary, CanaryValue, CookieAffinity, ErrorPages, HeaderEdit, RateLimits,
    Redirect, Retry, RewriteTarget, Route, RoutePolicy, Satisfy, UpstreamPolicy,
};

use super::views::word;

/// What happens with the requests of a route, a few words for each part, in the order in which it
/// happens.
pub fn route_words(route: &Route) -> Vec<String> {
    let mut words = policy_words(&route.policy);
    words.extend(route.canary.as_deref().map(canary));
    words
}

fn policy_words(policy: &RoutePolicy) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(policy.https_redirect.map(|status| format!("http → https ({status})")));
    words.extend(policy.redirect.as_ref().map(redirect));
    words.extend(policy.app_root.as_ref().map(|root| format!("/ → {root} (302)")));
    words.extend(access_words(&policy.access));
    limits(&policy.limits, &mut words);
    if let Some(cors) = &policy.cors {
        words.push(format!("CORS for {} origins, {}", cors.origins.len(), cors.methods));
    }
    body(&policy.body, &mut words);
    words.extend(policy.rewrite.as_ref().map(|rewrite| match rewrite {
        RewriteTarget::Replace(path) => format!("path → {path}"),
        RewriteTarget::Captures(path) => format!("path → {path}"),
    }));
    words.extend(policy.request_headers.iter().map(|edit| header("request", edit)));
    words.extend(balance(&policy.balance));
    words.extend(policy.affinity.as_deref().map(affinity));
    upstream(&policy.upstream, &mut words);
    if let Some(mirror) = &policy.mirror {
        let what = if mirror.body { "copies" } else { "copies without body" };
        words.push(format!("{what} to {}", mirror.target));
    }
    words.extend(policy.error_pages.as_deref().map(error_pages));
    if let Some(hsts) = policy.hsts {
        words.push(format!("HSTS {} s", hsts.max_age));
    }
    words.extend(policy.response_headers.iter().map(|edit| header("answer", edit)));
    words.extend(policy.unlogged.then(|| "not in the access log".to_owned()));
    words
}

/// What a request needs to get in, and what it gets otherwise.
pub fn access_words(access: &Access) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(access.allow.as_deref().map(|nets| format!("only from {}, else 403", networks(nets))));
    words.extend(access.deny.as_deref().map(|nets| format!("not from {}, else 403", networks(nets))));
    if let Some(basic) = &access.basic {
        words.push(format!("password for {:?} ({} users), else 401", basic.realm, basic.users.len()));
    }
    if let Some(external) = &access.external {
        let refused = external
            .signin
            .as_ref()
            .map_or_else(|| "401 or 403".to_owned(), |signin| format!("302 to {signin} or 403"));
        words.push(format!("asks {}, else {refused}", external.url));
    }
    if let Some(certificate) = &access.certificate {
        let mut text = "client certificate".to_owned();
        text.push_str(if certificate.required { ", else 400" } else { " if there is one" });
        if let Some(name) = &certificate.common_name {
            text.push_str(&format!(", CN like {name}, else 403"));
        }
        words.push(text);
    }
    if access.satisfy == Satisfy::Any && words.len() > 1 {
        words.push("one of these is enough".to_owned());
    }
    words
}

/// A canary and what decides for it.
pub fn canary(canary: &Canary) -> String {
    let mut by = Vec::new();
    by.extend(canary.header.as_ref().map(|header| match &header.value {
        CanaryValue::AlwaysOrNever => format!("header {}", header.name),
        CanaryValue::Exact(value) => format!("header {}: {value}", header.name),
        CanaryValue::Pattern(pattern) => format!("header {} like {pattern}", header.name),
    }));
    by.extend(canary.cookie.as_ref().map(|cookie| format!("cookie {cookie}")));
    by.push(format!("{} of {} others", canary.weight, canary.weight_total));
    let to = match &canary.backend {
        crate::model::Backend::Cluster(key) => key.to_string(),
        _ => "nowhere".to_owned(),
    };
    format!("canary {} to {to}: {}", canary.ingress, by.join(", "))
}

fn redirect(redirect: &Redirect) -> String {
    match redirect.status {
        300..=399 => format!("→ {} ({})", redirect.to, redirect.status),
        status => format!("answers {status}"),
    }
}

fn networks(networks: &[IpNet]) -> String {
    const LISTED: usize = 3;
    let mut text: Vec<_> = networks.iter().take(LISTED).map(ToString::to_string).collect();
    if networks.len() > LISTED {
        text.push(format!("{} more", networks.len() - LISTED));
    }
    if text.is_empty() { "nowhere".to_owned() } else { text.join(", ") }
}

fn limits(limits: &RateLimits, words: &mut Vec<String>) {
    let status = if limits.status == 0 { 503 } else { limits.status };
    let burst = limits.burst.max(1);
    let mut rate = |rate: Option<u32>, unit| {
        words.extend(
            rate.map(|rate| format!("{rate} requests/{unit} and client, bursts ×{burst}, else {status}")),
        );
    };
    rate(limits.per_second, "s");
    rate(limits.per_minute, "min");
    words.extend(
        limits.connections.map(|most| format!("{most} requests at a time and client, else {status}")),
    );
    words.extend(limits.bytes_per_second.map(|rate| format!("answers at {rate} B/s")));
    words.extend(limits.exempt.as_deref().map(|nets| format!("no limits for {}", networks(nets))));
}

fn body(body: &BodyLimits, words: &mut Vec<String>) {
    words.extend(body.max_request.map(|most| format!("body up to {most} B, else 413")));
    words.extend(body.buffer_request.then(|| "request read before it goes on".to_owned()));
    words.extend(body.buffer_response.map(|most| format!("answer read ahead up to {most} B")));
    words.extend(body.max_response_head.map(|most| format!("answer's head up to {most} B, else 502")));
}

fn header(of: &str, edit: &HeaderEdit) -> String {
    match edit {
        HeaderEdit::Set { name, value, .. } => format!("{of} header {name} = {value}"),
        HeaderEdit::Add { name, value, .. } => format!("{of} header {name} + {value}"),
        HeaderEdit::Remove { name } => format!("{of} header {name} removed"),
    }
}

fn balance(balance: &Balance) -> Option<String> {
    match balance {
        Balance::RoundRobin => None,
        Balance::Ewma => Some("balanced by response time".to_owned()),
        Balance::LeastRequest => Some("balanced by requests in flight".to_owned()),
        Balance::Hash { key, subset: 0 } => Some(format!("balanced by hash of {key}")),
        Balance::Hash { key, subset } => Some(format!("balanced by hash of {key}, groups of {subset}")),
    }
}

fn affinity(affinity: &CookieAffinity) -> String {
    format!("sticky by cookie {}", affinity.name)
}

fn upstream(upstream: &UpstreamPolicy, words: &mut Vec<String>) {
    if let Some(protocol) = upstream.protocol {
        words.push(format!("endpoints speak {}", word(&protocol)));
    }
    if let Some(tls) = &upstream.tls {
        words.push(
            if tls.verify { "endpoints' certificates verified" } else { "endpoints' TLS configured" }.into(),
        );
    }
    words.extend(upstream.proxy_protocol.map(|version| format!("PROXY {} to endpoints", word(&version))));
    words.extend(upstream.http10.then(|| "HTTP/1.0 to endpoints".to_owned()));
    words.extend(upstream.host.as_ref().map(|host| format!("Host {host}")));
    for (limit, what) in [
        (upstream.connect_timeout, "connect"),
        (upstream.send_timeout, "send"),
        (upstream.read_timeout, "read"),
    ] {
        words.extend(limit.map(|limit| format!("{what} within {}", seconds(limit))));
    }
    if upstream.retry != Retry::default() {
        let on: Vec<_> = upstream.retry.on.iter().map(word).collect();
        let tries = match upstream.retry.tries {
            0 => "every endpoint".to_owned(),
            tries => format!("{tries} endpoints"),
        };
        words.push(format!(
            "tries {tries} after {}",
            if on.is_empty() { "nothing".into() } else { on.join(", ") }
        ));
    }
    if upstream.response != Default::default() {
        words.push("answers' own addresses rewritten".to_owned());
    }
}

fn error_pages(pages: &ErrorPages) -> String {
    let from = match &pages.backend {
        crate::model::Backend::Cluster(key) => key.to_string(),
        _ => "nobody".to_owned(),
    };
    let statuses: Vec<_> = pages.statuses.iter().map(u16::to_string).collect();
    match statuses.is_empty() {
        true => format!("without endpoints {from} answers"),
        false => format!("{from} answers in place of {}", statuses.join(", ")),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Backend, BasicAuth, ClusterKey, Hsts, ObjectKey, PathMatch, PortRef, Template};

    #[test]
    fn words() {
        let nets =
            |text: &str| text.split(' ').map(|net| net.parse().expect("a network")).collect::<Arc<[IpNet]>>();
        let basic = BasicAuth { realm: "ops".into(), users: Arc::new([]) };
        let policy = |edit: &dyn Fn(&mut RoutePolicy)| {
            let mut policy = RoutePolicy::default();
            edit(&mut policy);
            policy_words(&policy).join("; ")
        };
        type Edit<'a> = &'a dyn Fn(&mut RoutePolicy);
        let rows: [(Edit<'_>, &str); 10] = [
            (&|_| {}, ""),
            (&|p| p.https_redirect = Some(308), "http → https (308)"),
            (
                &|p| p.redirect = Some(Redirect { status: 301, to: Template::literal("https://x/") }),
                "→ https://x/ (301)",
            ),
            (&|p| p.redirect = Some(Redirect { status: 403, to: Template::default() }), "answers 403"),
            (&|p| p.app_root = Some("/app".into()), "/ → /app (302)"),
            (
                &|p| p.access.allow = Some(nets("10.0.0.0/8 10.1.0.0/16 10.2.0.0/16 10.3.0.0/16")),
                "only from 10.0.0.0/8, 10.1.0.0/16, 10.2.0.0/16, 1 more, else 403",
            ),
            (&|p| p.access.basic = Some(Arc::new(basic.clone())), "password for \"ops\" (0 users), else 401"),
            (
                &|p| p.limits = RateLimits { per_second: Some(5), burst: 5, ..RateLimits::default() },
                "5 requests/s and client, bursts ×5, else 503",
            ),
            (&|p| p.rewrite = Some(RewriteTarget::Replace("/".into())), "path → /"),
            (&|p| p.hsts = Some(Hsts { max_age: 60, include_subdomains: true, preload: false }), "HSTS 60 s"),
        ];
        for (edit, expect) in rows {
            assert_eq!(policy(edit), expect);
        }
        let key = ClusterKey::new(ObjectKey::new("d", "new"), PortRef::Number(80));
        let route = Route {
            ingress: ObjectKey::new("d", "web"),
            rule: "rules[0]".into(),
            path: PathMatch::Prefix("/".into()),
            backend: Backend::Answered,
            canary: Some(Arc::new(Canary {
                ingress: ObjectKey::new("d", "side"),
                backend: Backend::Cluster(Arc::new(key)),
                header: None,
                cookie: Some("c".into()),
                weight: 20,
                weight_total: 100,
            })),
            policy: Arc::default(),
        };
        assert_eq!(route_words(&route), ["canary d/side to d/new:80: cookie c, 20 of 100 others"]);
    }
}
