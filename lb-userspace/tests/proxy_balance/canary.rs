//! Routes with a canary.

use std::sync::Arc;

use sluice::model::{
    Canary, CanaryHeader, CanaryStickiness, CanaryValue, CookieAffinity, ObjectKey, Unavailable,
};

use crate::rig::{Rig, Running, backend};
use crate::{count, get, named, word};

fn canary() -> Canary {
    Canary {
        ingress: ObjectKey::new("test", "canary"),
        backend: backend("next"),
        header: None,
        cookie: None,
        weight: 0,
        weight_total: 100,
    }
}

fn with_header(value: CanaryValue) -> Canary {
    Canary { header: Some(CanaryHeader { name: "x-next".into(), value }), ..canary() }
}

/// `a.test`: two endpoints that say "main", and those of the canary that say "next".
fn split(canary: Canary, endpoints: usize, affinity: Option<CanaryStickiness>) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[named("main"), named("main")]);
    let next: Vec<_> = (0..endpoints).map(|_| named("next")).collect();
    rig.cluster("next", &next);
    rig.route_with("a.test", "/", "web", |draft| {
        draft.canary = Some(canary);
        draft.policy.affinity = affinity.map(|canary| {
            Arc::new(CookieAffinity {
                name: "stay".into(),
                path: None,
                domain: None,
                max_age: None,
                expires: None,
                secure: None,
                same_site: None,
                conditional_none: false,
                change_on_failure: false,
                persistent: true,
                canary,
            })
        });
    });
    rig.start(|settings| settings.workers = 1)
}

#[test]
fn what_decides() {
    let always = "X-Next: always\r\n";
    let words = || with_header(CanaryValue::AlwaysOrNever);
    let exact = || with_header(CanaryValue::Exact("yes".into()));
    let pattern = || with_header(CanaryValue::Pattern("^v2\\.".into()));
    let by_cookie = |canary| Canary { cookie: Some("next".into()), ..canary };
    let all = |canary| Canary { weight: 100, ..canary };
    for (canary, headers, expect) in [
        (canary(), "", "main"),
        (all(canary()), "", "next"),
        (canary(), always, "main"),
        (words(), always, "next"),
        (all(words()), "X-Next: never\r\n", "main"),
        (all(words()), "X-Next: perhaps\r\n", "next"),
        (exact(), "X-Next: yes\r\n", "next"),
        (exact(), always, "main"),
        (all(exact()), "X-Next: never\r\n", "next"),
        (pattern(), "X-Next: v2.1\r\n", "next"),
        (pattern(), "X-Next: v1.v2.\r\n", "main"),
        (by_cookie(canary()), "Cookie: a=1; next=always\r\n", "next"),
        (all(by_cookie(canary())), "Cookie: next=never\r\n", "main"),
        (by_cookie(canary()), "Cookie: next=yes\r\n", "main"),
        (by_cookie(words()), "X-Next: always\r\nCookie: next=never\r\n", "next"),
        (all(by_cookie(words())), "X-Next: never\r\nCookie: next=always\r\n", "main"),
        (by_cookie(words()), "X-Next: so\r\nCookie: next=always\r\n", "next"),
        (all(by_cookie(exact())), "X-Next: no\r\nCookie: next=never\r\n", "main"),
    ] {
        let text = format!("{canary:?} {headers:?}");
        let proxy = split(canary, 1, None);
        for _ in 0..3 {
            assert_eq!(word(proxy.http, "/", headers), expect, "{text}");
        }
    }
}

#[test]
fn weights() {
    for (weight, total, bounds) in
        [(0, 100, 0..=0), (100, 100, 400..=400), (30, 100, 70..=170), (1, 2, 140..=260)]
    {
        let proxy = split(Canary { weight, weight_total: total, ..canary() }, 1, None);
        let next = (0..400).filter(|_| word(proxy.http, "/", "") == "next").count();
        assert!(bounds.contains(&next), "{weight} of {total}: {next} of 400");
        let clusters = proxy.proxy.stats().clusters;
        assert_eq!(clusters["test/next:80"], next as u64, "requests are counted where they went");
    }
}

#[test]
fn canaries_without_endpoints_get_nothing() {
    let proxy = split(Canary { weight: 100, ..with_header(CanaryValue::AlwaysOrNever) }, 0, None);
    assert_eq!(word(proxy.http, "/", "X-Next: always\r\n"), "main");
    let nowhere = sluice::model::Backend::Unavailable(Unavailable::ResourceBackend);
    let proxy = split(Canary { weight: 100, backend: nowhere, ..canary() }, 1, None);
    assert_eq!(word(proxy.http, "/", ""), "main");
}

#[test]
fn choices_that_stick() {
    let half = || Canary { weight: 50, ..with_header(CanaryValue::AlwaysOrNever) };
    let cookie_of = |seen: &crate::rig::Seen| {
        let value = seen.header("set-cookie").and_then(|cookie| cookie.split(';').next());
        value.map(|value| format!("Cookie: {value}\r\n"))
    };
    let proxy = split(half(), 1, Some(CanaryStickiness::Sticky));
    for (first, later) in [("always", "never"), ("never", "always")] {
        let seen = get(proxy.http, "/", &format!("X-Next: {first}\r\n"));
        let line = cookie_of(&seen).expect("a cookie");
        let stays = String::from_utf8(seen.body).expect("text");
        for headers in [line.clone(), format!("{line}X-Next: {later}\r\n")] {
            let counts = count((0..10).map(|_| word(proxy.http, "/", &headers)));
            assert_eq!(counts.keys().collect::<Vec<_>>(), [&stays], "{headers}");
        }
    }
    // Where it does not stick, the canary gives no cookie and takes no notice of one.
    let proxy = split(half(), 1, Some(CanaryStickiness::Legacy));
    assert_eq!(cookie_of(&get(proxy.http, "/", "X-Next: always\r\n")), None);
    let line = cookie_of(&get(proxy.http, "/", "X-Next: never\r\n")).expect("a cookie");
    assert_eq!(word(proxy.http, "/", &format!("{line}X-Next: always\r\n")), "next");
    assert_eq!(count((0..100).map(|_| word(proxy.http, "/", &line))).len(), 2);
}
