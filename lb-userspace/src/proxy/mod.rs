//! The userspace proxy: from an accepted connection to an endpoint and back.
//!
//! ```text
//! listen ─► worker ─► connection (TLS, h1 or h2) ─► request (check, route, policy) ─► upstream ─► body
//!                └──► passthrough (TLS as it is, by server name) ─► tunnel
//! ```
//!
//! Invariants:
//! - A worker owns its thread, listeners, pools and counters; on the way of a request no memory is
//!   written that another worker reads or writes at the same time.
//! - Configuration is one [`config::Config`], published whole. A request uses the one it began with;
//!   only endpoints may change under it.
//! - The path that is matched is the path that is sent on.
//! - What HTTP forbids and hyper lets through is refused in `guard` and `incoming`, nowhere else.

mod access_log;
mod balance;
mod body;
mod buffers;
mod cluster;
mod config;
mod connection;
mod copy;
mod crowd;
mod date;
mod direct;
mod error;
mod finish;
mod forward;
mod forwarded;
mod frames;
mod grpc;
mod guard;
mod headers;
mod health;
mod hops;
mod incoming;
mod incoming_body;
mod listen;
mod log_format;
mod measures;
mod mirror;
mod offences;
mod outgoing;
mod passthrough;
mod peek;
mod pipe;
mod policy;
mod pools;
mod proxy_header;
mod read_ahead;
mod refusal;
mod relay;
mod replay;
mod request;
mod respond;
mod settings;
mod spans;
mod stats;
mod stream;
mod streams;
mod tls;
mod trace;
mod trailers;
mod tunnel;
mod upgrade;
mod upstream;
mod websocket;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;
use tokio::sync::{mpsc, oneshot};

pub use health::{CheckState, ClusterHealth, EndpointHealth, EndpointState, HealthSummary};
pub use listen::ListenError;
pub use log_format::{BadFormat, LogFormat, LogVariable, Part};
pub use measures::{Measured, Measurement};
pub use offences::{Caught, Offence, client_network};
pub use settings::{AccessLog, Bind, Settings, Timeouts};
pub use spans::Tracing;
pub use stats::{Stats, Totals, WorkerStats};

use crate::model::{Snapshot, WorkerPool};
use config::Config;
use pools::Pools;
use stats::Counters;
use worker::{Command, Seed};

/// How long TLS session tickets are made with the same key; for as long again they are good.
pub const TICKET_ROTATION: Duration = tls::ROTATION;

/// The proxy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread, or what it needs, could not be made.
    #[error("can't start the proxy: {0}")]
    Io(#[from] io::Error),
}

/// The sockets of one worker that `sk_lookup` gives connections to.
#[derive(Debug)]
pub struct WorkerSockets {
    /// The worker's index.
    pub worker: usize,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// The pool it is of; `None`: a general one.
    pub pool: Option<Arc<str>>,
    /// Listens on IPv4 loopback.
    pub v4: OwnedFd,
    /// Listens on IPv6 loopback; `None` where the host has no IPv6.
    pub v6: Option<OwnedFd>,
}

/// The running proxy. Dropping it ends the workers at once; see [`Proxy::shutdown`] for a graceful end.
pub struct Proxy {
    settings: Arc<Settings>,
    crowd: Arc<crowd::Crowd>,
    measures: Arc<measures::Measures>,
    /// What became of spans; `None`: none are sent.
    spans: Option<Arc<spans::Sent>>,
    config: Arc<ArcSwap<Config>>,
    tls: tls::TlsBuilder,
    sockets: Vec<WorkerSockets>,
    workers: Vec<Handle>,
    /// What the workers listen on. Also makes [`Proxy::apply`] one at a time.
    listening: Mutex<BTreeSet<SocketAddr>>,
    checks: health::Checks,
    offences: offences::Offences,
    caught: Mutex<Option<mpsc::Receiver<Caught>>>,
    banned: Arc<offences::Banned>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Handle {
    cpu: usize,
    pool: Option<Arc<str>>,
    counters: Arc<Counters>,
    commands: mpsc::UnboundedSender<Command>,
    done: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Proxy {
    /// Opens the listeners, starts the workers and serves `snapshot`.
    ///
    /// # Errors
    /// If a listener can't be opened, or a thread can't be started.
    pub fn start(mut settings: Settings, snapshot: Arc<Snapshot>) -> Result<Self, StartError> {
        if settings.bind == Bind::Direct && !settings.beside_another {
            // All before any is opened: of an address and a wildcard, one would be in the other's way.
            snapshot.listeners.iter().try_for_each(|one| listen::check_free(one.vip.socket()))?;
        }
        let cpus = usable_cpus()?;
        let (general, pooled) = shares(&settings, cpus.len());
        let count = general + pooled.len();
        settings.max_connections = settings.max_connections.min(affordable_connections(count));
        let settings = Arc::new(settings);
        let tls = tls::TlsBuilder::new()?;
        let measures = measures::Measures::new(count);
        let config = Config::build(Arc::clone(&snapshot), None, &tls, &measures, count);
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (offences, caught) = offences::Offences::new();
        let mut proxy = Self {
            offences,
            caught: Mutex::new(Some(caught)),
            banned: Arc::default(),
            crowd: crowd::Crowd::new(settings.max_client_connections),
            measures,
            spans: None,
            settings,
            checks: health::Checks::start(Arc::clone(&config))?,
            config,
            tls,
            sockets: Vec::new(),
            workers: Vec::new(),
            listening: Mutex::default(),
            threads: Mutex::default(),
        };
        let log = match proxy.settings.access_log {
            AccessLog::Off => None,
            AccessLog::Stdout => {
                let (log, thread) = access_log::Log::stdout(&proxy.settings.log_format)?;
                proxy.threads().push(thread);
                Some(log)
            }
        };
        let mut tracer = None;
        if let Some(tracing) = &proxy.settings.tracing {
            let (started, sent, thread) = spans::Tracer::start(tracing)?;
            proxy.threads().push(thread);
            tracer = Some(started);
            proxy.spans = Some(sent);
        }
        let inboxes: Vec<_> = (0..count).map(|_| mpsc::unbounded_channel()).collect();
        let mut pools = Pools::default();
        for pool in &proxy.settings.pools {
            let own = inboxes[general..].iter().zip(&pooled).filter(|(_, name)| **name == pool.name);
            pools.add(pool.name.clone(), own.map(|((commands, _), _)| commands.clone()).collect());
        }
        let pools = Arc::new(pools);
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let cpu = cpus[index % cpus.len()];
            let pool = index.checked_sub(general).and_then(|at| pooled.get(at).cloned());
            let place = Place { index, cpu, pool, pools: Arc::clone(&pools), inbox };
            proxy.start_worker(place, log.clone(), tracer.clone())?;
        }
        if proxy.settings.bind == Bind::Direct {
            let mut listening = BTreeSet::new();
            let mut failures = proxy.listen(&snapshot, &mut listening);
            proxy.listening = Mutex::new(listening);
            if !failures.is_empty() {
                return Err(failures.swap_remove(0).into());
            }
        }
        Ok(proxy)
    }

    fn start_worker(
        &mut self,
        place: Place,
        log: Option<access_log::Log>,
        tracer: Option<spans::Tracer>,
    ) -> Result<(), StartError> {
        let Place { index, cpu, pool, pools, inbox: (commands, inbox) } = place;
        let (done, is_done) = oneshot::channel();
        let counters = Arc::new(Counters::default());
        if self.settings.bind == Bind::Steered {
            let (v4, v6) = listen::steered()?;
            self.sockets.push(WorkerSockets {
                worker: index,
                cpu,
                pool: pool.clone(),
                v4: v4.try_clone()?.into(),
                v6: v6.as_ref().map(std::net::TcpListener::try_clone).transpose()?.map(OwnedFd::from),
            });
            for socket in [Some(v4), v6].into_iter().flatten() {
                let _ = commands.send(Command::Listen(socket.local_addr()?, socket));
            }
        }
        let seed = Seed {
            index,
            cpu,
            pool: pool.clone(),
            pools,
            settings: Arc::clone(&self.settings),
            crowd: Arc::clone(&self.crowd),
            measures: self.measures.table(index),
            config: Arc::clone(&self.config),
            offences: self.offences.clone(),
            banned: Arc::clone(&self.banned),
            counters: Arc::clone(&counters),
            log,
            tracer,
            commands: inbox,
            done,
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || seed.run())?;
        self.threads().push(thread);
        self.workers.push(Handle { cpu, pool, counters, commands, done: Mutex::new(Some(is_done)) });
        Ok(())
    }

    /// The workers' sockets for the kernel's socket map; empty with [`Bind::Direct`].
    pub fn sockets(&self) -> &[WorkerSockets] {
        &self.sockets
    }

    /// Publishes a snapshot. Requests that are being served keep the routes they began with;
    /// connections stay open. With [`Bind::Direct`] listeners follow: the answer names those that
    /// could not be opened, which are tried again with the next snapshot.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Vec<ListenError> {
        let mut listening = self.listening.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let previous = self.config.load_full();
        let workers = self.workers.len();
        let config =
            Config::build(Arc::clone(&snapshot), Some(&previous), &self.tls, &self.measures, workers);
        self.config.store(Arc::new(config));
        self.checks.notify();
        match self.settings.bind {
            Bind::Steered => Vec::new(),
            Bind::Direct => self.listen(&snapshot, &mut listening),
        }
    }

    /// Opens and closes listeners until they are those of `snapshot`.
    fn listen(&self, snapshot: &Snapshot, listening: &mut BTreeSet<SocketAddr>) -> Vec<ListenError> {
        let wanted: BTreeSet<SocketAddr> = snapshot.listeners.iter().map(|one| one.vip.socket()).collect();
        for gone in listening.extract_if(.., |address| !wanted.contains(address)) {
            for worker in self.general() {
                let _ = worker.commands.send(Command::Unlisten(gone));
            }
        }
        let mut failures = Vec::new();
        for address in wanted {
            if listening.contains(&address) {
                continue;
            }
            // All general workers or none: a worker without the socket would leave its share of clients out.
            match self.general().map(|_| listen::open(address)).collect::<Result<Vec<_>, _>>() {
                Ok(sockets) => {
                    for (worker, socket) in self.general().zip(sockets) {
                        let _ = worker.commands.send(Command::Listen(address, socket));
                    }
                    listening.insert(address);
                }
                Err(error) => {
                    tracing::error!(%error, "listener left out");
                    failures.push(error);
                }
            }
        }
        failures
    }

    /// What was done since the start.
    pub fn stats(&self) -> Stats {
        let config = self.config.load();
        let mut total = Totals::default();
        let workers: Vec<_> = self
            .workers
            .iter()
            .enumerate()
            .map(|(index, handle)| {
                let totals = handle.counters.read();
                total += totals;
                WorkerStats { worker: index, cpu: handle.cpu, pool: handle.pool.clone(), totals }
            })
            .collect();
        let clusters: BTreeMap<_, _> =
            config.clusters.values().map(|slot| (slot.key.to_string(), slot.requests())).collect();
        let health = self.health().into_iter().map(|(name, health)| (name, health.into())).collect();
        let spans = |read: fn(&spans::Sent) -> &AtomicU64| {
            self.spans.as_ref().map_or(0, |spans| read(spans).load(Ordering::Relaxed))
        };
        Stats {
            generation: config.snapshot.generation,
            total,
            clusters,
            health,
            spans_delivered: spans(|spans| &spans.delivered),
            spans_lost: spans(|spans| &spans.lost),
            workers,
        }
    }

    /// What is known of clusters whose endpoints failed, are checked or have limits; the others are
    /// well.
    pub fn health(&self) -> BTreeMap<String, ClusterHealth> {
        let config = self.config.load();
        config.clusters.values().filter_map(|slot| Some((slot.key.to_string(), slot.health()?))).collect()
    }

    /// How the requests of each route went, and last those of routes beyond the first thousand and
    /// of none.
    pub fn measurements(&self) -> Vec<Measurement> {
        self.measures.read()
    }

    /// What clients are caught at, from here on. `None` for all but the first who asks.
    pub fn caught(&self) -> Option<mpsc::Receiver<Caught>> {
        self.caught.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// From here on, new connections of these clients are closed at once; and those of others no longer.
    /// Each is a network as [`client_network`] makes it.
    pub fn ban(&self, sources: impl Iterator<Item = ipnet::IpNet>) {
        self.banned.set(sources);
    }

    /// Changes the key of TLS session tickets, as is to be done every [`TICKET_ROTATION`]: tickets that were
    /// made before the last change but one are worth nothing then.
    pub fn rotate_tickets(&self) {
        if let Err(error) = self.tls.rotate_tickets() {
            tracing::error!(%error, "session tickets keep their key");
        }
    }

    /// Has others take over, or no longer: what is open ends in good order, with `Connection: close` and
    /// GOAWAY; what comes is served, one answer for each connection. Tunnels go on.
    pub fn rest(&self, rests: bool) {
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Rest(rests));
        }
    }

    /// Ends gracefully: no new connections, `Connection: close` and GOAWAY on those that are open,
    /// and after `grace` the end of what is left, tunnels too. A second call, or dropping the proxy,
    /// can only shorten the time. Returns when the workers have ended.
    pub async fn shutdown(&self, grace: Duration) {
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Drain(grace));
        }
        for worker in &self.workers {
            let done = worker.done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
            if let Some(done) = done {
                let _ = done.await;
            }
        }
    }

    /// The workers that belong to no pool.
    fn general(&self) -> impl Iterator<Item = &Handle> {
        self.workers.iter().filter(|worker| worker.pool.is_none())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Drain(Duration::ZERO));
        }
        // Workers go first: whoever writes the access log or sends spans ends when they have let go.
        let mut threads = std::mem::take(&mut *self.threads());
        threads.reverse();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Where a worker is to be, and what it hears by.
struct Place {
    index: usize,
    cpu: usize,
    pool: Option<Arc<str>>,
    pools: Arc<Pools>,
    inbox: (mpsc::UnboundedSender<Command>, mpsc::UnboundedReceiver<Command>),
}

/// How many general workers there are to be, and the pool of each further one.
fn shares(settings: &Settings, cpus: usize) -> (usize, Vec<Arc<str>>) {
    let names = |pool: &WorkerPool| std::iter::repeat_n(pool.name.clone(), pool.workers.into());
    let pooled: Vec<_> = settings.pools.iter().flat_map(names).collect();
    let general = match settings.workers {
        0 => cpus.saturating_sub(pooled.len()).max(1),
        asked => asked,
    };
    (general, pooled)
}

/// How many client connections each of `workers` can hold so that every one of them can have a
/// connection to an endpoint, too. Clients above it wait in the listen queue; accepted without a
/// file left for the endpoint's side, they would get an error.
fn affordable_connections(workers: usize) -> usize {
    let Ok((files, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let workers = workers.max(1);
    // The rest of the program needs some: the log, the maps, the API; and large bodies do.
    let spare = (files / 4).min(256 + workers * pipe::MOST_FILES);
    ((files - spare) / workers / 2).max(1)
}

/// The CPUs that this process may run on, in order.
fn usable_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

#[cfg(test)]
mod corpus;
