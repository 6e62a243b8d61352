//! How often, how much and how large.

use super::{Row, probe, probes, row};

pub fn rows() -> Vec<Row> {
    let exempt = "? 9 x GET /\n= 200";
    vec![
        row("limit-rps: \"1\"\nlimit-burst-multiplier: \"1\"", "? 60 x GET /\nsome 200\nsome 503"),
        row(
            "limit-rpm: \"1\"",
            "? 9 x GET /\nsome 200\nsome 503\n? GET /\n+ x-forwarded-for: 10.0.0.1\n= 200",
        ),
        // Six at once, where it is not said: five times the rate, and one.
        row("limit-burst-multiplier: \"1\"\nlimit-rpm: \"1\"", "? 5 x GET /\nsome 200\nsome 503"),
        row("limit-connections: \"1\"", "? hold GET /\n+ x-reply: hold\n? GET /\n= 503"),
        row("limit-allowlist: 127.0.0.0/8\nlimit-rpm: \"1\"", exempt),
        row("limit-whitelist: 127.0.0.0/8\nlimit-rpm: \"1\"", exempt),
        probe("limit-rate: \"1\"", probes::takes_its_time),
        probe("limit-rate-after: \"100\"\nlimit-rate: \"1\"", probes::comes_at_once),
        row("proxy-body-size: \"4\"", "? POST / four\n= 200\n> four\n? POST / fives\n= 413\nweb x 1"),
        row("proxy-buffer-size: \"512\"", "? GET /\n+ x-reply: pad 600\n= 502\n? GET /\n= 200"),
        probe(
            "proxy-buffering: \"on\"\nproxy-buffers-number: \"4096\"\nproxy-buffer-size: 64k",
            probes::endpoint_is_free,
        ),
        probe(
            "proxy-buffers-number: \"4096\"\nproxy-buffering: \"on\"\nproxy-buffer-size: 64k",
            probes::endpoint_is_free,
        ),
        probe("proxy-request-buffering: \"off\"", probes::endpoint_sees_it_begin).compat(),
    ]
}
