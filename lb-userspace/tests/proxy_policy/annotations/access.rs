//! Who gets in.

use super::world::{config_map, secret};
use super::{Row, row};

/// `alice` with the password `secret`, as an htpasswd file has it.
const ALICE: &str = "auth: \"alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\"";
const PASSWORDS: &str = "auth-secret: users\nauth-type: basic\n";
const ASK: &str = "auth-url: http://127.0.0.1:PORT(auth)/";

/// The annotation first, then those of a password.
fn with_password(annotation: &str, script: &'static str) -> Row {
    row(&format!("{annotation}\n{PASSWORDS}"), script).also(&secret("users", ALICE))
}

/// The annotation first, then a question that is answered with this status.
fn asking(annotation: &str, status: &str, script: &'static str) -> Row {
    row(&format!("{annotation}\n{ASK}{status}"), script)
}

/// The annotation first, then those that ask for a certificate of `ca`.
fn with_certificate(annotation: &str, script: &'static str) -> Row {
    row(&format!("{annotation}\nauth-tls-secret: ca"), script).tls().also(&secret("ca", "ca.crt: CA(ca)"))
}

pub fn rows() -> Vec<Row> {
    [networks(), passwords(), questions(), certificates()].concat()
}

fn networks() -> Vec<Row> {
    let only = "? GET /\n= 403\n? GET /\n+ x-forwarded-for: 10.1.2.3\n= 200";
    vec![
        row("allowlist-source-range: 10.0.0.0/8", only),
        row("whitelist-source-range: 10.0.0.0/8", only),
        row(
            "denylist-source-range: 10.0.0.0/8",
            "? GET /\n= 200\n? GET /\n+ x-forwarded-for: 10.1.2.3\n= 403",
        ),
        with_password(
            "satisfy: any\nallowlist-source-range: 10.0.0.0/8",
            "? GET /\n+ x-forwarded-for: 10.1.2.3\n= 200\n? GET /\n= 401\n\
             ? GET /\n+ authorization: Basic YWxpY2U6c2VjcmV0\n= 200",
        ),
    ]
}

fn passwords() -> Vec<Row> {
    let asks = "? GET /\n= 401\n? GET /\n+ authorization: Basic YWxpY2U6c2VjcmV0\n= 200\n> !authorization\n\
                ? GET /\n+ authorization: Basic YWxpY2U6d3Jvbmc=\n= 401";
    vec![
        row("auth-type: basic\nauth-secret: users", asks).also(&secret("users", ALICE)),
        row("auth-secret: users\nauth-type: basic", asks).also(&secret("users", ALICE)),
        row("auth-secret-type: auth-map\nauth-type: basic\nauth-secret: users", asks)
            .also(&secret("users", &ALICE.replace("auth: \"alice:", "alice: \""))),
        with_password(
            "auth-realm: Staff only",
            "? GET /\n= 401\n< www-authenticate: Basic realm=\"Staff only\"*",
        ),
    ]
}

fn questions() -> Vec<Row> {
    vec![
        row(
            &format!("{ASK}401"),
            "? GET /x\n= 401\nauth> GET /401 HTTP/1.1\nauth> x-original-uri: /x\nweb x 0",
        ),
        asking("auth-method: HEAD", "200", "? GET /\n= 200\nauth> HEAD /200 HTTP/1.1"),
        asking(
            "auth-signin: https://in.test/",
            "401",
            "? GET /x\n= 302\n< location: https://in.test/?rd=http://a.test*x",
        ),
        asking(
            "auth-signin-redirect-param: back\nauth-signin: https://in.test/",
            "401",
            "? GET /x\n= 302\n< location: https://in.test/?back=http://a.test*x",
        ),
        asking("auth-response-headers: X-User", "200", "? GET /\n+ x-user: mallory\n= 200\n> x-user: alice"),
        asking(
            "auth-request-redirect: https://a.test/back",
            "200",
            "? GET /x\n= 200\nauth> x-auth-request-redirect: https://a.test/back",
        ),
        asking(
            "auth-always-set-cookie: \"true\"",
            "200",
            "? GET /\n+ x-reply: 404\n= 404\n< set-cookie: seen=1",
        ),
        asking(
            "auth-snippet: |\n  proxy_set_header X-Extra yes;",
            "200",
            "? GET /\n= 200\nauth> x-extra: yes",
        ),
        asking("auth-snippet: |\n  if ($x) { return 200; }", "200", "? GET /\n= 503"),
        asking("auth-proxy-set-headers: more", "200", "? GET /\n= 200\nauth> x-more: a.test")
            .also(&config_map("more", "X-More: $host")),
        asking(
            "auth-cache-key: $cookie_who",
            "200/kept",
            "? 3 x GET /\n+ cookie: who=a\n= 200\nauth x 1\n? GET /\n+ cookie: who=b\n= 200\nauth x 2",
        ),
        asking(
            "auth-cache-duration: 401 5m\nauth-cache-key: $cookie_who",
            "200/kept",
            "? 3 x GET /\n+ cookie: who=a\n= 200\nauth x 3",
        ),
        row("enable-global-auth: \"false\"", "? GET /\n= 200\nauth x 0")
            .settings("global-auth-url: http://127.0.0.1:PORT(auth)/401"),
    ]
}

fn certificates() -> Vec<Row> {
    vec![
        row("auth-tls-secret: ca", "? https GET /\n= 400\n? https:alice GET /\n= 200\n? GET /\n= 400")
            .tls()
            .also(&secret("ca", "ca.crt: CA(ca)")),
        with_certificate(
            "auth-tls-verify-client: optional",
            "? https GET /\n= 200\n> ssl-client-verify: NONE\n? https:alice GET /\n= 200\n> ssl-client-verify: SUCCESS",
        ),
        with_certificate("auth-tls-verify-depth: \"2\"", "? https:deep GET /\n= 200"),
        with_certificate(
            "auth-tls-pass-certificate-to-upstream: \"true\"",
            "? https:alice GET /\n= 200\n> ssl-client-cert: *BEGIN*",
        ),
        with_certificate(
            "auth-tls-error-page: https://a.test/why",
            "? https GET /\n= 302\n< location: https://a.test/why\n? https:alice GET /\n= 200",
        ),
        with_certificate("auth-tls-match-cn: CN=bob", "? https:alice GET /\n= 403"),
    ]
}
