//! Every annotation of ingress-nginx and what becomes of it: the one list that the parser, `sluice
//! check` and the documentation share.

use serde::Serialize;

use Support::{Closes, Differs, Full, Ignored, Refused};

/// One annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Without `nginx.ingress.kubernetes.io/`.
    pub name: &'static str,
    /// What becomes of it.
    pub support: Support,
}

/// What becomes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "support", content = "note", rename_all = "lowercase")]
pub enum Support {
    /// Does what it does in ingress-nginx.
    Full,
    /// Does nearly that; this is the difference, as a sentence.
    Differs(&'static str),
    /// Is ignored, since nothing here needs it or depends on it; why, as a sentence.
    Ignored(&'static str),
    /// Is not followed; what to do instead, as a sentence.
    Refused(&'static str),
    /// Is not followed, and routes with it answer 503 since they would be open without it; what to do
    /// instead, as a sentence.
    Closes(&'static str),
}

/// The annotation of this name, without its prefix.
pub fn entry(name: &str) -> Option<&'static Entry> {
    let at = CATALOGUE.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
    CATALOGUE.get(at)
}

/// Keeps the list to one line for each annotation.
const fn is(name: &'static str, support: Support) -> Entry {
    Entry { name, support }
}

const GLOBAL_LIMIT: Support =
    Refused("Limits are kept on each node; use limit-rps or limit-rpm with the share of one node.");
const KEEPALIVE: Support = Ignored("Connections to the authentication server are always kept and shared.");
const FASTCGI: Support = Refused("FastCGI is not spoken; put an HTTP server in front of the application.");
const INFLUXDB: Support = Ignored("ingress-nginx itself dropped it; request metrics are at /metrics.");
const TRACING: Support =
    Ignored("Valid trace headers go on to endpoints; spans are sent for all of a node (--otlp-endpoint).");
const REMOVED_AFFINITY: Support = Ignored("ingress-nginx itself dropped it; the cookie has its own format.");
const RUST_REGEX: &str = "Regular expressions are Rust's: no look-around, no back-references.";
const WAF: Support = Refused("There is no web application firewall; put one between Sluice and the Service.");

const OF_SERVICE: Support =
    Refused("It belongs to the Service, whoever names that: annotate it with sluice.dev/ and this name.");

/// Sorted by name.
pub const CATALOGUE: &[Entry] = &[
    is("add-base-url", Refused("ingress-nginx itself dropped it; let the application write its own links.")),
    is("affinity", Full),
    is("affinity-canary-behavior", Full),
    is("affinity-mode", Full),
    is("allowlist-source-range", Full),
    is("app-root", Full),
    is("auth-always-set-cookie", Full),
    is("auth-cache-duration", Full),
    is(
        "auth-cache-key",
        Differs("Only variables that are known here, and at most 1024 answers for each policy."),
    ),
    is("auth-keepalive", KEEPALIVE),
    is("auth-keepalive-requests", KEEPALIVE),
    is("auth-keepalive-share-vars", Ignored("There are no nginx variables to share.")),
    is("auth-keepalive-timeout", KEEPALIVE),
    is("auth-method", Full),
    is("auth-proxy-set-headers", Differs("The ConfigMap must be in the Ingress's namespace by default.")),
    is("auth-realm", Full),
    is("auth-request-redirect", Full),
    is("auth-response-headers", Full),
    is(
        "auth-secret",
        Differs("The Secret must be in the Ingress's namespace by default; a bad one gives 503."),
    ),
    is("auth-secret-type", Full),
    is("auth-signin", Full),
    is("auth-signin-redirect-param", Full),
    is(
        "auth-snippet",
        Closes("Only proxy_set_header is understood; anything else needs auth-url's typed annotations."),
    ),
    is("auth-tls-error-page", Full),
    is("auth-tls-match-cn", Differs("Is compared with the common name alone, from its begin.")),
    is("auth-tls-pass-certificate-to-upstream", Full),
    is("auth-tls-secret", Differs("The Secret must be in the Ingress's namespace by default.")),
    is(
        "auth-tls-verify-client",
        Differs("optional_no_ca takes certificates of unknown authorities, and endpoints must check them."),
    ),
    is("auth-tls-verify-depth", Full),
    is("auth-type", Differs("Only basic; digest depends on MD5 and gives 503.")),
    is(
        "auth-url",
        Differs(
            "Only variables that are known here, and none that clients choose as its host: $host takes a rule with one.",
        ),
    ),
    is("backend-protocol", Differs("FCGI is not spoken.")),
    is(
        "base-url-scheme",
        Refused("ingress-nginx itself dropped it; let the application write its own links."),
    ),
    is("canary", Full),
    is("canary-by-cookie", Full),
    is("canary-by-header", Full),
    is("canary-by-header-pattern", Differs(RUST_REGEX)),
    is("canary-by-header-value", Full),
    is("canary-weight", Full),
    is("canary-weight-total", Full),
    is(
        "client-body-buffer-size",
        Ignored("Bodies are streamed; what is held of them is bounded for each node."),
    ),
    is(
        "configuration-snippet",
        Differs(
            "Headers, return, simple rewrites, limits, timeouts, allow and deny are understood; all else is \
             reported, and gives 503 where it restricts access.",
        ),
    ),
    is("connection-proxy-header", Full),
    is("cors-allow-credentials", Full),
    is("cors-allow-headers", Full),
    is("cors-allow-methods", Full),
    is("cors-allow-origin", Full),
    is("cors-expose-headers", Full),
    is("cors-max-age", Full),
    is(
        "custom-headers",
        Differs("The ConfigMap needs no list of allowed headers; names and values are checked."),
    ),
    is("custom-http-errors", Full),
    is("default-backend", Full),
    is("denylist-source-range", Full),
    is("disable-proxy-intercept-errors", Full),
    is("eject-after", OF_SERVICE),
    is("eject-max-percent", OF_SERVICE),
    is("eject-time", OF_SERVICE),
    is("enable-access-log", Full),
    is("enable-cors", Full),
    is("enable-global-auth", Full),
    is("enable-influxdb", INFLUXDB),
    is("enable-modsecurity", WAF),
    is("enable-opentelemetry", TRACING),
    is("enable-opentracing", TRACING),
    is("enable-owasp-core-rules", WAF),
    is("enable-rewrite-log", Ignored("`sluice explain` shows how a request is rewritten.")),
    is("fastcgi-index", FASTCGI),
    is("fastcgi-params-configmap", FASTCGI),
    is("force-ssl-redirect", Full),
    is("from-to-www-redirect", Full),
    is("global-rate-limit", GLOBAL_LIMIT),
    is("global-rate-limit-ignored-cidrs", GLOBAL_LIMIT),
    is("global-rate-limit-key", GLOBAL_LIMIT),
    is("global-rate-limit-window", GLOBAL_LIMIT),
    is("grpc-backend", Refused("ingress-nginx itself dropped it; use backend-protocol: GRPC.")),
    is("health-check", OF_SERVICE),
    is("health-check-healthy-threshold", OF_SERVICE),
    is("health-check-host", OF_SERVICE),
    is("health-check-interval", OF_SERVICE),
    is("health-check-path", OF_SERVICE),
    is("health-check-port", OF_SERVICE),
    is("health-check-status", OF_SERVICE),
    is("health-check-timeout", OF_SERVICE),
    is("health-check-unhealthy-threshold", OF_SERVICE),
    is("http2-push-preload", Ignored("Browsers no longer take HTTP/2 pushes.")),
    is("influxdb-host", INFLUXDB),
    is("influxdb-measurement", INFLUXDB),
    is("influxdb-port", INFLUXDB),
    is("influxdb-server-name", INFLUXDB),
    is("limit-allowlist", Full),
    is("limit-burst-multiplier", Full),
    is("limit-connections", Differs("Counts requests being served, as nginx does for HTTP/2, on each node.")),
    is("limit-rate", Full),
    is("limit-rate-after", Full),
    is("limit-rpm", Full),
    is("limit-rps", Full),
    is("limit-whitelist", Full),
    is(
        "load-balance",
        Differs("round_robin and ewma, besides least_request; ip_hash is a hash of the client's address."),
    ),
    is("max-connections", OF_SERVICE),
    is("max-connections-per-endpoint", OF_SERVICE),
    is("max-pending", OF_SERVICE),
    is("max-retries", OF_SERVICE),
    is("mirror-host", Full),
    is("mirror-request-body", Full),
    is("mirror-target", Differs("A mirror that is slow misses requests rather than slow the others down.")),
    is("modsecurity-snippet", Closes("Rules can't be followed; those that only detect are ignored.")),
    is("modsecurity-transaction-id", WAF),
    is("opentelemetry-operation-name", TRACING),
    is("opentelemetry-trust-incoming-span", TRACING),
    is("opentracing-trust-incoming-span", TRACING),
    is("permanent-redirect", Full),
    is("permanent-redirect-code", Full),
    is("port-in-redirect", Refused("ingress-nginx itself dropped it; redirects name no port.")),
    is("preserve-trailing-slash", Ignored("Redirects to https always keep the path as it is.")),
    is("proxy-body-size", Full),
    is("proxy-buffer-size", Differs("Limits the head of answers only where it is given.")),
    is("proxy-buffering", Full),
    is("proxy-buffers-number", Full),
    is("proxy-busy-buffers-size", Ignored("What is read ahead is sent as soon as the client takes it.")),
    is("proxy-connect-timeout", Full),
    is("proxy-cookie-domain", Differs(RUST_REGEX)),
    is("proxy-cookie-path", Differs(RUST_REGEX)),
    is("proxy-http-version", Full),
    is("proxy-max-temp-file-size", Ignored("Nothing is written to disk.")),
    is("proxy-next-upstream", Full),
    is("proxy-next-upstream-timeout", Full),
    is("proxy-next-upstream-tries", Full),
    is("proxy-read-timeout", Full),
    is("proxy-redirect-from", Differs(RUST_REGEX)),
    is("proxy-redirect-to", Full),
    is(
        "proxy-request-buffering",
        Differs("Bodies are held in memory within a bound, and streamed beyond it."),
    ),
    is("proxy-send-timeout", Full),
    is("proxy-ssl-ciphers", Ignored("Only the strong suites of TLS 1.2 and 1.3 are there.")),
    is("proxy-ssl-name", Full),
    is("proxy-ssl-protocols", Ignored("TLS 1.2 and 1.3 are spoken, the better of what the endpoint offers.")),
    is("proxy-ssl-secret", Differs("The Secret must be in the Ingress's namespace by default.")),
    is("proxy-ssl-server-name", Full),
    is("proxy-ssl-verify", Full),
    is("proxy-ssl-verify-depth", Full),
    is("relative-redirects", Refused("Redirects are absolute; clients take both.")),
    is(
        "rewrite-target",
        Differs("Regular expressions are Rust's, and the rewritten path is normalised once more."),
    ),
    is("satisfy", Full),
    is("secure-backends", Refused("ingress-nginx itself dropped it; use backend-protocol: HTTPS.")),
    is("secure-verify-ca-secret", Refused("ingress-nginx itself dropped it; use proxy-ssl-secret.")),
    is(
        "server-alias",
        Differs(
            "Names, wildcards of one label, and regular expressions that stand for up to 256 names or for one label: others are refused.",
        ),
    ),
    is(
        "server-snippet",
        Differs(
            "As configuration-snippet, for all routes of the host from Ingresses of the same namespace; location \
             blocks are not followed.",
        ),
    ),
    is("service-upstream", Full),
    is("session-cookie-change-on-failure", Full),
    is("session-cookie-conditional-samesite-none", Full),
    is("session-cookie-domain", Full),
    is("session-cookie-expires", Full),
    is("session-cookie-hash", REMOVED_AFFINITY),
    is("session-cookie-max-age", Full),
    is("session-cookie-name", Full),
    is(
        "session-cookie-partitioned",
        Refused("The cookie has no Partitioned attribute; leave cookies first-party."),
    ),
    is("session-cookie-path", Full),
    is("session-cookie-samesite", Full),
    is("session-cookie-secure", Full),
    is("slow-start", OF_SERVICE),
    is("ssl-ciphers", Ignored("Only the strong suites of TLS 1.2 and 1.3 are there.")),
    is("ssl-passthrough", Full),
    is("ssl-prefer-server-ciphers", Ignored("All suites are strong; the client's preference is as good.")),
    is("ssl-redirect", Full),
    is("stream-snippet", Refused("TCP and UDP ports are Services of type LoadBalancer, not snippets.")),
    is("temporal-redirect", Full),
    is("temporal-redirect-code", Full),
    is(
        "upstream-hash-by",
        Differs("Only variables that are known here; keys move to other endpoints than they had in nginx."),
    ),
    is("upstream-hash-by-subset", Full),
    is("upstream-hash-by-subset-size", Full),
    is("upstream-proxy-protocol", Full),
    is("upstream-vhost", Full),
    is(
        "use-port-in-redirects",
        Refused("Redirects to https name their port where it is not 443, others name none."),
    ),
    is("use-regex", Differs(RUST_REGEX)),
    is("whitelist-source-range", Full),
    is("x-forwarded-prefix", Full),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_in_sentences() {
        assert!(CATALOGUE.is_sorted_by(|a, b| a.name < b.name), "binary search needs it");
        for Entry { name, support } in CATALOGUE {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
            if let Differs(note) | Ignored(note) | Refused(note) | Closes(note) = support {
                assert!(note.ends_with('.') && note.len() > 10, "{name}: {note}");
            }
        }
    }

    #[test]
    fn names() {
        for (name, expect) in [
            ("ssl-redirect", true),
            ("add-base-url", true),
            ("x-forwarded-prefix", true),
            ("", false),
            ("auth", false),
        ] {
            assert_eq!(entry(name).map(|entry| entry.name), expect.then_some(name), "{name}");
        }
    }
}
