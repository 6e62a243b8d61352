//! Which endpoint takes a request, and what happens with its body: over the wire.

#[path = "../support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

mod affinity;
mod bodies;
mod canary;
mod choice;
mod health;
mod mirror;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rig::{Seen, endpoint, say, send};

/// An endpoint that answers with its name.
fn named(name: &'static str) -> SocketAddr {
    endpoint(move |stream| say(stream, name))
}

/// `GET path` for `a.test` with more header lines, each with its line end.
fn get(proxy: SocketAddr, path: &str, headers: &str) -> Seen {
    send(proxy, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{headers}Connection: close\r\n\r\n"))
}

/// The word that came back.
fn word(proxy: SocketAddr, path: &str, headers: &str) -> String {
    let seen = get(proxy, path, headers);
    assert_eq!(seen.status, 200, "{path} {headers}: {}", seen.text());
    String::from_utf8(seen.body).expect("text")
}

/// How often each endpoint answered.
fn count(words: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}
