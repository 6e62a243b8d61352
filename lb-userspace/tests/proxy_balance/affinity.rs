//! Cookies that keep clients at their endpoints.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use sluice::model::{CanaryStickiness, CookieAffinity, SameSite};

use crate::rig::{Rig, Running, Seen, certificate, eventually, free_port, read_head, read_response, tls};
use crate::{count, get, named, word};

/// What ingress-nginx has for `affinity: cookie` alone.
fn cookie() -> CookieAffinity {
    CookieAffinity {
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
    }
}

fn persistent() -> CookieAffinity {
    CookieAffinity { persistent: true, ..cookie() }
}

/// `a.test` over these endpoints.
fn sticky(affinity: &CookieAffinity, addresses: &[SocketAddr]) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", addresses);
    rig.route_with("a.test", "/", "web", |draft| draft.policy.affinity = Some(Arc::new(affinity.clone())));
    rig.certificate("a.test", certificate("a.test"));
    rig.start(|settings| settings.workers = 2)
}

/// `name=value` of the cookie that an answer sets.
fn set_by(seen: &Seen) -> Option<String> {
    Some(seen.header("set-cookie")?.split(';').next()?.to_owned())
}

/// A client that comes back: its endpoint, and its `Cookie` line.
fn newcomer(proxy: SocketAddr) -> (String, String) {
    let seen = get(proxy, "/", "");
    let cookie = set_by(&seen).expect("a cookie");
    (String::from_utf8(seen.body).expect("text"), format!("Cookie: a=1; {cookie}; z=2\r\n"))
}

#[test]
fn clients_come_back_to_their_endpoint() {
    let addresses = ["a", "b", "c", "d"].map(named);
    for affinity in [cookie(), persistent()] {
        let proxy = sticky(&affinity, &addresses);
        let clients: Vec<_> = (0..60).map(|_| newcomer(proxy.http)).collect();
        let counts = count(clients.iter().map(|(name, _)| name.clone()));
        assert_eq!(counts.len(), 4, "clients are spread: {counts:?}");
        for (name, line) in &clients {
            for _ in 0..3 {
                let seen = get(proxy.http, "/", line);
                assert_eq!(String::from_utf8_lossy(&seen.body), *name);
                assert!(!seen.has("set-cookie"), "who has one gets no other");
            }
        }
        // Another node knows the cookies, too.
        let other = sticky(&affinity, &addresses);
        for (name, line) in &clients {
            assert_eq!(word(other.http, "/", line), *name);
        }
    }
}

#[test]
fn what_the_cookie_looks_like() {
    let address = named("a");
    let all = || CookieAffinity {
        name: "route".into(),
        path: Some("/shop".into()),
        domain: Some("a.test".into()),
        max_age: Some(3600),
        expires: Some(7200),
        secure: Some(true),
        same_site: Some(SameSite::None),
        ..cookie()
    };
    let chrome_60 = "User-Agent: Mozilla/5.0 Chrome/60.0\r\n";
    for (affinity, headers, expect) in [
        (cookie(), "", "INGRESSCOOKIE=V; Path=/; HttpOnly"),
        (persistent(), "", "INGRESSCOOKIE=V; Path=/; HttpOnly"),
        (
            all(),
            chrome_60,
            "route=V; Expires=T; Max-Age=3600; Domain=a.test; Path=/shop; Secure; HttpOnly; SameSite=None",
        ),
        (
            CookieAffinity { conditional_none: true, ..all() },
            chrome_60,
            "route=V; Expires=T; Max-Age=3600; Domain=a.test; Path=/shop; Secure; HttpOnly",
        ),
        (
            CookieAffinity { same_site: Some(SameSite::Lax), ..cookie() },
            "",
            "INGRESSCOOKIE=V; Path=/; HttpOnly; SameSite=Lax",
        ),
    ] {
        let proxy = sticky(&affinity, &[address]);
        let seen = get(proxy.http, "/", headers);
        let text = seen.header("set-cookie").expect("a cookie");
        let got: Vec<_> = text
            .split("; ")
            .map(|attribute| match attribute.split_once('=') {
                Some(("Expires", time)) => {
                    assert!(time.ends_with(" GMT") && time.len() == 29, "{time}");
                    "Expires=T".to_owned()
                }
                Some((name, value)) if *name == *affinity.name => {
                    let is_token =
                        |part: &str| part.len() == 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
                    assert!(value.split('|').all(is_token), "{value}");
                    format!("{name}=V")
                }
                _ => attribute.to_owned(),
            })
            .collect();
        assert_eq!(got.join("; "), expect);
    }
    // Over https the cookie is for https.
    let proxy = sticky(&cookie(), &[address]);
    let mut stream = tls(proxy.https, "a.test", &[]);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
    let seen = read_response(&mut stream, false).expect("an answer");
    assert!(
        seen.header("set-cookie").expect("a cookie").ends_with("; Path=/; Secure; HttpOnly"),
        "{}",
        seen.head
    );
}

#[test]
fn endpoints_come_and_go() {
    let addresses = ["a", "b", "c", "d", "e"].map(named);
    for affinity in [cookie(), persistent()] {
        let mut proxy = sticky(&affinity, &addresses[..4]);
        let http = proxy.http;
        let clients: Vec<_> = (0..60).map(|_| newcomer(http)).collect();
        // More: whoever is persistent stays, of the others a few move.
        proxy.change(|rig| rig.cluster("web", &addresses));
        let moved = clients.iter().filter(|(name, line)| word(http, "/", line) != *name).count();
        let bound = if affinity.persistent { 0..=0 } else { 1..=30 };
        assert!(bound.contains(&moved), "{moved} moved, persistent: {}", affinity.persistent);
        // Less: only the clients of who is gone move, and stay where they got.
        proxy.change(|rig| rig.cluster("web", &addresses[1..4]));
        for (name, line) in &clients {
            let seen = get(http, "/", line);
            let now = String::from_utf8(seen.body.clone()).expect("text");
            assert!(if name == "a" { now != "a" } else { now == *name }, "{name}: {now}");
            // A key finds its next endpoint by itself; an endpoint's token has to be replaced.
            let line = set_by(&seen).map_or_else(|| line.clone(), |cookie| format!("Cookie: {cookie}\r\n"));
            assert_eq!(seen.has("set-cookie"), affinity.persistent && name == "a", "{name}");
            assert_eq!(word(http, "/", &line), now);
        }
    }
}

/// An endpoint that can die: then connections are refused.
struct Mortal {
    address: SocketAddr,
    name: &'static str,
    dead: Arc<AtomicBool>,
}

impl Mortal {
    fn new(name: &'static str) -> Self {
        let mut one = Self { address: ([127, 0, 0, 1], free_port()).into(), name, dead: Arc::default() };
        one.revive();
        one
    }

    fn revive(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the port is free");
        let (name, dead) = (self.name, Arc::new(AtomicBool::new(false)));
        self.dead = Arc::clone(&dead);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                if dead.load(SeqCst) {
                    return;
                }
                read_head(&mut stream);
                let length = name.len();
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                drop(stream.write_all(format!("{head}{name}").as_bytes()));
            }
        });
    }

    fn die(&self) {
        self.dead.store(true, SeqCst);
        eventually(|| TcpStream::connect(self.address).is_err());
    }
}

#[test]
fn endpoints_that_fail() {
    for (change_on_failure, persistent) in [(false, false), (false, true), (true, false), (true, true)] {
        let affinity = CookieAffinity { change_on_failure, persistent, ..cookie() };
        let mut mortal = Mortal::new("a");
        let proxy = sticky(&affinity, &[mortal.address, named("b"), named("c")]);
        let http = proxy.http;
        let mut clients = (0..).map(|_| newcomer(http));
        let (_, line) = clients.find(|(name, _)| name == "a").expect("a client of a");
        mortal.die();
        let mut new = None;
        for _ in 0..6 {
            let seen = get(http, "/", &line);
            assert_eq!(seen.status, 200, "somebody else takes it");
            new = new.or_else(|| Some((set_by(&seen)?, String::from_utf8(seen.body).expect("text"))));
        }
        assert_eq!(new.is_some(), change_on_failure, "persistent: {persistent}");
        // A new client does not get there either.
        let (name, fresh) = newcomer(http);
        assert_eq!(word(http, "/", &fresh), name);
        mortal.revive();
        match new {
            Some((cookie, name)) => assert_eq!(word(http, "/", &format!("Cookie: {cookie}\r\n")), name),
            None => eventually(|| word(http, "/", &line) == "a"),
        }
    }
}

#[test]
fn cookies_that_nobody_wrote() {
    let addresses = [named("a"), named("b")];
    let long = "f".repeat(10_000);
    for affinity in [cookie(), persistent()] {
        let proxy = sticky(&affinity, &addresses);
        for value in
            ["", "|", "x", "1|2", "|0", "zz|zz", "a|b|c", "%00|%00", "\"|\"", &long, &format!("{long}|1")]
        {
            let seen = get(proxy.http, "/", &format!("Cookie: INGRESSCOOKIE={value}\r\n"));
            assert_eq!(seen.status, 200, "{value:?}");
            assert!(seen.has("set-cookie"), "{value:?}");
        }
        // The right cluster with an endpoint that never was.
        let (_, line) = newcomer(proxy.http);
        let cluster = line.split(['|', ';']).nth(2).expect("a token");
        let seen = get(proxy.http, "/", &format!("Cookie: INGRESSCOOKIE=12ab|{cluster}\r\n"));
        assert_eq!((seen.status, seen.has("set-cookie")), (200, affinity.persistent));
    }
}
