//! What becomes of answers, and of copies of requests.

use super::world::config_map;
use super::{Row, probe, probes, row};

/// The annotation first, then that which turns CORS on.
fn cors(annotation: &str, script: &'static str) -> Row {
    row(&format!("{annotation}\nenable-cors: \"true\""), script)
}

pub fn rows() -> Vec<Row> {
    [origins(), headers(), pages(), copies()].concat()
}

fn origins() -> Vec<Row> {
    vec![
        row(
            "enable-cors: \"true\"",
            "? GET /\n+ origin: https://b.test\n= 200\n< access-control-allow-origin: *\n\
             ? OPTIONS /\n+ origin: https://b.test\n+ access-control-request-method: GET\n= 204\nweb x 1",
        ),
        cors(
            "cors-allow-origin: https://b.test",
            "? GET /\n+ origin: https://b.test\n= 200\n< access-control-allow-origin: https://b.test\n\
             ? GET /\n+ origin: https://c.test\n= 200\n< !access-control-allow-origin",
        ),
        cors(
            "cors-allow-methods: GET, PURGE",
            "? GET /\n+ origin: https://b.test\n< access-control-allow-methods: GET, PURGE",
        ),
        cors(
            "cors-allow-headers: X-A, X-B",
            "? GET /\n+ origin: https://b.test\n< access-control-allow-headers: X-A, X-B",
        ),
        cors(
            "cors-expose-headers: X-C",
            "? GET /\n+ origin: https://b.test\n< access-control-expose-headers: X-C",
        ),
        cors(
            "cors-allow-credentials: \"false\"",
            "? GET /\n+ origin: https://b.test\n< !access-control-allow-credentials",
        ),
        cors(
            "cors-max-age: \"60\"",
            "? OPTIONS /\n+ origin: https://b.test\n+ access-control-request-method: GET\n= 204\n< access-control-max-age: 60",
        ),
    ]
}

fn headers() -> Vec<Row> {
    vec![
        row("custom-headers: more", "? GET /\n= 200\n< x-team: blue")
            .also(&config_map("more", "X-Team: blue")),
        row(
            "proxy-cookie-domain: inner.test a.test",
            "? GET /\n+ x-reply: Set-Cookie: a=b; Domain=inner.test\n= 200\n< set-cookie: a=b; Domain=a.test",
        ),
        row(
            "proxy-cookie-domain: ~^(.+)\\.inner\\.test$ $1.a.test",
            "? GET /\n+ x-reply: Set-Cookie: a=b; Domain=x.inner.test\n= 200\n< set-cookie: a=b; Domain=x.a.test",
        ),
        row(
            "proxy-cookie-path: /app /",
            "? GET /\n+ x-reply: Set-Cookie: a=b; Path=/app\n= 200\n< set-cookie: a=b; Path=/",
        ),
        row(
            "proxy-cookie-path: ~*^/app/([0-9]+)/ /v$1/",
            "? GET /\n+ x-reply: Set-Cookie: a=b; Path=/APP/7/x\n= 200\n< set-cookie: a=b; Path=/v7/",
        ),
        row(
            "proxy-redirect-from: http://inner.test/\nproxy-redirect-to: https://a.test/",
            "? GET /\n+ x-reply: 302 | Location: http://inner.test/x\n= 302\n< location: https://a.test/x",
        ),
        row(
            "proxy-redirect-to: https://a.test/\nproxy-redirect-from: http://inner.test/",
            "? GET /\n+ x-reply: 302 | Location: http://inner.test/x\n= 302\n< location: https://a.test/x",
        ),
        row(
            "proxy-redirect-from: ~^http://([^.]+)\\.inner\\.test(:[0-9]+)?(/.*)$\nproxy-redirect-to: https://a.test/$1$3",
            "? GET /\n+ x-reply: 302 | Location: http://shop.inner.test:8080/x\n= 302\n< location: https://a.test/shop/x",
        ),
        probe("enable-access-log: \"false\"", probes::has_no_line_in_the_log),
    ]
}

fn pages() -> Vec<Row> {
    let missing = "? GET /x\n+ x-reply: 404\n= 404\n@ errors\n> x-code: 404\n> x-original-uri: /x";
    vec![
        row("custom-http-errors: 404,503\ndefault-backend: errors", missing),
        row("default-backend: errors\ncustom-http-errors: 404,503", missing),
        row("default-backend: errors", "? GET /\n= 503\n@ errors\n> x-code: 503").to("none"),
        row(
            "disable-proxy-intercept-errors: \"true\"\ncustom-http-errors: \"404\"\ndefault-backend: errors",
            "? GET /\n+ x-reply: 404\n= 404\n@ web",
        ),
    ]
}

fn copies() -> Vec<Row> {
    let target = "mirror-target: http://127.0.0.1:PORT(mirror)$request_uri";
    vec![
        row(target, "? POST /x?y hello\n= 200\n@ web\nmirror> POST /x?y HTTP/1.1\nmirror> hello"),
        row(&format!("mirror-host: copy.test\n{target}"), "? GET /x\n= 200\nmirror> host: copy.test"),
        row(
            &format!("mirror-request-body: \"off\"\n{target}"),
            "? POST /x hello\n= 200\n> hello\nmirror> POST /x HTTP/1.1\nmirror> !content-length",
        ),
    ]
}
