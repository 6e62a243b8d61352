//! Which requests an Ingress takes, under which path they go on, and where they are sent instead.

use super::{Row, row};

pub fn rows() -> Vec<Row> {
    vec![
        row("use-regex: \"true\"", "? GET /v12/x\n= 200\n> GET /v12/x HTTP/1.1\n? GET /vx\n= 404")
            .path("/v[0-9]+/"),
        row("rewrite-target: /new/$2", "? GET /old/a/b?c=d\n= 200\n> GET /new/a/b?c=d HTTP/1.1")
            .path("/old(/|$)(.*)"),
        row(
            "server-alias: b.test, *.c.test",
            "? GET /\n+ host: b.test\n= 200\n? GET /\n+ host: x.c.test\n= 200",
        ),
        row("app-root: /app", "? GET /\n= 302\n< location: http://a.test/app\n? GET /x\n= 200"),
        row("permanent-redirect: https://new.test", "? GET /x\n= 301\n< location: https://new.test"),
        row(
            "permanent-redirect-code: \"308\"\npermanent-redirect: https://new.test",
            "? GET /x\n= 308\n< location: https://new.test",
        ),
        row(
            "temporal-redirect: https://now.test$request_uri\npermanent-redirect: https://new.test",
            "? GET /x?y\n= 302\n< location: https://now.test/x?y",
        ),
        row(
            "temporal-redirect-code: \"307\"\ntemporal-redirect: https://now.test",
            "? GET /\n= 307\n< location: https://now.test",
        ),
        row(
            "from-to-www-redirect: \"true\"",
            "? GET /x\n+ host: www.a.test\n= 308\n< location: http://a.test*/x",
        ),
        row("ssl-redirect: \"true\"", "? GET /x\n= 308\n< location: https://a.test*/x\n? https GET /\n= 200")
            .tls(),
        row("ssl-redirect: \"false\"", "? GET /x\n= 200").tls().compat(),
        row("force-ssl-redirect: \"true\"", "? GET /x\n= 308\n< location: https://a.test*/x"),
        row("ssl-passthrough: \"true\"", "? https GET /x\n= 200\n@ secure\n> x-sni: a.test")
            .to("secure")
            .tls(),
        row("upstream-vhost: inner.test", "? GET /\n= 200\n> host: inner.test\n> x-forwarded-host: a.test"),
        row(
            "x-forwarded-prefix: /old\nrewrite-target: /$2",
            "? GET /old/x\n= 200\n> GET /x HTTP/1.1\n> x-forwarded-prefix: /old",
        )
        .path("/old(/|$)(.*)"),
        row("server-snippet: |\n  more_set_headers \"X-Server: yes\";", "? GET /\n= 200\n< x-server: yes"),
        row(
            "configuration-snippet: |\n  add_header X-Frame-Options DENY always;\n  proxy_set_header X-Tenant $host;",
            "? GET /\n+ x-reply: 404\n= 404\n< x-frame-options: DENY\n> x-tenant: a.test",
        ),
        row("modsecurity-snippet: |\n  SecRuleEngine On", "? GET /\n= 503"),
    ]
}
