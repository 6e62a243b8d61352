//! Names and passwords.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sluice::model::{BasicAuth, Password};

use crate::rig::{Rig, endpoint, say};
use crate::{from, get, several, single};

/// "secret" with cost 10: some ten milliseconds each time.
const SLOW: &str = "$2y$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u";

fn users(list: &[(&str, &str)]) -> Option<Arc<BasicAuth>> {
    let mut users: Vec<_> =
        list.iter().map(|(name, hash)| ((*name).into(), Password((*hash).into()))).collect();
    users.sort_by(|(one, _): &(Arc<str>, _), (other, _)| one.cmp(other));
    Some(Arc::new(BasicAuth { realm: "Staff \"only\"".into(), users: users.into() }))
}

fn basic(pair: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

#[test]
fn who_gets_in() {
    let proxy = single(|policy| {
        policy.access.basic = users(&[
            ("bob", "$apr1$lZL6Vci1$tH37qoVYn.hqbdIV0mliI/"),
            ("alice", "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"),
            ("carol", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="),
            ("dave", "no hash at all"),
            ("eve", "{PLAIN}with:colon"),
        ]);
    });
    for (headers, status) in [
        (basic("alice:secret"), 200),
        (basic("alice:secret"), 200),
        (basic("alice:Secret"), 401),
        (basic("bob:secret"), 200),
        (basic("carol:secret"), 200),
        (basic("dave:no hash at all"), 401),
        (basic("dave:"), 401),
        (basic("eve:with:colon"), 200),
        (basic("mallory:secret"), 401),
        (basic(":secret"), 401),
        (basic("alice"), 401),
        (basic("Alice:secret"), 401),
        (basic("alice:secret").to_lowercase().replace("basic ", "bAsIc "), 401),
        (basic("bob:secret").replace("Basic ", "bAsIc "), 200),
        (basic("bob:secret").replace("Basic", "Bearer"), 401),
        ("Authorization: Basic\r\n".to_owned(), 401),
        ("Authorization: Basic !!!\r\n".to_owned(), 401),
        (String::new(), 401),
    ] {
        let seen = get(proxy.http, "/", &headers);
        assert_eq!(seen.status, status, "{headers:?}: {}", seen.text());
        let challenge = "Basic realm=\"Staff \\\"only\\\"\", charset=\"UTF-8\"";
        assert_eq!(seen.header("www-authenticate"), (status == 401).then_some(challenge), "{headers:?}");
        assert!(
            !seen.text().to_lowercase().contains("authorization:"),
            "the password was for us: {}",
            seen.text()
        );
    }
}

#[test]
fn without_users_nobody_gets_in() {
    let proxy = single(|policy| policy.access.basic = users(&[]));
    for headers in ["", &basic("alice:secret"), &basic(":")] {
        assert_eq!(get(proxy.http, "/", headers).status, 401, "{headers:?}");
    }
}

/// A new Secret counts at once, although the old password was remembered.
#[test]
fn passwords_change() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "in"))]);
    rig.route_with("a.test", "/", "web", |draft| draft.policy.access.basic = users(&[("a", "{PLAIN}old")]));
    let mut proxy = rig.start(|_| ());
    assert_eq!(get(proxy.http, "/", &basic("a:old")).status, 200);
    proxy.change(|rig| {
        rig.replace_routes();
        rig.route_with("a.test", "/", "web", |draft| {
            draft.policy.access.basic = users(&[("a", "{PLAIN}new")])
        });
    });
    assert_eq!(get(proxy.http, "/", &basic("a:old")).status, 401);
    assert_eq!(get(proxy.http, "/", &basic("a:new")).status, 200);
}

/// Who tries passwords, tries them slowly, and nobody else waits: neither other routes, nor
/// clients that are known, nor those of other addresses that log in for the first time.
#[test]
fn a_flood_of_wrong_passwords() {
    let proxy = several(|rig| {
        rig.route_with("a.test", "/", "web", |draft| {
            draft.policy.access.basic = users(&[("alice", SLOW), ("bob", "{PLAIN}b")]);
        });
        rig.route("open.test", "/", "web");
    });
    let http = proxy.http;
    assert_eq!(get(http, "/", &format!("{}{}", from("10.0.0.1"), basic("alice:secret"))).status, 200);
    let (stop, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for guesser in 0..24 {
            let (stop, refused) = (&stop, &refused);
            scope.spawn(move || {
                for guess in 0.. {
                    let headers =
                        format!("{}{}", from("10.6.6.6"), basic(&format!("alice:{guesser}.{guess}")));
                    match get(http, "/", &headers).status {
                        401 => {}
                        429 => drop(refused.fetch_add(1, SeqCst)),
                        other => panic!("{other}"),
                    }
                    if stop.load(SeqCst) {
                        return;
                    }
                }
            });
        }
        crate::rig::eventually(|| refused.load(SeqCst) > 20);
        for _ in 0..10 {
            let open = crate::raw(http, "GET / HTTP/1.1\r\nHost: open.test\r\n\r\n");
            assert_eq!(open.status, 200, "routes without passwords");
            let known = format!("{}{}", from("10.0.0.1"), basic("alice:secret"));
            assert_eq!(get(http, "/", &known).status, 200, "a client that is known");
        }
        let new = format!("{}{}", from("10.0.0.2"), basic("bob:b"));
        assert_eq!(get(http, "/", &new).status, 200, "a new client");
        stop.store(true, SeqCst);
    });
}
