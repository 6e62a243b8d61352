//! What another server said about requests a moment ago.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, SET_COOKIE};

use super::ask::Answer;

/// Answers that one policy remembers.
const MAX_ANSWERS: usize = 1024;

/// Longest body of an answer that is remembered.
const MAX_BODY: usize = 4096;

/// What another server said about requests a moment ago. All workers share it, so that a client
/// gets the same answer from each.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    answers: Mutex<AHashMap<Key, (Instant, Arc<Answer>)>>,
}

/// What an answer was given to. Whole, not hashed: two clients must never be taken for one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Box<[u8]>);

impl Key {
    pub(super) fn new(url: &str, key: &[u8]) -> Self {
        // A URL has no space in it.
        Self([url.as_bytes(), b" ", key].concat().into())
    }
}

impl Verdicts {
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Answer>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, answer)| Arc::clone(answer))
    }

    /// Remembers an answer for as long as its status says (0 is for all others), as nginx's
    /// `proxy_cache_valid`; not one that is only for this client.
    pub(super) fn put(&self, key: Key, times: &[(u16, Duration)], answer: &Answer) {
        let time = |status| times.iter().find(|(of, _)| *of == status).map(|(_, time)| *time);
        let Some(time) = time(answer.status.as_u16()).or_else(|| time(0)) else { return };
        if time.is_zero() || is_private(answer) || answer.body.len() > MAX_BODY {
            return;
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if answers.len() >= MAX_ANSWERS && !answers.contains_key(&key) {
            answers.retain(|_, (until, _)| *until > now);
            if answers.len() >= MAX_ANSWERS {
                // All are good. Half of them go, by chance: a flood of keys can't aim.
                let coin = RandomState::new();
                answers.retain(|key, _| coin.hash_one(key) & 1 == 0);
            }
        }
        // A slice would keep all alive that was read with it.
        let body = Bytes::copy_from_slice(&answer.body);
        answers.insert(key, (now + time, Arc::new(Answer { body, ..answer.clone() })));
    }
}

fn is_private(answer: &Answer) -> bool {
    let forbids = |value: &http::HeaderValue| {
        let value = value.as_bytes().to_ascii_lowercase();
        [&b"no-store"[..], b"no-cache", b"private"]
            .iter()
            .any(|word| memchr::memmem::find(&value, word).is_some())
    };
    answer.headers.contains_key(SET_COOKIE) || answer.headers.get_all(CACHE_CONTROL).iter().any(forbids)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, http::HeaderValue::from_static(value));
        }
        Answer { status: StatusCode::from_u16(status).expect("a status"), headers: map, body: Bytes::new() }
    }

    #[test]
    fn what_is_remembered() {
        let minute = Duration::from_secs(60);
        for (times, status, headers, kept) in [
            (&[(200, minute)][..], 200, &[][..], true),
            (&[(200, minute)], 401, &[], false),
            (&[(0, minute)], 401, &[], true),
            (&[(401, Duration::ZERO), (0, minute)], 401, &[], false),
            (&[(200, minute)], 200, &[("set-cookie", "a=b")], false),
            (&[(200, minute)], 200, &[("cache-control", "max-age=0, No-Store")], false),
            (&[(200, minute)], 200, &[("cache-control", "max-age=9")], true),
        ] {
            let verdicts = Verdicts::default();
            let key = Key::new("http://a/", b"k");
            verdicts.put(key.clone(), times, &answer(status, headers));
            assert_eq!(verdicts.get(&key).is_some(), kept, "{times:?} {status} {headers:?}");
            assert!(verdicts.get(&Key::new("http://a/", b"other")).is_none());
        }
    }

    #[test]
    fn memory_is_bounded() {
        let verdicts = Verdicts::default();
        for index in 0..MAX_ANSWERS * 4 {
            let key = Key::new("http://a/", index.to_string().as_bytes());
            verdicts.put(key.clone(), &[(0, Duration::from_secs(60))], &answer(200, &[]));
            assert!(verdicts.get(&key).is_some());
            assert!(verdicts.answers.lock().expect("a lock").len() <= MAX_ANSWERS);
        }
    }
}
