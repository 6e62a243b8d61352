//! Which endpoint, and whom a client stays with.

use super::{Row, probe, probes, row};

/// The annotation first, then those of a cookie, before three endpoints.
fn sticky(annotation: &str, script: &'static str) -> Row {
    row(&format!("{annotation}\naffinity: cookie"), script).to("three")
}

/// The annotation first, then that of a canary.
fn canary(annotation: &str, script: &'static str) -> Row {
    row(&format!("{annotation}\ncanary: \"true\""), script).canary()
}

pub fn rows() -> Vec<Row> {
    [cookies(), canaries(), keys()].concat()
}

fn cookies() -> Vec<Row> {
    let old = "? GET /\n+ user-agent: Chrome/60.0\n= 200\n< set-cookie: INGRESSCOOKIE=*; HttpOnly";
    vec![
        row(
            "affinity: cookie",
            "? GET /\n= 200\n< set-cookie: INGRESSCOOKIE=*; Path=/; HttpOnly\n? 12 x GET /\n+ jar\n= 200\n@ same",
        )
        .to("three"),
        probe("affinity-mode: persistent\naffinity: cookie", probes::names_who_is_gone).to("three"),
        // Who has the stable one's cookie goes to the canary when the header says so.
        row(
            "affinity-canary-behavior: legacy\naffinity: cookie",
            "? GET /\n= 200\n@ web\n? GET /\n+ jar\n+ x-next: always\n= 200\n@ other",
        )
        .also(&super::world::canary("canary-by-header: X-Next")),
        sticky("session-cookie-name: stay", "? GET /\n= 200\n< set-cookie: stay=*"),
        sticky("session-cookie-path: /shop", "? GET /\n= 200\n< set-cookie: *; Path=/shop; *"),
        sticky("session-cookie-domain: a.test", "? GET /\n= 200\n< set-cookie: *; Domain=a.test; *"),
        sticky("session-cookie-max-age: \"60\"", "? GET /\n= 200\n< set-cookie: *; Max-Age=60; *"),
        sticky("session-cookie-expires: \"60\"", "? GET /\n= 200\n< set-cookie: *; Expires=* GMT; *"),
        sticky("session-cookie-samesite: Lax", "? GET /\n= 200\n< set-cookie: *; SameSite=Lax"),
        sticky("session-cookie-secure: \"true\"", "? GET /\n= 200\n< set-cookie: *; Secure; *"),
        sticky("session-cookie-conditional-samesite-none: \"true\"\nsession-cookie-samesite: None", old),
        sticky(
            "session-cookie-change-on-failure: \"true\"\nproxy-next-upstream: http_503",
            "? GET /\n= 200\n? GET /\n+ jar\n+ x-reply: once | 503\n= 200\n< set-cookie: INGRESSCOOKIE=*",
        ),
    ]
}

fn canaries() -> Vec<Row> {
    vec![
        row("canary: \"true\"\ncanary-weight: \"100\"", "? 3 x GET /\n= 200\n@ other").canary(),
        canary("canary-weight: \"100\"", "? 3 x GET /\n= 200\n@ other"),
        canary("canary-weight-total: \"10\"\ncanary-weight: \"10\"", "? 30 x GET /\n= 200\n@ other"),
        canary(
            "canary-by-header: X-Next",
            "? GET /\n+ x-next: always\n= 200\n@ other\n? GET /\n= 200\n@ web",
        ),
        canary(
            "canary-by-header-value: \"yes\"\ncanary-by-header: X-Next",
            "? GET /\n+ x-next: yes\n= 200\n@ other\n? GET /\n+ x-next: always\n= 200\n@ web",
        ),
        canary(
            "canary-by-header-pattern: ^v[2-9]\ncanary-by-header: X-Next",
            "? GET /\n+ x-next: v3\n= 200\n@ other\n? GET /\n+ x-next: v1\n= 200\n@ web",
        ),
        canary(
            "canary-by-cookie: next",
            "? GET /\n+ cookie: next=always\n= 200\n@ other\n? GET /\n= 200\n@ web",
        ),
    ]
}

fn keys() -> Vec<Row> {
    let hashed = "upstream-hash-by: $arg_key";
    vec![
        row("load-balance: ip_hash", "? 15 x GET /\n= 200\n@ same").to("three"),
        row(hashed, "? 15 x GET /?key=a\n= 200\n@ same").to("three"),
        row(
            &format!("upstream-hash-by-subset: \"true\"\n{hashed}"),
            "? 90 x GET /?key=a\n= 200\n@ 3 of them",
        )
        .to("five"),
        row(
            &format!("upstream-hash-by-subset-size: \"2\"\nupstream-hash-by-subset: \"true\"\n{hashed}"),
            "? 90 x GET /?key=a\n= 200\n@ 2 of them",
        )
        .to("five"),
    ]
}
