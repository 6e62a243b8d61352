//! TLS connections that go to an endpoint as they are: the server name of the ClientHello decides.
//!
//! The hello is looked at, not taken: where it names nobody of ours, the handshake begins as if
//! nothing had happened.

use std::borrow::Cow;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lb_common::hello;
use lb_common::reason::Reason;
use tokio::net::TcpStream;

use super::access_log::{Entry, clip};
use super::balance::{Choice, Lease};
use super::cluster::ClusterSlot;
use super::config::Config;
use super::crowd::Admitted;
use super::listen;
use super::peek::peek_more;
use super::pools;
use super::proxy_header::{self, Ends};
use super::relay::relay;
use super::tunnel::Open;
use super::upstream::{Limits, Stream, Transport, Upstream};
use super::worker::Worker;
use crate::model::{BodyLimits, ProxyVersion, UpstreamPolicy};

/// Longest ClientHello that is waited for. Longer ones are for the handshake to refuse.
const MAX_HELLO: usize = 16 * 1024;

/// How many endpoints a connection may be tried on.
const TRIES: usize = 3;

/// A connection's name and where it goes.
pub(super) struct Passage {
    name: String,
    slot: Arc<ClusterSlot>,
    proxy_protocol: Option<ProxyVersion>,
}

/// Where a connection goes by its hello.
pub(super) enum Way {
    /// It is ours to answer.
    Ours,
    /// To an endpoint, as it is.
    On(Passage),
    /// Nowhere: nobody serves its name.
    Nowhere,
    /// To workers of its own.
    Over(pools::Way),
}

/// Waits for the client's hello and looks up where it goes. `refuses`: nowhere, if its name is none
/// that is served. `stays`: not to other workers.
///
/// # Errors
/// If the connection breaks.
pub(super) async fn find(
    stream: &TcpStream,
    config: &Config,
    worker: &Worker,
    refuses: bool,
    stays: bool,
) -> io::Result<Way> {
    let Some(name) = server_name(stream).await? else { return Ok(Way::Ours) };
    if refuses && !config.serves_name(&name) {
        return Ok(Way::Nowhere);
    }
    if !stays && let Some(way) = worker.pools.elsewhere(worker.group.as_deref(), config, &name) {
        return Ok(Way::Over(way));
    }
    let Some(to) = config.tls.passthrough(&name) else { return Ok(Way::Ours) };
    let slot = config.clusters.get(&*to.cluster).cloned();
    Ok(slot.map_or(Way::Ours, |slot| Way::On(Passage { name, slot, proxy_protocol: to.proxy_protocol })))
}

impl Passage {
    /// Connects to an endpoint and copies both ways until both ends are closed or one breaks.
    /// Changes of the configuration don't touch it; the worker ends it when the time to drain is over.
    /// `_admitted` counts for the client as long as it goes on.
    pub(super) async fn serve(
        self,
        worker: Rc<Worker>,
        client: TcpStream,
        ends: Ends,
        _admitted: Option<Admitted>,
    ) {
        let mut log = worker.log.is_some().then(|| Entry {
            time: jiff::Timestamp::now().to_string(),
            client: ends.source.ip().to_string(),
            host: clip(&self.name),
            protocol: "TLS",
            tls: true,
            cluster: Some(self.slot.key.to_string()),
            ..Entry::default()
        });
        let started = Instant::now();
        let open = Open::new(&worker);
        let copied = match self.connect(&worker, ends).await {
            Ok((upstream, _lease)) => {
                if let Some(entry) = &mut log {
                    entry.upstream = Some(upstream.address.to_string());
                }
                copy(client, upstream, &worker, &open).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = copied {
            tracing::debug!(name = self.name, %error, "passed-through connection ended");
            if let Some(entry) = &mut log {
                entry.error = Some(error.to_string());
            }
        }
        if let (Some(log), Some(mut entry)) = (&worker.log, log) {
            entry.bytes = open.bytes();
            entry.duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            if !log.write(&entry) {
                worker.counters.log_dropped.add(1);
            }
        }
    }

    /// A connection to an endpoint, and what the client has of it until it ends.
    async fn connect(&self, worker: &Worker, ends: Ends) -> io::Result<(Upstream, Option<Lease>)> {
        let node = &worker.settings.timeouts;
        let limits = Limits::new(node, &UpstreamPolicy::default(), &BodyLimits::default());
        let mut choice = Choice::in_turn(worker, &self.slot);
        let transport = match self.proxy_protocol {
            None => Transport::Plain,
            Some(version) => Transport::Plain.behind(proxy_header::write(version, ends)),
        };
        let mut next = Some(choice.first(limits.connect()).await.map_err(io::Error::other)?);
        let mut last = None;
        for _ in 0..TRIES {
            let Some(address) = next else { break };
            if self.slot.endpoints().is_own(address) {
                // With the same name it would come back here, for ever.
                last = Some(io::Error::other(format!("endpoint {address} is this node itself")));
                next = choice.retry();
                continue;
            }
            match Upstream::connect(address, &transport, &limits).await {
                Ok(upstream) => {
                    worker.counters.upstream_connects.add(1);
                    self.slot.reached(address);
                    return Ok((upstream, choice.into_lease()));
                }
                Err(error) => {
                    worker.counters.upstream_failures.add(1);
                    self.slot.failed(address, &error, false);
                    last = Some(io::Error::other(error.to_string()));
                    next = choice.retry();
                }
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other(format!("no endpoint of {} is ready", self.slot.key))))
    }
}

async fn copy(mut client: TcpStream, upstream: Upstream, worker: &Worker, open: &Open) -> io::Result<()> {
    let Stream::Plain(mut stream) = upstream.stream else {
        return Err(io::Error::other("TLS within what is passed through"));
    };
    // Without it a vanished endpoint goes unnoticed longer; no reason to refuse the connection.
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&listen::keep_alive());
    relay(&mut client, &mut stream, worker, open).await
}

/// The name in the hello, which stays where it is. `None`: there is none, or what comes is no hello.
async fn server_name(stream: &TcpStream) -> io::Result<Option<String>> {
    let mut space = Vec::new();
    let mut seen = 0;
    loop {
        // Most hellos fit in a segment or two.
        space.resize(if seen < 4096 { 4096 } else { MAX_HELLO }, 0);
        let count = peek_more(stream, &mut space, seen).await?;
        if count <= seen {
            // The end: whoever terminates will see it, too.
            return Ok(None);
        }
        seen = count;
        match name_in(&space[..seen]) {
            Ok(name) => return Ok(name),
            Err(Incomplete) if seen < MAX_HELLO => {}
            Err(Incomplete) => return Ok(None),
        }
    }
}

/// More bytes are needed to tell.
#[derive(Debug, PartialEq)]
pub(super) struct Incomplete;

/// The name in a hello. `None`: there is none, or the bytes are no hello.
pub(super) fn name_in(bytes: &[u8]) -> Result<Option<String>, Incomplete> {
    let whole = match is_cut(bytes) {
        false => Cow::Borrowed(bytes),
        true => match one_record(bytes) {
            Some(whole) => Cow::Owned(whole),
            None => return Ok(None),
        },
    };
    match hello::server_name(&*whole) {
        Ok(at) => {
            let name = &whole[at.offset..at.offset + at.length];
            Ok(std::str::from_utf8(name).ok().map(str::to_owned))
        }
        Err(Reason::HelloSplit) => Err(Incomplete),
        Err(_) => Ok(None),
    }
}

/// Whether the first record ends before the message in it does.
fn is_cut(bytes: &[u8]) -> bool {
    let &[22, 3, _, high, low, ref message @ ..] = bytes else { return false };
    let record = usize::from(u16::from_be_bytes([high, low]));
    match message {
        _ if record < 4 => true,
        [1, 0, high, low, ..] => record < 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}

/// A hello that is cut into records (RFC 8446 section 5.1), as one of any length. `None`: what
/// follows the first record is not part of it.
fn one_record(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = vec![22, 3, 1, 0xff, 0xff];
    let mut rest = bytes;
    while let [kind, 3, _, high, low, after @ ..] = rest {
        if *kind != 22 {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        whole.extend_from_slice(&after[..length]);
        rest = &after[length..];
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hello that names `name`, in records of `size` bytes.
    fn hello(name: &str, size: usize) -> Vec<u8> {
        let name = name.as_bytes();
        let length = |bytes: usize| (bytes as u16).to_be_bytes();
        let mut extension = vec![0, 0];
        extension.extend(length(name.len() + 5));
        extension.extend(length(name.len() + 3));
        extension.push(0);
        extension.extend(length(name.len()));
        extension.extend(name);
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(length(extension.len()));
        body.extend(extension);
        let mut message = vec![1, 0];
        message.extend(length(body.len()));
        message.extend(body);
        let record = |part: &[u8]| [&[22, 3, 1], &length(part.len())[..], part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    proptest! {
        /// However a hello is cut into records, and whatever is wrong with a byte of it, it names what
        /// it says or nobody.
        #[test]
        fn any_hello(size in 1..300usize, at in 0..400usize, byte: u8) {
            let mut whole = hello("web.example.com", size);
            prop_assert_eq!(name_in(&whole), Ok(Some("web.example.com".to_owned())));
            let at = at % whole.len();
            whole[at] = byte;
            if let Ok(Some(name)) = name_in(&whole) {
                prop_assert!(name.len() < whole.len());
            }
        }
    }

    #[test]
    fn names_at_every_prefix() {
        for size in [1000, 100, 40, 7, 1] {
            let whole = hello("web.example.com", size);
            for end in 0..whole.len() {
                assert_eq!(name_in(&whole[..end]), Err(Incomplete), "records of {size}, {end} bytes");
            }
            assert_eq!(name_in(&whole), Ok(Some("web.example.com".to_owned())), "records of {size}");
        }
        let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(name_in(plain), Ok(None));
        let mut broken = hello("web.example.com", 40);
        broken[45] = 23;
        assert_eq!(name_in(&broken), Ok(None), "another record between the parts");
    }
}
