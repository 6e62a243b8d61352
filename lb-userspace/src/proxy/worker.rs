//! One worker: a pinned thread with everything it needs of its own.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet};

use super::access_log::Log;
use super::balance::Loads;
use super::buffers::Budget;
use super::config::Config;
use super::connection;
use super::crowd::Crowd;
use super::date::Date;
use super::direct;
use super::forwarded::RequestIds;
use super::measures::Table;
use super::mirror::Mirrors;
use super::offences::{Banned, Offences};
use super::pipe::Pipes;
use super::policy::Asker;
use super::pools::Pools;
use super::proxy_header::Ends;
use super::settings::{Bind, Settings};
use super::spans::Tracer;
use super::stats::Counters;
use super::upstream::{Connections, Pool, RetryBudget, Transports};

/// How long `accept` rests after it failed for want of something that only time brings back.
const ACCEPT_REST: Duration = Duration::from_millis(50);
const SWEEP: Duration = Duration::from_secs(5);

/// What a worker is told while it runs.
pub(super) enum Command {
    /// Accept from this socket.
    Listen(SocketAddr, TcpListener),
    /// Accept no more there. Connections that are open stay.
    Unlisten(SocketAddr),
    /// Serve this TLS connection, which another worker accepted: it belongs to this one's pool.
    Take(TcpStream, Ends),
    /// Have others take over: what is open ends in good order, and what comes gets one answer. Or no longer.
    Rest(bool),
    /// Finish: no new connections, and what is open gets this long.
    Drain(Duration),
}

/// What a worker is made of, moved to its thread.
pub(super) struct Seed {
    pub(super) index: usize,
    pub(super) cpu: usize,
    pub(super) pool: Option<Arc<str>>,
    pub(super) pools: Arc<Pools>,
    pub(super) settings: Arc<Settings>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) measures: Arc<Table>,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) offences: Offences,
    pub(super) banned: Arc<Banned>,
    pub(super) counters: Arc<Counters>,
    pub(super) log: Option<Log>,
    pub(super) tracer: Option<Tracer>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) done: oneshot::Sender<()>,
}

/// What the connections of a worker share. Never leaves its thread.
pub(super) struct Worker {
    pub(super) index: usize,
    /// The pool of workers that it is of; `None`: a general one.
    pub(super) group: Option<Arc<str>>,
    pub(super) pools: Arc<Pools>,
    pub(super) settings: Arc<Settings>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) measures: Arc<Table>,
    pub(super) counters: Arc<Counters>,
    pub(super) offences: Offences,
    pub(super) banned: Arc<Banned>,
    pub(super) pool: Rc<Pool>,
    /// Those that speak HTTP/2.
    pub(super) connections: Rc<Connections>,
    pub(super) transports: Transports,
    pub(super) retries: RetryBudget,
    pub(super) loads: Loads,
    pub(super) bodies: Rc<Budget>,
    /// What large bodies go through.
    pub(super) pipes: Rc<Pipes>,
    pub(super) log: Option<Log>,
    pub(super) tracer: Option<Tracer>,
    pub(super) ids: RequestIds,
    pub(super) mirrors: Mirrors,
    /// The way to servers that are named by a URL.
    pub(super) asker: Asker,
    pub(super) drain: Drain,
    /// What heads of requests to endpoints are written into.
    pub(super) heads: RefCell<BytesMut>,
    /// What plain requests are read into.
    pub(super) reads: RefCell<Box<[u8]>>,
    pub(super) date: Date,
    published: Arc<ArcSwap<Config>>,
    current: RefCell<Rc<Held>>,
}

impl Worker {
    /// The configuration to use for one request. Held by a count that only this thread touches:
    /// cloning the published `Arc` would make all workers write the same cache line.
    pub(super) fn config(&self) -> Rc<Held> {
        let published = self.published.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(&published, &current.0) {
            *current = Rc::new(Held(Arc::clone(&published)));
        }
        Rc::clone(&current)
    }
}

/// A configuration as one worker holds it.
pub(super) struct Held(Arc<Config>);

impl Deref for Held {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.0
    }
}

/// The end of a worker's work.
#[derive(Default)]
pub(super) struct Drain {
    draining: Cell<bool>,
    resting: Cell<bool>,
    begun: Notify,
    /// A connection or a tunnel has ended.
    pub(super) ended: Notify,
}

impl Drain {
    /// Whether connections end with the answer that is being given.
    pub(super) fn is_begun(&self) -> bool {
        self.draining.get() || self.resting.get()
    }

    /// Whether others are to take over.
    pub(super) fn is_resting(&self) -> bool {
        self.resting.get()
    }

    /// Waits until a connection is to end. One that `came_late`, when others were to take over already, is
    /// served until its first answer.
    pub(super) async fn started(&self, came_late: bool) {
        while !(self.draining.get() || (self.resting.get() && !came_late)) {
            self.begun.notified().await;
        }
    }

    fn rest(&self, rests: bool) {
        self.resting.set(rests);
        self.begun.notify_waiters();
    }

    fn start(&self) {
        self.draining.set(true);
        self.begun.notify_waiters();
    }
}

impl Seed {
    /// Runs the worker on this thread until it is told to end.
    pub(super) fn run(self) {
        let done = self.done;
        if let Err(error) = pin(self.cpu) {
            tracing::warn!(worker = self.index, cpu = self.cpu, %error, "worker is not pinned to its CPU");
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(worker = self.index, %error, "worker has no event loop");
                return;
            }
        };
        let timeouts = self.settings.timeouts;
        let transports = Transports::new();
        let worker = Rc::new(Worker {
            index: self.index,
            group: self.pool,
            pools: self.pools,
            pool: Rc::new(Pool::new(self.settings.keep_alive_connections, timeouts.keep_alive)),
            connections: Connections::new(timeouts.keep_alive, Arc::clone(&self.counters)),
            asker: Asker::new(transports.unverified()),
            transports,
            retries: RetryBudget::new(),
            loads: Loads::default(),
            mirrors: Mirrors::default(),
            bodies: Budget::new(self.settings.body_memory),
            pipes: Rc::default(),
            settings: self.settings,
            crowd: self.crowd,
            measures: self.measures,
            counters: self.counters,
            offences: self.offences,
            banned: self.banned,
            log: self.log,
            tracer: self.tracer,
            ids: RequestIds::new(),
            drain: Drain::default(),
            heads: RefCell::default(),
            reads: RefCell::new(vec![0; direct::READ].into()),
            date: Date::default(),
            current: RefCell::new(Rc::new(Held(self.config.load_full()))),
            published: self.config,
        });
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, command(worker, self.commands));
        // Ends what is still running.
        drop(tasks);
        drop(runtime);
        let _ = done.send(());
    }
}

/// Follows commands until the worker has drained.
async fn command(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let sweeper = tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    let mut listeners: AHashMap<SocketAddr, AbortHandle> = AHashMap::new();
    let grace = loop {
        match commands.recv().await {
            Some(Command::Listen(address, socket)) => match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => {
                    // Connections that are steered to a socket came to other addresses than its own.
                    let is_exact = worker.settings.bind == Bind::Direct && !address.ip().is_unspecified();
                    let local = is_exact.then_some(address);
                    let task = tokio::task::spawn_local(accept(Rc::clone(&worker), socket, local));
                    if let Some(old) = listeners.insert(address, task.abort_handle()) {
                        old.abort();
                    }
                }
                Err(error) => tracing::error!(%address, %error, "worker can't use a listener"),
            },
            Some(Command::Unlisten(address)) => {
                if let Some(task) = listeners.remove(&address) {
                    task.abort();
                }
            }
            Some(Command::Take(stream, ends)) => take_over(&worker, stream, ends),
            Some(Command::Rest(rests)) => worker.drain.rest(rests),
            Some(Command::Drain(grace)) => break grace,
            None => break Duration::ZERO,
        }
    };
    for task in listeners.into_values() {
        task.abort();
    }
    worker.drain.start();
    let idle = async {
        while worker.counters.active.get() + worker.counters.tunnels_active.get() > 0 {
            worker.drain.ended.notified().await;
        }
    };
    // A later command may shorten the time, above all to nothing.
    let hurried = async {
        let mut end = tokio::time::Instant::now() + grace;
        loop {
            match tokio::time::timeout_at(end, commands.recv()).await {
                Ok(Some(Command::Drain(grace))) => end = end.min(tokio::time::Instant::now() + grace),
                Ok(Some(
                    Command::Listen(..) | Command::Unlisten(_) | Command::Take(..) | Command::Rest(_),
                )) => {}
                Ok(None) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = idle => {}
        () = hurried => {}
    }
    sweeper.abort();
}

fn take_over(worker: &Rc<Worker>, stream: TcpStream, ends: Ends) {
    let held = worker.counters.active.get() + worker.counters.tunnels_active.get();
    if held >= worker.settings.max_connections as u64 {
        // There is no queue that it could wait in.
        worker.counters.crowded.add(1);
        return;
    }
    let stream = match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!(%error, "worker can't use a connection");
            return;
        }
    };
    let open = Open::new(worker);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        connection::take_over(worker, stream, ends).await;
        drop(open);
    });
}

/// `local` is where all its connections come to, if that is one address.
async fn accept(worker: Rc<Worker>, socket: tokio::net::TcpListener, local: Option<SocketAddr>) {
    let mut failing = false;
    loop {
        let held = worker.counters.active.get() + worker.counters.tunnels_active.get();
        if held >= worker.settings.max_connections as u64 {
            // The listen queue is where they wait; a connection that ends makes room.
            tokio::time::sleep(ACCEPT_REST).await;
            continue;
        }
        match socket.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                worker.counters.accepted.add(1);
                let open = Open::new(&worker);
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move {
                    connection::serve(worker, stream, peer, local).await;
                    drop(open);
                });
            }
            Err(error) => {
                worker.counters.accept_failures.add(1);
                if !is_of_one_connection(&error) {
                    // One line for a shortage, not one for each rest.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "accept fails; clients wait in the listen queue");
                    }
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }
}

/// The client gave up before it was accepted; the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Counts a client connection as open while it lives.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.counters.active.add(1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.active.sub(1);
        self.0.drain.ended.notify_one();
    }
}

async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let now = std::time::Instant::now();
        worker.loads.sweep(now);
        worker.transports.sweep();
        worker.pipes.sweep();
        let mut kept = (worker.pool.sweep() + worker.connections.sweep()) as u64;
        let idle = &worker.counters.upstream_idle;
        kept = kept.wrapping_sub(idle.get());
        idle.add(kept);
    }
}

fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}
