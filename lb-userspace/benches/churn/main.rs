//! How fast changes of a big cluster reach the requests, and what that costs: `cargo xtask bench
//! churn`. The method is in bench/README.md. The API server, the endpoints and the clients are this
//! process, the daemon is another one.

mod backends;
mod churn;
#[allow(dead_code, reason = "the rollout benchmark uses other parts")]
mod client;
#[allow(dead_code, reason = "the rollout benchmark uses other parts")]
mod daemon;
mod load;
mod lookup;
mod random;
mod report;
mod world;

#[allow(dead_code, reason = "tests use other parts of the server")]
#[path = "../../tests/support/api_server/mod.rs"]
mod api_server;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser;

use api_server::ApiServer;
use churn::{Churn, first_endpoints};
use daemon::Daemon;
use load::Load;
use report::{Delays, Machine, Report, Size, quantile};
use world::{ENDPOINTS, World};

/// Time from API event to first request, under churn.
#[derive(Parser)]
struct Options {
    /// Ingresses, each with a Service of 10 endpoints.
    #[arg(long, default_value_t = 5000)]
    hosts: u32,
    /// Edits of routes.
    #[arg(long, default_value_t = 1000)]
    edits: u32,
    /// Changes of endpoints.
    #[arg(long, default_value_t = 10_000)]
    changes: u32,
    /// How long the changes take together.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Requests a second of the background load.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Write bench/churn.json and bench/churn.md.
    #[arg(long)]
    write: bool,
    /// Only start it twice, with one endpoint and with ten for each Service, and show its memory.
    #[arg(long)]
    only_memory: bool,
    /// Leave the lookups out.
    #[arg(long)]
    no_lookup: bool,
    /// Run this command for the daemon's process while everything changes; PID stands for its number.
    #[arg(long)]
    profile: Option<String>,
    /// Show the daemon's log at the end.
    #[arg(long)]
    log: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let machine = Machine::here();
    // The daemon gives memory back two seconds after a change.
    let rest = || std::thread::sleep(Duration::from_secs(3));
    let lookup = if options.no_lookup || options.only_memory { Vec::new() } else { lookup::measure() };

    let (routes_only, _) = {
        let (cluster, _) = cluster(&options, 1);
        let daemon = Daemon::start(&cluster.server.kubeconfig(), "info");
        rest();
        (daemon.usage(), ())
    };

    let (cluster, seen) = cluster(&options, ENDPOINTS);
    let daemon = Daemon::start(&cluster.server.kubeconfig(), "info");
    rest();
    let at_ready = daemon.usage();
    if options.only_memory {
        for (what, usage) in [("one endpoint each", routes_only), ("ten endpoints each", at_ready)] {
            println!("{what}: {:.1} MB, {:.1} of them anonymous", usage.rss_mb, usage.anonymous_mb);
        }
        return ExitCode::SUCCESS;
    }

    let churn = Churn { port: daemon.http, ..cluster };
    let load = Load::start(churn.world.clone(), daemon.http, options.hosts, options.rate);
    rest();
    let before = daemon.usage().cpu_s;
    std::thread::sleep(Duration::from_secs(5));
    let cpu_load = (daemon.usage().cpu_s - before) / 5.0;

    let mut profiler = options.profile.as_ref().map(|command| {
        let command = command.replace("PID", &daemon.pid().to_string());
        std::process::Command::new("sh").args(["-c", &command]).spawn().expect("a shell")
    });
    let before = daemon.usage().cpu_s;
    let (routes, endpoints) = std::thread::scope(|scope| {
        let routes = scope.spawn(|| churn.edit_routes(options.edits));
        let endpoints = scope.spawn(|| churn.replace_endpoints(options.changes));
        churn.move_endpoints(options.changes);
        (routes.join().expect("edits"), endpoints.join().expect("endpoints"))
    });
    let cpu_churn = (daemon.usage().cpu_s - before) / f64::from(options.seconds);
    if let Some(profiler) = &mut profiler {
        let _ = profiler.wait();
    }
    rest();
    let counts = load.counts.clone();
    let mut times = load.stop();
    times.sort_by(f64::total_cmp);
    let report = Report {
        machine,
        size: Size {
            hosts: options.hosts,
            endpoints: options.hosts * ENDPOINTS,
            edits: options.edits,
            changes: options.changes,
            seconds: options.seconds,
            rate: options.rate,
        },
        ready_s: daemon.ready.as_secs_f64(),
        at_ready,
        cpu_load,
        cpu_churn,
        at_end: daemon.usage(),
        routes: Delays::new(routes),
        endpoints: Delays::new(endpoints),
        load: report::Load {
            requests: counts.requests.load(Ordering::Relaxed),
            errors: counts.errors.load(Ordering::Relaxed),
            misrouted: counts.misrouted.load(Ordering::Relaxed),
            stale: seen.stale.load(Ordering::Relaxed),
            p50: quantile(&times, 0.5),
            p99: quantile(&times, 0.99),
            max: quantile(&times, 1.0),
        },
        routes_only,
        lookup,
    };
    if options.log {
        eprintln!("{}", daemon.log());
    }
    print!("{}", report.table());
    if options.write {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench");
        let json = serde_json::to_string_pretty(&report).expect("plain data");
        std::fs::write(directory.join("churn.json"), json + "\n").expect("bench/churn.json");
        let text =
            format!("# `cargo xtask bench churn`\n\nThe method is in README.md.\n\n{}", report.table());
        std::fs::write(directory.join("churn.md"), text).expect("bench/churn.md");
    }
    let missed = report.missed();
    if !missed.is_empty() {
        eprintln!("missed:\n  {}", missed.join("\n  "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// An API server with the whole cluster, and the endpoints behind it. The daemon is not known yet.
fn cluster(options: &Options, endpoints: u32) -> (Churn, Arc<backends::Seen>) {
    let (known, seen) = (Arc::new(OnceLock::new()), Arc::new(backends::Seen::default()));
    let port = backends::start(known.clone(), seen.clone());
    let world = Arc::new(World::new(options.hosts, options.changes, port));
    let _ = known.set(world.clone());
    let server = Arc::new(api_server());
    server.apply(world::class());
    for service in 0..options.hosts {
        for _ in 0..ENDPOINTS {
            world.add_endpoint(service);
        }
        let first: Vec<u32> = first_endpoints(service).take(endpoints as usize).collect();
        server.apply(world::service(service));
        server.apply(world.slice(service, &first));
        server.apply(world::ingress(service, &[("/".into(), service)]));
    }
    let time = Duration::from_secs(options.seconds.into());
    (Churn { world, server, port: 0, hosts: options.hosts, time }, seen)
}

/// A server on a runtime of its own, which lasts as long as the process.
fn api_server() -> ApiServer {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            sender.send(ApiServer::start().await).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().expect("a server")
}
