//! What routes ask of the proxy, over real loopback sockets: one module for each policy.

#[path = "../support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

#[path = "../proxy_upstream/endpoints.rs"]
#[allow(dead_code, reason = "another target uses the rest")]
mod endpoints;
#[path = "../proxy_upstream/pki.rs"]
#[allow(dead_code, reason = "another target uses the rest")]
mod pki;

mod access;
mod annotations;
mod basic;
mod certificate;
mod cors;
mod errors;
mod external;
mod h2;
mod headers;
mod limits;
mod redirects;

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rig::{Draft, Rig, Running, Seen, echo, endpoint, send};
use sluice::model::{RoutePolicy, Template};

/// A proxy with `a.test`, whose policy is described here, before an endpoint that echoes.
fn single(describe: impl FnOnce(&mut RoutePolicy)) -> Running {
    several(|rig| rig.route_with("a.test", "/", "web", |draft: &mut Draft| describe(&mut draft.policy)))
}

/// A proxy with the cluster `web`, whose endpoint echoes, and these routes. Connections from
/// loopback are trusted proxies': tests name the client in `X-Forwarded-For`.
fn several(describe: impl FnOnce(&mut Rig)) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    describe(&mut rig);
    rig.start(|settings| settings.trusted_proxies = nets(&["127.0.0.0/8"]).to_vec())
}

/// `GET path` of `a.test` with these header lines.
fn get(address: SocketAddr, path: &str, headers: &str) -> Seen {
    request(address, "GET", path, headers)
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> Seen {
    let text = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n");
    let mut stream = rig::connect(address);
    std::io::Write::write_all(&mut stream, text.as_bytes()).expect("sent");
    rig::read_response(&mut stream, method == "HEAD").unwrap_or_else(|| panic!("no answer to {text:?}"))
}

fn nets(list: &[&str]) -> Arc<[IpNet]> {
    list.iter().map(|net| net.parse().expect("a net")).collect()
}

fn template(text: &str) -> Template {
    Template::parse(text).expect("a template")
}

fn from(client: &str) -> String {
    format!("X-Forwarded-For: {client}\r\n")
}

/// A request as it stands, on a connection of its own.
fn raw(address: SocketAddr, request: &str) -> Seen {
    send(address, request)
}
