//! Requests that come back: a Service whose endpoint is this node, or another node whose Service names this
//! one, or a name that resolves to a load balancer before them. Without an end to it a single request would
//! use up every connection there is.
//!
//! Every request says in `X-Sluice-Hops` how often it has been sent on, and is answered with 508 when that
//! is too often. That ends loops through any number of nodes, whatever leads back to them. `Via` (RFC 9110
//! section 7.6.3) would do the same, but says by its name what the proxy is, and makes some servers leave
//! out compression.
//!
//! A client may say what it likes: it can only shorten its own way, or have the count begin one hop later.
//! An endpoint can't take back what it was sent, only send something else: a proxy in the loop that drops
//! headers it does not know would hide it, which is true of `Via`, too. Passed-through TLS has no header
//! to count in; there only the node's own addresses are known.

use http::HeaderMap;

/// Says how often a request has been sent on.
pub(super) const NAME: &str = "x-sluice-hops";

/// As often a request may be sent on by Sluice: more than anybody has behind one another.
const MOST: usize = 8;

const COUNTS: [&str; MOST] = ["1", "2", "3", "4", "5", "6", "7", "8"];

/// What a request says that nobody has sent on before.
pub(super) const FIRST: &str = COUNTS[0];

/// What an endpoint is told, by what the request's own headers say. `None`: it may not be sent on.
pub(super) fn next(headers: &HeaderMap) -> Option<&'static str> {
    let said = headers.get_all(NAME).iter().filter_map(|value| value.to_str().ok()?.parse::<usize>().ok());
    COUNTS.get(said.max().unwrap_or(0)).copied()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn counted_up_to_the_most() {
        for (said, expect) in [
            (&[][..], Some("1")),
            (&["0"], Some("1")),
            (&["7"], Some("8")),
            (&["8"], None),
            (&["256"], None),
            (&["-1"], Some("1")),
            (&["much"], Some("1")),
            (&["1", "3"], Some("4")),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(NAME, HeaderValue::from_static(value));
            }
            assert_eq!(next(&headers), expect, "{said:?}");
        }
    }
}
