//! How endpoints are spoken with.

use super::world::{secret, service};
use super::{Row, row};

/// The annotation first, then what an endpoint behind TLS needs. `ca` vouches for it, by one more
/// authority, as `inner.test`.
fn secure(annotation: &str, authority: &str, script: &'static str) -> Row {
    let data = format!("ca.crt: CA({authority})\n  tls.crt: CERT(alice)\n  tls.key: KEY(alice)");
    row(&format!("{annotation}\nbackend-protocol: HTTPS"), script).to("secure").also(&secret("inside", &data))
}

pub fn rows() -> Vec<Row> {
    let again = "proxy-next-upstream: http_503";
    vec![
        row("backend-protocol: HTTPS", "? GET /\n= 200\n@ secure\n> x-sni: none").to("secure"),
        row("backend-protocol: AUTO_HTTP", "? https GET /\n= 200\n@ secure\n? GET /\n= 502")
            .to("secure")
            .tls(),
        row(
            "backend-protocol: GRPC",
            "? POST /pkg.Service/Call hi\n= 200\n@ grpc\n> POST /pkg.Service/Call HTTP/2",
        )
        .to("grpc"),
        row("service-upstream: \"true\"", "? GET /\n= 200\n@ cluster-ip")
            .to("by-ip")
            .port("PORT(cluster-ip)")
            .also(&by_ip()),
        row("proxy-http-version: \"1.0\"", "? GET /\n= 200\n> GET / HTTP/1.0"),
        row("connection-proxy-header: keep-alive", "? GET /\n= 200\n> connection: keep-alive"),
        row("upstream-proxy-protocol: v1", "? GET /\n= 200\n> PROXY TCP4 127.0.0.1 *"),
        row("proxy-connect-timeout: \"1\"", "? GET /\n= 504").to("stuck").also(&service("stuck", &["stuck"])),
        row("proxy-read-timeout: \"1\"\nproxy-next-upstream: \"off\"", "? GET /\n+ x-reply: hold\n= 504"),
        row(
            "proxy-send-timeout: \"1\"\nproxy-next-upstream: \"off\"",
            "? POST / *20000000\n+ x-reply: deaf\n= 504",
        ),
        row(again, "? GET /\n+ x-reply: once | 503\n= 200").to("three"),
        row("proxy-next-upstream: \"off\"", "? GET /\n+ x-reply: once | close\n= 502").to("three"),
        row(&format!("proxy-next-upstream-tries: \"1\"\n{again}"), "? GET /\n+ x-reply: once | 503\n= 503")
            .to("three"),
        row(
            &format!("proxy-next-upstream-timeout: \"1\"\n{again}"),
            "? GET /\n+ x-reply: once | after 1200 | 503\n= 503",
        )
        .to("three"),
        secure("proxy-ssl-secret: inside", "ca", "? GET /\n= 200\n> x-shown: alice"),
        secure("proxy-ssl-verify: \"on\"\nproxy-ssl-secret: inside", "stranger", "? GET /\n= 502"),
        secure(
            "proxy-ssl-name: inner.test\nproxy-ssl-verify: \"on\"\nproxy-ssl-secret: inside",
            "ca",
            "? GET /\n= 200\n@ secure",
        ),
        secure(
            "proxy-ssl-verify-depth: \"0\"\nproxy-ssl-name: inner.test\nproxy-ssl-verify: \"on\"\nproxy-ssl-secret: inside",
            "ca",
            "? GET /\n= 502",
        ),
        secure("proxy-ssl-server-name: \"on\"", "ca", "? GET /\n= 200\n> x-sni: a.test"),
    ]
}

/// A Service whose ClusterIP answers, and whose endpoint is another one.
fn by_ip() -> String {
    service("by-ip", &["web"])
        .replace("ports: [{ port: 80 }]", "clusterIP: 127.0.0.1, ports: [{ port: PORT(cluster-ip) }]")
}
