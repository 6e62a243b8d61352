//! Answers that send clients elsewhere, or end their requests.

use sluice::model::{PathMatch, Redirect};

use crate::{get, single, template};

/// What a client may put into its request's head, none of which may leave its place in a URL.
const HEADERS: &str =
    "X-Evil: a\tb \"#?&=/\r\nCookie: x=1; who=me@host:80/; y=2\r\nAuthorization: Basic Lzo=\r\n";

#[test]
fn where_to() {
    for (status, to, path, expect) in [
        (301, "https://new.test", "/a?b=c", Some("https://new.test")),
        (308, "https://new.test$request_uri", "/a/../b?c=d", Some("https://new.test/b?c=d")),
        (302, "$scheme://www.$host$uri", "/x", Some("http://www.a.test/x")),
        (302, "/in?to=$escaped_request_uri", "/a?c=d&e=/", Some("/in?to=%2Fa%3Fc%3Dd%26e%3D%2F")),
        (302, "https://x.test/$http_x_evil", "/", Some("https://x.test/a%09b%20%22%23%3F%26%3D%2F")),
        (302, "https://$cookie_who/", "/", Some("https://me%40host%3A80%2F/")),
        (302, "https://$remote_user", "/", Some("https://%2F")),
        (302, "/p$is_args$args", "/?q=%0d%0aX:y", Some("/p?q=%0d%0aX:y")),
        (302, "/p$is_args$args", "/", Some("/p")),
        (302, "https://$http_host/", "/", Some("https://a.test/")),
        (302, "/p?q=$arg_q&r=$arg_r", "/?a=1&q=x", Some("/p?q=x&r=")),
        (302, "/$http_nothing", "/", Some("/")),
        (302, "/$1", "/", Some("/")),
    ] {
        let proxy = single(|policy| policy.redirect = Some(Redirect { status, to: template(to) }));
        let seen = get(proxy.http, path, HEADERS);
        assert_eq!((seen.status, seen.header("location")), (status, expect), "{to}, {path}: {}", seen.text());
    }
}

/// What the groups of the route's expression matched.
#[test]
fn captures() {
    for (path, to, asked, expect) in [
        ("/old/(.*)/(.*)", "https://new.test/$2/$1", "/old/a/b%20c", "https://new.test/b%20c/a"),
        ("/old/(.*)", "https://new.test/$1", "/OLD/", "https://new.test/"),
        ("/old/.*", "https://new.test/$1", "/old/x", "https://new.test/"),
        ("/old/(.*)", "https://new.test/ü/$1", "/old/x", "https://new.test/%C3%BC/x"),
    ] {
        let proxy = crate::several(|rig| {
            rig.route_with("a.test", "/", "web", |draft| {
                draft.path = PathMatch::Regex(path.into());
                draft.policy.redirect = Some(Redirect { status: 301, to: template(to) });
            });
        });
        let seen = get(proxy.http, asked, "");
        assert_eq!((seen.status, seen.header("location")), (301, Some(expect)), "{path} {to} {asked}");
    }
}

#[test]
fn whole_answers() {
    for (status, to, expect) in [
        (410, "gone: $request_method $uri for $http_x_evil", (410, "gone: GET /a for a\tb \"#?&=/")),
        (200, "$namespace/$ingress_name/$service_name/$service_port", (200, "test/ingress/web/80")),
        (204, "", (204, "")),
        (302, "https://not a url/", (400, "the request makes no valid redirect\n")),
        (0, "what?", (500, "what?")),
    ] {
        let proxy = single(|policy| policy.redirect = Some(Redirect { status, to: template(to) }));
        let seen = get(proxy.http, "/a", HEADERS);
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        assert_eq!((seen.status, &*body), expect, "{status} {to}");
        assert!(!seen.has("location"));
    }
}

#[test]
fn the_root_of_the_application() {
    let proxy = single(|policy| policy.app_root = Some("/app/start".into()));
    for (path, expect) in [
        ("/", (302, Some("http://a.test/app/start"))),
        ("/?x=y", (302, Some("http://a.test/app/start"))),
        ("/app/start", (200, None)),
        ("/other", (200, None)),
    ] {
        let seen = get(proxy.http, path, "");
        assert_eq!((seen.status, seen.header("location")), expect, "{path}");
    }
    // Who names no host is sent on without one, too.
    let proxy = crate::several(|rig| {
        rig.route_with("*", "/", "web", |draft| draft.policy.app_root = Some("/app/start".into()));
    });
    let seen = crate::send(proxy.http, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!((seen.status, seen.header("location")), (302, Some("/app/start")));
    assert_eq!(get(proxy.http, "/", "").header("location"), Some("http://a.test/app/start"));
    // Sent to itself, a client would go round for ever.
    let proxy = single(|policy| policy.app_root = Some("/".into()));
    assert_eq!(get(proxy.http, "/", "").status, 200);
}

/// https first, for a password is no good over http; preflights and redirects ask for none.
#[test]
fn the_order_of_steps() {
    let everything = |policy: &mut sluice::model::RoutePolicy| {
        policy.https_redirect = Some(308);
        policy.redirect = Some(Redirect { status: 301, to: template("https://new.test/") });
        policy.access.allow = Some(crate::nets(&[]));
        policy.limits.connections = Some(0);
    };
    for (https, redirect, limit, status) in [
        (true, true, true, 308),
        (false, true, true, 301),
        (false, false, true, 503),
        (false, false, false, 403),
    ] {
        let proxy = single(|policy| {
            everything(policy);
            policy.https_redirect = policy.https_redirect.filter(|_| https);
            policy.redirect = policy.redirect.take().filter(|_| redirect);
            policy.limits.connections = policy.limits.connections.filter(|_| limit);
        });
        assert_eq!(get(proxy.http, "/", "").status, status, "{https} {redirect} {limit}");
    }
}
