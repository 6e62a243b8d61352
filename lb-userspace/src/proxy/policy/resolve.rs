//! Addresses of servers that are known by name. One worker's memory of what DNS said.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};

/// How long an answer of DNS is used. Names of Services rarely change, and the system's resolver
/// does not say how long its answers may be kept.
const TTL: Duration = Duration::from_secs(30);

/// How long after a failure nobody asks again while the last good answer serves.
const REST: Duration = Duration::from_secs(5);

/// Names that are asked about at a time: each takes a thread.
const MAX_PENDING: usize = 16;

/// Names that are remembered. A URL with a variable in its host could make any number.
const MAX_NAMES: usize = 512;

type Addresses = Rc<[IpAddr]>;
type Lookup = Shared<LocalBoxFuture<'static, Result<Addresses, Rc<io::Error>>>>;

/// One worker's memory of what DNS said.
#[derive(Default)]
pub(super) struct Names(Rc<RefCell<AHashMap<Box<str>, Name>>>);

struct Name {
    /// The last good answer; it serves until there is a better one.
    known: Option<Addresses>,
    /// When it has to be asked again.
    stale: Instant,
    /// The question that is being asked.
    pending: Option<Lookup>,
}

impl Names {
    /// The addresses of `host`. Waits for DNS only if it never said any.
    pub(super) async fn resolve(&self, host: &str) -> Result<Addresses, Rc<io::Error>> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Rc::new([address]));
        }
        let lookup = {
            let mut names = self.0.borrow_mut();
            let known = names.get(host);
            let now = Instant::now();
            if let Some(Name { known: Some(addresses), stale, pending }) = known
                && (*stale > now || pending.is_some())
            {
                return Ok(Rc::clone(addresses));
            }
            let waiting = known.and_then(|name| name.pending.clone());
            let lookup = match waiting {
                Some(lookup) => lookup,
                None => {
                    if names.values().filter(|name| name.pending.is_some()).count() >= MAX_PENDING {
                        let busy = io::Error::other("too many names are being resolved");
                        return known.and_then(|name| name.known.clone()).ok_or_else(|| Rc::new(busy));
                    }
                    make_room(&mut names);
                    let lookup = look_up(Rc::clone(&self.0), host.into()).boxed_local().shared();
                    let name = names.entry(host.into());
                    let name = name.or_insert(Name { known: None, stale: now, pending: None });
                    name.pending = Some(lookup.clone());
                    // Goes on although nobody waits: the answer is for those to come.
                    tokio::task::spawn_local(lookup.clone());
                    lookup
                }
            };
            if let Some(addresses) = names.get(host).and_then(|name| name.known.clone()) {
                return Ok(addresses);
            }
            lookup
        };
        lookup.await
    }
}

/// Asks the system's resolver, which runs on a thread beside the worker's.
async fn look_up(
    names: Rc<RefCell<AHashMap<Box<str>, Name>>>,
    host: Box<str>,
) -> Result<Addresses, Rc<io::Error>> {
    let answer = tokio::net::lookup_host((&*host, 0)).await;
    let answer: io::Result<Vec<IpAddr>> = answer.map(|all| all.map(|one: SocketAddr| one.ip()).collect());
    let answer = match answer {
        Ok(addresses) if addresses.is_empty() => Err(io::ErrorKind::NotFound.into()),
        other => other,
    };
    let mut names = names.borrow_mut();
    let now = Instant::now();
    match answer {
        Ok(addresses) => {
            let addresses: Addresses = addresses.into();
            let known = Some(Rc::clone(&addresses));
            names.insert(host, Name { known, stale: now + TTL, pending: None });
            Ok(addresses)
        }
        Err(error) => {
            tracing::warn!(%host, %error, "a name can't be resolved");
            match names.get_mut(&host) {
                Some(name) if name.known.is_some() => (name.stale, name.pending) = (now + REST, None),
                // Whoever asks next tries again.
                _ => drop(names.remove(&host)),
            }
            Err(Rc::new(error))
        }
    }
}

/// Forgets the name that is stale for longest if there are too many. Questions that are being
/// asked end by themselves.
fn make_room(names: &mut AHashMap<Box<str>, Name>) {
    if names.len() < MAX_NAMES {
        return;
    }
    let idle = names.iter().filter(|(_, name)| name.pending.is_none());
    if let Some(oldest) = idle.min_by_key(|(_, name)| name.stale).map(|(host, _)| host.clone()) {
        names.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, work)
    }

    #[test]
    fn names_and_addresses() {
        local(async {
            let names = Names::default();
            for (host, ok) in
                [("127.0.0.1", true), ("[::1]", true), ("localhost", true), ("a.invalid", false)]
            {
                assert_eq!(names.resolve(host).await.is_ok(), ok, "{host}");
            }
            assert_eq!(names.0.borrow().len(), 1, "only names that are there are kept");
        });
    }

    #[test]
    fn the_last_good_answer_serves_until_there_is_a_better_one() {
        local(async {
            let names = Names::default();
            let known: Addresses = Rc::new([IpAddr::from([192, 0, 2, 1])]);
            let stale = Name { known: Some(Rc::clone(&known)), stale: Instant::now(), pending: None };
            names.0.borrow_mut().insert("gone.invalid".into(), stale);
            for _ in 0..3 {
                assert_eq!(names.resolve("gone.invalid").await.ok().as_ref(), Some(&known));
                let pending = names.0.borrow()["gone.invalid"].pending.clone();
                if let Some(pending) = pending {
                    assert!(pending.await.is_err());
                }
            }
        });
    }

    #[test]
    fn memory_is_bounded() {
        let mut names = AHashMap::new();
        for index in 0..MAX_NAMES * 2 {
            make_room(&mut names);
            let name = Name { known: None, stale: Instant::now(), pending: None };
            names.insert(format!("{index}.test").into(), name);
            assert!(names.len() <= MAX_NAMES);
        }
        assert!(names.contains_key("1023.test") && !names.contains_key("0.test"), "the oldest went");
    }
}
