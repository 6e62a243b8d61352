//! Connections to endpoints: opening them, keeping them, and reading from them.

use std::cell::{RefCell, RefMut};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::patience::Patience;
use super::{Limits, Stream, Transport};
use crate::proxy::error::Error;

/// How much one read takes at most.
const READ: usize = 64 * 1024;

/// How long a connection has waited that a request may take which can't be sent twice. Many servers
/// close what was silent for two seconds or more, and some close at once behind an answer that did
/// not announce it. Nobody can tell whether such a server has read the request.
const SAFE: RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_secs(1);

/// A connection to an endpoint.
#[derive(Debug)]
pub(in crate::proxy) struct Upstream {
    pub(in crate::proxy) address: SocketAddr,
    transport: Transport,
    pub(in crate::proxy) stream: Stream,
    /// Read and not yet used. Empty while the connection is kept.
    pub(in crate::proxy) unread: Bytes,
    /// It served a request before.
    pub(in crate::proxy) reused: bool,
    /// For waiting. Kept with the connection: another would cost more.
    pub(super) timer: Option<Patience>,
}

/// One worker's connections to endpoints that wait for a request.
#[derive(Debug)]
pub(in crate::proxy) struct Pool {
    idle: RefCell<AHashMap<(SocketAddr, Transport), Vec<Idle>>>,
    limit: usize,
    keep_alive: Duration,
    /// What all connections of the worker read into; bodies are slices of it, so an idle
    /// connection holds no buffer.
    scratch: RefCell<BytesMut>,
    /// What heads of answers are written into for those who take them as lines.
    lines: RefCell<BytesMut>,
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    timer: Option<Patience>,
    since: Instant,
}

impl Pool {
    pub(in crate::proxy) fn new(limit: usize, keep_alive: Duration) -> Self {
        Self {
            idle: RefCell::default(),
            limit,
            keep_alive,
            scratch: RefCell::default(),
            lines: RefCell::default(),
        }
    }

    /// A kept connection to `address` that its endpoint has not closed, the youngest first. For a
    /// request that is not `repeatable`, one that will hardly be closed under it.
    ///
    /// What can't be sent again has the kernel itself asked, `carefully`: what the event loop knows
    /// may be a moment old.
    pub(in crate::proxy) fn take(
        &self,
        address: SocketAddr,
        transport: &Transport,
        repeatable: bool,
        carefully: bool,
    ) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let transport = transport.clone();
        let key = (address, transport);
        let kept = idle.get_mut(&key)?;
        let mut next = || match repeatable {
            true => kept.pop(),
            // The oldest of those that are young enough: it had most time to show its end.
            false => {
                kept.iter().position(|one| SAFE.contains(&one.since.elapsed())).map(|at| kept.remove(at))
            }
        };
        while let Some(Idle { mut stream, since, timer }) = next() {
            let seems_open = repeatable && !carefully && stream.seems_open();
            if (seems_open || stream.is_open()) && since.elapsed() < self.keep_alive {
                let (address, transport) = key;
                let unread = Bytes::new();
                return Some(Upstream { address, transport, stream, unread, reused: true, timer });
            }
        }
        None
    }

    /// Keeps a connection whose last answer is complete.
    pub(in crate::proxy) fn put(&self, upstream: Upstream) {
        if !upstream.unread.is_empty() {
            // Bytes that no request asked for: whatever they are, they must not become the next answer.
            return;
        }
        if matches!(upstream.transport, Transport::Proxied(_)) {
            // It speaks for one client, who may never come back.
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry((upstream.address, upstream.transport)).or_default();
        if kept.len() < self.limit {
            let Upstream { stream, timer, .. } = upstream;
            kept.push(Idle { stream, since: Instant::now(), timer });
        }
    }

    /// Drops what is too old or closed by its endpoint. Returns how many connections are kept.
    pub(in crate::proxy) fn sweep(&self) -> usize {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, kept| {
            kept.retain_mut(|one| one.since.elapsed() < self.keep_alive && one.stream.is_open());
            !kept.is_empty()
        });
        idle.values().map(Vec::len).sum()
    }

    /// What the head of an answer is written into.
    pub(super) fn lines(&self) -> RefMut<'_, BytesMut> {
        self.lines.borrow_mut()
    }

    /// Reads once, appending to `unread`. `Ok(0)` is the end of the stream.
    pub(super) fn poll_read(&self, upstream: &mut Upstream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = self.scratch.borrow_mut();
        // Enough for the usual 16 KiB with their head in one read. Where all that was read before is
        // gone, this takes the same memory again.
        if scratch.capacity() < READ / 2 {
            scratch.reserve(READ);
        }
        let read = pin!(upstream.stream.read_buf(&mut *scratch)).poll(cx);
        if let Poll::Ready(Ok(count)) = read
            && count > 0
        {
            let new = scratch.split().freeze();
            upstream.unread = if upstream.unread.is_empty() {
                new
            } else {
                Bytes::from([&upstream.unread[..], &new[..]].concat())
            };
        }
        read
    }
}

impl Upstream {
    /// The timer, which runs for `limit` from now on if it is new.
    pub(super) fn take_timer(&mut self, limit: Duration) -> Patience {
        self.timer.take().unwrap_or_else(|| Patience::new(limit))
    }

    /// Opens a connection. TLS may take as long again as TCP.
    pub(in crate::proxy) async fn connect(
        address: SocketAddr,
        transport: &Transport,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let stream = connect(address, transport, limits.connect).await?;
        let transport = transport.clone();
        Ok(Self { address, transport, stream, unread: Bytes::new(), reused: false, timer: None })
    }
}

/// Opens a connection as `transport` has it.
pub(super) async fn connect(
    address: SocketAddr,
    transport: &Transport,
    limit: Duration,
) -> Result<Stream, Error> {
    let (header, transport) = match transport {
        Transport::Proxied(inner) => (&inner.0[..], &inner.1),
        other => (&[][..], other),
    };
    let open = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(header).await?;
        Ok(stream)
    };
    let stream = match timeout(limit, open).await {
        Err(_) => return Err(Error::ConnectTimeout(address)),
        Ok(Err(source)) => return Err(Error::Connection { address, source }),
        Ok(Ok(stream)) => stream,
    };
    // Only costs latency where it fails.
    let _ = stream.set_nodelay(true);
    let Transport::Tls(tls) = transport else { return Ok(Stream::Plain(stream)) };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    match timeout(limit, connector.connect(tls.name.clone(), stream)).await {
        Err(_) => Err(Error::ConnectTimeout(address)),
        Ok(Err(source)) => Err(Error::Tls { address, source }),
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections that wait for so many milliseconds, in the order in which they were kept; which
    /// of them are taken one after the other.
    async fn taken(ages: &[u64], repeatable: bool) -> Vec<u64> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let pool = Pool::new(32, Duration::from_secs(60));
        let (mut ends, mut ports) = (Vec::new(), Vec::new());
        for age in ages {
            let stream = TcpStream::connect(address).await.expect("accepted");
            ends.push(listener.accept().await.expect("a connection"));
            ports.push((stream.local_addr().expect("a port"), *age));
            let since = Instant::now() - Duration::from_millis(*age);
            let mut idle = pool.idle.borrow_mut();
            let kept = idle.entry((address, Transport::Plain)).or_default();
            kept.push(Idle { stream: Stream::Plain(stream), since, timer: None });
        }
        let mut taken = Vec::new();
        while let Some(upstream) = pool.take(address, &Transport::Plain, repeatable, true) {
            let port = upstream.stream.socket().local_addr().expect("a port");
            taken.extend(ports.iter().find(|(known, _)| *known == port).map(|(_, age)| *age));
        }
        taken
    }

    #[tokio::test]
    async fn which_connection_a_request_takes() {
        // Ages that stay on their side of a bound however slow this is.
        for (ages, repeatable, expect) in [
            (&[30_000, 100, 50][..], true, vec![50, 100, 30_000]),
            (&[30_000, 100, 50], false, vec![100, 50]),
            (&[90_000, 30_000], true, vec![30_000]),
            (&[90_000, 30_000], false, vec![]),
        ] {
            assert_eq!(taken(ages, repeatable).await, expect, "{ages:?} {repeatable}");
        }
    }
}
