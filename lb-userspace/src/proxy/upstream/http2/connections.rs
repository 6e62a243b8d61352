//! Connections that requests share.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use h2::client::SendRequest;

use super::heard::Heard;
use crate::proxy::error::Error;
use crate::proxy::stats::Counters;
use crate::proxy::upstream::Transport;
use crate::proxy::upstream::pool::connect;

/// Requests on one connection at most, whatever the endpoint allows.
const MAX_STREAMS: usize = 128;

/// Connections of one worker to one endpoint; above, requests wait for their turn on one.
const MAX_CONNECTIONS: usize = 16;

/// What a request may have in flight towards us.
const WINDOW: u32 = 64 * 1024;

/// Largest head that is decoded; what a route allows is less.
const MAX_HEAD: u32 = 256 * 1024;

/// One worker's connections that speak HTTP/2.
pub(in crate::proxy) struct Connections {
    entries: RefCell<AHashMap<Key, Entry>>,
    keep_alive: Duration,
    counters: Arc<Counters>,
}

type Key = (SocketAddr, Transport);

#[derive(Default)]
struct Entry {
    open: Vec<Rc<Connection>>,
    /// The connection that requests wait for.
    opening: Option<Opening>,
}

type Opening = Shared<LocalBoxFuture<'static, Result<(), Rc<Error>>>>;

struct Connection {
    sender: SendRequest<Bytes>,
    /// Requests on it.
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    has_served: Cell<bool>,
    /// It takes no more requests.
    retired: Cell<bool>,
    /// Its endpoint has said something.
    heard: Rc<Cell<bool>>,
}

/// The right to one request on a connection.
pub(super) struct Lease {
    connection: Rc<Connection>,
    /// The connection had served others.
    pub(super) reused: bool,
}

impl Connections {
    pub(in crate::proxy) fn new(keep_alive: Duration, counters: Arc<Counters>) -> Rc<Self> {
        Rc::new(Self { entries: RefCell::default(), keep_alive, counters })
    }

    /// Room for a request on a connection, which is opened where there is none. Requests that come
    /// meanwhile wait for the same one.
    pub(super) async fn lease(
        self: &Rc<Self>,
        address: SocketAddr,
        transport: &Transport,
        limit: Duration,
    ) -> Result<Lease, Error> {
        loop {
            let opening = {
                let mut entries = self.entries.borrow_mut();
                let entry = entries.entry((address, transport.clone())).or_default();
                if let Some(lease) = entry.lease() {
                    if lease.reused {
                        self.counters.upstream_reuses.add(1);
                    }
                    return Ok(lease);
                }
                entry.opening.get_or_insert_with(|| self.open((address, transport.clone()), limit)).clone()
            };
            opening.await.map_err(|error| copy_of(&error))?;
        }
    }

    /// Begins to open a connection. A task does it, so that it goes on when the request that asked
    /// for it is gone.
    fn open(self: &Rc<Self>, key: Key, limit: Duration) -> Opening {
        let this = Rc::clone(self);
        let opening = async move {
            let made = Connection::open(&key, limit).await;
            let mut entries = this.entries.borrow_mut();
            let entry = entries.entry(key).or_default();
            entry.opening = None;
            entry.open.push(made.map_err(Rc::new)?);
            this.counters.upstream_connects.add(1);
            Ok(())
        };
        let opening = opening.boxed_local().shared();
        tokio::task::spawn_local(opening.clone());
        opening
    }

    /// Drops what was not used for long. Returns how many connections wait for a request.
    pub(in crate::proxy) fn sweep(&self) -> usize {
        let mut idle = 0;
        self.entries.borrow_mut().retain(|_, entry| {
            entry.open.retain(|one| {
                let waits = one.active.get() == 0;
                let is_old = waits && one.idle_since.get().elapsed() > self.keep_alive;
                idle += usize::from(waits && !is_old && !one.retired.get());
                !one.retired.get() && !is_old
            });
            !entry.open.is_empty() || entry.opening.is_some()
        });
        idle
    }
}

impl Entry {
    /// Room on a connection: the busiest that has any, so that others become idle and end.
    fn lease(&mut self) -> Option<Lease> {
        self.open.retain(|one| !one.retired.get());
        let has_room =
            |one: &&Rc<Connection>| one.active.get() < one.sender.current_max_send_streams().min(MAX_STREAMS);
        let full = self.open.len() >= MAX_CONNECTIONS;
        let busiest = self.open.iter().filter(has_room).max_by_key(|one| one.active.get());
        let any = || self.open.iter().filter(|_| full).min_by_key(|one| one.active.get());
        let connection = Rc::clone(busiest.or_else(any)?);
        connection.active.set(connection.active.get() + 1);
        let reused = connection.has_served.replace(true);
        Some(Lease { connection, reused })
    }
}

impl Connection {
    async fn open((address, transport): &Key, limit: Duration) -> Result<Rc<Self>, Error> {
        let address = *address;
        let stream = connect(address, transport, limit).await?;
        let heard = Rc::<Cell<bool>>::default();
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW)
            // Enough for all: a client that does not read must not hold up the others.
            .initial_connection_window_size(WINDOW * MAX_STREAMS as u32)
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(WINDOW as usize)
            .handshake(Heard::new(stream, &heard))
            .await
            .map_err(|error| Error::Closed { address, source: io::Error::other(error) })?;
        let this = Rc::new(Self {
            sender,
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            has_served: Cell::new(false),
            retired: Cell::new(false),
            heard,
        });
        let driven = Rc::downgrade(&this);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "HTTP/2 connection to an endpoint ended");
            }
            if let Some(this) = driven.upgrade() {
                this.retired.set(true);
            }
        });
        Ok(this)
    }
}

impl Lease {
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.clone()
    }

    /// Whether the endpoint has said anything on this connection. SETTINGS is the first that servers
    /// say (RFC 9113 section 3.4), before they look at a request.
    pub(super) fn has_heard(&self) -> bool {
        self.connection.heard.get()
    }

    /// The connection gets no more requests. Those that it has go on.
    pub(super) fn retire(&self) {
        self.connection.retired.set(true);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.active.set(self.connection.active.get() - 1);
        self.connection.idle_since.set(Instant::now());
    }
}

/// What every request that waited for a connection is told.
fn copy_of(error: &Error) -> Error {
    let copy = |source: &io::Error| io::Error::new(source.kind(), source.to_string());
    match error {
        Error::ConnectTimeout(address) => Error::ConnectTimeout(*address),
        Error::Connection { address, source } => {
            Error::Connection { address: *address, source: copy(source) }
        }
        Error::Tls { address, source } => Error::Tls { address: *address, source: copy(source) },
        Error::Closed { address, source } => Error::Closed { address: *address, source: copy(source) },
        other => Error::BadRequest(other.to_string()),
    }
}
