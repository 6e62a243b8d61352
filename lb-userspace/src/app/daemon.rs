//! `sluice run`: from a source to a node that serves.
//!
//! Order at the start: the socket (so that a second daemon is refused before it touches anything),
//! the probes, the source, the kernel's lock; with the source's first whole state the proxy's
//! listeners, then the programs, then the maps, VIPs last. A node that is not ready refuses
//! connections rather than answer 404.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::dataplane::kernel::Lock;
use crate::model::{BanRules, ProxyProtocol, Snapshot};
use crate::proxy::{self, Proxy, TICKET_ROTATION};
use crate::source::{Health, Update, kubernetes, manifests};
use crate::translate::{self, Translator, UnknownClass};

use super::admin::server::{Socket, SocketError};
use super::bans::{self, Bans};
use super::check::now_unix;
use super::cli::{AccessLog, RunArgs};
use super::handover::stand_by;
use super::health::{self, HealthError};
use super::health_ports::HealthPorts;
use super::memory;
use super::publisher::Publisher;
use super::settings::{BadSettings, Settings, SourceKind, node_addresses};
use super::state::State;
use super::steering::{Steering, route_vips};
use super::stop::{Ended, Stop, drain};

/// Certificates age and maps may be changed by others: everything is looked at this often.
const RESYNC: Duration = Duration::from_secs(60);

/// The kernel forgets neighbours that nobody uses for a minute.
const NEIGHBOURS: Duration = Duration::from_secs(20);

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The arguments make no sense on this node.
    #[error(transparent)]
    Settings(#[from] BadSettings),
    /// The socket can't be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The probes' endpoint can't be opened.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// The manifest directory can't be read.
    #[error(transparent)]
    Manifests(#[from] manifests::ManifestsError),
    /// There is no way to the API.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::ConnectError),
    /// The proxy can't be started.
    #[error("{0}{remedy}", remedy = remedy(.0))]
    Proxy(#[from] proxy::StartError),
    /// XDP was asked for and can't be had.
    #[error(
        "XDP: {0}\nTo serve without XDP, leave --interface out and say --no-xdp; `sluice doctor` says more."
    )]
    Xdp(String),
    /// Another daemon has the kernel's side, and keeps it.
    #[error(
        "another sluice serves with the pin directory {pin_dir}{waited}: stop it, wait for it to end with \
         --wait-for-lock SECONDS, or give this one its own --pin-dir",
        pin_dir = .pin_dir.display(),
        waited = if *.seconds == 0 { String::new() } else { format!(", still after {} s", .seconds) }
    )]
    Locked {
        /// The pin directory.
        pin_dir: PathBuf,
        /// How long it was waited for.
        seconds: u32,
    },
    /// The system refuses something basic.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The source's task ended, which it never should.
    #[error("the source of objects ended; this is a bug")]
    SourceEnded,
}

fn remedy(error: &proxy::StartError) -> &'static str {
    let proxy::StartError::Listen(error) = error else { return "" };
    match error.source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; something else listens there: stop it, or use other ports with --http-port and --https-port"
        }
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 take root or CAP_NET_BIND_SERVICE: use --http-port 8080 --https-port 8443"
        }
        std::io::ErrorKind::AddrNotAvailable => "; this node does not have that address: look at --vip",
        _ => "",
    }
}

/// Runs until a signal ends it.
pub async fn run(args: RunArgs) -> Result<(), DaemonError> {
    let system = |what| move |source| DaemonError::System { what, source };
    let addresses = node_addresses().map_err(|e| system("can't list the NICs")(e.into()))?;
    let settings = Settings::new(&args, &addresses)?;
    let mut stop = Stop::new().map_err(system("can't handle signals"))?;
    raise_file_limit();
    memory::without_huge_pages();

    let socket = Socket::open(&args.socket)?;
    let ban = BanRules {
        after: args.ban_after.unwrap_or_default(),
        within: args.ban_within,
        lasts: args.ban_for,
        most: args.ban_max,
    };
    let vips = settings.listeners.iter().map(|listener| listener.vip.address);
    let own = addresses.iter().filter_map(|(_, address)| *address).chain(vips).collect();
    let state = Arc::new(State::new(settings.source.clone(), Bans::new(ban, own)));
    let probes = match health::listen(args.health).await {
        Ok(listener) => tokio::spawn(health::serve(listener, state.clone())),
        // The daemon before has the address until it hands over.
        Err(error) if args.wait_for_lock > 0 && error.is_in_use() => {
            tracing::info!("{} for probes is in use; trying until it is free", args.health);
            tokio::spawn(health::serve_when_free(args.health, state.clone()))
        }
        Err(error) => return Err(error.into()),
    };
    let handed_over = probes.abort_handle();
    let background =
        [probes, tokio::spawn(socket.serve(state.clone())), tokio::spawn(bans::watch(state.clone()))];
    let result = follow(&args, &settings, &state, &mut stop, &handed_over).await;
    if let Ok(Ended::AtOnce) = result {
        // Dropping the proxy would wait for its workers; the end of the process does not.
        std::mem::forget(Arc::clone(&state));
    }
    for task in background {
        task.abort();
        // Awaited so that the socket's file is gone when the process is.
        let _ = task.await;
    }
    result.map(|_| ())
}

async fn follow(
    args: &RunArgs,
    settings: &Settings,
    state: &Arc<State>,
    stop: &mut Stop,
    probes: &AbortHandle,
) -> Result<Ended, DaemonError> {
    let (mut updates, client) = source(settings).await?;
    let mut lock = None;
    if !args.no_xdp {
        lock = stand_by(args, state, &updates, stop).await?;
        if lock.is_none() {
            return Ok(Ended::Drained);
        }
    }
    let translation = translation(args, settings);
    let plan = settings.status.as_ref();
    let publisher =
        client.zip(plan).map(|(client, plan)| Publisher::start(client, plan, translation.clone()));
    if let Some(publisher) = &publisher {
        // Set once: this runs once.
        let _ = state.publishing.set(publisher.reporter.clone());
    }
    let mut translator = Translator::default();
    let mut health_ports = HealthPorts::new(Arc::clone(state) as Arc<dyn health::Probed>);
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut neighbours = tokio::time::interval(NEIGHBOURS);
    let mut tickets = tokio::time::interval_at(Instant::now() + TICKET_ROTATION, TICKET_ROTATION);
    'serving: loop {
        let update = updates.borrow_and_update().clone();
        let next = |previous: &Snapshot| {
            translator.translate(&update.objects, &translation, &update.issues, now_unix(), previous)
        };
        take(args, next, state, &mut lock, &update).await?;
        // Without XDP nothing is forwarded here, and load balancers do well to go elsewhere.
        if !args.no_xdp {
            health_ports.apply(&state.snapshot.load().health_ports);
        }
        if let Some(publisher) = publisher.as_ref().filter(|_| update.synced) {
            let resting = state.resting.is_on();
            publisher.publish(&update.objects, state.snapshot.load_full(), resting);
        }
        let freed = tokio::time::sleep(memory::KEPT);
        tokio::pin!(freed);
        let mut given_back = false;
        loop {
            tokio::select! {
                biased;
                () = stop.asked() => break 'serving,
                changed = updates.changed() => break changed.map_err(|_| DaemonError::SourceEnded)?,
                _ = resync.tick() => break,
                () = state.resting.changed() => break,
                () = &mut freed, if !given_back => {
                    memory::give_back();
                    given_back = true;
                }
                _ = tickets.tick() => {
                    if let Some(proxy) = state.proxy.get() {
                        proxy.rotate_tickets();
                    }
                }
                _ = neighbours.tick() => {
                    if let Some(steering) = state.steering().as_ref() {
                        steering.keep_neighbours();
                    }
                }
            }
        }
    }
    // A successor may have them, and load balancers are to go elsewhere.
    drop(health_ports);
    let finish = async {
        if let Some(publisher) = publisher {
            publisher.finish().await;
        }
    };
    let (ended, ()) = tokio::join!(drain(args, state, stop, probes), finish);
    Ok(ended)
}

/// Keeps what the source says of itself, and logs what is new of it.
pub fn observe(state: &State, update: &Update) {
    state.synced.fetch_or(update.synced, Ordering::Relaxed);
    let known = state.health.swap(Some(Arc::new(update.health.clone())));
    match (known.as_deref(), &update.health) {
        (Some(known), now) if known == now => {}
        (_, Health::Degraded { reason, .. }) if update.synced => {
            tracing::warn!(reason, "the source can't be read; serving its last good state");
        }
        (_, Health::Degraded { reason, .. }) => {
            tracing::warn!(reason, "the source can't be read; nothing to serve yet");
        }
        (Some(Health::Degraded { .. }), Health::Ok) => tracing::info!("the source can be read again"),
        (_, Health::Ok) => {}
    }
}

/// The source's updates, and the way to the API if that is the source.
async fn source(settings: &Settings) -> Result<(watch::Receiver<Update>, Option<kube::Client>), DaemonError> {
    Ok(match &settings.source {
        SourceKind::Manifests(dir) => (manifests::watch(dir.clone())?, None),
        SourceKind::Kubernetes(kubeconfig) => {
            let client = kubernetes::connect(kubeconfig.as_deref().map(Path::new)).await?;
            let settings = kubernetes::Settings {
                default_certificate: settings.default_certificate.clone(),
                config_map: settings.config_map.clone(),
                ..Default::default()
            };
            (kubernetes::watch(client.clone(), settings), Some(client))
        }
    })
}

/// In a manifest directory nobody else could claim an Ingress without a class, or with one that
/// nothing there defines.
fn translation(args: &RunArgs, settings: &Settings) -> translate::Settings {
    let claim_all = args.manifests.is_some() && !args.strict_class;
    translate::Settings {
        worker_pools: Some(args.worker_pool.clone()),
        listeners: settings.listeners.clone(),
        adopt: args.adopt_class.clone(),
        serve_classless: args.serve_classless || claim_all,
        unknown_class: if claim_all { UnknownClass::Serve } else { UnknownClass::Ignore },
        compat: args.compat.into(),
        default_backend: settings.default_backend.clone(),
        default_certificate: settings.default_certificate.clone(),
        config_map: settings.config_map.clone(),
        zone: args.zone.as_deref().filter(|zone| !zone.is_empty()).map(Into::into),
        service_vips: args.service_vips.clone(),
        node: args.node_name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        ..Default::default()
    }
}

/// Serves what the source says now. Fails only before anything is served.
async fn take(
    args: &RunArgs,
    translate: impl FnOnce(&Snapshot) -> Snapshot,
    state: &State,
    lock: &mut Option<Lock>,
    update: &Update,
) -> Result<(), DaemonError> {
    observe(state, update);
    if !update.synced {
        return Ok(());
    }
    let previous = state.snapshot.load_full();
    let next = Arc::new(translate(&previous));
    report(&previous, &next);
    let first = state.proxy.get().is_none();
    let listening = match state.proxy.get() {
        Some(proxy) => proxy.apply(Arc::clone(&next)).into_iter().map(|error| error.to_string()).collect(),
        None => {
            start(args, state, lock.take(), &next)?;
            Vec::new()
        }
    };
    state.snapshot.store(Arc::clone(&next));
    state.bans().follow(next.ban);
    let kernel = state.steering().as_mut().and_then(|steering| steering.publish(&next).err());
    // Last: until a VIP is local, no packet for it gets so far as to be steered.
    let routes = if args.no_xdp { None } else { route_vips(&next).await.err() };
    let trouble: Vec<String> = listening.into_iter().chain(kernel).chain(routes).collect();
    if !trouble.is_empty() {
        tracing::error!(
            trouble = trouble.join("; "),
            "not everything asked for could be set up; trying again"
        );
    }
    if first && trouble.is_empty() {
        let vips: Vec<_> = next.listeners.iter().map(|listener| listener.vip.to_string()).collect();
        tracing::info!(vips = vips.join(" "), xdp = !args.no_xdp, "serving");
    }
    state.trouble.store((!trouble.is_empty()).then(|| Arc::new(trouble.join("; "))));
    state.serving.store(true, Ordering::Relaxed);
    Ok(())
}

/// Listeners first, programs next: nothing is steered to where nobody listens.
fn start(
    args: &RunArgs,
    state: &State,
    lock: Option<Lock>,
    snapshot: &Arc<Snapshot>,
) -> Result<(), DaemonError> {
    let defaults = proxy::Settings::default();
    let settings = proxy::Settings {
        workers: args.workers.map_or(0, usize::from),
        pools: args.worker_pool.clone(),
        bind: if args.no_xdp { proxy::Bind::Direct } else { proxy::Bind::Steered },
        beside_another: args.wait_for_lock > 0,
        access_log: match args.access_log {
            AccessLog::Off => proxy::AccessLog::Off,
            AccessLog::Stdout => proxy::AccessLog::Stdout,
        },
        log_format: args.access_log_format.clone(),
        tracing: args
            .otlp_endpoint
            .clone()
            .map(|endpoint| proxy::Tracing { endpoint, sample: args.trace_sample / 100.0 }),
        trusted_proxies: args.trusted_proxy.clone(),
        proxy_protocol: ProxyProtocol { from: args.proxy_protocol.clone(), ..Default::default() },
        max_client_connections: args.max_client_connections.unwrap_or(defaults.max_client_connections),
        max_requests: args.max_connection_requests.unwrap_or(defaults.max_requests),
        forwarded: args.forwarded,
        max_connections: args.max_worker_connections.map_or(defaults.max_connections, |n| n as usize),
        ..defaults
    };
    let proxy = Proxy::start(settings, Arc::clone(snapshot))?;
    if let Some(lock) = lock {
        let steering = Steering::open(args, lock, proxy.sockets())
            .map_err(|error| DaemonError::Xdp(error.to_string()))?;
        for nic in steering.info().interfaces {
            match nic.mode.as_str() {
                "generic" => tracing::warn!(
                    nic = nic.name,
                    "XDP runs in GENERIC mode: it works, but slower than in the driver; `sluice doctor` says more"
                ),
                mode => tracing::info!(nic = nic.name, mode, program = nic.program_id, "XDP attached"),
            }
        }
        *state.steering() = Some(steering);
    }
    // Set once: this runs only while there is none.
    let _ = state.proxy.set(proxy);
    Ok(())
}

/// Says what is new, once.
fn report(previous: &Snapshot, next: &Snapshot) {
    let same = Arc::ptr_eq(&previous.issues, &next.issues);
    let known: BTreeSet<_> = previous.issues.iter().filter(|_| !same).collect();
    for issue in next.issues.iter().filter(|issue| !same && !known.contains(issue)) {
        match issue.severity {
            crate::model::Severity::Note => tracing::debug!(reason = ?issue.reason, "{issue}"),
            _ => tracing::warn!(severity = ?issue.severity, reason = ?issue.reason, "{issue}"),
        }
    }
    // Endpoints come and go many times a second in a big cluster.
    let rare = !Arc::ptr_eq(&previous.routing, &next.routing) || !Arc::ptr_eq(&previous.tls, &next.tls);
    if previous.generation != next.generation && (rare || tracing::enabled!(tracing::Level::DEBUG)) {
        let serving = super::admin::views::Serving::of(next);
        tracing::info!(
            generation = next.generation,
            hosts = serving.hosts,
            routes = serving.routes,
            endpoints = serving.endpoints,
            issues = next.issues.len(),
            "new snapshot"
        );
    }
}

/// Each request holds two sockets, and the usual soft limit is 1,024 files.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}
