//! Requests whose endpoint is the node itself. They come back to the proxy, which is fine where another
//! route takes them there, and would go on for ever where it is the same one: a single request would use up
//! every connection there is.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::policy::Edits;

const HOPS: HeaderName = HeaderName::from_static("x-sluice-hops");
/// As often a request may come back: more than anybody has routes behind one another.
const MOST: u8 = 8;

/// Counts one more way to the node itself, in what the endpoint gets. Returns whether the request may
/// go there; what a client says of it can only cost that client its own way.
pub(super) fn count(theirs: &HeaderMap, edits: &mut Edits) -> bool {
    let said = theirs.get_all(HOPS).iter().filter_map(|value| value.to_str().ok()?.parse::<u8>().ok());
    let hops = said.max().unwrap_or(0);
    if hops >= MOST {
        return false;
    }
    edits.set(&HOPS, HeaderValue::from(u16::from(hops) + 1));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_up_to_the_most() {
        for (said, expect) in [
            (&[][..], Some("1")),
            (&["0"], Some("1")),
            (&["7"], Some("8")),
            (&["8"], None),
            (&["255"], None),
            (&["256"], Some("1")),
            (&["much"], Some("1")),
            (&["1", "3"], Some("4")),
        ] {
            let mut theirs = HeaderMap::new();
            for value in said {
                theirs.append(HOPS, HeaderValue::from_static(value));
            }
            let mut edits = Edits::default();
            assert_eq!(count(&theirs, &mut edits), expect.is_some(), "{said:?}");
            edits.apply(&mut theirs);
            let told = theirs.get(HOPS).filter(|_| expect.is_some());
            assert_eq!(told.map(|value| value.to_str().expect("text")), expect, "{said:?}");
        }
    }
}
