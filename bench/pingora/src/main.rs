//! A proxy built with Pingora, as its documentation shows how, for `cargo xtask bench l7`.
//!
//! `pingora HTTP_PORT HTTPS_PORT CERTIFICATE KEY ROUTES ENDPOINT…`: ROUTES is a file with a host and a
//! path's prefix on each line, ENDPOINTs are addresses with ports. One worker thread.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::lb::LoadBalancer;
use pingora::lb::selection::RoundRobin;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

/// As many kept connections to endpoints as the other proxies of the benchmark may have.
const KEPT: usize = 1024;

/// Endpoints by host and prefix.
#[derive(Clone)]
struct Proxy {
    routes: Arc<HashMap<String, (String, LoadBalancer<RoundRobin>)>>,
    tls: bool,
}

/// The host that a client names.
fn host(session: &Session) -> Option<&str> {
    let head = session.req_header();
    let named = head.uri.authority().map(|authority| authority.as_str());
    let named = named.or_else(|| head.headers.get("host")?.to_str().ok())?;
    Some(named.rsplit_once(':').map_or(named, |(host, _)| host))
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, session: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let path = session.req_header().uri.path();
        let endpoint = host(session)
            .and_then(|host| self.routes.get(host))
            .filter(|(prefix, _)| path.starts_with(prefix.as_str()))
            .ok_or_else(|| Error::new(ErrorType::HTTPStatus(404)))?
            .1
            .select(b"", 8)
            .ok_or_else(|| Error::new(ErrorType::HTTPStatus(503)))?;
        Ok(Box::new(HttpPeer::new(endpoint, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        let named = host(session).unwrap_or_default().to_owned();
        let client = session.client_addr().and_then(|address| address.as_inet());
        let client = client.map(|address| address.ip().to_string()).unwrap_or_default();
        request.insert_header("Host", named.as_str())?;
        request.insert_header("X-Real-IP", client.as_str())?;
        request.insert_header("X-Forwarded-For", client.as_str())?;
        request.insert_header("X-Forwarded-Host", named)?;
        request.insert_header("X-Forwarded-Proto", if self.tls { "https" } else { "http" })
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--version"] {
        println!("pingora {}", env!("CARGO_PKG_VERSION"));
        return;
    }
    let [http, https, certificate, key, routes, endpoints @ ..] = arguments.as_slice() else {
        panic!("pingora HTTP_PORT HTTPS_PORT CERTIFICATE KEY ROUTES ENDPOINT…");
    };
    let text = std::fs::read_to_string(routes).expect("the routes can be read");
    let routes = text.lines().filter_map(|line| {
        let (host, prefix) = line.split_once(' ')?;
        let balancer = LoadBalancer::try_from_iter(endpoints).expect("addresses with ports");
        Some((host.to_owned(), (prefix.to_owned(), balancer)))
    });
    let routes = Arc::new(routes.collect());

    let configuration =
        ServerConf { threads: 1, upstream_keepalive_pool_size: KEPT, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let proxy = |tls| Proxy { routes: Arc::clone(&routes), tls };
    let mut plain = http_proxy_service(&server.configuration, proxy(false));
    plain.add_tcp(&format!("127.0.0.1:{http}"));
    let mut secure = http_proxy_service(&server.configuration, proxy(true));
    let mut tls = TlsSettings::intermediate(certificate, key).expect("a certificate and its key");
    tls.enable_h2();
    secure.add_tls_with_settings(&format!("127.0.0.1:{https}"), None, tls);
    server.add_service(plain);
    server.add_service(secure);
    server.run_forever();
}
